"""Frechet video distance (Unterthiner et al. 2018, arXiv:1812.01717): the Frechet distance of features of whole clips.

`stylegan-v` and `pvdm` are the distance of the 400 logits of I3D as two programs compute it; they differ in how frames that are not
square are resized, and in a constant of the network (`feature_networks/i3d.py`). `random` is the distance of fixed random
space-time features, for machines without weights: its scale differs from that of I3D's features, and values compare only with
one another, between clips of one size and length. Unlike the FID of single frames, all change with the order of the frames.
"""

from __future__ import annotations

from inrflow_core.metrics import _frechet
from inrflow_core.metrics._frechet import compute, jackknife_values, unit
from inrflow_core.metrics._inputs import Features, FeatureSpec, count_of

__all__ = ["compute", "jackknife_values", "inputs", "remark", "unit"]

TITLE = "FVD"
DOMAIN = "video"
PROTOCOLS = ("random", "stylegan-v", "pvdm")
HIGHER_IS_BETTER = False
NETWORKS = {
    "random": ("random-space-time", "all", "v1"),
    "stylegan-v": ("i3d", "logits", "stylegan-v"),
    "pvdm": ("i3d", "logits", "pvdm"),
}
"""Network, output and preprocessing of each protocol."""
CLIPS = 2048
"""Samples, and at most as many clips of the reference, that the programs of StyleGAN-V and PVDM compare."""


def inputs(protocol: str) -> FeatureSpec:
    """The features of whole clips."""
    return FeatureSpec(*NETWORKS[protocol], accepts_stats=True)


def remark(inputs: Features, protocol: str) -> str | None:
    """The numbers of clips where a program's protocol has others; and a warning if there are no more clips than features."""
    notes = [_frechet.remark(inputs, protocol)]
    samples, references = len(inputs.samples), count_of(inputs.reference)
    if protocol != "random" and (samples != CLIPS or references not in (0, CLIPS)):
        notes.insert(
            0, f"{samples:,} samples and {references:,} references, while `{protocol}` compares {CLIPS:,} of each"
        )
    return "; ".join(filter(None, notes)) or None
