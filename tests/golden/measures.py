"""What a file holds, as a tree of JSON that can be compared: data alone, neither wording nor metadata.

An array becomes its shape, type, SHA-256 and a few of its values: by the digest it is compared to the bit on the
machine that recorded it, by the values to a tolerance elsewhere. Names of tensors inside weights files are left out,
since they follow the names of the code.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import h5py
import numpy as np

NUM_VALUES = 8
PLY_TYPES = {"float": "<f4", "uchar": "u1", "double": "<f8", "int": "<i4"}
PER_STEP = ("loss", "gradient_norm", "learning_rate", "samples_seen", "skipped", "held_out_loss")
PER_SCORE = ("value", "interval", "samples", "reference")


def array(values: np.ndarray) -> dict[str, Any]:
    """An array by its bytes and some of its values."""
    values = np.ascontiguousarray(values)
    record: dict[str, Any] = {
        "shape": list(values.shape),
        "dtype": str(values.dtype),
        "sha256": hashlib.sha256(values.tobytes()).hexdigest(),
    }
    if (values.dtype.kind == "f" or values.dtype == np.uint8) and values.size:
        flat = values.astype(np.float64).ravel()
        selected = np.unique(np.linspace(0, flat.size - 1, NUM_VALUES).astype(int))
        record |= {"rms": float(np.sqrt(np.mean(flat**2))), "values": flat[selected].tolist()}
    return record


def npz(path: Path) -> dict[str, Any]:
    """The numeric arrays of an .npz file."""
    with np.load(path) as file:
        return {name: array(file[name]) for name in sorted(file.files) if file[name].dtype.kind in "fiub"}


def h5(path: Path) -> dict[str, Any]:
    """Every data set of an HDF5 file by its name; attributes are left out."""
    record: dict[str, Any] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            content = item[()]
            is_text = content.dtype.kind in "SO"
            record[name] = [text.decode() for text in content.tolist()] if is_text else array(content)

    with h5py.File(path) as file:
        file.visititems(note)
    return record


def ply(path: Path) -> dict[str, Any]:
    """The columns and rows of the vertices of a binary .ply file."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = [line.split() for line in head.decode().splitlines()]
    count = next(int(words[2]) for words in lines if words[:2] == ["element", "vertex"])
    columns = [(words[2], PLY_TYPES[words[1]]) for words in lines if words[0] == "property"]
    rows = np.frombuffer(body, np.dtype(columns), count)
    assert len(body) == rows.nbytes
    return {name: array(rows[name]) for name, _ in columns}


def pdb(path: Path) -> dict[str, Any]:
    """The ATOM lines of a .pdb file."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("ATOM")]
    positions = np.array([[float(line[start : start + 8]) for start in (30, 38, 46)] for line in lines])
    labels = [line[:30] for line in lines]
    return {
        "labels": hashlib.sha256("\n".join(labels).encode()).hexdigest(),
        "positions": array(positions),
        "rest": array(np.array([[float(line[54:60]), float(line[60:66])] for line in lines])),
    }


def cif(path: Path) -> dict[str, Any]:
    """The numbers in the ATOM lines of a .cif file."""
    rows = [line.split() for line in path.read_text().splitlines() if line.startswith("ATOM")]
    numbers = [[float(word) for word in row if "." in word and word[-1].isdigit()] for row in rows]
    return {"rows": len(rows), "numbers": array(np.array(numbers))}


def png(path: Path) -> dict[str, Any]:
    """The pixels of an image."""
    from PIL import Image

    with Image.open(path) as image:
        return array(np.asarray(image))


def weights(path: Path) -> dict[str, Any]:
    """The tensors of a .safetensors file, whatever they are called, in the order of their size and digest."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    body = content[8 + size :]
    digests, parts = [], []
    for name, entry in json.loads(content[8 : 8 + size]).items():
        if name == "__metadata__":
            continue
        start, stop = entry["data_offsets"]
        digests.append(f"{entry['dtype']} {entry['shape']} {hashlib.sha256(body[start:stop]).hexdigest()}")
        if entry["dtype"] in ("F32", "F16"):
            parts.append(
                np.frombuffer(body[start:stop], {"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype(np.float64)
            )
    flat = np.concatenate(parts)
    return {
        "tensors": len(digests),
        "numbers": int(flat.size),
        "sha256": hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
        "loose_rms": float(np.sqrt(np.mean(flat**2))),
    }


def shards(folder: Path) -> dict[str, Any]:
    """A folder of shards: what its manifest counts, and the data of every file."""
    manifest = json.loads((folder / "manifest.json").read_text())
    splits = {
        split: {
            "count": entry["count"],
            "counts": [shard["count"] for shard in entry["shards"]],
            "files": [shard["file"] for shard in entry["shards"]],
            "mean": entry["statistics"]["mean"],
            "deviation": entry["statistics"]["deviation"],
        }
        for split, entry in manifest["splits"].items()
    }
    return {
        "domain": manifest["domain"],
        "shape": manifest["shape"],
        "dtype": manifest["dtype"],
        "classes": manifest["classes"],
        "source": manifest["source"],
        "splits": splits,
        "skipped": [[item["split"], item["name"]] for item in manifest["skipped"]],
        "data": {path.name: h5(path) for path in sorted(folder.glob("*.h5"))},
    }


def log(run: Path) -> dict[str, list[float]]:
    """What a run's log says of every step that it names, but for times and memory."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    result = {name: [row[name] for row in rows if name in row] for name in PER_STEP}
    return {name: values for name, values in result.items() if values}


def scores(folder: Path) -> list[list[list[Any]]]:
    """The scores in metrics.json, in the order requested."""
    reported = json.loads((folder / "metrics.json").read_text())
    return [[[score[name] for name in PER_SCORE] for score in result["scores"]] for result in reported["results"]]


BY_SUFFIX = {".npz": npz, ".h5": h5, ".ply": ply, ".pdb": pdb, ".cif": cif, ".png": png, ".safetensors": weights}


def file(path: Path) -> Any:
    """What a file of samples, a field or weights holds, by its suffix."""
    return BY_SUFFIX[path.suffix](path)
