"""What `sample` is given beside seeds: a photo and its camera, a sequence, a file of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from inrflow_core.models import Model
    from inrflow_core.sampling.request import SampleRequest

SAFE = "-_.+"
"""What a file's name may hold beside ASCII letters and digits."""

CAMERA = (0.0, 0.0, 3.5, 40.0)
"""Azimuth, elevation, distance and field of view of the camera, unless said otherwise: the paper's first."""
FORM = "pdb"

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


class ConditionOptions(NamedTuple):
    """What samples are to be drawn from, as the options say it."""

    image: Path | None
    sequence: str | None
    fasta: Path | None
    camera: tuple[float, float, float, float]
    """Azimuth, elevation, distance and field of view."""
    weights: Path | None

    @property
    def wanted(self) -> tuple[str | None, str | None]:
        """The domain and the condition of the run to draw from; None where nothing is said of them."""
        if self.image is not None:
            return "points", "image"
        is_sequence = self.sequence is not None or self.fasta is not None
        return ("protein", "sequence") if is_sequence else (None, None)


def check(given: ConditionOptions, label: str | None, form: str) -> None:
    """Nothing, where at most one thing to draw from is given, and no option that says nothing about it.

    Raises:
        UsageError: two of them, or an option without what it is for.
    """
    options = {"--image": given.image, "--sequence": given.sequence, "--fasta": given.fasta, "--label": label}
    named = [f"`{option}`" for option, value in options.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", hint="draw from one of them")
    if given.weights is not None and given.wanted == (None, None):
        raise UsageError("`--weights` are of what reads a photo or a sequence, and none is given", hint="leave it out")
    if given.image is None and given.camera != CAMERA:
        raise UsageError(
            "`--azimuth`, `--elevation`, `--distance` and `--fov` are of a photo's camera, and no photo is given",
            hint="add `--image FILE`, or leave them out",
        )
    if given.fasta is None and form != FORM:
        raise UsageError(
            f"`--format {form}` is what `--fasta` writes into its folder, and none is given",
            hint="the suffix of OUT says what else is written",
        )


def condition_from_options(model: Model, given: ConditionOptions) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """The condition that the options give, one row, and how samples tell of it; nothing where none is given."""
    from inrflow_core.geometry import cameras
    from inrflow_core.sampling import condition_inputs
    from inrflow_core.storage import checksum

    device = str(next(model.method.parameters()).device)
    if given.image is not None:
        azimuth, elevation, distance, field_of_view = given.camera
        seen = cameras.orbit(azimuth, elevation, distance, field_of_view=field_of_view)
        condition = condition_inputs.condition_from_image(model, given.image, seen, given.weights, device)
        told = {
            "image": checksum.file_digest(given.image)[:16],
            "camera": " ".join(f"{number:g}" for number in given.camera),
        }
        return condition, told
    if given.sequence is not None:
        sequence = "".join(given.sequence.split()).upper()
        return condition_inputs.condition_from_sequence(model, sequence, given.weights, device), {"sequence": sequence}
    return {}, {}


def repeated(condition: Mapping[str, Tensor], count: int) -> Mapping[str, Tensor]:
    """One row for each of `count` samples."""
    from inrflow_core.sampling import condition_inputs

    return condition_inputs.repeat_condition(condition, count)


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
    given: ConditionOptions,
    request: SampleRequest,
    how: Any,
    named: Path,
    origin: Mapping[str, str],
    *,
    overwrite: bool,
) -> list[Path]:
    """Fold every sequence of a FASTA file, each with the seeds of the request, into one file beside `named`, of its kind.

    A file of the same origin that is there already is kept: a stopped call goes on by the same command.

    Raises:
        UsageError: two names make one file, or a file is there that was drawn otherwise; found before anything is drawn.
    """
    from inrflow_cli import console, generation
    from inrflow_core.proteins import fasta
    from inrflow_core.sample_files import writer
    from inrflow_core.sampling import condition_inputs, sample

    room = generation.query_budget(request.chunk)
    assert given.fasta is not None
    sequences = fasta.read_fasta(given.fasta)
    files = output_paths([name for name, _ in sequences], named)
    origins = [{**origin, "sequence": sequence.upper()} for _, sequence in sequences]
    missing = [i for i, path in enumerate(files) if overwrite or not _is_drawn(path, origins[i])]
    read = condition_inputs.make_sequence_encoder(model, given.weights, str(next(model.method.parameters()).device))
    named.parent.mkdir(parents=True, exist_ok=True)
    if len(missing) < len(files):
        console.info(f"{len(files) - len(missing):,} of {len(files):,} sequences are folded already")
    with console.progress(len(missing), "sequences", title="folding") as shown:
        for place in missing:
            mine = replace(
                request, condition=condition_inputs.repeat_condition(read(sequences[place][1]), len(request.seeds))
            )
            drawn = [values for _, values in sample.iter_samples(model, mine, how, room=room)]
            writer.write(
                files[place], sample.concatenate(drawn), model.domain.NAME, origin=origins[place], overwrite=overwrite
            )
            shown.advance(1)
    return files


def output_paths(names: list[str], named: Path) -> list[Path]:
    """The file of each sequence, beside `named` and of its kind.

    Raises:
        UsageError: two of them would be one.
    """
    found: dict[str, str] = {}
    for name in names:
        file = f"{safe_filename(name)}{named.suffix}"
        first = found.setdefault(file, name)
        if first != name:
            raise UsageError(
                f"the sequences `{first}` and `{name}` would both become `{file}`", hint="rename one of them"
            )
    return [named.with_name(f"{safe_filename(name)}{named.suffix}") for name in names]


def _is_drawn(path: Path, origin: Mapping[str, str]) -> bool:
    """Whether a file holds what would be drawn.

    Raises:
        UsageError: it is there and holds something else.
    """
    from inrflow_core.proteins import structure_writer

    if not path.exists():
        return False
    if not path.is_file() or not structure_writer.has_provenance(path, origin):
        raise UsageError(f"`{path}` was drawn otherwise", hint="add `--overwrite`, or choose another folder")
    return True


def safe_filename(name: str) -> str:
    """A sequence's name as that of a file: whatever could lead elsewhere, or is not ASCII, becomes `_`."""
    kept = "".join(letter if letter.isascii() and (letter.isalnum() or letter in SAFE) else "_" for letter in name)
    return kept.lstrip(".")[:128] or "_"
