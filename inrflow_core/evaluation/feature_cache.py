"""Features of many images, computed once and cached on the disk in files of 1024 images, or 64 clips: a kill loses at most one.

FOLDER/
    00000000.safetensors, ...        the features of `IMAGES_PER_FILE` images each, one tensor for each output
    moments-OUTPUT.safetensors       mean and covariance over all of them

A folder belongs to one set of images, one network, its weights and one preprocessing: `gather` names it by their
digests. Every file carries a digest of its numbers; a damaged one is computed again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from inrflow_core.errors import IntegrityError, MissingError
from inrflow_core.metrics._inputs import STATS_FORMAT, FeatureRows
from inrflow_core.numerics.gaussian_stats import GaussianStats, RunningGaussian
from inrflow_core.runtime.progress import Progress
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.storage import safetensors_file

FORMAT = "inrflow-feature-cache-1"
"""The tag of a file of features. Files of earlier versions have another one; the tag is not read, and they are used."""
IMAGES_PER_FILE = 1024
"""Images whose features are one file."""
CLIPS_PER_FILE = 64
"""Clips whose features are one file: some seconds each on a CPU."""
CLIP_AXES = 4
"""Axes of a clip; an image has one less."""
BATCH = 64
"""Images in a batch of the network."""
MAX_STORED_ROWS = 50_000
"""Most rows of features that metrics of single rows use, evenly spaced among all images; statistics are over all."""

Extractor = Callable[[np.ndarray, Sequence[str], str], Mapping[str, Tensor]]
"""See `feature_networks._contract`: images, outputs and preprocessing to a row for each image and output."""


@dataclass(frozen=True)
class FeatureCache(FeatureRows):
    """Features of some images: `outputs` of a network after a `preprocessing`, cached in `folder`."""

    items: SampleCollection
    outputs: tuple[str, ...]
    preprocessing: str
    folder: Path
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Written into the files: the network, digests of its weights and of the images."""

    @property
    def has_all_rows(self) -> bool:
        return self.items.count <= MAX_STORED_ROWS

    @property
    def clusters(self) -> Int64[np.ndarray, " N"] | None:
        clusters = self.items.clusters
        return None if clusters is None else clusters[self._selected()]

    def is_done(self) -> bool:
        """Whether every file exists, with all outputs."""
        return all(self._holds(part, path) for part, path in self._files())

    def run(self, extractor: Extractor, progress: Progress | None = None) -> None:
        """Compute missing features; `progress` counts images."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for part, path in self._files():
            if not self._holds(part, path):
                self._make(part, path, extractor)
            if progress is not None:
                progress(part.stop, self.items.count)

    def select_rows(self, output: str) -> Float32[np.ndarray, "N F"]:
        """The features of all images, or of `MAX_STORED_ROWS` evenly spaced ones."""
        rows_to_read, parts = self._selected(), []
        for part, path in self._files():
            here = rows_to_read[(rows_to_read >= part.start) & (rows_to_read < part.stop)] - part.start
            parts.append(read(path)[0][output][here])
        return np.concatenate(parts)

    def moments(self, output: str) -> GaussianStats:
        """Mean and covariance of the features of all images."""
        path = self.folder / f"moments-{output}.safetensors"
        try:
            stored, _ = read(path)
            if int(stored["count"]) == self.items.count:
                return GaussianStats(int(stored["count"]), stored["mean"], stored["covariance"])
        except (MissingError, IntegrityError, KeyError):
            pass  # it is computed again
        pieces = (read(piece)[0][output] for _, piece in self._files())
        first = next(pieces)
        sums = RunningGaussian(first.shape[1])
        for rows in chain([first], pieces):
            sums.add(rows)
        stats = sums.moments()
        _write(
            path,
            {
                "count": torch.tensor(stats.count),
                "mean": torch.from_numpy(stats.mean),
                "covariance": torch.from_numpy(stats.covariance),
            },
            {"format": STATS_FORMAT, "output": output, "form": self.preprocessing, **self.provenance},
        )
        return stats

    def _selected(self) -> Int64[np.ndarray, " N"]:
        """The items whose rows metrics of single rows use."""
        if self.has_all_rows:
            return np.arange(self.items.count)
        return np.linspace(0, self.items.count - 1, MAX_STORED_ROWS).round().astype(np.int64)

    def _files(self) -> list[tuple[range, Path]]:
        """Each file with the range of its images."""
        count, size = self.items.count, IMAGES_PER_FILE if len(self.items.shape) < CLIP_AXES else CLIPS_PER_FILE
        return [
            (range(start, min(start + size, count)), self.folder / f"{start:08d}.safetensors")
            for start in range(0, count, size)
        ]

    def _make(self, part: range, path: Path, extractor: Extractor) -> None:
        stored = {output: rows for output, rows in self._stored_rows(part, path).items() if output not in self.outputs}
        made: dict[str, list[Tensor]] = {output: [] for output in self.outputs}
        for start in range(part.start, part.stop, BATCH):
            images = self.items.read(range(start, min(start + BATCH, part.stop))).values
            for output, rows in extractor(images, self.outputs, self.preprocessing).items():
                made[output].append(rows)
        tensors = {output: torch.from_numpy(rows) for output, rows in stored.items()}
        tensors |= {output: torch.cat(rows).float() for output, rows in made.items()}
        _write(path, tensors, {"format": FORMAT, "form": self.preprocessing, **self.provenance})

    def _holds(self, part: range, path: Path) -> bool:
        return set(self.outputs) <= set(self._stored_rows(part, path))

    def _stored_rows(self, part: range, path: Path) -> dict[str, np.ndarray]:
        """Features in a file, by output; empty if the file does not exist or is damaged."""
        try:
            stored, _ = read(path)
        except (MissingError, IntegrityError):
            return {}
        return {output: rows for output, rows in stored.items() if len(rows) == len(part)}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file and its metadata.

    Raises:
        MissingError: the file does not exist.
        IntegrityError: it is damaged, or its arrays do not match its digest.
    """
    metadata = safetensors_file.read_metadata(path)
    with safetensors_file.open_tensors(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is not a mapping
    if metadata.get("digest") != _digest(arrays):
        raise IntegrityError(f"`{path}` is damaged: its numbers do not match its digest", hint="compute it again")
    return arrays, metadata


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    digest = _digest({name: tensor.numpy() for name, tensor in tensors.items()})
    safetensors_file.write(path, safetensors_file.layout(tensors), tensors.values(), {**metadata, "digest": digest})


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    hashed = hashlib.sha256()
    for name in sorted(arrays):
        hashed.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        hashed.update(np.ascontiguousarray(arrays[name]).data)
    return hashed.hexdigest()
