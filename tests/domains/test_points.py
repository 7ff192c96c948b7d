"""Clouds as sets: subsets keyed by the seed, exact way back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.domains._contract import batch_of
from inrflow_core.domains.points import Config, Domain, read_file
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.sampling import invert
from tests import tiny
from tests.datasets.test_clouds import write as write_cloud

CLOUDS = np.random.default_rng(0).normal(size=(3, 500, 6)).astype(np.float32)
SEEDS = torch.tensor([5, 6, 7])


def test_a_set_holds_points_of_its_cloud_each_at_most_once() -> None:
    sets = Domain(Config(num_points=200)).to_set(batch_of(CLOUDS), SEEDS, None, augment=True)
    assert sets.queries.coordinates is None
    for cloud, values in zip(CLOUDS, sets.values.numpy(), strict=True):
        stored = {row.tobytes() for row in cloud[:, :3]}
        sampled = [row.tobytes() for row in values]
        assert stored.issuperset(sampled)
        assert len(set(sampled)) == 200


def test_the_subset_is_keyed_by_the_seed_and_not_by_the_batch() -> None:
    domain = Domain(Config(num_points=200))
    together = domain.to_set(batch_of(CLOUDS), SEEDS, None, augment=True).values
    alone = domain.to_set(batch_of(CLOUDS[1:2]), SEEDS[1:2], None, augment=True).values
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=0)
    other = domain.to_set(batch_of(CLOUDS[1:2]), SEEDS[1:2] + 10, None, augment=True).values
    assert not torch.equal(alone, other)


def test_every_point_is_sampled_equally_often() -> None:
    points = np.arange(20, dtype=np.float32)[None, :, None].repeat(2000, 0).repeat(3, 2)
    sampled = (
        Domain(Config(num_points=5)).to_set(batch_of(points), torch.arange(2000), None, augment=True).values[..., 0]
    )
    counts = torch.bincount(sampled.flatten().long(), minlength=20)
    assert counts.sum() == 10_000
    assert (counts - 500).abs().max() < 5 * (2000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("channels", [3, 6])
def test_values_come_back_to_rounding_and_labels_travel(channels: int) -> None:
    domain = Domain(Config(num_points=500, value_scale=2.0, channels=channels))
    sets = domain.to_set(batch_of(CLOUDS), SEEDS, np.array([2, 0, 1]), augment=False)
    np.testing.assert_array_equal(domain.decode_values(sets.values), CLOUDS[..., :channels])
    np.testing.assert_array_equal(sets.values.numpy(), 2 * CLOUDS[..., :channels])
    assert sets.condition["label"].tolist() == [2, 0, 1]
    assert domain.shape.coordinate_size == domain.shape.value_size == channels


def test_queries_are_ids_that_begin_with_those_of_fewer_points() -> None:
    domain = Domain(Config(num_points=64))
    assert domain.queries().noise_keys.tolist() == list(range(64))
    torch.testing.assert_close(domain.queries(1000).noise_keys[:64], domain.queries().noise_keys)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Config(num_points=501), "500 points, the preset wants 501"),
        (Config(num_points=500, channels=6), "3 channels, the preset wants 6"),
    ],
)
def test_clouds_that_do_not_fit_the_preset_are_refused_in_training(settings: Config, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Domain(settings).to_set(batch_of(CLOUDS[..., :3]), SEEDS, None, augment=True)


def test_fewer_points_may_be_encoded() -> None:
    assert len(Domain(Config(num_points=501)).to_set(batch_of(CLOUDS), SEEDS, None).queries) == 500


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_points": 0}, "`num_points` is 0: at least 1"),
        ({"num_points": 1, "channels": 4}, "`channels` is 4: 3, or 6"),
        ({"num_points": 1, "value_scale": 0.0}, "`value_scale` is 0.0: above 0"),
    ],
)
def test_impossible_settings_say_what_is_allowed(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**values)


def test_no_points_and_windows_are_refused() -> None:
    domain = Domain(Config(num_points=4))
    with pytest.raises(UsageError, match="a cloud of 0 points is none"):
        domain.queries(0)
    with pytest.raises(UsageError, match="a cloud has no window"):
        domain.queries(4, (0.0, 0.0, 1.0, 1.0))


def test_the_reference_of_clouds_is_the_validation_split_as_in_the_papers() -> None:
    assert Domain.REFERENCE_SPLITS == ("val", "test", "train")


def test_colors_of_an_array_are_from_minus_1_to_1_or_refused(tmp_path: Path) -> None:
    colored = np.hstack([CLOUDS[0, :, :3], np.full((500, 3), 0.5, np.float32)])
    np.save(tmp_path / "a.npy", colored)
    np.testing.assert_array_equal(read_file(tmp_path / "a.npy"), colored)
    np.save(tmp_path / "b.npy", colored * [1, 1, 1, 510, 510, 510])
    with pytest.raises(IntegrityError, match=r"b.npy` holds colors outside \[-1, 1\]"):
        read_file(tmp_path / "b.npy")


def test_a_file_that_no_model_reads_is_refused_with_what_is_read(tmp_path: Path) -> None:
    model = tiny.model(tiny.POINTS)
    for name, hint in (("a.txt", "a cloud (.ply, .npy, .npz, .xyz, .pcd)"), ("a.png", "a model of images")):
        (tmp_path / name).touch()
        with pytest.raises(UsageError, match="samples point clouds") as refusal:
            invert.read_input(model, tmp_path / name)
        assert hint in (refusal.value.hint or "")


@pytest.mark.parametrize("suffix", [".ply", ".npy", ".npz", ".xyz", ".pcd"])
def test_every_format_of_clouds_is_encoded_alike_and_goes_back_to_its_units(tmp_path: Path, suffix: str) -> None:
    points = (CLOUDS[0, :, :3] * 3 + 7).astype(np.float32)
    domain, path = Domain(Config(num_points=500)), write_cloud(tmp_path / f"a{suffix}", points)
    assert domain.accepts(path)
    example = domain.read_input(path, {})
    assert np.abs(example.values).max() == pytest.approx(1)
    np.testing.assert_allclose(example.to_source_units(example.values), points, atol=1e-5)


def test_an_array_of_several_clouds_or_of_none_is_refused(tmp_path: Path) -> None:
    domain = Domain(Config(num_points=500))
    np.save(tmp_path / "a.npy", CLOUDS[:1, :, :3])
    assert domain.read_input(tmp_path / "a.npy", {}).values.shape == (500, 3)
    np.save(tmp_path / "b.npy", CLOUDS[..., :3])
    with pytest.raises(UsageError, match="holds 3 clouds, and a model encodes one"):
        domain.read_input(tmp_path / "b.npy", {})
    np.save(tmp_path / "c.npy", CLOUDS[0, :, :2])
    with pytest.raises(IntegrityError, match=r"c.npy` cannot be read as a cloud: it is an array of shape \(500, 2\)"):
        domain.read_input(tmp_path / "c.npy", {})
