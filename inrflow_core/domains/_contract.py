"""What all domains do with the conditions that are read with their sets."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from inrflow_core.shards.batch import Batch


def conditions(labels: np.ndarray | None, read: Batch | None) -> dict[str, Tensor]:
    """The classes, and what was read beside the sets, as tensors."""
    condition = {} if labels is None else {"label": torch.from_numpy(np.asarray(labels, dtype=np.int64))}
    if read is not None:
        condition |= {name: torch.from_numpy(array) for name, array in read.condition.items()}
    return condition
