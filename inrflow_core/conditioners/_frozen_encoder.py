"""What conditions on images and on sequences share: a frozen network, loaded when training computes its features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from inrflow_core.feature_networks import _contract


class FrozenConditioner(nn.Module):
    """A conditioner with an embedder of its settings' `embedder` and `weights`, loaded when it is first needed."""

    config: Any

    def __init__(self) -> None:
        super().__init__()
        self._embedder: list[Any] = []  # in a list: it is not a submodule, and not among the weights

    @property
    def is_ready(self) -> bool:
        """Whether the embedder is loaded."""
        return bool(self._embedder)

    def use(self, embedder: Any) -> None:
        """Compute with this embedder, which is loaded already."""
        self._embedder[:] = [embedder]

    def embedder(self, device: torch.device) -> Any:
        """The embedder, loaded if needed; raises what `_contract.load` raises."""
        if not self._embedder:
            folder = None if self.config.weights is None else Path(self.config.weights)
            self.use(_contract.load(self.config.embedder, folder, device))
        return self._embedder[0]
