"""What the fuzzing part damages, and the command that reads each: every format that inrflow reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.soak import commands, damage, fuzz_weights, mutations, raw_files

QUICK = ("--device", "cpu", "--threads", "1")
PIECES = ("--num", "60", "--batch", "20", *QUICK)
PATCHES = ("--set", "embedder=patches", "--set", "points=50")
TRAININGS = {"images": "digits", "functions": "digits", "scenes": "scenes"}
"""Presets that cases train with, and their shards."""
LARGEST_PIECE = 4000
"""Bytes between those of a piece of samples and those of its shard: with this limit the shard stays unfinished."""


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
    writes: str = "OUT"
    """Where the command writes: OUT, or the copy itself as IN."""


def make(folder: Path) -> None:
    """All of them, by the commands that write them and by `raw_files`."""
    damage.make_inputs(folder)
    raw_files.make(folder / "raw")
    _make_runs(folder)
    for name, words in _samples().items():
        commands.make(folder, f"samples/{name}", "sample", *words, *QUICK)
    for name in ("images", "clouds"):
        (folder / "presets").mkdir(exist_ok=True)
        (folder / f"presets/{name}.toml").write_bytes((folder / f"{name}.toml").read_bytes())
    for name, words in _evaluations().items():
        commands.make(folder, f"scores/{name}", "eval", *words, "--out", f"scores/{name}", *QUICK)
    (statistics,) = folder.glob("featured/statistics/**/moments-*.safetensors")
    mutations.copy(statistics, folder / "samples/moments.safetensors")
    _make_unfinished(folder)
    fuzz_weights.make(folder / "weights")


def _samples() -> dict[str, list[str]]:
    """Commands that make samples, without `sample` itself, by what they make below `samples`."""
    cloud = ["--run", "runs/clouds", "--num", "2"]
    fields = {
        name: [f"samples/{name}.npz", "--run", f"runs/{name}", "--save-field", f"samples/{name}.safetensors"]
        for name in ("functions", "scenes")
    }
    return {
        "plys/cloud-000.ply": ["samples/plys/cloud.ply", *cloud],
        "clouds.npz": ["samples/clouds.npz", *cloud],
        "dense.npz": ["samples/dense.npz", *cloud, "--points", "4096"],
        "two/0.png": ["samples/two/0.png", "--run", "runs/images", "--seeds", "0"],
        "two/1.png": ["samples/two/1.png", "--run", "runs/images", "--seeds", "1"],
        **{f"{name}.safetensors": [*words, "--num", "1"] for name, words in fields.items()},
        "folded": ["samples/folded", "--run", "runs/proteins", "--fasta", "raw/sequences/plain.fasta"],
    }


def _evaluations() -> dict[str, list[str]]:
    """Arguments of `eval` without a folder to write to, by its name below `scores`."""
    return {
        "clouds": ["--samples", "samples/clouds.npz", "--reference", "samples/plys", "--metrics", "mmd"],
        "images": ["--samples", "samples/samples.npz", "--reference", "shards/digits", "--metrics", "fid:random"],
    }


def _make_runs(folder: Path) -> None:
    """Runs of clouds, functions, proteins, objects and scenes, and the shards of the last three."""
    objects = ["--set", "points=50", "--set", "views=2", "--set", "embedder=patches", "--resolution", "32"]
    made = {
        "proteins": ("swissprot", "structures", ["--set", "embedder=one-hot"], commands.PROTEINS),
        "objects": ("objaverse", "meshes", objects, commands.OBJECTS),
        "scenes": ("views", "meshes", ["--resolution", "8", "--set", "views=3"], commands.SCENES),
    }
    (folder / "functions.toml").write_text(commands.FUNCTIONS)
    for name, (dataset, source, settings, preset) in made.items():
        words = ["prepare", dataset, "--source", f"raw/{source}", "--workers", "1", "--out", f"shards/{name}"]
        commands.make(folder, f"shards/{name}", *words, *settings)
        (folder / f"{name}.toml").write_text(preset)
    for name in ("clouds", "functions", *made):
        commands.make(folder, f"runs/{name}", *commands.training(name, Path("runs") / name))


def _make_unfinished(folder: Path) -> None:
    """What a killed `sample` and an unfinished `prepare` leave: pieces without a shard, and half of a job array."""
    half = ["--array-size", "2", "--array-index", "0", "--out", "unfinished"]
    commands.make(folder, "unfinished", "prepare", "digits", *half)
    for name in ("pieces", "shard/pieces.h5"):
        (folder / "samples" / name).parent.mkdir(exist_ok=True)
        if not any(map(Path.is_dir, (folder / "samples").glob(f"{name}*"))):
            words = ["sample", f"samples/{name}", *PIECES, "--run", "runs/images"]
            done = commands.run(*words, cwd=folder, limit=LARGEST_PIECE)
            if done.code != 5:
                raise RuntimeError(f"a shard larger than {LARGEST_PIECE} bytes was written: {done}")


def subjects() -> list[Subject]:
    """All of them."""
    return [*_raw(), *_own(), *_inputs(), *_proteins(), *_functions(), *_networks()]


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
        "views": ("objaverse", "--resolution", "16", *PATCHES, "--set", "renders=found", "--set", "views=2"),
        "srn-cars": ("srn-cars", "--resolution", "16"),
        "srn-cars-packed": ("srn-cars", "--resolution", "16"),
        "occupancy": ("occupancy",),
    }
    patterns = {"imagenet": "*.[mt]*t", "imagenet-kit": "*.gz", "imagenet-csv": "*.csv", "edm": "dataset.json"}
    occupancies = ("prepare", "occupancy", "--set", "points=50", "--set", "queries=99", "--source", "IN", *every)
    views = ("prepare", "views", "--resolution", "8", "--set", "views=2", "--source", "IN", *every)
    return [
        *(
            Subject(
                f"raw {name}", f"raw/{name}", patterns.get(name, "**/*"), ("prepare", *words, "--source", "IN", *every)
            )
            for name, words in tables.items()
        ),
        Subject("raw meshes, rendered", "raw/meshes", "**/*", views),
        Subject("raw meshes, as occupancies", "raw/meshes", "**/*", occupancies),
    ]


def _own() -> list[Subject]:
    """Files that inrflow writes."""
    train = ("train", *QUICK, "--stop-at-step", "1")
    images = ("--preset", "BASE/images.toml", "--data", "BASE/shards/digits")
    random = ("--metrics", "fid:random", "--out", "OUT/scores", *QUICK)
    clouds = ("--reference", "BASE/samples/plys", "--metrics", "mmd", "--out", "OUT/scores", *QUICK)
    export = ("export", "IN", "OUT/out.npz", "--items", "all")
    scores = {
        name: [f"BASE/{word}" if "/" in word else word for word in words] for name, words in _evaluations().items()
    }
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
        *(
            Subject(f"scores of {name}, again", f"scores/{name}", "**/*", ("eval", *words, "--out", "IN", "--overwrite", *QUICK), True, "IN")
            for name, words in scores.items()
        ),
        Subject("image, inverted", "samples/two", "0.png",
                ("upsample", "IN/0.png", "OUT/out.png", "--run", "BASE/runs/images", "--label", "1")),
        Subject("images, scored", "samples/two", "*.png",
                ("eval", "--samples", "IN", "--reference", "BASE/shards/digits", *random)),
    ]  # fmt: skip


def _inputs() -> list[Subject]:
    """Unfinished work, and files that a model is given."""
    shard = ("sample", "IN/pieces.h5", "--run", "BASE/runs/images", *PIECES)
    clouds = ("--run", "BASE/runs/clouds", "--label", "1", *QUICK)
    return [
        Subject("shards, unfinished", "unfinished", "**/*", ("prepare", "digits", "--workers", "1", "--out", "IN"),
                writes="IN"),
        Subject("folder of samples, unfinished", "samples/pieces", "**/*",
                ("sample", "IN", "--run", "BASE/runs/images", *PIECES), True, "IN"),
        Subject("shard of samples, unfinished", "samples/shard", "**/*", shard, True, "IN"),
        Subject("cloud, inverted", "samples/plys", "cloud-000.ply", ("upsample", "IN/cloud-000.ply", "OUT/out.npz", *clouds)),
        Subject("cloud, rendered", "samples/plys", "cloud-000.ply", ("export", "IN/cloud-000.ply", "OUT/out.png")),
        Subject("image as a condition", "samples/two", "0.png",
                ("sample", "OUT/out.npz", "--run", "BASE/runs/objects", "--image", "IN/0.png", "--num", "1", *QUICK)),
        Subject("statistics as reference", "samples/moments.safetensors", "",
                ("eval", "--samples", "BASE/samples/samples.npz", "--reference", "IN", "--metrics", "fid:random",
                 "--out", "OUT/scores", *QUICK)),
    ]  # fmt: skip


def _proteins() -> list[Subject]:
    """Sequences, structures and a run of proteins."""
    run = ("--run", "BASE/runs/proteins", *QUICK)
    one = ("--sequence", "ACDEFGHIKL", "--num", "1", *QUICK)
    lddt = ("--reference", "BASE/shards/proteins", "--metrics", "lddt,rmsd", *QUICK)
    return [
        Subject("sequences", "raw/sequences/plain.fasta", "", ("sample", "OUT/folded", "--fasta", "IN", *run)),
        Subject("sequences, packed", "raw/sequences/packed.fasta.gz", "",
                ("sample", "OUT/folded", "--format", "cif", "--fasta", "IN", *run), True),
        Subject("run of proteins", "runs/proteins", "**/*", ("sample", "OUT/out.pdb", "--run", "IN", *one)),
        Subject("shards of proteins", "shards/proteins", "*.h5", ("export", "IN", "OUT/out.pdb", "--items", "all"), True),
        Subject("structures, folded before", "samples/folded", "*.pdb",
                ("sample", "IN", "--fasta", "BASE/raw/sequences/plain.fasta", *run), True, "IN"),
        Subject("structures, scored", "raw/structures", "**/*",
                ("eval", "--samples", "IN", *lddt, "--out", "OUT/scores")),
    ]  # fmt: skip


def _functions() -> list[Subject]:
    """Neural functions of the consistency method: images, and scenes in posed views with their radiance fields."""
    one = ("--num", "1", *QUICK)
    scenes = ("train", "--preset", "BASE/scenes.toml", "--stop-at-step", "1", *QUICK)
    preset = ("--preset", "BASE/functions.toml", "--data", "BASE/shards/digits")
    return [
        Subject("shards of scenes", "shards/scenes", "**/*", ("export", "IN", "OUT/out.npz", "--items", "all"), True),
        Subject("shards of scenes, trained on", "shards/scenes", "**/*", (*scenes, "--data", "IN", "--out", "OUT/run")),
        Subject("run of scenes", "runs/scenes", "**/*", ("sample", "OUT/out.npz", "--run", "IN", *one)),
        Subject("run of functions", "runs/functions", "**/*", ("sample", "OUT/out.npz", "--run", "IN", "--steps", "2", *one)),
        Subject("run of functions, resumed", "runs/functions", "**/*",
                ("train", *preset, *QUICK, "--out", "IN", "--set", "training.steps=5")),
        Subject("saved radiance field", "samples/scenes.safetensors", "", ("upsample", "IN", "OUT/out.npz"), True),
        Subject("saved function", "samples/functions.safetensors", "", ("upsample", "IN", "OUT/out.npz"), True),
        Subject("image as a view of a scene", "samples/two", "0.png",
                ("upsample", "IN/0.png", "OUT/out.png", "--run", "BASE/runs/scenes", *QUICK)),
    ]  # fmt: skip


def _networks() -> list[Subject]:
    """Weights of networks that others have trained, as far as they can be run here."""
    views = ("--source", "BASE/raw/views", "--resolution", "28", "--set", "points=50", "--set", "views=1")
    dino = ("prepare", "objaverse", *views, "--set", "weights=IN", "--workers", "1", "--out", "OUT/shards")
    p_fid = ("--samples", "BASE/samples/dense.npz", "--reference", "BASE/samples/dense.npz", "--metrics", "p-fid")
    scored = ("eval", *p_fid, "--weights", "pointnet2=IN", "--out", "OUT/scores", *QUICK)
    found = [Subject("weights of a metric", "weights/pointnet2.safetensors", "", scored)]
    if fuzz_weights.has_transformers():
        found.append(Subject("weights of an embedder", "weights/dinov2", "*.*", dino))
    return found
