"""A new kind of input is one spec and one class of inputs: the evaluator takes them as they are."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float64

from inrflow_core.errors import UsageError
from inrflow_core.evaluation import reference_stats
from inrflow_core.evaluation.evaluator import Evaluator
from inrflow_core.evaluation.gather import EvaluationSettings
from inrflow_core.evaluation.metric_specs import MetricSpec
from inrflow_core.evaluation.results import EvaluatedSamples
from inrflow_core.metrics import _contract
from inrflow_core.metrics._inputs import (
    Cost,
    CostTimer,
    GatherContext,
    InputSpec,
    MetricInputs,
    items_of,
    rows_in_groups,
)
from inrflow_core.sample_files.readers import open_collection

IMAGES = np.random.default_rng(0).integers(0, 256, (90, 6, 6, 1), dtype=np.uint8)


@dataclass(frozen=True)
class ChannelMeanSpec(InputSpec):
    """The mean of one channel of every image."""

    channel: int = 0

    def key(self) -> Hashable:
        return "channel mean", self.channel

    def gather(self, samples: Any, reference: Any, context: GatherContext[Any]) -> ChannelMeans:
        def means(items: Any) -> np.ndarray:
            context.verify(items)
            return items.read(range(items.count)).values[..., self.channel].mean((1, 2))

        return context.once(self.key(), lambda: ChannelMeans(means(samples), means(items_of(reference))))

    def estimate(self, num_samples: int, num_points: int | None, timer: CostTimer[Any]) -> list[Cost]:
        return [(f"means of {num_samples} images", 1e-6 * num_samples)]


@dataclass(frozen=True)
class ChannelMeans(MetricInputs):
    samples: Float64[np.ndarray, " N"]
    reference: Float64[np.ndarray, " R"]

    def counts(self) -> tuple[int, int]:
        return len(self.samples), len(self.reference)

    def num_independent(self) -> int:
        return min(self.counts())

    def select_groups(self, groups: Collection[int], num_groups: int) -> ChannelMeans:
        sides = self.samples, self.reference
        return ChannelMeans(*(side[rows_in_groups(len(side), groups, num_groups)] for side in sides))


class BrightnessGap:
    """A metric: how much brighter the samples are."""

    TITLE, DOMAIN, PROTOCOLS, HIGHER_IS_BETTER = "Brightness gap", "image", ("first",), False

    @staticmethod
    def inputs(protocol: str) -> InputSpec:
        return ChannelMeanSpec()

    @staticmethod
    def unit(protocol: str) -> str:
        return "levels"

    @staticmethod
    def compute(inputs: ChannelMeans, protocol: str) -> float:
        return float(inputs.samples.mean() - inputs.reference.mean())


GAP = MetricSpec("brightness-gap", _contract.resolve(BrightnessGap), "first")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", images=IMAGES[:50])
    np.savez(tmp_path / "reference.npz", images=IMAGES[50:])
    return tmp_path


def test_a_new_kind_of_input_is_evaluated_with_an_interval(place: Path):
    evaluator = Evaluator(open_collection(place / "reference.npz"), EvaluationSettings(place / "cache"))
    samples = EvaluatedSamples("samples", open_collection(place / "samples.npz"))
    evaluator.check([GAP])
    score = evaluator.score(samples, GAP)
    assert score.value == pytest.approx(IMAGES[:50].mean() - IMAGES[50:].mean(), rel=1e-12)
    assert (score.metric, score.samples, score.reference, score.unit) == ("brightness-gap:first", 50, 40, "levels")
    assert score.interval is not None and score.interval[0] < score.value < score.interval[1]
    # The jackknife's error of a difference of means is that of the means.
    error = np.hypot(
        *(IMAGES[part].mean((1, 2, 3)).std() / len(IMAGES[part]) ** 0.5 for part in (slice(50), slice(50, 90)))
    )
    assert (score.interval[1] - score.interval[0]) / 2 == pytest.approx(2.26 * error, rel=0.6)
    assert (score.features, score.weights, score.note) == (None, None, None)
    assert evaluator.estimate_cost([GAP], 1000) == [("means of 1000 images", 1e-3)]
    result = evaluator.cached(samples, ChannelMeans)
    assert result is not None and len(result.samples) == 50
    assert evaluator.cached(EvaluatedSamples("others", samples.items), ChannelMeans) is None


def test_what_a_new_kind_does_not_support_is_refused_by_the_defaults(place: Path):
    np.savez(place / "adm.npz", mu=np.zeros(8), sigma=np.eye(8), mu_s=np.zeros(8), sigma_s=np.eye(8))
    by_statistics = Evaluator(reference_stats.read(place / "adm.npz"), EvaluationSettings(place / "cache"))
    with pytest.raises(UsageError, match="holds statistics, and `brightness-gap:first` compares single items"):
        by_statistics.check([GAP])
    evaluator = Evaluator(open_collection(place / "reference.npz"), EvaluationSettings(place / "cache"))
    with pytest.raises(UsageError, match="`brightness-gap:first` has no reference features to cache"):
        evaluator.cache_reference_stats([GAP])


def test_equal_keys_are_gathered_once(place: Path, monkeypatch: pytest.MonkeyPatch):
    gathered = []
    gather = ChannelMeanSpec.gather

    def counted(self: ChannelMeanSpec, samples: Any, reference: Any, context: GatherContext[Any]) -> ChannelMeans:
        read = SimpleNamespace(verify=lambda items: gathered.append(items), once=context.once)
        return gather(self, samples, reference, read)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(ChannelMeanSpec, "gather", counted)
    evaluator = Evaluator(open_collection(place / "reference.npz"), EvaluationSettings(place / "cache"))
    samples = EvaluatedSamples("samples", open_collection(place / "samples.npz"))
    first = evaluator.score(samples, GAP, [GAP])
    assert evaluator.score(samples, GAP, [GAP]) == first and len(gathered) == 2
    evaluator.score(EvaluatedSamples("again", samples.items), GAP)
    assert len(gathered) == 4
