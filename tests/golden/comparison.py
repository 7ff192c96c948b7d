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
    reported = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(info))}
    return {
        "processor": " ".join(reported.get(name, "") for name in ("model name", "cpu family", "model", "stepping")),
        "flags": reported.get("flags", platform.machine()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "versions": {"torch": torch.__version__, "numpy": numpy.__version__, "scipy": scipy.__version__},
    }


def expected() -> dict[str, Any]:
    """The recorded machine and cases."""
    return json.loads(EXPECTED.read_text())


def differences(record: Any, expected_record: Any, *, to_the_bit: bool) -> list[str]:
    """What differs between two records, each with its place; none where they are the same."""
    plain = json.loads(json.dumps(record))  # as it would come from the file
    return list(_differences(plain, expected_record, to_the_bit, ""))


def _differences(record: Any, expected_record: Any, to_the_bit: bool, address: str) -> Iterator[str]:
    if isinstance(expected_record, dict) and isinstance(record, dict):
        loose = not to_the_bit and ("rms" in expected_record or "loose_rms" in expected_record)
        levels = 1.0 if expected_record.get("dtype") == "uint8" else 0.0
        for name in sorted(expected_record.keys() | record.keys()):
            if name not in expected_record or name not in record:
                yield f"{address}/{name}: {'not expected' if name in record else 'absent'}"
            elif loose and name in ("rms", "values"):
                one, other = _listed(record[name]), _listed(expected_record[name])
                yield from _far(one, other, expected_record["rms"], f"{address}/{name}", levels)
            elif not (loose and name == "sha256"):
                yield from _differences(record[name], expected_record[name], to_the_bit, f"{address}/{name}")
    elif _are_numbers(expected_record) and _are_numbers(record) and not to_the_bit:
        yield from _far(
            record,
            expected_record,
            math.sqrt(sum(x * x for x in expected_record) / max(len(expected_record), 1)),
            address,
        )
    elif isinstance(expected_record, list) and isinstance(record, list) and len(expected_record) == len(record):
        for number, (one, other) in enumerate(zip(record, expected_record, strict=True)):
            yield from _differences(one, other, to_the_bit, f"{address}[{number}]")
    elif isinstance(expected_record, float) and isinstance(record, float) and not to_the_bit:
        yield from _far([record], [expected_record], abs(expected_record), address)
    elif record != expected_record and not (record != record and expected_record != expected_record):
        yield f"{address}: {record!r} instead of {expected_record!r}"


def _listed(values: Any) -> list[float]:
    return values if isinstance(values, list) else [values]


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and bool(values) and all(isinstance(value, float) for value in values)


def _far(
    record: list[float], expected_record: list[float], rms: float, address: str, levels: float = 0.0
) -> Iterator[str]:
    """Numbers that are further apart than rounding carries them, or than that many levels of a rounded value."""
    if len(record) != len(expected_record):
        yield f"{address}: {len(record)} numbers instead of {len(expected_record)}"
        return
    worst = max(abs(one - other) for one, other in zip(record, expected_record, strict=True))
    if not worst <= TOLERANCE * rms + levels:
        yield f"{address}: off by {worst:.3g}, and the rms is {rms:.3g}"
