"""`inrflow train --dry-run` for GPUs that are not here, and without data."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from inrflow_cli import app
from inrflow_core import registry
from inrflow_core.config import toml
from inrflow_core.planning import gpu_specs
from tests import own_methods
from tests.planning import adversarial_method
from tests.training import small, staged_runs


@pytest.fixture
def run(tmp_path, capsys, monkeypatch):
    """Plan a small preset without data; the code, the object on stdout and the text on stderr come back."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preset.toml").write_text(
        toml.to_toml(small.preset(training={"batch": 16, "steps": 10, "precision": "auto"}).table())
    )

    def plan(*options: str) -> tuple[int, dict, str]:
        code = app.run(["train", "--preset", str(tmp_path / "preset.toml"), "--dry-run", "--json", *options])
        out, text = capsys.readouterr()
        return code, json.loads(out), text

    return plan


def test_a_run_is_planned_for_gpus_that_are_elsewhere_without_data(run, tmp_path):
    code, estimate, text = run("--plan-for", "h200,share=0.5", "--processes", "4")
    assert code == 0 and estimate["fits"] and "the plan is made without them" in text
    assert "needed, 141 GB on h200,share=0.5: enough\n" in text
    assert (estimate["processes"], estimate["micro_batch"], estimate["precision"]) == (4, 4, "bf16")
    assert estimate["rate"] == pytest.approx(0.5 * 989e12)
    assert "50% of the 989 TFLOP/s that the data sheet says of bf16" in text
    products = sum(estimate["executed"].values()) / 4 / estimate["rate"]
    assert estimate["seconds_per_step"] == pytest.approx(products + estimate["update_bytes"] / 4.8e12)
    assert estimate["gpu_hours"] == pytest.approx(estimate["seconds_per_step"] * 10 * 4 / 3600)
    assert estimate["needed_gpu_hours"] == pytest.approx(sum(estimate["flops"].values()) * 10 / estimate["rate"] / 3600)
    assert estimate["samples"] == 160 and set(estimate["stages"]) == {"0", "1", "2", "3"}
    assert not (tmp_path / "runs").exists()


def test_muon_is_planned_for_the_zero_stages_that_it_can_train_in_and_its_products_count(run):
    muon = ("--set", "training.optimizer=muon", "--set", "network.width=32")
    code, estimate, text = run("--plan-for", "h200,share=0.5", *muon)
    assert code == 0 and set(estimate["stages"]) == {"0", "1", "2"}
    assert "moments of Muon" in text and estimate["most"]["newton_schulz"] > 0
    products = sum(estimate["executed"].values()) / estimate["rate"] + estimate["update_flops"] / (0.5 * 67e12)
    assert estimate["update_flops"] > 0
    assert estimate["seconds_per_step"] == pytest.approx(products + estimate["update_bytes"] / 4.8e12)
    code, _, text = run("--plan-for", "h200", *muon, "--set", "training.zero_stage=3")
    assert code == 2 and "`optimizer` is muon and `zero_stage` is 3: only stages 0, 1 and 2 can do that" in text


def test_what_does_not_fit_leaves_with_5_and_says_what_does(run):
    fits = run("--plan-for", "memory=100,bf16=100", "--set", "training.micro_batch=2")[1]["total"]["memory"]
    code, estimate, text = run("--plan-for", f"memory={(fits + 1) / 1e9},bf16=100")
    assert code == 5 and not estimate["fits"]
    assert "--set training.micro_batch=2" in estimate["hint"] and "what fits" in text


def test_without_a_gpu_named_this_machine_is_planned_for_and_its_rate_measured(run):
    code, estimate, text = run("--processes", "2", "--device", "cpu")
    assert code == 0 and estimate["gpu"] is None and estimate["processes"] == 2
    assert estimate["fits"] is None  # the machines of two processes are unknown
    assert "that a matrix product reaches here" in text


def test_without_data_too_little_memory_here_is_reported_too(run, monkeypatch):
    from inrflow_core.runtime import memory

    assert run("--device", "cpu")[1]["fits"] is True
    monkeypatch.setattr(memory, "free_memory", lambda device: 1_000_000)
    code, estimate, _ = run("--device", "cpu")
    assert code == 5 and estimate["fits"] is False and "are free" in estimate["error"]


@pytest.fixture
def run_in_stages(tmp_path, capsys, monkeypatch):
    """Plan a method of two stages, one with a critic and its optimizer, as `run` does."""
    find, path = registry.find, registry.path
    file = Path(adversarial_method.__file__)

    def is_ours(kind: str, name: str) -> bool:
        return (kind, name) == ("methods", "adversarial")

    monkeypatch.setattr(
        registry, "find", lambda kind, name: adversarial_method if is_ours(kind, name) else find(kind, name)
    )
    monkeypatch.setattr(registry, "path", lambda kind, name: file if is_ours(kind, name) else path(kind, name))
    monkeypatch.chdir(tmp_path)
    training = {"batch": 4, "steps": 6, "against": {"steps": 10}, "alone": {"batch": 8}}
    preset = small.preset(method={"name": "adversarial"}, training=training)
    (tmp_path / "preset.toml").write_text(toml.to_toml(preset.table()))

    def plan(*options: str) -> tuple[int, dict, str]:
        code = app.run(["train", "--preset", str(tmp_path / "preset.toml"), "--dry-run", "--json", *options])
        out, text = capsys.readouterr()
        return code, json.loads(out), text

    return plan


