"""PSNR of the views of scenes that a model renders after it has read one view of each, as INRCT's section 5.3 reports it.

The paper does not say which view is read, nor how views are averaged; `_view_inputs` says what is done here. Equal views count as
in `psnr`: 48.13 dB + 10 log10(H W C).
"""

from __future__ import annotations

from inrflow_core.metrics import _view_inputs
from inrflow_core.metrics._view_inputs import ViewSpec, compute, jackknife_values, remark

__all__ = ["compute", "inputs", "jackknife_values", "remark", "unit"]

TITLE = "novel-view PSNR"
DOMAIN = "radiance"
PROTOCOLS = _view_inputs.PROTOCOLS
HIGHER_IS_BETTER = True
MIN_ITEMS = _view_inputs.MIN_ITEMS


def unit(protocol: str) -> str:
    """Decibels."""
    return "dB"


def inputs(protocol: str) -> ViewSpec:
    """The PSNR of each view."""
    return ViewSpec("psnr")
