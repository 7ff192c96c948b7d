"""Evaluation: shared inputs are gathered once and only if needed, and every score records its counts and protocol."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import feature_cache, metric_specs, reference_stats
from inrflow_core.evaluation.evaluator import Evaluator
from inrflow_core.evaluation.gather import EvaluationSettings
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.feature_networks import inception
from inrflow_core.metrics import _contract
from inrflow_core.metrics._inputs import FeatureSpec, ReferenceStats
from inrflow_core.sample_files.collection import ArrayCollection
from inrflow_core.sample_files.readers import open_collection

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
CLOUDS = np.random.default_rng(1).normal(size=(24, 12, 3)).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    np.savez(tmp_path / "mine.npz", images=IMAGES[:36])
    np.savez(tmp_path / "theirs.npz", images=IMAGES[36:])
    np.save(tmp_path / "mine.npy", CLOUDS)
    np.save(tmp_path / "theirs.npy", 1.2 * CLOUDS[:20, ::-1])
    return tmp_path


class Network:
    """Replaces Inception: a few means of pixels; records the number of images and the outputs of each call."""

    def __init__(self) -> None:
        self.requests: list[tuple[int, tuple[str, ...]]] = []

    def __call__(self, images, outputs, form):
        self.requests.append((len(images), tuple(outputs)))
        rows = torch.from_numpy(images[..., 0].astype(np.float32))
        return {name: rows.mean(1 if name == "pool" else 2) / 64 for name in outputs}

    def note(self, form):
        return None


@pytest.fixture
def network(monkeypatch) -> Network:
    made = Network()
    monkeypatch.setattr(inception, "WEIGHTS", None)
    monkeypatch.setattr(inception, "load", lambda path, device: made)
    return made


def evaluator_of(root: Path, reference: str, **setting) -> Evaluator:
    return Evaluator(open_collection(root / reference), EvaluationSettings(root / "kept", **setting))


def test_no_value_depends_on_the_order_or_the_company_in_which_metrics_are_requested(root: Path):
    for mine, theirs, names in (
        ("mine.npz", "theirs.npz", ["fid:random", "kid:random", "precision:random", "recall:random"]),
        ("mine.npy", "theirs.npy", ["mmd", "cov", "1-nna", "jsd", "mmd:emd-exact", "mmd:cd:lion-global"]),
    ):
        metrics = metric_specs.parse_metrics(names, open_collection(root / mine).domain)
        evaluator = evaluator_of(root, theirs)
        sample_set = EvaluatedSamples("mine", open_collection(root / mine))
        together = [evaluator.score(sample_set, metric, metrics) for metric in metrics]
        backwards = [evaluator_of(root, theirs).score(sample_set, metric, metrics[::-1]) for metric in metrics[::-1]]
        alone = evaluator_of(root, theirs)
        assert together == backwards[::-1] == [alone.score(sample_set, metric) for metric in metrics]


def test_features_of_several_metrics_are_made_in_one_pass(root: Path, network: Network):
    metrics = metric_specs.parse_metrics(["fid:adm", "sfid:adm", "is:adm"], "image")
    evaluator = evaluator_of(root, "theirs.npz")
    sample_set = EvaluatedSamples("mine", open_collection(root / "mine.npz"))
    for metric in metrics:
        evaluator.score(sample_set, metric, metrics)
    assert network.requests == [(36, ("logits", "pool", "spatial")), (24, ("pool", "spatial"))]


def test_the_inception_score_looks_at_no_reference(root: Path, network: Network):
    (metric,) = metric_specs.parse_metrics(["is:adm"], "image")
    sample_set = EvaluatedSamples("mine", open_collection(root / "mine.npz"))
    score = evaluator_of(root, "theirs.npz").score(sample_set, metric)
    assert network.requests == [(36, ("logits",))]
    assert (score.samples, score.reference) == (36, None) and score.interval is not None
    np.savez(root / "adm.npz", mu=np.zeros(8), sigma=np.eye(8), mu_s=np.zeros(8), sigma_s=np.eye(8))
    by_statistics = Evaluator(reference_stats.read(root / "adm.npz"), EvaluationSettings(root / "other"))
    by_statistics.check([metric])
    assert by_statistics.score(sample_set, metric) == score


def test_a_score_says_of_how_many_images_it_was_taken(root: Path, monkeypatch):
    monkeypatch.setattr(feature_cache, "MAX_STORED_ROWS", 22)
    fid, kid = metric_specs.parse_metrics(["fid:random", "kid:random"], "image")
    evaluator = evaluator_of(root, "theirs.npz")
    sample_set = EvaluatedSamples("mine", open_collection(root / "mine.npz"))
    counts = [
        (score.samples, score.reference)
        for score in (evaluator.score(sample_set, fid), evaluator.score(sample_set, kid))
    ]
    assert counts == [(22, 24), (22, 22)]  # of the reference, moments are of all


def test_the_features_beside_shards_serve_also_where_nothing_can_be_written(root: Path, monkeypatch):
    items = open_collection(root / "theirs.npz")
    assert isinstance(items, ArrayCollection)
    shards = replace(items, source=root)
    (root / "manifest.json").write_text("{}")
    metric = MetricSpec("fid", _contract.find("fid"), "random")
    assert isinstance(metric.inputs, FeatureSpec)
    evaluator = Evaluator(shards, EvaluationSettings(root / "kept"))
    sample_set = EvaluatedSamples("mine", open_collection(root / "mine.npz"))
    value = evaluator.score(sample_set, metric)
    beside = sorted((root / "statistics").rglob("*.safetensors"))
    assert beside
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    again = Evaluator(shards, EvaluationSettings(root / "elsewhere"))
    assert again.score(sample_set, metric) == value
    assert not list((root / "elsewhere").rglob(f"*{items.digest[:16]}*"))
    beside[0].write_bytes(b"")
    assert Evaluator(shards, EvaluationSettings(root / "elsewhere")).score(sample_set, metric) == value
    assert list((root / "elsewhere").rglob(f"*{items.digest[:16]}*")) and beside[0].read_bytes() == b""


@pytest.mark.parametrize(("suffix", "names"), [("npz", ["fid:random", "psnr"]), ("npy", ["mmd", "jsd"])])
def test_other_samples_are_evaluated_by_themselves(root: Path, suffix: str, names: list[str]):
    mine, theirs = (EvaluatedSamples(name, open_collection(root / f"{name}.{suffix}")) for name in ("mine", "theirs"))
    evaluator = evaluator_of(root, f"mine.{suffix}")
    for metric in metric_specs.parse_metrics(names, mine.items.domain):
        scores = [evaluator.score(sample_set, metric).value for sample_set in (mine, theirs)]
        assert scores == [
            evaluator_of(root, f"mine.{suffix}").score(sample_set, metric).value for sample_set in (mine, theirs)
        ]
        assert scores[0] != scores[1]


def test_images_are_paired_by_name_if_all_have_one_and_else_in_order(root: Path):
    for folder, names in (("all", range(24)), ("some", (7, 3)), ("others", (90, 91)), ("as-many", range(50, 74))):
        (root / folder).mkdir()
        for at, name in enumerate(sorted(names)):
            number = at if folder == "as-many" else name % 24
            Image.fromarray(IMAGES[number, ..., 0]).save(root / folder / f"{name:02d}.png")
    (psnr,) = metric_specs.parse_metrics(["psnr"], "image")
    for folder, count in (("some", 2), ("as-many", 24)):
        score = evaluator_of(root, "all").score(EvaluatedSamples("mine", open_collection(root / folder)), psnr)
        assert score.value == pytest.approx(20 * np.log10(255) + 10 * np.log10(64))  # the value of equal images
        assert (score.samples, score.reference) == (count, count)
    with pytest.raises(UsageError, match="2 samples cannot be paired with 24 references of other names"):
        evaluator_of(root, "all").score(EvaluatedSamples("mine", open_collection(root / "others")), psnr)


@pytest.mark.parametrize(
    ("network", "domain", "noun"), [("pointnet2", "points", "point clouds"), ("inception", "image", "images")]
)
def test_statistics_serve_as_reference_of_the_domain_of_their_network(network: str, domain: str, noun: str):
    statistics = ReferenceStats(Path("file.safetensors"), network, "any", {}, "digest", shape=(8, 8, 1))
    metric_specs.check_compatible("the samples", domain, (8, 8, 1), statistics)
    other = "image" if domain == "points" else "points"
    with pytest.raises(UsageError, match=f"`file.safetensors` describes {noun}"):
        metric_specs.check_compatible("the samples", other, (8, 8, 1), statistics)
