"""List weights of feature networks and models, convert published files, and check what is there."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inrflow_cli import console, options
from inrflow_cli.help_groups import Command
from inrflow_cli.options import Json, Overwrite
from inrflow_core.errors import Exit, InrflowError, UsageError, did_you_mean

if TYPE_CHECKING:
    from inrflow_core.weights.inventory import Entry
    from inrflow_core.weights.verification import Verified

WIDE = 130
"""Columns of a terminal from which the table has the pages and licenses of the published files."""
SHORT = 12
"""Digits of a digest in a table."""

SETTINGS = {"help_option_names": ["-h", "--help"]}

weights = typer.Typer(
    name="weights",
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings=SETTINGS,
)
ListedName = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="Describe these weights, and print what to get and to run. Default: list all.",
        autocompletion=options.complete_weights,
        show_default=False,
    ),
]
Network = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The network, as `inrflow weights list` names it.",
        autocompletion=options.complete_weights,
        show_default=False,
    ),
]
Published = Annotated[Path, typer.Argument(metavar="FILE", help="The published file.", show_default=False)]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE.safetensors",
        help="The file to write. Default: `NAME.safetensors` in the folder INRFLOW_WEIGHTS, else in `weights`.",
        show_default=False,
    ),
]
Second = Annotated[
    Path | None, typer.Option("--second", metavar="FILE", help="The other published file, of `lpips`: `vgg.pth`.")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load a TorchScript file (.pt), which runs the code that it holds.")
]
AnyDigest = Annotated[
    bool,
    typer.Option(
        "--any-digest", help="Take a file whose digest is not a known one; every value computed with it says so."
    ),
]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME|FILE]",
        help="A name that `inrflow weights list` shows, a file, a network's folder or a run. Default: all that are there.",
        autocompletion=options.complete_weights,
        show_default=False,
    ),
]


@weights.callback(invoke_without_command=True)
def main(context: typer.Context, json: Json = False) -> None:
    """List, convert and check weights: of feature networks, which metrics and conditions use, and of the models that come with inrflow."""
    command = context.invoked_subcommand
    if command is None:
        list_weights(json=json)
    elif json:
        raise UsageError(f"`--json` is written before `{command}`", hint=f"`inrflow weights {command} --json`")


@weights.command("list", cls=Command, context_settings=SETTINGS)
def list_weights(name: ListedName = None, json: Json = False) -> None:
    """List weights with what uses them, whether they are there, digest, source page and license; or describe one."""
    from inrflow_core.feature_networks import _weights_file
    from inrflow_core.weights import inventory

    folder, entries = _weights_file.default_folder(), inventory.entries()
    answer: dict[str, Any] = {"folder": str(folder)}
    if name is None:
        _show(entries, folder)
        console.print_json(answer | {"weights": [_plain(entry) for entry in entries]}, as_json=json)
        return
    entry = inventory.find(name, entries)
    if entry is None:
        raise UsageError(
            f"there are no weights called `{name}`", hint=did_you_mean(name, [one.name for one in entries])
        )
    _describe(entry)
    console.print_json(answer | _plain(entry), as_json=json)


@weights.command("convert", cls=Command, context_settings=SETTINGS)
def convert(
    name: Network,
    file: Published,
    out: Out = None,
    second: Second = None,
    trust: Trust = False,
    any_digest: AnyDigest = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Convert a published file (TorchScript, a pickled checkpoint, a GraphDef) to the safetensors file that inrflow reads.

    The file is recognized by its digest. Pickles are read by torch's restricted unpickler, which runs nothing; a TorchScript file
    is a program, and is loaded with `--trust` alone.
    """
    from inrflow_core.feature_networks import _weights_file
    from inrflow_core.weights import conversion

    target = out or _weights_file.default_folder() / conversion.convertible(name).file
    digest = conversion.convert(
        name, file, target, second=second, trust=trust, any_digest=any_digest, overwrite=overwrite
    )
    checked = name if out is None else str(target)
    console.info(f"wrote `{target}`, sha256 {digest}; check it with `inrflow weights check {shlex.quote(checked)}`")
    console.print_json({"out": str(target), "network": name, "sha256": digest}, as_json=json)


