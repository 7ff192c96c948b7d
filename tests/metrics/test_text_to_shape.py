"""Metrics of shapes under texts: their laws, and values by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh

from inrflow_core.errors import UsageError
from inrflow_core.evaluation.gather import EvaluationSettings, Gatherer
from inrflow_core.evaluation.shape_sets import FunctionCollection
from inrflow_core.feature_networks import pointnet2
from inrflow_core.geometry.mesh import Mesh
from inrflow_core.metrics import _shape_inputs, accuracy, clip_s, mmd, tmd, watertight
from inrflow_core.metrics._mutual_inputs import MutualSpec, mutual_difference
from inrflow_core.metrics._text_inputs import view_similarities
from inrflow_core.sample_files.collection import ArrayCollection
from inrflow_core.shards.batch import Batch
from inrflow_core.visualization import mesh_grid
from tests.feature_networks import hf_folders, published

RNG = np.random.default_rng(0)
SURFACES = RNG.uniform(-0.5, 0.5, (15, 300, 3)).astype(np.float32)
"""Points of 15 shapes."""


def collection(values: np.ndarray, name: str = "a", **condition: np.ndarray) -> ArrayCollection:
    return ArrayCollection(
        source=Path(name),
        domain="shape",
        digest=name,
        names=[f"{name}-{index}" for index in range(len(values))],
        load_values=lambda indices: values[indices],
        condition=condition,
    )


def chamfer(one: np.ndarray, other: np.ndarray) -> float:
    """The mean squared distance to the nearest point, both directions added, from all distances."""
    squares = np.square(one.astype(np.float64)[:, None] - other[None]).sum(2)
    return squares.min(0).mean() + squares.min(1).mean()


def tmd_of(values: np.ndarray, items: np.ndarray, folder: Path, spec: MutualSpec) -> tuple[float, dict[str, float]]:
    samples = collection(values, "sample", item=items, view=np.zeros_like(items))
    reference = collection(SURFACES[:4], "text")
    inputs = spec.gather(samples, reference, Gatherer(EvaluationSettings(folder)))
    return tmd.FACTOR * inputs.mean("cd"), inputs.per_item("cd")


def test_identical_samples_do_not_differ_and_known_ones_do_as_by_hand():
    assert mutual_difference(np.repeat(SURFACES[:1], 10, axis=0), "cd") == 0
    points = np.zeros((3, 1, 3))
    points[1, 0, 0], points[2, 0, 1] = 0.3, 0.4  # squares of distances 0.09, 0.16 and 0.25, each in both directions
    assert mutual_difference(points, "cd") == pytest.approx(2 * (0.09 + 0.16 + 0.25))
    clouds = SURFACES[:4]
    means = [np.mean([chamfer(clouds[one], clouds[other]) for other in range(4) if other != one]) for one in range(4)]
    assert mutual_difference(clouds, "cd") == pytest.approx(np.sum(means), rel=1e-12)


def test_tmd_is_the_mean_over_texts_in_any_order_of_the_samples(tmp_path: Path):
    items = np.repeat([2, 0, 3], 5)
    spec = MutualSpec("cd", 5, 300)
    value, each = tmd_of(SURFACES, items, tmp_path, spec)
    expected = {f"text-{item}": mutual_difference(SURFACES[items == item], "cd") for item in (0, 2, 3)}
    assert each == expected and value == pytest.approx(100 * np.mean([*expected.values()]))
    order = RNG.permutation(15)
    assert tmd_of(SURFACES[order], items[order], tmp_path, spec) == (value, each)
    same = np.repeat(SURFACES[:3], 5, axis=0)
    assert tmd_of(same, items, tmp_path, spec)[0] == 0


def test_tmd_refuses_another_number_of_samples_and_too_few_points(tmp_path: Path):
    items = np.repeat([2, 0, 3], 5)
    with pytest.raises(UsageError, match="of 3 texts, 5 to 5 of each, and 10 of each are compared"):
        tmd_of(SURFACES, items, tmp_path, tmd.inputs("k10:cd:2048:as-drawn"))
    with pytest.raises(UsageError, match="300 points, fewer than the 2,048"):
        tmd_of(SURFACES, items, tmp_path, tmd.inputs("k5:cd:2048:as-drawn"))


def test_an_empty_sample_is_a_point_and_is_counted(tmp_path: Path):
    values = SURFACES.copy()
    values[4] = 0
    samples = collection(values, "sample", item=np.repeat([0, 1, 2], 5), view=np.zeros(15, np.int64))
    inputs = MutualSpec("cd", 5, 300).gather(
        samples, collection(SURFACES[:4], "text"), Gatherer(EvaluationSettings(tmp_path))
    )
    assert tmd.remark(inputs, tmd.PROTOCOLS[0]) == "1 of 15 samples are empty, and each is compared as one point"
    assert (inputs.counts(), inputs.num_independent()) == ((15, 3), 3)
    without = tmd.jackknife_values(inputs, tmd.PROTOCOLS[0], 3)
    each = 100 * inputs.values["cd"]
    assert sorted(without) == pytest.approx(sorted((each.sum() - one) / 2 for one in each))


@dataclass(frozen=True, kw_only=True)
class Labeled(ArrayCollection):
    """Shapes with classes."""

    numbers: np.ndarray
    names_of_classes: tuple[str, ...] = ("cone", "table", "chair")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.names_of_classes

    def labels(self) -> np.ndarray:
        return self.numbers


def labeled(values: np.ndarray, numbers: np.ndarray, name: str = "a") -> Labeled:
    plain = collection(values, name)
    return Labeled(**{field.name: getattr(plain, field.name) for field in fields(plain)}, numbers=numbers)


def accuracy_of(samples: ArrayCollection, reference: ArrayCollection, folder: Path) -> tuple[float, str | None]:
    spec, protocol = accuracy.inputs(accuracy.PROTOCOLS[0]), accuracy.PROTOCOLS[0]
    context = Gatherer(EvaluationSettings(folder)).sharing([spec, mmd.inputs("cd:inrflow")])
    inputs = spec.gather(samples, reference, context)
    return accuracy.compute(inputs, protocol), accuracy.remark(inputs, protocol)


LABELS = np.arange(15) % 3


def test_samples_that_are_the_reference_have_accuracy_100(tmp_path: Path):
    reference = labeled(SURFACES, LABELS, "reference")
    assert accuracy_of(labeled(SURFACES, LABELS, "same"), reference, tmp_path) == (100, None)
    order = RNG.permutation(15)
    assert accuracy_of(labeled(SURFACES[order], LABELS[order], "order"), reference, tmp_path)[0] == 100
    shifted = labeled(SURFACES, (LABELS + (np.arange(15) < 3)) % 3, "three wrong")
    assert accuracy_of(shifted, reference, tmp_path)[0] == 80


def test_under_texts_the_class_is_that_of_the_item(tmp_path: Path):
    reference, items = labeled(SURFACES, LABELS, "reference"), np.arange(15)[::-1]
    conditions = {"item": items, "view": np.zeros(15, np.int64)}
    assert accuracy_of(collection(SURFACES[items], "right", **conditions), reference, tmp_path)[0] == 100
    expected = 100 * np.mean(LABELS[items] == LABELS)
    assert accuracy_of(collection(SURFACES, "turned", **conditions), reference, tmp_path)[0] == pytest.approx(expected)


def test_an_empty_sample_has_no_class_and_an_unknown_class_is_refused(tmp_path: Path):
    values = SURFACES.copy()
    values[:3] = 0
    reference = labeled(SURFACES, LABELS, "reference")
    found = accuracy_of(labeled(values, LABELS, "empty"), reference, tmp_path)
    assert found == (80, "3 of 15 samples are empty, and so of no class")
    part = labeled(SURFACES[:2], LABELS[:2], "part")
    with pytest.raises(UsageError, match="`part` has no item of the class `chair`"):
        accuracy_of(labeled(SURFACES, LABELS, "same"), part, tmp_path)
    with pytest.raises(UsageError, match="cannot be matched|are not known"):
        accuracy_of(collection(SURFACES, "plain"), collection(SURFACES[:4], "bare"), tmp_path)


def test_a_classifier_gives_the_class_of_its_largest_logit(tmp_path: Path):
    torch.manual_seed(0)
    network = pointnet2.PointNet2()
    published.randomize(network)
    published.write(tmp_path / "pointnet2.safetensors", network.state_dict(), published.metadata(pointnet2.WEIGHTS))
    clouds = RNG.uniform(-0.5, 0.5, (3, 4096, 3)).astype(np.float32)
    clouds[1] *= (1, 0.1, 0.1)
    context = Gatherer(EvaluationSettings(tmp_path, weights_folder=tmp_path))
    loaded = pointnet2.load(tmp_path / "pointnet2.safetensors")
    best = loaded(clouds, ("logits",), "point-e")["logits"].argmax(1).tolist()
    names = tuple(pointnet2.CLASSES[number].replace("_", " ") for number in best)
    spec = accuracy.inputs("pointnet2:point-e")
    reference = replace(labeled(SURFACES[:3], np.arange(3), "reference"), names_of_classes=names)
    spec.check(reference, "accuracy", context)
    right = replace(labeled(clouds, np.arange(3), "right"), names_of_classes=names)
    assert accuracy.compute(spec.gather(right, reference, context), "pointnet2:point-e") == 100
    other = replace(right, names_of_classes=(names[0], *[pointnet2.CLASSES[(best[0] + 1) % 40]] * 2), digest="other")
    expected = 100 * np.mean([best[0] == best[0], *(number == (best[0] + 1) % 40 for number in best[1:])])
    assert accuracy.compute(spec.gather(other, reference, context), "pointnet2:point-e") == pytest.approx(expected)
    unknown = replace(right, names_of_classes=("torus", *names[1:]))
    with pytest.raises(UsageError, match="`pointnet2` has 40 classes, and `torus` is none of them"):
        spec.check(unknown, "accuracy", context)


SPEC = clip_s.inputs(clip_s.PROTOCOLS[0])
BODIES: list[Any] = [
    trimesh.creation.box((1, 0.3, 0.3)),
    trimesh.creation.icosphere(2, 0.4),
    trimesh.creation.cone(0.3, 0.9),
    trimesh.creation.box((0.2, 1, 0.5)),
    trimesh.creation.icosphere(1, 0.2),
]
MESHES = [Mesh(np.asarray(body.vertices), np.asarray(body.faces)) for body in BODIES]


def drawn_meshes(order: Sequence[int], empty: int | None = None) -> FunctionCollection:
    """The meshes of that order, each under a text, with their views."""

    def load(indices: np.ndarray) -> Batch:
        rows = [order[index] for index in indices]
        views = [
            mesh_grid.render_around(MESHES[row], count=SPEC.views, elevation=SPEC.elevation, size=SPEC.side)
            for row in rows
        ]
        points = np.stack([np.full((2, 3), float(row != empty), np.float32) for row in rows])
        condition = {
            "is_watertight": np.ones((len(rows), 1), bool),
            "components": np.array([[int(row != empty)] for row in rows]),
            "renders": np.stack(views),
            "text": np.array([("a tall cone", "cone", "a", "tall", "tall a")[row] for row in rows], object),
        }
        return Batch(points, np.full(len(rows), -1), [], np.empty(0, np.int64), condition=condition)

    return FunctionCollection(
        source=Path("meshes"), domain="shape", digest=str(order), names=[f"mesh-{row}" for row in order],
        load_values=lambda indices: load(indices).values, load_batch=load,
    )  # fmt: skip


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory):
    """A context with random weights of both encoders."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        published.clip_file(patch, folder)
        tokenizer = hf_folders.clip(tmp_path_factory.mktemp("whole")) / "tokenizer.json"
        published.clip_text_file(patch, folder, tokenizer)
        yield Gatherer(EvaluationSettings(folder, weights_folder=folder)).sharing(
            [SPEC, watertight.inputs("preset-grid")]
        )


