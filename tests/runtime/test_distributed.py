"""Which process this is, and what its device can do."""

from __future__ import annotations

import pytest
import torch

from inrflow_core.errors import UsageError
from inrflow_core.runtime import device, distributed

CPU = torch.device("cpu")


def test_a_process_without_a_launcher_is_alone():
    result = distributed.find({}, "cpu")
    assert (result.rank, result.size, result.is_launched, result.is_main) == (0, 1, False, True)


def test_torchrun_says_which_process_this_is():
    names = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
    result = distributed.find(names, "cpu")
    assert (result.rank, result.size, result.local_rank, result.address) == (3, 4, 1, ("host", 29500))
    assert result.is_launched and not result.is_main


def test_a_step_of_several_slurm_tasks_is_a_launch():
    names = {
        "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "1234567", "SLURM_STEP_NODELIST": "gpu[007-010,012],x",
    }  # fmt: skip
    result = distributed.find(names, "cpu")
    assert (result.rank, result.size, result.local_rank, result.address) == (5, 8, 1, ("gpu007", 34567))


def test_a_slurm_batch_script_without_srun_is_alone():
    result = distributed.find({"SLURM_NTASKS": "8", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7"}, "cpu")
    assert (result.size, result.is_launched) == (1, False)


def test_a_launcher_that_names_no_meeting_place_is_an_error():
    with pytest.raises(UsageError, match="neither MASTER_ADDR nor MASTER_PORT"):
        distributed.find({"RANK": "0", "WORLD_SIZE": "2"}, "cpu")


@pytest.mark.parametrize("name", ["tpu-9", "cuda:99", "mps"])
def test_a_device_that_is_not_there_is_an_error(name):
    with pytest.raises(UsageError, match=name):
        distributed.find({}, name)


@pytest.mark.parametrize(
    ("flags", "able"),
    [("fpu avx2 avx512f", False), ("avx512_bf16 avx2", True), ("amx_bf16 amx_tile", True), ("avx512_vbmi", False)],
)
def test_the_flags_of_a_cpu_decide_about_bf16(tmp_path, flags, able):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert device.has_bf16(CPU, file) is able


def test_precision_is_the_requested_one_else_that_of_the_run_else_the_fastest(monkeypatch):
    monkeypatch.setattr(device, "has_bf16", lambda device: True)
    assert device.choose_precision("auto", CPU) == "bf16"
    assert device.choose_precision("fp32", CPU) == "fp32"
    assert device.choose_precision("auto", CPU, recorded="fp32") == "fp32"
    assert device.choose_precision("auto", CPU, has_equal_sizes=False) == "fp32"
    assert device.choose_precision("auto", torch.device("cuda"), has_equal_sizes=False) == "bf16"
    assert device.choose_precision("bf16", CPU, has_equal_sizes=False) == "bf16"
    monkeypatch.setattr(device, "has_bf16", lambda device: False)
    assert device.choose_precision("auto", CPU) == "fp32"
    with pytest.raises(UsageError, match="the run was begun in bf16"):
        device.choose_precision("auto", CPU, recorded="bf16")
    with pytest.raises(UsageError, match="`precision` is bf16"):
        device.choose_precision("bf16", CPU)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"SLURM_PROCID": "junk", "SLURM_STEP_NUM_TASKS": "2"}, "`RANK` is 'junk', expected a whole number"),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "²"}, "`SLURM_STEP_NUM_TASKS` is '²'"),
        ({"RANK": "0", "WORLD_SIZE": "-2"}, "`WORLD_SIZE` is '-2'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "z"}, "`MASTER_PORT` is 'z'"),
        ({"SLURM_PROCID": "7", "SLURM_STEP_NUM_TASKS": "2"}, "the rank 7 of 2 processes"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value.values()),
)
def test_a_launchers_variable_that_is_not_a_number_is_named(names: dict[str, str], said: str):
    with pytest.raises(UsageError, match=said):
        distributed.find(names, "cpu")
