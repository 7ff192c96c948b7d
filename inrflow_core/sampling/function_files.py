"""Export single functions of a saved field: .safetensors files that need neither a run nor inrflow.

A consistency model's function has weights of its own, so that a file of its tensors is all of it. docs/inrct.md has a reader
that needs torch alone.
"""

from __future__ import annotations

from pathlib import Path

from inrflow_core import fields
from inrflow_core.errors import UsageError
from inrflow_core.models import Model
from inrflow_core.networks._contract import PlainFunction
from inrflow_core.sample_files import item_selection
from inrflow_core.sampling import provenance, sample
from inrflow_core.storage import atomic_write, safetensors_file


def is_field_file(path: Path) -> bool:
    """Whether a path is a file that `--save-field` wrote."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    return safetensors_file.read_metadata(path).get("format") == fields.FORMAT


def export_functions(source: Path, out: Path, *, items: str | None = None, overwrite: bool = False) -> list[Path]:
    """Write functions of a saved field, one file each; returns the files.

    Args:
        items: their numbers, as in `3` or `0-9`; None selects the first 16.
        out: the file, or with several functions the name of numbered ones.

    Raises:
        MissingError, IntegrityError: the field does not exist, or is damaged.
        UsageError: its functions have no weights of their own, as those of a flow; there are fewer; a file exists.
    """
    model, field = sample.load_field(source, "cpu")
    if not hasattr(field, "plain_function"):
        raise UsageError(
            f"the functions of `{source}` have no weights of their own: `{model.preset.method.name}` evaluates them by all "
            "steps of its solver",
            hint="evaluate the field with `inrflow upsample`, or export functions of a consistency model",
        )
    numbers = item_selection.parse_indices(items, len(field.seeds))
    paths = atomic_write.numbered_paths(out, len(numbers))
    for path in paths:
        atomic_write.check_writable(path, overwrite=overwrite)
    for path, number in zip(paths, numbers, strict=True):
        function: PlainFunction = field.plain_function(number, getattr(model.domain.config, "value_scale", 1.0))
        metadata = {**_metadata(model, source), **function.settings, "seed": str(int(field.seeds[number]))}
        tensors = {name: tensor.float().contiguous() for name, tensor in sorted(function.tensors.items())}
        safetensors_file.write_with_digest(path, safetensors_file.layout(tensors), tensors.values, metadata)
    return paths


def _metadata(model: Model, source: Path) -> dict[str, str]:
    """Provenance, and the domain with its settings, such as the resolution of training."""
    origin = provenance.provenance_of_file(source, model, None)
    settings = {name: str(value) for name, value in vars(model.domain.config).items() if name != "value_scale"}
    return {"format": fields.FUNCTION_FORMAT, "domain": model.domain.NAME, **settings, **origin}