def test_every_stage_is_planned_the_largest_memory_decides_and_times_add_up(run_in_stages, tmp_path):
    code, estimate, text = run_in_stages("--plan-for", "h100")
    against, alone = estimate["training_stages"]
    assert code == 0 and estimate["fits"]
    assert (against["name"], against["steps"], against["micro_batch"]) == ("against", 10, 4)
    assert (alone["name"], alone["steps"], alone["micro_batch"]) == ("alone", 6, 8)
    assert "critic" in against["flops"] and "critic" not in alone["flops"]
    assert estimate["total"]["memory"] == max(stage["total"]["memory"] for stage in (against, alone))
    assert estimate["steps"] == 16 and estimate["samples"] == 10 * 4 + 6 * 8
    seconds = [stage["seconds_per_step"] * stage["steps"] for stage in (against, alone)]
    assert estimate["gpu_hours"] == pytest.approx(sum(seconds) / 3600)
    titles = ("stage `against`: 10 steps", "stage `alone`: 6 steps", r"stage +steps +memory of a process +time")
    title_matches = [re.search(title, text) for title in titles]
    assert all(title_matches)
    order = [match.start() for match in title_matches if match]
    assert order == sorted(order)
    assert text.count("FLOPs of a step, all processes") == 2


def test_zero_3_is_neither_offered_nor_planned_for_a_method_of_several_stages(run_in_stages):
    code, estimate, _ = run_in_stages("--plan-for", "h100", "--processes", "2")
    assert code == 0 and set(estimate["stages"]) == {"0", "1", "2"}
    code, _, text = run_in_stages("--plan-for", "h100", "--set", "training.zero_stage=3")
    assert code == 2 and "trains methods of one stage and one optimizer alone" in text


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ([], "moments of AdamW"),
        (["--set", "training.optimizer=radam"], "moments of RAdam"),
        (["--set", "training.against.adversary.optimizer=adam"], "moments of AdamW and Adam"),
    ],
)
def test_the_moments_in_a_plan_are_those_of_the_optimizers_of_the_stage(run_in_stages, options, name):
    code, _, text = run_in_stages("--plan-for", "h100", *options)
    titles = [line.split("  ")[0].strip() for line in text.splitlines() if "moments of" in line]
    assert code == 0 and titles[0] == name


def test_a_plan_of_several_stages_with_their_data_here_is_the_same(run_in_stages, tmp_path):
    data = small.images(tmp_path / "shards")
    code, estimate, text = run_in_stages("--data", str(data), "--device", "cpu")
    assert code == 0 and estimate["fits"]
    without = run_in_stages("--device", "cpu")[1]
    for here, there in zip(estimate["training_stages"], without["training_stages"], strict=True):
        assert here["memory"] == there["memory"] and here["executed"] == there["executed"]


def test_inputs_that_a_later_stage_precomputes_count_to_the_disk_if_the_shards_are_here(tmp_path, capsys, monkeypatch):
    own_methods.install(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "preset.toml").write_text(toml.to_toml(staged_runs.tables("adversarial")))
    arguments = ["train", "--preset", str(tmp_path / "preset.toml"), "--dry-run", "--json", "--device", "cpu"]
    precomputed = (20 + 10) * 3 * 3 * 2 * 2

    def plan(free: int, *options: str) -> tuple[int, dict, str]:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
        code = app.run([*arguments, *options])
        out, text = capsys.readouterr()
        return code, json.loads(out), text

    code, answer, text = plan(10**12)
    assert code == 0 and answer["precomputed"] is None
    assert "take 36 B of disk per set, and the number of sets is unknown" in text
    data = str(small.images(tmp_path / "shards", side=staged_runs.SIDE))
    needed = max(stage["disk"] for stage in answer["training_stages"]) + precomputed
    code, answer, text = plan(needed, "--data", data)
    assert code == 0 and answer["precomputed"] == precomputed and "take 1.08 kB of disk" in text
    code, answer, _ = plan(needed - 1, "--data", data)
    assert code == 5 and "the precomputed inputs (1.08 kB) need" in answer["error"]


@pytest.mark.parametrize(("known", "lacks"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_a_speed_that_is_not_known_is_requested(run, known, lacks):
    code, estimate, _ = run("--plan-for", f"memory=64,{known}=50", "--precision", lacks)
    assert code == 2 and f"no speed of the GPU in {lacks}" in estimate["error"] and f"{lacks}=100" in estimate["hint"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("h20", "no GPU `h20` is known"),
        ("h200,memroy=3", "a GPU has no setting `memroy`"),
        ("h200,share=much", "`much` is not a number above 0"),
        ("h200,share=45", "a share of 45 is more than the whole"),
        ("bf16=3", "leaves out the memory"),
    ],
)
def test_a_gpu_that_cannot_be_is_one_sentence_and_a_hint(run, name, says):
    code, estimate, _ = run("--plan-for", name)
    assert code == 2 and says in estimate["error"] and estimate["hint"]


def test_settings_of_a_gpu_are_in_the_units_of_data_sheets():
    gpu = gpu_specs.find("a100,memory=40,bandwidth=1555")
    assert (gpu.memory, gpu.bandwidth, gpu.bf16, gpu.fp32) == (40e9, 1555e9, 312e12, 19.5e12)
    assert gpu.rate("fp32") == pytest.approx(0.6 * 19.5e12) and gpu.choose("auto") == "bf16"
