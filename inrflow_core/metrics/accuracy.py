"""Accuracy: the share of samples that have the class that was requested, by a label or by the text of an item of that class.

`nearest-class` takes the class of the reference at the smallest distance, so that it needs no weights and depends on the reference.
`pointnet2` takes the largest of the 40 logits of Point-E's PointNet++, a classifier of ModelNet40, of 4,096 points of a sample.

DDMI (arXiv:2401.12517, table 7) does not say which classifier it takes.
"""

from __future__ import annotations

from inrflow_core.metrics._class_inputs import ClassifierSpec, ClassMatches, NearestClassSpec

TITLE = "accuracy"
DOMAIN = "points"
NEAREST = "nearest-class"
PROTOCOLS = (f"{NEAREST}:cd:inrflow", f"{NEAREST}:cd:ddmi", "pointnet2:point-e")
HIGHER_IS_BETTER = True
MIN_ITEMS = 2
BOUNDS = (0.0, 100.0)


def unit(protocol: str) -> str:
    """Percent of the samples."""
    return "%"


def inputs(protocol: str) -> NearestClassSpec | ClassifierSpec:
    """Distances of samples and reference, or the logits of samples."""
    if protocol.startswith(NEAREST):
        _, distance, normalization = protocol.split(":")
        return NearestClassSpec(distance, normalization)
    network, preprocessing = protocol.split(":")
    return ClassifierSpec(network, preprocessing)


def compute(inputs: ClassMatches, protocol: str) -> float:
    """The share of the samples."""
    return 100 * float(inputs.is_right.mean())


def remark(inputs: ClassMatches, protocol: str) -> str | None:
    """How many samples are empty, and so of no class."""
    if not inputs.num_empty:
        return None
    return f"{inputs.num_empty:,} of {len(inputs.is_right):,} samples are empty, and so of no class"
