"""Files of samples: which format writes what, and the one call that writes them.

A format is a file beside this one with `SUFFIXES`, `HOLDS_MANY` (whether one file holds several samples), for proteins
`HOLDS_MODELS` (whether these must have one sequence: several sequences become numbered files), `IS_FOLDER` where a sample is a folder, and
`write(path, samples, *, origin, ...)`; its further keyword arguments are the format's options, but for `array`, the name
of the array that the domain gives, and `arrays`, further arrays by name. A format that needs a package of an extra has `check()`, which raises MissingError.
Domains say which formats write their samples (`Domain.FORMATS`), and which their meshes (`Domain.MESH_FORMATS`). `format_suffix` has
the rule by which a path names a format.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np

from inrflow_core import registry
from inrflow_core.domains._contract import domain_class, domain_classes
from inrflow_core.errors import OutOfMemory, UsageError, did_you_mean
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.proteins.structure import Structure
from inrflow_core.runtime.progress import Progress, no_report
from inrflow_core.storage import atomic_write

SHARD = ".h5"
"""The suffix of sample shards, which `shards` writes for every domain."""
MOST_NAMED = 64
"""Samples of one file whose metadata is listed one by one."""


def format_suffix(path: Path, domain: str | None = None) -> str:
    """The suffix that names the format of an output, in lower case: that of the path; empty if it has none.

    A folder whose whole name is the suffix of a format of folders, without the dot, has that format: `frames` as `clip.frames`.
    With `domain` this is so if that format writes its samples.
    """
    named = f".{path.name.lower()}"
    is_format = not path.suffix and any(
        named in module.SUFFIXES and _is_folder(module) and (domain is None or _writes(module, domain))
        for module in _formats()
    )
    return named if is_format else path.suffix.lower()


def exporter_for(path: Path, domain: str | None = None, samples: Any = None) -> ModuleType:
    """The format that `path` names by `format_suffix`, for samples of `domain`: its meshes, or other ones.

    Raises:
        UsageError: no format writes such files, or not for that domain; the hint lists the suffixes.
    """
    suffix = format_suffix(path)
    for module in _formats():
        if suffix in module.SUFFIXES and (domain is None or _writes(module, domain)):
            if domain is not None and samples is not None:
                _check_kind(path, module, domain, samples)
            return module
    raise _no_format(path, domain)


def options(module: ModuleType) -> set[str]:
    """Names of a format's options."""
    parameters = inspect.signature(module.write).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY} - {
        "origin",
        "array",
        "arrays",
    }


def check_suffix(path: Path, find_domain: Callable[[], str | None], *, has_shards: bool = False) -> None:
    """Raise UsageError where no format has the suffix of an output; the hint lists those of the domain that `find_domain` returns.

    It is called only then; None is any domain. With `has_shards` the output can also be a shard.
    """
    if path.suffix.lower() != SHARD and not any(format_suffix(path) in module.SUFFIXES for module in _formats()):
        raise _no_format(path, find_domain(), has_shards=has_shards)


def domains_for(path: Path) -> tuple[str, ...]:
    """The domains whose samples a file of that suffix can hold.

    Raises:
        UsageError: no format writes such files.
    """
    if path.suffix.lower() == SHARD:
        return tuple(registry.names("domains"))
    module = exporter_for(path)
    return tuple(domain.NAME for domain in domain_classes() if _writes(module, domain.NAME))


def holds_views(path: Path) -> bool:
    """Whether a file of that suffix can hold views of scenes, which cameras see."""
    suffix = path.suffix.lower()
    return suffix == SHARD or any(
        domain.HAS_CAMERAS and suffix in registry.find("formats", name).SUFFIXES
        for domain in domain_classes()
        for name in domain.FORMATS
    )


def suffixes(domain: str | None = None) -> list[str]:
    """Suffixes of files of samples, of one domain or of all, shards included where the domain's samples have them."""
    suffixes = {s for module in _formats() if domain is None or _writes(module, domain) for s in module.SUFFIXES}
    has_shards = domain is None or not domain_class(domain).MAKES_STRUCTURES
    return [*sorted(suffixes), *([SHARD] if has_shards else [])]


def files(path: Path, count: int) -> list[Path]:
    """The files of `count` samples: `path` itself, or numbered ones if the format holds one sample in each."""
    if path.suffix.lower() == SHARD or exporter_for(path).HOLDS_MANY:
        return [path]
    return atomic_write.numbered_paths(path, count)


def check(path: Path, count: int, *, overwrite: bool = False) -> None:
    """Check that `count` samples can be written to `path`, before they are drawn.

    Raises:
        UsageError: no format writes that suffix, the folder is absent or not writable, or a file exists, other than a
            shard of samples that a killed process had almost finished.
        MissingError: the format needs a package that is not installed.
    """
    module = None if path.suffix.lower() == SHARD else exporter_for(path)
    for file in files(path, count):
        _check_file(file, module, overwrite=overwrite)
    if module is not None and hasattr(module, "check"):
        module.check()


