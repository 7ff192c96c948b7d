"""Mean and covariance of a reference's features from a file, where the pictures themselves are not at hand.

Read are our own (`moments-OUTPUT.safetensors`, kept beside shards) and the reference batches that ADM's authors
publish (.npz with `mu`, `sigma` of the pooled features and `mu_s`, `sigma_s` of the spatial ones). Both say by which
protocol they were made; a file with `mu` and `sigma` alone does not, and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors

from inrflow_core.errors import DAMAGED_ARRAYS, IntegrityError, MissingError, UsageError
from inrflow_core.metrics._inputs import FeatureSpec
from inrflow_core.numerics.gaussian_stats import GaussianStats
from inrflow_core.storage import checksum

FORMAT = "inrflow-statistics-1"
ACCEPTED_FILES = "give the pictures themselves, statistics that `inrflow eval` kept, or a reference batch of ADM"


@dataclass(frozen=True)
class ReferenceStats:
    """Moments of a reference's features."""

    source: Path
    network: str
    form: str
    moments: Mapping[str, GaussianStats]
    """By output."""
    digest: str
    weights: str | None = None
    """Digest of the network's weights, where the file says it."""
    shape: tuple[int, ...] | None = None
    """Rows, columns and channels of the pictures, where the file says it."""

    def find(self, need: FeatureSpec, weights: str | None) -> GaussianStats:
        """The moments that a metric needs, whose network has weights of that digest.

        Raises:
            UsageError: these are of another network, form, output or weights, or rows are needed.
        """
        wanted, got = f"{need.network}:{need.form}", f"{self.network}:{self.form}"
        if wanted != got or need.output not in self.moments:
            raise UsageError(
                f"`{self.source}` holds {' and '.join(self.moments)} statistics of the protocol `{got}`, "
                f"and `{wanted}` needs `{need.output}`",
                hint="choose a metric of the file's protocol, or give the pictures themselves",
            )
        if not need.moments_suffice:
            raise UsageError(
                f"`{self.source}` holds mean and covariance alone, and this metric compares single items",
                hint="give the pictures themselves",
            )
        if self.weights and self.weights != weights:
            raise UsageError(
                f"`{self.source}` was made with other weights of `{need.network}`: their digest is "
                f"{self.weights[:8]}..., that of the present ones {(weights or 'none')[:8]}...",
                hint="give the weights that it was made with, or the pictures themselves",
            )
        return self.moments[need.output]


def is_stats_file(path: Path) -> bool:
    """Whether a path looks like a file of statistics: a .safetensors, or an .npz with `mu`."""
    if path.suffix == ".safetensors":
        return path.is_file()
    if path.suffix != ".npz" or not path.is_file():
        return False
    try:
        with np.load(path, allow_pickle=False) as archive:
            return "mu" in archive
    except DAMAGED_ARRAYS:
        return False


def read(path: Path) -> ReferenceStats:
    """The statistics in a file.

    Raises:
        MissingError: there is no such file.
        IntegrityError: it is damaged, or not what its digest says.
        UsageError: it does not say by which protocol it was made.
    """
    if not path.is_file():
        raise MissingError(f"`{path}` does not exist", hint=ACCEPTED_FILES)
    return _own(path) if path.suffix == ".safetensors" else _adm(path)


def _own(path: Path) -> ReferenceStats:
    from inrflow_core.evaluation import feature_cache

    try:
        arrays, told = feature_cache.read(path)
        if told.get("format") != FORMAT:
            raise ValueError(f"its format is {told.get('format')!r}")
        moments = GaussianStats(int(arrays["count"]), arrays["mean"], arrays["covariance"])
        shape = tuple(json.loads(told["shape"])) if "shape" in told else None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise IntegrityError(f"`{path}` is no whole file of statistics: {error}", hint=ACCEPTED_FILES) from error
    found = {told["output"]: moments}
    return ReferenceStats(
        path, told["network"], told["form"], found, checksum.file_digest(path), told.get("weights"), shape
    )


def _adm(path: Path) -> ReferenceStats:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("mu", "sigma", "mu_s", "sigma_s") if name in archive}
    except DAMAGED_ARRAYS as error:
        raise IntegrityError(f"`{path}` cannot be read: {error}", hint=ACCEPTED_FILES) from error
    if len(arrays) < 4:
        raise UsageError(
            f"`{path}` holds {' and '.join(f'`{name}`' for name in arrays)} and does not say by which protocol",
            hint=ACCEPTED_FILES,
        )
    return ReferenceStats(
        path,
        "inception",
        "adm",
        {
            "pool": _moments(path, arrays["mu"], arrays["sigma"]),
            "spatial": _moments(path, arrays["mu_s"], arrays["sigma_s"]),
        },
        checksum.file_digest(path),
    )


def _moments(path: Path, mean: np.ndarray, covariance: np.ndarray) -> GaussianStats:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not np.isfinite(covariance).all():
        raise IntegrityError(
            f"`{path}` holds a mean of shape {mean.shape} and a covariance of {covariance.shape}", hint=ACCEPTED_FILES
        )
    return GaussianStats(0, mean.astype(np.float64), covariance.astype(np.float64))
