"""Total mutual difference (TMD): how different the samples of one text are from each other.

Of k samples of a text, the sum over the samples of the mean Chamfer distance to the k - 1 others; then the mean over the texts.
The definition and k = 10 are those of Wu et al. 2020 (Multimodal Shape Completion, arXiv:2003.07717), there of the completions of
one partial shape, by 2,048 points of each, in tables times 100.

DDMI's table 7 (arXiv:2401.12517) has a TMD of which lower is better; the paper does not define it, so values cannot be compared.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from inrflow_core.metrics._mutual_inputs import MutualDifferences, MutualSpec

TITLE = "TMD"
DOMAIN = "shape"
PROTOCOLS = ("k10:cd:2048:as-drawn", "k5:cd:2048:as-drawn")
HIGHER_IS_BETTER = True
MIN_ITEMS = 1
FACTOR = 100
"""Values are in hundredths of the squared unit of length, the longest side of a shape in the data."""


def unit(protocol: str) -> str:
    """Of squared length."""
    return "10^-2"


def inputs(protocol: str) -> MutualSpec:
    """The samples of each text, k of them."""
    count, distance, points, _ = protocol.split(":")
    return MutualSpec(distance, int(count[1:]), int(points))


def compute(inputs: MutualDifferences, protocol: str) -> float:
    """The mean over texts, in its unit."""
    return FACTOR * inputs.mean(_measure(protocol))


def jackknife_values(inputs: MutualDifferences, protocol: str, parts: int) -> Float64[np.ndarray, " P"]:
    """The mean without each group of texts, at the cost of one."""
    return FACTOR * inputs.means_without_each(_measure(protocol), parts)


def remark(inputs: MutualDifferences, protocol: str) -> str | None:
    """How many samples are empty, and so compared as one point."""
    if not inputs.num_empty:
        return None
    return f"{inputs.num_empty:,} of {inputs.num_samples:,} samples are empty, and each is compared as one point"


def _measure(protocol: str) -> str:
    return inputs(protocol).measure
