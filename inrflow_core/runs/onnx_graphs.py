"""The networks of a model as functions of plain tensors: what its ONNX files compute.

A flow has one graph, of one evaluation of its network: noisy pairs to velocities. Inputs: `values` (B, N, C) of the context,
`t` (B), `labels` (B) where the model has classes (-1 is none), `query_values` (B, M, C), and for images `query_coordinates`
(M, D). Output: `velocity` (B, M, C). Images have the training grid as their context; its coordinates are inside. The solver
stays outside: y follows dy/dt = velocity from t = 1 (noise) to t = 0 (data).

A consistency model has two. `hypernetwork` maps noisy values (B, N, C), data + t noise, at their levels `t` (B) to `tokens`
(B, L, W); of scenes also the `origins` and `directions` of the rays (B, N, 3). `readout` maps tokens and `coordinates` (M, D),
or of scenes the `origins` and `directions` of any rays (B, M, 3), to `values` (B, M, C). Data are encoded at the level `t_min`
without noise, samples are written from t_max times noise at `t_max`: these levels are in the files' metadata. With
`parametrization = edm` the answer is c_skip(t) x + c_out(t) values (INRCT, equation 12).

Latent diffusion has two. `denoiser` maps noisy `latents` (B, K, E), cell by cell, at their times `t` (B), with `labels` (B) where the
model has classes, to their `velocity`; on the path `scaled-linear` it also takes `sigma` (B), the weight of the noise at t, and answers
with the `noise`. `decoder` maps latents without noise and `coordinates` (M, D), or of scenes the `origins` and `directions` of any
rays (B, M, 3), to `values` (B, M, C), with `cell_sizes` (B) where the read-out has them. The path is in the file's metadata.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from inrflow_core.errors import UsageError
from inrflow_core.methods._inr_field import InrModel
from inrflow_core.models import Model
from inrflow_core.numerics import noise_field
from inrflow_core.sets import Queries, Rays

SETS, QUERIES = "B", "M"
LEVELS = ("parametrization", "sigma_data", "t_min", "t_max", "second_step")
"""Settings of consistency models that whoever runs their graphs needs."""


@dataclass(frozen=True)
class Graph:
    """One ONNX file."""

    name: str
    """What is added to the name of the file; empty for a model of one graph."""
    module: nn.Module
    output: str
    axes: Mapping[str, Mapping[int, str]]
    """The axes of the inputs that have any size, `SETS` or `QUERIES`; the order is that of the inputs."""
    example: Callable[[int, int], dict[str, Tensor]]
    """Inputs for a number of sets and of queries."""
    metadata: Mapping[str, str] = field(default_factory=dict)


def graphs(model: Model) -> list[Graph]:
    """The graphs of a model.

    Raises:
        UsageError: it has a condition other than a class, or a method whose networks have no ONNX form.
    """
    part = model.preset.condition
    if part is not None and part.module.GIVEN_AS:  # it has inputs beside a label
        raise UsageError(
            f"`{model.preset.name}` draws from a {part.name}, and the graph takes no more than a class beside the set",
            hint="export its weights as .safetensors",
        )
    match list(model.method.networks()):
        case ["network"]:
            return [_evaluation_graph(model)]
        case ["hypernetwork", "readout"]:
            return [_hypernetwork_graph(model), _readout_graph(model)]
        case ["autoencoder", "readout", "denoiser", *_]:  # and a discriminator, which only training needs
            return [_denoiser_graph(model), _decoder_graph(model)]
        case names:
            raise UsageError(
                f"the method `{model.preset.method.name}` has no ONNX form: a graph holds the network of a flow, the hyper-network "
                f"or read-out of a consistency model, or the denoiser or decoder of latent diffusion, not {', '.join(names)}",
                hint="export its weights as .safetensors",
            )


class Evaluation(nn.Module):
    """The network and its condition as one function of plain tensors."""

    coordinates: Tensor | None
    noise_keys: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.method = model.method
        context = model.domain.queries()
        self.register_buffer("coordinates", context.coordinates, persistent=False)
        self.register_buffer("noise_keys", context.noise_keys, persistent=False)

    def forward(
        self,
        values: Float[Tensor, "B N C"],
        t: Float[Tensor, " B"],
        query_values: Float[Tensor, "B M C"],
        labels: Int64[Tensor, " B"] | None = None,
        query_coordinates: Float[Tensor, "M D"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The velocities of the queries."""
        condition = {} if labels is None else {"label": labels}
        embedding = self.method.embed_condition(condition)
        context = Queries(self.coordinates, self.noise_keys)
        # An evaluation does not use the noise: any keys in the right number serve.
        noise_keys = torch.arange(query_values.shape[1]) if query_coordinates is None else query_coordinates
        queries = Queries(query_coordinates, noise_keys)
        return self.method.network(context, values, t, embedding, queries, query_values)


