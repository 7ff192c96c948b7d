"""Images of samples that training draws: a slow one is announced, and a signal leaves it out."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from inrflow_core.runs import run
from inrflow_core.runtime.progress import Progress
from inrflow_core.sampling import sample
from inrflow_core.training import setup
from tests.training import small


def test_images_of_samples_are_announced_with_their_steps(tmp_path: Path):
    said: list[str] = []

    @contextmanager
    def announce(text: str, unit: str = "") -> Iterator[Progress]:
        yield lambda done, total: said.append(f"{text}: {done} of {total} {unit}")

    job = small.job(small.images(tmp_path / "shards"), tmp_path / "run", steps=2, samples_every=2, samples=2)
    setup.train(replace(job, announce=announce))
    drawn = [line for line in said if line.startswith("drawing samples: ")]
    count, total = drawn[-1].removeprefix("drawing samples: ").removesuffix(" steps").split(" of ")
    assert count == total and len(drawn) > 1
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
    assert said[-1] == "the image of samples of step 2 is left out: `inrflow sample --run` draws samples"
    assert not list((tmp_path / "run/samples").glob("*"))
    assert run.open_run(tmp_path / "run").steps == (2,)
