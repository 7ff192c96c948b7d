"""Files that an earlier version wrote: run folders, weights, fields, samples and shards.

They lie in `stored/` beside this file and are not made again: later versions must read them as they are.
`python -m tests.golden.record --stored` is how they were made.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.golden import chains
from tests.golden.program import succeed
from tests.golden.raw_files import laid

HERE = Path(__file__).resolve().parent
STORED = HERE / "stored"
SMALLER = [
    word
    for setting in ("width=8", "depth=1", "levels=1", "mlp_ratio=1.0", "num_frequencies=1")
    for word in ("--set", f"network.{setting}")
]
"""The stored runs have the tiny presets, but smaller networks."""
DOMAINS = {
    "image": ("digits", "--limit 24"),
    "points": ("solids", "--set train=16 --set val=12 --set points=60"),
    "protein": ("swissprot", "--set train=6 --set test=4 --set embedder=one-hot"),
}
STOPPED = 12
"""The step at which the stored runs were stopped, of 20."""


def train(domain: str, data: Path, out: Path, *words: object, cwd: Path) -> None:
    """The command that makes a stored run, and resumes with it."""
    preset = HERE / "presets" / f"tiny-{domain}.toml"
    where = ("--preset", preset, "--data", data, "--out", out, "--device", "cpu", "--threads", 1)
    succeed("train", *where, *SMALLER, *words, cwd=cwd)


def copy(place: Path) -> Path:
    """A copy of all stored files that may be written to."""
    return Path(shutil.copytree(STORED, place / "stored"))


def make(work: Path) -> None:
    """Write everything in `stored/` anew."""
    shutil.rmtree(STORED, ignore_errors=True)
    STORED.mkdir()
    for number in range(10):
        text = chains.pdb(chains.sequence(number), seed=number)
        laid(work / "proteins", {f"P{number}.pdb": text.encode()})
    for domain, (data, words) in DOMAINS.items():
        source = ("--source", work / "proteins") if domain == "protein" else ()
        out = STORED / "shards" / data
        succeed("prepare", data, *source, "--out", out, "--workers", 1, *words.split(), cwd=work)
        run = STORED / "runs" / domain
        train(domain, out, run, "--until", STOPPED, cwd=STORED)
        for name in ("tensorboard", "samples"):
            shutil.rmtree(run / name, ignore_errors=True)
        _derive(domain, run)


def _derive(domain: str, run: Path) -> None:
    """Exported weights, samples and a field of a run."""
    inputs = {"image": ["--label", "1,2,3"], "points": ["--label", "1,2,3"]}
    inputs["protein"] = ["--sequence", "MKTWAYIARNDCQEGHILVF"]
    num = [] if domain == "protein" else ["--num", 3]
    suffix = "pdb" if domain == "protein" else "npz"
    folder = STORED / domain
    folder.mkdir()
    if domain == "image":
        succeed("export", run, f"{domain}/weights.safetensors", cwd=STORED)
    common = ("--run", run, *inputs[domain], *num, "--device", "cpu", "--threads", 1)
    field = () if domain == "protein" else ("--save-field", f"{domain}/field.safetensors")
    succeed("sample", f"{domain}/samples.{suffix}", *common, *field, cwd=STORED)
    if domain != "protein":
        halved = ("--save-field", f"{domain}/half-field.safetensors", "--half-field")
        succeed("sample", f"{domain}/samples.h5", *common, *halved, cwd=STORED)
