"""A domain can train on two sets of each example: the views that the encoder reads, and others that the decoder predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from inrflow_core import registry
from inrflow_core.config.preset import Preset, resolve
from inrflow_core.errors import UsageError
from inrflow_core.geometry import cameras
from inrflow_core.methods._contract import StepState
from inrflow_core.sampling import sample
from inrflow_core.sets import TrainBatch
from inrflow_core.training import setup
from inrflow_core.training.trainer import Trainer
from tests import tiny
from tests.domains import scenes, views
from tests.networks import view_network
from tests.training import small, views_method

VIEWS, SIDE, STEPS = 3, 4, 30
PARTS: dict[tuple[str, str], Any] = {
    ("domains", "views"): views,
    ("networks", "view-network"): view_network,
    ("methods", "views"): views_method,
}


@pytest.fixture(autouse=True)
def _found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry as it would be with the three files of these tests among the parts."""
    find, path = registry.find, registry.path
    monkeypatch.setattr(registry, "find", lambda kind, name: PARTS.get((kind, name)) or find(kind, name))
    monkeypatch.setattr(
        registry,
        "path",
        lambda kind, name: Path(PARTS[kind, name].__file__) if (kind, name) in PARTS else path(kind, name),
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 30 objects: what a ray sees is the cosine to the object's light."""
    lights = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    directions = views.Domain(views.Config(VIEWS, SIDE)).queries().directions
    assert directions is not None
    values = (lights @ directions.numpy().T)[..., None]
    return small._write(tmp_path_factory.mktemp("views") / "shards", "views", values, np.full(30, -1), ())


def preset() -> Preset:
    return resolve(
        "views",
        {
            "data": {"path": "shards/none", "held_out": "val"},
            "domain": {"name": "views", "views": VIEWS, "side": SIDE},
            "method": {"name": "views"},
            "network": {"name": "view-network", "width": 16},
            "training": {**small.TRAINING, "steps": STEPS, "held_out_sets": 4, "held_out_every": 15},
        },
    )


def train(data: Path, out: Path, until: int | None = None) -> Trainer:
    return setup.train(setup.TrainJob(preset(), out, data=data, device="cpu", threads=1, until=until))


def rays(batch: TrainBatch, row: int) -> tuple[set[Any], set[Any]]:
    """The rays of one example's context, and of its queries."""
    both = []
    for sets in (batch.context, batch.queries):
        queries = sets.queries
        assert queries.coordinates is not None and queries.directions is not None
        both.append({tuple(ray) for ray in torch.cat([queries.coordinates, queries.directions], -1)[row].tolist()})
    return both[0], both[1]


def test_a_stopped_run_resumes_to_the_bit(data: Path, tmp_path: Path):
    whole = train(data, tmp_path / "whole")
    train(data, tmp_path / "stopped", until=15)
    small.assert_equal(small.state(train(data, tmp_path / "stopped")), small.state(whole))
    losses = small.losses(tmp_path / "whole")
    assert len(losses) == STEPS and losses == small.losses(tmp_path / "stopped")
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])


def test_training_gets_one_view_as_context_and_the_others_as_queries(data: Path, tmp_path: Path):
    trainer = train(data, tmp_path / "run", until=1)
    supports = set()
    prepare = trainer.model.method.prepare_batch
    for batch in trainer.loader.stream([(0, range(4)), (1, range(4))], torch.device("cpu"), 1, prepare=prepare):
        assert not batch.is_shared and len(batch) == 4
        for row in range(4):
            context, queries = rays(batch, row)
            assert len(context) == SIDE**2 and len(queries) == (VIEWS - 1) * SIDE**2 and not context & queries
            supports.add(frozenset(context))
    assert len(supports) > 1


def test_the_plan_counts_both_sets(data: Path, tmp_path: Path):
    trainer = train(data, tmp_path / "run", until=1)
    domain, method = trainer.model.domain, trainer.model.method
    batch = domain.train_batch(domain.dummy_batch(small.TRAINING["batch"]))
    with FlopCounterMode(display=False) as counter:
        method.loss(batch, StepState("train", 0, STEPS))
    assert trainer.stage.job.plan.total_flops == 3 * counter.get_total_flops()


