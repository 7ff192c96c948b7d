"""Report what this machine has, and test the whole program in seconds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrflow_cli import console, options
from inrflow_cli.options import Json
from inrflow_core.errors import Exit, InrflowError
from inrflow_core.runtime import diagnosis
from inrflow_core.runtime.progress import first_line, format_bytes

if TYPE_CHECKING:
    from inrflow_core.runtime.diagnosis import Hardware

NoTest = Annotated[bool, typer.Option("--no-test", help="Leave out the test that trains and samples a tiny model.")]
BROKEN = (InrflowError, ImportError, OSError, RuntimeError)
"""Errors of the test; those of a broken installation come from any library."""
REINSTALL = "install inrflow again: `make setup` in the checkout, or `pip install .`"


def doctor(device: options.Device = None, no_test: NoTest = False, json: Json = False) -> None:
    """Report versions, hardware, extras and weights, and test the program: prepare, train and sample a tiny model.

    The test takes some seconds, in a temporary folder that is removed. The exit code is 0 if all is well, 3 if a required package
    is missing, else that of the part of the test that failed.
    """
    from inrflow_cli.app import known_error

    versions, extras = diagnosis.versions(), diagnosis.extras()
    missing = [name for name, version in versions.items() if version is None]
    console.table(("package", "version"), [(name, version or "missing") for name, version in versions.items()])
    console.table(
        ("extra", "state"),
        [(one.name, f"`{one.install}` adds {', '.join(one.missing)}" if one.missing else "there") for one in extras],
    )
    answer: dict[str, Any] = {
        "versions": versions,
        "extras": {one.name: {"missing": one.missing, "install": one.install} for one in extras},
    }
    error, code = None, Exit.DONE
    if missing:
        error, code = f"required packages are missing: {', '.join(missing)}", Exit.MISSING
    try:
        answer |= _look()
        if not no_test:
            answer["test"] = _test(device)
    except BROKEN as problem:
        known = known_error(problem)
        if known is not None:
            error, code, answer["hint"] = known.message, known.code, known.hint
        else:
            error, code = f"{type(problem).__name__}: {first_line(problem)}", Exit.MISSING if missing else Exit.BUG
    answer |= {"error": error, "code": int(code)} if error else {"code": 0}
    if error is None:
        console.result("all is well" if not no_test else "no test was run")
    else:
        console.error(InrflowError(error, hint=answer.setdefault("hint", REINSTALL)))
    console.print_json(answer, as_json=json)
    if code != Exit.DONE:
        raise typer.Exit(int(code))


def _look() -> dict[str, Any]:
    """The machine and the weights of feature networks, as tables and as one object."""
    from inrflow_core.feature_networks import _weights_file
    from inrflow_core.runs import run
    from inrflow_core.weights import inventory

    hardware = diagnosis.hardware(run.runs_dir())
    console.table(("machine", ""), _rows(hardware))
    folder = _weights_file.default_folder()
    found = {name: path.exists() for name, path in inventory.network_paths().items()}
    present = [name for name, is_there in found.items() if is_there]
    console.result(
        f"weights of feature networks in `{folder}`: {', '.join(present) or 'none'}; absent: "
        f"{', '.join(name for name in found if name not in present) or 'none'} (`inrflow weights list`)"
    )
    return {"hardware": asdict(hardware), "weights": {"folder": str(folder), **found}}


def _rows(hardware: Hardware) -> list[tuple[str, str]]:
    """The machine as rows of a table."""
    bf16 = "bf16" if hardware.has_bf16 else "no bf16"
    memory = "unknown" if hardware.memory is None else format_bytes(hardware.memory)
    rows = [
        ("processor", f"{hardware.cores} cores, {hardware.threads} threads of torch, {bf16}"),
        ("free memory", memory),
        ("free disk for runs", format_bytes(hardware.disk)),
        ("CUDA of torch", hardware.cuda or "none (a CPU build)"),
    ]
    for number, gpu in enumerate(hardware.gpus):
        bf16 = "bf16" if gpu.has_bf16 else "no bf16"
        rows.append(
            (f"GPU {number}", f"{gpu.name}, {format_bytes(gpu.free)} of {format_bytes(gpu.memory)} free, {bf16}")
        )
    return rows if hardware.gpus else [*rows, ("GPU", "none")]


def _test(device: str | None) -> dict[str, Any]:
    """Run the test and print what it did."""
    from inrflow_core.training import smoke_test

    with console.announce("training and sampling a tiny model"):
        done = smoke_test.run(device)
    console.result(
        f"prepared, trained {done.steps} steps in {done.precision} and sampled {done.samples} images on {done.device} in "
        f"{done.seconds:.1f} s"
    )
    return asdict(done)
