"""Plots as SVG, colored by the page's style sheet: metrics during training, histograms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from inrflow_core.report import number_format
from inrflow_core.report.content import Entry, Histogram, Progress, Score
from inrflow_core.report.score_table import Metric, column_title, metric_of

WIDTH, HEIGHT = 380, 230
LEFT, RIGHT, TOP, BOTTOM = 54, 20, 10, 40
NUM_COLORS = 6
"""Number of colors in the style sheet; the seventh series has the first color, dashed."""
BINS = (8, 40)
"""Smallest and largest number of bins of a histogram."""
STEEP = 30.0
"""Ratio of the ends of a range from which on its axis is logarithmic; for FLOPs it is 10."""

AXES: tuple[tuple[str, Callable[[Progress], float]], ...] = (
    ("steps", lambda progress: progress.step),
    ("samples seen", lambda progress: progress.samples_seen),
    ("training FLOPs", lambda progress: progress.flops),
)

Point = tuple[Progress, Score]
Lines = dict[str, list[Point]]
"""By run, in the order of training."""


@dataclass(frozen=True)
class Axis:
    """Maps numbers to positions between two ends."""

    low: float
    high: float
    start: float
    stop: float
    is_logarithmic: bool = False

    @staticmethod
    def over(values: Sequence[float], start: float, stop: float, *, steep: float = STEEP, margin: float = 0.05) -> Axis:
        """An axis that holds all values, with a margin; logarithmic if their ratio is at least `steep`."""
        low, high = min(values), max(values)
        if low > 0 and high / low >= steep:
            factor = (high / low) ** margin
            return Axis(low / factor, high * factor, start, stop, True)
        padding = (high - low) * margin or abs(high) * 0.1 or 1.0
        return Axis(low - padding, high + padding, start, stop)

    def __call__(self, value: float) -> float:
        """The position of a value."""
        low, high = self.low, self.high
        part = math.log(value / low) / math.log(high / low) if self.is_logarithmic else (value - low) / (high - low)
        return round(self.start + part * (self.stop - self.start), 1)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        return number_format.ticks(self.low, self.high, is_logarithmic=self.is_logarithmic)


def curves(entries: Sequence[Entry]) -> str:
    """Every metric during training: three plots each, of which the reader chooses one."""
    curves_by_metric = {metric: lines for metric, lines in _lines(entries).items() if sum(map(len, lines.values())) > 1}
    if not curves_by_metric:
        return ""
    runs = list(dict.fromkeys(run for lines in curves_by_metric.values() for run in lines))
    choices = "".join(
        f'<input type="radio" name="axis" id="axis-{number}"{" checked" if number == 0 else ""}>'
        f'<label for="axis-{number}">{escape(name)}</label>'
        for number, (name, _) in enumerate(AXES)
    )
    plots = "".join(_metric(metric, count, lines, runs) for (metric, count), lines in curves_by_metric.items())
    return (
        '<section id="curves"><h2>Over training</h2>\n<div class="choice"><span>Against</span>'
        f'{choices}<div class="plots">{plots}</div></div>\n{legend(runs) if len(runs) > 1 else ""}</section>'
    )


def histograms(items: Sequence[Histogram]) -> str:
    """Every histogram with its legend."""
    histograms = "".join(
        f'<figure class="plot"><figcaption>{escape(item.title)}</figcaption>'
        f"{histogram({name: np.asarray(values) for name, values in item.values.items()}, item.unit, item.title)}"
        f"{legend(legend_with_counts(item.values), mark='area')}</figure>"
        for item in items
    )
    return (
        f'<section id="histograms"><h2>Distributions</h2>\n<div class="plots">{histograms}</div></section>'
        if histograms
        else ""
    )


def histogram(values: dict[str, np.ndarray], unit: str, title: str, *, limit: float | None = None) -> str:
    """Shares of the values of each name, on common bins; `limit` is marked by a vertical line.

    The bins span all but the outermost thousandth at both ends, which is counted in the first and last bin.
    """
    values = {name: each[np.isfinite(each)] for name, each in values.items()}
    together = np.concatenate([each for each in values.values() if len(each)] or [np.zeros(1)])
    low, high = (float(end) for end in np.quantile(together, [0.001, 0.999]))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    fewest = min((len(each) for each in values.values() if len(each)), default=1)
    edges = np.linspace(low, high, min(max(BINS[0], round(2.5 * fewest ** (1 / 3))), BINS[1]) + 1)
    shares = {
        name: 100 * np.histogram(np.clip(each, low, high), edges)[0] / max(1, len(each))
        for name, each in values.items()
    }
    left = low if limit is None else min(low, limit)
    x = Axis(left - (high - left) * 0.02, high + (high - left) * 0.02, LEFT, WIDTH - RIGHT)
    y = Axis(0, 1.06 * max(1e-9, *(float(share.max()) for share in shares.values())), HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, unit, "% of items")]
    for number, share in enumerate(shares.values()):
        outline = "".join(
            f"H{x(edge)}V{y(height)}" for edge, height in zip(edges[:-1].tolist(), share.tolist(), strict=True)
        )
        parts.append(f'<path class="area {_series(number)}" d="M{x(low)} {y(0)}{outline}H{x(high)}V{y(0)}Z"/>')
    if limit is not None:
        parts.append(f'<path class="limit" d="M{x(limit)} {y.start}V{y.stop}"/>')
    middles = "; ".join(
        f"{name}: median {number_format.format_compact(float(np.median(each)))} of {len(each):,}"
        for name, each in values.items()
        if len(each)
    )
    return _svg(f"Histogram of {title}. {middles}.", parts)


def legend_with_counts(values: Mapping[str, np.ndarray]) -> list[str]:
    """The names with their number of values."""
    return [f"{name} ({len(each):,})" for name, each in values.items()]


def legend(names: Sequence[str], *, mark: str = "line") -> str:
    """A legend of the colors."""
    items = "".join(
        f'<li><svg viewBox="0 0 28 12" width="28" height="12" aria-hidden="true">{_swatch(number, mark)}</svg>{escape(name)}</li>'
        for number, name in enumerate(names)
    )
    return f'<ul class="legend">{items}</ul>'


def _swatch(number: int, mark: str) -> str:
    if mark == "area":
        return f'<path class="area {_series(number)}" d="M3 11V2H25V11Z"/>'
    return f'<path class="line {_series(number)}" d="M1 6H27"/>{_dot(number, 14, 6)}'


def _lines(entries: Sequence[Entry]) -> dict[tuple[Metric, int], Lines]:
    """The lines of each plot: scores of one metric, protocol and count, by run."""
    lines_by_metric: dict[tuple[Metric, int], Lines] = {}
    for entry in entries:
        for score in entry.scores:
            if entry.progress is not None and math.isfinite(score.value):
                lines = lines_by_metric.setdefault((metric_of(score), score.count), {})
                lines.setdefault(entry.progress.run, []).append((entry.progress, score))
    for lines in lines_by_metric.values():
        for points in lines.values():
            points.sort(key=lambda point: point[0].step)
    return lines_by_metric


def _metric(metric: Metric, count: int, lines: Lines, runs: Sequence[str]) -> str:
    marks = "".join(
        f'<div class="axis-{number}">{_curve(metric, lines, runs, number)}</div>' for number in range(len(AXES))
    )
    return (
        f'<figure class="plot"><figcaption>{column_title(metric)}<span class="count">n = {count:,}</span></figcaption>'
        f"{marks}</figure>"
    )


def _curve(metric: Metric, lines: Lines, runs: Sequence[str], axis: int) -> str:
    name, position = AXES[axis]
    points = [point for line in lines.values() for point in line]
    ends = [end for _, score in points for end in (score.value, *(score.interval or ())) if math.isfinite(end)]
    x = Axis.over([position(progress) for progress, _ in points], LEFT, WIDTH - RIGHT, steep=10 if axis == 2 else STEEP)
    y = Axis.over(ends, HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y, name, metric[2])]
    for run, line in lines.items():
        number = runs.index(run)
        at = [(x(position(progress)), y(score.value)) for progress, score in line]
        bars = "".join(
            f"M{across} {y(score.interval[0])}V{y(score.interval[1])}"
            for (across, _), (_, score) in zip(at, line, strict=True)
            if score.interval is not None and all(map(math.isfinite, score.interval))
        )
        parts.append(f'<path class="bar {_series(number)}" d="{bars}"/>' if bars else "")
        parts.append(f'<path class="line {_series(number)}" d="M{"L".join(f"{a} {b}" for a, b in at)}"/>')
        parts += [
            _dot(
                number,
                *spot,
                title=f"{run}, {number_format.format_compact(position(progress))} {name}: {_value(score)}",
            )
            for spot, (progress, score) in zip(at, line, strict=True)
        ]
    summary = "; ".join(
        f"{run} from {_value(line[0][1])} at {number_format.format_compact(position(line[0][0]))}"
        f" to {_value(line[-1][1])} at {number_format.format_compact(position(line[-1][0]))}"
        for run, line in lines.items()
    )
    return _svg(f"{metric[0]} ({metric[1]}) against {name}: {summary}.", parts)


def _value(score: Score) -> str:
    value, interval = number_format.with_interval(score.value, score.interval)
    return f"{value} ({interval})" if interval else value


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> str:
    """The grid, ticks and labels of both axes."""
    grid, words = "", ""
    for tick in y.ticks():
        grid += f"M{x.start} {y(tick)}H{x.stop}"
        words += (
            f'<text x="{x.start - 6}" y="{y(tick) + 4}" text-anchor="end">{number_format.format_compact(tick)}</text>'
        )
    for tick in x.ticks():
        grid += f"M{x(tick)} {y.start}v4"
        words += (
            f'<text x="{x(tick)}" y="{y.start + 17}" text-anchor="middle">{number_format.format_compact(tick)}</text>'
        )
    middle = (x.start + x.stop) / 2
    words += f'<text class="name" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>'
    if y_label:
        middle = (y.start + y.stop) / 2
        words += (
            f'<text class="name" x="11" y="{middle}" transform="rotate(-90 11 {middle})" text-anchor="middle">'
            f"{escape(y_label)}</text>"
        )
    return f'<path class="grid" d="{grid}"/><path class="axis" d="M{x.start} {y.start}H{x.stop}"/>{words}'


def _svg(label: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _series(number: int) -> str:
    return f"s{number % NUM_COLORS}" + (" again" if number >= NUM_COLORS else "")


def _dot(number: int, x: float, y: float, *, title: str = "") -> str:
    """A point; four series have different shapes."""
    shapes = (
        f'<circle cx="{x}" cy="{y}" r="3.2"{{}}',
        f'<rect x="{x - 2.9:.1f}" y="{y - 2.9:.1f}" width="5.8" height="5.8"{{}}',
        f'<path d="M{x} {y - 4.2:.1f}l4.2 4.2l-4.2 4.2l-4.2 -4.2z"{{}}',
        f'<path d="M{x} {y - 4:.1f}l3.8 6.8h-7.6z"{{}}',
    )
    shape = shapes[number % len(shapes)].format(f' class="dot {_series(number)}"')
    if not title:
        return f"{shape}/>"
    return f"{shape}><title>{escape(title)}</title></{shape[1 : shape.index(' ')]}>"