@weights.command("check", cls=Command, context_settings=SETTINGS)
def check(target: Target = None, json: Json = False) -> int:
    """Check digest, names and shapes of the tensors, and what the network returns of a small input.

    Without a name: all weights that are there; the exit code is that of the first that fails.
    """
    from inrflow_core.weights import inventory, verification

    if target is not None:
        with console.announce(f"checking `{target}`"):
            done = verification.check(target)
        _report(done)
        console.print_json(_plain(done), as_json=json)
        return Exit.DONE
    checked: list[Any] = []
    failed: list[dict[str, Any]] = []
    for entry in inventory.present(inventory.entries()):
        try:
            with console.announce(f"checking `{entry.name}`"):
                done = verification.check_entry(entry)
        except InrflowError as error:
            console.error(error)
            failed.append({"name": entry.name, "error": error.message, "hint": error.hint, "code": int(error.code)})
            continue
        _report(done)
        checked.append(_plain(done))
    console.info(
        f"{len(checked)} of {len(checked) + len(failed)} are whole; `inrflow weights list` shows what is absent"
    )
    code = failed[0]["code"] if failed else int(Exit.DONE)
    console.print_json({"checked": checked, "failed": failed, "code": code}, as_json=json)
    return code


def _plain(value: Entry | Verified) -> dict[str, Any]:
    """The JSON form of an entry or of a check."""
    plain = asdict(value) | {"path": str(value.path)}
    if "sources" in plain:
        plain["sources"] = [source._asdict() for source in plain["sources"]]
    return plain


def _show(entries: Sequence[Entry], folder: Path) -> None:
    """The table of all weights, in a narrow terminal without pages and licenses; elsewhere, where it is too wide, two lines for each."""
    columns = {
        "weights": lambda entry: entry.name,
        "used for": lambda entry: entry.use,
        "looked for": lambda entry: entry.path.name if entry.kind == "model" else str(entry.path),
        "state": _state,
        "sha256": lambda entry: (entry.sha256 or "-")[:SHORT],
        "page": lambda entry: entry.sources[0].page,
        "license": lambda entry: entry.sources[0].license,
    }
    is_narrow = console.results().width < WIDE
    if is_narrow:
        del columns["page"], columns["license"], columns["looked for"]
    rows = [tuple(cell(entry) for cell in columns.values()) for entry in entries]
    if is_narrow or console.results().is_terminal or console.fits(tuple(columns), rows):
        console.table(tuple(columns), rows)
    else:
        for name, use, looked_for, state, digest, page, license in rows:
            known = "" if digest == "-" else f", sha256 {digest}"
            console.result(f"{name}: {use}; {looked_for}, {state}{known}\n  {page}, {license}")
    console.info(
        f"feature networks are looked for in `{folder}`; `inrflow weights list NAME` says where to get one, with digest, page and "
        "license"
    )


def _state(entry: Entry) -> str:
    return "absent" if not entry.is_there else "cannot be read" if entry.problem else "there"


def _describe(entry: Entry) -> None:
    """One entry: where it is, every published file, and the commands that make and check it."""
    rows = [("used for", entry.use), ("looked for", str(entry.path)), ("state", _state(entry))]
    facts = {"problem": entry.problem, "converted from": entry.published, "sha256": entry.sha256}
    rows += [(name, fact) for name, fact in facts.items() if fact]
    console.table((entry.name, ""), rows)
    for source in entry.sources:
        size = "unknown" if source.bytes is None else f"{source.bytes:,}"
        facts = {"bytes": size, "sha256": source.sha256 or "unknown", "page": source.page, "license": source.license}
        known = [(name, fact) for name, fact in facts.items() if not entry.is_there or fact != "unknown"]
        console.table((source.file, ""), known)
    for line in _next_commands(entry):
        console.result(line)


def _next_commands(entry: Entry) -> list[str]:
    """What to do: check weights that are there; where to get others and, of each published file, the command that converts it."""
    from inrflow_core import registry
    from inrflow_core.feature_networks import _hf_folder

    if entry.is_there:
        return [f"inrflow weights check {entry.name}"]
    part: Any = registry.find("feature_networks", entry.name)
    if entry.kind == "folder":
        return [_hf_folder.download_hint(part.EXPECTED)]
    return [part.WEIGHTS.command(published.file, entry.path) for published in part.WEIGHTS.published]


def _report(done: Verified) -> None:
    """One line for weights that passed."""
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in done.outputs.items())
    console.result(f"{done.name}: whole, sha256 {done.sha256}" + (f"; {shapes}" if shapes else ""))
    if done.note:
        console.warn(done.note)
