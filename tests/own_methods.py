"""Methods that only tests have, found by their names as those of inrflow are: `adversarial` of these tests, `denoise` of the docs.

python -m tests.own_methods train --preset ...      is `inrflow train --preset ...` with them
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from inrflow_cli import app
from inrflow_core import registry
from tests import adding_a_method

HERE = Path(__file__).parent
ADVERSARIAL = HERE / "training" / "adversarial_method.py"
NAMES = ("adversarial", "denoise")


def install(put: Callable[[Any, str, Any], None] = setattr) -> None:
    """Let the registry find them; `put` sets an attribute."""
    find, path = registry.find, registry.path

    def find_own(kind: str, name: str) -> ModuleType:
        return _module(name) if kind == "methods" and name in NAMES else find(kind, name)

    def path_of_own(kind: str, name: str) -> Path:
        is_own = kind == "methods" and name in NAMES
        return Path(str(_module(name).__file__)) if is_own else path(kind, name)

    put(registry, "find", find_own)
    put(registry, "path", path_of_own)


def _module(name: str) -> ModuleType:
    """The method's file, imported once."""
    full = f"inrflow_core.methods.{name}"
    if full not in sys.modules:
        file = ADVERSARIAL if name == "adversarial" else adding_a_method.method_file()
        spec = importlib.util.spec_from_file_location(full, file)
        assert spec is not None and spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


if __name__ == "__main__":
    install()
    app.main()
