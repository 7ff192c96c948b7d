"""Rigid motions of positions, and the smooth lDDT of two structures: batched, without device synchronization."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inrflow_core.numerics import noise_field

NUM_SQUARINGS = 40
"""Squarings of the matrix whose top eigenvector is the rotation: they resolve a relative eigenvalue gap of 1e-10."""
TOLERANCES = (0.5, 1.0, 2.0, 4.0)
"""In Angstrom."""
PAIRS = 1 << 22
"""Pairs of atoms compared at once: about 200 MB in float32 while the gradient is made."""


def random_rotations(seeds: Int64[Tensor, " B"]) -> Float32[Tensor, "B 3 3"]:
    """Uniformly random rotations, one for each seed: unit quaternions from four normals (Muller 1959).

    `positions @ rotation.mT` turns positions of shape (B, N, 3).
    """
    position = torch.zeros(1, dtype=torch.int64, device=seeds.device)
    return _matrix(noise_field.normal(seeds, position, purpose="rotation", channels=4)[:, 0].double()).float()


@torch.no_grad()
def kabsch_align(
    moving: Float[Tensor, "B N 3"], fixed: Float[Tensor, "B N 3"], mask: Bool[Tensor, "B N"] | None = None
) -> Float[Tensor, "B N 3"]:
    """`moving` after the rotation and shift that bring it nearest to `fixed`, by the sum of squares over the mask.

    No reflection, no gradient. Pairs outside the mask move along. Where many rotations are equally near (all on a line,
    fewer than three pairs), one of them; with no pair, `moving` around the origin.

    Horn 1987, "Closed-form solution of absolute orientation using unit quaternions", in float64: the largest
    eigenvector of a 4 x 4 matrix, which always gives a proper rotation, found by squaring the matrix. Eigenvalue and
    singular value routines synchronize the device to check convergence.
    """
    weight = torch.ones(moving.shape[:2], dtype=torch.float64, device=moving.device) if mask is None else mask.double()
    count = weight.sum(1).clamp(min=1)[:, None, None]
    source, target = moving.double(), fixed.double()
    moving_center, fixed_center = ((weight[..., None] * x).sum(1, keepdim=True) / count for x in (source, target))
    source, target = source - moving_center, target - fixed_center
    turned = source @ _matrix(_nearest((weight[..., None] * source).mT @ target)).mT
    return (turned + fixed_center).to(moving.dtype)


def smooth_lddt(
    predicted: Float[Tensor, "B N 3"],
    true: Float[Tensor, "B N 3"],
    mask: Bool[Tensor, "B N"] | None = None,
    *,
    unit: float = 1.0,
    cutoff: float = 15.0,
    pairs: int = PAIRS,
) -> Float[Tensor, " B"]:
    """Smooth lDDT: mean agreement of the distances within each structure; differentiable, invariant to rigid motions.

    Over all pairs of atoms in the mask that are less than `cutoff` apart in truth, the mean of sigmoid(k - d) for k of
    0.5, 1, 2 and 4, where d is the error of their distance; all in Angstrom. AlphaFold 3 (Abramson et al. 2024),
    supplementary algorithm 27, without its longer cutoff for nucleic acids. At most 0.804, where all distances are
    right; 0 where no pair counts.

    Args:
        unit: one Angstrom in the positions' units.
        pairs: most pairs compared at once. More pairs are computed in parts, and again for the gradient: memory is
            bounded, and time is a third longer.
    """
    num_sets, num_atoms, _ = true.shape
    known = torch.ones(num_sets, num_atoms, dtype=torch.bool, device=true.device) if mask is None else mask
    rows = max(1, pairs // max(1, num_sets * num_atoms))
    parts = [(start, min(start + rows, num_atoms)) for start in range(0, num_atoms, rows)]
    scores, counts = torch.zeros(2, num_sets, dtype=predicted.dtype, device=predicted.device)
    for start, end in parts:
        arguments = (predicted / unit, true / unit, known, cutoff, start, end)
        if len(parts) == 1:
            score, count = _agreement(*arguments)
        else:
            score, count = checkpoint(_agreement, *arguments, use_reentrant=False, preserve_rng_state=False)
        scores, counts = scores + score, counts + count
    return scores / counts.clamp(min=1)


def _agreement(
    predicted: Float[Tensor, "B N 3"],
    true: Float[Tensor, "B N 3"],
    known: Bool[Tensor, "B N"],
    cutoff: float,
    start: int,
    end: int,
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    """The sum over pairs of a row from `start` to `end` with a later row, and the number of such pairs."""
    is_later = torch.ones(end - start, known.shape[1] - start, dtype=torch.bool, device=known.device).triu(1)
    distance = _distances(true, start, end)
    counts = is_later & known[:, start:end, None] & known[:, None, start:] & (distance < cutoff)
    error = (_distances(predicted, start, end) - distance).abs()
    score = torch.stack([torch.sigmoid(k - error) for k in TOLERANCES]).mean(0)
    return torch.where(counts, score, 0).sum((1, 2)), counts.sum((1, 2)).to(score.dtype)


def _distances(positions: Float[Tensor, "B N 3"], start: int, end: int) -> Float[Tensor, "B R K"]:
    """Distances from rows `start` to `end` to all from `start`; a matrix product would be inaccurate for small ones."""
    return torch.cdist(positions[:, start:end], positions[:, start:], compute_mode="donot_use_mm_for_euclid_dist")


def _nearest(products: Float64[Tensor, "B 3 3"]) -> Float64[Tensor, "B 4"]:
    """The unit quaternion of the rotation R with the largest trace of R @ products."""
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in products.unbind(-2))
    rows = [
        [xx + yy + zz, yz - zy, zx - xz, xy - yx],
        [yz - zy, xx - yy - zz, xy + yx, zx + xz],
        [zx - xz, xy + yx, yy - xx - zz, yz + zy],
        [xy - yx, zx + xz, yz + zy, zz - xx - yy],
    ]
    matrix = torch.stack([torch.stack(row, -1) for row in rows], -2)
    size = matrix.square().sum((1, 2), keepdim=True).sqrt()
    eye = torch.eye(4, dtype=matrix.dtype, device=matrix.device)
    # No eigenvalue is below -size: after the shift all are at least 0, so that squaring converges to the largest.
    power = matrix + torch.where(size > 0, size, 1) * eye
    for _ in range(NUM_SQUARINGS):
        power = power / power.diagonal(dim1=1, dim2=2).sum(-1)[:, None, None]
        power = power @ power
    largest = power.diagonal(dim1=1, dim2=2).argmax(-1)
    return power.gather(2, largest[:, None, None].expand(-1, 4, 1))[..., 0]


def _matrix(quaternion: Float64[Tensor, "B 4"]) -> Float64[Tensor, "B 3 3"]:
    """The rotation of a quaternion (w, x, y, z) of any length above 0."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
