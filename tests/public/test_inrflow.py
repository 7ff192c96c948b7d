"""`import inrflow`: its names are those of its stub, it is light, and both kinds of installation have it."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomli

import inrflow

ROOT = Path(__file__).parents[2]
STUB = ROOT / "inrflow_core" / "public" / "inrflow" / "__init__.pyi"
SCRIPT = (
    "import sys, inrflow; print(inrflow.__version__, {'torch', 'numpy'} & {*sys.modules}); print(inrflow.did_you_mean)"
)


def exported() -> list[str]:
    """What the stub lists in `__all__`."""
    (names,) = (node.value for node in ast.parse(STUB.read_text(encoding="utf-8")).body if isinstance(node, ast.Assign))
    return ast.literal_eval(names)


def test_the_names_are_those_of_the_stub_and_each_is_the_object_of_its_module():
    assert inrflow.__all__ == dir(inrflow) == exported() and len(exported()) > 50
    imports = [node for node in ast.parse(STUB.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    for node in imports:
        for alias in node.names:
            value = getattr(importlib.import_module(node.module or ""), alias.name)
            assert getattr(inrflow, alias.asname or alias.name) is value
            assert isinstance(value, str) or value.__doc__, alias.name


def test_an_unknown_name_is_an_attribute_error_that_lets_python_name_the_nearest():
    with pytest.raises(AttributeError, match="module 'inrflow' has no attribute 'lod'") as raised:
        _ = inrflow.lod  # pyright: ignore[reportAttributeAccessIssue]
    assert raised.value.name == "lod" and "load" in dir(raised.value.obj)
    with pytest.raises(ImportError, match="cannot import name 'lod' from 'inrflow'"):
        exec("from inrflow import lod")


def installed(kind: str, folder: Path) -> list[Path]:
    """The folders that an installation of the kind puts on Python's path, by pyproject.toml."""
    build = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    if kind == "editable":
        return [ROOT / name for name in build["dev-mode-dirs"]]
    wheel = build["targets"]["wheel"]
    if kind == "zip":
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for source, target in {"inrflow_core": "inrflow_core", **wheel["sources"]}.items():
                for file in (ROOT / source).rglob("*.py*"):
                    archive.write(file, Path(target) / file.relative_to(ROOT / source))
        return [folder / "all.zip"]
    for name in wheel["only-include"]:
        (folder / name).symlink_to(ROOT / name)
    for source, target in wheel["sources"].items():
        if "/" not in target:
            (folder / target).symlink_to(ROOT / source)
    return [folder]


@pytest.mark.parametrize("kind", ["editable", "wheel", "zip"])
def test_an_installation_has_the_package_which_imports_neither_torch_nor_numpy(kind: str, tmp_path: Path):
    paths = os.pathsep.join(map(str, installed(kind, tmp_path)))
    environment = os.environ | {"PYTHONPATH": paths}
    command = [sys.executable, "-P", "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"{inrflow.__version__} set()\n"
    assert done.stderr.endswith("AttributeError: module 'inrflow' has no attribute 'did_you_mean'\n")
