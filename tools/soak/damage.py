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
        """Whether nobody was misled."""
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
    """Damage so many shards, and `each` files of every other kind."""
    make_inputs(folder)
    yield from _shards(folder, count, rng)
    yield from _repaired(folder, rng)
    for case in cases(folder):
        wanted = digest(case.read(case.whole))
        for number in range(each):
            place = folder / "damaged" / case.whole.name
            _copied(case.whole, place)
            files = (
                [place]
                if place.is_file()
                else sorted(p for p in place.glob(case.files) if p.is_file() and p.stat().st_size)
            )
            file = files[number % len(files)]
            damage = hurt(file, rng)
            yield Outcome(f"{case.kind}", damage, *_result(case, place, file, wanted))


def make_inputs(folder: Path) -> None:
    """A run, samples, features, a field and exported files, all by the commands that make them."""
    drawn = folder / "drawn"
    drawn.mkdir(exist_ok=True)
    if not (folder / "runs/pictures").is_dir():
        commands.must(commands.run(*commands.training("pictures", Path("runs/pictures")), cwd=folder))
    how = ["--run", "runs/pictures", "--device", "cpu", "--threads", "1", "--overwrite"]
    field = ["--num", "2", "--save-field", "drawn/field.safetensors"]
    commands.must(commands.run("sample", "drawn/samples.h5", *how, "--num", "12", cwd=folder))
    commands.must(commands.run("sample", "drawn/many", *how, "--num", "12", cwd=folder))
    commands.must(commands.run("sample", "drawn/samples.npz", *how, *field, cwd=folder))
    commands.must(commands.run("export", "runs/pictures", "drawn/weights.safetensors", "--overwrite", cwd=folder))
    if not (folder / "featured").is_dir():
        told = ["prepare", "digits", "--out", "featured", "--statistics", "fid:random"]
        commands.must(commands.run(*told, cwd=folder))


def cases(folder: Path) -> list[Case]:
    """Everything but shards that inrflow reads and that says what it should be."""
    run, drawn = folder / "runs/pictures", folder / "drawn"
    return [
        Case("checkpoint, resumed", run, "checkpoints/00000036/**/*", lambda place: _resumed(folder, place)),
        Case("checkpoint, sampled from", run, "checkpoints/00000036/**/*", _weights),
        Case("file of a checkpoint, sampled from", run, "checkpoints/00000036/ema_0.9.safetensors",
             lambda place: _weights(place / "checkpoints/00000036/ema_0.9.safetensors")),
        Case("a run's records", run, "*.*", lambda place: _resumed(folder, place)),
        Case("manifest of shards", folder / "shards/digits", "manifest.json", lambda place: manifest.load(place)),
        Case("shard of samples", drawn / "samples.h5", "", _samples),
        Case("folder of shards of samples", drawn / "many", "*", _samples),
        Case("archive of samples", drawn / "samples.npz", "", _samples),
        Case("exported weights", drawn / "weights.safetensors", "", _weights),
        Case("saved field", drawn / "field.safetensors", "", _field),
        Case("cached statistics", folder / "featured/statistics", "**/moments-*.safetensors", _statistics),
    ]  # fmt: skip


def hurt(file: Path, rng: random.Random) -> str:
    """Flip one byte of a file, or cut it off; says which, and where."""
    content = bytearray(file.read_bytes())
    place = rng.randrange(len(content))
    if rng.random() < 0.25:
        file.write_bytes(content[:place])
        return f"{file.name} cut to {place} of {len(content)} bytes"
    content[place] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randrange(1, 256)
    file.write_bytes(content)
    return f"{file.name} byte {place} of {len(content)}"


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
    """Damaged shards of pictures and clouds, read as training reads them; some by commands of their own."""
    for number in range(count):
        name, preset = (("digits", "pictures"), ("solids", "clouds"))[number % 2]
        place = folder / "damaged" / name
        _copied(folder / "shards" / name, place)
        # A preset reads the splits that it learns from and is judged by: that of clouds has no held-out loss.
        files = sorted(place.glob("*.h5" if name == "digits" else "train-*.h5"))
        file = rng.choice(files)
        damage = hurt(file, rng)
        if number < COMMANDS:
            yield Outcome("shard", damage, *_by_command(folder, place, preset, file, number))
            continue
        job = setup.TrainJob(load(str(folder / f"{preset}.toml")), folder / "no-run", data=place, device="cpu")
        yield Outcome("shard", damage, *_judged(lambda job=job: setup.train(job), file))
        shutil.rmtree(folder / "no-run", ignore_errors=True)


