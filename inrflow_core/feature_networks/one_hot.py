"""One-hot residues as tokens: a placeholder for a protein language model that needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32

from inrflow_core.proteins import residues

KIND = "embedder"
DOMAIN = "sequence"
IS_PLACEHOLDER = True


def load(folder: Path | None, device: torch.device | str = "cpu") -> OneHot:
    """The embedder, which has no weights."""
    assert folder is None, "a placeholder has no folder"
    return OneHot()


@dataclass(frozen=True)
class OneHot:
    """The amino acid of each residue, independent of its neighbors."""

    name: str = "one-hot"
    width: int = 20
    digest: str = "one-hot-1"

    def __call__(self, sequences: Sequence[str]) -> list[Float32[np.ndarray, "_ 20"]]:
        """One-hot vectors of each residue's index in `residues.LETTERS`.

        Raises:
            UsageError: a letter is not one of the 20.
        """
        return [np.eye(20, dtype=np.float32)[residues.to_codes(sequence)] for sequence in sequences]
