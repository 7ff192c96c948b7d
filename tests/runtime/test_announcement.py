"""Work without progress is named once it is slow, and never silent after that."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from inrflow_core.runtime import announcement


def test_slow_work_is_announced_and_its_lines_go_on(monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    monkeypatch.setattr(announcement, "SLOW", 0.02)
    monkeypatch.setattr(announcement, "REPEAT", 0.02)
    with announcement.announced("reading", said.append) as report:
        wait_until(lambda: len(said) > 2)
        report(3, 1000)
        before = len(said)
        wait_until(lambda: len(said) > before + 1)
    number = len(said)
    assert said[0] == "reading"
    assert re.fullmatch(r"reading: [\d.]+ s so far", said[1])
    assert said[-1].startswith("reading: 3 of 1,000, ") and said[-1].endswith(" left")
    time.sleep(0.1)
    assert len(said) == number


def test_quick_work_is_not_announced():
    said: list[str] = []
    with announcement.announced("reading", said.append), announcement.announced("nothing", None) as report:
        report(1, 2)
    assert said == []


def wait_until(is_true: Callable[[], bool]) -> None:
    """Return once something is true; fails after ten seconds."""
    end = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)
