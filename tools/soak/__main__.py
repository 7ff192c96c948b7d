"""What happens when something dies, is damaged or runs out of room: `make soak` tries it, and prints a table.

Everything is done by the real commands in processes of their own, on tiny models. Which runs are killed, which bytes are
flipped and how much room is left follow from `--seed`; at which step a kill comes follows from the machine too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tools.soak import commands, damage, disk, fuzz, kills

PARTS = ("kills", "damage", "disk", "fuzz")
INSIDE = "INRFLOW_SOAK_MOUNTS"
"""Set where this process may mount without anyone else seeing it, and where nothing stays mounted after it."""


def main() -> int:
    """1 where anything was lost, changed or used although it is damaged; else 0."""
    options = arguments()
    if "disk" in options.parts and not os.environ.get(INSIDE):
        by_itself()
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="inrflow-soak-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    tell("preparing data")
    commands.prepare_all(folder)
    rows: list[tuple[str, str]] = []
    results: dict[str, list[dict[str, Any]]] = {}
    is_well = True
    for part in options.parts:
        start = time.monotonic()
        outcomes, (summary, is_part_well) = run(part, folder, options)
        rows += [*summary, (f"time for {part}", f"{(time.monotonic() - start) / 60:.1f} min")]
        results[part] = [dataclasses.asdict(outcome) for outcome in outcomes]
        is_well &= is_part_well
    tell(f"{'all is well' if is_well else 'SOMETHING FAILED'} after {(time.monotonic() - begun) / 60:.1f} min")
    if options.json:
        print(json.dumps({"is_well": is_well, "rows": rows, **results}, indent=1))
    else:
        print("\n".join(["| what | result |", "| --- | --- |", *(f"| {what} | {result} |" for what, result in rows)]))
    if options.folder is None and is_well:
        shutil.rmtree(folder)
    return 0 if is_well else 1


def arguments() -> argparse.Namespace:
    """What to try, and how much of it."""
    parser = argparse.ArgumentParser(prog="soak", description=__doc__.split("\n\n")[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0, help="which runs, bytes and sizes (default 0)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="runs to kill and resume (default 20)")
    parser.add_argument("--shards", type=int, default=100, metavar="N", help="shards to damage (default 100)")
    parser.add_argument(
        "--files", type=int, default=damage.EACH, metavar="N", help="other files to damage, of each kind"
    )
    parser.add_argument(
        "--cases", type=int, default=fuzz.CASES, metavar="N", help="damaged and hostile files for the commands"
    )
    parser.add_argument("--fillings", type=int, default=None, metavar="N", help="commands on a full disk (default all)")
    parser.add_argument("--parts", type=parts, default=PARTS, help="some of kills,damage,disk,fuzz (default all)")
    parser.add_argument("--folder", type=Path, help="work here and leave it; else in a temporary folder")
    parser.add_argument("--json", action="store_true", help="everything as JSON instead of the table")
    return parser.parse_args()


def parts(text: str) -> tuple[str, ...]:
    """The parts that a text names.

    Raises:
        ArgumentTypeError: one is unknown.
    """
    named = tuple(text.split(","))
    if not set(named) <= set(PARTS):
        raise argparse.ArgumentTypeError(f"`{text}`: the parts are {', '.join(PARTS)}")
    return named


def run(part: str, folder: Path, options: argparse.Namespace) -> tuple[list[Any], tuple[list[tuple[str, str]], bool]]:
    """One part: its outcomes, its rows of the table, and whether all is well."""
    rng = random.Random(f"{options.seed} {part}")
    work: dict[str, tuple[Callable[[], Iterator[Any]], Any]] = {
        "kills": (lambda: kills.soak(folder, options.kills, rng), kills.summarize),
        "damage": (lambda: damage.soak(folder, options.shards, rng, options.files), damage.summarize),
        "disk": (lambda: disk.soak(folder, rng, options.fillings), disk.summarize),
        "fuzz": (lambda: fuzz.soak(folder, options.seed, options.cases), fuzz.summarize),
    }
    begin, summarize = work[part]
    outcomes = []
    for number, outcome in enumerate(begin(), start=1):
        outcomes.append(outcome)
        if not summarize([outcome])[1] or part in ("kills", "disk") or number % 50 == 0:
            tell(f"{part} {number}: {outcome}")
    return outcomes, summarize(outcomes)


def by_itself() -> None:
    """Go on in a name space of mounts of our own, where the system allows it: as root, or as root of our own users."""
    for options in (["--mount"], ["--map-root-user", "--mount"]):
        tried = shutil.which("unshare")
        words = [str(tried), *options]
        if tried and os.spawnvp(os.P_WAIT, words[0], [*words, "true"]) == 0:
            os.environ[INSIDE] = "yes"
            os.execvp(words[0], [*words, sys.executable, "-m", "tools.soak", *sys.argv[1:]])


def tell(text: str) -> None:
    """A line for who waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
