"""A process that draws keeps its memory instead of having it cleared anew."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import resource, sys, torch
from inrflow_core.runtime import memory
torch.set_num_threads(1)
if sys.argv[1] == "kept":
    assert memory.retain_freed_pages()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():
    return (torch.ones(10_000_000) + 1).sum()
for _ in range(20):  # until the heap has found its form
    work()
before = faults()
for _ in range(20):
    work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="no other C library has the setting")
def test_the_same_sizes_again_and_again_fault_no_pages_in():
    def faults(how: str) -> int:
        command = [sys.executable, "-c", CODE, how]
        return int(subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=True).stdout)

    assert faults("kept") < 0.1 * faults("plain")
