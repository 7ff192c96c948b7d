"""Expected records and found ones: to the bit on the machine that recorded them, to 1e-5 of their rms elsewhere."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

EXPECTED = Path(__file__).resolve().parent / "expected.json"
TOLERANCE = 1e-5


def machine() -> dict[str, Any]:
    """What decides the last bits: the processor, what torch makes of it, and the versions of the libraries."""
    import numpy
    import scipy
    import torch

    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(info))}
    return {
        "processor": " ".join(told.get(name, "") for name in ("model name", "cpu family", "model", "stepping")),
        "flags": told.get("flags", platform.machine()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {"torch": torch.__version__, "numpy": numpy.__version__, "scipy": scipy.__version__},
    }


def expected() -> dict[str, Any]:
    """The recorded machine and cases."""
    return json.loads(EXPECTED.read_text())


def differences(found: Any, wanted: Any, *, to_the_bit: bool) -> list[str]:
    """What differs between two records, each with its place; none where they are the same."""
    plain = json.loads(json.dumps(found))  # as it would come from the file
    return list(_differences(plain, wanted, to_the_bit, ""))


def _differences(found: Any, wanted: Any, to_the_bit: bool, place: str) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(found, dict):
        loose = not to_the_bit and ("rms" in wanted or "loose_rms" in wanted)
        levels = 1.0 if wanted.get("dtype") == "uint8" else 0.0
        for name in sorted(wanted.keys() | found.keys()):
            if name not in wanted or name not in found:
                yield f"{place}/{name}: {'not expected' if name in found else 'absent'}"
            elif loose and name in ("rms", "values"):
                one, other = _listed(found[name]), _listed(wanted[name])
                yield from _far(one, other, wanted["rms"], f"{place}/{name}", levels)
            elif not (loose and name == "sha256"):
                yield from _differences(found[name], wanted[name], to_the_bit, f"{place}/{name}")
    elif _are_numbers(wanted) and _are_numbers(found) and not to_the_bit:
        yield from _far(found, wanted, math.sqrt(sum(x * x for x in wanted) / max(len(wanted), 1)), place)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from _differences(one, other, to_the_bit, f"{place}[{number}]")
    elif isinstance(wanted, float) and isinstance(found, float) and not to_the_bit:
        yield from _far([found], [wanted], abs(wanted), place)
    elif found != wanted and not (found != found and wanted != wanted):
        yield f"{place}: {found!r} instead of {wanted!r}"


def _listed(values: Any) -> list[float]:
    return values if isinstance(values, list) else [values]


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and bool(values) and all(isinstance(value, float) for value in values)


def _far(found: list[float], wanted: list[float], rms: float, place: str, levels: float = 0.0) -> Iterator[str]:
    """Numbers that are further apart than rounding carries them, or than so many levels of a rounded value."""
    if len(found) != len(wanted):
        yield f"{place}: {len(found)} numbers instead of {len(wanted)}"
        return
    worst = max(abs(one - other) for one, other in zip(found, wanted, strict=True))
    if not worst <= TOLERANCE * rms + levels:
        yield f"{place}: off by {worst:.3g}, and the rms is {rms:.3g}"
