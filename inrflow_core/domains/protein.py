"""Proteins: the coordinate is an atom's features, the value its place; atoms come in groups, the amino acids.

Source: INRFlow (arXiv:2412.03791), section 4.3, appendix A.3 and table 8. A set is all heavy atoms of a chain, in the order
of `residues.atom_layout`. What is known of a whole residue, its embedding, comes by the condition (`conditioners/sequence.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.domains._contract import conditions
from inrflow_core.errors import UsageError
from inrflow_core.fields import Window
from inrflow_core.geometry import rigid_motion
from inrflow_core.numerics import keyed_random
from inrflow_core.proteins import residues
from inrflow_core.proteins.residues import EIGENVECTORS, FEATURES, MOST_ATOMS, NUM_EIGENVECTORS
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, CoordValueSet, Groups, Queries, SetSpec
from inrflow_core.shards.batch import Batch

TYPICAL_LENGTH = "L"
"""The residue that a set without content is made of: leucine, which has about as many heavy atoms as the mean."""


@dataclass(frozen=True)
class Config:
    """What the proteins of a preset are."""

    residues: int = 256
    """Residues of a typical chain, for planning; chains of any length are learned."""
    value_scale: float = 0.1
    """Places in Angstrom are multiplied by this for the network: about one over their deviation."""
    rotate: bool = True
    """Turn every structure at random in training."""
    random_signs: bool = True
    """Give each eigenvector of a residue's Laplacian a random sign in training; sampling keeps the table's."""

    def __post_init__(self) -> None:
        if self.residues < 1:
            raise ValueError(f"`residues` is {self.residues}: at least 1")
        if self.value_scale <= 0:
            raise ValueError(f"`value_scale` is {self.value_scale}: above 0")


class Domain:
    """Queries of chains, sets from stored atoms, and places from values."""

    NAME = "protein"
    EXPORTERS = ("pdb", "cif", "png")
    """Formats that its samples can be written in."""
    METRICS = ("lddt", "tm-score", "rmsd", "bond-lengths", "clashes")
    """What `eval` computes where no metric is named: nothing that needs weights."""
    READS = ("residues", "is_known")
    """Conditions of the shards that every set needs."""

    def __init__(self, config: Config) -> None:
        self.config = config
        features = FEATURES.shape[-1] + NUM_EIGENVECTORS
        atoms = config.residues * int(residues.SIZES[residues.LETTERS.index(TYPICAL_LENGTH)])
        self.shape = SetSpec(features, 3, Groups(MOST_ATOMS, atoms), unit=config.value_scale)

    def queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """Every heavy atom of the chains whose `residues` (B L, codes, -1 at padding) the condition has.

        Raises:
            UsageError: a number of atoms or a window is asked for: a chain has the atoms it has.
        """
        if size is not None or window is not None:
            raise UsageError("a protein has the atoms of its sequence", hint="leave sizes and windows out")
        if condition is None:
            return self.blank(1).queries
        return self._queries(condition["residues"].cpu().numpy(), None)

    def to_set(
        self,
        values: np.ndarray,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
        read: Batch | None = None,
    ) -> CoordValueSet:
        """Stored chains (B N 3, Angstrom, padded) as sets; `read` has their `residues` and `is_known`.

        With `augment` each is turned at random, and so are the signs of the eigenvectors; both are keyed by the seed.
        """
        assert read is not None, "a protein comes with its residues"
        condition = conditions(None, read)
        known, counts = condition.pop("is_known").bool(), torch.from_numpy(read.counts["residues"])
        codes = condition["residues"].long()
        condition["residues"] = codes.masked_fill(torch.arange(codes.shape[1]) >= counts[:, None], -1)
        places = torch.from_numpy(values).float()
        if augment and self.config.rotate:
            places = places @ rigid_motion.random_rotations(seeds).mT
        queries = self._queries(condition["residues"].numpy(), seeds if augment and self.config.random_signs else None)
        return CoordValueSet(queries, places * self.config.value_scale, seeds, condition, known)

    def blank(self, count: int) -> CoordValueSet:
        """Sets of a typical chain without content, for planning."""
        codes = torch.from_numpy(residues.to_codes(TYPICAL_LENGTH * self.config.residues).astype(np.int64)).expand(
            count, -1
        )
        queries = self._queries(codes.numpy(), None)
        values = torch.zeros(count, self.shape.num_queries, 3)
        is_known = torch.ones(values.shape[:2], dtype=torch.bool)
        return CoordValueSet(queries, values, torch.zeros(count, dtype=torch.int64), {"residues": codes}, is_known)

    def from_values(self, values: Float[Tensor, "B M 3"], size: int | None = None) -> np.ndarray:
        """Places of the atoms in Angstrom, float32 (B M 3)."""
        return values.div(self.config.value_scale).float().cpu().numpy()

    def samples(self, values: np.ndarray, condition: Condition) -> list[Structure]:
        """Places (B M 3, Angstrom) of atoms of chains whose `residues` the condition has, as structures; residues count from 1."""
        found: list[Structure] = []
        for places, row in zip(values, condition["residues"].cpu().numpy(), strict=True):
            codes = row[row >= 0].astype(np.uint8)
            count = int(residues.SIZES[codes].sum())
            numbers = np.arange(1, len(codes) + 1, dtype=np.int64)
            found.append(Structure("", codes, places[:count].astype(np.float32), np.ones(count, dtype=bool), numbers))
        return found

    def _queries(self, codes: Int64[np.ndarray, "B L"], seeds: Int64[Tensor, " B"] | None) -> Queries:
        """The atoms of chains, padded to the longest; eigenvectors have random signs where seeds are given."""
        rows = [row[row >= 0].astype(np.uint8) for row in codes]
        layouts = [residues.atom_layout(row) for row in rows]
        most = max(len(groups) for groups, _ in layouts)
        groups = np.full((len(rows), most), -1, dtype=np.int64)
        features = np.zeros((len(rows), most, self.shape.coordinate_size), dtype=np.float32)
        for place, (row, (group, slot)) in enumerate(zip(rows, layouts, strict=True)):
            vectors = EIGENVECTORS[row[group], slot]
            if seeds is not None:
                vectors = vectors * _signs(seeds[place : place + 1], len(row))[group]
            groups[place, : len(group)] = group
            features[place, : len(group)] = np.concatenate([FEATURES[row[group], slot], vectors], axis=1)
        sizes = tuple((len(group), len(row)) for row, (group, _) in zip(rows, layouts, strict=True))
        return Queries(torch.from_numpy(features), torch.arange(most), torch.from_numpy(groups), sizes)


def _signs(seed: Int64[Tensor, " 1"], count: int) -> Float[np.ndarray, "L 8"]:
    """A sign for each eigenvector of each residue."""
    drawn = keyed_random.uniform(seed, purpose="signs", count=count * NUM_EIGENVECTORS)
    return np.where(drawn.numpy().reshape(count, NUM_EIGENVECTORS) < 0.5, -1, 1).astype(np.float32)
