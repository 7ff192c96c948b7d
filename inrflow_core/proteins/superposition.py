"""Compare structures: superposition, RMSD, lDDT and TM-score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from inrflow_core.proteins.structure import Structure

RADIUS = 15.0
"""Largest distance in the reference, in Angstrom, of atoms that the lDDT compares."""
TOLERANCES = (0.5, 1.0, 2.0, 4.0)
"""Errors of a distance, in Angstrom, up to which the lDDT counts it as preserved."""
FRAGMENTS, SHORTEST = 6, 4
"""Most lengths of the fragments that start the TM-score's search, each half of the one before, and the shortest."""
ROUNDS = 20
"""Most refinements of a fragment's superposition."""

Positions = Float[np.ndarray, "N 3"]


class Motion(NamedTuple):
    """A rotation, never a reflection, and a shift after it."""

    rotation: Float64[np.ndarray, "3 3"]
    shift: Float64[np.ndarray, " 3"]

    def __call__(self, positions: Positions) -> Float64[np.ndarray, "N 3"]:
        """The positions, moved."""
        return positions.astype(np.float64) @ self.rotation.T + self.shift


def superpose(mobile: Positions, fixed: Positions) -> Motion:
    """The motion that brings `mobile` nearest to `fixed` in the sum of squared distances.

    Source: Kabsch 1976, with the last axis turned where the best orthogonal matrix is a reflection.
    """
    pairs = _Paired(mobile, fixed)
    rotations, shifts = pairs.motions(pairs.terms.sum(0)[None])
    return pairs.motion(rotations[0], shifts[0])


def superpose_on_first(samples: Sequence[Structure]) -> list[Structure]:
    """Superpose each run of consecutive structures of one sequence on the first of the run, by their C-alphas."""
    superposed: list[Structure] = []
    for _, same in groupby(samples, key=lambda sample: sample.sequence):
        first, *others = same
        superposed.append(first)
        for other in others:
            positions = superpose(other.ca, first.ca)(other.positions).astype(np.float32)
            superposed.append(replace(other, positions=positions))
    return superposed


def deviations(samples: Sequence[Structure]) -> Float64[np.ndarray, " L"]:
    """How far the C-alpha of each residue is from its mean over superposed structures of one sequence: root of the mean squared
    distance, in Angstrom."""
    traces = np.stack([sample.ca for sample in samples]).astype(np.float64)
    return np.sqrt(np.square(traces - traces.mean(0)).sum(2).mean(0))


def rmsd(mobile: Positions, fixed: Positions) -> float:
    """Root of the mean squared distance after superposition."""
    return float(np.sqrt(np.square(superpose(mobile, fixed)(mobile) - fixed).sum(1).mean()))


def lddt(
    sample: Positions,
    reference: Positions,
    residues: Int64[np.ndarray, " N"] | None = None,
    *,
    radius: float = RADIUS,
) -> float:
    """The share of the reference's distances up to `radius` that the sample preserves, mean of four tolerances; 0 to 1.

    Source: Mariani et al. 2013, with all distances pooled, as Biotite has it. Distances inside a residue do not count;
    without `residues` every atom is a residue of its own. NaN where the reference has no distance to count.
    """
    from scipy.spatial import KDTree  # half a second

    first, second = KDTree(reference).query_pairs(radius, output_type="ndarray").T
    if residues is not None:
        is_across = residues[first] != residues[second]
        first, second = first[is_across], second[is_across]
    if not len(first):
        return float("nan")
    there, here = (_lengths(each.astype(np.float64), first, second) for each in (reference, sample))
    difference = np.abs(here - there)
    return float(np.mean([np.mean(difference <= tolerance) for tolerance in TOLERANCES]))


def tm_score(mobile: Positions, fixed: Positions, length: int | None = None) -> tuple[float, Motion]:
    """The TM-score, from 0 to 1, of the best superposition that a search finds, and that superposition.

    Source: Zhang and Skolnick 2004; the search is that of US-align for a given alignment. Fragments of L, L/2, L/4, ...
    pairs at every offset are superposed; each is refined by the pairs that it brings near, up to 20 times.
    All fragments are refined at once; those that reach the same pairs are merged. Below about 25 residues d0 is far
    below the reach of the refinement, so that the score may be some hundredths below the best.

    Args:
        length: number of residues that the score is divided by, usually the reference's; None: the number of pairs.
    """
    count = len(mobile)
    length = count if length is None else length
    scale = tm_d0(length)
    reach = min(max(scale, 4.5), 8.0)
    pairs = _Paired(mobile, fixed)
    best, motion = -1.0, None
    seen: set[bytes] = set()
    sums = _fragment_sums(pairs.terms)
    for turn in range(ROUNDS + 1):
        rotations, shifts = pairs.motions(sums)
        squares = pairs.squares(rotations, shifts)
        scores = (1 / (1 + squares / scale**2)).sum(1)
        top = int(scores.argmax())
        if scores[top] > best:
            best, motion = float(scores[top]), pairs.motion(rotations[top], shifts[top])
        near = _unseen(_near(squares, reach - 1 if turn == 0 else reach + 1), seen)
        if not len(near):
            break
        sums = near.astype(np.float64) @ pairs.terms
    assert motion is not None
    return best / length, motion


