"""Requests of samples: the domains that an option or an input file implies, and the default batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inrflow_core.fields import Camera, Clip, Surface
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


@pytest.mark.parametrize(
    ("settings", "size"),
    [(tiny.LATENT, (600, 600)), (tiny.VIDEO, Clip(64, 40, 40)), (tiny.SHAPES, Surface(256, None))],
    ids=["image", "video", "shape"],
)
def test_latents_are_drawn_together_at_every_size_of_the_samples(settings: dict[str, Any], size: Any):
    model = tiny.model(settings)
    latents = model.method.autoencoder.latent_spec.num_queries
    for own in (None, size):
        for chunk, batch in ((2 * latents, 8), (9 * latents, request.TOGETHER)):
            sized = SampleRequest(range(100), size=own, chunk=chunk)
            assert request.default_batch_size(model, sized) == batch


def test_values_limit_a_batch_of_large_samples(monkeypatch: pytest.MonkeyPatch):
    model = tiny.model(tiny.LATENT)
    monkeypatch.setattr(request, "MOST_VALUES", 3 * 60**2)
    for side, batch in ((30, 12), (60, 3), (61, 2), (200, 1)):
        assert request.default_batch_size(model, SampleRequest(range(50), size=(side, side), chunk=100)) == batch


def test_a_batch_is_sized_by_the_queries_where_each_step_evaluates_them():
    model = tiny.model(tiny.IMAGE)
    assert request.default_batch_size(model, SampleRequest(range(50), size=(40, 40), chunk=1000)) == 2
