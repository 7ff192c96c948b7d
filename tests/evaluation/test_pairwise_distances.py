"""All pairs: the same bytes with any number of processes, resumed after any kill, never mixed, and estimated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core import registry
from inrflow_core.distances import _contract
from inrflow_core.errors import IntegrityError, UsageError
from inrflow_core.evaluation import distance_matrix, pairwise_distances
from inrflow_core.evaluation.distance_matrix import PairwiseJob
from inrflow_core.metrics._cloud_inputs import Distances, DistanceSpec
from inrflow_core.runtime import process_pool
from tests.distances import shapes

CD = DistanceSpec("cd", "inrflow", is_within=True)
SAMPLES, REFERENCE = shapes.clouds(11, 60), shapes.clouds(9, 60, seed=1)


def parts(distances: Distances) -> list[np.ndarray]:
    among = [distances.among_samples, distances.among_reference]
    return [distances.across, *(part for part in among if part is not None)]


def same(a: Distances, b: Distances) -> bool:
    return all(x.tobytes() == y.tobytes() for x, y in zip(parts(a), parts(b), strict=True))


@pytest.mark.parametrize("name", registry.names("distances"))
def test_every_entry_is_the_distance_of_its_pair(name: str):
    distance = registry.find("distances", name)
    samples, reference = ([distance.prepare(cloud) for cloud in side] for side in (SAMPLES, REFERENCE))
    distances = pairwise_distances.compute_distances(SAMPLES, REFERENCE, DistanceSpec(name, "inrflow", is_within=True))
    across = [[distance.distance(r, s) for r in reference] for s in samples]
    np.testing.assert_allclose(distances.across, across, rtol=1e-12)
    for matrix, clouds in zip(parts(distances)[1:], (samples, reference), strict=True):
        expected = np.array([[distance.distance(a, b) if a is not b else 0.0 for b in clouds] for a in clouds])
        np.testing.assert_allclose(matrix, expected, rtol=1e-12)


def test_only_what_is_needed_is_computed():
    reported: list[tuple[int, int]] = []
    distances = pairwise_distances.compute_distances(
        SAMPLES, REFERENCE, DistanceSpec("cd", "inrflow"), progress=lambda done, total: reported.append((done, total))
    )
    assert distances.among_samples is None and distances.among_reference is None
    assert reported[0] == (0, 99) and reported[-1] == (99, 99)
    assert [done for done, _ in reported] == sorted(done for done, _ in reported)


def test_symmetric_distances_are_computed_once():
    totals = {}
    for name in ("cd", "emd-lion"):
        pairwise_distances.compute_distances(
            SAMPLES,
            REFERENCE,
            DistanceSpec(name, "inrflow", is_within=True),
            progress=lambda done, total, name=name: totals.update({name: total}),
        )
    assert totals == {"cd": 99 + 55 + 36, "emd-lion": 99 + 110 + 72}


@pytest.mark.parametrize("name", ["emd-lion", pytest.param("cd", marks=pytest.mark.slow)])
def test_any_number_of_processes_gives_the_same_bytes(name: str, monkeypatch: pytest.MonkeyPatch):
    need = DistanceSpec(name, "inrflow", is_within=True)
    torch.set_num_threads(2)
    try:
        one = pairwise_distances.compute_distances(SAMPLES, REFERENCE, need, PairwiseJob(workers=1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    monkeypatch.setattr(pairwise_distances, "MIN_PARALLEL_SECONDS", 0.0)
    assert same(one, pairwise_distances.compute_distances(SAMPLES, REFERENCE, need, PairwiseJob(workers=3)))


def test_cached_distances_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path))
    monkeypatch.setattr(pairwise_distances, "_compute_tile", None)
    reported: list[tuple[int, int]] = []
    said: list[str] = []
    again = pairwise_distances.compute_distances(
        SAMPLES,
        REFERENCE,
        CD,
        PairwiseJob(tmp_path),
        progress=lambda *numbers: reported.append(numbers),
        log=said.append,
    )
    assert same(first, again) and reported == [(190, 190)] and not said


def test_the_distances_among_the_reference_are_cached_for_other_samples(tmp_path: Path):
    pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path))
    reported: list[tuple[int, int]] = []
    others = shapes.clouds(11, 60, seed=4)
    pairwise_distances.compute_distances(
        others, REFERENCE, CD, PairwiseJob(tmp_path), progress=lambda *numbers: reported.append(numbers)
    )
    assert reported[0] == (36, 190)


@pytest.mark.parametrize(
    "other",
    [
        (shapes.clouds(11, 60, seed=4), REFERENCE, DistanceSpec("cd", "inrflow")),
        (SAMPLES, shapes.clouds(9, 60, seed=4), DistanceSpec("cd", "inrflow")),
        (SAMPLES[:, :50], REFERENCE[:, :50], DistanceSpec("cd", "inrflow")),
        (SAMPLES, REFERENCE, DistanceSpec("cd", "pointflow")),
        (SAMPLES, REFERENCE, DistanceSpec("emd-exact", "inrflow")),
        (SAMPLES[::-1].copy(), REFERENCE, DistanceSpec("cd", "inrflow")),
    ],
)
def test_pieces_of_other_clouds_never_mix(tmp_path: Path, other: tuple[np.ndarray, np.ndarray, DistanceSpec]):
    pairwise_distances.compute_distances(SAMPLES, REFERENCE, DistanceSpec("cd", "inrflow"), PairwiseJob(tmp_path))
    alone = pairwise_distances.compute_distances(*other)
    assert same(pairwise_distances.compute_distances(*other, PairwiseJob(tmp_path)), alone)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:50] + b"x" + b[51:], lambda b: b""])
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage):
    first = pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path))
    file = sorted(tmp_path.rglob("*.strip"))[0]
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert same(pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path)), first)
    assert file.read_bytes() == whole


def test_there_are_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry.find("distances", "cd"), "distance", lambda a, b: 1.0)
    clouds = shapes.clouds(200, 4)
    pairwise_distances.compute_distances(clouds, clouds[:150], CD, PairwiseJob(tmp_path))
    assert len(list(tmp_path.rglob("*.strip"))) == 4 + 4 + 3


KILLED = """
import sys, time
from pathlib import Path
from inrflow_core import registry
from inrflow_core.evaluation import pairwise_distances
from inrflow_core.evaluation.distance_matrix import PairwiseJob
from tests.evaluation.test_pairwise_distances import CD, REFERENCE, SAMPLES
def main():
    pairwise_distances.SAVE_EVERY_SECONDS = 0.0
    cd = registry.find("distances", "cd")
    quick = cd.distance
    cd.distance = lambda a, b: (time.sleep(0.01), quick(a, b))[1]
    pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(Path(sys.argv[1])))
