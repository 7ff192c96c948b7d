"""Provenance of samples: which run, seed and settings made them, written into every output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from inrflow_core import __version__
from inrflow_core.models import Model, SamplingOptions
from inrflow_core.sampling.request import SampleRequest, Size
from inrflow_core.storage import plain_file


def provenance(
    model: Model, source: Path | None, request: SampleRequest, options: SamplingOptions, guide: Path | None = None
) -> dict[str, str]:
    """The origin of samples, for their files; independent of time and machine.

    `source` and `guide` are the weights files of the model and of the one that guides it; without them it has no digest.
    """
    seeds = list(request.seeds)
    origin = {
        **provenance_of_file(source, model, request.size),
        "seeds": str(seeds[0]) if seeds[0] == seeds[-1] else f"{seeds[0]}-{seeds[-1]}",
        **options.provenance(None if guide is None else plain_file.file_digest(guide)[:16]),
    }
    if request.labels is not None:
        origin["labels"] = " ".join(str(label) for label in list(request.labels)[:64])
    if request.window is not None:
        origin["window"] = ",".join(f"{edge:g}" for edge in request.window)
    return origin


def per_sample_metadata(model: Model, request: SampleRequest) -> list[dict[str, str]]:
    """Metadata of each sample in addition to the common origin: its seed, its label and the class's name, its text."""
    names = list(model.metadata.get("classes") or [])
    labels = [-1] * len(request.seeds) if request.labels is None else request.labels
    entries = [{}] * len(request.seeds) if request.entries is None else request.entries
    return [
        {
            "seed": str(seed),
            **({} if request.labels is None else {"label": str(label)}),
            **({"class": str(names[label])} if 0 <= label < len(names) else {}),
            **own,
        }
        for seed, label, own in zip(request.seeds, labels, entries, strict=True)
    ]


def caption(metadata: Mapping[str, str]) -> str:
    """What an image of a sample says of it, from its metadata: class or text, then the seed."""
    label = metadata.get("label", "-1")
    named = metadata.get("class") or metadata.get("text") or (f"class {label}" if int(label) >= 0 else "")
    return ", ".join(part for part in (named, f"seed {metadata['seed']}") if part)


def provenance_of_file(source: Path | None, model: Model, size: Size) -> dict[str, str]:
    """The part of an origin that depends on the weights file or saved field, and the size; None: its digest is left out."""
    text = "x".join(str(side) for side in size) if isinstance(size, tuple) else str(size or "training")
    return {
        "inrflow": __version__,
        "preset": model.preset.name,
        "step": str(model.metadata.get("step", "unknown")),
        **({} if source is None else {"weights": plain_file.file_digest(source)[:16]}),
        "size": text,
    }


def shared_settings(origin: Mapping[str, str]) -> dict[str, str]:
    """The part of an origin that all samples of a shard have in common."""
    return {key: value for key, value in origin.items() if key not in ("seeds", "labels")}
