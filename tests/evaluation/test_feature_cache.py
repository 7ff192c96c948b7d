"""Features are computed once: after interruption, damage or repetition the rows are those of one uninterrupted pass."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.evaluation import feature_cache, reference_stats
from inrflow_core.evaluation.feature_cache import FeatureCache
from inrflow_core.metrics._inputs import FeatureSpec
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.sample_files.readers import open_collection

IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 1), dtype=np.uint8)


@pytest.fixture
def items(tmp_path: Path, monkeypatch) -> SampleCollection:
    monkeypatch.setattr(feature_cache, "IMAGES_PER_FILE", 16)
    monkeypatch.setattr(feature_cache, "BATCH", 5)
    np.savez(tmp_path / "a.npz", images=IMAGES)
    return open_collection(tmp_path / "a.npz")


class Rows:
    """Means of rows and of columns; counts the images, and stops after `most` of them."""

    def __init__(self, most: int = 1000) -> None:
        self.seen, self.most = 0, most

    def __call__(self, images, outputs, form):
        if self.seen + len(images) > self.most:
            raise KeyboardInterrupt
        self.seen += len(images)
        values = torch.from_numpy(images[..., 0].astype(np.float32))
        return {name: values.mean(1 if name == "rows" else 2) for name in outputs}


def test_rows_are_those_of_all_images_in_their_order(items: SampleCollection, tmp_path: Path):
    one = FeatureCache(items, ("columns", "rows"), "v1", tmp_path / "kept")
    one.run(Rows())
    np.testing.assert_array_equal(one.select_rows("rows"), IMAGES[..., 0].astype(np.float32).mean(1))
    moments = one.moments("columns")
    expected = IMAGES[..., 0].astype(np.float64).mean(2)
    np.testing.assert_allclose(moments.mean, expected.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moments.covariance, np.cov(expected.T), rtol=1e-6)
    assert moments.count == 50


def test_a_stopped_pass_over_clips_loses_at_most_64(tmp_path: Path):
    clips = np.random.default_rng(0).integers(0, 256, (150, 2, 4, 4, 1), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", videos=clips)
    one = FeatureCache(open_collection(tmp_path / "a.npz"), ("rows",), "v1", tmp_path / "cache")

    class Means(Rows):
        def __call__(self, images, outputs, form):
            return super().__call__(images.mean(1), outputs, form)

    with pytest.raises(KeyboardInterrupt):
        one.run(Means(most=149))
    rest = Means()
    one.run(rest)
    assert rest.seen == 22
    np.testing.assert_allclose(one.select_rows("rows"), clips[..., 0].mean(1).mean(1), rtol=1e-6)


def test_a_stopped_pass_resumes_and_a_finished_one_is_not_repeated(items: SampleCollection, tmp_path: Path):
    one = FeatureCache(items, ("rows",), "v1", tmp_path / "kept")
    with pytest.raises(KeyboardInterrupt):
        one.run(Rows(most=36))
    assert not one.is_done()
    rest, again = Rows(), Rows()
    one.run(rest)
    one.run(again)
    assert (rest.seen, again.seen, one.is_done()) == (18, 0, True)
    np.testing.assert_array_equal(one.select_rows("rows"), IMAGES[..., 0].astype(np.float32).mean(1))


def test_another_output_is_added_to_what_is_there(items: SampleCollection, tmp_path: Path):
    FeatureCache(items, ("rows",), "v1", tmp_path / "kept").run(Rows())
    FeatureCache(items, ("columns",), "v1", tmp_path / "kept").run(Rows())
    assert FeatureCache(items, ("columns", "rows"), "v1", tmp_path / "kept").is_done()


@pytest.mark.parametrize("damage", [lambda b: b[:-1] + bytes([b[-1] ^ 1]), lambda b: b[: len(b) // 2], lambda b: b""])
def test_a_damaged_piece_is_made_again(items: SampleCollection, tmp_path: Path, damage):
    one = FeatureCache(items, ("rows",), "v1", tmp_path / "kept")
    one.run(Rows())
    piece = tmp_path / "kept" / "00000016.safetensors"
    whole = piece.read_bytes()
    piece.write_bytes(damage(whole))
    again = Rows()
    one.run(again)
    assert again.seen == 16 and piece.read_bytes() == whole


def test_of_very_many_images_a_part_serves_as_rows_and_all_as_moments(
    items: SampleCollection, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(feature_cache, "MAX_STORED_ROWS", 10)
    one = FeatureCache(items, ("rows",), "v1", tmp_path / "kept")
    one.run(Rows())
    rows = one.select_rows("rows")
    assert rows.shape == (10, 4) and one.moments("rows").count == 50
    np.testing.assert_array_equal(rows[[0, -1]], IMAGES[[0, -1], ..., 0].astype(np.float32).mean(1))


def test_cached_moments_are_statistics_that_know_their_protocol(items: SampleCollection, tmp_path: Path):
    provenance = {"network": "random", "weights": "w" * 64}
    one = FeatureCache(items, ("rows",), "v1", tmp_path / "kept", provenance)
    one.run(Rows())
    moments = one.moments("rows")
    file = tmp_path / "kept" / "moments-rows.safetensors"
    assert reference_stats.is_stats_file(file)
    read = reference_stats.read(file)
    stats = read.stats_for(FeatureSpec("random", "rows", "v1", accepts_stats=True), "w" * 64)
    np.testing.assert_array_equal(stats.covariance, moments.covariance)
    with pytest.raises(UsageError, match="protocol `random:v1`, and `inception:adm` needs `pool`"):
        read.stats_for(FeatureSpec("inception", "pool", "adm", accepts_stats=True), None)
    with pytest.raises(UsageError, match="mean and covariance alone"):
        read.stats_for(FeatureSpec("random", "rows", "v1"), "w" * 64)
    with pytest.raises(UsageError, match="other weights of `random`"):
        read.stats_for(FeatureSpec("random", "rows", "v1", accepts_stats=True), "v" * 64)
    file.write_bytes(file.read_bytes()[:-1] + b"\1")
    with pytest.raises(IntegrityError, match="its numbers do not match its digest"):
        reference_stats.read(file)


@pytest.mark.parametrize("shape", ["[8, 8, -1]", "[8, 8, 7]", "[0, 8, 3]", "[8, 8]", "[]"])
def test_statistics_of_a_shape_that_no_image_can_have_are_refused_by_name(
    items: SampleCollection, tmp_path: Path, shape: str
):
    one = FeatureCache(items, ("rows",), "v1", tmp_path / "kept", {"network": "random", "weights": "", "shape": shape})
    one.run(Rows())
    one.moments("rows")
    with pytest.raises(IntegrityError, match=rf"`shape` of .* is {re.escape(shape)}, which images cannot have"):
        reference_stats.read(tmp_path / "kept" / "moments-rows.safetensors")


def test_a_published_reference_batch_gives_pooled_and_spatial_moments(tmp_path: Path):
    path = tmp_path / "adm.npz"
    spatial = {"mu_s": np.zeros(3), "sigma_s": 2 * np.eye(3)}
    np.savez(path, mu=np.arange(4.0), sigma=np.eye(4), **spatial)
    read = reference_stats.read(path)
    stats = read.stats_for(FeatureSpec("inception", "spatial", "adm", accepts_stats=True), "any")
    np.testing.assert_array_equal(stats.covariance, 2 * np.eye(3))
    assert stats.count == 0
    with pytest.raises(UsageError, match="protocol `inception:adm`, and `inception:clean` needs"):
        read.stats_for(FeatureSpec("inception", "pool", "clean", accepts_stats=True), None)
    np.savez(path, mu=np.arange(4.0), sigma=np.eye(3), **spatial)
    with pytest.raises(IntegrityError, match=r"mean of shape \(4,\) and a covariance of \(3, 3\)"):
        reference_stats.read(path)


def test_the_cache_of_fewer_images_is_made_again(items: SampleCollection, tmp_path: Path):
    np.savez(tmp_path / "few.npz", images=IMAGES[:40])
    fewer = FeatureCache(open_collection(tmp_path / "few.npz"), ("rows",), "v1", tmp_path / "kept")
    fewer.run(Rows())
    fewer.moments("rows")
    one, again = FeatureCache(items, ("rows",), "v1", tmp_path / "kept"), Rows()
    assert not one.is_done()
    one.run(again)
    assert again.seen == 18 and len(one.select_rows("rows")) == one.moments("rows").count == 50