def scenes_preset(**method: Any) -> Preset:
    """Scenes in posed views, learned by the method and the network of these tests."""
    tables = {
        "data": {"path": "shards/none", "held_out": "val"},
        "domain": {"name": "radiance", "resolution": SIDE},
        "method": {"name": "views"},
        "network": {"name": "view-network", "width": 16},
        "training": {**small.TRAINING, "steps": 4, "held_out_sets": 4, "held_out_every": 2},
    }
    return resolve("scenes", tables | method)


@pytest.fixture(scope="module")
def posed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of scenes of 2 to 4 views."""
    drawn = np.random.default_rng(0).integers(0, 256, (8, 4, SIDE, SIDE, 3), dtype=np.uint8)
    made = [
        (one[: 2 + number % 3], np.stack([cameras.orbit(50 * view, 10, 1.3) for view in range(2 + number % 3)]))
        for number, one in enumerate(drawn)
    ]
    return scenes.write(tmp_path_factory.mktemp("scenes") / "shards", made, ("train", "val"))


def test_scenes_of_unequal_numbers_of_views_are_trained_and_planned(posed: Path, tmp_path: Path):
    job = setup.TrainJob(scenes_preset(), tmp_path / "run", data=posed, device="cpu", threads=1)
    trainer = setup.train(job)
    assert trainer.counters.step == 4 and np.isfinite(small.losses(tmp_path / "run")).all()
    domain, method = trainer.model.domain, trainer.model.method
    batch = domain.train_batch(domain.dummy_batch(small.TRAINING["batch"]))
    with FlopCounterMode(display=False) as counter:
        method.loss(batch, StepState("train", 0, 4))
    assert trainer.stage.job.plan.total_flops == 3 * counter.get_total_flops()


def test_radiance_fields_are_trained_with_previews_and_sampled(posed: Path, tmp_path: Path):
    """A preview draws a scene for one view each, whatever the number of views in the shards."""
    tables = tiny.INR["network"]
    assert tables is not None
    readout = {"name": "radiance-mlp", "token_width": 16, "width": 8, "depth": 3, "groups": 2, "num_frequencies": 3}
    preset = scenes_preset(
        method={"name": "consistency", "num_queries": 8},
        network={
            "hypernetwork": tables["hypernetwork"],
            "readout": {**readout, "max_frequency": 8, "samples": 4, "eval_samples": 4, "density": "softplus"},
        },
        training={**small.TRAINING, "steps": 2, "samples_every": 2, "samples": 3, "held_out_sets": 4},
    )
    trainer = setup.train(setup.TrainJob(preset, tmp_path / "run", data=posed, device="cpu", threads=1))
    assert [path.name for path in sorted((tmp_path / "run/samples").iterdir())] == ["00000002.png", "00000004.png"]
    assert trainer.counters.step == 4
    model = sample.load(tmp_path / "run", device="cpu")
    values = sample.evaluate(model, sample.sample_fields(model, [3, 4]), (6, 6))
    assert values.shape == (2, 1, 6, 6, 3) and len(np.unique(values)) > 10


def test_shards_of_another_resolution_are_refused(posed: Path, tmp_path: Path):
    preset = scenes_preset(domain={"name": "radiance", "resolution": SIDE + 1})
    with pytest.raises(UsageError, match=r"have 16 pairs of 3 numbers, and the preset `scenes` learns 25 of 3"):
        setup.train(setup.TrainJob(preset, tmp_path / "run", data=posed, device="cpu", threads=1))


def test_flow_matching_with_a_set_transformer_refuses_rays(posed: Path, tmp_path: Path):
    sampler = {"name": "euler", "steps": 4}
    preset = scenes_preset(
        sampler=sampler, method={"name": "flow"}, network={"name": "set-transformer", **tiny.IMAGE["network"]}
    )
    with pytest.raises(UsageError, match="the set transformer does not support rays"):
        setup.train(setup.TrainJob(preset, tmp_path / "run", data=posed, device="cpu", threads=1))
