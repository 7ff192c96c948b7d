"""Rigid motions and what they leave as it is, against plain loops and SciPy."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from inrflow_core.geometry import rigid_motion

SEEDS = torch.arange(20_000)


def positions(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Seeded normals, 8 Angstrom wide."""
    return 8 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def moved(x: torch.Tensor, seed: int = 7) -> torch.Tensor:
    """Each set turned and shifted in its own way."""
    turn = torch.from_numpy(Rotation.from_quat(positions(len(x), 4, seed=seed).numpy()).as_matrix()).to(x.dtype)
    return x @ turn.mT + positions(len(x), 1, 3, seed=seed, dtype=x.dtype)


def a_mask(num_sets: int, num_atoms: int) -> torch.Tensor:
    """Two thirds of the atoms, others in each set."""
    return torch.rand(num_sets, num_atoms, generator=torch.Generator().manual_seed(5)) < 2 / 3


def plain_smooth_lddt(predicted: torch.Tensor, true: torch.Tensor, mask: torch.Tensor) -> float:
    """One structure, pair by pair."""
    total, count = 0.0, 0
    for i in range(len(true)):
        for j in range(len(true)):
            distance = math.dist(true[i].tolist(), true[j].tolist())
            if i == j or not (mask[i] and mask[j]) or distance >= 15:
                continue
            error = abs(math.dist(predicted[i].tolist(), predicted[j].tolist()) - distance)
            total += sum(1 / (1 + math.exp(error - k)) for k in (0.5, 1, 2, 4)) / 4
            count += 1
    return total / count


def test_rotations_are_proper_and_keyed_by_their_seed():
    turns = rigid_motion.random_rotations(SEEDS[:100])
    torch.testing.assert_close(turns @ turns.mT, torch.eye(3).expand(100, 3, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.det(turns), torch.ones(100), rtol=0, atol=1e-6)
    assert torch.equal(rigid_motion.random_rotations(SEEDS[40:41])[0], turns[40])


def test_rotations_are_uniform():
    """Of uniform ones, every entry has mean 0 and variance 1/3, and the angle a has density (1 - cos a) / pi."""
    turns = rigid_motion.random_rotations(SEEDS).double()
    torch.testing.assert_close(turns.mean(0), torch.zeros(3, 3).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(turns.square().mean(0), torch.full((3, 3), 1 / 3).double(), rtol=0, atol=0.01)
    cosine = (turns.diagonal(dim1=1, dim2=2).sum(-1) - 1) / 2
    angle = torch.acos(cosine.clamp(-1, 1)).sort().values
    expected = (angle - torch.sin(angle)) / math.pi
    assert (expected - torch.linspace(0, 1, len(SEEDS)).double()).abs().max() < 1.63 / math.sqrt(len(SEEDS))


def test_a_moved_structure_comes_back():
    x = positions(50, 20, 3)
    torch.testing.assert_close(rigid_motion.kabsch_align(moved(x), x), x, rtol=0, atol=1e-9)


def test_the_alignment_is_scipys():
    moving, fixed = positions(30, 12, 3, seed=1), positions(30, 12, 3, seed=2)
    mask = a_mask(30, 12)
    result = rigid_motion.kabsch_align(moving, fixed, mask)
    for b in range(30):
        here, there = moving[b] - moving[b][mask[b]].mean(0), fixed[b][mask[b]].mean(0)
        turn = Rotation.align_vectors((fixed[b] - there)[mask[b]].numpy(), here[mask[b]].numpy())[0]
        expected = torch.from_numpy(turn.apply(here.numpy())) + there
        torch.testing.assert_close(result[b], expected, rtol=0, atol=1e-8)


def test_no_mirror_image_is_taken_for_the_same():
    x = positions(10, 30, 3)
    mirrored = x * torch.tensor([1.0, 1.0, -1.0])
    result = rigid_motion.kabsch_align(mirrored, x)
    handed = lambda y: torch.linalg.det(y[:, 1:4] - y[:, :1])  # noqa: E731
    torch.testing.assert_close(handed(result), handed(mirrored))
    assert (result - x).square().sum(-1).mean(-1).sqrt().min() > 3


def test_atoms_outside_the_mask_move_along_and_decide_nothing():
    x, mask = positions(5, 20, 3), a_mask(5, 20)
    other = torch.where(mask[..., None], moved(x), 1e4)
    result = rigid_motion.kabsch_align(x, other, mask)
    assert torch.equal(result, rigid_motion.kabsch_align(x, torch.where(mask[..., None], moved(x), -3.0), mask))
    torch.testing.assert_close(result, moved(x), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_too_few_atoms_give_some_rigid_motion_and_no_nan(kept):
    x, fixed = positions(3, 6, 3), positions(3, 6, 3, seed=3)
    mask = (torch.arange(6) < kept).expand(3, 6)
    result = rigid_motion.kabsch_align(x, fixed, mask)
    torch.testing.assert_close(torch.cdist(result, result), torch.cdist(x, x), rtol=0, atol=1e-6)
    if kept:
        torch.testing.assert_close(result[:, :kept].mean(1), fixed[:, :kept].mean(1), rtol=0, atol=1e-9)


def test_half_a_turn_is_found_too():
    """The trace of its matrix is -1, where formulas by the trace divide by 0."""
    x = positions(3, 20, 3)
    turned = x * torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]])[:, None]
    torch.testing.assert_close(rigid_motion.kabsch_align(turned, x), x, rtol=0, atol=1e-8)


