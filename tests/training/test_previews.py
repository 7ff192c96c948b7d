"""Images of samples that training draws: a slow one is announced."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inrflow_core.runtime import progress
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
    monkeypatch.setattr(progress, "SLOW", slow)
    job = small.job(small.images(tmp_path / "shards"), tmp_path / "run", steps=2, samples_every=2, samples=2)
    setup.train(replace(job, say=said.append))
    assert ("drawing samples" in said) == is_said
    assert (tmp_path / "run/samples/00000002.png").is_file()
