"""ZeRO's stages with several processes: the losses, averages and checkpoints of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from inrflow_cli import app
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.training import checkpoint
from tests.training import small
from tests.training.launched import JobTable, do, launch

STAGES = (0, 1, 2, 3)
STEPS = 50
CHAINS = ["0000", "1111", "2222", "3333", "2323", "0303", "3032", "1310", "aba2", "dcd3"]
"""The stage of each call, see `SETTINGS`; the calls have 1, 2, 4 and 1 processes."""
SETTINGS = {
    **{str(stage): {"zero_stage": stage} for stage in STAGES},
    "a": {"zero_stage": 1, "offload_optimizer": "cpu"},
    "b": {"zero_stage": 2, "offload_optimizer": "cpu"},
    "c": {"zero_stage": 3, "offload_optimizer": "cpu"},
    "d": {"zero_stage": 3, "offload_optimizer": "cpu", "offload_weights": "cpu"},
}
WORLDS = (1, 2, 4, 1)
LINK = 3
"""Steps of a call."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("zero") / "shards")


def files(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, as whole numbers, so that equal means equal to the bit."""
    return {
        f"{file.name}/{name}": tensor.view(torch.int32)
        for file in sorted(folder.rglob("*.safetensors"))
        for name, tensor in safetensors.torch.load_file(file).items()
    }


def assert_same_bits(actual: Path, expected: Path) -> None:
    """Two checkpoints hold the same weights, averages, moments and counters."""
    there = files(expected)
    assert len(there) > 4 * 10
    small.assert_equal(files(actual), there)
    assert (actual / checkpoint.COUNTERS).read_bytes() == (expected / checkpoint.COUNTERS).read_bytes()


def averages(out: Path, step: int = STEPS) -> dict[str, torch.Tensor]:
    """The averages at the end of a run."""
    folder = checkpoint_manifest.checkpoint_folder(out, step)
    files = {decay: safetensors.torch.load_file(folder / f"ema_{decay}.safetensors") for decay in (0.9, 0.99)}
    return dict(sorted((f"{decay}.{name}", tensor) for decay, file in files.items() for name, tensor in file.items()))


@pytest.mark.slow
@pytest.mark.parametrize(("num_processes", "recomputes"), [(2, False), (4, True)])
def test_fifty_steps_of_every_stage_have_the_losses_and_averages_of_one_process(
    data, tmp_path, num_processes, recomputes
):
    reported: JobTable = {"data": str(data), "training": {"steps": STEPS, "learning_rate": 1e-3}, "follow": True}
    do(reported | {"out": tmp_path / "alone"})
    jobs = [
        reported | {"out": tmp_path / f"stage{stage}", "training": reported["training"] | {"zero_stage": stage}}
        for stage in STAGES
    ]
    for job in jobs:
        job["network"] = {"checkpoint_activations": recomputes}
    launch(num_processes, jobs, tmp_path)
    expected = small.losses(tmp_path / "alone")
    assert len(expected) == STEPS and expected[-1] < 0.9 * expected[0]
    for stage in STAGES:
        out = tmp_path / f"stage{stage}"
        assert small.losses(out) == pytest.approx(expected, rel=1e-5)
        followed = dict(sorted(safetensors.torch.load_file(f"{out}.followed").items()))
        small.assert_equal(averages(out), followed)
        small.assert_equal(averages(out), averages(tmp_path / "alone"), tolerance=1e-6)


@pytest.mark.slow
def test_a_run_resumes_exactly_with_any_stage_and_any_number_of_processes(data, tmp_path):
    """State comes back to the bit at every crossing, and the losses are those of a run that one process did at once."""
    unbroken = do({"data": data, "out": tmp_path / "unbroken", "training": {"steps": LINK * len(WORLDS)}})
    ends = []
    for link, num_processes in enumerate(WORLDS):
        jobs = [job(data, tmp_path, chain, link) for chain in CHAINS]
        if num_processes == 1:
            ends = [do(reported) for reported in jobs]
        else:
            launch(num_processes, jobs, tmp_path)
        for chain in CHAINS if link else ():
            begun = checkpoint_manifest.checkpoint_folder(tmp_path / chain, LINK * link)
            assert_same_bits(checkpoint_manifest.checkpoint_folder(tmp_path / f"{chain}-{link}", LINK * link), begun)
    for chain, end in zip(CHAINS, ends, strict=True):
        assert small.losses(tmp_path / chain) == pytest.approx(small.losses(tmp_path / "unbroken"), rel=1e-5)
        small.assert_equal(small.state(end), small.state(unbroken), tolerance=1e-4)
        for end, _ in enumerate(WORLDS, 1):  # what 1, 2, 4 and 1 processes saved
            assert_exported(tmp_path / chain, LINK * end)
    said = (tmp_path / "2323.said").read_text()
    assert said.count("carried over exactly") == 3
    assert "ZeRO stage 2 became 3 and 1 process became 2: weights, averages and the optimizer's moments" in said
    assert "ZeRO stage 3 became 2 and 2 processes became 4: " in said
    assert (tmp_path / "1111.said").read_text().count("\n2 processes became 4: ") == 1


@pytest.mark.slow
def test_steps_without_a_finite_gradient_are_skipped_alike_in_every_stage(tmp_path):
    """One set of NaN, which one of two processes meets in one of its two micro-batches; gradients are clipped besides."""
    data = small.clouds(tmp_path / "clouds", bad=slice(0, 1))
    training = {"steps": 9, "clip": 0.5}
    reported: JobTable = {"data": str(data), "kind": "POINTS"}
    alone = do(reported | {"out": tmp_path / "alone", "training": {**small.TRAINING, **training}})
    assert alone.counters.skipped == 2 and alone.counters.updates == 7
    own = {**small.TRAINING, **training, "micro_batch": 1}
    jobs = [reported | {"out": tmp_path / name, "training": own | stage} for name, stage in SETTINGS.items()]
    launch(2, jobs, tmp_path)
    expected = records(alone.out)
    assert max(record["gradient_norm"] or 0 for record in expected) > 0.5
    for job in jobs:
        for result, record in zip(records(job["out"]), expected, strict=True):
            assert result["skipped"] == record["skipped"]
            for name in ("loss", "gradient_norm"):
                assert result[name] == (None if record[name] is None else pytest.approx(record[name], rel=1e-5))
        small.assert_equal(averages(job["out"], 9), averages(alone.out, 9), tolerance=1e-4)


def records(out: Path) -> list[dict]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def assert_exported(out: Path, step: int) -> None:
    """The checkpoint of a step is written as one file, by its first average, and samples are drawn from it."""
    file = out.with_name(f"{out.name}-{step}.safetensors")
    assert app.run(["export", str(out), str(file), "--checkpoint", str(step)]) == 0
    written, saved = (
        dict(sorted(safetensors.torch.load_file(path).items()))
        for path in (file, checkpoint_manifest.checkpoint_folder(out, step) / "ema_0.9.safetensors")
    )
    small.assert_equal(written, saved)
    if step == LINK * 3:  # of four processes
        options = ["--run", str(out), "--checkpoint", str(step), "--num", "1", "--device", "cpu"]
        assert app.run(["sample", str(file.with_suffix(".png")), *options]) == 0


def job(data: Path, folder: Path, chain: str, link: int) -> JobTable:
    """A call of a chain: it saves at once what it loaded, and trains on."""
    settings = {"steps": LINK * len(WORLDS), "save_every": LINK, "keep": len(WORLDS), **SETTINGS[chain[link]]}
    again = folder / f"{chain}-{link}" if link else None
    return {
        "data": str(data), "out": str(folder / chain), "until": LINK * (link + 1), "training": settings,
        "again": None if again is None else str(again),
    }  # fmt: skip
