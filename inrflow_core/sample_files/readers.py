"""Open samples and reference data: shards, folders of images, clouds or structures, .npz and .h5 files."""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from inrflow_core import models
from inrflow_core.domains._contract import ArrayFiles, DomainClass, array_domains, domain_class, domain_classes
from inrflow_core.errors import IntegrityError, MissingError, UsageError, did_you_mean
from inrflow_core.formats import npz
from inrflow_core.geometry import cloud_files
from inrflow_core.mesh_files import reading
from inrflow_core.proteins import structure_reader
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files.collection import (
    ArrayCollection,
    SampleCollection,
    ShardCollection,
    StructureCollection,
)
from inrflow_core.shards import manifest, shard_dataset
from inrflow_core.storage import plain_file, source_files
from inrflow_core.visualization import image_io, video_io

UNKNOWN_NORMALIZATION = {"kind": "unknown"}
"""Normalization of clouds that `inrflow sample` wrote as .npz or .ply: unlike shards, these do not record it."""
PROVENANCE_PREFIX = b"comment inrflow"
KINDS = (
    "a folder of shards, an .h5, .npz or .npy file of samples, or a folder of images, of .ply or .npy clouds, "
    "or of .pdb, .cif or .bcif structures"
)

OTHER_KINDS = {
    "an animation or a video": video_io.SUFFIXES,
    "an image (of one sample, or a sheet of several)": (*image_io.SUFFIXES, *image_io.FOREIGN_SUFFIXES),
    "one point cloud": tuple(suffix for suffix in cloud_files.SUFFIXES if suffix not in (".npy", ".npz")),
    "a mesh": reading.SUFFIXES,
}
"""Files that are not of samples, by their suffixes; `.ply` is called a cloud."""


def open_collection(
    source: Path, split: str | None = None, prefer: Sequence[str] = (), *, all_models: bool = False
) -> SampleCollection:
    """The items of a file or folder; of shards those of `split`, else of the first split of `prefer` that exists.

    With `all_models` every model of a structure file is an item, else the first one alone (see `structures_in`).

    Raises:
        MissingError: the path does not exist, or the folder has no items.
        IntegrityError: it is damaged.
        UsageError: it holds no items, or has no such split.
    """
    if source.suffix.lower() == ".h5" or (source / manifest.NAME).is_file():
        return _from_shards(source, split, prefer)
    if not source.exists():
        raise MissingError(f"`{source}` does not exist", hint=plain_file.did_you_mean_path(source, f"give {KINDS}"))
    if split is not None:
        raise UsageError(f"`{source}` is not a folder of shards, so it has no split `{split}`", hint="leave it out")
    if source.is_dir():
        return _from_files(source, all_models=all_models)
    if structure_reader.is_structure(source.name) and (domain := domain_of_file(source)) is not None:
        return structures_in(source, [(source.name, source)], domain.NAME, all_models=all_models)
    if source.suffix.lower() in (".npz", ".npy"):
        return _from_array(source)
    raise holds_no_samples(source, f"give {KINDS}")


def holds_no_samples(source: Path, allowed: str) -> UsageError:
    """The error for a file that is not of samples: what it is, as far as its name says it, and what is `allowed`."""
    if (content := models.content_of(source)) is not None:
        return UsageError(f"`{source}` holds {content[0]}, no samples", hint=content[1])
    if (error := _of_a_folder(source)) is not None:
        return error
    suffix, hint = source.suffix.lower(), f"{allowed}; `inrflow sample out.h5` writes samples for it"
    kind = next((kind for kind, suffixes in OTHER_KINDS.items() if suffix in suffixes), None)
    if kind is None:
        return UsageError(f"`{source}` holds no samples", hint=hint)
    return UsageError(f"`{source}` is {kind}, not a file of samples", hint=hint)


def _of_a_folder(source: Path) -> UsageError | None:
    """The error for a run, or for a folder of samples that are not finished; None for anything else."""
    if (source / "preset.toml").is_file():
        return UsageError(
            f"`{source}` is a run, no samples", hint=f"draw some: `inrflow sample --run {shlex.quote(str(source))} OUT`"
        )
    if source.is_dir() and any(source.glob("*.h5.partial")):
        return UsageError(
            f"the samples in `{source}` are not finished", hint="run the `inrflow sample` command that began them again"
        )
    return None


def split_names(source: Path) -> list[str]:
    """Names of the splits of a folder of shards; empty for anything else."""
    return shard_dataset.ShardDataset(source).splits if (source / manifest.NAME).is_file() else []


def _from_shards(source: Path, split: str | None, prefer: Sequence[str]) -> SampleCollection:
    dataset = shard_dataset.ShardDataset(source)
    if split is not None and split not in dataset.splits:
        raise UsageError(f"`{source}` has no split `{split}`", hint=did_you_mean(split, dataset.splits))
    selected = split or next((name for name in prefer if name in dataset.splits), dataset.splits[0])
    is_file = source.suffix.lower() == ".h5" and not source.is_dir()
    metadata = {key: str(value) for key, value in dataset.manifest.settings.items()}
    if not is_file:
        metadata = {"data set": dataset.manifest.dataset, **metadata}
    return ShardCollection(
        source=source,
        domain=dataset.domain,
        digest=plain_file.file_digest(source if is_file else source / manifest.NAME),
        split=None if is_file else selected,
        normalization=dataset.manifest.normalization,
        metadata=metadata,
        shards=dataset,
        shard_split=selected,
        conditions=dataset.conditions(selected),
    )


