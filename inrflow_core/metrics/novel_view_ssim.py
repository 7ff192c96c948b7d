"""SSIM of the views of scenes that a model renders after it has read one view of each; views and means as in `novel-view-psnr`.

Each view has the SSIM of the protocol `inside` of `ssim`: windows that lie wholly in the view.
"""

from __future__ import annotations

from inrflow_core.metrics import _view_inputs
from inrflow_core.metrics._view_inputs import ViewSpec, compute, jackknife_values, remark

__all__ = ["compute", "inputs", "jackknife_values", "remark", "unit"]

TITLE = "novel-view SSIM"
DOMAIN = "radiance"
PROTOCOLS = _view_inputs.PROTOCOLS
HIGHER_IS_BETTER = True
MIN_ITEMS = _view_inputs.MIN_ITEMS


def unit(protocol: str) -> str:
    """None: 1 for equal views, -1 at the worst."""
    return ""


def inputs(protocol: str) -> ViewSpec:
    """The SSIM of each view."""
    return ViewSpec("ssim")
