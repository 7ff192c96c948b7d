"""Protein structures. Positions are in Angstrom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from inrflow_core.proteins import residues


@dataclass(frozen=True)
class Structure:
    """One chain; its atoms are those of `residues.atom_layout(codes)`, in order, with known or unknown positions."""

    name: str
    codes: UInt8[np.ndarray, " L"]
    """Amino acids, as indices into `residues.LETTERS`."""
    positions: Float32[np.ndarray, "N 3"]
    """Position of each atom in Angstrom; 0 where unknown."""
    is_known: Bool[np.ndarray, " N"]
    """Whether each atom's position is known."""
    numbers: Int64[np.ndarray, " L"]
    """Residue numbers in the source file."""
    plddt: float | None = None
    """Mean confidence over the residues, 0 to 100; None where the file has none."""
    other_chains: int = 0
    """Chains of amino acids in the file that were not read."""

    @property
    def sequence(self) -> str:
        """The letters of the amino acids."""
        return residues.to_letters(self.codes)

    @property
    def ca(self) -> Float32[np.ndarray, "L 3"]:
        """Positions of the C-alpha atoms, one of each residue."""
        return self.positions[self._ca_indices]

    @property
    def ca_is_known(self) -> Bool[np.ndarray, " L"]:
        """Whether each C-alpha's position is known."""
        return self.is_known[self._ca_indices]

    @property
    def _ca_indices(self) -> Int64[np.ndarray, " L"]:
        sizes = residues.SIZES[self.codes]
        return np.cumsum(sizes) - sizes + 1  # the first two atoms of every residue are N and CA


def principal_axes(trace: np.ndarray) -> np.ndarray:
    """Axes right, up and towards the viewer (rows of 3 3) that show a trace (L 3) at its widest; never mirrored.

    Positions that are not finite are ignored. The sign of an axis is that of the skewness along it.
    """
    known = trace[np.isfinite(trace).all(1)]
    centered = known.astype(np.float64) - known.mean(0)
    _, axes = np.linalg.eigh(centered.T @ centered)
    right, up = (axes[:, axis] * (1.0 if ((centered @ axes[:, axis]) ** 3).sum() >= 0 else -1.0) for axis in (2, 1))
    return np.stack([right, up, np.cross(right, up)])
