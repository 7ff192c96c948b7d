"""Which metrics: names and protocols from texts, and what can be known of them before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from inrflow_core import registry
from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.evaluation.reference_stats import ReferenceStats
from inrflow_core.metrics._inputs import InputSpec, features_of
from inrflow_core.sample_files.collection import SampleCollection

ALIASES = {"1-nna": "one-nna", "is": "inception-score"}
"""Metrics as the papers write them."""
LEAST = 2
"""Samples, and items of a reference, that every metric wants."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric, and the protocol to take it by."""

    name: str
    module: ModuleType
    protocol: str

    @property
    def full(self) -> str:
        """The name that says all: `mmd:emd-exact:inrflow`."""
        return f"{self.name}:{self.protocol}"

    @property
    def needs_reference(self) -> bool:
        """Whether it looks at the reference at all."""
        return getattr(self.module, "NEEDS_REFERENCE", True)

    @property
    def need(self) -> InputSpec:
        """What it judges by."""
        return self.module.inputs(self.protocol)


def metrics_of_domain(domain: str) -> list[str]:
    """The metrics of a domain."""
    return [name for name in registry.names("metrics") if domain == registry.find("metrics", name).DOMAIN]


def parse_metrics(texts: Sequence[str], domain: str) -> list[MetricSpec]:
    """Metrics from texts as `mmd` or `mmd:emd-exact:lion-global`: the first protocol that has all the words.

    Raises:
        UsageError: no such metric or protocol, or not of this domain.
    """
    found: dict[str, MetricSpec] = {}
    for text in texts:
        name, *words = text.lower().split(":")
        name = registry.canonical("metrics", ALIASES.get(name, name))
        if name not in registry.names("metrics"):
            raise UsageError(f"no metric is called `{name}`", hint=did_you_mean(name, metrics_of_domain(domain)))
        module = registry.find("metrics", name)
        if domain != module.DOMAIN:
            raise UsageError(
                f"`{name}` judges {domain_class(module.DOMAIN).NOUN}, and these are {domain_class(domain).NOUN}",
                hint="choose of " + ", ".join(f"`{other}`" for other in metrics_of_domain(domain)),
            )
        protocol = next((p for p in module.PROTOCOLS if set(words) <= set(p.split(":"))), None)
        if protocol is None:
            raise UsageError(
                f"`{name}` has no protocol `{':'.join(words)}`", hint=did_you_mean(":".join(words), module.PROTOCOLS)
            )
        chosen = MetricSpec(name, module, protocol)
        found[chosen.full] = chosen
    return list(found.values())


def check_compatible(
    what: str,
    domain: str,
    shape: tuple[int, ...],
    reference: SampleCollection | ReferenceStats,
    role: str = "the reference",
) -> None:
    """Nothing, where samples (`what` they are, for messages) of a domain and shape can be compared with a reference.

    Raises:
        UsageError: they are of different domains, sizes or modes.
    """
    if isinstance(reference, ReferenceStats):
        if domain != "image":
            raise UsageError(
                f"`{reference.source}` describes pictures, and {what} are {domain_class(domain).NOUN}",
                hint=f"give {domain_class(domain).NOUN}",
            )
        if reference.shape not in (None, shape):
            raise UsageError(
                f"{what} are {_pixels(shape)}, and `{reference.source}` describes pictures of {_pixels(reference.shape)}",
                hint="compare pictures of one size and mode",
            )
        return
    if domain != reference.domain:
        raise UsageError(
            f"{what} are {domain_class(domain).NOUN}, and {role} {reference.display_name} holds {domain_class(reference.domain).NOUN}",
            hint="give one of the samples' kind",
        )
    if domain == "image" and shape != reference.shape:
        raise UsageError(
            f"{what} are {_pixels(shape)}, and {role} {reference.display_name} holds {_pixels(reference.shape)}",
            hint="compare pictures of one size and mode: prepare the reference at that resolution, or draw with `--resolution`",
        )


def check_counts(
    metrics: Sequence[MetricSpec], what: str, samples: int, reference: SampleCollection | ReferenceStats
) -> None:
    """Nothing, where every metric can be taken of so many samples and of the reference.

    Raises:
        UsageError: there are too few of either.
    """
    for metric in metrics:
        least = getattr(metric.module, "MIN_ITEMS", LEAST)
        if samples < least:
            raise UsageError(f"{what} are {samples:,}, and `{metric.full}` takes {least} at least", hint="give more")
        if isinstance(reference, SampleCollection) and metric.needs_reference and reference.count < least:
            raise UsageError(
                f"the reference {reference.display_name} holds {reference.count:,}, and `{metric.full}` takes {least} at least",
                hint="give more",
            )


def check_points(
    metrics: Sequence[MetricSpec], what: str, shape: tuple[int, ...], reference: SampleCollection | ReferenceStats
) -> None:
    """Nothing, where clouds of a shape (`what` they are) and those of the reference have as many points as metrics look at.

    Raises:
        UsageError: they have fewer; says what to draw.
    """
    for metric in metrics:
        for need in features_of(metric.need):
            wanted: int = getattr(registry.find("feature_networks", need.network), "POINTS", 0)
            if shape[0] < wanted:
                raise UsageError(
                    f"{what} have {shape[0]:,} points each, and `{metric.full}` looks at {wanted:,}",
                    hint=f"draw with `--points {wanted}`",
                )
            if isinstance(reference, SampleCollection) and reference.shape[0] < wanted:
                raise UsageError(
                    f"the clouds of the reference {reference.display_name} have {reference.shape[0]:,} points each, and "
                    f"`{metric.full}` looks at {wanted:,}",
                    hint="prepare it with as many",
                )


def _pixels(shape: tuple[int, ...]) -> str:
    mode = {1: "grey", 3: "RGB", 4: "RGBA"}[shape[2]]
    return f"{shape[0]} x {shape[1]} pixels, {mode}"