def _by_command(folder: Path, place: Path, preset: str, file: Path, number: int) -> tuple[str, str]:
    """What a command says of a damaged shard."""
    out = folder / "damaged" / "out"
    shutil.rmtree(out, ignore_errors=True)
    training = [*commands.training(preset, out), "--data", place]
    metric = "fid:random" if preset == "pictures" else "mmd"
    split = file.name.partition("-")[0]
    samples = folder / ("drawn/samples.h5" if preset == "pictures" else "shards/solids")
    judging = ["eval", "--out", out, "--samples", samples, "--reference", place, "--split", split, "--metrics", metric]
    picture = out.with_suffix(".png" if preset == "pictures" else ".ply")
    exporting = ["export", place, picture, "--items", "all", "--split", split, "--overwrite"]
    asked = (training, training, judging, judging, training, training, exporting, exporting)[number % 8]
    done = commands.run(*asked, cwd=folder)
    if done.code == 4 and file.name in done.errors and not done.has_traceback:
        return NAMED, str(asked[0])
    return "SILENT" if done.code == 0 else "CRASH", f"{asked[0]} left with {done.code}: {done.said()}"


def _repaired(folder: Path, rng: random.Random) -> Iterator[Outcome]:
    """`prepare --repair` makes damaged shards again, byte for byte."""
    for name, given in (("digits", []), ("solids", [])):
        place = folder / "damaged" / name
        _copied(folder / "shards" / name, place)
        files = rng.sample(sorted(place.glob("*.h5")), 3)
        damage = "; ".join(hurt(file, rng) for file in files)
        done = commands.run("prepare", name, "--out", place, "--repair", *given, cwd=folder)
        is_same = all(
            (place / file.name).read_bytes() == file.read_bytes() for file in (folder / "shards" / name).glob("*.*")
        )
        result = MENDED if done.code == 0 and is_same else "NOT REPAIRED"
        yield Outcome(
            "three shards of a folder, then `prepare --repair`", damage, result, done.said() if done.code else ""
        )


def _result(case: Case, place: Path, file: Path, wanted: str) -> tuple[str, str]:
    found: list[str] = []
    result, detail = _judged(lambda: found.append(digest(case.read(place))), file)
    if found:
        return (HARMLESS, "") if found[0] == wanted else ("SILENT", "another answer than that of the whole file")
    return result, detail


def _judged(read: Callable[[], Any], file: Path) -> tuple[str, str]:
    """What reading a damaged file came to; SILENT where it came to an end."""
    try:
        read()
    except IntegrityError as error:
        return (NAMED, "") if file.name in error.message else (REFUSED, error.message)
    except InrflowError as error:
        return REFUSED, error.message
    except Exception as error:  # what is looked for is errors that nobody thought of
        return "CRASH", f"{type(error).__name__}: {error}"
    return "SILENT", "it was used"


def _resumed(folder: Path, place: Path) -> Any:
    """The state of a finished run, as its own command finds it."""
    preset = load(str(folder / "pictures.toml"))
    job = setup.TrainJob(preset, place, data=folder / "shards/digits", device="cpu", check_data=False)
    trainer = setup.train(job)
    engine = trainer.engine
    held = [value.clone() for value in engine.weights()] + [value.clone() for value in engine.moments()]
    averages = [value.clone() for average in trainer.averages for value in engine.weights(average.values)]
    return [held, averages, vars(trainer.counters)]


def _weights(place: Path) -> Any:
    """The model that a command draws from."""
    source = run.resolve_weights(place)
    model = models.load(source)
    return [model.method.state_dict(), toml.to_toml(model.preset.table()), model.metadata]


def _field(place: Path) -> Any:
    """What a saved field answers."""
    model, field = sample.load_field(place)
    values = sample.evaluate(model, field, (10, 10))
    return [field.seeds, values, toml.to_toml(model.preset.table()), model.metadata]


def _samples(place: Path) -> Any:
    """Samples as `eval` and as `export` read them."""
    items = open_collection(place)
    items.verify()
    read = item_selection.read(place, items="all")
    judged = items.read(range(items.count)).values
    return [judged, read.values, read.domain, dict(read.origin), [dict(item) for item in read.items]]


def _statistics(place: Path) -> Any:
    """Statistics as `eval` reads them instead of pictures."""
    (file,) = place.glob("**/moments-*.safetensors")
    found = reference_stats.read(file)
    told = [found.network, found.preprocessing, found.weights, found.shape]
    return [told, {name: [m.count, m.mean, m.covariance] for name, m in found.moments.items()}]


def _copied(whole: Path, place: Path) -> None:
    """A fresh copy in the place of an earlier one."""
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(parents=True, exist_ok=True)
    if whole.is_dir():
        shutil.copytree(whole, place)
        return
    for file in whole.parent.glob(f"{whole.name}*"):  # with its digest, where that lies beside it
        shutil.copyfile(file, place.parent / file.name)


def told(outcomes: list[Outcome]) -> tuple[list[tuple[str, str]], bool]:
    """Rows of the table, and whether all is well."""
    rows = []
    for kind in dict.fromkeys(outcome.kind for outcome in outcomes):
        results = Counter(outcome.result for outcome in outcomes if outcome.kind == kind)
        rows.append((f"damaged: {kind}", ", ".join(f"{count} {result}" for result, count in results.most_common())))
    return rows, all(outcome.is_well for outcome in outcomes)
