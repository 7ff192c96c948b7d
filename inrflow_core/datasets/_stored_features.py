"""Shared by the data sets of images, sequences and texts: the embedder of their settings, and its provenance."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from inrflow_core import registry
from inrflow_core.errors import MissingError


def check(name: str, domain: str, allowed: str) -> None:
    """Check that an embedder reads the data set's `domain`: `image`, `sequence` or `text`.

    Raises:
        UsageError: there is no such embedder.
        ValueError: it reads something else.
    """
    if domain != registry.find("feature_networks", name).DOMAIN:
        raise ValueError(f"`embedder` is `{name}`, which reads no {domain}s: allowed are {allowed}")


def embedder(config: Any) -> Any:
    """The embedder of a data set's `embedder` and `weights`, once in each process: ESM-2 of 650M takes 2.6 GB.

    Raises:
        MissingError, IntegrityError, UsageError: as `_contract.load`.
    """
    return _loaded(config.embedder, config.weights)


def origin(config: Any, placeholder: str) -> dict[str, str]:
    """The embedder of the tokens and its digest, for the manifest; empty if training computes the tokens.

    Raises:
        MissingError: the weights are absent; the hint names a placeholder.
    """
    return {} if config.features == "online" else stored_origin(config, placeholder)


def stored_origin(config: Any, placeholder: str) -> dict[str, str]:
    """The embedder of stored tokens and its digest; raises MissingError as `origin`."""
    try:
        network = embedder(config)
    except MissingError as error:
        raise MissingError(
            error.message,
            hint=f"{error.hint}; `--set embedder={placeholder}` is a placeholder without weights, with weaker features",
        ) from error
    return {"embedder": network.name, "embedder_digest": network.digest}


@functools.cache
def _loaded(name: str, weights: str | None) -> Any:
    from inrflow_core.feature_networks import _contract

    return _contract.load(name, None if weights is None else Path(weights))
