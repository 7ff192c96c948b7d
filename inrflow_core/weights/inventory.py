"""The weights that inrflow knows: those of feature networks, where they are looked for, and the models that come with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from inrflow_core import models, registry
from inrflow_core.errors import InrflowError
from inrflow_core.feature_networks import _hf_folder, _weights_file
from inrflow_core.metrics import _contract as metrics
from inrflow_core.runs import shipped
from inrflow_core.storage import plain_file, safetensors_file

Kind = Literal["network", "folder", "model"]
"""A converted file of a feature network, the folder of an embedder as it is published, or a model that comes with inrflow."""
LICENSE_OF_MODELS = "MIT"
"""Of the models that come with inrflow; each card says what its data are under."""


class Source(NamedTuple):
    """What is published, and where."""

    file: str
    bytes: int | None
    """None if unknown."""
    sha256: str | None
    """None if unknown."""
    page: str
    license: str


@dataclass(frozen=True)
class Entry:
    """The weights of a network, or of a model that comes with inrflow."""

    name: str
    kind: Kind
    use: str
    """What it is for: names of metrics, the conditions that it embeds, a loss, or what a model samples."""
    path: Path
    """The file, or the folder of an embedder; it need not exist."""
    sources: tuple[Source, ...]
    is_there: bool
    sha256: str | None
    """Of the published file that was converted, as the converted file states it; of others, of the weights themselves."""
    published: str | None
    """The published file that was converted."""
    problem: str | None
    """Why it cannot be read, as far as its header says; `verification.check` reads all of it."""


def entries() -> list[Entry]:
    """Every network with weights, by name, then the models that come with inrflow.

    Digests of converted files come from their headers; those of folders and models are computed.
    """
    uses = _metrics_by_network()
    found = []
    for name, path in network_paths().items():
        part: Any = registry.find("feature_networks", name)
        if part.KIND == "embedder":
            found.append(_of_folder(name, part, path))
        else:
            use = ", ".join(uses[name]) if part.KIND == "extractor" else "loss of latent diffusion's autoencoder"
            found.append(_of_network(name, use, part.WEIGHTS, path))
    return found + [_of_model(name) for name in shipped.names()]


def network_paths() -> dict[str, Path]:
    """Where the weights of each feature network that has any are looked for, by name."""
    folder = _weights_file.default_folder()
    paths = {}
    for name, part in registry.parts("feature_networks").items():
        if part.KIND == "embedder":
            paths |= {name: folder / name} if hasattr(part, "EXPECTED") else {}
        elif part.WEIGHTS is not None:
            paths[name] = folder / part.WEIGHTS.file
    return paths


def converted() -> list[_weights_file.Weights]:
    """The weights of networks whose published files are converted, by name."""
    parts = registry.parts("feature_networks").values()
    return [part.WEIGHTS for part in parts if part.KIND != "embedder" and part.WEIGHTS is not None]


def _metrics_by_network() -> dict[str, list[str]]:
    """The titles of the metrics that use each extractor."""
    titles: dict[str, list[str]] = defaultdict(list)
    for name in registry.parts("metrics"):
        metric = metrics.find(name)
        for spec in (spec for protocol in metric.protocols for spec in metric.file.inputs(protocol).features):
            network = registry.canonical("feature_networks", spec.network)
            if metric.title not in titles[network]:
                titles[network].append(metric.title)
    return titles


def _of_network(name: str, use: str, weights: _weights_file.Weights, path: Path) -> Entry:
    sources = tuple(Source(one.file, one.bytes, one.sha256, one.page, one.license) for one in weights.files)
    digest = published = problem = None
    if path.exists():
        try:
            _weights_file.check_header(path, weights)
            metadata = safetensors_file.read_metadata(path)
            digest, published = metadata["published_sha256"], metadata["published"]
        except InrflowError as error:
            problem = error.message
    return Entry(name, "network", use, path, sources, path.exists(), digest, published, problem)


def _of_folder(name: str, part: Any, path: Path) -> Entry:
    expected: _hf_folder.ExpectedNetwork = part.EXPECTED
    sources = (Source(_hf_folder.WEIGHTS, None, None, expected.page, expected.license),)
    digest = problem = None
    if path.exists():
        try:
            digest = _hf_folder.digest(_hf_folder.weights_files(expected, path))
        except InrflowError as error:
            problem = error.message
    return Entry(name, "folder", f"{part.DOMAIN} conditions", path, sources, path.exists(), digest, None, problem)


def _of_model(name: str) -> Entry:
    path = shipped.weights_file(name)
    sources = (Source(path.name, path.stat().st_size, None, f"inrflow_core/shipped/{name}.md", LICENSE_OF_MODELS),)
    digest = problem = None
    use = f"samples, `--model {name}`"
    try:
        use = f"samples of the domain {models.read_metadata(path)[0].domain.name}, `--model {name}`"
        digest = plain_file.file_digest(path)
    except InrflowError as error:
        problem = error.message
    return Entry(name, "model", use, path, sources, True, digest, None, problem)


def find(name: str, entries: Iterable[Entry]) -> Entry | None:
    """The entry of that name; hyphens and underscores are the same. None if there is none."""
    canonical = registry.canonical("feature_networks", name)
    return next((entry for entry in entries if entry.name in (name, canonical)), None)


def present(entries: Sequence[Entry]) -> list[Entry]:
    """Those that are there."""
    return [entry for entry in entries if entry.is_there]