def write(
    path: str | Path,
    samples: np.ndarray | Sequence[Structure] | Sequence[Mesh],
    domain: str,
    *,
    origin: Mapping[str, str] = MappingProxyType({}),
    items: Sequence[Mapping[str, str]] = (),
    overwrite: bool = False,
    progress: Progress = no_report,
    **format_options: Any,
) -> list[Path]:
    """Write samples in the format that the suffix names, each file whole or not at all; returns the files.

    Args:
        samples: images uint8 (B H W C), clouds float32 (B N C), structures of proteins, or meshes.
        origin: provenance of all samples, embedded if the format can hold it.
        items: further metadata of each sample: its seed, its label, its name.
        progress: counts the files.
        format_options: the format's own options; `arrays` holds arrays by name, which formats of arrays write beside the samples
            and others leave out.

    Raises:
        UsageError: no format writes that suffix for the domain, the format lacks an option, or a file exists.
        OutOfMemory: the disk is full.
    """
    path = Path(path)
    module = exporter_for(path, domain, samples)
    arrays = format_options.pop("arrays", None) or {}
    _check_options(module, path, format_options)
    format_options |= _array_options(module, domain, arrays)
    is_one_file = module.HOLDS_MANY and not (_needs_one_sequence(module) and _differ_in_sequence(samples))
    written = [path] if is_one_file else atomic_write.numbered_paths(path, len(samples))
    for file in written:
        _check_file(file, module, overwrite=overwrite)
    if is_one_file:
        named = items if len(items) <= MOST_NAMED else ()
        joined = {key: " ".join(item[key] for item in named) for key in (named[0] if named else ())}
        module.write(path, samples, origin={**origin, **joined}, **format_options)
        return written
    try:
        for index, file in enumerate(written):
            sample = samples[index : index + 1] if module.HOLDS_MANY else samples[index]
            module.write(file, sample, origin={**origin, **(items[index] if items else {})}, **format_options)
            progress(index + 1, len(written))
    except OutOfMemory:
        for file in () if overwrite else written:
            atomic_write.remove(file)  # else the same command would be rejected because some of its files exist
        raise
    return written


def _check_file(file: Path, module: ModuleType | None, *, overwrite: bool) -> None:
    """Raise UsageError if a file of a format cannot be written; `module` is None for a shard."""
    from inrflow_core.sample_files import sample_shard

    atomic_write.check_writable(file, overwrite=overwrite or sample_shard.is_finishing(file))
    if module is not None and _is_folder(module) and os.path.lexists(file):
        raise UsageError(
            f"`{file}` is a file, and `{module.SUFFIXES[0]}` writes a folder", hint="remove it, or name another folder"
        )


def _is_folder(module: ModuleType) -> bool:
    """Whether a sample of a format is a folder."""
    return getattr(module, "IS_FOLDER", False)


def _needs_one_sequence(module: ModuleType) -> bool:
    """Whether the structures in one file of a format are models of one sequence."""
    return getattr(module, "HOLDS_MODELS", False)


def _differ_in_sequence(samples: np.ndarray | Sequence[Structure] | Sequence[Mesh]) -> bool:
    return len({one.sequence for one in samples if isinstance(one, Structure)}) > 1


def _array_options(module: ModuleType, domain: str, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The domain's name of the array, and the arrays beside it, for formats that take them."""
    files = domain_class(domain).FILES
    names_arrays = "array" in inspect.signature(module.write).parameters
    return {"array": files.names[0], "arrays": arrays} if names_arrays and files is not None else {}


def _writes(module: ModuleType, domain: str) -> bool:
    found = domain_class(domain)
    return module.__name__.rpartition(".")[2] in found.FORMATS + found.MESH_FORMATS


def _check_kind(path: Path, module: ModuleType, domain: str, samples: Any) -> None:
    """Raise UsageError for values where a file holds a mesh: the values of a scene are views."""
    is_mesh = not isinstance(samples, np.ndarray) and all(isinstance(one, Mesh) for one in samples)
    if not is_mesh and module.__name__.rpartition(".")[2] not in domain_class(domain).FORMATS:
        raise UsageError(
            f"`{path.suffix}` files hold meshes of {domain_class(domain).NOUN}, which cannot be made of sampled values",
            hint=f"run the `inrflow sample` that drew them again with an output in `{path.suffix}`, or take another format",
        )


def _formats() -> list[ModuleType]:
    return list(registry.parts("formats").values())


def _no_format(path: Path, domain: str | None, *, has_shards: bool = False) -> UsageError:
    suffix = path.suffix or format_suffix(path)
    what = f"`{suffix}` files" if suffix else f"`{path}`, which has no suffix"
    of = "" if domain is None else f" of the domain `{domain}`"
    choices = ", ".join(f"`{suffix}`" for suffix in suffixes(domain) if has_shards or suffix != SHARD)
    return UsageError(f"no format{of} writes {what}", hint=f"give a name that ends in one of {choices}")


def _check_options(module: ModuleType, path: Path, format_options: Mapping[str, Any]) -> None:
    allowed = options(module)
    for name in format_options:
        if name not in allowed:
            hint = did_you_mean(name, allowed) if allowed else "leave it out"
            raise UsageError(f"`{path.suffix}` files have no option `{name}`", hint=hint)