class TokenWriter(nn.Module):
    """The hyper-network with the scalings of its inputs."""

    coordinates: Tensor | None
    noise_keys: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.method.hypernetwork
        self.model = InrModel(self.network, None, model.domain.shape, model.preset.method.config)
        context = model.domain.queries()
        self.register_buffer("coordinates", context.coordinates, persistent=False)
        self.register_buffer("noise_keys", context.noise_keys, persistent=False)

    def forward(
        self,
        values: Float[Tensor, "B N C"],
        t: Float[Tensor, " B"],
        origins: Float[Tensor, "B N 3"] | None = None,
        directions: Float[Tensor, "B N 3"] | None = None,
    ) -> Float[Tensor, "B L W"]:
        """The tokens of the functions behind noisy values."""
        coordinates = self.coordinates if origins is None else origins
        return self.model.write_tokens(Queries(coordinates, self.noise_keys, directions=directions), values, t.double())


class TokenReader(nn.Module):
    """The read-out, from tokens to values at coordinates."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.readout = model.method.readout

    def forward(self, tokens: Float[Tensor, "B L W"], coordinates: Float[Tensor, "M D"]) -> Float[Tensor, "B M C"]:
        """The values of the functions."""
        queries = Queries(coordinates, torch.arange(coordinates.shape[0]))
        return self.readout.query(self.readout.prepare(tokens), queries)


class RayReader(nn.Module):
    """The read-out of scenes, from tokens to the colors of rays."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.readout = model.method.readout

    def forward(
        self, tokens: Float[Tensor, "B L W"], origins: Float[Tensor, "B M 3"], directions: Float[Tensor, "B M 3"]
    ) -> Float[Tensor, "B M 3"]:
        """The colors, in [-1, 1]."""
        queries = Queries(origins, torch.arange(origins.shape[1]), directions=directions)
        return self.readout.query(self.readout.prepare(tokens), queries)