def tm_d0(length: int) -> float:
    """The distance d0, in Angstrom, at which a pair counts half, by the number of residues."""
    return 0.5 if length <= 21 else max(0.5, 1.24 * (length - 15) ** (1 / 3) - 1.8)


class _Paired:
    """Paired positions, as terms whose sums give many superpositions, and their distances, by one matrix product each.

    Every pair has a row (1, x, y, products of x's and y's coordinates), both sides centered: the sum over some rows
    determines their best superposition, and squared distances after a motion are linear in the row.
    """

    def __init__(self, mobile: Positions, fixed: Positions) -> None:
        x, y = (positions.astype(np.float64) for positions in (mobile, fixed))
        self.centers = x.mean(0), y.mean(0)
        x, y = (positions - center for positions, center in zip((x, y), self.centers, strict=True))
        products = (x[:, :, None] * y[:, None, :]).reshape(len(x), 9)
        self.terms = np.concatenate([np.ones((len(x), 1)), x, y, products], axis=1)
        self.lengths = np.square(x).sum(1) + np.square(y).sum(1)

    def motions(self, sums: Float64[np.ndarray, "F 16"]) -> tuple[np.ndarray, np.ndarray]:
        """Rotations and shifts of centered positions that superpose the pairs in each sum."""
        means = sums / sums[:, :1]
        x, y = means[:, 1:4], means[:, 4:7]
        covariances = means[:, 7:].reshape(-1, 3, 3) - x[:, :, None] * y[:, None, :]
        left, _, right = np.linalg.svd(covariances)
        flips = np.sign(np.linalg.det(left) * np.linalg.det(right))
        right[:, 2] *= flips[:, None]
        rotations = (left @ right).swapaxes(1, 2)
        return rotations, y - (rotations @ x[:, :, None])[:, :, 0]

    def squares(self, rotations: np.ndarray, shifts: np.ndarray) -> Float64[np.ndarray, "F N"]:
        """Squared distances of all pairs after each motion."""
        turned = (shifts[:, None, :] @ rotations)[:, 0]
        crossed = rotations.swapaxes(1, 2).reshape(-1, 9)
        constants = np.square(shifts).sum(1)[:, None]
        coefficients = np.concatenate([constants, 2 * turned, -2 * shifts, -2 * crossed], axis=1)
        squares = coefficients @ self.terms.T
        squares += self.lengths
        return np.maximum(squares, 0, out=squares)

    def motion(self, rotation: np.ndarray, shift: np.ndarray) -> Motion:
        """One motion, for positions that are not centered."""
        mobile_center, fixed_center = self.centers
        return Motion(rotation, shift + fixed_center - rotation @ mobile_center)


def _fragment_sums(terms: Float64[np.ndarray, "N 16"]) -> Float64[np.ndarray, "F 16"]:
    """The sums over every fragment of all, half, a quarter, ... of the pairs."""
    count = len(terms)
    shortest = min(SHORTEST, count)
    halved = [max(count >> times, shortest) for times in range(FRAGMENTS - 1)]
    sums = np.concatenate([np.zeros((1, 16)), terms.cumsum(0)])
    return np.concatenate([sums[size:] - sums[:-size] for size in dict.fromkeys([*halved, shortest])])


def _near(squares: Float64[np.ndarray, "F N"], reach: float) -> Bool[np.ndarray, "F N"]:
    """The pairs nearer than `reach`, which grows in steps of 0.5 until there are three."""
    least = min(3, squares.shape[1])
    near = squares < reach**2
    short = np.flatnonzero(near.sum(1) < least)
    third = np.partition(squares[short], least - 1, axis=1)[:, least - 1]
    farther = reach + 0.5 * (np.floor((np.sqrt(third) - reach) / 0.5) + 1)
    limit = np.maximum(farther**2, np.nextafter(third, np.inf))  # rounding loses no pair
    near[short] = squares[short] < limit[:, None]
    return near


def _unseen(near: Bool[np.ndarray, "F N"], seen: set[bytes]) -> Bool[np.ndarray, "K N"]:
    """Selections of pairs that are not in `seen`, each once; they are added to `seen`."""
    unseen = []
    for row, packed in enumerate(np.packbits(near, axis=1)):
        key = packed.tobytes()
        if key not in seen:
            seen.add(key)
            unseen.append(row)
    return near[unseen]


def _lengths(positions: np.ndarray, first: np.ndarray, second: np.ndarray) -> Float64[np.ndarray, " P"]:
    return np.sqrt(np.square(positions[first] - positions[second]).sum(1))
