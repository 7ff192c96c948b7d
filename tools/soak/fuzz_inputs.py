"""What the fuzzing part damages, and the command that reads each: every format that inrflow reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.soak import commands, damage, raw_files

QUICK = ("--device", "cpu", "--threads", "1")


@dataclass(frozen=True)
class Subject:
    """A file or a folder, and a command that reads a damaged copy of it."""

    name: str
    whole: str
    """Below the folder of the soak."""
    files: str
    """Which of a folder's files are damaged, as a pattern; empty for a file."""
    command: tuple[str, ...]
    """Words: IN is the copy, OUT a new folder, BASE the folder of the soak."""
    has_digest: bool = False
    """Whether a digest protects it, so that a damaged copy must not change what the command writes."""


def make(folder: Path) -> None:
    """All of them, by the commands that write them and by `raw_files`."""
    damage.make_inputs(folder)
    raw_files.make(folder / "raw")
    if not (folder / "runs/clouds").is_dir():
        commands.must(commands.run(*commands.training("clouds", Path("runs/clouds")), cwd=folder))
    cloud = ["--run", "runs/clouds", *QUICK, "--num", "2", "--overwrite"]
    (folder / "samples/plys").mkdir(exist_ok=True)
    commands.must(commands.run("sample", "samples/plys/cloud.ply", *cloud, cwd=folder))
    commands.must(commands.run("sample", "samples/clouds.npz", *cloud, cwd=folder))
    (folder / "samples/two").mkdir(exist_ok=True)
    for number in range(2):
        name = f"samples/two/{number}.png"
        how = ["--run", "runs/images", *QUICK, "--seeds", str(number), "--overwrite"]
        commands.must(commands.run("sample", name, *how, cwd=folder))
    for name in ("images", "clouds"):
        (folder / "presets").mkdir(exist_ok=True)
        (folder / f"presets/{name}.toml").write_bytes((folder / f"{name}.toml").read_bytes())


def subjects() -> list[Subject]:
    """All of them."""
    return [*_raw(), *_own()]


def _raw() -> list[Subject]:
    """Raw data sets, which have no digests."""
    every = ("--workers", "1", "--out", "OUT/shards")
    tables = {
        "images": ("images", "--resolution", "8"),
        "zips": ("images", "--resolution", "8"),
        "lsun": ("lsun-church", "--resolution", "8"),
        "imagenet": ("imagenet", "--resolution", "8"),
        "imagenet-kit": ("imagenet", "--resolution", "8"),
        "imagenet-csv": ("imagenet", "--resolution", "8"),
        "edm": ("imagenet", "--resolution", "8"),
        "mnist": ("mnist",),
        "cifar10": ("cifar10",),
        "clouds": ("shapenet",),
        "hdf5": ("shapenet",),
        "meshes": ("meshes", "--set", "points=50"),
        "structures": ("swissprot", "--set", "embedder=one-hot"),
    }
    patterns = {"imagenet": "*.[mt]*t", "imagenet-kit": "*.gz", "imagenet-csv": "*.csv", "edm": "dataset.json"}
    return [
        Subject(f"raw {name}", f"raw/{name}", patterns.get(name, "**/*"), ("prepare", *words, "--source", "IN", *every))
        for name, words in tables.items()
    ]


def _own() -> list[Subject]:
    """Files that inrflow writes."""
    train = ("train", *QUICK, "--stop-at-step", "1")
    images = ("--preset", "BASE/images.toml", "--data", "BASE/shards/digits")
    random = ("--metrics", "fid:random", "--out", "OUT/scores", *QUICK)
    clouds = ("--reference", "BASE/shards/solids", "--metrics", "mmd", "--out", "OUT/scores", *QUICK)
    export = ("export", "IN", "OUT/out.npz", "--items", "all")
    one = ("--num", "1", *QUICK)
    return [
        Subject("preset", "presets", "*.toml",
                ("train", "--preset", "IN/images.toml", "--data", "BASE/shards/digits", "--out", "OUT/run", "--dry-run")),
        Subject("shards", "shards/digits", "val*.h5", (*export, "--split", "val"), True),
        Subject("shards of clouds", "shards/solids", "val*.h5", (*export, "--split", "val"), True),
        Subject("manifest", "shards/digits", "manifest.json", (*export, "--split", "val"), True),
        Subject("list of runs", "runs/images", "*.*", ("runs", "INS", "--json")),
        Subject("runs, the newest sampled", "runs/images", "**/*", ("sample", "OUT/out.npz", "--run", "IN", *one)),
        Subject("checkpoint", "runs/images", "checkpoints/00000036/ema*", ("sample", "OUT/out.npz", "--run", "IN", *one),
                True),
        Subject("run, resumed", "runs/images", "**/*", ("train", *images, *QUICK, "--out", "IN", "--set",
                "training.steps=37")),
        Subject("start of a training", "samples/weights.safetensors", "",
                (*train, *images, "--out", "OUT/run", "--init-from", "IN")),
        Subject("exported weights", "samples/weights.safetensors", "",
                ("sample", "OUT/out.npz", "--run", "IN", *one), True),
        Subject("saved field", "samples/field.safetensors", "", ("upsample", "IN", "OUT/out.npz"), True),
        Subject("archive of samples", "samples/samples.npz", "", ("export", "IN", "OUT/out.npz", "--items", "all"), True),
        Subject("archive, scored", "samples/samples.npz", "",
                ("eval", "--samples", "IN", "--reference", "BASE/shards/digits", *random)),
        Subject("shard of samples", "samples/samples.h5", "", ("export", "IN", "OUT/out.npz", "--items", "all"), True),
        Subject("folder of samples, resumed", "samples/many", "**/*",
                ("sample", "IN", "--run", "BASE/runs/images", "--num", "12", *QUICK)),
        Subject("clouds, scored", "samples/clouds.npz", "", ("eval", "--samples", "IN", *clouds)),
        Subject("PLY, scored", "samples/plys", "*.ply", ("eval", "--samples", "IN", *clouds)),
        Subject("cached statistics", "featured", "statistics/**/*",
                ("eval", "--samples", "BASE/samples/samples.npz", "--reference", "IN", *random)),
        Subject("image, inverted", "samples/two", "0.png",
                ("upsample", "IN/0.png", "OUT/out.png", "--run", "BASE/runs/images", "--label", "1")),
        Subject("images, scored", "samples/two", "*.png",
                ("eval", "--samples", "IN", "--reference", "BASE/shards/digits", *random)),
    ]  # fmt: skip
