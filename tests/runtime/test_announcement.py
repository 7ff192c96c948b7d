"""What is said of work without a progress line."""

from __future__ import annotations

import re

from inrflow_core.runtime.announcement import Announcement
from inrflow_core.runtime.progress import SILENT


def test_the_first_line_is_the_text_and_later_ones_say_more():
    work = Announcement("reading")
    assert work.line() == "reading"
    assert re.fullmatch(r"reading: [\d.]+ s so far", work.line())


def test_units_that_are_counted_give_the_time_left():
    work = Announcement("writing 64", "files")
    work.report(0, 64)
    assert work.line() == "writing 64"
    assert re.fullmatch(r"writing 64: 0 of 64 files, [\d.]+ s so far", work.line())
    work._started -= 10
    work.report(16, 64)
    assert work.line() == "writing 64: 16 of 64 files, 30 s left"


def test_without_a_console_nothing_is_said():
    with SILENT.announce("reading", "files") as report:
        report(1, 2)
