"""Options of what samples are conditioned on: an image and its camera, sequences, texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from inrflow_cli.options import reject_options
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from inrflow_core.fields import Camera
    from inrflow_core.models import Model
    from inrflow_core.sampling.sample_to_files import InputCondition

FIRST_VIEW = (0.0, 0.0, 3.5, 40.0)
"""Default azimuth, elevation, distance and field of view of the camera of an image: the first view of INRFlow."""
FORMAT = "pdb"

Image = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Sample point clouds of the object in this image; transparency becomes white."),
]
Sequence = Annotated[str | None, typer.Option(metavar="LETTERS", help="Fold this sequence of amino acids.")]
Fasta = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Fold every sequence of a FASTA file; OUT is then a folder.")
]
Text = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help='Sample what this text describes, as in "a low wide table"; an empty text samples without one.',
    ),
]
Texts = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Texts, one a line; a seed takes text number `seed` modulo their number."),
]
Format = Annotated[str, typer.Option("--format", metavar="pdb|cif", help="Format of the files that `--fasta` writes.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Weights of the network that encodes images, sequences or texts. Default: weights/NAME."
    ),
]


class ConditionOptions(NamedTuple):
    """Values of the options that condition samples."""

    image: Path | None
    sequence: str | None
    fasta: Path | None
    camera: tuple[float, float, float, float]
    """Azimuth, elevation, distance and field of view of the image's camera."""
    weights: Path | None
    text: str | None = None
    texts: Path | None = None

    @property
    def values(self) -> dict[str, Path | str]:
        """The options that are set, with their values."""
        options = {
            **{"--image": self.image, "--sequence": self.sequence, "--fasta": self.fasta},
            **{"--text": self.text, "--texts": self.texts},
        }
        return {option: value for option, value in options.items() if value is not None}

    @property
    def conditioner(self) -> str | None:
        """The conditioner that the run must have; None if no option is set."""
        from inrflow_core.conditioners._contract import conditioner_of_option

        return next((conditioner_of_option(option) for option in self.values), None)


def check(options: ConditionOptions, label: str | None, form: str) -> None:
    """Raise UsageError for two conditions, or for an option that does not apply to the given one."""
    names = [f"`{option}`" for option in (*options.values, *(["--label"] if label is not None else []))]
    if len(names) > 1:
        raise UsageError(f"{' and '.join(names)} exclude each other", hint="give one of them")
    if not options.values:
        reject_options({"--weights": options.weights}, "needs `--image`, `--sequence`, `--fasta` or a text")
    if options.fasta is None and form != FORMAT:
        raise UsageError(
            f"`--format {form}` applies to `--fasta`, which is not given", hint="the suffix of OUT sets the format"
        )


def image_camera(camera: Camera) -> tuple[float, float, float, float]:
    """Azimuth, elevation, distance and field of view of the camera of an image, where left out those of the first view."""
    azimuth, elevation, distance, field_of_view = (
        usual if number is None else number for number, usual in zip(camera, FIRST_VIEW, strict=True)
    )
    return azimuth, elevation, distance, field_of_view


def condition_from_options(model: Model, options: ConditionOptions) -> InputCondition:
    """The condition of the options; empty if none is set."""
    from inrflow_core.conditioners._contract import conditioner_part
    from inrflow_core.sampling import condition_inputs
    from inrflow_core.sampling.sample_to_files import InputCondition

    name = options.conditioner
    if name is None:
        return InputCondition()
    device = str(next(model.method.parameters()).device)
    encode = condition_inputs.make_encoder(model, name, options.weights, device)
    part, values = conditioner_part(name), options._asdict()
    value = part.input_from_options(values)
    return InputCondition(encode(value), part.provenance(values), part.sample_entries(value), part.input_notes(value))


def check_folder(out: Path, form: str) -> Path:
    """A file name in the folder that `--fasta` writes, with the suffix of the format.

    Raises:
        UsageError: an unknown format, or OUT is a file.
    """
    if form not in ("pdb", "cif"):
        raise UsageError(f"unknown format of structures `{form}`", hint="choose pdb or cif")
    if out.is_file() or out.suffix in (".pdb", ".cif", ".png", ".h5"):
        raise UsageError(f"`--fasta` writes into a folder, and `{out}` is a file", hint="name a folder")
    return out / f"name.{form}"
