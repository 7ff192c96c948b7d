"""Mean and covariance of a reference's features from a file, where the images themselves are not at hand.

Read are our own (`moments-OUTPUT.safetensors`, kept beside shards) and the reference batches that ADM's authors
publish (.npz with `mu`, `sigma` of the pooled features and `mu_s`, `sigma_s` of the spatial ones). Both say by which
protocol they were made; a file with `mu` and `sigma` alone does not, and is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inrflow_core.errors import DAMAGED_ARRAYS, IntegrityError, MissingError, UsageError
from inrflow_core.metrics._inputs import STATS_FORMAT, ReferenceStats
from inrflow_core.numerics.gaussian_stats import GaussianStats
from inrflow_core.storage import checksum, typed_json

ACCEPTED_FILES = "give the images themselves, statistics that `inrflow eval` kept, or a reference batch of ADM"


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

    arrays, metadata = feature_cache.read(path)
    if metadata.get("format") != STATS_FORMAT:
        raise IntegrityError(
            f"`{path}` is not a file of statistics: its format is {metadata.get('format')!r}", hint=ACCEPTED_FILES
        )
    missing = {"count", "mean", "covariance"} - arrays.keys() | {"network", "form", "output"} - metadata.keys()
    if missing:
        raise IntegrityError(f"`{path}` is damaged: `{min(missing)}` is missing", hint=ACCEPTED_FILES)
    shape = None
    if "shape" in metadata:
        where = f"`shape` of `{path}`"
        shape = typed_json.typed(typed_json.parse_json(metadata["shape"], where), tuple[int, ...], where)
    checked = _moments(path, arrays["mean"], arrays["covariance"])
    moments = GaussianStats(int(arrays["count"]), checked.mean, checked.covariance)
    return ReferenceStats(
        path,
        metadata["network"],
        metadata["form"],
        {metadata["output"]: moments},
        checksum.file_digest(path),
        metadata.get("weights"),
        shape,
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
