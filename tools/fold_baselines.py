"""What folding must beat: the mean structure of the training set, and a model that never trained.

    python tools/fold_baselines.py mean shards/proteins predictions/     # then: inrflow eval --samples predictions/
                                                                         #   --reference shards/proteins --split test
    python tools/fold_baselines.py mean shards/proteins predictions/ --by place
    python tools/fold_baselines.py untrained proteins-demo untrained.safetensors      # then: inrflow eval --run FILE

The mean structure of a test protein is made without its own structure: every training chain is aligned to it by sequence
(`residue_pairs`: BLOSUM62, gaps 11 and 1), laid on the mean by the C-alphas of the residues that align, and averaged
residue by residue over those; the first mean is the chain with the most identical residues, and laying and averaging are
done `ROUNDS` times. Of every residue the backbone (N, CA, C, O) is averaged. A residue that fewer than `LEAST` chains
align with lies on the straight line between its neighbors, or continues with the step of the last two at an end. A mean of
all chains is smooth: its bonds are short, and are not evaluated. With `--by place` nothing is aligned: residue n of
every chain counts as residue n of the protein, and the first mean is the chain of the nearest length. That is the mean of
structures alone, as something that cannot read sequences knows it; the other is modelling by homology.

An untrained model has the initial weights of the seed 0. Both also tell `inrflow eval` nothing of the test structures.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int64

from inrflow_core.proteins import residue_alignment, residues, superposition
from inrflow_core.proteins.structure import Structure
from inrflow_core.sample_files import readers, writer

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROUNDS = 5
BY = ("sequence", "place")
LEAST = 3
BACKBONE = 4
"""The first atoms of every residue."""
CA = 1


def main() -> None:
    """Write what the command asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    mean = commands.add_parser("mean", help="predictions of a test split")
    mean.add_argument("shards", type=Path)
    mean.add_argument("out", type=Path)
    mean.add_argument("--train", default="train")
    mean.add_argument("--test", default="test")
    mean.add_argument("--by", choices=BY, default=BY[0], help="which residues of two chains are the same")
    untrained = commands.add_parser("untrained", help="weights that never trained")
    untrained.add_argument("preset")
    untrained.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "mean":
        predict(
            read(arguments.shards, arguments.train), read(arguments.shards, arguments.test), arguments.out, arguments.by
        )
    else:
        save_untrained(arguments.preset, arguments.out)


def predict(chains: list[Structure], target: list[Structure], out: Path, by: str) -> None:
    """One .pdb for each protein of the test split, called after it."""
    aligned = []
    for number, chain in enumerate(target):
        made, share = mean_structure(chain, chains, by)
        aligned.append(share)
        path = out / f"{chain.name}.pdb"
        path.parent.mkdir(parents=True, exist_ok=True)
        origin = {"baseline": f"mean of {len(chains)} training structures by {by}"}
        writer.write(path, [made], "protein", origin=origin, overwrite=True)
        print(f"{number + 1} of {len(target)}: {chain.name}, {100 * share:.0f} % of its residues averaged", flush=True)
    print(f"wrote {len(target)} structures into {out}; averaged {100 * np.mean(aligned):.1f} % of the residues")


def read(shards: Path, split: str) -> list[Structure]:
    """All structures of a split."""
    collection = readers.open_collection(shards, split)
    if collection.domain != "protein":
        raise SystemExit(f"{shards} holds no proteins")
    return collection.structures(range(collection.count))


