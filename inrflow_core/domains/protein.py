"""Proteins: the coordinate is an atom's features, the value its position; atoms come in groups, the amino acids.

Source: INRFlow (arXiv:2412.03791), section 4.3, appendix A.3 and table 8. A set is all heavy atoms of a chain, in the order
of `residues.atom_layout`. The embedding of a whole residue is a part of the condition (`conditioners/sequence.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from inrflow_core.domains._contract import DecodedAtOwnPairs, InputExample, OutputSpec, conditions, empty_sets
from inrflow_core.errors import UsageError
from inrflow_core.fields import Window
from inrflow_core.geometry import rigid_motion
from inrflow_core.numerics import keyed_random
from inrflow_core.proteins import residues
from inrflow_core.proteins.residues import EIGENVECTORS, FEATURES, MOST_ATOMS, NUM_EIGENVECTORS
from inrflow_core.proteins.structure import Structure
from inrflow_core.sets import Condition, CoordValueSet, Groups, Queries, SetSpec
from inrflow_core.shards.batch import Batch
from inrflow_core.visualization import protein_rendering

TYPICAL_LENGTH = "L"
"""The residue of sets for planning: leucine, which has about as many heavy atoms as the mean."""
ATOMS_PER_RESIDUE = int(residues.SIZES[residues.LETTERS.index(TYPICAL_LENGTH)])
"""Its heavy atoms."""
MEAN_ATOMS = 7.81
"""Mean heavy atoms of a residue in Swiss-Prot, by the composition that UniProt publishes."""


@dataclass(frozen=True)
class Config:
    """What the proteins of a preset are."""

    residues: int = 256
    """Residues of a typical chain, for planning; training takes chains of any length."""
    value_scale: float = 0.1
    """Positions in Angstrom are multiplied by this for the network: about one over their standard deviation."""
    rotate: bool = True
    """Rotate every structure at random in training."""
    random_signs: bool = True
    """Give each eigenvector of a residue's Laplacian a random sign in training; sampling keeps the table's."""

    def __post_init__(self) -> None:
        if self.residues < 1:
            raise ValueError(f"`residues` is {self.residues}: at least 1")
        if self.value_scale <= 0:
            raise ValueError(f"`value_scale` is {self.value_scale}: above 0")


class Domain(DecodedAtOwnPairs):
    """Queries of chains, sets from stored atoms, and positions from values."""

    NAME = "protein"
    NOUN = "proteins"
    FORMATS = ("pdb", "cif", "png")
    MESH_FORMATS = ()
    FILES = None
    SIZE_OPTION = None
    HAS_CAMERAS = False
    HAS_WINDOWS = False
    REFERENCE_SPLITS = ("test", "val", "train")
    DEFAULT_METRICS = ("lddt", "tm-score", "rmsd", "bond-lengths", "clashes")
    METRICS_OF_SEVERAL = ("lddt:best", "tm-score:best", "rmsd:best")
    VIEW_DOMAIN = None
    CLOUD_DOMAIN = None
    REQUIRED_CONDITIONS = ("residues", "is_known")
    MAKES_STRUCTURES = True
    GALLERY = None
    MEMORIZATION = None

    def __init__(self, config: Config) -> None:
        self.config = config
        features = FEATURES.shape[-1] + NUM_EIGENVECTORS
        atoms = config.residues * ATOMS_PER_RESIDUE
        self.shape = SetSpec(features, 3, Groups(MOST_ATOMS, atoms), unit=config.value_scale)

    def queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> Queries:
        """Every heavy atom of the chains whose `residues` (B L, codes, -1 at padding) the condition has.

        Raises:
            UsageError: a size or a window is given: a protein has the atoms of its sequence.
        """
        if size is not None or window is not None:
            raise UsageError("a protein has the atoms of its sequence", hint="leave sizes and windows out")
        if condition is None:
            return self.dummy_batch(1).queries
        return self._queries(condition["residues"].cpu().numpy(), None)

    def num_queries(self, size: int | None = None, window: Window = None, condition: Condition | None = None) -> int:
        """Atoms of the longest chain; counted without their features."""
        if size is not None or window is not None or condition is None:
            return super().num_queries(size, window, condition)
        return max(int(residues.SIZES[row[row >= 0]].sum()) for row in condition["residues"].cpu().numpy())

    def to_set(
        self,
        batch: Batch,
        seeds: Int64[Tensor, " B"],
        labels: np.ndarray | None = None,
        *,
        augment: bool = False,
    ) -> CoordValueSet:
        """Stored chains (B N 3, Angstrom, padded) as sets; the batch has their `residues` and `is_known`.

        With `augment` each is rotated at random, with random signs of the eigenvectors; both are keyed by the seed.
        """
        condition = conditions(None, batch)
        known, counts = condition.pop("is_known").bool(), torch.from_numpy(batch.condition_lengths["residues"])
        codes = condition["residues"].long()
        condition["residues"] = codes.masked_fill(torch.arange(codes.shape[1]) >= counts[:, None], -1)
        positions = torch.from_numpy(batch.values).float()
        if augment and self.config.rotate:
            positions = positions @ rigid_motion.random_rotations(seeds).mT
        queries = self._queries(condition["residues"].numpy(), seeds if augment and self.config.random_signs else None)
        return CoordValueSet(queries, positions * self.config.value_scale, seeds, condition, known)

    def config_for_size(self, num_pairs: int) -> Config:
        """Settings with typical chains of that many heavy atoms."""
        return replace(self.config, residues=max(1, round(num_pairs / MEAN_ATOMS)))

    def dummy_batch(self, count: int) -> CoordValueSet:
        """Sets of zeros for a typical chain, for planning."""
        codes = torch.from_numpy(residues.to_codes(TYPICAL_LENGTH * self.config.residues).astype(np.int64)).expand(
            count, -1
        )
        return empty_sets(self._queries(codes.numpy(), None), self.shape, count, {"residues": codes})

    def decode_values(
        self, values: Float[Tensor, "B M 3"], size: int | None = None, condition: Condition | None = None
    ) -> list[Structure]:
        """Structures, in Angstrom, of the chains whose `residues` the condition has; residues count from 1."""
        assert condition is not None, "a protein is sampled for its residues"
        positions = values.div(self.config.value_scale).float().cpu().numpy()
        structures: list[Structure] = []
        for atoms, row in zip(positions, condition["residues"].cpu().numpy(), strict=True):
            codes = row[row >= 0].astype(np.uint8)
            count = int(residues.SIZES[codes].sum())
            numbers = np.arange(1, len(codes) + 1, dtype=np.int64)
            structures.append(
                Structure("", codes, atoms[:count].astype(np.float32), np.ones(count, dtype=bool), numbers)
            )
        return structures

    def parse_size(self, text: str) -> None:
        """Raises UsageError: a protein has the atoms of its sequence."""
        raise UsageError("a protein has the atoms of its sequence", hint="leave sizes and windows out")

    def scale_size(self, factor: float) -> None:
        """Raises UsageError: a protein has the atoms of its sequence."""
        return self.parse_size(f"{factor:g}")

    def describe_size(self, size: None = None, condition: Condition | None = None) -> str:
        """`128 residues`."""
        return f"{self.config.residues if condition is None else condition['residues'].shape[1]:,} residues"

    def output_spec(self, size: None = None) -> OutputSpec:
        """float32, each of its own size."""
        return OutputSpec((), "float32")

    @staticmethod
    def accepts(path: Path) -> bool:
        """No file: sampling a protein starts from its sequence."""
        return False

    def read_input(self, path: Path, normalization: Mapping[str, Any]) -> InputExample:
        """Raises UsageError: nothing is read for inversion."""
        raise UsageError("proteins are not encoded from files", hint="sample them with `--sequence` or `--fasta`")

    def compare(self, output: np.ndarray, original: np.ndarray) -> dict[str, float]:
        """Raises UsageError: no file is encoded as a protein."""
        raise UsageError("proteins are not encoded from files", hint="sample them with `--sequence` or `--fasta`")

    def render(self, outputs: Sequence[Structure], captions: Sequence[str] = ()) -> Any:
        """C-alpha traces of all structures, in one view where all are of one sequence."""
        traces = [one.ca[one.ca_is_known] for one in outputs]
        are_alike = len({one.sequence for one in outputs}) == 1
        size = 512 if len(outputs) == 1 else 256
        return protein_rendering.render_proteins(traces, size=size, captions=captions, is_one_view=are_alike)

    @staticmethod
    def thumbnails(values: np.ndarray) -> np.ndarray:
        """Raises UsageError: a report shows tables of structures."""
        raise UsageError("proteins have no thumbnails", hint="give images or point clouds")

    @staticmethod
    def statistics(values: np.ndarray) -> Sequence[tuple[str, str, np.ndarray]]:
        """Nothing: a report has tables of proteins in place of histograms."""
        return []

    def _queries(self, codes: Int64[np.ndarray, "B L"], seeds: Int64[Tensor, " B"] | None) -> Queries:
        """The atoms of chains, padded to the longest; eigenvectors have random signs if `seeds` is not None."""
        rows = [row[row >= 0].astype(np.uint8) for row in codes]
        layouts = [residues.atom_layout(row) for row in rows]
        most = max(len(groups) for groups, _ in layouts)
        groups = np.full((len(rows), most), -1, dtype=np.int64)
        features = np.zeros((len(rows), most, self.shape.coordinate_size), dtype=np.float32)
        for index, (row, (group, slot)) in enumerate(zip(rows, layouts, strict=True)):
            vectors = EIGENVECTORS[row[group], slot]
            if seeds is not None:
                vectors = vectors * _signs(seeds[index : index + 1], len(row))[group]
            groups[index, : len(group)] = group
            features[index, : len(group)] = np.concatenate([FEATURES[row[group], slot], vectors], axis=1)
        sizes = tuple((len(group), len(row)) for row, (group, _) in zip(rows, layouts, strict=True))
        return Queries(torch.from_numpy(features), torch.arange(most), torch.from_numpy(groups), sizes)


def _signs(seed: Int64[Tensor, " 1"], count: int) -> Float[np.ndarray, "L 8"]:
    """A sign for each eigenvector of each residue."""
    u = keyed_random.uniform(seed, purpose="signs", count=count * NUM_EIGENVECTORS)
    return np.where(u.numpy().reshape(count, NUM_EIGENVECTORS) < 0.5, -1, 1).astype(np.float32)
