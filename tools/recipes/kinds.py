"""The kinds of data that recipes are compared on: their source, their shards, their budget and their metrics."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrflow_cli import console
from inrflow_core import registry
from inrflow_core.config import typed
from inrflow_core.errors import MissingError
from inrflow_core.preparation import job as preparation
from inrflow_core.preparation import pipeline
from inrflow_core.storage import atomic_write, file_lock

PACKED = (".tar.gz", ".tgz")
"""Archives that `prepare` does not read in place: they are unpacked beside the shards."""


@dataclass(frozen=True)
class Kind:
    """One kind of data."""

    name: str
    dataset: str
    """As in `inrflow prepare DATASET`."""
    source: str | None
    """The name of its file or folder anywhere below `--data`, with `*`; None where nothing is read."""
    flops: float
    """Training FLOPs of a run by default."""
    metrics: tuple[str, ...]
    """Metrics at the end of a run, as in `inrflow eval --metrics`."""
    num: int
    """Samples for them; of models of sequences, sequences."""
    reference: int | None = None
    """Reference items, evenly spaced; None takes all of the split."""
    split: str = "val"
    """Split of the reference."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the data set, as `inrflow prepare --set`."""
    has_digits: bool = False
    """Whether `digit_classifier` scores the samples too."""


IMAGES, CLOUDS, PROTEINS = ("fid:random", "kid:random"), ("1-nna:cd", "mmd:cd"), ("lddt", "tm-score")
KINDS = {
    kind.name: kind
    for kind in (
        Kind("mnist", "mnist", "mnist*", 1.5e13, IMAGES, 1000, 10_000, "train", has_digits=True),
        Kind("flowers", "image-folder", "flower*photo*", 1.2e13, IMAGES, 128, None, "train", {"resolution": 64, "classes": True}),
        Kind("solids", "solids", None, 1.2e13, CLOUDS, 400, 400),
        Kind("clouds", "mesh-folder", "kaykit*", 1.2e13, CLOUDS, 64, 64, settings={"points": 2048}),
        Kind("proteins", "swissprot", "afdb_cif*", 6e12, PROTEINS, 18, settings={"embedder": "one-hot", "plddt": 85.0, "longest": 256}),
    )
}  # fmt: skip


def prepare(kind: Kind, data: Path | None, out: Path, limit: int | None = None) -> Path:
    """The folder of a kind's shards below `out`, prepared from its raw data below `data` if it is not complete.

    A second process waits for the first.

    Raises:
        MissingError: the raw data are not there.
    """
    shards = out / "shards" / (kind.name if limit is None else f"{kind.name}-{limit}")
    shards.parent.mkdir(parents=True, exist_ok=True)
    with file_lock.lock(shards.parent / f".{shards.name}.lock"):
        source = None if kind.source is None else unpacked(find_source(kind, data, out), out / "raw" / kind.name)
        config = typed.settings(registry.find("datasets", kind.dataset).Config, dict(kind.settings), kind.dataset)
        report = pipeline.prepare(preparation.resolve_job(kind.dataset, source, shards, config, limit))
    if report.num_written:
        console.info(f"prepared `{shards}`: " + ", ".join(f"{count:,} {name}" for name, count in report.splits.items()))
    return shards


def find_source(kind: Kind, data: Path | None, out: Path | None = None) -> Path:
    """The file or folder of a kind's raw data: of all that have its name below `data` and not in `out`, the one nearest to the top.

    Raises:
        MissingError: there is none, or `data` is None.
    """
    assert kind.source is not None
    if data is None:
        raise MissingError(
            f"`{kind.name}` needs raw data", hint=f"name a folder that holds `{kind.source}` with `--data`"
        )
    results = None if out is None else out.resolve()
    found = sorted(
        (path for path in data.rglob(kind.source) if results is None or not path.resolve().is_relative_to(results)),
        key=lambda path: (len(path.parts), path.name),
    )
    if not found:
        raise MissingError(
            f"no `{kind.source}` below `{data}`", hint=f"put the raw data of `inrflow prepare {kind.dataset}` there"
        )
    return found[0]


def unpacked(source: Path, folder: Path) -> Path:
    """The source; where it is, or holds, .tar.gz archives, a folder with the content of each."""
    files = [source] if source.is_file() else sorted(source.iterdir())
    archives = [path for path in files if path.name.endswith(PACKED)]
    if not archives:
        return source
    for archive in archives:
        target = folder / archive.name.removesuffix(".tar.gz").removesuffix(".tgz")
        if not target.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            partial = folder / f".{target.name}.partial"
            atomic_write.remove(partial)
            with tarfile.open(archive) as tar:
                tar.extractall(partial, filter="data")
            shutil.move(partial, target)
    return folder
