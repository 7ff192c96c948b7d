"""The field of the flow method: sampled functions, evaluated at any queries from the latents of their context."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from inrflow_core import fields, models, registry
from inrflow_core.config.preset import Preset
from inrflow_core.methods._flow_sampling import SamplingOptions
from inrflow_core.methods._velocity_model import VelocityModel
from inrflow_core.numerics import noise_field, paths, solver
from inrflow_core.runtime.progress import Progress, RepeatableProgress
from inrflow_core.runtime.query_budget import CHUNK, QueryBudget
from inrflow_core.sets import Condition, ConditionEmbedding, Grid, Queries

NOISE_CHUNKS = 16
"""Chunks of queries whose noise is computed at once: it takes little memory, and many small operations for each call."""


@dataclass
class ContextEvaluation:
    """One velocity evaluation of the context, as its queries need it: the time, and the latents of each network.

    The second latents are those that guidance compares with. `decoder_kv` are the decoders' keys and values of the latents; a
    cached field computes them again for each step.
    """

    t: Float64[Tensor, " B"]
    latents: list[Any]
    decoder_kv: list[Any] | None = None


@dataclass
class QueryChunk:
    """Queries that are evaluated together, and each decoder's embedding of their coordinates; None where it is not cached."""

    queries: Queries
    embedded: list[Any]


