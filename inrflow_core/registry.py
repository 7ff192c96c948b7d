"""Find a part by name: a part is a file, and the file's name is its registration."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from inrflow_core.errors import UsageError, did_you_mean

HERE = Path(__file__).parent
ALIASES = {
    "conditioners": {"picture": "image"},
    "datasets": {"images": "image_folder", "meshes": "mesh_folder"},
    "feature_networks": {"random": "random_filters"},
    "metrics": {"right_cd": "paired_cd"},
}
"""Earlier names of parts, by kind, as users' presets, manifests and commands may hold them."""


def names(kind: str) -> list[str]:
    """Names of all parts of a kind (`samplers`, `datasets`, ...), as a user writes them: with hyphens."""
    return sorted(path.stem.replace("_", "-") for path in (HERE / kind).glob("*.py") if not path.stem.startswith("_"))


def canonical(kind: str, name: str) -> str:
    """The present name of a part, hyphenated, where `name` may be an earlier one."""
    stem = name.replace("-", "_")
    return ALIASES.get(kind, {}).get(stem, stem).replace("_", "-")


def path(kind: str, name: str) -> Path:
    """The file of the part `name` of `kind`; hyphens and underscores are the same.

    Raises:
        UsageError: there is no such part; the hint names the nearest.
    """
    stem = canonical(kind, name).replace("-", "_")
    file = HERE / kind / f"{stem}.py"
    if stem.startswith("_") or not stem.isidentifier() or not file.is_file():
        raise UsageError(f"no part of `{kind}` is called `{name}`", hint=did_you_mean(name, names(kind)))
    return file


def find(kind: str, name: str) -> ModuleType:
    """Import the one file that holds the part `name` of `kind`; hyphens and underscores are the same.

    Raises:
        UsageError: there is no such part; the hint names the nearest.
    """
    return importlib.import_module(f"inrflow_core.{kind}.{path(kind, name).stem}")
