"""Images of samples that training draws: a slow one is announced, and a signal leaves it out."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inrflow_core.runs import run
from inrflow_core.runtime import announcement
from inrflow_core.sampling import sample
from inrflow_core.training import setup
from tests.training import small


@pytest.mark.parametrize(("slow", "is_said"), [(60.0, False), (0.05, True)])
def test_a_slow_preview_is_announced(slow: float, is_said: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    preview = sample.preview

    def preview_later(*arguments: Any, **options: Any) -> Any:
        time.sleep(0.3)
        return preview(*arguments, **options)

    monkeypatch.setattr(sample, "preview", preview_later)
    monkeypatch.setattr(announcement, "SLOW", slow)
    job = small.job(small.images(tmp_path / "shards"), tmp_path / "run", steps=2, samples_every=2, samples=2)
    setup.train(replace(job, say=said.append))
    assert ("drawing samples" in said) == is_said
    assert (tmp_path / "run/samples/00000002.png").is_file()


def test_a_signal_while_samples_are_drawn_leaves_their_image_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    said: list[str] = []
    preview = sample.preview

    def interrupted_preview(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return preview(*arguments)

    monkeypatch.setattr(sample, "preview", interrupted_preview)
    job = small.job(small.images(tmp_path / "shards"), tmp_path / "run", steps=2, samples_every=2, samples=2)
    setup.train(replace(job, say=said.append))
    assert said[-1] == "the image of samples of step 2 is left out"
    assert not list((tmp_path / "run/samples").glob("*"))
    assert run.open_run(tmp_path / "run").steps == (2,)
