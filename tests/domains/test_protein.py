"""The domain of proteins: a stored chain becomes a set, and a sample becomes a structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inrflow_core.domains.protein import Config, Domain
from inrflow_core.errors import UsageError
from inrflow_core.proteins import residues, structure, superposition
from inrflow_core.proteins.residues import EIGENVECTORS, FEATURES
from inrflow_core.sampling import sample
from inrflow_core.sets import CoordValueSet
from inrflow_core.shards.batch import Batch
from tests import protein_files

CHAINS = (residues.LETTERS, "GAP", "MKTWAYG")
SEEDS = torch.arange(10, 13)


def read() -> Batch:
    """Three chains as shards give them: padded with 0, one atom of the second unknown."""
    structures = [protein_files.structure(chain, seed=seed) for seed, chain in enumerate(CHAINS)]
    most = max(len(one.positions) for one in structures)
    values, known = np.zeros((3, most, 3), np.float32), np.zeros((3, most), np.uint8)
    codes = np.zeros((3, max(map(len, CHAINS))), np.uint8)
    for row, one in enumerate(structures):
        values[row, : len(one.positions)] = one.positions - one.positions.mean(0)
        known[row, : len(one.positions)] = 1
        codes[row, : len(one.codes)] = one.codes
    known[1, 4], values[1, 4] = 0, 0
    sizes = np.array([len(one.positions) for one in structures])
    counts = {"residues": np.array([len(chain) for chain in CHAINS]), "is_known": sizes}
    return Batch(values, np.full(3, -1), [], np.empty(0), sizes, {"residues": codes, "is_known": known}, counts)


def sets(seeds: torch.Tensor = SEEDS, *, augment: bool = False, **settings: bool) -> CoordValueSet:
    batch = read()
    return Domain(Config(**settings)).to_set(batch, seeds, batch.labels, augment=augment)  # type: ignore[arg-type]


def test_an_atom_has_the_features_of_its_residue_and_slot():
    protein_sets = sets()
    queries = protein_sets.queries
    assert queries.group_ids is not None and queries.coordinates is not None and protein_sets.mask is not None
    for row, chain in enumerate(CHAINS):
        codes = residues.to_codes(chain)
        group, slot = residues.atom_layout(codes)
        size = len(group)
        expected = np.concatenate([FEATURES[codes[group], slot], EIGENVECTORS[codes[group], slot]], axis=1)
        np.testing.assert_array_equal(queries.coordinates[row, :size].numpy(), expected)
        assert queries.group_ids[row, :size].tolist() == group.tolist()
        assert set(queries.group_ids[row, size:].tolist()) <= {-1}
        assert protein_sets.condition["residues"][row].tolist() == [*codes, *[-1] * (20 - len(codes))]
        assert protein_sets.mask[row].sum() == size - (row == 1)
    assert "is_known" not in protein_sets.condition


def test_values_are_positions_in_the_networks_scale():
    batch = read()
    np.testing.assert_allclose(sets().values.numpy(), 0.1 * batch.values, rtol=1e-6)
    protein_sets = sets()
    for row, one in enumerate(Domain(Config()).decode_values(protein_sets.values, condition=protein_sets.condition)):
        np.testing.assert_allclose(one.positions, batch.values[row, : len(one.positions)], rtol=1e-5, atol=1e-6)


def test_training_turns_each_chain_by_a_proper_rotation_of_its_seed():
    plain, turned, again = sets().values, sets(augment=True).values, sets(augment=True).values
    torch.testing.assert_close(again, turned, rtol=0, atol=0)
    rotations = []
    for row in range(3):
        rotation = torch.linalg.lstsq(plain[row].double(), turned[row].double()).solution.T
        torch.testing.assert_close(rotation @ rotation.T, torch.eye(3, dtype=torch.float64), atol=1e-4, rtol=0)
        assert torch.linalg.det(rotation) == pytest.approx(1, abs=1e-4)
        torch.testing.assert_close(plain[row] @ rotation.T.float(), turned[row], atol=1e-4, rtol=0)
        rotations.append(rotation)
    assert (rotations[0] - rotations[1]).abs().max() > 0.1 and (rotations[1] - rotations[2]).abs().max() > 0.1
    other = sets(SEEDS.flip(0), augment=True).values
    rotation = torch.linalg.lstsq(plain[0].double(), other[0].double()).solution.T
    torch.testing.assert_close(rotation, rotations[2] @ torch.eye(3, dtype=torch.float64), atol=1e-4, rtol=0)
    torch.testing.assert_close(sets(augment=True, rotate=False).values, plain, rtol=0, atol=0)


def test_training_draws_a_sign_for_each_eigenvector_of_each_residue_by_the_seed():
    plain, augmented = sets().queries, sets(augment=True).queries
    assert plain.coordinates is not None and augmented.coordinates is not None and plain.group_ids is not None
    features = FEATURES.shape[-1]
    torch.testing.assert_close(augmented.coordinates[..., :features], plain.coordinates[..., :features], rtol=0, atol=0)
    torch.testing.assert_close(augmented.coordinates.abs(), plain.coordinates.abs(), rtol=0, atol=0)
    ratio = augmented.coordinates[..., features:] / plain.coordinates[..., features:]
    ratio = ratio.where(plain.coordinates[..., features:].abs() > 1e-6, torch.nan)
    seen = []
    for row, chain in enumerate(CHAINS):
        for group in range(len(chain)):
            signs = ratio[row, plain.group_ids[row] == group]
            assert ((signs == signs.nanmedian(0).values) | signs.isnan()).all()  # one sign in the whole residue
            seen += signs.nanmedian(0).values.tolist()
    share = np.nanmean(np.array(seen) > 0)
    assert set(np.array(seen)[~np.isnan(seen)]) == {-1.0, 1.0} and 0.35 < share < 0.65
    again = sets(augment=True).queries.coordinates
    assert again is not None and torch.equal(again, augmented.coordinates)
    fixed = sets(augment=True, random_signs=False).queries.coordinates
    assert fixed is not None and torch.equal(fixed, plain.coordinates)


def test_the_signs_and_the_rotation_of_a_chain_do_not_depend_on_what_is_read_with_it():
    batch, domain = read(), Domain(Config())
    whole = sets(augment=True)
    for row, chain in enumerate(CHAINS):
        size = int(batch.sizes[row])  # type: ignore[index]
        one = Batch(
            batch.values[row : row + 1, :size], batch.labels[row : row + 1], [], np.empty(0), None,
            {"residues": batch.condition["residues"][row : row + 1, : len(chain)],
             "is_known": batch.condition["is_known"][row : row + 1, :size]},
            {"residues": np.array([len(chain)])},
        )  # fmt: skip
        alone = domain.to_set(one, SEEDS[row : row + 1], None, augment=True)
        torch.testing.assert_close(alone.values[0], whole.values[row, :size], rtol=0, atol=1e-6)
        assert alone.queries.coordinates is not None and whole.queries.coordinates is not None
        assert torch.equal(alone.queries.coordinates[0], whole.queries.coordinates[row, :size])


def test_samples_are_structures_of_their_own_sequence():
    domain, protein_sets = Domain(Config()), sets()
    made = domain.decode_values(protein_sets.values, condition=protein_sets.condition)
    assert [one.sequence for one in made] == list(CHAINS)
    for row, one in enumerate(made):
        assert one.is_known.all() and one.numbers.tolist() == list(range(1, len(CHAINS[row]) + 1))
        np.testing.assert_allclose(one.positions, read().values[row, : len(one.positions)], atol=1e-5)


def test_samples_of_one_sequence_lie_on_the_first_however_they_are_divided():
    first = protein_files.structure("MKTWAYG")
    turn = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    others = [protein_files.structure("MKTWAYG", seed=seed) for seed in (1, 2)]
    others = [structure.Structure("", one.codes, one.positions @ turn + 9, one.is_known, one.numbers) for one in others]
    apart = protein_files.structure("GAP")
    whole = sample.concatenate([[first, *others, apart]])
    for division in ([[first], others, [apart]], [[first, others[0]], [others[1], apart]]):
        for one, other in zip(sample.concatenate(division), whole, strict=True):
            np.testing.assert_array_equal(one.positions, other.positions)
    assert whole[0] is first and whole[3] is apart
    for one in whole[1:3]:
        motion = superposition.superpose(one.ca, first.ca)
        np.testing.assert_allclose(motion.rotation, np.eye(3), atol=1e-5)
        np.testing.assert_allclose(motion.shift, 0, atol=1e-4)
        assert np.abs(one.ca - first.ca).max() < 1


def test_queries_of_a_condition_are_those_of_its_sets():
    protein_sets, domain = sets(), Domain(Config())
    queries = domain.queries(condition=protein_sets.condition)
    for one, other in (
        (queries.coordinates, protein_sets.queries.coordinates),
        (queries.group_ids, protein_sets.queries.group_ids),
    ):
        assert one is not None and other is not None and torch.equal(one, other)


def test_blank_sets_have_the_shape_that_the_network_is_built_for():
    domain = Domain(Config(residues=11))
    blank = domain.dummy_batch(2)
    assert blank.values.shape == (2, domain.shape.num_queries, 3) == (2, 88, 3)
    assert blank.queries.coordinates is not None
    assert blank.queries.coordinates.shape == (2, 88, domain.shape.coordinate_size)
    assert blank.condition["residues"].shape == (2, 11)


def test_a_protein_cannot_be_evaluated_elsewhere():
    for arguments in ({"size": 5}, {"window": (0.0, 0.0, 1.0, 1.0)}):
        with pytest.raises(UsageError, match="a protein has the atoms of its sequence"):
            Domain(Config()).queries(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"), [({"residues": 0}, "`residues` is 0"), ({"value_scale": 0.0}, "above 0")]
)
def test_settings_that_cannot_be_are_refused(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Config(**settings)
