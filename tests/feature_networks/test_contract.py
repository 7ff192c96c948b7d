"""Every feature network declares its kind and keeps the contract of that kind (`feature_networks/_contract.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _contract
from inrflow_core.feature_networks._weights_file import Weights


@pytest.mark.parametrize("name", registry.names("feature_networks"))
def test_every_file_has_the_members_of_its_kind(name: str):
    file: Any = registry.find("feature_networks", name)
    assert callable(file.load)
    if file.KIND == "embedder":
        assert file.DOMAIN in ("image", "sequence", "text") and isinstance(file.IS_PLACEHOLDER, bool)
        assert not {"OUTPUTS", "PREPROCESSING", "WEIGHTS"} & set(vars(file))
        return
    if file.KIND == "distance":
        assert file.DOMAIN == "image" and isinstance(file.WEIGHTS, Weights) and file.WEIGHTS.name == name
        assert not {"OUTPUTS", "PREPROCESSING", "FILES"} & set(vars(file))
        return
    assert file.KIND == "extractor" and file.DOMAIN in ("image", "points", "text", "video")
    part = _contract.find_extractor(name)
    assert part.outputs and all(width > 0 for width in file.OUTPUTS.values()) and file.PREPROCESSING
    assert (part.num_points > 0) == (part.domain == "points")
    assert part.needs_weights == isinstance(file.WEIGHTS, Weights)
    if part.needs_weights:
        assert name == file.WEIGHTS.name and set(file.FILES) == set(file.PREPROCESSING)


def test_all_kinds_together_are_all_networks():
    kinds: list[_contract.Kind] = ["embedder", "extractor", "distance"]
    names = [name for kind in kinds for name in _contract.names(kind)]
    assert sorted(names) == registry.names("feature_networks")


def test_a_network_of_the_other_kind_is_refused():
    with pytest.raises(UsageError, match="`dinov2` embeds conditions"):
        _contract.find_extractor("dinov2")
    with pytest.raises(UsageError, match="`clip` is a network of metrics"):
        _contract.load("clip", Path("here"))
    with pytest.raises(UsageError, match="`lpips` is a loss of training"):
        _contract.find_extractor("lpips")
    with pytest.raises(UsageError, match="`clip` is a network of metrics"):
        _contract.find_distance("clip")
