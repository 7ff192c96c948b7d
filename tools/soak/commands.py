"""The commands of inrflow as processes of their own, and the small runs that the soak is made of."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 900.0
"""Seconds after which a command is taken for stuck."""
INRFLOW = ("-m", "inrflow_cli.app")
LAUNCHED = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--module", "inrflow_cli.app")
"""The same by two processes that torchrun starts."""

IMAGES = """
[data]
path = "shards/digits"
held_out = "val"

[domain]
name = "image"
resolution = 8
channels = 1

[method]
name = "flow"

[network]
name = "set-transformer"
width = 16
depth = 2
heads = 2
latents = 16

[condition]
name = "label"
classes = 10

[sampler]
name = "euler"
steps = 4

[training]
steps = 36
batch = 4
learning_rate = 1e-2
warmup = 4
ema = [0.9, 0.99]
precision = "fp32"
log_every = 1
save_every = 6
held_out_every = 9
held_out_sets = 4
samples_every = 9
samples = 4
keep = 3
"""
EVALUATED = """
[eval]
every = 9
metrics = ["fid:random"]
num = 8
reference = 32
"""
CLOUDS = """
[data]
path = "shards/solids"

[domain]
name = "points"
num_points = 64

[method]
name = "flow"

[network]
name = "set-transformer"
width = 16
depth = 2
heads = 2
latents = 8
encoder = "perceiver"

[condition]
name = "label"
classes = 8

[sampler]
name = "euler"
steps = 4

[training]
steps = 8
batch = 4
ema = [0.9]
precision = "fp32"
log_every = 1
save_every = 4
"""
PROTEINS = """
[data]
path = "shards/proteins"

[domain]
name = "protein"
residues = 30
value_scale = 0.1

[method]
name = "flow"
num_queries = 64

[network]
name = "set-transformer"
width = 24
depth = 2
heads = 2
latents = 30
encoder = "spatial"
pseudo_coordinates = "residue"

[condition]
name = "sequence"
embedder = "one-hot"
width = 20

[sampler]
name = "euler"
steps = 4

[training]
steps = 4
batch = 2
ema = [0.9]
precision = "fp32"
log_every = 1
save_every = 4
"""
OBJECTS = """
[data]
path = "shards/objects"

[domain]
name = "points"
num_points = 50

[method]
name = "flow"

[network]
name = "set-transformer"
width = 16
depth = 2
heads = 2
latents = 8
encoder = "perceiver"

[condition]
name = "image"
embedder = "patches"
tokens = 64
width = 192

[sampler]
name = "euler"
steps = 4

[training]
steps = 4
batch = 2
ema = [0.9]
precision = "fp32"
log_every = 1
save_every = 4
"""

FUNCTIONS = """
[data]
path = "shards/digits"

[domain]
name = "image"
resolution = 8
channels = 1

[method]
name = "consistency"

[network.hypernetwork]
name = "inr-hypernetwork"
width = 16
heads = 2
encoder_depth = 1
decoder_depth = 1
mlp_width = 32
patch = 4

[network.readout]
name = "localized-inr"
tokens = 4
token_width = 16
width = 16
heads = 2
depth = 1
num_frequencies = 4
max_frequency = 8

[training]
steps = 4
batch = 2
ema = [0.9]
precision = "fp32"
log_every = 1
save_every = 4

[training.reconstruction]
steps = 2
"""
SCENES = """
[data]
path = "shards/scenes"

[domain]
name = "radiance"
resolution = 8

[method]
name = "consistency"
num_queries = 16

[network.hypernetwork]
name = "inr-hypernetwork"
width = 16
heads = 2
encoder_depth = 1
decoder_depth = 1
mlp_width = 32
patch = 4

[network.readout]
name = "radiance-mlp"
token_width = 16
width = 8
depth = 3
groups = 2
num_frequencies = 3
max_frequency = 8
samples = 4
eval_samples = 4

[training]
steps = 4
batch = 2
ema = [0.9]
precision = "fp32"
log_every = 1
save_every = 4

[training.reconstruction]
steps = 2
"""


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    errors: str

    @property
    def has_traceback(self) -> bool:
        """Whether it ended as a bug does."""
        return "Traceback" in self.errors

    def said(self) -> str:
        """Its last words, on one line."""
        return " ".join(self.errors.split())[-300:]


def run(*arguments: object, cwd: Path, program: Sequence[str] = INRFLOW, limit: int | None = None) -> Done:
    """One command to its end."""
    return ended(start(*arguments, cwd=cwd, program=program, limit=limit))


def start(
    *arguments: object, cwd: Path, program: Sequence[str] = INRFLOW, limit: int | None = None
) -> subprocess.Popen[str]:
    """One command under way, in a session of its own, so that it can be killed with all that it started.

    With a `limit`, in bytes, none of its files may grow beyond it.
    """
    words = [sys.executable, *program, *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        words,
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=None if limit is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )


def ended(process: subprocess.Popen[str]) -> Done:
    """What a command that is under way leaves behind when it ends."""
    out, errors = process.communicate(timeout=LIMIT)
    return Done(process.returncode, out, errors)


def must(done: Done) -> Done:
    """The same; raises RuntimeError unless the command succeeded, because the rest of the soak needs its result."""
    if done.code:
        raise RuntimeError(f"a command that must end well left with {done.code}: {done.errors}")
    return done


def make(folder: Path, made: str, *arguments: object) -> None:
    """Run a command in `folder` that makes the file or folder `made` there; one that exists is used again."""
    if not (folder / made).exists():
        (folder / made).parent.mkdir(parents=True, exist_ok=True)
        must(run(*arguments, cwd=folder))


def prepare_all(folder: Path) -> None:
    """The shards and the presets that all parts work with, in `folder`."""
    make(folder, "shards/digits", "prepare", "digits")
    solids = ["--set", "train=600", "--set", "val=40", "--set", "points=64"]
    make(folder, "shards/solids", "prepare", "solids", *solids)
    (folder / "images.toml").write_text(IMAGES)
    (folder / "evaluated.toml").write_text(IMAGES + EVALUATED)
    (folder / "clouds.toml").write_text(CLOUDS)


def training(preset: str, out: Path) -> list[object]:
    """The arguments that train a preset of `prepare_all` on one thread of the CPU."""
    return ["train", "--preset", f"{preset}.toml", "--out", out, "--device", "cpu", "--threads", "1"]
