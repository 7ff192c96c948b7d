"""What `sample` is given beside seeds: a photo and its camera, a sequence, a file of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from inrflow_core.generate import Request
    from inrflow_core.models import Model

SAFE = "-_.+"
"""What a file's name may hold beside letters and digits."""

Photo = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw clouds of what this photo shows; transparent parts count as white."),
]
Azimuth = Annotated[float, typer.Option(help="Degrees of the photo's camera about the y axis; 0 looks from +z.")]
Elevation = Annotated[float, typer.Option(help="Degrees of the camera above the ground.")]
Distance = Annotated[float, typer.Option(min=0.1, help="Of the camera, in units of half the object's box.")]
FieldOfView = Annotated[float, typer.Option("--fov", min=1, max=170, help="Degrees that the photo spans.")]
Sequence = Annotated[str | None, typer.Option(metavar="LETTERS", help="Fold this sequence of amino acids.")]
Fasta = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Fold every sequence of a FASTA file; OUT is then a folder.")
]
Form = Annotated[str, typer.Option("--format", metavar="pdb|cif", help="What `--fasta` writes into its folder.")]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Weights of the network that reads photos or sequences. Default: weights/NAME."),
]


def check(image: Path | None, sequence: str | None, fasta: Path | None, label: str | None) -> None:
    """Nothing, where at most one thing to draw from is given.

    Raises:
        UsageError: two of them.
    """
    given = [
        f"`{option}`"
        for option, value in (("--image", image), ("--sequence", sequence), ("--fasta", fasta), ("--label", label))
        if value is not None
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", hint="draw from one of them")


def of_options(
    model: Model,
    image: Path | None,
    sequence: str | None,
    camera: tuple[float, float, float, float],
    weights: Path | None,
) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """The condition that the options give, one row, and how samples tell of it; nothing where none is given.

    `camera` is azimuth, elevation, distance and field of view.
    """
    from inrflow_core import asked, cameras, shards

    device = str(next(model.method.parameters()).device)
    if image is not None:
        azimuth, elevation, distance, field_of_view = camera
        seen = cameras.orbit(azimuth, elevation, distance, field_of_view=field_of_view)
        condition = asked.of_photo(model, image, seen, weights, device)
        return condition, {"image": shards.digest(image)[:16], "camera": " ".join(f"{number:g}" for number in camera)}
    if sequence is not None:
        return asked.of_sequence(model, sequence, weights, device), {"sequence": sequence}
    return {}, {}


def repeated(condition: Mapping[str, Tensor], count: int) -> Mapping[str, Tensor]:
    """One row for each of `count` samples."""
    from inrflow_core import asked

    return asked.repeated(condition, count)


def check_folder(out: Path, form: str) -> Path:
    """The name of a file in the folder that `--fasta` writes, by which a run is chosen.

    Raises:
        UsageError: the format is none of the two, or OUT is a file.
    """
    if form not in ("pdb", "cif"):
        raise UsageError(f"`--format {form}`: structures are written as pdb or cif", hint="give one of them")
    if out.is_file() or out.suffix in (".pdb", ".cif", ".png", ".h5"):
        raise UsageError(f"`{out}` is a file, and `--fasta` writes into a folder", hint="name a folder")
    return out / f"name.{form}"


def fold(
    model: Model,
    source: Path,
    request: Request,
    how: Any,
    fasta: Path,
    out: Path,
    form: str,
    weights: Path | None,
    *,
    overwrite: bool,
) -> list[Path]:
    """Fold every sequence of a FASTA file, each with the seeds of the request, into one file of the folder `out`.

    A file of the same origin that is there already is kept: a stopped call goes on by the same command.
    """
    from inrflow_cli import console
    from inrflow_core import asked, exporters, generate, structure_files

    sequences = asked.read_fasta(fasta)
    device = str(next(model.method.parameters()).device)
    told = [asked.of_sequence(model, sequence, weights, device) for _, sequence in sequences]
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with console.progress(len(sequences), "sequences", title="folding") as shown:
        for (name, sequence), condition in zip(sequences, told, strict=True):
            path = out / f"{safe(name)}.{form}"
            mine = replace(request, condition=asked.repeated(condition, len(request.seeds)))
            origin = {**generate.origin(model, source, mine, how), "sequence": sequence}
            if overwrite or not path.is_file():
                parts = generate.samples(model, mine, how)
                drawn = generate.together([generate.finished(model, mine, *part) for part in parts])
                exporters.write(path, drawn, model.domain.NAME, origin=origin, overwrite=overwrite)
            elif not structure_files.is_of(path, origin):
                raise UsageError(f"`{path}` was drawn otherwise", hint="add `--overwrite`, or choose another folder")
            written.append(path)
            shown.advance(1)
    return written


def safe(name: str) -> str:
    """A sequence's name as that of a file: whatever could lead elsewhere becomes `_`."""
    kept = "".join(letter if letter.isalnum() or letter in SAFE else "_" for letter in name)
    return kept.lstrip(".")[:128] or "_"
