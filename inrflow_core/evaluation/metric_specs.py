"""Metrics from names such as `fid:adm`, and the checks that are possible before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from inrflow_core import registry
from inrflow_core.domains._contract import domain_class
from inrflow_core.errors import UsageError, did_you_mean
from inrflow_core.feature_networks import _contract as network_contract
from inrflow_core.feature_networks import _weights_file
from inrflow_core.metrics import _contract
from inrflow_core.metrics._contract import Metric
from inrflow_core.metrics._inputs import OF_ENCODED, InputSpec, MetricInputs, ReferenceStats
from inrflow_core.metrics._shape_inputs import ItemSpec, ItemValues
from inrflow_core.sample_files.collection import SampleCollection

ALIASES = {"1-nna": "one-nna", "is": "inception-score"}
"""The papers' names of metrics."""
EARLIER_WORDS = {"grey": "gray", "colour": "color"}
"""Earlier words of protocols, which users' commands and presets may contain."""


@dataclass(frozen=True)
class MetricSpec:
    """A metric and one of its protocols."""

    name: str
    metric: Metric
    protocol: str

    @property
    def full(self) -> str:
        """The full name: `mmd:emd-exact:inrflow`."""
        return f"{self.name}:{self.protocol}"

    @property
    def inputs(self) -> InputSpec:
        """What it compares."""
        return self.metric.file.inputs(self.protocol)

    @property
    def needs_generation(self) -> bool:
        """Whether it is of what a model generates, samples or meshes, and not of items of the reference that it encodes."""
        return self.inputs.matched_by not in OF_ENCODED

    @property
    def needs_samples(self) -> bool:
        """Whether it compares drawn samples; meshes are drawn beside them, one by one."""
        return self.needs_generation and self.inputs.matched_by != "mesh"

    @property
    def unit(self) -> str:
        """The unit of its value."""
        return self.metric.file.unit(self.protocol)

    def compute(self, inputs: MetricInputs) -> float:
        """Its value; raises UsageError if it cannot be computed from these inputs."""
        return self.metric.file.compute(inputs, self.protocol)

    def item_values(self, inputs: MetricInputs) -> dict[str, float]:
        """Its value for each item by the item's name; empty where it has none of single items. Raises as `compute`."""
        if isinstance(inputs, ItemValues) and isinstance(self.inputs, ItemSpec):
            return inputs.per_item(self.inputs.measure)
        return self.metric.item_values(inputs, self.protocol)


def metrics_of_domain(domain: str) -> list[str]:
    """The metrics of a domain, those of the features of its views, and those of distances of its clouds."""
    return [name for name in registry.parts("metrics") if _applies(_contract.find(name), domain)]


def _applies(metric: Metric, domain: str) -> bool:
    if metric.domain == domain:
        return True
    spec = metric.file.inputs(metric.protocols[0])
    if metric.domain == domain_class(domain).CLOUD_DOMAIN:
        return not spec.features and not spec.matched_by
    return metric.domain == domain_class(domain).VIEW_DOMAIN and bool(spec.features) and not spec.matched_by


def parse_metrics(texts: Sequence[str], domain: str) -> list[MetricSpec]:
    """Metrics from texts such as `mmd` or `mmd:emd-exact:lion-global`: the first protocol that has all the words.

    A metric that says little alone (`precision`) brings its companion (`recall`).

    Raises:
        UsageError: unknown metric or protocol, or a metric of another domain.
    """
    specs: dict[str, MetricSpec] = {}
    for text in texts:
        name, *words = (EARLIER_WORDS.get(word, word) for word in text.lower().split(":"))
        name = registry.canonical("metrics", ALIASES.get(name, name))
        if name not in registry.names("metrics"):
            raise UsageError(f"no metric is called `{name}`", hint=did_you_mean(name, metrics_of_domain(domain)))
        metric = _contract.find(name)
        if not _applies(metric, domain):
            raise UsageError(
                f"`{name}` evaluates {domain_class(metric.domain).NOUN}, and these are {domain_class(domain).NOUN}",
                hint="choose from " + ", ".join(f"`{other}`" for other in metrics_of_domain(domain)),
            )
        protocol = next((p for p in metric.protocols if set(words) <= set(p.split(":"))), None)
        if protocol is None:
            raise UsageError(
                f"`{name}` has no protocol `{':'.join(words)}`", hint=did_you_mean(":".join(words), metric.protocols)
            )
        for part in (name, *([metric.companion] if metric.companion else [])):
            spec = MetricSpec(part, _contract.find(part), protocol)
            specs[spec.full] = spec
    return list(specs.values())


