"""Precision (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of samples inside the reference's manifold.

k = 3. A sample counts if it is inside the ball of a reference image (`_knn_manifold`). `vgg16:stylegan`, on the second
fully connected layer, is that of the original, of StyleGAN and of the INRFlow authors' release; `inception:adm` that of
ADM, on pooled Inception features. Both have 10,000 references against 50,000 samples; other numbers give other values.
"""

from __future__ import annotations

from inrflow_core.metrics import _knn_manifold
from inrflow_core.metrics._inputs import Features

TITLE = "Precision"
DOMAIN = "image"
PROTOCOLS = _knn_manifold.PROTOCOLS
HIGHER_IS_BETTER = True
MIN_ITEMS = _knn_manifold.MIN_ITEMS
BOUNDS = (0.0, 1.0)
COUNTS_NEIGHBORS = True
COMPANION = "recall"
_METRIC = _knn_manifold.ManifoldMetric(TITLE, is_of_samples=True)
unit = _knn_manifold.unit
inputs = _knn_manifold.inputs
compute = _METRIC.compute
subset_values = _METRIC.subset_values


def remark(inputs: Features, protocol: str) -> str:
    """How to read it."""
    return "read it beside recall: samples of one kind, or noise amid the references, have a precision of 1"
