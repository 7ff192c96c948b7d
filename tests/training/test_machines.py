"""Several machines: their launchers' ways of starting, each as several processes of this one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inrflow_core.config import toml
from tests.training import small
from tests.training.launched import CHECKOUT, environment, torchrun

pytestmark = pytest.mark.slow
PATIENT = 150
FIRST, SECOND = "10.93.7.1", "10.93.7.2"
"""Addresses of the two machines that are network namespaces."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("machines") / "shards")


@pytest.fixture(scope="module")
def single_losses(data, tmp_path_factory) -> list[float]:
    """The losses of one process."""
    out = tmp_path_factory.mktemp("alone") / "run"
    small.train(data, out)
    return small.losses(out)


@pytest.fixture
def words(data, tmp_path) -> list[str]:
    """The command that every machine is given."""
    file = tmp_path / "run.toml"
    file.write_text(toml.to_toml(small.preset(training={"zero_stage": 2}).table()))
    words = ["train", "--preset", file, "--data", data, "--out", tmp_path / "run", "--device", "cpu", "--threads", "1"]
    return [str(word) for word in words]


def free_port() -> int:
    """A port that no one listens on."""
    with socket.socket() as result:
        result.bind(("127.0.0.1", 0))
        return result.getsockname()[1]


def both(commands: list[list[str]], environments: list[dict[str, str]]) -> list[str]:
    """Start the commands at once; what they printed on stderr, after all ended well."""
    running = [
        subprocess.Popen(command, cwd=CHECKOUT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, env in zip(commands, environments, strict=True)
    ]
    try:
        reported = [process.communicate(timeout=PATIENT)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0] * len(running), reported
    return reported


def assert_trained_once(out: Path, single_losses: list[float], outputs: list[str]) -> None:
    """The losses of one process, reported by one machine."""
    assert small.losses(out) == pytest.approx(single_losses, rel=1e-5)
    assert sum(text.count("training `run`") for text in outputs) == 1
    assert sum(text.count("is saved in") for text in outputs) == 1


@pytest.mark.parametrize("way", ["static", "c10d"])
def test_two_agents_of_torchrun_train_together(words, single_losses, tmp_path, way):
    port = free_port()
    commands = []
    for node in (0, 1):
        meeting = ["--node-rank", node, "--master-addr", "127.0.0.1", "--master-port", port]
        if way == "c10d":
            meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "7"]
        commands.append(torchrun("--nnodes", 2, "--nproc-per-node", 2, *meeting, "-m", "inrflow_cli.app", *words))
    reported = both(commands, [environment()] * 2)
    assert_trained_once(tmp_path / "run", single_losses, reported)


def test_tasks_of_a_slurm_step_train_together(words, single_losses, tmp_path):
    job = free_port() - 20000
    common = {"SLURM_JOB_ID": job, "SLURM_STEP_NUM_TASKS": 2, "SLURM_NTASKS": 2, "SLURM_STEP_NODELIST": "localhost"}
    environments = [environment(**common, SLURM_PROCID=task, SLURM_LOCALID=0) for task in (0, 1)]
    reported = both([[sys.executable, "-m", "inrflow_cli.app", *words]] * 2, environments)
    assert_trained_once(tmp_path / "run", single_losses, reported)
    assert reported[1] == ""


def test_an_error_of_slurm_tasks_is_reported_once_with_its_code(words):
    job = free_port() - 20000
    common = {"SLURM_JOB_ID": job, "SLURM_STEP_NUM_TASKS": 3, "SLURM_STEP_NODELIST": "localhost"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "inrflow_cli.app", *words], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True,
            env=environment(**common, SLURM_PROCID=task, SLURM_LOCALID=0),
        )
        for task in (0, 1, 2)
    ]  # fmt: skip
    reported = "".join(process.communicate(timeout=PATIENT)[1] for process in running)
    assert [process.returncode for process in running] == [2, 2, 2]
    assert reported.count("error: a batch of 4 does not divide over 3 processes") == reported.count("error: ") == 1


def test_nodes_of_deepspeeds_hostfile_train_together(words, single_losses, tmp_path):
    (tmp_path / "hosts").write_text("localhost slots=1\n127.0.0.1 slots=1\n")
    launcher = [str(Path(sys.executable).with_name("deepspeed")), "--hostfile", str(tmp_path / "hosts"), "--no_ssh"]
    port = str(free_port())
    commands = [
        [*launcher, "--node_rank", node, "--master_addr", "127.0.0.1", "--master_port", port]
        + ["--no_local_rank", "--module", "inrflow_cli.app", *words]
        for node in ("0", "1")
    ]
    reported = both(commands, [environment(DS_ACCELERATOR="cpu")] * 2)
    assert_trained_once(tmp_path / "run", single_losses, reported)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces, joined by a cable and by nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces take root and iproute2")
    names = [f"inrflow-{os.getpid()}-{end}" for end in "ab"]
    made = subprocess.run(["ip", "netns", "add", names[0]], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no network namespace can be made here: {made.stderr}")
    cable = ["ip", "-n", names[0], "link", "add", "cable0", "type", "veth", "peer", "name", "cable0", "netns", names[1]]
    steps = [["ip", "netns", "add", names[1]], cable]
    for name, address in zip(names, (FIRST, SECOND), strict=True):
        steps += [
            ["ip", "-n", name, "address", "add", f"{address}/24", "dev", "cable0"],
            ["ip", "-n", name, "link", "set", "cable0", "up"],
            ["ip", "-n", name, "link", "set", "lo", "up"],
        ]
    try:
        for step in steps:
            subprocess.run(step, check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def test_two_network_namespaces_train_together(machines, words, single_losses, tmp_path):
    agent = ["--nnodes", 2, "--nproc-per-node", 1, "--master-addr", FIRST, "--master-port", 29500]
    commands = [
        ["ip", "netns", "exec", name, *torchrun(*agent, "--node-rank", node, "-m", "inrflow_cli.app", *words)]
        for node, name in enumerate(machines)
    ]
    reported = both(commands, [environment(GLOO_SOCKET_IFNAME="cable0")] * 2)
    assert_trained_once(tmp_path / "run", single_losses, reported)
