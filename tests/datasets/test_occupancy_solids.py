"""Solids as occupancies: the bodies of `solids`, inside where their formulas say, made from their names alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import _point_clouds, _solid_captions, occupancy_solids, solids
from inrflow_core.datasets._contract import Example, Item
from inrflow_core.errors import UnreadableItemError
from inrflow_core.geometry import mesh_interior
from inrflow_core.geometry.mesh import Mesh
from tests.benchmarks.texts import measured

NOWHERE = Path("nowhere")
SMALL = occupancy_solids.Config(train=16, val=0, points=600, queries=801)


def items(config: occupancy_solids.Config, split: str = "train") -> list[Item]:
    return list(occupancy_solids.scan(NOWHERE, config).splits[split])


def is_inside(example: Example) -> np.ndarray:
    return np.unpackbits(example.condition["occupancies"])[: len(example.condition["queries"])].astype(bool)


def polygons(item: Item, example: Example) -> Mesh:
    """The body that `solids` builds of polygons, in the unit cube of the example."""
    rng = np.random.default_rng(_point_clouds.seed(f"solid {item.name}"))
    body = list(solids.BODIES.values())[item.label](rng)
    vertices = np.asarray(body.vertices) @ occupancy_solids._turn(rng.uniform(0, 2 * np.pi))
    scaled = (vertices - example.condition["offset"]) / example.condition["scale"]
    return mesh_interior.merged(Mesh(scaled, np.asarray(body.triangles)))


@pytest.mark.parametrize("item", items(SMALL)[:8], ids=lambda item: item.name)
def test_occupancies_are_those_of_the_polygons_of_solids(item: Item) -> None:
    example = occupancy_solids.read(item, SMALL)
    winding = mesh_interior.winding_numbers(polygons(item, example), example.condition["queries"])
    # Polygons lie inside round bodies: they differ in a layer of under 1 % of the size.
    assert (is_inside(example) == (winding > 0.5)).mean() > 0.98
    assert is_inside(example)[:400].mean() < is_inside(example)[401:].mean(), "those near the surface come last"


@pytest.mark.parametrize("item", items(SMALL)[:8], ids=lambda item: item.name)
def test_points_are_on_the_surface_and_normals_point_outwards(item: Item) -> None:
    example = occupancy_solids.read(item, SMALL)
    rng = np.random.default_rng(_point_clouds.seed(f"solid {item.name}"))
    body = list(occupancy_solids.BODIES.values())[item.label](rng)
    turn = occupancy_solids._turn(rng.uniform(0, 2 * np.pi))

    def occupied(points: np.ndarray) -> np.ndarray:
        return body.is_inside((points * example.condition["scale"] + example.condition["offset"]) @ turn.T)

    points, normals = example.values.astype(np.float64), example.condition["normals"].astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)
    assert not occupied(points + 1e-4 * normals).any()
    assert occupied(points - 1e-4 * normals).mean() > 0.99


def test_every_solid_fills_its_cube_and_the_cube_is_undone() -> None:
    for item in items(SMALL):
        example = occupancy_solids.read(item, SMALL)
        box = polygons(item, example).vertices
        assert np.ptp(box, axis=0).max() == pytest.approx(1, abs=0.01)
        np.testing.assert_allclose(box.max(0) + box.min(0), 0, atol=0.02)
        assert np.abs(example.condition["queries"]).max() <= 0.55


def test_a_solid_depends_on_its_name_alone() -> None:
    many = occupancy_solids.Config(train=40, val=8, points=600, queries=801)
    for item, same in zip(items(SMALL), items(many)[:16], strict=True):
        first, again = occupancy_solids.read(item, SMALL), occupancy_solids.read(same, many)
        np.testing.assert_array_equal(first.values, again.values)
        np.testing.assert_array_equal(first.condition["occupancies"], again.condition["occupancies"])
    held_out, first = (occupancy_solids.read(items(many, split)[0], many) for split in ("val", "train"))
    assert held_out.label == first.label and not np.array_equal(held_out.values, first.values)


def test_queries_of_a_few_that_are_all_outside_are_a_named_skip() -> None:
    config = occupancy_solids.Config(train=8, val=0, points=5, queries=1, near=0.0)
    with pytest.raises(UnreadableItemError, match="all of its 1 query points are outside"):
        [occupancy_solids.read(item, config) for item in items(config)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"points": 0}, "`points` is 0: from 1 to 10,000,000"),
        ({"queries": 100_000_000}, "`queries` is 100,000,000: from 1 to 10,000,000"),
        ({"near": 1.5}, "`near` is 1.5: from 0 to 1"),
        ({"near_deviation": 0.0}, "`near_deviation` is 0.0: above 0, at most 1"),
        ({"train": 0}, "`train` is 0: at least 1"),
    ],
)
def test_impossible_numbers_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        occupancy_solids.Config(**settings)


def test_captions_say_the_true_proportions_and_leave_the_shape_as_it_is() -> None:
    """The words follow from the stored points: the sides of the turned body by the smallest rectangle around it."""
    config = occupancy_solids.Config(train=80, val=0, points=4000, queries=200, embedder="words")
    seen = set()
    for item, plain in zip(items(config), items(SMALL), strict=False):
        assert item == plain
    for item in items(config):
        example = occupancy_solids.read(item, config)
        texts = bytes(example.variable_length["descriptions"]).decode().split("\n")
        name = item.name.rpartition("-")[2]
        assert example.variable_length["text_tokens"].shape == (len(texts), 77) and len(texts) in (2, 3)
        assert all(name in text for text in texts) and texts[-1].split()[-1] == name
        found = set(texts[0].split()) - {"a", "an", name}
        seen |= found
        height, longer, shorter = measured(example.values)
        ratios = {"height": height / longer, "rise": height / shorter, "width": shorter / longer}
        for rule in _solid_captions.PROPORTIONS[name]:
            if abs(ratios[rule.of] - rule.low) > 0.04 and abs(ratios[rule.of] - rule.high) > 0.04:
                assert (rule.low_word in found) == (ratios[rule.of] < rule.low), (texts, ratios)
                assert (rule.high_word in found) == (ratios[rule.of] > rule.high), (texts, ratios)
    words = {word for rules in _solid_captions.PROPORTIONS.values() for rule in rules for word in (rule[2], rule[4])}
    assert seen == words


def test_without_an_embedder_shards_are_those_of_before() -> None:
    index = occupancy_solids.scan(NOWHERE, SMALL)
    assert "embedder" not in index.normalization and occupancy_solids.read(items(SMALL)[0], SMALL).variable_length == {}
    with pytest.raises(ValueError, match="`weights` is set, and `embedder` is none"):
        occupancy_solids.Config(weights="here")
    with pytest.raises(
        ValueError, match="`embedder` is `dinov2`, which reads no texts: allowed are `clip-text` and `words`"
    ):
        occupancy_solids.Config(embedder="dinov2")
