"""Exit codes of typical wrong uses."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np

from tests.golden import stored
from tests.golden.program import call
from tests.golden.raw_files import images, laid

RUN = "--run stored/runs/image"
TRAIN = f"train --preset {stored.HERE}/presets/tiny-image.toml --data stored/shards/digits --device cpu"
LINES = {
    "help": "--help",
    "version": "--version",
    "no command": "",
    "unknown command": "trian",
    "unknown option": "sample --sede 3 out.npz",
    "option without a value": "sample out.npz --seed",
    "unknown data set": "prepare digist",
    "no data set": "prepare",
    "raw data absent": "prepare mnist",
    "raw data of another kind": "prepare cifar10 --source raw",
    "unknown setting of a data set": "prepare images --source raw --set resolutoin=8",
    "impossible setting of a data set": "prepare images --source raw --resolution 0",
    "some items unreadable": "prepare images --source raw --resolution 8 --workers 1",
    "damaged shard": "prepare digits --out damaged/shards/digits --limit 24 --workers 1",
    "unknown preset": "train --preset digits-dmeo",
    "preset file absent": "train --preset none.toml",
    "no preset": "train",
    "unknown setting": f"{TRAIN} --out runs/a --set network.num_laters=3",
    "unknown table": f"{TRAIN} --out runs/a --set netwrok.width=3",
    "impossible setting": f"{TRAIN} --out runs/a --set network.width=33",
    "wrong type": f"{TRAIN} --out runs/a --set training.steps=many",
    "shards absent": f"train --preset {stored.HERE}/presets/tiny-image.toml --data nowhere --out runs/a",
    "shards of another domain": f"train --preset {stored.HERE}/presets/tiny-image.toml --data stored/shards/solids --out runs/a",
    "damaged shards in training": f"train --preset {stored.HERE}/presets/tiny-image.toml --data damaged/shards/digits --out runs/a",
    "a run begun otherwise": f"{TRAIN} --out stored/runs/image",
    "a dry run": f"{TRAIN} --out runs/a --dry-run",
    "training that diverges": f"{TRAIN} --out runs/b --set training.learning_rate=1e30 --set training.max_skipped=1",
    "run absent": "sample --run nowhere out.npz",
    "no runs at all": "sample out.npz",
    "unknown suffix": f"sample {RUN} out.xyz",
    "format of another domain": f"sample {RUN} out.ply",
    "unknown sampler": f"sample {RUN} out.npz --sampler hnue",
    "label out of range": f"sample {RUN} out.npz --label 10",
    "checkpoint absent": f"sample {RUN} out.npz --checkpoint 5",
    "average absent": f"sample {RUN} out.npz --ema 0.5",
    "output is there": f"sample {RUN} stored/image/samples.npz",
    "damaged checkpoint": "sample --run damaged/runs/image out.npz",
    "damaged weights": "sample --run damaged/image/weights.safetensors out.npz",
    "a field is no run": "sample --run stored/image/field.safetensors out.npz",
    "weights that are no numbers": "sample --run nan.safetensors out.npz",
    "a sequence for a model of pictures": f"sample {RUN} out.npz --sequence MKT",
    "letters that are no residues": "sample --run stored/runs/protein out.pdb --sequence MKT1",
    "damaged field": "upsample damaged/image/field.safetensors out.npz --scale 2",
    "file to upsample absent": f"upsample {RUN} none.png out.npz --scale 2",
    "unknown metric": "eval --samples stored/image/samples.npz --reference stored/shards/digits --metrics fdi --out out",
    "metric of another domain": "eval --samples stored/image/samples.npz --reference stored/shards/digits --metrics cov --out out",
    "feature weights absent": "eval --samples stored/image/samples.npz --reference stored/shards/digits --metrics fid:clean --out out",
    "samples absent": "eval --samples none.npz --reference stored/shards/digits --out out",
    "damaged samples": "eval --samples damaged/image/samples.h5 --reference stored/shards/digits --out out",
    "nothing to evaluate": "eval --out out",
    "items that do not exist": "export stored/shards/digits out.npz --items 100",
    "split that does not exist": "export stored/shards/digits out.npz --split none",
    "damaged shards in export": "export damaged/shards/digits out.npz",
    "runs": "runs stored/runs",
    "runs in no folder": "runs nowhere",
}
"""Command lines, in a folder with the stored files, with damaged ones and with images of which one is none."""


def codes(folder: Path) -> dict[str, int]:
    """The exit code of every line."""
    stored.copy(folder)
    _damage(stored.copy(folder / "other").rename(folder / "damaged"))
    images(folder / "raw")
    laid(folder, {"nan.safetensors": _without_numbers(stored.STORED / "image" / "weights.safetensors")})
    return {name: call(*line.split(), cwd=folder).code for name, line in LINES.items()}


def _damage(place: Path) -> None:
    """Cut the last byte of every file of data."""
    for path in place.rglob("*"):
        if path.suffix in (".h5", ".npz", ".safetensors"):
            path.write_bytes(path.read_bytes()[:-1])


def _without_numbers(path: Path) -> bytes:
    """A weights file with NaN in every fp32 tensor."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    body = bytearray(content[8 + size :])
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            start, stop = entry["data_offsets"]
            body[start:stop] = np.full((stop - start) // 4, np.nan, "<f4").tobytes()
    return content[: 8 + size] + bytes(body)
