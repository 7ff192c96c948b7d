"""Laws of sets and queries of every layout: slicing, selecting sets, mapping and moving keep what belongs together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inrflow_core.sets import CoordValueSet, Grid, Groups, Points, Queries, Rays, SetSpec, TrainBatch

SETS, PAIRS = 3, 6
SPECS = {
    "grid": SetSpec(2, 3, Grid((2, 3))),
    "points": SetSpec(3, 3, Points(PAIRS)),
    "occupancy": SetSpec(3, 1, Points(PAIRS, has_coordinates=True)),
    "rays": SetSpec(3, 3, Rays(views=1, height=2, width=3)),
    "groups": SetSpec(5, 3, Groups(max_size=4, num_queries=PAIRS)),
}


def unit_vectors(*shape: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(*shape, 3), dim=-1)


def queries(kind: str) -> Queries:
    """Queries as that layout has them."""
    spec = SPECS[kind]
    torch.manual_seed(0)
    match spec.layout:
        case Grid():
            keys = torch.rand(PAIRS, 2, dtype=torch.float64)
            return Queries(torch.rand(PAIRS, 2), keys, cell_sizes=torch.tensor(0.25))
        case Points(has_coordinates=False):
            return Queries(None, torch.arange(PAIRS))
        case Points():
            return Queries(torch.rand(SETS, PAIRS, 3), torch.arange(PAIRS), cell_sizes=torch.rand(SETS))
        case Rays():
            return Queries(torch.rand(SETS, PAIRS, 3), torch.arange(PAIRS), directions=unit_vectors(SETS, PAIRS))
        case Groups():
            groups = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 1, -1, -1], [0, 1, 2, 3, 4, -1]])
            return Queries(torch.rand(SETS, PAIRS, 5), torch.arange(PAIRS), groups, ((6, 3), (4, 2), (5, 5)))


def sets(kind: str) -> CoordValueSet:
    """Sets of that layout with all that sets may have."""
    values = torch.randn(SETS, PAIRS, SPECS[kind].value_size)
    mask = torch.rand(SETS, PAIRS) < 0.5
    return CoordValueSet(queries(kind), values, torch.arange(SETS), {"label": torch.arange(SETS)}, mask)


def row(of: Queries, set_index: int, pair: int) -> list[list[float]]:
    """All that belongs to one pair of one set."""
    placed = [t if t is None or t.ndim == 3 else t[None].expand(SETS, -1, -1) for t in (of.coordinates, of.directions)]
    picked = [None if t is None else t[set_index, pair] for t in (*placed, of.group_ids)]
    step = None if of.cell_sizes is None else of.cell_sizes.expand(SETS if of.cell_sizes.ndim == 0 else -1)[set_index]
    return [[] if t is None else t.flatten().tolist() for t in (*picked, step, of.noise_keys[pair])]


@pytest.mark.parametrize("kind", SPECS)
def test_a_slice_and_an_index_keep_all_that_belongs_to_a_query(kind: str):
    whole = queries(kind)
    for part in (slice(2, 5), torch.tensor([4, 0, 0])):
        selected, index = whole[part], torch.arange(PAIRS)[part].tolist()
        assert len(selected) == len(index) and selected.valid_sizes is None
        for set_index in range(SETS):
            assert [row(selected, set_index, i) for i in range(len(index))] == [row(whole, set_index, i) for i in index]


@pytest.mark.parametrize("kind", SPECS)
def test_selected_sets_keep_their_queries(kind: str):
    whole = sets(kind)
    for part in (slice(1, 3), torch.tensor([2, 0])):
        selected, index = whole[part], torch.arange(SETS)[part].tolist()
        assert len(selected) == len(index) and selected.condition["label"].tolist() == index
        for position, of in enumerate(index):
            torch.testing.assert_close(selected.values[position], whole.values[of], rtol=0, atol=0)
            for pair in range(PAIRS):
                assert row(selected.queries, position, pair) == row(whole.queries, of, pair)
    sizes = whole.queries.valid_sizes
    assert whole[1:].queries.valid_sizes == (None if sizes is None else sizes[1:])


@pytest.mark.parametrize("kind", SPECS)
def test_map_reaches_every_tensor_and_a_move_changes_none(kind: str):
    whole = sets(kind)
    seen: list[Tensor] = []
    whole.map(lambda tensor: (seen.append(tensor), tensor)[1])
    own = whole.queries
    tensors = [own.coordinates, own.directions, own.group_ids, own.cell_sizes, own.noise_keys]
    tensors += [whole.values, whole.seeds, whole.mask]
    expected = [*(t for t in tensors if t is not None), *whole.condition.values()]
    assert sorted(map(id, seen)) == sorted(map(id, expected))
    moved = own.to("meta")
    assert moved.noise_keys.is_meta and moved.valid_sizes == own.valid_sizes
    assert (moved.directions is None) == (own.directions is None)
    assert moved.directions is None or moved.directions.is_meta


@pytest.mark.parametrize("kind", SPECS)
def test_a_layout_says_how_many_queries_a_set_has(kind: str):
    assert SPECS[kind].num_queries == PAIRS == len(queries(kind))


def test_only_points_that_move_have_no_coordinates_of_their_own():
    assert [kind for kind, spec in SPECS.items() if not spec.layout.has_coordinates] == ["points"]
    assert [kind for kind, spec in SPECS.items() if isinstance(spec.layout, Grid)] == ["grid"]


@pytest.mark.parametrize(
    ("coordinate_size", "value_size", "layout", "said"),
    [
        (3, 1, Grid((8, 8)), "2 for Grid"),
        (2, 3, Rays(1, 8, 8), "3 for Rays"),
        (3, 2, Points(8), "at most 2 for Points"),
    ],
)
def test_a_coordinate_that_does_not_fit_the_layout_is_refused(coordinate_size, value_size, layout, said):
    with pytest.raises(ValueError, match=said):
        SetSpec(coordinate_size, value_size, layout)


def test_shared_sets_of_a_batch_are_changed_once_and_stay_shared():
    batch = TrainBatch.from_sets(sets("rays"))
    seen: list[Tensor] = []
    mapped = batch.map(lambda tensor: (seen.append(tensor), tensor)[1])
    assert len(seen) == len({id(tensor) for tensor in seen})
    for made in (mapped, batch[1:], batch.to("cpu"), batch[torch.tensor([2, 0])]):
        assert made.is_shared and made.queries is made.context


def test_rows_of_both_sets_of_a_batch_stay_together():
    support, views = sets("rays"), sets("occupancy")
    part = TrainBatch(support, views)[torch.tensor([2, 0])]
    assert not part.is_shared and len(part) == 2
    for rows, whole in ((part.context, support), (part.queries, views)):
        torch.testing.assert_close(rows.values, whole.values[[2, 0]], rtol=0, atol=0)
