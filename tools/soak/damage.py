"""Files with one random byte flipped, or cut off at a random place: each must be named, or make no difference.

Shards are read as `inrflow train` reads them. What else inrflow reads (checkpoints, samples, features, fields, exported
weights) is damaged too and read by the code that its commands call: an error that names the file, or the same answer as
from the whole file, is well; another answer is not, nor is an error without words.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from inrflow_core import models
from inrflow_core.config import toml
from inrflow_core.config.preset import load
from inrflow_core.errors import InrflowError, IntegrityError
from inrflow_core.evaluation import reference_stats
from inrflow_core.runs import run
from inrflow_core.sample_files import item_selection
from inrflow_core.sample_files.readers import open_collection
from inrflow_core.sampling import sample
from inrflow_core.shards import manifest
from inrflow_core.training import setup
from tools.soak import commands

NAMED, REFUSED, HARMLESS, MENDED = "named", "refused", "harmless", "made again, to the bit"
"""An IntegrityError with the file's name; another error that a user can act on; the same answer as from a whole file."""
COMMANDS = 12
"""Damaged shards that a command of its own reads; the others are read by the code that it calls."""
EACH = 12
"""Damages of each kind of other file."""


@dataclass(frozen=True)
class Outcome:
    """What became of a damaged file."""

    kind: str
    damage: str
    result: str
    detail: str = ""

    @property
    def is_well(self) -> bool:
        """Whether the damage was named, refused, repaired or without effect; that of a shard must be named."""
        return self.result in (NAMED, REFUSED, HARMLESS, MENDED) and not (self.kind == "shard" and self.result != NAMED)


@dataclass(frozen=True)
class Case:
    """A kind of file, and what reads it."""

    kind: str
    whole: Path
    """A folder or a file."""
    files: str
    """Which of the folder's files are damaged, as a pattern."""
    read: Callable[[Path], Any]
    """Everything that is made of it, as plain values."""


def soak(folder: Path, count: int, rng: random.Random, each: int = EACH) -> Iterator[Outcome]:
    """Damage `count` shards, and `each` files of every other kind."""
    make_inputs(folder)
    yield from _shards(folder, count, rng)
    yield from _repaired(folder, rng)
    for case in cases(folder):
        expected = digest(case.read(case.whole))
        for number in range(each):
            copy = folder / "damaged" / case.whole.name
            _copied(case.whole, copy)
            files = (
                [copy]
                if copy.is_file()
                else sorted(p for p in copy.glob(case.files) if p.is_file() and p.stat().st_size)
            )
            file = files[number % len(files)]
            damage = hurt(file, rng)
            yield Outcome(f"{case.kind}", damage, *_result(case, copy, file, expected))


def make_inputs(folder: Path) -> None:
    """A run, samples, features, a field and exported files, all by the commands that make them."""
    how = ["--run", "runs/images", "--device", "cpu", "--threads", "1"]
    field = ["--num", "2", "--save-field", "samples/field.safetensors"]
    statistics = ["--out", "featured", "--statistics", "fid:random"]
    commands.make(folder, "runs/images", *commands.training("images", Path("runs/images")))
    commands.make(folder, "samples/samples.h5", "sample", "samples/samples.h5", *how, "--num", "12")
    commands.make(folder, "samples/many", "sample", "samples/many", *how, "--num", "12")
    commands.make(folder, "samples/samples.npz", "sample", "samples/samples.npz", *how, *field)
    commands.make(folder, "samples/weights.safetensors", "export", "runs/images", "samples/weights.safetensors")
    commands.make(folder, "featured", "prepare", "digits", *statistics)


