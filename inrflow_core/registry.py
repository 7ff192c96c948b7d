"""Find a part by name: a part is a file, and the file's name is its registration.

Other packages add parts by entry points: the group `inrflow.KIND`, as `inrflow.samplers`, names a module for each part
(docs/parts-in-packages.md). They are imported when they are used, and never for their names.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from inrflow_core.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

HERE = Path(__file__).parent
GROUP = "inrflow."
"""How the groups of entry points begin; a kind follows."""
ALIASES = {
    "conditioners": {"picture": "image"},
    "datasets": {"images": "image_folder", "meshes": "mesh_folder"},
    "feature_networks": {"random": "random_filters"},
    "metrics": {"right_cd": "paired_cd"},
}
"""Earlier names of parts, by kind, as users' presets, manifests and commands may hold them."""

REQUIRED = {
    "conditioners": ("OPTIONS",),
    "datasets": ("DOMAIN", "DESCRIPTION"),
    "domains": ("Domain",),
    "feature_networks": ("KIND", "DOMAIN"),
    "formats": ("SUFFIXES",),
    "metrics": ("TITLE", "DOMAIN", "PROTOCOLS", "HIGHER_IS_BETTER", "inputs"),
}
"""Members that lists read of every part, by kind: a part of another package without one is broken."""
REQUIRED_OF_NETWORKS = {
    "distance": ("WEIGHTS",),
    "embedder": ("IS_PLACEHOLDER",),
    "extractor": ("OUTPUTS", "PREPROCESSING", "WEIGHTS"),
}
"""The same of feature networks, by `KIND`."""


class BrokenPartWarning(UserWarning):
    """A part of another package cannot be used, and is left out."""


def names(kind: str) -> list[str]:
    """Names of all parts of a kind (`samplers`, `datasets`, ...), as a user writes them: with hyphens. Imports none."""
    own = {path.stem for path in (HERE / kind).glob("*.py") if not path.stem.startswith("_")}
    return sorted(stem.replace("_", "-") for stem in own | _of_others(kind).keys())


def canonical(kind: str, name: str) -> str:
    """The present name of a part, hyphenated, where `name` may be an earlier one."""
    stem = name.replace("-", "_")
    return ALIASES.get(kind, {}).get(stem, stem).replace("_", "-")


def path(kind: str, name: str) -> Path:
    """The file of the part `name` of `kind`; hyphens and underscores are the same.

    Raises:
        UsageError: there is no such part; the hint names the nearest. Or two have this name, or that of another package
            has no file.
    """
    part = _locate(kind, name)
    if isinstance(part, Path):
        return part
    try:
        spec = importlib.util.find_spec(part.module)
    except Exception as error:  # this imports the package around the module, whose code may raise anything
        raise _broken(kind, part, error) from error
    if spec is None or spec.origin is None:
        raise _broken(kind, part, "there is no such module")
    return Path(spec.origin)


def find(kind: str, name: str) -> ModuleType:
    """Import the one file that holds the part `name` of `kind`; hyphens and underscores are the same.

    Raises:
        UsageError: there is no such part; the hint names the nearest. Or two have this name, or that of another package
            cannot be imported or lacks a member that lists need.
    """
    part = _locate(kind, name)
    if isinstance(part, Path):
        return importlib.import_module(f"inrflow_core.{kind}.{part.stem}")
    try:
        module = part.load()
    except Exception as error:  # code of another package may raise anything while it is imported
        raise _broken(kind, part, error) from error
    if problem := _problem(kind, module):
        raise _broken(kind, part, problem)
    return module


def parts(kind: str) -> dict[str, ModuleType]:
    """All parts of a kind by name, imported; one of another package that cannot be used is left out with a warning."""
    found = {}
    for name in names(kind):
        try:
            found[name] = find(kind, name)
        except UsageError as error:
            if canonical(kind, name).replace("-", "_") not in _of_others(kind):
                raise
            warnings.warn(f"{error.message}; it is left out", BrokenPartWarning, stacklevel=2)
    return found


def _locate(kind: str, name: str) -> Path | EntryPoint:
    """Where a part is: our file, or an entry point of another package; raises UsageError as `path`."""
    stem = canonical(kind, name).replace("-", "_")
    file = HERE / kind / f"{stem}.py"
    is_own = not stem.startswith("_") and stem.isidentifier() and file.is_file()
    others = _of_others(kind).get(stem, ())
    if is_own + len(others) > 1:
        owners = [*["inrflow itself"] * is_own, *(_described(part) for part in others)]
        raise UsageError(
            f"two parts of `{kind}` are called `{name}`: of {' and of '.join(owners)}",
            hint="uninstall one of the packages, or rename its entry point",
        )
    if is_own:
        return file
    if others:
        if not all(map(str.isidentifier, others[0].value.split("."))):
            raise _broken(kind, others[0], "an entry point here names a module, as `package.module`")
        module = others[0].module.rpartition(".")[2]
        if module != stem:  # files record a part by the name of its module
            raise _broken(kind, others[0], f"its module is called `{module}`, not `{stem}`")
        return others[0]
    noun = kind.removesuffix("s").replace("_", " ").replace("dataset", "data set")
    raise UsageError(f"no {noun} is called `{name}`", hint=did_you_mean(name, names(kind)))


def _problem(kind: str, module: ModuleType) -> str | None:
    """What lists need and a module lacks; None if it has all of it."""
    required = REQUIRED.get(kind, ())
    if kind == "feature_networks" and hasattr(module, "KIND"):
        if module.KIND not in list(REQUIRED_OF_NETWORKS):
            return f"its `KIND` is {module.KIND!r}, not one of {', '.join(REQUIRED_OF_NETWORKS)}"
        required += REQUIRED_OF_NETWORKS[module.KIND]
    lacking = [f"`{member}`" for member in required if not hasattr(module, member)]
    return f"it lacks {', '.join(lacking)}" if lacking else None


def _of_others(kind: str) -> Mapping[str, Sequence[EntryPoint]]:
    """The entry points of other packages for a kind, by their present name with underscores."""
    found: dict[str, list[EntryPoint]] = defaultdict(list)
    for part in _entry_points(kind, tuple(sys.path)):
        found[canonical(kind, part.name).replace("-", "_")].append(part)
    return found


@functools.cache
def _entry_points(kind: str, paths: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """The entry points of a kind on these paths, which are those of imports."""
    from importlib.metadata import entry_points

    return tuple(entry_points(group=GROUP + kind))


def _described(part: EntryPoint) -> str:
    """A part of another package, for messages: the package with its version, and the module."""
    package = "an unknown package" if part.dist is None else f"the package `{part.dist.name}` {part.dist.version}"
    return f"{package} (`{part.value}`)"


def _broken(kind: str, part: EntryPoint, problem: object) -> UsageError:
    kind_of, remedy = "", "update or uninstall that package"
    if isinstance(problem, Exception):
        kind_of = f"{type(problem).__name__}: "
        remedy += f"; `python -c 'import {part.module}'` shows where it fails"
    return UsageError(
        f"the part `{part.name}` of `{kind}`, of {_described(part)}, cannot be used: {kind_of}{problem}", hint=remedy
    )
