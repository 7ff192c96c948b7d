"""The decoders of the set transformer beside a plain DiT, which has no function between the pixels: time of a step, and losses.

    python tests/benchmarks/decoders.py                                        # seconds of a training step and ratios: a minute
    python tests/benchmarks/decoders.py --shards shards/mnist --steps 200      # held-out losses beside CPU seconds: tens of minutes

Images of one channel with as many trunk weights in each network: width 96, 4 blocks, 4 heads, patches of 4 x 4 pixels. `attention` is
the paper's network (spatial encoder, decoder of width 64), `linear, attention` has the encoder of patches, `local` has both short cuts,
`plain DiT` maps patches in and out by one layer each. AdamW at 2e-3, or with `--optimizer muon` Muon at 1.6e-2 and AdamW at 4e-3, after
a warm-up of 100 steps or an eighth of `--total`, cosine over `--total` steps, 64 images, uniform times, labels dropped for a tenth, the
average of the weights. One thread, CPU seconds; networks take turns in the timing.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from inrflow_core.config.training import Config
from inrflow_core.layers.attention import Block, ModulatedLinear
from inrflow_core.layers.embeddings import TimeEmbedding
from inrflow_core.layers.rope import rotary
from inrflow_core.methods._trained_weights import hidden_matrices
from inrflow_core.networks import _set_grouping, set_transformer
from inrflow_core.sets import ConditionEmbedding, Grid, Queries, SetSpec
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.training import optimizers
from inrflow_core.training.muon import Muon

WIDTH, DEPTH, HEADS, PATCH, BATCH, WARMUP = 96, 4, 4, 4, 64, 100
OPTIMIZERS = {
    "adamw": Config(1, BATCH, learning_rate=2e-3),
    "muon": Config(1, BATCH, optimizer="muon", learning_rate=4e-3, matrix_rate=4.0, betas=(0.9, 0.99)),
}
LOCAL = {"encoder": "linear", "decoder": "local", "decoder_width": 32}
NETWORKS = {
    "attention": {"decoder_width": 64, "decoder_heads": 4},
    "linear, attention": {"encoder": "linear", "decoder_width": 64, "decoder_heads": 4},
    "local": LOCAL,
    "plain DiT": None,
}
ROUNDS = 12
HELD_OUT = 512


class PlainDit(nn.Module):
    """DiT (Peebles and Xie 2023): patches of a square image of one channel through one layer, blocks, and one layer back."""

    rope: Tensor

    def __init__(self, side: int) -> None:
        super().__init__()
        cells = side // PATCH
        self.cells, self.time = cells, TimeEmbedding(WIDTH)
        self.patches = nn.Linear(PATCH**2, WIDTH)
        self.positions = nn.Parameter(0.02 * torch.randn(cells**2, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, 4.0, condition_width=WIDTH) for _ in range(DEPTH))
        self.norm, self.final = nn.Linear(WIDTH, 2 * WIDTH), ModulatedLinear(WIDTH, PATCH**2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Block):
                nn.init.zeros_(module.modulation.weight)
        for layer in (self.norm, self.final):
            nn.init.zeros_(layer.weight)
        centers = torch.from_numpy(_set_grouping.cell_centers((cells, cells))).float()
        self.register_buffer("rope", rotary(centers * cells / 2, WIDTH // HEADS), persistent=False)

    def forward(self, noisy: Float[Tensor, "B N 1"], t: Float[Tensor, " B"], vector: Float[Tensor, "B W"]) -> Tensor:
        """Velocities (B N 1) of all pixels."""
        condition = functional.silu(self.time(t) + vector)
        cells = self.cells
        x = self.patches(noisy.view(-1, cells, PATCH, cells, PATCH).transpose(2, 3).reshape(-1, cells**2, PATCH**2))
        x = x + self.positions
        for block in self.blocks:
            x = block(x, block.modulate(condition), self.rope, None)  # pyright: ignore[reportCallIssue]
        x = self.final(x, *self.norm(condition)[:, None].chunk(2, -1))
        return x.view(-1, cells, cells, PATCH, PATCH).transpose(2, 3).reshape(noisy.shape)


class Trained(nn.Module):
    """A network with labels, its optimizer and the average of its weights."""

    def __init__(self, kind: str, side: int, classes: int, seed: int, optimizer: str = "adamw") -> None:
        super().__init__()
        torch.manual_seed(seed)
        settings = NETWORKS[kind]
        latents = (side // PATCH) ** 2
        self.kind, self.classes = kind, classes
        self.network = (
            PlainDit(side)
            if settings is None
            else set_transformer.build(
                set_transformer.Config(WIDTH, DEPTH, HEADS, latents=latents, rope=True, **settings),  # pyright: ignore[reportArgumentType]
                SetSpec(2, 1, Grid((side, side))),
            )
        )
        self.labels = nn.Embedding(classes + 1, WIDTH)
        nn.init.normal_(self.labels.weight, std=0.02)
        axis = (2 * torch.arange(side) + 1) / side - 1
        self.queries = Queries(torch.cartesian_prod(axis, axis), torch.arange(side**2))
        self.settings = OPTIMIZERS[optimizer]
        weights = dict(self.named_parameters())
        if optimizer == "muon":
            matrices = [weights[name] for name in hidden_matrices(self, weights)]
            self.optimizer = Muon(weights.values(), matrices, self.settings)
        else:
            self.optimizer = optimizers.build(weights.values(), self.settings, torch.device("cpu"))
        self.average = [weight.detach().clone() for weight in self.parameters()]
        self.steps = 0

    def velocity(self, noisy: Tensor, t: Tensor, labels: Int64[Tensor, " B"]) -> Tensor:
        vector = self.labels(labels)
        if isinstance(self.network, PlainDit):
            return self.network(noisy, t, vector)
        return self.network(self.queries, noisy, t, ConditionEmbedding(vector), self.queries, noisy)

    def loss(self, data: Tensor, noise: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        weight = t[:, None, None]
        error = self.velocity((1 - weight) * data + weight * noise, t, labels) - (noise - data)
        return error.square().mean()

    def step(self, data: Tensor, labels: Tensor, total: int, random: torch.Generator) -> None:
        self.steps += 1
        warmup = min(WARMUP, max(1, total // 8))
        part = min(1.0, self.steps / warmup) * (1 + math.cos(math.pi * self.steps / total)) / 2
        self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * part
        dropped = torch.rand(len(labels), generator=random) < 0.1
        noise, t = torch.randn(data.shape, generator=random), torch.rand(len(data), generator=random)
        self.optimizer.zero_grad()
        self.loss(data, noise, t, labels.masked_fill(dropped, self.classes)).backward()
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        self.optimizer.step()
        decay = min(0.99, (1 + self.steps) / (10 + self.steps))
        for average, weight in zip(self.average, self.parameters(), strict=True):
            average.lerp_(weight.detach(), 1 - decay)

    @torch.no_grad()
    def held_out(self, data: Tensor, labels: Tensor) -> float:
        """The loss of the averaged weights on the same images, noise and times for every network."""
        weights = [weight.detach().clone() for weight in self.parameters()]
        random = torch.Generator().manual_seed(7)
        for weight, average in zip(self.parameters(), self.average, strict=True):
            weight.copy_(average)
        losses = []
        for part, named in zip(data.split(128), labels.split(128), strict=True):
            t = (torch.arange(len(part)) + 0.5) / len(part)
            losses.append(self.loss(part, torch.randn(part.shape, generator=random), t, named).item())
        for weight, before in zip(self.parameters(), weights, strict=True):
            weight.copy_(before)
        return statistics.mean(losses)


@dataclass(frozen=True)
class Images:
    """Images as sets (N P 1) in [-1, 1], and their labels."""

    values: Tensor
    labels: Tensor

    @classmethod
    def read(cls, shards: Path, split: str, count: int | None = None) -> Images:
        dataset = ShardDataset(shards)
        batch = dataset.read(split, range(dataset.count(split) if count is None else count))
        assert batch.labels is not None, "images with classes"
        return cls(
            torch.from_numpy(batch.values).float().flatten(1, 2) / 127.5 - 1, torch.from_numpy(batch.labels).long()
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--shards", type=Path, help="images of one channel with classes, as `inrflow prepare mnist` makes them"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--total", type=int, default=1000, help="steps of the schedule")
    parser.add_argument("--optimizer", choices=list(OPTIMIZERS), default="adamw", help="for the losses")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_times(arguments.networks, 28)
    if arguments.shards is not None:
        print_losses(arguments)


def print_times(names: list[str], side: int) -> None:
    """CPU seconds of a step; the networks take turns, and a ratio is the median over the rounds."""
    models = {name: Trained(name, side, 10, 0) for name in names}
    random = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    data, labels = torch.randn(BATCH, side**2, 1, generator=random), torch.zeros(BATCH, dtype=torch.int64)
    for _ in range(ROUNDS):
        for name, model in models.items():
            start = time.process_time()
            model.step(data, labels, 1000, random)
            seconds[name].append(time.process_time() - start)
    print(f"\n| network | weights | CPU s a step | ratio to {names[-1]} |\n| --- | ---: | ---: | ---: |")
    for name, model in models.items():
        ratio = statistics.median(
            own / other for own, other in zip(seconds[name][2:], seconds[names[-1]][2:], strict=True)
        )
        count = sum(weight.numel() for weight in model.parameters())
        print(f"| {name} | {count:,} | {statistics.median(seconds[name][2:]):.3f} | {ratio:.2f} |")


def print_losses(arguments: argparse.Namespace) -> None:
    """Held-out losses of every network after the same steps."""
    train, held_out = Images.read(arguments.shards, "train"), Images.read(arguments.shards, "val", HELD_OUT)
    side, classes = math.isqrt(train.values.shape[1]), int(train.labels.max()) + 1
    print("\n| network | step | held-out loss | CPU s |\n| --- | ---: | ---: | ---: |")
    for name in arguments.networks:
        model, spent = Trained(name, side, classes, arguments.seed, arguments.optimizer), 0.0
        random = torch.Generator().manual_seed(1)
        for step in range(1, arguments.steps + 1):
            start = time.process_time()
            rows = torch.randint(len(train.values), (BATCH,), generator=random)
            model.step(train.values[rows], train.labels[rows], arguments.total, random)
            spent += time.process_time() - start
            if step in (25, 50) or step % 100 == 0:
                loss = model.held_out(held_out.values, held_out.labels)
                print(f"| {name} | {step} | {loss:.3f} | {spent:.0f} |", flush=True)


if __name__ == "__main__":
    main()