class FlowField:
    """Functions that a velocity model samples, by solving the ODE or SDE from noise to data.

    Each solver step is taken for the context first, which leaves the latents of each velocity evaluation; then each chunk of
    queries takes the same step with these latents. The step control of an adaptive solver sees the context alone.
    """

    def __init__(
        self,
        model: VelocityModel,
        context: Queries,
        seeds: Int64[Tensor, " B"],
        condition: Condition,
        options: SamplingOptions,
    ) -> None:
        self.model, self.spec = model, model.spec
        self.context = context
        self.seeds = seeds
        self.condition = condition
        self.options = options
        self.start: Float[Tensor, "B N C"] | None = None
        self.steps: list[tuple[solver.Step, list[ContextEvaluation]]] | None = None
        self.values: Float[Tensor, "B N C"] | None = None
        self._embeddings: list[tuple[Any, ConditionEmbedding]] = []

    def __repr__(self) -> str:
        return fields.description(self, self.spec, is_cached=self.steps is not None)

    @torch.no_grad()
    def query(
        self, queries: Queries, *, chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B M C"]:
        """The values at `queries`, in the network's scale; memory grows with `chunk` and one buffer per query, of an SDE two.

        `chunk` counts the queries of all B sets that are evaluated at once; a `QueryBudget` is shared between calls.
        `progress` gets the steps that are done, again before each chunk, so that what it raises ends a step within one.
        """
        budget, sets = QueryBudget.from_chunk(chunk), len(self.seeds)
        report = RepeatableProgress(progress, (0, max(1, self._num_steps(0))))
        if _are_equal(queries, self.context):
            return self._context_values(budget, report)
        y = torch.empty(sets, len(queries), self.model.spec.value_size, device=self.seeds.device)

        def begin(part: slice) -> None:
            report.repeat()
            y[:, part] = self._initial_noise(queries[part])

        queries = budget.intern_queries(queries)
        budget.run_in_chunks(len(queries), sets, begin, times=NOISE_CHUNKS)
        for done, (step, evaluations) in enumerate(self._iter_steps(budget, report), start=1):
            noise = (
                self._increments(queries, step.index, budget, report) if self.options.sampler.IS_STOCHASTIC else None
            )

            def advance(
                part: slice,
                step: solver.Step = step,
                evaluations: list[ContextEvaluation] = evaluations,
                noise: Tensor | None = noise,
            ) -> None:
                report.repeat()
                queried = self._query_chunk(queries, part, budget)
                # The step may run out of memory: y is written after it.
                y[:, part] = self._advance(
                    queried, y[:, part], step, evaluations, None if noise is None else noise[:, part]
                )

            budget.run_in_chunks(len(queries), sets, advance)
            report(done, self._num_steps(done))
        return y

    @torch.no_grad()
    def cache_context(self, progress: Progress | None = None) -> FlowField:
        """This field with the latents of every evaluation cached for later queries."""
        if self.steps is not None:
            return self
        steps = []
        report = RepeatableProgress(progress, (0, max(1, self._num_steps(0))))
        for step, evaluations in self._iter_steps(QueryBudget(), report):
            steps.append((step, [ContextEvaluation(e.t, e.latents) for e in evaluations]))
            report(len(steps), self._num_steps(len(steps)))
        self.steps = steps
        return self

    def size(self) -> int:
        """Bytes that `save` writes, but for the header: every evaluation's latents and the decoder's weights."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def save(
        self, path: Path, preset: Preset, *, half: bool = False, metadata: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        """Write a cached field as safetensors, fp16 if `half`: it is evaluated later without encoder or trunk."""
        tensors = self._tensors()
        if half:
            tensors = {
                k: v.half() if v.dtype == torch.float32 and not k.startswith("noise") else v for k, v in tensors.items()
            }
        guide = self.options.guide
        info = {
            "sampler": self.options.sampler.__name__.rpartition(".")[2],
            "sampler_settings": vars(self.options.config),
            "guidance": self.options.guidance,
            "interval": list(self.options.interval),
            "noise": self.options.noise,
            "precision": self.options.precision,
            "guide": None if guide is None else {k: v for k, v in vars(guide.network.config).items() if v is not None},
        }
        models.save(path, tensors, preset, {**metadata, **info}, fields.FORMAT)

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that later queries need, by name."""
        assert self.steps is not None and self.values is not None, "`cache_context` comes before `save`"
        tensors = {"seeds": self.seeds, "values": self.values, "places": self.context.noise_keys}
        if self.start is not None:
            tensors["noise"] = self.start
        for index, (step, evaluations) in enumerate(self.steps):
            head = f"step.{index:05d}"
            tensors |= {f"{head}.index": torch.tensor(step.index), f"{head}.t": step.t, f"{head}.t_next": step.t_next}
            for number, evaluation in enumerate(evaluations):
                tensors[f"{head}.{number}.t"] = evaluation.t.clone()  # a safetensors file shares no memory
                for half, latents in enumerate(evaluation.latents):
                    tensors[f"{head}.{number}.{half}.vector"] = latents.vector
                    for level, tokens in enumerate(latents.levels):
                        tensors[f"{head}.{number}.{half}.level.{level}"] = tokens
        decoders = [self.model.network.decoder] + ([self.options.guide.network.decoder] if self.options.guide else [])
        for number, decoder in enumerate(decoders):
            tensors |= {f"decoder.{number}.{name}": weight for name, weight in decoder.state_dict().items()}
        return tensors

    def to_noise(
        self, values: Float[Tensor, "B N C"], chunk: int | QueryBudget = CHUNK, progress: Progress | None = None
    ) -> Float[Tensor, "B N C"]:
        """The noise at t = 1 from which the ODE leads to `values` at t = 0, on the context.

        `progress` gets how many evaluations are done, again before each chunk.
        """
        sampler = registry.find("samplers", "heun")
        steps = max(2, solver.num_function_evaluations(self.options.sampler, self.options.config) // 2)
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64, device=values.device)
        report = RepeatableProgress(progress, (0, 2 * steps))
        evaluate, done = self._evaluator([], QueryBudget.from_chunk(chunk), report), count(1)

        def velocity(y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"]) -> Float[Tensor, "B N C"]:
            slope = evaluate(y, t)
            report(next(done), 2 * steps)
            return slope

        with torch.no_grad():
            return solver.integrate(
                sampler,
                sampler.Config(steps=steps),
                velocity,
                values,
                path=self.model.path,
                times=times,
            )

    def _context_values(self, budget: QueryBudget, report: RepeatableProgress) -> Float[Tensor, "B N C"]:
        for done, _ in enumerate(() if self.values is not None else self._iter_steps(budget, report), start=1):
            report(done, self._num_steps(done))
        assert self.values is not None
        return self.values

    def _iter_steps(
        self, budget: QueryBudget, report: RepeatableProgress
    ) -> Iterator[tuple[solver.Step, list[ContextEvaluation]]]:
        """The solver steps of the context, each with its evaluations; sets `values` to the context's values at the end."""
        if self.steps is not None:
            for step, evaluations in self.steps:
                yield step, [ContextEvaluation(e.t, e.latents, self._decoder_kv(e.latents)) for e in evaluations]
            return
        sampler = self.options.sampler
        evaluated: list[ContextEvaluation] = []
        y = self._initial_noise(self.context)
        walk = solver.iter_steps(
            sampler,
            self.options.config,
            self._evaluator(evaluated, budget, report),
            y,
            path=self.model.path,
            noise=lambda index: self._increment(self.context, index),
            real=None if self.context.group_ids is None else self.context.group_ids >= 0,
        )
        for step, state in walk:
            y = state
            last = evaluated[-sampler.NFE_PER_STEP :][: sampler.NFE_PER_REPLAY]
            evaluated.clear()
            yield step, last
        self.values = y

    def _evaluator(
        self, evaluated: list[ContextEvaluation], budget: QueryBudget, report: RepeatableProgress
    ) -> Callable[..., Float[Tensor, "B N C"]]:
        """The velocity of the context as a function of (y, t), which appends each evaluation to `evaluated`; `report` repeats
        the progress before each of its parts."""
        context = budget.intern_queries(self.context)

        def velocity(y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"]) -> Float[Tensor, "B N C"]:
            report.repeat()
            evaluation = self._evaluate(y, t)
            evaluated.append(evaluation)
            slope = torch.empty_like(y)

            def decode(part: slice) -> None:
                report.repeat()
                slope[:, part] = self._velocity(self._query_chunk(context, part, budget), y[:, part], evaluation)

            budget.run_in_chunks(len(context), len(self.seeds), decode)
            return slope

        return velocity

    def _evaluate(self, y: Float[Tensor, "B N C"], t: Float64[Tensor, " B"]) -> ContextEvaluation:
        """Encoder and trunk at (y, t): under the condition and, where guidance acts, for the second velocity."""
        model, options = self.model, self.options
        with self._precision():
            (_, embedding), *against = self._condition_embeddings()
            encoded = model.network.encode(self.context, y, None, embedding)
            latents = [model.network.latents(encoded, t.to(y.dtype), embedding)]
            if self._is_guided(t):
                other, embedding = against[0]
                if options.guide is not None:
                    encoded = other.encode(self.context, y, None, embedding)
                latents.append(other.latents(encoded, t.to(y.dtype), embedding))
            return ContextEvaluation(t, latents, self._decoder_kv(latents))

    def _condition_embeddings(self) -> list[tuple[Any, ConditionEmbedding]]:
        """Network and embedding of the velocity and of the one that guidance compares with; computed once for all steps."""
        if not self._embeddings:
            model, guide = self.model, self.options.guide
            self._embeddings = [(model.network, model.network.project_kv(model.embed_condition(self.condition)))]
            if guide is not None:
                self._embeddings.append(
                    (guide.network, guide.network.project_kv(guide.embed_condition(self.condition)))
                )
            elif model.is_guidable:
                self._embeddings.append(
                    (model.network, model.network.project_kv(model.null_condition(len(self.seeds))))
                )
        return self._embeddings

    def _decoder_kv(self, latents: list[Any]) -> list[Any]:
        with self._precision():
            return [network.decoder_kv(half) for network, half in zip(self._networks(), latents, strict=False)]

    def _is_guided(self, t: Float64[Tensor, " B"]) -> bool:
        options = self.options
        if options.guidance == 1.0 or (options.guide is None and not self.model.is_guidable):
            return False
        low, high = options.interval
        return bool(((t >= low) & (t <= high)).any())

    def _query_chunk(self, queries: Queries, part: slice, budget: QueryBudget) -> QueryChunk:
        own, other = self._networks()
        embedded = budget.embed_queries(own, queries, part)
        return QueryChunk(
            queries[part], [embedded, embedded if other is own else budget.embed_queries(other, queries, part)]
        )

    def _networks(self) -> list[Any]:
        """The network, and the network of the velocity that guidance compares with."""
        own, guide = self.model.network, self.options.guide
        return [own, own if guide is None else guide.network]

    def _velocity(
        self, queried: QueryChunk, y: Float[Tensor, "B M C"], evaluation: ContextEvaluation
    ) -> Float[Tensor, "B M C"]:
        options = self.options
        with self._precision():
            assert evaluation.decoder_kv is not None
            velocity, *others = (
                network.decode(queried.queries, y, kv, embedded).to(y.dtype)
                for network, kv, embedded in zip(
                    self._networks(), evaluation.decoder_kv, queried.embedded, strict=False
                )
            )
        if not others:
            return velocity
        return paths.guided_velocity(velocity, others[0], options.guidance, evaluation.t, options.interval)

    def _advance(
        self,
        queried: QueryChunk,
        y: Float[Tensor, "B M C"],
        step: solver.Step,
        evaluations: list[ContextEvaluation],
        noise: Float[Tensor, "B M C"] | None,
    ) -> Float[Tensor, "B M C"]:
        """One solver step of queries, with the latents of the context's evaluations and the noise of an SDE."""
        replayed = iter(evaluations)
        return solver.replay_step(
            self.options.sampler,
            self.options.config,
            lambda y, t: self._velocity(queried, y, next(replayed)),
            y,
            step,
            path=self.model.path,
            noise=None if noise is None else lambda _: noise,
        )

    def _increments(
        self, queries: Queries, index: int, budget: QueryBudget, report: RepeatableProgress
    ) -> Float[Tensor, "B M C"]:
        """The noise of one step at all queries."""
        noise = torch.empty(len(self.seeds), len(queries), self.model.spec.value_size, device=self.seeds.device)

        def draw(part: slice) -> None:
            report.repeat()
            noise[:, part] = self._increment(queries[part], index)

        budget.run_in_chunks(len(queries), len(self.seeds), draw, times=NOISE_CHUNKS)
        return noise

    def _initial_noise(self, queries: Queries) -> Float[Tensor, "B M C"]:
        return noise_field.normal(
            self.seeds,
            queries.noise_keys,
            purpose="start",
            channels=self.model.spec.value_size,
            kernel=self.options.noise,
            override=self._inverted_noise(),
        )

    def _inverted_noise(self) -> Tensor | None:
        """The noise from inversion, in the shape of the grid or list that it replaces; None for a new sample."""
        if self.start is None:
            return None
        layout = self.model.spec.layout
        return self.start.unflatten(1, layout.shape) if isinstance(layout, Grid) else self.start

    def _increment(self, queries: Queries, index: int) -> Float[Tensor, "B M C"]:
        channels = self.model.spec.value_size
        kernel = self.options.noise
        return noise_field.normal(
            self.seeds, queries.noise_keys, purpose="increment", step=index, channels=channels, kernel=kernel
        )

    def _num_steps(self, done: int) -> int:
        """The number of solver steps; of an adaptive solver, those done so far."""
        if self.steps is not None:
            return len(self.steps)
        return (
            done if self.options.sampler.IS_ADAPTIVE else len(self.options.sampler.time_grid(self.options.config)) - 1
        )

    def _precision(self) -> torch.autocast:
        device = self.seeds.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.options.precision == "bf16")


def _are_equal(a: Queries, b: Queries) -> bool:
    return a is b or (a.noise_keys.shape == b.noise_keys.shape and torch.equal(a.noise_keys, b.noise_keys))