def parse_cacheable(texts: Sequence[str], domain: str) -> list[MetricSpec]:
    """Metrics whose features of a reference can be computed now and stored.

    Raises:
        UsageError: as `parse_metrics`, or a metric takes no features of a reference.
        MissingError: the weights of a network are absent.
    """
    metrics = parse_metrics(texts, domain)
    for metric in metrics:
        if not metric.inputs.is_cacheable:
            raise UsageError(
                f"`{metric.full}` has no reference features to cache", hint="name metrics of features, as in `fid`"
            )
        for spec in metric.inputs.features:
            if network_contract.find_extractor(spec.network).needs_weights:
                _weights_file.find(spec.network, {})
    return metrics


def without_weights(name: str) -> str | None:
    """The full name of a metric's first protocol whose networks need no weights; None if all need some."""
    part = _contract.find(name)
    for protocol in part.protocols:
        networks = [spec.network for spec in part.file.inputs(protocol).features]
        if not any(network_contract.find_extractor(network).needs_weights for network in networks):
            return f"{name}:{protocol}"
    return None


def check_compatible(
    what: str,
    domain: str,
    shape: tuple[int, ...],
    reference: SampleCollection | ReferenceStats,
    role: str = "the reference",
) -> None:
    """Raise UsageError unless samples of a domain and shape can be compared with a reference.

    `what` and `role` name both in messages.
    """
    sampled = domain_class(domain)
    if isinstance(reference, ReferenceStats):
        compared = domain_class(network_contract.find_extractor(reference.network).domain)
        name, verb, remedy = f"`{reference.source}`", "describes", ""
    else:
        compared = domain_class(reference.domain)
        name, verb = f"{role} {reference.display_name}", "holds"
        remedy = f": prepare the reference at that size, or sample with `{sampled.SIZE_OPTION}`"
    if domain != compared.NAME:
        raise UsageError(f"{what} are {sampled.NOUN}, and {name} {verb} {compared.NOUN}", hint=f"give {sampled.NOUN}")
    form, least = sampled.FILES, 3 if sampled.HAS_CAMERAS else 0  # scenes may have any number of views
    if form is not None and form.has_one_shape and reference.shape and reference.shape[-least:] != shape[-least:]:
        raise UsageError(
            f"{what} are {form.describe(shape)}, and {name} {verb} {sampled.NOUN} of {form.describe(reference.shape)}",
            hint=f"compare {sampled.NOUN} of one size and mode{remedy}",
        )


def check_counts(
    metrics: Sequence[MetricSpec], what: str, samples: int, reference: SampleCollection | ReferenceStats
) -> None:
    """Raise UsageError unless there are enough samples and reference items for every metric.

    Views of scenes are not counted, nor held-out images that are reconstructed: one is enough.
    """
    domain = None if isinstance(reference, ReferenceStats) else domain_class(reference.domain)
    for metric in metrics:
        if metric.inputs.matched_by == "reconstruction" or (domain and metric.metric.domain == domain.VIEW_DOMAIN):
            continue
        least = metric.metric.min_items
        if samples < least:
            raise UsageError(f"{what} are {samples:,}, and `{metric.full}` needs at least {least}", hint="give more")
        if not isinstance(reference, ReferenceStats) and metric.inputs.needs_reference and reference.count < least:
            raise UsageError(
                f"the reference {reference.display_name} holds {reference.count:,}, and `{metric.full}` needs at least "
                f"{least}",
                hint="give more",
            )


def check_points(
    metrics: Sequence[MetricSpec], what: str, shape: tuple[int, ...], reference: SampleCollection | ReferenceStats
) -> None:
    """Raise UsageError unless the samples' and the reference's clouds have as many points as the metrics need."""
    for metric in metrics:
        for spec in metric.inputs.features:
            needed = network_contract.find_extractor(spec.network).num_points
            if shape[0] < needed:
                raise UsageError(
                    f"{what} have {shape[0]:,} points each, and `{metric.full}` needs {needed:,}",
                    hint=f"sample with `--points {needed}`",
                )
            if spec.needs_reference and not isinstance(reference, ReferenceStats) and reference.shape[0] < needed:
                raise UsageError(
                    f"the clouds of the reference {reference.display_name} have {reference.shape[0]:,} points each, and "
                    f"`{metric.full}` needs {needed:,}",
                    hint="prepare it with as many",
                )


def check_frames(metrics: Sequence[MetricSpec], what: str, shape: tuple[int, ...]) -> None:
    """Raise UsageError unless clips have the number of frames that the metrics need; `check_compatible` compares the reference's."""
    for metric in metrics:
        for spec in metric.inputs.features:
            needed = network_contract.find_extractor(spec.network).num_frames
            if needed and shape[0] != needed:
                raise UsageError(
                    f"{what} have {shape[0]:,} frames each, and `{metric.full}` is of clips of {needed}",
                    hint=f"compare clips of {needed} frames: `prepare ... --set frames={needed}`, and `sample --frames {needed}`",
                )
