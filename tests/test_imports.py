"""Imports point one way, a file fits in a head, and some packages have one door. Read from the source with `ast`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEVELS = (
    {"errors", "registry", "presets"},
    {
        *{"fields", "room", "pages", "sets", "paths", "noise", "guidance", "solve"},
        *{"shards", "sample_shards", "sample_folders", "columns", "batches", "manifest", "journal", "examples"},
        *{
            "locks",
            "workers",
            "cluster",
            "outputs",
            "tensor_files",
            "models",
            "pictures",
            "surfaces",
            "open3d_loader",
            "cameras",
            "picture_tokens",
            "rendering",
            "evidence",
            "moments",
            "confidence",
            "clouds",
            "residues",
            "structures",
            "residue_pairs",
            "structure_files",
            "rigid",
        },
    },
    {"embedders"},
    {"domains", "conditioners", "networks", "samplers", "features", "distances"},
    {"datasets", "methods", "metrics", "exporters"},
    {
        *{"generate", "quicker", "given", "asked", "preparation", "runs", "conversion", "onnx_export"},
        *{
            "items",
            "pairs",
            "protein_pairs",
            "nearest",
            "extraction",
            "statistics_files",
            "chosen",
            "evaluate",
            "from_reference",
            "matching",
            "results",
            "inspection",
            "report",
        },
    },
    {"training"},
    {"inrflow_cli"},
)
"""What may import only what stands above it here, and its own neighbours in the same line unless they are packages."""

DOORS = {"h5py": "inrflow_core/shards.py", "deepspeed": "inrflow_core/training/engine.py", "open3d": None}
DOORS |= {"ray": "inrflow_core/cluster.py"}
"""Packages that one file alone imports; Open3D is imported by name, in inrflow_core/open3d_loader.py."""

MOST_LINES, MOST_FUNCTION_LINES, MOST_ARGUMENTS = 500, 60, 7

FILES = sorted(path for folder in ("inrflow_core", "inrflow_cli") for path in (ROOT / folder).rglob("*.py"))
ALL_FILES = FILES + sorted(path for folder in ("tests", "tools") for path in (ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def unit_of(module: str) -> str | None:
    """The part of the layout that a module belongs to; None for what is not ours and for the package itself."""
    first, *rest = module.split(".")
    if first == "inrflow_cli":
        return first
    return rest[0] if first == "inrflow_core" and rest else None


def level_of(unit: str) -> int:
    for number, level in enumerate(LEVELS):
        if unit in level:
            return number
    raise AssertionError(f"`{unit}` has no place in LEVELS: say where it stands")


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


def units_imported(path: Path) -> set[str]:
    units = set()
    for module in imported(parsed(path)):
        unit = unit_of(module)
        if unit is None or (module.count(".") == 1 and not _is_module(module)):
            continue
        units.add(unit)
    return units


def _is_module(module: str) -> bool:
    place = ROOT / module.replace(".", "/")
    return place.is_dir() or place.with_suffix(".py").is_file()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_one_way(path: Path):
    own = unit_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own in (None, "__init__"):
        return
    for other in sorted(units_imported(path) - {own}):
        assert level_of(other) <= level_of(own), f"{name_of(path)} imports {other}, which stands above it"
        is_package = (ROOT / "inrflow_core" / own).is_dir()
        assert level_of(other) < level_of(own) or not is_package, f"{name_of(path)} imports its neighbour {other}"


def test_methods_never_learn_of_domains():
    for path in (ROOT / "inrflow_core" / "methods").glob("*.py"):
        assert "domains" not in units_imported(path), name_of(path)


@pytest.mark.parametrize("package", DOORS)
def test_some_packages_have_one_door(package: str):
    doors = {name_of(path) for path in FILES if any(m.partition(".")[0] == package for m in imported(parsed(path)))}
    assert doors <= {DOORS[package]}


@pytest.mark.parametrize("path", ALL_FILES, ids=name_of)
def test_a_file_and_its_functions_fit_in_a_head(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            # A command's options, each with its help, stand in its signature; they are no length to follow.
            start = node.body[0].lineno if "inrflow_cli" in path.parts else node.lineno
            assert (node.end_lineno or 0) - start < MOST_FUNCTION_LINES, node.name
            if path in FILES and "inrflow_core" in path.parts:
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert len([a for a in arguments if a.arg != "self"]) <= MOST_ARGUMENTS, node.name
