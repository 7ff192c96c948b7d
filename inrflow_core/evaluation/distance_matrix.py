"""Distance matrices between clouds: their tiles, and the files of finished strips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64

from inrflow_core.distances import _contract
from inrflow_core.metrics._cloud_inputs import DistanceSpec
from inrflow_core.storage.atomic_write import atomic_write

Clouds = Float[np.ndarray, "N P 3"]
Others = Float[np.ndarray, "R Q 3"]

FORMAT = b"inrflow-distances-1"
STRIP, TILE = 64, 8
"""Rows of a file; rows and columns of a task: 64 pairs, half a minute of exact EMD."""


@dataclass(frozen=True)
class PairwiseJob:
    """Cache folder, processes and device of a computation of distances."""

    folder: Path | None = None
    """Stores finished distances; None: they are not stored."""
    workers: int = 1
    """Processes; a GPU is used by one."""
    device: str = "cpu"


@dataclass
class DistanceMatrix:
    """A matrix that is being computed; NaN marks unknown distances."""

    rows: np.ndarray
    columns: np.ndarray
    is_across: bool
    is_symmetric: bool
    folder: Path | None
    values: np.ndarray = field(init=False)
    mask: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """Mark all distances as unknown. The mask selects all pairs, those off the diagonal, or those above it."""
        shape = (len(self.rows), len(self.columns))
        self.values = np.full(shape, np.nan)
        self.mask = np.ones(shape, bool)
        if not self.is_across:
            self.mask = np.triu(self.mask, 1) if self.is_symmetric else self.mask & ~np.eye(len(self.rows), dtype=bool)

    def strips(self) -> Iterator[tuple[Path | None, np.ndarray]]:
        """Each strip's file and its rows of `values`."""
        for number, start in enumerate(range(0, len(self.rows), STRIP)):
            file = None if self.folder is None else self.folder / f"{number:04d}.strip"
            yield file, self.values[start : start + STRIP]

    @property
    def missing(self) -> np.ndarray:
        """The selected pairs whose distance is unknown."""
        return self.mask & np.isnan(self.values)

    def whole(self) -> Float64[np.ndarray, "N R"]:
        """The matrix, mirrored if symmetric; within one set the diagonal is 0."""
        if self.is_across:
            return self.values
        filled = np.where(self.mask, self.values, 0.0)
        return filled + filled.T if self.is_symmetric else filled


def begin_matrices(samples: Clouds, reference: Others, spec: DistanceSpec, work: PairwiseJob) -> list[DistanceMatrix]:
    """The matrices of a spec (across, among samples, among the reference), filled with the cached distances."""
    is_symmetric = _contract.find(spec.distance).is_symmetric
    sides = [(samples, reference)] + ([(samples, samples), (reference, reference)] if spec.is_within else [])
    made = []
    for number, (rows, columns) in enumerate(sides):
        folder = None if work.folder is None else work.folder / _key(rows, columns, spec, work, is_across=number == 0)
        matrix = DistanceMatrix(rows, columns, number == 0, is_symmetric, folder)
        for file, values in matrix.strips():
            if file is not None and (stored := _read(file, values.shape)) is not None:
                values[:] = stored
        made.append(matrix)
    return made


def _key(rows: Clouds, columns: Others, spec: DistanceSpec, work: PairwiseJob, *, is_across: bool) -> str:
    """The name of a matrix's folder: a digest of its clouds and of the settings of the distance."""
    kind = torch.device(work.device).type if is_batched(spec.distance, work.device) else "cpu"
    content = f"{spec.distance}|{spec.normalization}|{kind}|{is_across}|{rows.shape}|{columns.shape}|{rows.dtype}"
    hashed = hashlib.sha256(FORMAT + content.encode())
    for clouds in (rows, columns):
        hashed.update(np.ascontiguousarray(clouds).data)
    return f"{spec.distance}-{hashed.hexdigest()[:24]}"


def is_batched(distance: str, device: str) -> bool:
    """Whether a distance is computed in batches of pairs on a device."""
    return torch.device(device).type != "cpu" and _contract.find(distance).batched_distance is not None


def save_strips(made: list[DistanceMatrix], changed: set[tuple[int, int]]) -> None:
    """Write the changed strips, by matrix and number, and empty the set."""
    for number, strip in sorted(changed):
        file, values = list(made[number].strips())[strip]
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as beside:
                content = np.ascontiguousarray(values, "<f8").tobytes()
                beside.write_bytes(hashlib.sha256(content).digest() + content)
    changed.clear()


def _read(file: Path, shape: tuple[int, ...]) -> Float64[np.ndarray, "_ _"] | None:
    """A strip; None if it does not exist, or is damaged and must be computed again."""
    if not file.is_file() or file.stat().st_size != 32 + 8 * shape[0] * shape[1]:
        return None
    stored = file.read_bytes()
    digest, content = stored[:32], stored[32:]
    if hashlib.sha256(content).digest() != digest:
        return None
    return np.frombuffer(content, "<f8").reshape(shape).astype(np.float64)
