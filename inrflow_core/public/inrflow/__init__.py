"""Sample functions from trained models and evaluate them at any resolution.

import inrflow

model = inrflow.load("runs/digits-demo")
field = inrflow.sample_fields(model, seeds=[0, 1, 2], labels=[3, 4, 5])
images = inrflow.evaluate(model, field, size=(96, 96))

The names are those of `__init__.pyi` beside this file, which type checkers and editors read. Each is imported when it is
first used: `import inrflow` alone imports neither torch nor NumPy.
"""

import ast
import importlib
import pkgutil
import sys
from typing import Any


def _sources() -> dict[str, tuple[str, str]]:
    """By public name, the module of inrflow_core that defines it and its name there."""
    text = pkgutil.get_data(__name__, "__init__.pyi")
    assert text is not None
    stub = ast.parse(text)
    imports = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: (node.module or "", alias.name) for node in imports for alias in node.names}


_SOURCES = _sources()
__all__ = sorted(_SOURCES)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _SOURCES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])
    module, attribute = _SOURCES[name]
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__]
