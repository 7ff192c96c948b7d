"""Show samples of runs on a local page, each as the function that it is."""

from __future__ import annotations

import importlib.util
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inrflow_cli import console
from inrflow_cli.options import Device, Json, Overwrite, Threads, complete_models, complete_runs, reject_options
from inrflow_core.errors import MissingError, UsageError

if TYPE_CHECKING:
    from inrflow_core.viewer.functions import Functions

PACKAGES = ("starlette", "uvicorn")
"""What the extra `view` installs."""

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RUN]...",
        help="Run folders or .safetensors files, side by side. Default: the latest run that the page shows.",
        show_default=False,
        autocompletion=complete_runs,
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A small trained model that comes with inrflow, beside the runs; may be repeated.",
        autocompletion=complete_models,
    ),
]
Image = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The input image at first: what models of images encode, and what clouds are sampled under. More by drag and drop.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen at; any but the default can be reached by other machines.")]
Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, help="Port. Default: 8420, or a free one if that is in use.", show_default=False),
]
Memory = Annotated[
    float, typer.Option(min=0.01, help="Gigabytes of recorded samples that are cached, and as many of loaded models.")
]
MaxSide = Annotated[int, typer.Option(min=256, max=16384, help="Largest side of a downloaded image, in pixels.")]
Token = Annotated[bool, typer.Option("--token/--no-token", help="Require the secret part of the printed address.")]
Export = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="Write what the page shows into one HTML file, and start no server."),
]
Fragment = Annotated[
    str, typer.Option(metavar="TEXT", help="What `--export` shows: the part of a page's address behind `#`.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]


def view(
    runs: Runs = None,
    models: Models = None,
    image: Image = None,
    host: Host = "127.0.0.1",
    port: Port = None,
    memory: Memory = 1.0,
    max_side: MaxSide = 4096,
    token: Token = True,
    open: Open = False,
    export: Export = None,
    fragment: Fragment = "",
    overwrite: Overwrite = False,
    device: Device = None,
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Show samples on a local page: zoom into images, turn clouds and meshes, play videos, change seed and sampler.

    The page fetches nothing from the network, and is served to this machine alone unless `--host` names another address. It
    stops with Ctrl-C.
    """
    _check_packages()
    from inrflow_core.runs import shipped
    from inrflow_core.runtime import distributed
    from inrflow_core.runtime.memory import retain_freed_pages
    from inrflow_core.viewer import guard, server, viewed_run
    from inrflow_core.viewer.functions import Functions
    from inrflow_core.viewer.worker import Worker

    _check_export(export, fragment, overwrite=overwrite)
    retain_freed_pages()
    sources = [*(runs or []), *(shipped.weights_file(name) for name in models or [])] or [viewed_run.latest()]
    with console.announce("opening the runs"):
        functions = Functions(
            viewed_run.open_runs(sources),
            device=distributed.process_device(device),
            memory=int(memory * 1e9),
            max_side=max_side,
        )
        if image is not None:
            functions.add_first_image(image)
    if export is not None:
        _export(functions, export, fragment, threads=threads)
        console.print_json({"out": str(export), "runs": [str(source) for source in sources]}, as_json=json)
        return
    secret = guard.new_token() if token else None
    with server.listen(host, port) as listener:
        url = guard.own_address(host, listener.getsockname()[1], secret)
        names = [*map(str, runs or []), *(models or [])] or [str(source) for source in sources]
        console.info(f"showing {', '.join(f'`{name}`' for name in names)} at {url} (Ctrl-C stops)")
        if host in guard.WILDCARDS:
            own = guard.own_address(socket.gethostname(), listener.getsockname()[1], secret)
            console.info(f"from other machines at {own}")
        console.print_json({"url": url, "runs": [str(source) for source in sources]}, as_json=json)
        if open:
            import webbrowser

            webbrowser.open(url)
        worker = Worker(threads)
        try:
            server.serve(server.Page(functions, worker).app(host=host, token=secret), worker, listener)
        except KeyboardInterrupt:
            console.info("stopped")


def _check_export(export: Path | None, fragment: str, *, overwrite: bool) -> None:
    """Raise UsageError for a file that cannot be written, or for options of `--export` without it."""
    from inrflow_core.storage import atomic_write

    if export is None:
        reject_options({"--fragment": fragment or None, "--overwrite": overwrite or None}, "needs `--export`")
    elif export.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"`--export {export}`: the file is a page", hint="give it the suffix .html")
    else:
        atomic_write.check_writable(export, overwrite=overwrite)


def _export(functions: Functions, out: Path, fragment: str, *, threads: int | None) -> None:
    """Write the frozen page."""
    import torch

    from inrflow_core.storage import atomic_write
    from inrflow_core.viewer import frozen

    if threads is not None:
        torch.set_num_threads(threads)
    with console.progress(None, "steps", title="evaluating what the page shows") as shown:
        last = 0

        def count(done: int, total: int) -> None:
            """Each part of the page counts its own steps from 1."""
            nonlocal last
            shown.advance(done - last if done >= last else done)
            last = done

        text = frozen.html(functions, fragment, count, console.warn)
    with atomic_write.atomic_write(out) as beside:
        beside.write_text(text, encoding="utf-8", newline="\n")
    console.info(f"wrote `{out}`")
    lost = frozen.forgotten(functions, fragment)
    if lost is not None:
        console.warn(
            f"the image `{lost}` of the fragment is not here any longer and is left out: name its file with `--image FILE`"
        )
    for name in dict.fromkeys(frozen.waiting(functions, fragment)):
        console.warn(f"`{name}` needs an image, and its panel is empty: name one with `--image FILE`")


def _check_packages() -> None:
    """Raise MissingError without the packages of the extra."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(
            f"the page needs the package `{missing[0]}`, which is not installed", hint="`pip install 'inrflow[view]'`"
        )
