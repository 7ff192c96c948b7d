"""The table of presets: its numbers are those of the built networks, its figures those of the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from inrflow_core.config import preset, preset_table
from tools import preset_table as tool

QUICK = ("digits-demo", "digits-inrct-demo", "digits-ddmi-demo", "shapenet-b-hash", "mnist-s-own")
"""Presets whose numbers are computed in under a second each."""


def test_every_preset_has_its_sizes_and_the_file_is_as_the_tool_writes_it():
    sizes = preset_table.all_sizes()
    assert sorted(sizes) == preset.names()
    assert (preset.folder() / preset_table.SIZES).read_text(encoding="utf-8") == tool.file_text(sizes)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in preset.names()]
)
def test_sizes_are_those_of_the_built_networks(name: str):
    read, computed = preset_table.all_sizes()[name], tool.sizes_of(name)
    assert read.parameters == computed.parameters, f"run `python tools/preset_table.py {name}`"
    assert read.forward_flops == pytest.approx(computed.forward_flops, rel=1e-5)
    assert read.training_flops == pytest.approx(computed.training_flops, rel=1e-5)


@pytest.mark.parametrize("name", preset.names())
def test_data_and_steps_are_those_of_the_resolved_preset(name: str):
    row, loaded = preset_table.summary(name), tool.load(name)
    training = loaded.training.config
    assert row.steps == tuple((s.steps, s.batch) for s in (training.for_stage(stage.name) for stage in loaded.stages))
    assert (row.shards, row.prepare) == (loaded.data.config.path, loaded.data.config.prepare)
    assert (row.domain, row.method) == (loaded.domain.name, loaded.method.name)
    assert row.what and row.dataset


def test_the_papers_figures_are_those_of_the_docs(checkout: Path):
    """A figure in the first line of a preset of latent diffusion is in a row of docs/results.md that names the preset."""
    lines = (checkout / "docs" / "results.md").read_text(encoding="utf-8").splitlines()
    figures = {name: row.paper for name in preset.names() if (row := preset_table.summary(name)).paper}
    assert figures["imagenet256-xl"] == "FID 3.74" and figures["shapenet-chair-ddmi"] == "MMD 1.5, COV 0.510"
    for name, paper in figures.items():
        if name.endswith("-ddmi"):
            cells = [line for line in lines if f"`{name}`" in line and line.startswith("| ")]
            assert any(all(figure.split()[1] in line for figure in paper.split(", ")) for line in cells), name


def test_the_table_in_the_docs_is_that_of_the_presets(checkout: Path):
    text = (checkout / "docs" / "presets.md").read_text(encoding="utf-8")
    assert tool.page(text) == text, "run `python tools/preset_table.py`"