class LatentDenoiser(nn.Module):
    """The denoiser of latents and its condition."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.denoiser, self.method = model.method.denoiser, model.method

    def forward(
        self,
        latents: Float[Tensor, "B K E"],
        t: Float[Tensor, " B"],
        labels: Int64[Tensor, " B"] | None = None,
        sigma: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B K E"]:
        """The velocity of noisy latents, or with `sigma` their noise."""
        embedding = self.method.embed_condition({} if labels is None else {"label": labels})
        if sigma is None:
            return self.denoiser(latents, t, embedding)
        return self.denoiser.mixed_noise(latents, t, sigma, embedding)


class LatentDecoder(nn.Module):
    """The decoder and the read-out, from the denoiser's latents to values at coordinates."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.method = model.method

    def forward(
        self,
        latents: Float[Tensor, "B K E"],
        coordinates: Float[Tensor, "M D"],
        cell_sizes: Float[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B M C"]:
        """The values of the functions."""
        queries = Queries(coordinates, torch.arange(coordinates.shape[0]), cell_sizes=cell_sizes)
        return self.method.readout.query(self.method.autoencoder.decode(self.method.unscaled(latents)), queries)


class LatentRenderer(nn.Module):
    """The decoder and the read-out of scenes, from the denoiser's latents to the colors of rays."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.method = model.method

    def forward(
        self, latents: Float[Tensor, "B K E"], origins: Float[Tensor, "B M 3"], directions: Float[Tensor, "B M 3"]
    ) -> Float[Tensor, "B M 3"]:
        """The colors, in [-1, 1]."""
        queries = Queries(origins, torch.arange(origins.shape[1]), directions=directions)
        return self.method.readout.query(self.method.autoencoder.decode(self.method.unscaled(latents)), queries)


def example(model: Model, batch: int, count: int) -> dict[str, Tensor]:
    """Inputs of an evaluation: noise as values, times and classes spread out, queries anywhere."""
    shape = model.domain.shape
    seeds = torch.arange(batch)
    query_values = noise_field.normal(seeds, torch.arange(count), purpose="query", channels=shape.value_size)
    inputs = {"values": _noise(model, batch), "t": torch.linspace(0.1, 0.9, batch), "query_values": query_values}
    if model.preset.condition is not None:
        inputs["labels"] = torch.arange(batch) % model.preset.condition.config.classes - 1
    if shape.layout.has_coordinates:
        inputs["query_coordinates"] = _diagonal(count, shape.coordinate_size)
    return inputs


def _evaluation_graph(model: Model) -> Graph:
    axes = {
        "values": {0: SETS},
        "t": {0: SETS},
        "query_values": {0: SETS, 1: QUERIES},
        "labels": {0: SETS},
        "query_coordinates": {0: QUERIES},
    }
    return Graph("", Evaluation(model), "velocity", axes, lambda batch, count: example(model, batch, count))


def _hypernetwork_graph(model: Model) -> Graph:
    config = model.preset.method.config
    levels = {name: str(getattr(config, name)) for name in LEVELS}

    def inputs(batch: int, count: int) -> dict[str, Tensor]:
        t = torch.logspace(0, 1, batch) * config.t_min
        values = {"values": _noise(model, batch), "t": t}
        return values | (_rays(model, batch) if isinstance(model.domain.shape.layout, Rays) else {})

    axes: dict[str, dict[int, str]] = dict.fromkeys(("values", "t", "origins", "directions"), {0: SETS})
    return Graph("hypernetwork", TokenWriter(model), "tokens", axes, inputs, levels)


def _readout_graph(model: Model) -> Graph:
    shape = model.domain.shape
    has_rays = isinstance(shape.layout, Rays)

    def inputs(batch: int, count: int) -> dict[str, Tensor]:
        num_tokens, width = model.method.readout.token_shape
        tokens = noise_field.normal(torch.arange(batch), torch.arange(num_tokens), purpose="tokens", channels=width)
        if not has_rays:
            return {"tokens": tokens, "coordinates": _diagonal(count, shape.coordinate_size)}
        return {"tokens": tokens} | _some_rays(model, batch, count)

    queries = dict.fromkeys(("origins", "directions"), {0: SETS, 1: QUERIES})
    axes: dict[str, dict[int, str]] = {"tokens": {0: SETS}, "coordinates": {0: QUERIES}, **queries}
    return Graph("readout", RayReader(model) if has_rays else TokenReader(model), "values", axes, inputs)


def _denoiser_graph(model: Model) -> Graph:
    denoiser = model.method.denoiser
    predicts_noise = denoiser.mixing is not None

    def inputs(batch: int, count: int) -> dict[str, Tensor]:
        t = torch.linspace(0.1, 0.9, batch)
        values = {"latents": _latents(model, batch), "t": t}
        if model.preset.condition is not None:
            values["labels"] = torch.arange(batch) % model.preset.condition.config.classes - 1
        if predicts_noise:
            values["sigma"] = denoiser.path.sigma(t.double()).float()
        return values

    axes: dict[str, dict[int, str]] = {name: {0: SETS} for name in ("latents", "t", "labels", "sigma")}
    output = "noise" if predicts_noise else "velocity"
    return Graph("denoiser", LatentDenoiser(model), output, axes, inputs, _path_of(model))


def _decoder_graph(model: Model) -> Graph:
    method, has_rays = model.method, isinstance(model.domain.shape.layout, Rays)

    def inputs(batch: int, count: int) -> dict[str, Tensor]:
        if has_rays:
            return {"latents": _latents(model, batch)} | _some_rays(model, batch, count)
        at = _diagonal(count, model.domain.shape.coordinate_size)
        values = {"latents": _latents(model, batch), "coordinates": at}
        if method.readout.config.reads_cell_size:
            values["cell_sizes"] = torch.linspace(0.5, 1, batch) * method.readout.training_step
        return values

    axes: dict[str, dict[int, str]] = {"latents": {0: SETS}, "coordinates": {0: QUERIES}, "cell_sizes": {0: SETS}}
    axes |= dict.fromkeys(("origins", "directions"), {0: SETS, 1: QUERIES})
    module = LatentRenderer(model) if has_rays else LatentDecoder(model)
    return Graph("decoder", module, "values", axes, inputs, _path_of(model))


def _path_of(model: Model) -> dict[str, str]:
    return {"path": model.preset.method.config.path}


def _latents(model: Model, batch: int) -> Float[Tensor, "B K E"]:
    """Noise for each latent."""
    spec = model.method.autoencoder.latent_spec
    keys = torch.arange(spec.num_queries)
    return noise_field.normal(torch.arange(batch), keys, purpose="noise", channels=spec.value_size)


def _noise(model: Model, batch: int) -> Float[Tensor, "B N C"]:
    shape = model.domain.shape
    keys = torch.arange(shape.num_queries)
    return noise_field.normal(torch.arange(batch), keys, purpose="noise", channels=shape.value_size)


def _diagonal(count: int, axes: int) -> Float[Tensor, "M D"]:
    """Coordinates from -1 to 1 on every axis."""
    return torch.linspace(-1, 1, count)[:, None].repeat(1, axes)


def _rays(model: Model, batch: int) -> dict[str, Float[Tensor, "B N 3"]]:
    """The rays of the default camera."""
    queries = model.domain.queries()
    rays = {"origins": queries.coordinates, "directions": queries.directions}
    return {name: vectors.expand(batch, -1, -1).contiguous() for name, vectors in rays.items()}


def _some_rays(model: Model, batch: int, count: int) -> dict[str, Float[Tensor, "B M 3"]]:
    """`count` rays of the default camera, repeated where it has fewer."""
    rows = torch.arange(count) % model.domain.shape.num_queries
    return {name: rays[:, rows] for name, rays in _rays(model, batch).items()}
