"""Write what the tests of this folder compare with: `python -m tests.golden.record`.

By default `expected.json`, of all cases or of those whose names begin with one of the words given. With `--stored`
first the files in `stored/`, which is only right where their formats were changed on purpose.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.golden import comparison, stored
from tests.golden.cases import CASES


def main() -> None:
    """Run the cases and write their records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="beginnings of names of cases; the others stay as they are")
    parser.add_argument("--stored", action="store_true", help="write the stored files anew")
    requested = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if requested.stored:
            stored.make(Path(folder))
        machine = comparison.machine()
        records = comparison.expected()["cases"] if requested.cases else {}
        if requested.cases and comparison.expected()["machine"] != machine:
            sys.exit("expected.json is of another machine: record all cases")
        for name, case in CASES.items():
            if requested.cases and not name.startswith(tuple(requested.cases)):
                continue
            path = Path(folder) / name
            path.mkdir(parents=True)
            begun = time.process_time()
            records[name] = case(path)
            sys.stderr.write(f"{time.process_time() - begun:6.2f} s  {name}\n")
    content = {"machine": machine, "cases": {name: records[name] for name in CASES if name in records}}
    comparison.EXPECTED.write_text(_laid_out(content))


def _laid_out(content: dict) -> str:
    """One line for each case's entries, so that a diff shows what moved."""
    cases = []
    for name, record in content["cases"].items():
        if isinstance(record, dict):
            rows = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
            cases.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
        else:
            cases.append(f"  {json.dumps(name)}: {json.dumps(record)}")
    return f'{{\n "machine": {json.dumps(content["machine"])},\n "cases": {{\n' + ",\n".join(cases) + "\n }\n}\n"


if __name__ == "__main__":
    main()
