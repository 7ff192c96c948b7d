"""What samples are drawn under, as a user gives it: a photo with its camera, a sequence, a FASTA file, sets of shards.

Each becomes a `Condition` with one row, by the embedder that the model was trained with; `repeated` makes it one row for
each seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from inrflow_core import embedders, picture_tokens, registry, residues
from inrflow_core.datasets._images import converted
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.models import Model
from inrflow_core.sets import Condition
from inrflow_core.shards import Shards, Wanted

PATCH = 14
"""Pixels of a patch's side, to which a photo is resized: DINOv2's, and 448 of 32 patches in the paper."""


def of_photo(
    model: Model, path: Path, camera: Float32[np.ndarray, "4 4"], weights: Path | None = None, device: str = "cpu"
) -> Condition:
    """The condition of a photo, seen by a camera (`cameras.orbit`).

    Raises:
        UsageError: the model draws from no photo, or the file is no picture.
        MissingError: the photo, or the weights of the model's embedder, are not there.
        IntegrityError: the embedder's weights are not those that the model was trained with.
    """
    part = model.preset.condition
    if part is None or part.name != "picture":
        raise UsageError(
            f"the model `{model.preset.name}` draws from no photo",
            hint="leave `--image` out, or choose another `--run`",
        )
    pixels = photo(path, PATCH * math.isqrt(part.config.tokens))
    embedder = embedder_of(model, weights, device)
    images = torch.from_numpy(pixels)[None].to(device)
    found = picture_tokens.tokens(embedder, images, torch.from_numpy(camera)[None].to(device))
    if found.shape[1:] != (part.config.tokens, part.config.width + picture_tokens.RAY):
        raise UsageError(
            f"`{part.config.embedder}` makes {found.shape[1]} tokens of {embedder.width} numbers, and the model "
            f"`{model.preset.name}` learned from {part.config.tokens} of {part.config.width}",
            hint="give the weights that it was trained with",
        )
    return {"tokens": found}


def photo(path: Path, side: int) -> UInt8[np.ndarray, "R R 3"]:
    """A picture file as a square of `side` pixels: on white where it is transparent, with white beside a long one.

    Photographs are turned as their EXIF says.

    Raises:
        MissingError: there is no such file.
        UsageError: it is no picture.
    """
    if not path.is_file():
        raise MissingError(f"the photo `{path}` does not exist", hint="name a picture, such as a .png or .jpg file")
    try:
        with Image.open(path) as opened:
            whole = converted(ImageOps.exif_transpose(opened), "RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"`{path}` is no picture that can be read", hint="give a whole .png or .jpg file") from error
    width, height = (max(1, round(side * length / max(whole.size))) for length in whole.size)
    small = whole.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    square = Image.new("RGB", (side, side), "white")
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    return np.array(square)


def of_sequence(model: Model, sequence: str, weights: Path | None = None, device: str = "cpu") -> Condition:
    """The condition of a sequence of amino acids, in one-letter codes; see `sequence_reader`."""
    return sequence_reader(model, weights, device)(sequence)


def sequence_reader(model: Model, weights: Path | None = None, device: str = "cpu") -> Callable[[str], Condition]:
    """What makes the conditions of sequences of amino acids, in one-letter codes, with an embedder that is loaded once.

    It raises UsageError where a letter is none of the 20.

    Raises:
        UsageError: the model folds no sequences.
        MissingError, IntegrityError: as `of_photo`.
    """
    part = model.preset.condition
    if part is None or part.name != "sequence":
        raise UsageError(
            f"the model `{model.preset.name}` folds no sequences",
            hint="leave `--sequence` and `--fasta` out, or choose another `--run`",
        )
    name, width = part.config.embedder, part.config.width
    is_stand_in = embedders.find(name, weights) is None
    embedder = None if is_stand_in else embedder_of(model, weights, device)
    if embedder is not None and embedder.width != width:
        raise UsageError(
            f"`{name}` tells {embedder.width} numbers of a residue, and the model `{model.preset.name}` learned from {width}",
            hint="give the weights that it was trained with",
        )

    def read(sequence: str) -> Condition:
        codes = residues.codes("".join(sequence.split()))
        condition = {"residues": torch.from_numpy(codes.astype(np.int64))[None]}
        if embedder is None:
            return condition
        (features,) = embedder([residues.sequence(codes)])
        return condition | {"embedding": torch.from_numpy(features)[None]}

    return read


def embedder_of(model: Model, weights: Path | None, device: str) -> Any:
    """The embedder that a model was trained with, by the weights in a folder, else where its preset or `find` says.

    Raises:
        MissingError: its weights are not there.
        IntegrityError: they are not those that the model was trained with.
    """
    assert model.preset.condition is not None
    config = model.preset.condition.config
    name = config.embedder
    if weights is None and config.weights is not None and Path(config.weights).is_dir():
        weights = Path(config.weights)
    embedder = embedders.load(name, weights, device)
    wanted = (model.info.get("normalisation") or {}).get("embedder_digest")
    if wanted is not None and wanted != embedder.digest:
        raise IntegrityError(
            f"the weights of `{name}` have the digest {embedder.digest[:16]}, and `{model.preset.name}` was trained with "
            f"{wanted[:16]}",
            hint="name the folder of those weights with `--weights`",
        )
    return embedder


def read_fasta(path: Path) -> list[tuple[str, str]]:
    """The names and sequences of a FASTA file, in order; a name is the first word behind `>`.

    Raises:
        MissingError: there is no such file.
        UsageError: it holds no sequence, an empty one, letters that are no amino acid, something before the first name,
            or two of one name.
    """
    if not path.is_file():
        raise MissingError(f"the FASTA file `{path}` does not exist", hint="name a file of sequences")
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is no text", hint="give a FASTA file") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(">"):
            words = line[1:].split()
            name = words[0] if words else f"sequence-{len(found) + 1}"
            if name in found:
                raise UsageError(f"`{path}` has two sequences named `{name}`, line {number}", hint="name them apart")
            lines = found[name] = []
        elif line.strip() and lines is None:
            raise UsageError(f"`{path}` begins without a name, line {number}", hint="put a line `>NAME` before it")
        elif lines is not None:
            lines.append("".join(line.split()))
    if not found:
        raise UsageError(f"`{path}` holds no sequence", hint="a sequence is a line `>NAME` and lines of letters")
    sequences = {name: "".join(parts).removesuffix("*") for name, parts in found.items()}
    for name, sequence in sequences.items():
        if not sequence:
            raise UsageError(f"the sequence `{name}` in `{path}` is empty", hint="give it letters, or take it out")
        try:
            residues.codes(sequence)
        except UsageError as error:
            raise UsageError(f"`{name}` in `{path}`: {error.message}", hint=error.hint) from error
    return list(sequences.items())


def of_items(model: Model, shards: Shards, split: str, indices: Sequence[int], view: int = 0) -> Condition:
    """The conditions of sets of shards, one row for each; of those with several views, that view.

    Raises:
        UsageError: the shards lack what the model draws from.
        MissingError, IntegrityError: as `embedder_of`, where the model makes its features itself.
    """
    part = model.preset.condition
    assert part is not None
    if getattr(part.config, "features", None) == "online" and not model.method.conditioner.is_ready:
        model.method.conditioner.use(embedder_of(model, None, str(next(model.method.parameters()).device)))
    conditioner = registry.find("conditioners", part.name or "")
    names = (*getattr(model.domain, "READS", ()), *conditioner.reads(part.config))
    views = None
    if getattr(conditioner, "HAS_VIEWS", False) and names:
        views = np.full(len(indices), (view + 0.5) / shards.views(split, names[0]))
    read = shards.read(split, indices, conditions=Wanted(names, views))
    sets = model.domain.to_set(read.values, torch.arange(len(indices)), None, read=read)
    return {
        name: value
        for name, value in sets.condition.items()
        if name in ("tokens", "image", "camera", "residues", "embedding")
    }


def repeated(condition: Condition, count: int) -> dict[str, torch.Tensor]:
    """A condition of one row as one of `count` equal rows."""
    return {name: value.expand(count, *value.shape[1:]) for name, value in condition.items()}