def cases(folder: Path) -> list[Case]:
    """Everything but shards that inrflow reads and that says what it should be."""
    run, samples = folder / "runs/images", folder / "samples"
    return [
        Case("checkpoint, resumed", run, "checkpoints/00000036/**/*", lambda copy: _resumed(folder, copy)),
        Case("checkpoint, sampled from", run, "checkpoints/00000036/**/*", _weights),
        Case("file of a checkpoint, sampled from", run, "checkpoints/00000036/ema_0.9.safetensors",
             lambda copy: _weights(copy / "checkpoints/00000036/ema_0.9.safetensors")),
        Case("a run's records", run, "*.*", lambda copy: _resumed(folder, copy)),
        Case("manifest of shards", folder / "shards/digits", "manifest.json", lambda copy: manifest.load(copy)),
        Case("shard of samples", samples / "samples.h5", "", _samples),
        Case("folder of shards of samples", samples / "many", "*", _samples),
        Case("archive of samples", samples / "samples.npz", "", _samples),
        Case("exported weights", samples / "weights.safetensors", "", _weights),
        Case("saved field", samples / "field.safetensors", "", _field),
        Case("cached statistics", folder / "featured/statistics", "**/moments-*.safetensors", _statistics),
    ]  # fmt: skip


def hurt(file: Path, rng: random.Random) -> str:
    """Flip one byte of a file, or cut it off; says which, and where."""
    content = bytearray(file.read_bytes())
    position = rng.randrange(len(content))
    if rng.random() < 0.25:
        file.write_bytes(content[:position])
        return f"{file.name} cut to {position} of {len(content)} bytes"
    content[position] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256)
    file.write_bytes(content)
    return f"{file.name} byte {position} of {len(content)}"


