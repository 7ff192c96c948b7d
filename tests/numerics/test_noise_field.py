"""Noise is a function of seed, purpose, step and place: nothing else may change a bit of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from inrflow_core.numerics import keyed_random, noise_field

KNOWN_ANSWERS = [
    # Counter, key, words: the three lines `philox4x32 10` of Random123's kat_vectors.
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]
KERNELS = ["linear", "cubic", "independent"]
FIELDS = ["linear", "cubic"]


def lattice(*sides: int, start: int = 0) -> torch.Tensor:
    """Whole positions of a box, as float64 (N D)."""
    axes = [torch.arange(start, start + side, dtype=torch.float64) for side in sides]
    return torch.cartesian_prod(*axes).reshape(-1, len(sides))


def finer(side: int, factor: int) -> torch.Tensor:
    """Positions of the pixels of a square grid `factor` times as fine as a training grid of `side`."""
    index = torch.arange(side * factor)
    axis = ((2 * index + 1) * side - side * factor).double() / (2 * side * factor)
    return torch.cartesian_prod(axis, axis)


def start(seeds, places, *, channels: int = 3, **settings) -> torch.Tensor:
    """The noise that generation starts from."""
    seeds = torch.tensor(seeds) if isinstance(seeds, list) else seeds
    return noise_field.normal(seeds, places, purpose="start", channels=channels, **settings)


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_gives_the_published_known_answers(counter, key, words):
    counter = [torch.tensor([int(word, 16)]) for word in counter.split()]
    low, high = (int(word, 16) for word in key.split())
    whole = torch.from_numpy(np.array([high << 32 | low], dtype=np.uint64).view(np.int64))
    assert " ".join(f"{int(word):08x}" for word in keyed_random.philox(counter, whole)) == words


def test_normals_are_those_of_box_and_muller_in_float64():
    words = torch.tensor([[0, 1, 2**31 - 1, 2**31, 3 * 2**29, 2**32 - 1]])
    words = torch.cat([words, torch.from_numpy(np.random.default_rng(0).integers(0, 2**32, (1, 100_000)))], dim=1)
    u = (words.double() + 0.5) / 2.0**32
    torch.testing.assert_close(keyed_random._logarithm(u), torch.log(u), rtol=1e-15, atol=0)
    cosine, sine = keyed_random._turn(words)
    torch.testing.assert_close(cosine, torch.cos(2 * math.pi * u), rtol=0, atol=1e-15)
    torch.testing.assert_close(sine, torch.sin(2 * math.pi * u), rtol=0, atol=1e-15)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_normal_depends_neither_on_the_batch_nor_on_the_chunk_nor_on_the_order(kernel):
    seeds, indices = torch.tensor([7, 2**62, 0]), finer(5, 4)
    whole = start(seeds, indices, kernel=kernel, step=3)
    for row, seed in enumerate(seeds):
        assert torch.equal(start(seed[None], indices, kernel=kernel, step=3)[0], whole[row])
    chunks = [start(seeds, part, kernel=kernel, step=3) for part in indices.split(37)]
    assert torch.equal(torch.cat(chunks, dim=1), whole)
    order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(0))
    assert torch.equal(start(seeds, indices[order], kernel=kernel, step=3), whole[:, order])


def test_slices_inside_change_no_bit(monkeypatch):
    indices, ids = finer(6, 3), torch.arange(500)
    whole = [start([1, 2], where, kernel="linear") for where in (indices, ids)]
    monkeypatch.setattr(noise_field, "SLICE_SIZE", {"cpu": 14})
    for expected, where in zip(whole, (indices, ids), strict=True):
        assert torch.equal(start([1, 2], where, kernel="linear"), expected)


def test_a_cloud_begins_with_the_points_of_a_smaller_one():
    large = start([5, 6], torch.arange(20_000))
    assert torch.equal(start([5, 6], torch.arange(2048)), large[:, :2048])
    assert torch.equal(start([5, 6], torch.tensor([19_999, 3])), large[:, [19_999, 3]])
    far = torch.tensor([2**40, 2**40 + 1, 1, 0])
    assert len(start([5], far).flatten().unique()) == 12


def test_fewer_channels_are_the_first_ones():
    nine = start([1], torch.arange(100), channels=9)
    for channels in (1, 2, 4, 5):
        assert torch.equal(start([1], torch.arange(100), channels=channels), nine[..., :channels])


def test_seeds_purposes_steps_places_and_channels_all_give_other_numbers():
    parts = [
        noise_field.normal(torch.tensor([seed]), torch.arange(50), purpose=purpose, step=step, channels=6)
        for seed in (0, 1, 2**32)
        for purpose in ("start", "increment", "noise")
        for step in (0, 1, 255, 256)
    ]
    numbers = torch.cat(parts).flatten()
    assert len(numbers.unique()) > 0.999 * len(numbers)
    streams = torch.cat(parts).flatten(1).double()
    correlation = streams @ streams.T / streams.shape[1] - torch.eye(len(streams))
    assert correlation.abs().max() < 5.5 / math.sqrt(streams.shape[1])


def test_normals_have_the_moments_and_the_tails_of_the_normal_distribution():
    z = start([3], torch.arange(1_000_000), channels=4)[0].double()
    deviation = 1 / math.sqrt(z.numel())
    assert abs(z.mean()) < 4 * deviation
    assert abs(z.square().mean() - 1) < 4 * math.sqrt(2) * deviation
    assert abs(z.pow(3).mean()) < 4 * math.sqrt(15) * deviation
    assert abs(z.pow(4).mean() - 3) < 4 * math.sqrt(96) * deviation
    for edge, share in ((1.0, 0.317311), (2.0, 0.0455003), (3.0, 0.0026998), (4.0, 6.3342e-5)):
        assert abs((z.abs() > edge).double().mean() - share) < 4 * math.sqrt(share) * deviation
    assert (z.T @ z / len(z) - torch.eye(4)).abs().max() < 5e-3
    assert abs((z[1:] * z[:-1]).mean()) < 4 * deviation


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sides", [(9,), (6, 7), (3, 4, 5)], ids=["1D", "2D", "3D"])
def test_every_kernel_meets_the_lattice_to_the_bit(kernel, sides):
    whole = lattice(*sides, start=-2)
    between = whole + 0.37
    mixed = start([1, 9], torch.cat([whole, between]), kernel=kernel)
    expected = start([1, 9], whole, kernel="linear")
    assert torch.equal(mixed[:, : len(whole)], expected)
    assert not torch.isin(mixed[:, len(whole) :], expected).any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_grid_three_times_as_fine_holds_the_training_grid_at_rows_and_columns_3i_plus_1(kernel):
    fine = start([4], finer(8, 3), kernel=kernel).reshape(24, 24, 3)
    assert torch.equal(fine[1::3, 1::3], start([4], lattice(8, 8), kernel=kernel).reshape(8, 8, 3))


@pytest.mark.parametrize("kernel", FIELDS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_shared_box_of_lattice_values_gives_the_bits_of_single_ones(kernel, dimensions, monkeypatch):
    indices = torch.rand(400, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 9 - 4
    hashed = []
    at_lattice = noise_field._at_lattice
    monkeypatch.setattr(
        noise_field, "_at_lattice", lambda k, p, *rest: hashed.append(len(p)) or at_lattice(k, p, *rest)
    )
    shared = start([1, 2], indices, kernel=kernel)
    assert len(hashed) == 1
    monkeypatch.setattr(noise_field, "BOX", 0)
    assert torch.equal(start([1, 2], indices, kernel=kernel), shared)
    assert hashed[1:] == [400] * noise_field.KERNELS[kernel] ** dimensions


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("sides", [(9,), (6, 7), (3, 4, 5), (1, 2)], ids=str)
def test_inside_a_grid_the_noise_has_the_same_bits_and_no_number_of_the_places_is_read(kernel, sides):
    between = torch.rand(40, len(sides), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    indices = torch.cat([between * (torch.tensor(sides) - 1), lattice(*sides)])
    seeds, settings = torch.tensor([1, 2]), {"purpose": "start", "channels": 3, "kernel": kernel}
    inside = noise_field.normal_inside(seeds, indices, sides, **settings)
    assert torch.equal(inside, noise_field.normal(seeds, indices, **settings))
    with FakeTensorMode() as mode:  # which has no numbers to read
        traced = noise_field.normal_inside(mode.from_tensor(seeds), mode.from_tensor(indices), sides, **settings)
    assert traced.shape == inside.shape


def test_places_far_apart_are_not_covered_by_a_box(monkeypatch):
    hashed = []
    at_lattice = noise_field._at_lattice
    monkeypatch.setattr(
        noise_field, "_at_lattice", lambda k, p, *rest: hashed.append(len(p)) or at_lattice(k, p, *rest)
    )
    indices = torch.rand(400, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 1e8
    start([1], indices)
    assert hashed == [400] * 4


def test_a_dense_grid_hashes_each_lattice_position_about_once(monkeypatch):
    hashed = []
    at_lattice = noise_field._at_lattice
    monkeypatch.setattr(
        noise_field, "_at_lattice", lambda k, p, *rest: hashed.append(len(p)) or at_lattice(k, p, *rest)
    )
    start([1], finer(16, 16))
    assert sum(hashed) == 18 * 18


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_field_has_mean_0_and_deviation_1_at_every_position_edges_and_beyond_included(kernel):
    num_seeds, side = 10_000, 3
    indices = torch.cat(
        [finer(side, 4), torch.tensor([[-0.5, -0.5], [-7.3, 2.0], [2.5, 2.5], [1e6 + 0.5, -1e6 - 0.5]])]
    )
    seeds = torch.arange(num_seeds).split(500)
    z = torch.cat([start(part, indices.double(), channels=1, kernel=kernel) for part in seeds])[..., 0].double()
    assert z.mean(0).abs().max() < 4.5 / math.sqrt(num_seeds)
    assert (z.square().mean(0) - 1).abs().max() < 4.5 * math.sqrt(2 / num_seeds)
    assert (z.pow(4).mean(0) - 3).abs().max() < 4.5 * math.sqrt(96 / num_seeds)


@pytest.mark.parametrize(
    ("kernel", "halfway", "apart"), [("linear", math.sqrt(0.5), 0.5), ("cubic", 9 / math.sqrt(164), 63 / 164)]
)
def test_neighbors_agree_as_much_as_the_kernel_says(kernel, halfway, apart):
    """`halfway`: a lattice position and the middle; `apart`: two middles one pixel apart, weights (-1 9 9 -1) or (1 1)."""
    indices = torch.tensor([[0.0], [0.001], [0.5], [1.5]], dtype=torch.float64)
    z = torch.cat([start(part, indices, channels=1, kernel=kernel) for part in torch.arange(60_000).split(5000)])
    z = z[..., 0].double()
    assert (z[:, 0] - z[:, 1]).square().mean().sqrt() < 2e-3
    assert abs((z[:, 0] * z[:, 2]).mean() - halfway) < 0.02
    assert abs((z[:, 2] * z[:, 3]).mean() - apart) < 0.02


def test_independent_noise_of_neighbors_is_independent():
    seeds = torch.arange(10_000).split(500)
    z = torch.cat([start(part, finer(2, 4), channels=1, kernel="independent") for part in seeds])[..., 0].double()
    correlation = z.T @ z / len(z)
    assert (correlation - torch.eye(len(correlation))).abs().max() < 5.5 * math.sqrt(2 / len(z))
    once = start([0], finer(300, 2), channels=1, kernel="independent")
    assert len(once.unique()) > 0.98 * once.numel()


def test_an_unknown_kernel_is_refused_by_name():
    with pytest.raises(ValueError, match="noise kernel is `quintic`: linear, cubic or independent"):
        start([0], torch.tensor([[0.5]], dtype=torch.float64), kernel="quintic")


@pytest.mark.parametrize("kernel", KERNELS)
def test_known_noise_replaces_the_lattice_inside_its_box_and_nothing_beyond(kernel):
    own = start([1, 2], lattice(4, 5), channels=3)
    indices = torch.cat([lattice(8, 9, start=-2), finer(4, 3)])
    same = start([1, 2], indices, kernel=kernel, override=own.unflatten(1, (4, 5)))
    assert torch.equal(same, start([1, 2], indices, kernel=kernel))
    other = torch.full((2, 4, 5, 3), 9.0)
    z = start([1, 2], lattice(8, 9, start=-2), kernel=kernel, override=other).unflatten(1, (8, 9))
    assert (z[:, 2:6, 2:7] == 9).all()
    assert (z == 9).sum() == other.numel()


def test_known_noise_replaces_that_of_the_first_points():
    known = torch.full((2, 10, 3), 9.0)
    z = start([1, 2], torch.arange(30), override=known)
    assert (z[:, :10] == 9).all()
    assert torch.equal(z[:, 10:], start([1, 2], torch.arange(30))[:, 10:])


def test_a_uniform_number_is_never_0_or_1_and_keeps_its_small_bits(monkeypatch):
    seeds = torch.arange(3)
    for word, least, most in ((0, 0.0, 2.0**-52), (keyed_random.MASK_32, 1 - 2.0**-52, 1.0)):
        words = tuple(torch.full((3, 1), word) for _ in range(4))
        monkeypatch.setattr(keyed_random, "philox", lambda counter, key, words=words: words)
        u = keyed_random.uniform(seeds, purpose="time")
        assert ((u > least) & (u < most)).all()
    monkeypatch.undo()
    u = keyed_random.uniform(seeds, purpose="time", count=100_000)
    assert (u * 2.0**24 % 1 != 0.5).double().mean() > 0.99
    assert u.unique().numel() == u.numel()


def test_uniform_numbers_fill_the_unit_interval_evenly():
    u = keyed_random.uniform(torch.arange(50_000), purpose="time", count=4)
    for column in u.T:
        counts = torch.histc(column, 100, 0, 1)
        assert ((counts - 500).square() / 500).sum() < 99 + 4.5 * math.sqrt(2 * 99)
    assert abs(torch.corrcoef(u.T) - torch.eye(4)).max() < 4.5 / math.sqrt(len(u))
    assert torch.equal(keyed_random.uniform(torch.arange(5), purpose="time"), u[:5, :1])


@pytest.mark.parametrize(("total", "count"), [(1, 1), (2, 2), (7, 7), (64, 32), (2048, 2048), (65_536, 4096)])
def test_a_subset_is_distinct_below_the_total_and_the_seeds_own(total, count):
    selected = keyed_random.subset(torch.arange(20), total, count, purpose="subset")
    assert selected.shape == (20, count)
    assert selected.min() >= 0
    assert selected.max() < total
    assert all(len(row.unique()) == count for row in selected)
    assert torch.equal(keyed_random.subset(torch.tensor([11]), total, count, purpose="subset")[0], selected[11])
    if total > 10:
        assert len(selected.unique(dim=0)) == 20


@pytest.mark.parametrize(("total", "count"), [(5, 2), (30, 4), (121, 60)])
def test_every_choice_and_order_of_a_subset_is_as_likely_as_any(total, count):
    num_seeds = 40_000
    selected = keyed_random.subset(torch.arange(num_seeds), total, count, purpose="subset")
    for index in (0, 1, count - 1):
        counts = torch.bincount(selected[:, index], minlength=total).double()
        expected = num_seeds / total
        assert ((counts - expected).square() / expected).sum() < total - 1 + 4.5 * math.sqrt(2 * (total - 1))
    pairs = torch.bincount(selected[:, 0] * total + selected[:, 1], minlength=total * total).double()
    expected, freedom = num_seeds / (total * (total - 1)), total * (total - 1) - 1
    off = (pairs - expected)[pairs > 0].square().sum() / expected + (freedom + 1 - (pairs > 0).sum()) * expected
    assert abs(off - freedom) < 4.5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000, 4097])
def test_an_epoch_shows_every_example_once_in_an_order_of_its_own(total):
    orders = [keyed_random.permuted_indices(3, epoch, np.arange(total), total) for epoch in range(4)]
    for order in orders:
        assert order.dtype == np.int64
        assert np.array_equal(np.sort(order), np.arange(total))
    if total >= 10:
        assert len({tuple(order) for order in orders}) == 4
    assert np.array_equal(
        keyed_random.permuted_indices(3, 1, np.array([total - 1, 0]), total), orders[1][[total - 1, 0]]
    )


def test_shuffled_positions_leave_no_trend():
    order = keyed_random.permuted_indices(1, 0, np.arange(100_000), 100_000)
    assert abs(np.corrcoef(np.arange(100_000), order)[0, 1]) < 4.5 / math.sqrt(100_000)
    steps = np.diff(order)
    assert abs((steps > 0).mean() - 0.5) < 4.5 / math.sqrt(4 * 100_000)


def test_one_seed_and_many_are_derived_alike():
    indices = torch.tensor([0, 1, 5, 2**31, 2**40])
    many = keyed_random.derive_seeds(12, 34, indices)
    assert many.tolist() == [keyed_random.derive_seed(12, 34, int(index)) for index in indices]
    assert (many >= 0).all()


def test_derived_seeds_differ_by_every_word_and_its_order():
    seeds = {
        keyed_random.derive_seed(seed, *words)
        for seed in range(30)
        for words in [(), (0,), (1,), (0, 1), (1, 0), (1, 0, 0)]
    }
    assert len(seeds) == 30 * 6
    many = torch.stack([keyed_random.derive_seeds(0, step, torch.arange(1000)) for step in range(100)])
    assert len(many.unique()) == 100_000
    ones = torch.stack([(many >> bit) & 1 for bit in range(63)]).double().mean((1, 2))
    assert (ones - 0.5).abs().max() < 4.5 / math.sqrt(4 * many.numel())
