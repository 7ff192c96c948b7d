"""What is pinned: each case runs commands in an empty folder and returns what their files hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.golden import measures, refusals, stored
from tests.golden.program import succeed
from tests.golden.raw_files import EXIT_CODES, RAW, Raw

Case = Callable[[Path], Any]

CPU = ("--device", "cpu", "--threads", 1)
PRESETS = stored.HERE / "presets"
TRAINED = {
    "digits-demo": ("digits", "val", {"training.batch": 16}),
    "solids-demo": ("solids", "val", {"training.batch": 2}),
    "objects-demo": ("objaverse", "val", {"training.batch": 1}),
    "proteins-demo": ("swissprot", "val", {"training.batch": 1}),
    "tiny-image": ("digits", "val", {}),
    "tiny-points": ("solids", "val", {}),
    "tiny-protein": ("swissprot", "val", {}),
    "tiny-picture": ("objaverse", "val", {}),
}
"""Presets with the raw data, the held-out split and the settings that are reduced; all take 20 steps.

The batches of the demo presets (64, 16, 16 and 4) are reduced to save time; `full/` has them as they are.
"""
FULL = ("digits-demo", "solids-demo", "objects-demo", "proteins-demo")
VARIANTS = {
    "image-linear": ("tiny-image", {"network.encoder": "linear", "network.latents": 16}),
    "image-random": ("tiny-image", {"network.pseudo_coordinates": "random"}),
    "image-kmeans": ("tiny-image", {"network.pseudo_coordinates": "kmeans"}),
    "image-hash": ("tiny-image", {"network.pseudo_coordinates": "hash", "network.rope": "false"}),
    "image-anywhere": ("tiny-image", {"method.query_positions": "anywhere", "domain.flip": "true"}),
    "image-schedule": ("tiny-image", {"training.schedule": "cosine", "training.micro_batch": 2, "method.copies": 2}),
    "points-without-condition": ("tiny-points", {"condition": "none", "network.reread": 0}),
    "points-spatial": ("tiny-points", {"network.encoder": "spatial", "network.pseudo_coordinates": "hash"}),
    "protein-smooth-lddt": ("tiny-protein", {"method.smooth_lddt": 1.0, "method.align": "noise"}),
    "protein-with-copies": ("tiny-protein", {"method.copies": 2, "network.checkpoint_activations": "true"}),
}
"""Tiny presets with other settings, for six steps."""
SAMPLERS = ("euler", "heun", "midpoint", "dopri5", "euler-maruyama")
LABELS = {"image": ("--label", "1,2,3"), "points": ("--label", "1,2,3"), "protein": ("--sequence", "MKTWAYIARNDCQEG")}
SUFFIXES = {"image": ("npz", "h5"), "points": ("npz", "h5", "ply"), "protein": ("pdb", "cif")}
OTHERWISE = {
    "image": {
        "finer.npz": "--num 2 --resolution 13x11 --noise cubic",
        "part.npz": "--resolution 16 --window 0,0,0.5,0.75 --noise independent --chunk 50",
        "guided.npz": "--guidance 3 --guidance-interval 0.1,0.9 --ema 0",
        "small.png": "--seed 9",
    },
    "points": {
        "more.ply": "--points 200 --chunk 64",
        "cool.npz": "--sampler euler-maruyama --set sampler.temperature=0.1 --set sampler.spacing=log --steps 8",
        "guided.npz": "--guidance 3 --ema 0 --seed 9",
    },
    "protein": {
        "cool.pdb": "--set sampler.temperature=0.1 --set sampler.spacing=log --steps 8 --seed 9",
        "raw.pdb": "--ema 0",
    },
}
"""Samples with further options, of one label or sequence."""


def prepared(raw: Raw, folder: Path, code: int = 0) -> Path:
    """Shards of a data set in `folder`."""
    source = ()
    if raw.write is not None:
        raw.write(folder / "raw")
        source = ("--source", folder / "raw")
    succeed(
        "prepare",
        raw.name,
        *source,
        "--out",
        folder / "shards",
        "--workers",
        1,
        *raw.words.split(),
        cwd=folder,
        code=code,
    )
    return folder / "shards"


def trained(preset: str, settings: dict[str, Any], data: str, folder: Path) -> Any:
    """The log of a run and its last weights."""
    named = PRESETS / f"{preset}.toml" if preset.startswith("tiny") else preset
    inputs = {"training.log_every": 1, "training.samples_every": "none", **settings}
    words = [word for key, value in inputs.items() for word in ("--set", f"{key}={value}")]
    where = ("--data", prepared(RAW[data], folder), "--out", folder / "run")
    succeed("train", "--preset", named, *where, *CPU, "--precision", "fp32", *words, cwd=folder)
    (last,) = (folder / "run" / "checkpoints").iterdir()
    return {"log": measures.log(folder / "run"), "weights": measures.weights(last / "weights.safetensors")}


def _training(preset: str, *, is_reduced: bool = True) -> Case:
    data, held_out, reduced = TRAINED[preset]
    every = {"training.held_out_every": 10, "training.held_out_sets": 4, "data.held_out": held_out}
    settings = {"training.steps": 20, **every, **(reduced if is_reduced else {})}
    return lambda folder: trained(preset, settings, data, folder)


def _variant(name: str) -> Case:
    preset, settings = VARIANTS[name]
    return lambda folder: trained(
        preset, {"training.steps": 6, "training.held_out_every": "none", **settings}, TRAINED[preset][0], folder
    )


def _data(name: str) -> Case:
    return lambda folder: measures.shards(prepared(RAW[name], folder, EXIT_CODES.get(name, 0)))


def _samples(domain: str, sampler: str) -> Case:
    """Samples in every format; pixels are rounded, so of images the field too."""

    def case(folder: Path) -> Any:
        words = ["--run", stored.STORED / "runs" / domain, "--sampler", sampler, "--seed", 7, *LABELS[domain], *CPU]
        words += [] if domain == "protein" else ["--num", 3]
        words += [] if sampler == "dopri5" else ["--steps", 4]
        for suffix in SUFFIXES[domain]:
            field = ["--save-field", "field.safetensors"] if (domain, suffix) == ("image", "npz") else []
            succeed("sample", f"out.{suffix}", *words, *field, cwd=folder)
        return _files(folder)

    return case


def _otherwise(domain: str) -> Case:
    def case(folder: Path) -> Any:
        reported = LABELS[domain] if domain == "protein" else ("--label", "4")
        for name, words in OTHERWISE[domain].items():
            run = stored.STORED / "runs" / domain
            succeed("sample", name, "--run", run, *reported, *CPU, *words.split(), cwd=folder)
        return _files(folder)

    return case


def _resumed(domain: str) -> Case:
    def case(folder: Path) -> Any:
        copy = stored.copy(folder)
        data, _ = stored.DOMAINS[domain]
        stored.train(domain, copy / "shards" / data, copy / "runs" / domain, cwd=folder)
        newest = max((copy / "runs" / domain / "checkpoints").iterdir())
        weights = {path.name: measures.weights(path) for path in sorted(newest.glob("*.safetensors"))}
        return {"log": measures.log(copy / "runs" / domain), "weights": weights}

    return case


def stored_weights(folder: Path) -> Any:
    """Samples by exported weights, the weights exported again, and a folder of samples."""
    weights = stored.STORED / "image" / "weights.safetensors"
    succeed("sample", "out.npz", "--run", weights, "--label", "3", *CPU, cwd=folder)
    succeed("export", stored.STORED / "runs" / "image", "again.safetensors", cwd=folder)
    many = ("--run", stored.STORED / "runs" / "image", "--num", 5, "--label", "all", *CPU)
    succeed("sample", "many", *many, cwd=folder)
    result = {path.name: measures.h5(path) for path in sorted((folder / "many").glob("*.h5"))}
    return {"stored": measures.file(weights), "many": result} | _files(folder)


def stored_fields(folder: Path) -> Any:
    """Fields at other resolutions, and files and seeds upsampled by a run."""
    image, points = stored.STORED / "image", stored.STORED / "points"
    finer = {
        "image.npz": (image / "field.safetensors", "--resolution", "17x15"),
        "half.npz": (image / "half-field.safetensors", "--scale", 2),
        "points.npz": (points / "field.safetensors", "--points", 90),
        "half.ply": (points / "half-field.safetensors", "--points", 90),
    }
    for name, (field, *size) in finer.items():
        succeed("upsample", field, name, *size, *CPU, cwd=folder)
    runs = stored.STORED / "runs"
    seeded = ("--run", runs / "image", "--seed", 4, "--label", "3", *CPU)
    succeed("upsample", "seeded.npz", *seeded, "--scale", 2, cwd=folder)
    succeed("sample", "small.ply", "--run", runs / "points", "--label", 1, "--guidance", 1, *CPU, cwd=folder)
    inverted = ("--run", runs / "points", "--label", 1, "--steps", 10, "--points", 50, *CPU)
    succeed("upsample", "small.ply", "large.ply", *inverted, cwd=folder)
    return _files(folder)


def stored_exports(folder: Path) -> Any:
    """Stored shards and samples as files of other formats."""
    solids, digits = stored.STORED / "shards" / "solids", stored.STORED / "shards" / "digits"
    succeed("export", solids, "clouds.npz", "--items", "0-3", "--split", "val", cwd=folder)
    succeed("export", solids, "cloud.ply", "--items", "2", "--raw", cwd=folder)
    succeed("export", digits, "digits.npz", "--items", "0-3", cwd=folder)
    succeed("export", digits, "digits.png", "--items", "0-5", "--columns", 3, cwd=folder)
    succeed("export", stored.STORED / "points" / "samples.h5", "samples.npz", cwd=folder)
    return _files(folder)


def stored_shards(folder: Path) -> Any:
    """The stored folders of shards as they are, and that the program finds nothing to do there."""
    copy = stored.copy(folder) / "shards"
    for name in ("digits", "solids"):
        words = dict(stored.DOMAINS.values())[name].split()
        outcome = succeed("prepare", name, "--out", copy / name, "--workers", 1, *words, "--json", cwd=folder)
        assert isinstance(json.loads(outcome.out), dict)
    return {path.name: measures.shards(path) for path in sorted(copy.iterdir())}


def _files(folder: Path) -> dict[str, Any]:
    return {path.name: measures.file(path) for path in sorted(folder.iterdir()) if path.suffix in measures.BY_SUFFIX}


METRICS = {
    "image": ("digits", "fid:random,kid:random,precision:random,recall:random"),
    "points": ("solids", "mmd,cov,1-nna,jsd,mmd:emd-lion"),
    "protein": ("swissprot", "lddt,tm-score,rmsd,bond-lengths,clashes --split train"),
}


def _evaluated(domain: str) -> Case:
    """The metrics of a stored run: sampled, and then evaluated by the stored shards."""

    def case(folder: Path) -> Any:
        data, metrics = METRICS[domain]
        run = stored.STORED / "runs" / domain
        where = ("--reference", stored.STORED / "shards" / data, "--out", "out", "--workers", 1, *CPU)
        num = () if domain == "protein" else ("--num", 12)
        succeed("eval", "--run", run, *where, *num, "--steps", 3, "--metrics", *metrics.split(), cwd=folder)
        return measures.scores(folder / "out")

    return case


def evaluated_files(folder: Path) -> Any:
    """The metrics of stored samples, of several kinds of files."""
    words = {
        "clouds": "--samples points/samples.h5 --reference shards/solids --metrics mmd:cd,cov,1-nna --points 24",
        "arrays": "--samples points/samples.npz --reference shards/solids --metrics mmd,jsd --points 24 --split val",
        "pictures": "--samples image/samples.npz --reference image/samples.h5 --metrics psnr",
    }
    copy = stored.copy(folder)
    for name, line in words.items():
        succeed("eval", *line.split(), "--out", folder / name, "--workers", 1, *CPU, cwd=copy)
    return {name: measures.scores(folder / name) for name in words}


CASES: dict[str, Case] = {
    **{f"train/{preset}": _training(preset) for preset in TRAINED},
    **{f"full/{preset}": _training(preset, is_reduced=False) for preset in FULL},
    **{f"variant/{name}": _variant(name) for name in VARIANTS},
    **{f"data/{name}": _data(name) for name in RAW},
    **{f"sample/{domain}/{sampler}": _samples(domain, sampler) for domain in SUFFIXES for sampler in SAMPLERS},
    **{f"sample/{domain}/otherwise": _otherwise(domain) for domain in SUFFIXES},
    **{f"resume/{domain}": _resumed(domain) for domain in stored.DOMAINS},
    **{f"eval/{domain}": _evaluated(domain) for domain in METRICS},
    "eval/files": evaluated_files,
    "stored/weights": stored_weights,
    "stored/fields": stored_fields,
    "stored/exports": stored_exports,
    "stored/shards": stored_shards,
    "codes": refusals.codes,
}
SLOW = {
    *(f"full/{preset}" for preset in FULL),
    *("variant/image-random", "variant/image-kmeans", "variant/image-anywhere", "variant/points-spatial"),
    *("variant/protein-smooth-lddt", "eval/files"),
}
"""Cases that `make test` leaves to `make test-all`."""