def digest(value: Any) -> str:
    """What tells two answers apart: arrays by their bytes, all else by its text."""
    hashed = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, torch.Tensor):
            part = part.detach().cpu().contiguous().view(torch.uint8).numpy() if part.ndim else part.item()
        if isinstance(part, dict):
            for key in sorted(part, key=str):
                hashed.update(f"{key}:".encode())
                add(part[key])
        elif isinstance(part, list | tuple):
            for one in part:
                add(one)
        elif isinstance(part, np.ndarray):
            hashed.update(f"{part.dtype}{part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            hashed.update(repr(part).encode())

    add(value)
    return hashed.hexdigest()


def _shards(folder: Path, count: int, rng: random.Random) -> Iterator[Outcome]:
    """Damaged shards of images and clouds, read as training reads them; some by commands of their own."""
    for number in range(count):
        name, preset = (("digits", "images"), ("solids", "clouds"))[number % 2]
        copy = folder / "damaged" / name
        _copied(folder / "shards" / name, copy)
        # A preset reads the splits that it trains on and evaluates; that of clouds has no held-out loss.
        files = sorted(copy.glob("*.h5" if name == "digits" else "train-*.h5"))
        file = rng.choice(files)
        damage = hurt(file, rng)
        if number < COMMANDS:
            yield Outcome("shard", damage, *_by_command(folder, copy, preset, file, number))
            continue
        job = setup.TrainJob(load(str(folder / f"{preset}.toml")), folder / "no-run", data=copy, device="cpu")
        yield Outcome("shard", damage, *_outcome_of_reading(lambda job=job: setup.train(job), file))
        shutil.rmtree(folder / "no-run", ignore_errors=True)


def _by_command(folder: Path, copy: Path, preset: str, file: Path, number: int) -> tuple[str, str]:
    """What a command says of a damaged shard."""
    out = folder / "damaged" / "out"
    shutil.rmtree(out, ignore_errors=True)
    training = [*commands.training(preset, out), "--data", copy]
    metric = "fid:random" if preset == "images" else "mmd"
    split = file.name.partition("-")[0]
    samples = folder / ("samples/samples.h5" if preset == "images" else "shards/solids")
    evaluating = [
        "eval",
        "--out",
        out,
        "--samples",
        samples,
        "--reference",
        copy,
        "--split",
        split,
        "--metrics",
        metric,
    ]
    preview = out.with_suffix(".png" if preset == "images" else ".ply")
    exporting = ["export", copy, preview, "--items", "all", "--split", split, "--overwrite"]
    command = (training, training, evaluating, evaluating, training, training, exporting, exporting)[number % 8]
    done = commands.run(*command, cwd=folder)
    if done.code == 4 and file.name in done.errors and not done.has_traceback:
        return NAMED, str(command[0])
    return "SILENT" if done.code == 0 else "CRASH", f"{command[0]} left with {done.code}: {done.said()}"


def _repaired(folder: Path, rng: random.Random) -> Iterator[Outcome]:
    """`prepare --repair` makes damaged shards again, byte for byte."""
    for name, options in (("digits", []), ("solids", [])):
        copy = folder / "damaged" / name
        _copied(folder / "shards" / name, copy)
        files = rng.sample(sorted(copy.glob("*.h5")), 3)
        damage = "; ".join(hurt(file, rng) for file in files)
        done = commands.run("prepare", name, "--out", copy, "--repair", *options, cwd=folder)
        is_same = all(
            (copy / file.name).read_bytes() == file.read_bytes() for file in (folder / "shards" / name).glob("*.*")
        )
        result = MENDED if done.code == 0 and is_same else "NOT REPAIRED"
        yield Outcome(
            "three shards of a folder, then `prepare --repair`", damage, result, done.said() if done.code else ""
        )


def _result(case: Case, copy: Path, file: Path, expected: str) -> tuple[str, str]:
    digests: list[str] = []
    result, detail = _outcome_of_reading(lambda: digests.append(digest(case.read(copy))), file)
    if digests:
        return (HARMLESS, "") if digests[0] == expected else ("SILENT", "another answer than that of the whole file")
    return result, detail


def _outcome_of_reading(read: Callable[[], Any], file: Path) -> tuple[str, str]:
    """What reading a damaged file came to; SILENT where it came to an end."""
    try:
        read()
    except IntegrityError as error:
        return (NAMED, "") if file.name in error.message else (REFUSED, error.message)
    except InrflowError as error:
        return REFUSED, error.message
    except Exception as error:  # any error that is not one of inrflow's is a finding
        return "CRASH", f"{type(error).__name__}: {error}"
    return "SILENT", "it was used"


def _resumed(folder: Path, copy: Path) -> Any:
    """The state of a finished run, as its own command finds it."""
    preset = load(str(folder / "images.toml"))
    job = setup.TrainJob(preset, copy, data=folder / "shards/digits", device="cpu", check_data=False)
    trainer = setup.train(job)
    engine = trainer.engine
    tensors = [value.clone() for value in engine.weights()] + [value.clone() for value in engine.moments()]
    averages = [value.clone() for average in trainer.averages for value in engine.weights(average.values)]
    return [tensors, averages, vars(trainer.counters)]


def _weights(copy: Path) -> Any:
    """The model that a command draws from."""
    source = run.resolve_weights(copy)
    model = models.load(source)
    return [model.method.state_dict(), toml.to_toml(model.preset.table()), model.metadata]


def _field(copy: Path) -> Any:
    """What a saved field answers."""
    model, field = sample.load_field(copy)
    values = sample.evaluate(model, field, (10, 10))
    return [field.seeds, values, toml.to_toml(model.preset.table()), model.metadata]


def _samples(copy: Path) -> Any:
    """Samples as `eval` and as `export` read them."""
    items = open_collection(copy)
    items.verify()
    read = item_selection.read(copy, items="all")
    values = items.read(range(items.count)).values
    return [values, read.values, read.domain, dict(read.origin), [dict(item) for item in read.items]]


def _statistics(copy: Path) -> Any:
    """Statistics as `eval` reads them in place of images."""
    (file,) = copy.glob("**/moments-*.safetensors")
    statistics = reference_stats.read(file)
    metadata = [statistics.network, statistics.preprocessing, statistics.weights, statistics.shape]
    return [metadata, {name: [m.count, m.mean, m.covariance] for name, m in statistics.moments.items()}]


def _copied(whole: Path, copy: Path) -> None:
    """A fresh copy in the place of an earlier one."""
    if copy.is_dir():
        shutil.rmtree(copy)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if whole.is_dir():
        shutil.copytree(whole, copy)
        return
    for file in whole.parent.glob(f"{whole.name}*"):  # with its digest, where that lies beside it
        shutil.copyfile(file, copy.parent / file.name)


def summarize(outcomes: list[Outcome]) -> tuple[list[tuple[str, str]], bool]:
    """Rows of the table, and whether all is well."""
    rows = []
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        results = Counter(outcome.result for outcome in outcomes if outcome.kind == kind)
        rows.append((f"damaged: {kind}", ", ".join(f"{count} {result}" for result, count in results.most_common())))
    return rows, all(outcome.is_well for outcome in outcomes)