def test_alignment_keeps_no_gradient_and_the_type():
    x = positions(2, 5, 3, dtype=torch.float32).requires_grad_()
    result = rigid_motion.kabsch_align(x, moved(x))
    assert (result.dtype, result.requires_grad) == (torch.float32, False)


def test_smooth_lddt_is_the_plain_loops():
    true = positions(3, 25, 3)
    predicted, mask = true + positions(3, 25, 3, seed=1) / 6, a_mask(3, 25)
    result = rigid_motion.smooth_lddt(predicted, true, mask)
    expected = [plain_smooth_lddt(p, t, m) for p, t, m in zip(predicted, true, mask, strict=True)]
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_right_distances_give_the_maximum_wherever_the_structure_is():
    x = positions(4, 40, 3)
    best = sum(1 / (1 + math.exp(-k)) for k in (0.5, 1, 2, 4)) / 4
    assert ((rigid_motion.smooth_lddt(moved(x), x) - best).abs() < 1e-9).all()
    worse = rigid_motion.smooth_lddt(x + positions(4, 40, 3, seed=1) / 20, x)
    assert (worse < best - 0.01).all()


def test_smooth_lddt_does_not_see_a_motion():
    true = positions(4, 30, 3)
    predicted = true + positions(4, 30, 3, seed=1) / 6
    still = rigid_motion.smooth_lddt(predicted, true)
    torch.testing.assert_close(rigid_motion.smooth_lddt(moved(predicted), moved(true, 9)), still, rtol=0, atol=1e-9)


def test_the_unit_scales_both_structures():
    true = positions(2, 30, 3)
    predicted = true + positions(2, 30, 3, seed=1) / 6
    scaled = rigid_motion.smooth_lddt(predicted / 16, true / 16, unit=1 / 16)
    torch.testing.assert_close(scaled, rigid_motion.smooth_lddt(predicted, true))


@pytest.mark.parametrize("pairs", [1, 200, 1000])
def test_parts_are_the_whole_and_have_its_gradient(pairs):
    true, mask = positions(2, 33, 3), a_mask(2, 33)
    start = true + positions(2, 33, 3, seed=1) / 6
    results = []
    for size in (rigid_motion.PAIRS, pairs):
        predicted = start.clone().requires_grad_()
        score = rigid_motion.smooth_lddt(predicted, true, mask, pairs=size)
        results.append((score, *torch.autograd.grad(score.sum(), predicted)))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-14)


def test_the_gradient_is_that_of_finite_differences():
    true, mask = positions(1, 7, 3) / 3, torch.tensor([[True] * 6 + [False]])
    predicted = (true + positions(1, 7, 3, seed=1) / 6).requires_grad_()
    for pairs in (rigid_motion.PAIRS, 14):
        score = lambda x, pairs=pairs: rigid_motion.smooth_lddt(x, true, mask, pairs=pairs)  # noqa: E731
        assert torch.autograd.gradcheck(score, (predicted,), atol=1e-7)
    (gradient,) = torch.autograd.grad(rigid_motion.smooth_lddt(predicted, true, mask).sum(), predicted)
    assert torch.equal(gradient[0, 6], torch.zeros(3).double())
    assert gradient[0, :6].abs().min() > 0


def test_atoms_at_one_place_and_structures_without_pairs_give_numbers():
    true = positions(3, 10, 3)
    mask = torch.tensor([[True] * 10, [True] + [False] * 9, [False] * 10])
    predicted = torch.zeros(3, 10, 3).double().requires_grad_()
    score = rigid_motion.smooth_lddt(predicted, true, mask)
    assert torch.equal(score[1:], torch.zeros(2).double())
    assert 0 < score[0] < 0.5
    (gradient,) = torch.autograd.grad(score.sum(), predicted)
    assert gradient.isfinite().all()


def test_memory_stays_bounded_for_a_large_protein():
    """2000 atoms in two sets are 8 million pairs, 32 MB a tensor: the gradient would keep about ten of those."""
    resource = pytest.importorskip("resource")
    true = positions(2, 2000, 3, dtype=torch.float32)
    predicted = (true + 1).requires_grad_()
    torch.autograd.grad(rigid_motion.smooth_lddt(predicted[:, :400], true[:, :400], pairs=1 << 18).sum(), predicted)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (gradient,) = torch.autograd.grad(rigid_motion.smooth_lddt(predicted, true, pairs=1 << 18).sum(), predicted)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 60
    assert gradient.isfinite().all()
