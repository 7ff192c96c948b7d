"""Select items of shards or sample files, for `inrflow export`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inrflow_core import __version__
from inrflow_core.domains._contract import array_domains, domain_class
from inrflow_core.errors import InrflowError, IntegrityError, MissingError, UsageError
from inrflow_core.formats import npz
from inrflow_core.geometry import ply_reader, point_clouds
from inrflow_core.proteins import structure_reader
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files.readers import domain_of_file, holds_no_samples, open_collection
from inrflow_core.sets import CAMERA
from inrflow_core.shards import batch, manifest, shard_dataset
from inrflow_core.shards.batch import ALL, ConditionSelection
from inrflow_core.shards.schema import frame_rate
from inrflow_core.storage.plain_file import did_you_mean_path

FIRST = 16
"""Number of items by default."""
HINT = (
    "give a folder of shards, an .h5, .npz, .ply, .pdb, .cif or .bcif file of samples, or write `.safetensors` or `.onnx` "
    "from a run"
)


@dataclass(frozen=True)
class Samples:
    """Selected items: images, uint8 (B H W C), clouds, float32 (B N C), or structures of proteins.

    A cloud that float32 would merge where it lies is float64.
    """

    values: np.ndarray | Sequence[Structure]
    domain: str
    origin: Mapping[str, str]
    items: Sequence[Mapping[str, str]]
    """Metadata of each: its name, class, seed."""
    total: int
    """Number of items in the source."""
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What files of arrays hold beside them: the `cameras` of scenes, float32 (B V 4 4), or the `fps` of clips."""
    frame_rate: float | None = None
    """Frames per second of clips; None if it is not recorded."""


def read(source: Path, *, split: str | None = None, items: str | None = None, is_raw: bool = False) -> Samples:
    """Items (`0-9`, `3,5,8-10` or `all`; by default the first 16) of a folder of shards or a file of samples.

    With `is_raw` clouds are returned in their source units, from before `prepare` normalized them.

    Raises:
        MissingError: `source` does not exist.
        IntegrityError: it is damaged.
        UsageError: it holds no samples, or lacks some of the items.
    """
    samples = _read(source, split, items, is_raw=is_raw)
    arrays = [samples.values] if isinstance(samples.values, np.ndarray) else [one.positions for one in samples.values]
    if not all(np.isfinite(array).all() for array in arrays):
        raise IntegrityError(
            f"`{source}` holds numbers that are not finite in single precision",
            hint="scale it down, or copy or draw it again",
        )
    return samples


def _read(source: Path, split: str | None, items: str | None, *, is_raw: bool) -> Samples:
    if source.suffix.lower() == ".h5" or (source.is_dir() and (source / manifest.NAME).is_file()):
        return _from_shards(source, split, items, is_raw=is_raw)
    if not source.exists():
        raise MissingError(f"`{source}` does not exist", hint=did_you_mean_path(source, HINT))
    if source.suffix not in (".npz", ".ply") and not structure_reader.is_structure(source.name):
        raise holds_no_samples(source, HINT)
    for name, is_set in (("--split", split is not None), ("--raw", is_raw)):
        if is_set:
            raise UsageError(f"`{source}` is not a folder of shards, so `{name}` does not apply", hint="leave it out")
    if source.suffix == ".npz":
        return _from_npz(source, items)
    domain = domain_of_file(source)
    assert domain is not None, "a domain has these files"
    if domain.MAKES_STRUCTURES:
        proteins = open_collection(source, all_models=True)
        indices = parse_indices(items, proteins.count)
        facts = [{"item": str(index)} for index in indices]
        origin = _origin({"file": source.name})
        return Samples(proteins.structures(indices), domain.NAME, origin, facts, proteins.count)
    points = ply_reader.read_in_place(source)
    return Samples(points[None], domain.NAME, _origin({"file": source.name}), [{}], 1)


def domain_of(source: Path) -> str | None:
    """The domain of shards or of a file of samples; None of what is neither, or cannot be read."""
    try:
        return open_collection(source).domain
    except InrflowError:
        found = domain_of_file(source) if source.suffix == ".ply" and source.is_file() else None
        return None if found is None else found.NAME


