"""Imports point one way, a file fits in a head, and some packages have one door. Read from the source with `ast`."""

from __future__ import annotations

import ast
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = (
    *("errors", "registry", "sets", "runtime", "storage", "config"),
    *("numerics", "geometry", "proteins", "visualization", "layers", "mesh_files"),
    *("shards", "fields", "models"),
    *("networks", "samplers", "distances", "formats", "feature_networks", "conditioners", "domains"),
    *("methods", "datasets", "metrics"),
    *("preparation", "runs", "planning", "sample_files", "report"),
    *("sampling", "evaluation", "training", "weights", "viewer"),
    *("public", "inrflow_cli"),
)
"""Packages and loose modules from the ground up: each may import only what is before it."""

PARTS = {
    "samplers",
    "feature_networks",
    "distances",
    "formats",
    "conditioners",
    "domains",
    "datasets",
    "metrics",
    "methods",
    "networks",
}
"""Packages whose files without `_` are parts, found by name: no part is imported by a part of any of these packages."""

NEVER = {("methods", "domains")}
"""A method must not learn which domain its sets came from."""

DOORS = {"h5py": "inrflow_core/shards/", "deepspeed": "inrflow_core/training/engine.py", "open3d": None}
DOORS |= {"ray": "inrflow_core/runtime/ray_pool.py", "av": "inrflow_core/visualization/video_io.py"}
DOORS |= {"starlette": "inrflow_core/viewer/", "uvicorn": "inrflow_core/viewer/"}
"""Packages that one place alone imports; Open3D is imported by name, in inrflow_core/geometry/open3d_import.py."""

MOST_LINES, LEAST_LINES, MEDIAN_LINES = 500, 40, 120
MOST_FUNCTION_LINES, MOST_ARGUMENTS = 60, 7

FILES = sorted(path for folder in ("inrflow_core", "inrflow_cli") for path in (ROOT / folder).rglob("*.py"))
STUBS = sorted((ROOT / "inrflow_core").rglob("*.pyi"))
"""What a package that imports lazily imports, for type checkers; takes the place of its `.py` below."""
ALL_FILES = FILES + sorted(path for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unit_of(module: str) -> str | None:
    """The part of the layout that a module belongs to; None for what is not ours and for the package itself."""
    first, *rest = module.split(".")
    if first == "inrflow_cli":
        return first
    return rest[0] if first == "inrflow_core" and rest else None


def layer_of(unit: str) -> int:
    assert unit in LAYERS, f"`{unit}` has no place in LAYERS: say what it may import"
    return LAYERS.index(unit)


def imported(tree: ast.AST) -> set[str]:
    """Every module that a file imports, wherever in the file; `from a import b` counts as both a and a.b."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write imports from the top: `from inrflow_core import ...`"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def modules_imported(path: Path) -> set[str]:
    """Our modules that a file imports, those for type checking included."""
    found = set()
    for module in imported(parsed(path)):
        if module.partition(".")[0] in ("inrflow_core", "inrflow_cli"):
            while not _is_module(module):
                module = module.rpartition(".")[0]
            found.add(module)
    return {module for module in found if not any(other.startswith(f"{module}.") for other in found)}


def _is_module(module: str) -> bool:
    path = ROOT / module.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


GRAPH = {module_of(path): modules_imported(path) for path in FILES + STUBS}
"""Every module with those of ours that it imports."""


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_imports_point_one_way(module: str):
    own = unit_of(module)
    if own is None:
        return
    layer_of(own)
    for other in sorted(GRAPH[module]):
        unit = unit_of(other)
        if unit is None or unit == own:
            continue
        assert layer_of(unit) < layer_of(own), f"{module} imports {other}, which is in a higher layer"
        assert (own, unit) not in NEVER, f"{module} imports {other}"


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_no_module_imports_itself_by_a_detour(module: str):
    seen: set[str] = set()
    ahead: list[tuple[str, tuple[str, ...]]] = [(module, (module,))]
    while ahead:
        here, way = ahead.pop()
        for other in sorted(GRAPH.get(here, ())):
            assert other != module, "a circle: " + " -> ".join((*way, other))
            if other not in seen:
                seen.add(other)
                ahead.append((other, (*way, other)))


def test_parts_are_found_by_name_and_not_imported_by_parts():
    """A parts package may import the contract of another, or what its files with `_` share, and none of its parts."""
    for module, others in GRAPH.items():
        for other in others:
            package, _, name = other.removeprefix("inrflow_core.").partition(".")
            if package in PARTS and unit_of(module) in PARTS and name and not name.startswith("_"):
                raise AssertionError(
                    f"{module} imports the part {other}: move what both need to a file with `_`, or to a lower layer"
                )


def test_modules_of_the_project_are_imported_by_name_in_three_files():
    """Elsewhere (the last has a stub) such an import would be hidden from the tests above."""
    call = re.compile(r"import_module\(f?\"inrflow_|import_module\((?![f\"])(?!name\))|__import__")
    by_name = [str(path.relative_to(ROOT)) for path in FILES if call.search(path.read_text(encoding="utf-8"))]
    assert by_name == ["inrflow_cli/app.py", "inrflow_core/public/inrflow/__init__.py", "inrflow_core/registry.py"]


def test_every_package_says_what_is_done_there_and_imports_none_of_ours():
    """With imports, a package could be part of a circle that its modules do not show."""
    for package in sorted({path.parent for path in FILES}):
        tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
        if package.name != "inrflow_core":
            assert ast.get_docstring(tree), f"{package.name}/__init__.py has no docstring"
        of_others = [module for module in imported(tree) if module.partition(".")[0] in ("inrflow_core", "inrflow_cli")]
        assert not of_others, package.name


def test_few_modules_lie_loose():
    loose = {path.stem for path in (ROOT / "inrflow_core").glob("*.py")} - {"__init__"}
    assert loose == {"errors", "registry", "sets", "fields", "models"}


@pytest.mark.parametrize("package", DOORS)
def test_some_packages_have_one_door(package: str):
    doors = {name_of(path) for path in FILES if any(m.partition(".")[0] == package for m in imported(parsed(path)))}
    assert all(door.startswith(DOORS[package] or "nowhere") for door in doors), doors


def is_part(path: Path) -> bool:
    """Whether a file is found by its name: it may be as short as its part is."""
    return path.parent.name in PARTS and not path.name.startswith("_")


def test_files_are_neither_slivers_nor_long_in_the_median():
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    short = [name_of(path) for path, count in lines.items() if count < LEAST_LINES and not is_part(path)]
    assert [name for name in short if not name.endswith(("__init__.py", "__main__.py"))] == [], (
        "merge them with what they belong to"
    )
    assert statistics.median(lines.values()) <= MEDIAN_LINES
    assert statistics.median(lines[path] for path in FILES if path.name != "__init__.py") <= MEDIAN_LINES


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_a_file_and_its_functions_fit_in_a_head(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            if path.parent.name == "commands" and node.name == path.stem:
                # A command has one line of signature for each option: signature and body count apart.
                signature = node.body[0].lineno - node.lineno
                assert signature <= MOST_FUNCTION_LINES, node.name
                length -= signature
            assert length <= MOST_FUNCTION_LINES, node.name
            if path in FILES and "inrflow_core" in path.parts:
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len([a for a in arguments if a.arg != "self"]) <= MOST_ARGUMENTS, node.name