main()
"""


def test_a_kill_at_any_moment_loses_no_more_than_the_tile_at_hand(tmp_path: Path, checkout: Path):
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    for _ in range(2):
        before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.strip")}
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], env=environment, cwd=checkout)
        deadline = time.monotonic() + 60
        while {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.strip")} == before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    reported: list[tuple[int, int]] = []
    resumed = pairwise_distances.compute_distances(
        SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path), progress=lambda *numbers: reported.append(numbers)
    )
    assert 0 < reported[0][0] < 190 and reported[-1] == (190, 190)
    assert same(resumed, pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD))


def test_an_error_keeps_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cd = registry.find("distances", "cd")
    quick, calls = cd.distance, []

    def failing(a, b):
        calls.append(1)
        if len(calls) > 150:
            raise KeyboardInterrupt
        return quick(a, b)

    monkeypatch.setattr(cd, "distance", failing)
    with pytest.raises(KeyboardInterrupt):
        pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path))
    monkeypatch.undo()
    reported: list[tuple[int, int]] = []
    pairwise_distances.compute_distances(
        SAMPLES, REFERENCE, CD, PairwiseJob(tmp_path), progress=lambda *numbers: reported.append(numbers)
    )
    assert reported[0][0] >= 99


def test_the_time_is_estimated_before_the_start(monkeypatch: pytest.MonkeyPatch):
    cd = registry.find("distances", "cd")
    order: list[str] = []
    quick = cd.distance
    monkeypatch.setattr(cd, "distance", lambda a, b: (time.sleep(0.02), quick(a, b))[1])
    pairwise_distances.compute_distances(
        SAMPLES, REFERENCE, CD, log=order.append, progress=lambda *_: order.append("progress")
    )
    assert (
        order[0].startswith("190 pairs by `cd`, ")
        and order[1] == "progress"
        and len([o for o in order if "by" in o]) == 1
    )
    estimate = pairwise_distances.estimate_cost(SAMPLES, REFERENCE, CD, PairwiseJob(workers=2))
    assert estimate.pairs == 190 and 20 < estimate.per_second < 50
    assert estimate.seconds == pytest.approx(190 / estimate.per_second / 2)
    assert str(pairwise_distances.CostEstimate(1_970_325, 2.0, 16, "emd-exact")) == (
        "1,970,325 pairs by `emd-exact`, 2.0 pairs/s in each of 16 processes: about 17 h 6 min"
    )


def test_clouds_of_unequal_sizes_are_refused():
    with pytest.raises(UsageError, match="60 points in each of the samples, 50 in the reference's"):
        pairwise_distances.compute_distances(SAMPLES, REFERENCE[:, :50], CD)


def test_a_set_against_itself_is_cached_apart_from_distances_among_it(tmp_path: Path):
    few, need = SAMPLES[:4], DistanceSpec("emd-lion", "inrflow", is_within=True)
    whole = pairwise_distances.compute_distances(few, few, need)
    for _ in range(2):
        assert same(pairwise_distances.compute_distances(few, few, need, PairwiseJob(tmp_path)), whole)
    assert (whole.across.diagonal() > 0).all() and whole.among_samples is not None
    assert (whole.among_samples.diagonal() == 0).all()


def test_every_distance_is_computed_by_one_thread(monkeypatch: pytest.MonkeyPatch):
    cd, seen = registry.find("distances", "cd"), set()
    quick = cd.distance
    monkeypatch.setattr(cd, "distance", lambda a, b: (seen.add(torch.get_num_threads()), quick(a, b))[1])
    torch.set_num_threads(2)
    try:
        pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD)
    finally:
        torch.set_num_threads(1)
    assert seen == {1}


def test_a_distance_that_is_not_a_number_is_an_error():
    far = SAMPLES.copy()
    far[3, 7] = 1e25  # its square exceeds 32-bit floats
    with pytest.raises(IntegrityError, match="9 pairs of clouds is not finite, the first is of clouds 3 and 0"):
        pairwise_distances.compute_distances(far, REFERENCE, DistanceSpec("emd-lion", "lion-global"))


@pytest.mark.parametrize(
    "name", [n for n in registry.names("distances") if _contract.find(n).batched_distance is not None]
)
def test_batches_give_what_pairs_give(name: str, monkeypatch: pytest.MonkeyPatch):
    need = DistanceSpec(name, "inrflow", is_within=True)
    one_by_one = pairwise_distances.compute_distances(SAMPLES, REFERENCE, need)
    for module in (distance_matrix, pairwise_distances):
        monkeypatch.setattr(module, "is_batched", lambda distance, device: True)
    monkeypatch.setattr(pairwise_distances, "MOST_NUMBERS", 5 * 60 * 60)
    for ours, batched in zip(
        parts(one_by_one), parts(pairwise_distances.compute_distances(SAMPLES, REFERENCE, need)), strict=True
    ):
        np.testing.assert_allclose(batched, ours, rtol=1e-5)


def test_little_work_starts_no_process_and_more_does(monkeypatch: pytest.MonkeyPatch):
    requested_workers: list[int] = []
    each = process_pool.map_unordered

    def counted(function, tasks, *, workers, advance):
        requested_workers.append(workers)
        return each(function, tasks, workers=1, advance=advance)

    monkeypatch.setattr(process_pool, "map_unordered", counted)
    messages: list[str] = []
    for seconds in (10.0, 0.0):
        monkeypatch.setattr(pairwise_distances, "MIN_PARALLEL_SECONDS", seconds)
        pairwise_distances.compute_distances(SAMPLES, REFERENCE, CD, PairwiseJob(workers=3), log=messages.append)
    assert requested_workers == [1, 3]
    assert "3 processes" not in messages[0] and "3 processes" in messages[1]
