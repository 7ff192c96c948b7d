"""The class numbers in ImageNet's meta.mat, read by SciPy in a process of its own.

SciPy's reader of MATLAB files ends the process on some damaged files, and takes memory by the sizes that a file states.
`python -m inrflow_core.datasets._matlab_synsets` reads the file from its standard input and prints a JSON list.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys

from inrflow_core.storage import typed_json

MAX_MEMORY = 4 << 30
"""Bytes of memory of the process that reads; the kit's own file takes a few megabytes."""
MAX_SECONDS = 60


def synset_names(meta: bytes) -> dict[int, str]:
    """The class folder's name of each number of the development kit.

    Raises:
        ValueError: the file is damaged, or has no table `synsets`; the message says which.
    """
    command = [sys.executable, "-m", __name__]
    try:
        done = subprocess.run(command, input=meta, capture_output=True, timeout=MAX_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it cannot be read in {MAX_SECONDS} seconds") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else f"its reader was ended by signal {-done.returncode}")
    rows = typed_json.typed(typed_json.parse_json(done.stdout, "the table"), list[tuple[int, str]], "the table")
    return dict(rows)


def main() -> None:
    """Print the numbers and names of the file on the standard input."""
    from scipy.io import loadmat

    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
    print(json.dumps([[int(row["ILSVRC2012_ID"]), str(row["WNID"])] for row in synsets]))


if __name__ == "__main__":
    main()