def parse_indices(items: str | None, total: int) -> list[int]:
    """Item numbers from a text such as `0-9`, `3,5,8-10` or `all`; None selects the first 16.

    Raises:
        UsageError: the text has another form, or a number is not below `total`.
    """
    if items is None or items == "all":
        return list(range(total if items else min(FIRST, total)))
    indices: list[int] = []
    for part in items.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise UsageError(f"`{items}` names no items", hint="write numbers and ranges, as in `0-9` or `3,5,8-10`")
        if last >= total:
            raise UsageError(f"there is no item {last}: there are {total:,}", hint=f"the last is {total - 1}")
        indices += range(first, last + 1)
    return indices


def _from_shards(source: Path, split: str | None, items: str | None, *, is_raw: bool) -> Samples:
    dataset = shard_dataset.ShardDataset(source)
    split = split or ("train" if "train" in dataset.splits else dataset.splits[0])
    indices = parse_indices(items, dataset.count(split))
    dataset.verify_items(split, indices)
    makes_structures = domain_class(dataset.domain).MAKES_STRUCTURES
    conditions = ConditionSelection(()) if makes_structures else ALL
    batch = dataset.read(split, indices, with_names=True, conditions=conditions)
    if not makes_structures and batch.sizes is not None and len(set(batch.sizes.tolist())) > 1:
        raise UsageError("these items differ in their number of points", hint="export them one by one, with `--items`")
    facts = [
        {
            "item": str(index),
            **({"name": batch.names[row]} if batch.names[row] else {}),
            **({"class": _class(dataset, int(batch.labels[row]))} if batch.labels[row] >= 0 else {}),
            **({"seed": str(batch.seeds[row])} if batch.seeds is not None and len(batch.seeds) else {}),
        }
        for row, index in enumerate(indices)
    ]
    settings = dataset.manifest.settings if split == shard_dataset.SAMPLES else {}
    origin = _origin(
        {"data": dataset.manifest.dataset, "split": split, **{key: str(value) for key, value in settings.items()}}
    )
    values = source_units(batch, dataset.manifest.normalization) if is_raw else batch.values
    if makes_structures:
        values = open_collection(source, None if split == shard_dataset.SAMPLES else split).structures(indices)
    has_cameras = domain_class(dataset.domain).HAS_CAMERAS and CAMERA in batch.condition
    rate = frame_rate(dataset.manifest.normalization)
    arrays = {"cameras": batch.condition[CAMERA]} if has_cameras else _rate_array(rate)
    return Samples(values, dataset.domain, origin, facts, dataset.count(split), arrays, rate)


def _rate_array(rate: float | None) -> dict[str, np.ndarray]:
    return {} if rate is None else {"fps": np.array(rate)}


def _class(dataset: shard_dataset.ShardDataset, label: int) -> str:
    return dataset.classes[label] if label < len(dataset.classes) else str(label)


def source_units(batch: batch.Batch, normalization: Mapping[str, Any]) -> np.ndarray:
    """Clouds in their source units."""
    if normalization.get("kind") in point_clouds.PER_ITEM and {"offset", "scale"} <= batch.condition.keys():
        offset, scale = batch.condition["offset"][:, None], batch.condition["scale"][:, None]
    elif normalization.get("kind") == "global":
        offset, scale = np.array(normalization["offset"]), normalization["scale"]
    else:
        raise UsageError("these items do not record their source units", hint="leave `--raw` out")
    exact = batch.values.astype(np.float64)
    exact[..., :3] = exact[..., :3] * scale + offset
    if _is_far(exact):
        return exact
    values = batch.values.copy()
    values[..., :3] = values[..., :3] * scale + offset
    return values


def _is_far(clouds: np.ndarray) -> bool:
    return clouds.dtype.itemsize > 4 and any(ply_reader.is_far(cloud[:, :3]) for cloud in clouds)


def _from_npz(source: Path, items: str | None) -> Samples:
    known = array_domains()
    array = npz.read(source, [name for _, form in known for name in form.names])
    domain, form = next(((one, form) for one, form in known if form.names[0] == array.name), known[-1])
    values = array.values
    if not form.holds(values):
        raise IntegrityError(
            f"`{array.name}` in `{source}` is {values.dtype} of shape {values.shape}, not {form.description}",
            hint="draw them again",
        )
    indices = parse_indices(items, len(values))
    picked = values[indices]
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which `read` refuses
        picked = picked if form.dtype == "float32" and _is_far(picked) else picked.astype(form.dtype)
    facts = [{"item": str(index)} for index in indices]
    rate = frame_rate({"fps": array.fps})
    return Samples(picked, domain.NAME, _origin(array.origin), facts, len(values), _rate_array(rate), rate)


def _origin(facts: Mapping[str, str]) -> dict[str, str]:
    return {"inrflow": __version__, **facts}
