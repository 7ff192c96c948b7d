"""The protocols of the metrics of clouds, and their shared checks and units."""

from __future__ import annotations

from jaxtyping import Float64
from numpy import ndarray

from inrflow_core.errors import UsageError
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec

MIN_ITEMS = 2
EXACT = ("emd-exact", "emd-exact-squared")
DISTANCES = {
    "inrflow": ("cd", *EXACT, "emd-lion"),
    "lion-global": ("cd", *EXACT, "emd-lion"),
    "pointflow": ("cd", *EXACT, "emd-pointflow"),
    "ddmi": ("cd",),
}
"""The distances of each normalization: the EMD of its paper, and the exact ones."""
FACTORS = {"cd": 3, "emd-exact": 2, "emd-exact-squared": 2, "emd-lion": 2, "emd-pointflow": 2}
"""Exponents of the units in tables: 10^-3 for Chamfer and 10^-2 for every EMD."""
PROTOCOLS = tuple(f"{distance}:{protocol}" for protocol, distances in DISTANCES.items() for distance in distances)


def inputs(protocol: str, *, is_within: bool) -> DistanceSpec:
    """The distances of a protocol such as `cd:inrflow`."""
    distance, normalization = protocol.split(":")
    return DistanceSpec(distance, normalization, is_within=is_within)


def distance_unit(protocol: str) -> str:
    """10^-3 or 10^-2: of squared length for `cd`, `emd-lion` and `emd-exact-squared`, else of length."""
    return f"10^-{FACTORS[protocol.split(':')[0]]}"


def unit_factor(protocol: str) -> int:
    """Distances times this are in `distance_unit`."""
    return 10 ** FACTORS[protocol.split(":")[0]]


def percent(protocol: str) -> str:
    """The unit of shares."""
    return "%"


def check_counts(samples: int, references: int) -> None:
    """Raise UsageError for fewer than two samples or references."""
    for count, what in ((samples, "samples"), (references, "references")):
        if count < MIN_ITEMS:
            raise UsageError(f"there are too few {what}: {count}", hint=f"metrics of clouds need at least {MIN_ITEMS}")


def sample_to_reference(inputs: Distances) -> Float64[ndarray, "N R"]:
    """The distances, samples by references.

    Raises:
        UsageError: there are fewer than two samples or references.
    """
    check_counts(*inputs.across.shape)
    return inputs.across


def count_note(inputs: Distances, protocol: str) -> str | None:
    """A warning if samples and references are not equally many."""
    samples, references = inputs.across.shape
    if samples == references:
        return None
    return f"{samples:,} samples against {references:,} references: the metric is defined for equal numbers; do not compare this value with others"
