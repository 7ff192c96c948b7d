"""Options of what samples are conditioned on: an image and its camera, a sequence, a file of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from inrflow_cli.options import reject_options
from inrflow_core.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from inrflow_core.models import Model

CAMERA = (0.0, 0.0, 3.5, 40.0)
"""Default azimuth, elevation, distance and field of view of the camera: the first view of the paper."""
FORMAT = "pdb"

Image = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Sample point clouds of the object in this image; transparency becomes white."),
]
Azimuth = Annotated[float, typer.Option(help="Azimuth of the image's camera in degrees; 0 looks from +z.")]
Elevation = Annotated[float, typer.Option(help="Elevation of the camera in degrees.")]
Distance = Annotated[float, typer.Option(min=0.1, help="Distance of the camera; the object's box is [-1, 1].")]
FieldOfView = Annotated[float, typer.Option("--fov", min=1, max=170, help="Field of view of the camera in degrees.")]
Sequence = Annotated[str | None, typer.Option(metavar="LETTERS", help="Fold this sequence of amino acids.")]
Fasta = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Fold every sequence of a FASTA file; OUT is then a folder.")
]
Format = Annotated[str, typer.Option("--format", metavar="pdb|cif", help="Format of the files that `--fasta` writes.")]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Weights of the network that encodes images or sequences. Default: weights/NAME."),
]


class ConditionOptions(NamedTuple):
    """Values of the options that condition samples."""

    image: Path | None
    sequence: str | None
    fasta: Path | None
    camera: tuple[float, float, float, float]
    """Azimuth, elevation, distance and field of view."""
    weights: Path | None

    @property
    def wanted(self) -> tuple[str | None, str | None]:
        """The domain and the condition that the run must have; None if the options do not determine them."""
        if self.image is not None:
            return "points", "image"
        is_sequence = self.sequence is not None or self.fasta is not None
        return ("protein", "sequence") if is_sequence else (None, None)


def check(given: ConditionOptions, label: str | None, form: str) -> None:
    """Raise UsageError for two conditions, or for an option that does not apply to the given one."""
    conditions = {"--image": given.image, "--sequence": given.sequence, "--fasta": given.fasta, "--label": label}
    named = [f"`{option}`" for option, value in conditions.items() if value is not None]
    if len(named) > 1:
        raise UsageError(f"{' and '.join(named)} exclude each other", hint="give one of them")
    if given.wanted == (None, None):
        reject_options({"--weights": given.weights}, "needs `--image`, `--sequence` or `--fasta`")
    if given.image is None and given.camera != CAMERA:
        raise UsageError(
            "`--azimuth`, `--elevation`, `--distance` and `--fov` describe the camera of `--image`, which is not given",
            hint="add `--image FILE`, or leave them out",
        )
    if given.fasta is None and form != FORMAT:
        raise UsageError(
            f"`--format {form}` applies to `--fasta`, which is not given", hint="the suffix of OUT sets the format"
        )


def condition_from_options(model: Model, given: ConditionOptions) -> tuple[Mapping[str, Tensor], dict[str, str]]:
    """The condition (one row) and its entries in the provenance; both are empty if no condition is given."""
    from inrflow_core.geometry import cameras
    from inrflow_core.sampling import condition_inputs
    from inrflow_core.storage import plain_file

    device = str(next(model.method.parameters()).device)
    if given.image is not None:
        azimuth, elevation, distance, field_of_view = given.camera
        camera = cameras.orbit(azimuth, elevation, distance, field_of_view=field_of_view)
        condition = condition_inputs.condition_from_image(model, given.image, camera, given.weights, device)
        metadata = {
            "image": plain_file.file_digest(given.image)[:16],
            "camera": " ".join(f"{number:g}" for number in given.camera),
        }
        return condition, metadata
    if given.sequence is not None:
        sequence = "".join(given.sequence.split()).upper()
        return condition_inputs.condition_from_sequence(model, sequence, given.weights, device), {"sequence": sequence}
    return {}, {}


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
