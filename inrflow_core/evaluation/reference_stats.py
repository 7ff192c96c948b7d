"""Read the mean and covariance of a reference's features from a file, in place of the items.

Two kinds are read: our own (`moments-OUTPUT.safetensors`, cached beside shards) and the reference batches that ADM's
authors publish (.npz with `mu`, `sigma` of the pooled features and `mu_s`, `sigma_s` of the spatial ones). The protocol
of both is known; a file with `mu` and `sigma` alone does not record its protocol and is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import _contract as network_contract
from inrflow_core.metrics._inputs import STATS_FORMAT, ReferenceStats
from inrflow_core.numerics.gaussian_stats import GaussianStats
from inrflow_core.storage import array_file, plain_file, typed_json

ACCEPTED_FILES = "give the images themselves, statistics that `inrflow eval` cached, or a reference batch of ADM"


def is_stats_file(path: Path) -> bool:
    """Whether a file is of a kind that holds statistics: a .safetensors file, or an .npz file with `mu`."""
    if path.suffix == ".safetensors":
        return path.is_file()
    if path.suffix != ".npz":
        return False
    try:
        return "mu" in array_file.array_names(path)
    except (MissingError, IntegrityError):
        return False


def read(path: Path) -> ReferenceStats:
    """The statistics in a file.

    Raises:
        MissingError: the file does not exist.
        IntegrityError: it is damaged.
        UsageError: it does not record its protocol.
    """
    if not path.is_file():
        raise MissingError(f"`{path}` does not exist", hint=ACCEPTED_FILES)
    return _from_cache(path) if path.suffix == ".safetensors" else _from_adm(path)


def _from_cache(path: Path) -> ReferenceStats:
    from inrflow_core.evaluation import feature_cache

    arrays, metadata = feature_cache.read(path)
    if metadata.get("format") != STATS_FORMAT:
        raise IntegrityError(
            f"`{path}` is not a file of statistics: its format is {metadata.get('format')!r}", hint=ACCEPTED_FILES
        )
    missing = {"count", "mean", "covariance"} - arrays.keys() | {"network", "form", "output"} - metadata.keys()
    if missing:
        raise IntegrityError(f"`{path}` is damaged: `{min(missing)}` is missing", hint=ACCEPTED_FILES)
    count = arrays["count"]
    if count.shape or count.dtype.kind not in "iu" or count < 1:
        raise IntegrityError(f"`{path}` is damaged: its `count` is not a positive whole number", hint=ACCEPTED_FILES)
    stated_shape = metadata.get("shape")
    shape = None if stated_shape is None else _shape(path, metadata)
    checked = _moments(path, arrays["mean"], arrays["covariance"])
    moments = GaussianStats(int(count), checked.mean, checked.covariance)
    return ReferenceStats(
        path,
        metadata["network"],
        metadata["form"],
        {metadata["output"]: moments},
        plain_file.file_digest(path),
        metadata.get("weights"),
        shape,
    )


def _shape(path: Path, metadata: Mapping[str, str]) -> tuple[int, ...]:
    """The shape of the items that the statistics describe; raises IntegrityError where no item can have it."""
    where = f"`shape` of `{path}`"
    value = typed_json.parse_json(metadata["shape"], where, hint=ACCEPTED_FILES)
    shape = typed_json.typed(value, tuple[int, ...], where, hint=ACCEPTED_FILES)
    domain = domain_class(network_contract.find_extractor(metadata["network"]).domain)
    if domain.FILES is not None and not domain.FILES.allows(shape):
        raise IntegrityError(f"{where} is {list(shape)}, which {domain.NOUN} cannot have", hint=ACCEPTED_FILES)
    return shape


def _from_adm(path: Path) -> ReferenceStats:
    stored = array_file.array_names(path, hint=ACCEPTED_FILES)
    names = [name for name in ("mu", "sigma", "mu_s", "sigma_s") if name in stored]
    arrays = {name: array_file.read_array(path, name, hint=ACCEPTED_FILES) for name in names}
    if len(arrays) < 4:
        raise UsageError(
            f"`{path}` holds {' and '.join(f'`{name}`' for name in arrays)} and does not record its protocol",
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
        plain_file.file_digest(path),
    )


def _moments(path: Path, mean: np.ndarray, covariance: np.ndarray) -> GaussianStats:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise IntegrityError(
            f"`{path}` holds a mean of shape {mean.shape} and a covariance of {covariance.shape}", hint=ACCEPTED_FILES
        )
    for name, array in {"mean": mean, "covariance": covariance}.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise IntegrityError(f"`{path}` is damaged: its {name} is not finite numbers", hint=ACCEPTED_FILES)
    return GaussianStats(0, mean.astype(np.float64), covariance.astype(np.float64))
