"""Metrics of novel views: the mean over scenes of the mean over views, with intervals over whole scenes."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import intervals, metric_specs
from inrflow_core.geometry import cameras
from inrflow_core.metrics import _view_inputs, fid, novel_view_psnr
from inrflow_core.metrics._inputs import Features
from inrflow_core.metrics._view_inputs import PROTOCOLS, ViewScores

PROTOCOL = PROTOCOLS[0]


def test_the_view_that_is_read_is_number_64_or_the_middle_one_of_fewer():
    assert cameras.support_views(np.array([50, 251, 2, 64, 65, 24])).tolist() == [25, 64, 1, 32, 64, 12]


def test_each_view_has_the_psnr_and_the_ssim_of_the_pair():
    views = np.full((3, 16, 16, 3), 100, dtype=np.uint8)
    psnr = _view_inputs.psnr(views, views + np.array([0, 1, 10], np.uint8)[:, None, None, None])
    floor = 10 * np.log10(255**2 * 16 * 16 * 3)  # one number off by one level
    np.testing.assert_allclose(psnr, [floor, 20 * np.log10(255), 20 * np.log10(25.5)], rtol=1e-12)
    c1 = (0.01 * 255) ** 2
    expected = [1, (2 * 100 * 101 + c1) / (100**2 + 101**2 + c1), (2 * 100 * 110 + c1) / (100**2 + 110**2 + c1)]
    ssim = _view_inputs.ssim(views, views + np.array([0, 1, 10], np.uint8)[:, None, None, None])
    np.testing.assert_allclose(ssim, expected, rtol=1e-9)


def test_every_scene_counts_once_whatever_its_number_of_views():
    scores = ViewScores(np.array([10.0, 20, 30, 50]), np.array([0, 0, 0, 2]), ("car", "other", "bus"))
    assert scores.per_scene() == {"car": 20, "bus": 50} and scores.counts() == (2, 2)
    assert novel_view_psnr.compute(scores, PROTOCOL) == 35
    assert (
        novel_view_psnr.remark(scores, PROTOCOL) == "mean over the 1 to 3 compared views of a scene, then over 2 scenes"
    )
    with pytest.raises(UsageError, match="there are no views to compare"):
        novel_view_psnr.compute(ViewScores(np.empty(0), np.empty(0, np.int64), ()), PROTOCOL)


@pytest.mark.parametrize("name", ["novel-view-psnr", "novel-view-ssim"])
def test_the_interval_leaves_out_whole_scenes(name: str):
    rng, scenes = np.random.default_rng(0), np.repeat(np.arange(40), 5)
    offset = rng.normal(size=40)[scenes]
    scores = ViewScores(20 + offset + 0.01 * rng.normal(size=200), scenes, tuple(map(str, range(40))))
    file = registry.find("metrics", name)
    expected = [file.compute(scores.leave_out(part, 10), PROTOCOL) for part in range(10)]
    np.testing.assert_allclose(file.jackknife_values(scores, PROTOCOL, 10), expected, rtol=1e-12)
    (metric,) = metric_specs.parse_metrics([name], "radiance")
    interval = intervals.metric_interval(metric, scores, file.compute(scores, PROTOCOL))
    assert interval is not None
    error = np.std([*scores.per_scene().values()], ddof=1) / 40**0.5
    assert (interval[1] - interval[0]) / 2 == pytest.approx(2.26 * error, rel=0.5)


def test_scenes_have_the_feature_metrics_of_images_and_no_pairs_of_them():
    names = metric_specs.metrics_of_domain("radiance")
    assert {"novel-view-psnr", "novel-view-ssim", "fid", "kid", "precision", "inception-score"} <= set(names)
    assert not {"psnr", "ssim", "mmd"} & set(names) and "novel-view-psnr" not in metric_specs.metrics_of_domain("image")
    with pytest.raises(UsageError, match="`psnr` evaluates images, and these are scenes"):
        metric_specs.parse_metrics(["psnr"], "radiance")


def test_groups_of_clustered_features_are_made_of_whole_clusters():
    rows, clusters = np.arange(60, dtype=np.float32)[:, None], np.repeat(np.arange(20), 3)
    features = Features(rows, rows, clusters, clusters)
    assert features.num_independent() == 20 and features.counts() == (60, 60)
    for group in range(10):
        left = features.leave_out(group, 10)
        assert isinstance(left, Features) and left.sample_clusters is not None
        assert np.unique(left.sample_clusters, return_counts=True)[1].tolist() == [3] * 18
        assert len(left.samples) == 54 and isinstance(left.reference, np.ndarray) and len(left.reference) == 54


def test_views_of_one_scene_do_not_narrow_the_interval():
    """Copies of every image leave the error of a mean as it is, if the copies are one cluster."""
    rng = np.random.default_rng(0)
    one, other = (rng.normal(size=(60, 4)).astype(np.float32) for _ in range(2))
    (metric,) = metric_specs.parse_metrics(["fid:random"], "image")

    def width(samples: np.ndarray, reference: np.ndarray, clusters: np.ndarray | None) -> float:
        inputs = Features(samples, reference + 3, clusters, clusters)
        interval = intervals.metric_interval(metric, inputs, fid.compute(inputs, "random"))
        assert interval is not None
        return interval[1] - interval[0]

    single = width(one, other, None)
    copies = np.repeat(np.arange(60), 9)
    assert width(one[copies], other[copies], copies) == pytest.approx(single, rel=0.1)
    assert width(one[copies], other[copies], None) < single / 2
