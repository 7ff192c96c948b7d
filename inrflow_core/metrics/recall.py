"""Recall (Kynkaanniemi et al. 2019, arXiv:1904.06991): the share of the reference inside the samples' manifold.

Precision with exchanged sides: a reference image counts if it is inside the ball of a sample. For protocols and numbers
of images see `precision.py`.
"""

from __future__ import annotations

from inrflow_core.metrics import _knn_manifold

TITLE = "Recall"
DOMAIN = "image"
PROTOCOLS = _knn_manifold.PROTOCOLS
HIGHER_IS_BETTER = True
MIN_ITEMS = _knn_manifold.MIN_ITEMS
BOUNDS = (0.0, 1.0)
COUNTS_NEIGHBORS = True
_METRIC = _knn_manifold.ManifoldMetric(TITLE, is_of_samples=False)
unit = _knn_manifold.unit
inputs = _knn_manifold.inputs
compute = _METRIC.compute
subset_values = _METRIC.subset_values