def mean_structure(target: Structure, chains: list[Structure], by: str) -> tuple[Structure, float]:
    """The mean of `chains` over the residues of `target`, of which the sequence alone is used; and its coverage."""
    placed = [on_residues(chain, target, by) for chain in chains]
    stacked, known, alike = (np.stack(part) for part in zip(*placed, strict=True))
    nearest = int(np.argmax(alike))
    mean, is_there = stacked[nearest], known[nearest]
    for _ in range(ROUNDS):
        laid = np.stack([on(mean, is_there, *each) for each in zip(stacked, known, strict=True)])
        counts = (known & np.isfinite(laid).all(-1)).sum(0)
        total = np.where(known[..., None] & np.isfinite(laid), laid, 0).sum(0)
        mean, is_there = total / np.maximum(counts, 1)[..., None], counts >= LEAST
    full = np.stack([interpolated(mean[:, atom], is_there[:, atom]) for atom in range(BACKBONE)], axis=1)
    owner, index = residues.atom_layout(target.codes)
    is_backbone = index < BACKBONE
    positions = np.zeros((len(owner), 3), dtype=np.float32)
    positions[is_backbone] = full[owner[is_backbone], index[is_backbone]]
    numbers = np.arange(1, len(target.codes) + 1, dtype=np.int64)
    return Structure(target.name, target.codes, positions, is_backbone, numbers), float(is_there[:, CA].mean())


def on_residues(
    chain: Structure, target: Structure, by: str
) -> tuple[Float[np.ndarray, "L 4 3"], Bool[np.ndarray, "L 4"], int]:
    """The backbone of a chain at the residues of `wanted` that it aligns with, where it has one, and how alike they are."""
    if by == "place":
        here = there = np.arange(min(len(chain.codes), len(target.codes)))
        alike = -abs(len(chain.codes) - len(target.codes))
    else:
        here, there = residue_alignment.align_residues(chain, target, "sequence").T
        alike = int((chain.codes[here] == target.codes[there]).sum())
    starts = first_atoms(chain)[here][:, None] + np.arange(BACKBONE)
    positions = np.zeros((len(target.codes), BACKBONE, 3))
    known = np.zeros((len(target.codes), BACKBONE), dtype=bool)
    positions[there], known[there] = chain.positions[starts], chain.is_known[starts]
    return positions, known, alike


def on(
    mean: Float[np.ndarray, "L 4 3"],
    is_there: Bool[np.ndarray, "L 4"],
    positions: Float[np.ndarray, "L 4 3"],
    known: Bool[np.ndarray, "L 4"],
) -> Float[np.ndarray, "L 4 3"]:
    """A backbone laid on the mean by the C-alphas that both have; nowhere, where these are too few."""
    both = is_there[:, CA] & known[:, CA]
    if both.sum() < LEAST:
        return np.full_like(positions, np.nan)
    motion = superposition.superpose(positions[both, CA], mean[both, CA])
    return motion(positions.reshape(-1, 3)).reshape(positions.shape)


def interpolated(positions: Float[np.ndarray, "L 3"], known: Bool[np.ndarray, " L"]) -> Float[np.ndarray, "L 3"]:
    """Positions with what is not known on straight lines, beyond the ends by the step of the last two."""
    there = np.flatnonzero(known)
    if len(there) < 2:
        raise SystemExit("too few residues align with any training chain")
    rows = np.arange(len(positions))
    filled = np.stack([np.interp(rows, there, positions[there, axis]) for axis in range(3)], axis=1)
    for end, inner, beyond in ((there[0], there[1], rows < there[0]), (there[-1], there[-2], rows > there[-1])):
        step = (positions[end] - positions[inner]) / (end - inner)
        filled[beyond] = positions[end] + (rows[beyond] - end)[:, None] * step
    return filled


def first_atoms(chain: Structure) -> Int64[np.ndarray, " L"]:
    """The row of each residue's first atom."""
    sizes = residues.SIZES[chain.codes]
    return np.cumsum(sizes) - sizes


def save_untrained(name: str, out: Path) -> None:
    """The weights that a run of a preset begins with."""
    import torch

    from inrflow_core import models
    from inrflow_core.config.preset import load

    torch.manual_seed(0)
    preset = load(name)
    models.save(out, models.build(preset).method.state_dict(), preset, {"step": 0})
    print(f"wrote {out}: `{name}` before its first step")


if __name__ == "__main__":
    main()
