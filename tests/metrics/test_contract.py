"""Every metric keeps the contract of `metrics/_contract.py`: its names are those of networks, distances and units that there are."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs
from inrflow_core.feature_networks._contract import find_extractor
from inrflow_core.geometry import point_clouds
from inrflow_core.metrics import _contract, fid, mmd
from inrflow_core.metrics._class_inputs import ClassifierSpec
from inrflow_core.metrics._cloud_inputs import CloudSpec, DistanceSpec
from inrflow_core.metrics._contract import Metric, MetricFile
from inrflow_core.metrics._image_pairs import ImagePairSpec
from inrflow_core.metrics._inputs import FeatureSpec, InputSpec
from inrflow_core.metrics._matched_inputs import MatchedFeatureSpec
from inrflow_core.metrics._mutual_inputs import MutualSpec
from inrflow_core.metrics._protein_inputs import StructureSpec
from inrflow_core.metrics._shape_inputs import MESH_FACTS, SHAPE_MEASURES, MeshSpec, ShapeSpec
from inrflow_core.metrics._text_inputs import RenderedTextSpec
from inrflow_core.metrics._view_inputs import MEASURES, ViewSpec
from inrflow_core.proteins import residue_alignment

METRICS = registry.names("metrics")
EVERY = [(name, protocol) for name in METRICS for protocol in _contract.find(name).protocols]


@pytest.mark.parametrize("name", METRICS)
def test_every_file_has_the_members_of_the_contract(name: str):
    metric = _contract.find(name)
    assert isinstance(metric.file, MetricFile) and metric.min_items >= 1
    assert metric.title and metric.domain in registry.names("domains") and metric.protocols
    assert isinstance(metric.higher_is_better, bool)


def test_what_a_file_leaves_out_has_a_default():
    bare: Any = SimpleNamespace(
        TITLE="bare", DOMAIN="image", PROTOCOLS=("only",), HIGHER_IS_BETTER=False,
        inputs=fid.inputs, unit=fid.unit, compute=fid.compute,
    )  # fmt: skip
    metric = _contract.resolve(bare)
    assert metric == Metric(bare) and (metric.min_items, metric.jackknife_values) == (2, None)
    assert metric.remark(None, "only") is None
    full = _contract.find("fid")
    assert (full.remark, full.jackknife_values) == (fid.remark, fid.jackknife_values)
    assert _contract.find("mmd").jackknife_values is None and _contract.find("mmd").remark == mmd.remark


def checks_of(spec: InputSpec, domain: str) -> Iterator[bool]:
    """Whether each name in a spec is one that there is."""
    match spec:
        case FeatureSpec(network, output, preprocessing):
            file: Any = find_extractor(network).file
            yield output in file.OUTPUTS and preprocessing in file.PREPROCESSING and domain == file.DOMAIN
        case ClassifierSpec(network):
            yield from checks_of(spec.logits, domain)
            yield len(find_extractor(network).file.CLASSES) == find_extractor(network).file.OUTPUTS["logits"]
        case DistanceSpec(distance, normalization):
            yield distance in registry.names("distances")
            yield normalization in point_clouds.PROTOCOLS and domain == "points"
        case MatchedFeatureSpec(clouds, images):
            yield from checks_of(clouds, "points")
            yield from checks_of(images, "image")
            yield len({find_extractor(each.network).file.OUTPUTS[each.output] for each in spec.features}) == 1
        case CloudSpec(normalization):
            yield normalization in point_clouds.PROTOCOLS and domain == "points"
        case StructureSpec(alignment):
            yield alignment in residue_alignment.ALIGNMENT_MODES and domain == "protein"
        case ViewSpec(measure):
            yield measure in MEASURES and domain == "radiance"
        case MutualSpec(distance, count, points):
            yield distance in registry.names("distances") and domain == "shape"
            yield count > 1 and points > 0
        case ShapeSpec(measure):
            yield measure in SHAPE_MEASURES and domain == "shape"
        case RenderedTextSpec(measure):
            widths = {find_extractor(each.network).file.OUTPUTS[each.output] for each in spec.features}
            yield len(widths) == 1 and domain == "shape" and measure in ("mean", "max")
        case MeshSpec(measure):
            yield measure in MESH_FACTS and domain == "shape"
        case other:
            yield isinstance(other, ImagePairSpec) and domain in ("image", "video")


@pytest.mark.parametrize(("name", "protocol"), EVERY, ids=lambda value: str(value))
def test_what_a_protocol_needs_is_there(name: str, protocol: str):
    metric = _contract.find(name)
    assert metric.file.unit(protocol) in ("", "%", "dB", "10^-1", "10^-2", "10^-3", "10^-4", "Å", "/1000 atoms")
    spec = metric.file.inputs(protocol)
    assert all(checks_of(spec, metric.domain))
    assert hash(spec) == hash(metric.file.inputs(protocol)) and spec.key() == metric.file.inputs(protocol).key()


@pytest.mark.parametrize(("name", "protocol"), EVERY, ids=lambda value: str(value))
def test_a_full_name_finds_its_protocol_and_a_bare_one_the_first(name: str, protocol: str):
    metric = registry.find("metrics", name)
    full = metric_specs.parse_metrics([f"{name}:{protocol}"], metric.DOMAIN)[0]
    bare = metric_specs.parse_metrics([name], metric.DOMAIN)[0]
    assert (full.full, bare.protocol) == (f"{name}:{protocol}", metric.PROTOCOLS[0])


def test_precision_is_never_computed_without_recall():
    names = [spec.full for spec in metric_specs.parse_metrics(["precision:vgg16", "kid:random"], "image")]
    assert names == ["precision:vgg16:stylegan", "recall:vgg16:stylegan", "kid:random"]
    both = metric_specs.parse_metrics(["recall", "precision"], "image")
    assert sorted(spec.name for spec in both) == ["precision", "recall"]


@pytest.mark.parametrize(("domain", "count"), [("image", 4), ("points", 4), ("protein", 5)])
def test_what_is_computed_unasked_needs_no_weights_and_no_pairs_of_images(domain: str, count: int):
    selected = metric_specs.parse_metrics(registry.find("domains", domain).Domain.DEFAULT_METRICS, domain)
    assert len(selected) == count
    for metric in selected:
        assert not metric.inputs.matched_by
        assert not any(find_extractor(spec.network).needs_weights for spec in metric.inputs.features)


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
    groups = [Features(rows, rows).select_groups([part], 10) for part in range(10)]
    left = [set(group.samples[:, 0]) for group in groups]
    assert set().union(*left) == set(rows[:, 0]) and sum(map(len, left)) == 23
