"""Every metric keeps the contract of inrflow_core/metrics: its names are those of networks, distances and units that there are."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics._inputs import (
    CloudSpec,
    DistanceSpec,
    FeatureSpec,
    ImagePairSpec,
    MatchedFeatureSpec,
    StructureSpec,
    features_of,
)
from inrflow_core.proteins import residue_alignment

METRICS = registry.names("metrics")
EVERY = [(name, protocol) for name in METRICS for protocol in registry.find("metrics", name).PROTOCOLS]


@pytest.mark.parametrize(("name", "protocol"), EVERY, ids=lambda value: str(value))
def test_what_a_protocol_needs_is_there(name: str, protocol: str):
    metric = registry.find("metrics", name)
    assert metric.unit(protocol) in ("", "%", "dB", "10^-2", "10^-3", "10^-4", "Å", "/1000 atoms")
    match metric.inputs(protocol):
        case FeatureSpec(network, output, form):
            part = registry.find("feature_networks", network)
            assert output in part.OUTPUTS and form in part.PREPROCESSING and part.DOMAIN == metric.DOMAIN
        case DistanceSpec(distance, normalisation):
            assert distance.replace("-", "_") in [n.replace("-", "_") for n in registry.names("distances")]
            assert normalisation in point_clouds.PROTOCOLS and metric.DOMAIN == "points"
        case MatchedFeatureSpec(clouds=of_clouds, pictures=of_pictures):
            for need, kind in ((of_clouds, "points"), (of_pictures, "image")):
                part = registry.find("feature_networks", need.network)
                assert need.output in part.OUTPUTS and need.form in part.PREPROCESSING and kind == part.DOMAIN
            widths = {
                registry.find("feature_networks", n.network).OUTPUTS[n.output]
                for n in features_of(metric.inputs(protocol))
            }
            assert len(widths) == 1 and metric.DOMAIN == "points"
        case CloudSpec(normalisation):
            assert normalisation in point_clouds.PROTOCOLS and metric.DOMAIN == "points"
        case StructureSpec(pairing):
            assert pairing in residue_alignment.ALIGNMENT_MODES and metric.DOMAIN == "protein"
        case other:
            assert other == ImagePairSpec() and metric.DOMAIN == "image"


@pytest.mark.parametrize(("name", "protocol"), EVERY, ids=lambda value: str(value))
def test_a_full_name_finds_its_protocol_and_a_bare_one_the_first(name: str, protocol: str):
    metric = registry.find("metrics", name)
    (full,) = metric_specs.parse_metrics([f"{name}:{protocol}"], metric.DOMAIN)
    (bare,) = metric_specs.parse_metrics([name], metric.DOMAIN)
    assert (full.full, bare.protocol) == (f"{name}:{protocol}", metric.PROTOCOLS[0])


@pytest.mark.parametrize(("domain", "count"), [("image", 4), ("points", 4), ("protein", 5)])
def test_what_is_computed_unasked_needs_no_weights_and_no_pairs_of_pictures(domain: str, count: int):
    chosen = metric_specs.parse_metrics(registry.find("domains", domain).Domain.DEFAULT_METRICS, domain)
    assert len(chosen) == count
    for metric in chosen:
        need = metric.need
        assert not isinstance(need, ImagePairSpec | MatchedFeatureSpec)
        assert all(registry.find("feature_networks", each.network).WEIGHTS is None for each in features_of(need))


def test_words_choose_the_first_protocol_that_has_them_all():
    def full(text: str, domain: str = "points") -> str:
        return metric_specs.parse_metrics([text], domain)[0].full

    assert full("1-NNA") == full("one-nna") == "one-nna:cd:inrflow"
    assert full("mmd:emd-lion") == "mmd:emd-lion:inrflow"
    assert full("mmd:pointflow") == "mmd:cd:pointflow"
    assert full("mmd:lion-global:emd-exact") == "mmd:emd-exact:lion-global"
    assert full("is", "image") == full("inception-score", "image")
    assert [m.full for m in metric_specs.parse_metrics(["mmd", "mmd:cd", "cov"], "points")] == [
        "mmd:cd:inrflow",
        "cov:cd:inrflow",
    ]
    with pytest.raises(UsageError, match="`mmd` has no protocol `emd-lyon`"):
        full("mmd:emd-lyon")


def test_the_jackknife_leaves_every_item_out_once():
    from inrflow_core.metrics._inputs import Features

    rows = np.arange(23, dtype=np.float32)[:, None]
    left = [set(rows[:, 0]) - set(Features(rows, rows).without(part, 10).samples[:, 0]) for part in range(10)]
    assert set().union(*left) == set(rows[:, 0]) and sum(map(len, left)) == 23
