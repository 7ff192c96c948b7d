"""The denoiser of latent diffusion with its conditioner: velocities, or on the paper's schedule the noise."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrflow_core.numerics import paths
from inrflow_core.sets import ConditionEmbedding

NOISE_PATH = "scaled-linear"
"""The path on which the denoiser predicts noise: on the others nothing of the data is left at t = 1 to tell it from."""
INITIAL_LOGIT = -6.0
"""The network's share in the predicted noise is at first sigmoid(-6) = 0.0025."""


class ConditionedDenoiser(nn.Module):
    """A denoiser with the conditioner that is trained with it.

    On the path `scaled-linear` it predicts the noise, mixed with the best answer for standard normal latents (LSGM, Vahdat et
    al. 2021, arXiv:2106.05931; DDMI's release): (1 - c) sigma(t) y + c network, with c = sigmoid of a trained logit for each
    channel. On the others its answer is the velocity; the best one for standard normal latents is 0 on `trigonometric`.
    """

    PARTS = {"network": "denoiser", "mixing": "denoiser"}

    def __init__(self, network: nn.Module, conditioner: nn.Module | None, path: str, channels: int) -> None:
        super().__init__()
        self.network, self.conditioner = network, conditioner
        self.path = paths.PATHS[path]
        self.mixing = nn.Parameter(torch.full((channels,), INITIAL_LOGIT)) if path == NOISE_PATH else None

    def forward(
        self, latents: Float[Tensor, "B K E"], t: Float[Tensor, " B"], embedding: ConditionEmbedding
    ) -> Float[Tensor, "B K E"]:
        """What training compares with `target`, of noisy latents at times t."""
        if self.mixing is None:
            return self.network(latents, t, embedding)
        return self.mixed_noise(latents, t, self.path.sigma(t.double()).to(latents.dtype), embedding)

    def mixed_noise(
        self,
        latents: Float[Tensor, "B K E"],
        t: Float[Tensor, " B"],
        sigma: Float[Tensor, " B"],
        embedding: ConditionEmbedding,
    ) -> Float[Tensor, "B K E"]:
        """The noise of latents at times t, where its weight is sigma; only with `mixing`."""
        assert self.mixing is not None
        share = torch.sigmoid(self.mixing)
        # The network's steps count from 0, and the first one is at t = 1 / 1000.
        answer = self.network(latents, t - 1 / paths.SCHEDULE_STEPS, embedding)
        return (1 - share) * sigma[:, None, None] * latents + share * answer.float()

    def target(self, noise: Float[Tensor, "B K E"], velocity: Float[Tensor, "B K E"]) -> Float[Tensor, "B K E"]:
        """What `forward` predicts, of latents whose noise and velocity are known."""
        return velocity if self.mixing is None else noise

    def velocity(
        self, latents: Float[Tensor, "B K E"], t: Float[Tensor, " B"], embedding: ConditionEmbedding
    ) -> Float[Tensor, "B K E"]:
        """The velocity of noisy latents at times t, which samplers follow."""
        answer = self(latents, t.to(latents.dtype), embedding).to(latents.dtype)
        return answer if self.mixing is None else paths.velocity_of_noise(self.path, answer, latents, t)