def _from_files(folder: Path, *, all_models: bool) -> SampleCollection:
    files = [(name, folder / name) for name, _ in source_files.list_files(folder)]
    domains = [domain_of_file(path) for _, path in files]
    counts_by_domain = Counter(domain.NAME for domain in domains if domain is not None)
    if not counts_by_domain and (error := _of_a_folder(folder)) is not None:
        raise error
    if not counts_by_domain:
        raise MissingError(f"`{folder}` holds neither images nor clouds nor proteins", hint=f"give {KINDS}")
    if len(counts_by_domain) > 1:
        counts = " and ".join(
            f"{counts_by_domain[name]} {domain_class(name).NOUN}" for name in sorted(counts_by_domain)
        )
        raise UsageError(f"`{folder}` holds {counts}", hint="keep them in folders of their own")
    (name,) = counts_by_domain
    samples = [file for file, domain in zip(files, domains, strict=True) if domain is not None]
    form = domain_class(name).FILES
    if form is None or form.read is None:
        return structures_in(folder, samples, name, all_models=all_models)
    read_one = form.read

    @functools.cache
    def first() -> tuple[str, np.ndarray]:
        return samples[0][0], read_one(samples[0][1])

    def load_values(indices: np.ndarray) -> np.ndarray:
        return _stacked(folder, first(), [(samples[i][0], read_one(samples[i][1])) for i in indices], form)

    is_ours = form.dtype == "float32" and PROVENANCE_PREFIX in _head(samples[0][1])
    return ArrayCollection(
        source=folder,
        domain=name,
        digest=_digest(samples, form.max_bytes),
        normalization=UNKNOWN_NORMALIZATION if is_ours else {},
        names=[name for name, _ in samples],
        load_values=load_values,
    )


def structures_in(
    source: Path, files: Sequence[tuple[str, Path]], domain: str, *, all_models: bool = False
) -> SampleCollection:
    """Proteins of files below `source`, each named after its file without the suffixes.

    Of a file of several models the first is read. With `all_models` each is an item, numbered from 0: `1abc-0`,
    `1abc-1`; the files are then read once to count them.

    Raises:
        UsageError: two have one name.
        IntegrityError: a file cannot be read.
    """
    stems = [structure_reader.structure_name(name) for name, _ in files]
    twice = next((name for name, count in Counter(stems).items() if count > 1), None)
    if twice is not None:
        raise UsageError(
            f"`{source}` holds several files that are called `{twice}` without their suffixes", hint="keep one of each"
        )

    @functools.lru_cache(maxsize=64)
    def models(file: int) -> list[Structure]:
        path = files[file][1]
        return structure_reader.read_models(path) if all_models else [structure_reader.read(path)]

    digest = _digest(files, structure_reader.LARGEST)
    counts = [len(models(file)) if all_models else 1 for file in range(len(files))]
    items = [(file, number) for file, count in enumerate(counts) for number in range(count)]
    names = [stems[file] if counts[file] == 1 else f"{stems[file]}-{number}" for file, number in items]

    def load_structure(index: int) -> Structure:
        file, number = items[index]
        return models(file)[number]

    return StructureCollection(source=source, domain=domain, digest=digest, names=names, load_structure=load_structure)


def _digest(files: Sequence[tuple[str, Path]], max_bytes: int) -> str:
    """A digest of names and contents; raises IntegrityError where a file is larger than one of its kind can be."""
    hashed = hashlib.sha256()
    for name, path in files:
        hashed.update(f"{name}\0{plain_file.file_digest(path, max_bytes=max_bytes)}\n".encode(errors="surrogateescape"))
    return hashed.hexdigest()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2048)


def _from_array(path: Path) -> SampleCollection:
    known = array_domains()
    name, values, metadata, _ = npz.read(path, [name for _, form in known for name in form.names])
    fitting = [(one, form) for one, form in known if (not name or name in form.names) and form.holds(values)]
    if not fitting:
        raise IntegrityError(
            f"`{path}` holds {values.dtype} of shape {values.shape}, not {' or '.join(one.NOUN for one, _ in known)}",
            hint=", ".join(f"{one.NOUN} are {form.description}" for one, form in known),
        )
    domain, form = fitting[0]

    def load_values(indices: np.ndarray) -> np.ndarray:
        return values[indices]

    return ArrayCollection(
        source=path,
        domain=domain.NAME,
        digest=plain_file.file_digest(path),
        normalization=UNKNOWN_NORMALIZATION if metadata and form.dtype == "float32" else {},
        metadata=metadata,
        names=[str(index) for index in range(len(values))],
        load_values=load_values,
    )


def _stacked(
    folder: Path, pattern: tuple[str, np.ndarray], read: list[tuple[str, np.ndarray]], form: ArrayFiles
) -> np.ndarray:
    """Items of the shape of `pattern`, the folder's first, as one array.

    Raises:
        UsageError: they differ; names the first that does.
    """
    first_name, first = pattern
    for name, values in read:
        if values.shape != first.shape:
            raise UsageError(
                f"`{folder / name}` is {form.describe(values.shape)}, and `{folder / first_name}` is {form.describe(first.shape)}",
                hint="all images must have one size and mode, all clouds one number of points",
            )
    return np.stack([values for _, values in read])


def domain_of_file(path: Path) -> DomainClass | None:
    """The domain of the one sample in a file of that name; None for other files."""
    is_structure = structure_reader.is_structure(path.name)
    suffix = path.suffix.lower()
    for domain in domain_classes():
        if domain.MAKES_STRUCTURES if is_structure else domain.FILES is not None and suffix in domain.FILES.suffixes:
            return domain
    return None
