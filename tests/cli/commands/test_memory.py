"""Memory is bounded by the chunk: a million points, or 16.7 million pixels, within 2 GB above the model."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests import tiny

PEAK = (
    "import resource, sys; from inrflow_cli.app import run; code = run(sys.argv[1:]);"
    "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
)


def peak(folder, *arguments: str) -> int:
    """Bytes that one command held at most, in a process of its own."""
    command = [sys.executable, "-c", PEAK, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | {"INRFLOW_RUNS": "."})
    code, kilobytes = done.stdout.split()[-2:]
    assert code == "0", done.stderr
    return int(kilobytes) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["euler", "euler-maruyama", "midpoint"])
def test_a_million_points_take_less_than_two_gigabytes(tmp_path, sampler):
    tiny.run_folder(tmp_path / "clouds", tiny.POINTS, network={"width": 16, "depth": 2})
    how = ("--sampler", sampler, "--steps", "2", "--guidance", "1")
    few = peak(tmp_path, "sample", "few.ply", "--points", "24", *how)
    assert peak(tmp_path, "sample", "many.ply", "--points", "1000000", *how) - few < 2e9


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["euler", "euler-maruyama"])
def test_an_image_of_4096_rows_takes_less_than_two_gigabytes(tmp_path, sampler):
    shape = {"width": 16, "depth": 2, "decoder_width": 8, "rope": False}
    tiny.run_folder(tmp_path / "images", tiny.IMAGE, domain={"channels": 3}, network=shape)
    how = ("--sampler", sampler, "--steps", "2", "--guidance", "1")
    small = peak(tmp_path, "sample", "small.png", "--resolution", "6", *how)
    assert peak(tmp_path, "sample", "large.png", "--resolution", "4096", *how) - small < 2e9