def test_clip_s_is_100_where_embeddings_coincide_and_0_at_right_angles():
    texts = RNG.normal(size=(3, 8))
    views = np.repeat(texts[:, None] * 7, 2, axis=1)
    np.testing.assert_allclose(100 * view_similarities(views, texts), 100, rtol=1e-12)
    views[0, 1] = -views[0, 1]
    other = RNG.normal(size=8)
    views[1, 0] = other - (other @ texts[1]) / (texts[1] @ texts[1]) * texts[1]
    np.testing.assert_allclose(view_similarities(views[:2], texts[:2])[[0, 1], [1, 0]], [-1, 0], atol=1e-8)


def test_clip_s_is_the_mean_or_largest_cosine_of_views_in_any_order_and_any_blocks(
    context: Gatherer, monkeypatch: pytest.MonkeyPatch
):
    found = {}
    for block, order in ((4, [0, 1, 2, 3, 4]), (1, [0, 1, 2, 3, 4]), (3, [3, 0, 4, 2, 1])):
        monkeypatch.setattr(_shape_inputs, "BLOCK", block)
        context.forget_samples()
        values = SPEC.gather(drawn_meshes(order), collection(SURFACES), context)
        found[block] = {over: values.per_item(over) for over in ("mean", "max")}
        assert watertight.compute(values, "preset-grid") == 100
        score = [clip_s.compute(values, protocol) for protocol in clip_s.PROTOCOLS]
        assert score == pytest.approx([100 * np.mean([*found[block][over].values()]) for over in ("mean", "max")])
    for block in (1, 3):
        for over in ("mean", "max"):
            assert found[block][over] == pytest.approx(found[4][over], abs=1e-5)
    images, texts = context.extractor("clip"), context.extractor("clip-text-b32")
    batch = drawn_meshes([0]).read([0])
    views = images(batch.condition["renders"][0], ("embedding",), "openai")["embedding"].double().numpy()
    (text,) = texts(["a tall cone"], ("embedding",), "openai")["embedding"].double().numpy()
    cosines = views @ text / np.linalg.norm(views, axis=1) / np.linalg.norm(text)
    assert found[1]["mean"]["mesh-0"] == pytest.approx(cosines.mean(), abs=1e-6) and np.ptp(cosines) > 1e-4
    assert found[1]["max"]["mesh-0"] == pytest.approx(cosines.max(), abs=1e-6)


def test_an_empty_mesh_has_clip_s_0(context: Gatherer):
    context.forget_samples()
    values = SPEC.gather(drawn_meshes([0, 1], empty=1), collection(SURFACES), context)
    assert values.per_item("mean")["mesh-1"] == 0 != values.per_item("mean")["mesh-0"]
    assert clip_s.remark(values, clip_s.PROTOCOLS[0]) == "1 of 2 meshes are empty, and have 0"


def test_views_are_of_the_mesh_from_all_sides_and_fit():
    views = mesh_grid.render_around(MESHES[0], count=8, elevation=0, size=64)
    is_seen = (views < 255).all(3)
    widths = np.count_nonzero(is_seen.max(axis=1), axis=1)
    assert widths[0] == widths[4] > 50 and widths[2] == widths[6] < 25 and widths[0] <= 64
    empty = mesh_grid.render_around(Mesh(np.zeros((0, 3)), np.zeros((0, 3), int)), count=2, elevation=0, size=8)
    assert (empty == 255).all()
