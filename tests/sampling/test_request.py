"""Requests of samples: the domains that an option or an input file implies, and the default batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inrflow_core.fields import Camera
from inrflow_core.models import Model
from inrflow_core.proteins import residues
from inrflow_core.sampling import request
from inrflow_core.sampling.request import SampleRequest, SizeOptions
from tests import tiny


def test_options_and_files_imply_the_domains_that_have_them():
    window = (0.0, 0.0, 0.5, 0.5)
    assert request.domains_of_options(SizeOptions()) is None
    assert request.domains_of_options(SizeOptions(resolution="8")) == ("image", "radiance", "shape", "video")
    assert request.domains_of_options(SizeOptions(points=9)) == ("points", "shape")
    assert request.domains_of_options(SizeOptions(), window) == ("image", "video")
    assert request.domains_of_options(SizeOptions(points=9), window) == ()
    assert request.domains_of_options(SizeOptions(views=3)) == ("radiance",)
    assert request.domains_of_options(SizeOptions(camera=Camera(elevation=10.0))) == ("radiance",)
    assert request.domains_of_options(SizeOptions(level=1.0)) == ("radiance", "shape")
    for clips in (SizeOptions(frames=9), SizeOptions(fps=30.0), SizeOptions("8", frames=9)):
        assert request.domains_of_options(clips) == ("video",)
    assert request.domains_of_files([Path("a.mp4")]) == ("video",)
    assert request.domains_of_files([Path("a.gif")]) == ("image", "radiance", "video")
    assert request.domains_of_files([Path("a.png")]) == ("image", "radiance")
    assert request.domains_of_files([Path("a.ply")]) == ("points", "radiance", "shape")
    assert request.domains_of_files([Path("a.png"), Path("b.PLY")]) == ("image", "points", "radiance", "shape")


@pytest.fixture(scope="module")
def folding() -> Model:
    return tiny.model(tiny.PROTEIN)


def test_a_batch_of_proteins_is_sized_by_its_longest_chain(folding: Model):
    chains = [residues.to_codes(letters) for letters in ("GG", "MKTWWWWWWWWW", "AAAA")]
    codes = torch.full((3, 12), -1)
    for row, chain in enumerate(chains):
        codes[row, : len(chain)] = torch.from_numpy(chain.astype("int64"))
    condition = {"residues": codes}
    longest = len(folding.domain.queries(condition=condition))
    assert folding.domain.num_queries(condition=condition) == longest
    pairs = max(longest, folding.domain.shape.num_queries)
    sized = SampleRequest(range(3), condition=condition, chunk=pairs // 2)
    assert request.default_batch_size(folding, sized) == 4 * (pairs // 2) // pairs
