"""Metrics of clouds sampled from images: closed forms, and which items are compared."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_core import registry
from inrflow_core.errors import UsageError
from inrflow_core.evaluation import metric_specs, sample_matching
from inrflow_core.evaluation.evaluator import Evaluator
from inrflow_core.evaluation.gather import EvaluationSettings
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.feature_networks import clip_bigg, pointnet2, ulip2
from inrflow_core.metrics import p_is, paired_cd, ulip_i
from inrflow_core.metrics._cloud_inputs import Distances
from inrflow_core.metrics._inputs import Features
from inrflow_core.metrics._matched_inputs import Matches
from inrflow_core.sample_files.collection import IMAGE, SampleCollection, ShardCollection
from inrflow_core.sample_files.readers import open_collection
from inrflow_core.shards import writer
from inrflow_core.shards.schema import Header, ShardColumns
from tests.feature_networks import published

CD = "cd:inrflow"
NAMES = ["glbs/c.glb", "glbs/a.glb", "glbs/b.glb"]
VIEWS = 4


def drawn(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# Closed forms.


def test_ulip_i_is_the_mean_cosine_and_its_note_that_of_the_objects_themselves():
    images = np.array([[1, 0], [0, 2], [3, 3]], dtype=np.float32)
    samples = np.array([[5, 0], [1, 0], [0, 1]], dtype=np.float32)
    inputs = Matches(samples, 7 * images, images)
    assert ulip_i.compute(inputs, "gray") == pytest.approx((1 + 0 + 0.5**0.5) / 3)
    assert (ulip_i.remark(inputs, "gray") or "").startswith("ground truth 1.0000:")
    with pytest.raises(UsageError, match="embeddings of the images are not finite, or 0"):
        ulip_i.compute(Matches(samples, images, 0 * images), "gray")


def test_the_right_one_is_the_samples_own_and_others_are_all_others():
    across = np.array([[1.0, 4.0, 7.0], [2.0, 1.0, 6.0], [3.0, 3.0, 9.0], [5.0, 5.0, 5.0]])
    inputs = Distances(across, own_reference=np.array([0, 0, 1, 2]))
    assert paired_cd.compute(inputs, CD) == pytest.approx(1000 * (1 + 2 + 3 + 5) / 4)
    np.testing.assert_allclose(paired_cd.to_other_references(inputs), [5.5, 3.5, 6, 5])
    # Found at once; another is nearer; as near as one other; all alike, as a model that ignores its image has it.
    np.testing.assert_allclose(paired_cd.retrieval_rank_1(inputs), [1, 0, 1 / 2, 1 / 3])
    assert paired_cd.remark(inputs, CD) == (
        "to the 2 others 5000; the right one is the nearest of 45.8 % of 4 samples, by chance of 33 %"
    )
    assert paired_cd.unit(CD) == "10^-3" and paired_cd.unit("emd-exact:inrflow") == "10^-2"


def test_p_is_counts_classes_and_takes_5000_samples_at_a_time():
    sure = 1e3 * np.eye(40, dtype=np.float32)
    for logits, expected in ((sure[np.arange(4000) % 40], 40), (0 * sure[np.arange(4000) % 40], 1)):
        assert p_is.compute(Features(logits, logits[:0]), "point-e") == pytest.approx(expected)
    class_by_class = sure[np.repeat([0, 1], 5000)]
    assert p_is.compute(Features(class_by_class, sure[:0]), "point-e") == pytest.approx(1)
    assert p_is.compute(Features(class_by_class[::-2], sure[:0]), "point-e") == pytest.approx(2)


@pytest.mark.parametrize("name", ["ulip-i", "paired-cd", "p-is"])
def test_the_short_cut_of_the_interval_leaves_out_what_the_long_way_does(name: str):
    inputs = {
        "ulip-i": Matches(drawn((60, 5)), drawn((60, 5), 1), drawn((60, 5), 2)),
        "paired-cd": Distances(np.abs(drawn((60, 24))).astype(np.float64), own_reference=np.arange(60) % 24),
        "p-is": Features(drawn((60, 40)), drawn((0, 40))),
    }[name]
    metric = registry.find("metrics", name)
    protocol = metric.PROTOCOLS[0]
    expected = [metric.compute(inputs.leave_out(part, 10), protocol) for part in range(10)]
    np.testing.assert_allclose(metric.jackknife_values(inputs, protocol, 10), expected, rtol=1e-12)
    assert inputs.num_independent() >= 20 and np.ptp(expected) > 0


# Who is compared with whom. An angle means a cloud and an image; the embeddings are its cosine and sine.


class Angles:
    """In the place of ULIP-2 and CLIP."""

    def __init__(self, divisor: float) -> None:
        self.divisor, self.num_clouds = divisor, 0

    def __call__(self, some: np.ndarray, outputs, form):
        self.num_clouds += len(some)
        angle = torch.from_numpy(some.reshape(len(some), -1)[:, 0].astype(np.float32)) / self.divisor
        return {"embedding": torch.stack([angle.cos(), angle.sin()], dim=1)}

    def note(self, form):
        return None


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> dict[str, Angles]:
    result = {"ulip2": Angles(1), "clip-bigg": Angles(100)}
    for module, name in ((ulip2, "ulip2"), (clip_bigg, "clip-bigg")):
        for member, value in {"WEIGHTS": None, "OUTPUTS": {"embedding": 2}}.items():
            monkeypatch.setattr(module, member, value)
        monkeypatch.setattr(module, "load", lambda path, device, name=name: result[name])
    monkeypatch.setattr(ulip2, "POINTS", 6)
    return result


def of_angles(angles: list[float]) -> np.ndarray:
    clouds = drawn((len(angles), 8, 3))
    clouds[:, 0, 0] = angles
    return clouds


def shard(path: Path, values: np.ndarray, names: list[str] | None = None, **columns) -> SampleCollection:
    header = Header("points", "objaverse", "samples", {"kind": "shape"})
    beside = ShardColumns(np.full(len(values), -1), names=names, **columns)
    writer.write(path, header, [values], beside, shape=values.shape, dtype="float32")
    return open_collection(path)


OBJECTS = [0.1, 0.7, 1.3]


def angle_of(place: int, view: int) -> float:
    return (20 * place + 5 * view + 10) / 100


@pytest.fixture
def reference(tmp_path: Path) -> SampleCollection:
    """Three objects, whose view v of object p is an image of gray level 20 p + 5 v + 10; with tokens that no one needs."""
    images = np.zeros((3, VIEWS, 4, 4, 3), dtype=np.uint8)
    for index, view in np.ndindex(3, VIEWS):
        images[index, view] = round(100 * angle_of(index, view))
    scale = {"offset": np.zeros((3, 3), np.float32), "scale": np.ones((3, 1), np.float32)}
    condition = {"image": images, "tokens": np.zeros((3, VIEWS, 2, 5), np.float16), **scale}
    return shard(tmp_path / "reference.h5", of_angles(OBJECTS), NAMES, condition=condition)


def scored(tmp_path: Path, samples: SampleCollection, reference: SampleCollection, name: str = "ulip-i", **setting):
    (metric,) = metric_specs.parse_metrics([name], "points")
    return Evaluator(reference, EvaluationSettings(tmp_path / "kept", **setting)).score(
        EvaluatedSamples("mine", samples), metric
    )


def test_what_is_large_is_read_only_where_it_is_requested(reference: SampleCollection):
    assert set(reference.read([0]).condition) == {"offset", "scale"}
    assert isinstance(reference, ShardCollection) and reference.has_views()
    result = reference.load_views(IMAGE, [2, 0], np.array([3, 1]))
    assert result[:, 0, 0, 0].tolist() == [65, 15] and result.shape == (2, 4, 4, 3)
    part = reference.select(np.array([2, 1]))
    assert part.load_views(IMAGE, [0], np.array([0]))[0, 0, 0, 0] == 50
    with pytest.raises(UsageError, match="has 4 views of every object, and a sample is conditioned on view 4"):
        reference.load_views(IMAGE, [0], np.array([4]))


def test_samples_go_with_the_view_of_the_object_that_they_were_drawn_from(
    tmp_path: Path, reference: SampleCollection, networks: dict[str, Angles]
):
    """By names or by recorded places; several of one object; of an image and a cloud that serve twice, one is embedded."""
    indices, views, angles = [2, 0, 2, 2], [1, 0, 3, 1], [0.3, 0.2, 0.9, 1.1]
    record = {"view": np.array(views)}
    seeds = {"seeds": np.arange(4), "names": [f"seed-{n}" for n in range(4)]}
    named = shard(tmp_path / "named.h5", of_angles(angles), [NAMES[p] for p in indices], condition=record)
    placed = {**record, "item": np.array(indices)}
    recorded = shard(tmp_path / "recorded.h5", of_angles(angles), **seeds, condition=placed)
    expected = np.mean([math.cos(a - angle_of(p, v)) for a, p, v in zip(angles, indices, views, strict=True)])
    truth = np.mean([math.cos(OBJECTS[p] - angle_of(p, v)) for p, v in zip(indices, views, strict=True)])
    for samples in (named, recorded):
        for network in networks.values():
            network.num_clouds = 0
        result = scored(tmp_path / samples.source.stem, samples, reference)
        assert result.value == pytest.approx(expected, abs=1e-6)
        assert (result.note or "").startswith(f"ground truth {truth:.4f}")
        assert (result.samples, result.features) == (4, "ulip2:gray, clip-bigg:openai")
        assert networks["clip-bigg"].num_clouds == 3 and networks["ulip2"].num_clouds == 4 + 2


def test_without_a_record_the_first_view_of_the_one_in_the_same_place_is_taken(
    tmp_path: Path, reference: SampleCollection, networks: dict[str, Angles]
):
    angles = [0.3, 0.2, 0.9]
    np.save(tmp_path / "mine.npy", of_angles(angles))
    expected = np.mean([math.cos(a - angle_of(p, 0)) for p, a in enumerate(angles)])
    assert scored(tmp_path, open_collection(tmp_path / "mine.npy"), reference).value == pytest.approx(
        expected, abs=1e-6
    )


def test_images_of_a_folder_go_by_their_names(tmp_path: Path, networks: dict[str, Angles]):
    levels = {"chair": 20, "lamp": 90, "table": 50}
    objects, samples = {"chair": 0.1, "lamp": 1.0, "table": 0.4}, {"table": 0.6, "chair": 0.3}
    for folder in ("pictures", "references", "samples"):
        (tmp_path / folder).mkdir()
    for name, level in levels.items():
        Image.new("RGB", (4, 4), (level,) * 3).save(tmp_path / "pictures" / f"{name}.png")
    for folder, angles in (("references", objects), ("samples", samples)):
        for name, angle in angles.items():
            np.save(tmp_path / folder / f"{name}.npy", of_angles([angle])[0])
    reference, mine, images = (open_collection(tmp_path / name) for name in ("references", "samples", "pictures"))
    result = scored(tmp_path, mine, reference, condition_images=images)
    assert result.value == pytest.approx(np.mean([math.cos(samples[n] - levels[n] / 100) for n in samples]), abs=1e-6)
    truth = np.mean([math.cos(objects[n] - levels[n] / 100) for n in samples])
    assert (result.note or "").startswith(f"ground truth {truth:.4f}")
    with pytest.raises(UsageError, match="has no images of its clouds") as caught:
        scored(tmp_path / "other", mine, reference)
    assert "--condition-images" in (caught.value.hint or "")


def test_what_cannot_be_paired_is_refused(tmp_path: Path, reference: SampleCollection, networks: dict[str, Angles]):
    np.save(tmp_path / "many.npy", of_angles([0.1] * 5))
    with pytest.raises(UsageError, match="5 samples cannot be matched with 3 references of other names"):
        sample_matching.match_to_reference(open_collection(tmp_path / "many.npy"), reference)
    names = [f"seed-{n}" for n in range(3)]
    freely = shard(tmp_path / "freely.h5", of_angles([0.1] * 3), names, seeds=np.arange(3))
    with pytest.raises(UsageError, match="holds samples of a model without a record of their conditions"):
        sample_matching.match_to_reference(freely, reference)
    record = {"item": np.array([0, 7, 1])}
    elsewhere = shard(tmp_path / "else.h5", of_angles([0.1] * 3), names, seeds=np.arange(3), condition=record)
    with pytest.raises(UsageError, match="has samples of item 7, and .* holds 3"):
        sample_matching.match_to_reference(elsewhere, reference)


def test_the_distance_to_the_right_object_goes_by_the_same_pairs(tmp_path: Path):
    """Samples that are their own object a little moved, shuffled and named; the matrix is that of MMD, made once."""
    objects = drawn((5, 200, 3)) * np.random.default_rng(1).uniform(0.2, 1, (5, 1, 3)).astype(np.float32)
    names = [f"{n}.glb" for n in range(5)]
    order = [3, 0, 4, 1, 2]
    reference = shard(tmp_path / "reference.h5", objects, names)
    samples = shard(tmp_path / "samples.h5", objects[order] + 0.01 * drawn((5, 200, 3), 2), [names[n] for n in order])
    metrics = metric_specs.parse_metrics(["paired-cd", "mmd"], "points")
    evaluator = Evaluator(reference, EvaluationSettings(tmp_path / "kept"))
    right, mmd = (evaluator.score(EvaluatedSamples("mine", samples), metric, metrics) for metric in metrics)
    assert right.value == pytest.approx(mmd.value), "each object is the nearest of its own sample"
    assert "the right one is the nearest of 100.0 % of 5 samples" in (right.note or "")
    backwards = shard(tmp_path / "other.h5", objects[order], [names[n] for n in order[::-1]])
    wrong = Evaluator(reference, EvaluationSettings(tmp_path / "kept")).score(
        EvaluatedSamples("other", backwards), metrics[0]
    )
    assert wrong.value > 3 * right.value and "the nearest of 20.0 %" in (wrong.note or "")


def test_too_few_points_are_refused_before_anything_is_drawn(tmp_path: Path):
    np.save(tmp_path / "small.npy", drawn((2, 5000, 3)))
    np.save(tmp_path / "large.npy", drawn((2, 10_000, 3)))
    small, large = (open_collection(tmp_path / f"{name}.npy") for name in ("small", "large"))
    both = metric_specs.parse_metrics(["p-fid", "ulip-i"], "points")
    metric_specs.check_points(both[:1], "the samples", (4096, 3), small)
    with pytest.raises(UsageError, match="the samples have 4,096 points each, and `ulip-i:gray` needs 10,000") as e:
        metric_specs.check_points(both, "the samples", (4096, 3), large)
    assert e.value.hint == "sample with `--points 10000`"
    with pytest.raises(UsageError, match="the clouds of the reference .*small.npy` have 5,000 points each"):
        metric_specs.check_points(both, "the samples", (10_000, 3), small)


def test_the_real_networks_take_shards_and_their_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """PointBERT of one block and a small CLIP with random weights: the objects themselves score what the note says."""
    for module, name, value in (
        *((ulip2, "LAYERS", 1), (ulip2, "NUM_CENTERS", 64), (clip_bigg, "LAYERS", 1), (clip_bigg, "WIDTH", 48)),
        *((clip_bigg, "HEADS", 4), (clip_bigg, "HIDDEN", 80)),
    ):
        monkeypatch.setattr(module, name, value)
    for module, network in ((ulip2, ulip2.PointEncoder()), (clip_bigg, clip_bigg.ImageEncoder())):
        published.randomize(network)
        published.write(tmp_path / module.WEIGHTS.file, network.state_dict(), published.metadata(module.WEIGHTS))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 20, 20, 3), dtype=np.uint8)
    values = drawn((2, 10_100, 3)) * np.array([[[1, 0.2, 0.5]], [[0.3, 1, 1]]], np.float32)
    reference = shard(tmp_path / "reference.h5", values, NAMES[:2], condition={"image": images})
    result = scored(tmp_path, reference, reference, weights_folder=tmp_path)
    assert result.note is not None and result.note.startswith(f"ground truth {result.value:.4f}:")
    assert result.weights is not None and len(result.weights.split(", ")) == 2 and -1 <= result.value <= 1
    other = shard(tmp_path / "other.h5", values[::-1].copy(), NAMES[:2])
    swapped = scored(tmp_path, other, reference, weights_folder=tmp_path)
    assert swapped.value != pytest.approx(result.value, abs=1e-6)
    assert (swapped.note or "").startswith(f"ground truth {result.value:.4f}:")


def test_p_fid_of_clouds_and_themselves_is_0_and_rises_with_noise(tmp_path: Path):
    network = pointnet2.PointNet2()
    published.randomize(network)
    published.write(tmp_path / pointnet2.WEIGHTS.file, network.state_dict(), published.metadata(pointnet2.WEIGHTS))
    objects = drawn((2, 4096, 3)) * np.array([[[1, 0.2, 0.5]], [[0.3, 1, 1]]], np.float32)
    for name, noise in (("same", 0), ("near", 0.05), ("far", 0.5)):
        np.save(tmp_path / f"{name}.npy", objects + noise * drawn((2, 4096, 3), 1))
    reference = open_collection(tmp_path / "same.npy")
    same, near, far = (
        scored(tmp_path, open_collection(tmp_path / f"{name}.npy"), reference, "p-fid", weights_folder=tmp_path).value
        for name in ("same", "near", "far")
    )
    assert same == pytest.approx(0, abs=1e-6 * far) and same < near < far
