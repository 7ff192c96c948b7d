"""Numbers as text: values with intervals, ticks of axes, compact formats."""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def with_interval(value: float, interval: tuple[float, float] | None) -> tuple[str, str | None]:
    """A value and its interval, rounded to two digits of the interval's half width; without one, to four digits."""
    if not math.isfinite(value):
        return "\N{EM DASH}", None
    half = 0.0 if interval is None else (interval[1] - interval[0]) / 2
    if not math.isfinite(half) or half <= 0:
        digits = max(0, 3 - _exponent(value)) if value else 0
        return format_fixed(value, min(digits, 8)), None
    assert interval is not None
    digits = min(max(0, 1 - _exponent(half)), 8)
    low, high = (format_fixed(end, digits) for end in interval)
    return format_fixed(value, digits), f"{low} \N{EN DASH} {high}"


def format_fixed(value: float, digits: int) -> str:
    """`digits` decimals, with thousands separators and a true minus sign."""
    text = f"{value:,.{digits}f}"
    return text.replace("-", MINUS) if float(text.replace(",", "")) else text.lstrip("-")


def format_compact(value: float) -> str:
    """At most four digits: 0.25, 1,500, 20 k, 1.5 M, 3·10^15 with superscript digits."""
    size = abs(value)
    if value == 0:
        return "0"
    if 1e-3 <= size < 1e4:
        return f"{value:,.4g}".replace("-", MINUS)
    if 1e4 <= size < 1e15:
        unit, name = next(each for each in LARGE if size >= each[0])
        return f"{value / unit:.3g}\N{NO-BREAK SPACE}{name}".replace("-", MINUS)
    return scientific(value)


def scientific(value: float) -> str:
    """As 3·10^15, with superscript digits."""
    exponent = _exponent(value)
    mantissa = f"{value / 10.0**exponent:.3g}".replace("-", MINUS)
    if mantissa == "10":
        mantissa, exponent = "1", exponent + 1
    raised = str(exponent).translate(
        str.maketrans("-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")
    )
    return f"10{raised}" if mantissa == "1" else f"{mantissa}\N{MIDDLE DOT}10{raised}"


def ticks(low: float, high: float, *, is_logarithmic: bool, most: int = 5) -> list[float]:
    """Round numbers within [low, high]: of step 1, 2 or 5 times a power of ten, or such numbers on a logarithmic axis."""
    if is_logarithmic:
        return _logarithmic_ticks(low, high, most)
    exponent = _exponent((high - low) / most)
    for step in (factor * 10.0**power for power in (exponent, exponent + 1) for factor in (1, 2, 5)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            # Fractional steps are divided, so that 3 steps of 0.1 are 0.3.
            return [n / round(1 / step) if step < 1 else n * step for n in range(first, last + 1)]
    raise AssertionError("ten times the range holds one tick at most")


def _logarithmic_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = _within([factor * 10.0**power for power in powers for factor in factors], low, high)
        if len(ticks) <= most:
            return ticks
    return _within([10.0**power for power in powers], low, high)[:: math.ceil(len(powers) / most)]


def _within(values: Sequence[float], low: float, high: float) -> list[float]:
    return [value for value in values if low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))
