"""The page's server: its files, and the addresses at which it gets tiles, points and files of functions.

Everything that samples is a job of one worker; a request whose client has left cancels its job. What is recorded is evaluated between
the steps of other jobs, and what needs no model beside them.
"""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from inrflow_core import __version__
from inrflow_core.errors import Exit, InrflowError, UsageError
from inrflow_core.fields import Camera
from inrflow_core.proteins import structure_writer, superposition
from inrflow_core.runtime.progress import Progress
from inrflow_core.sampling import upsample
from inrflow_core.sampling.request import SizeOptions
from inrflow_core.viewer import dropped_images, frozen
from inrflow_core.viewer import selection as parameters
from inrflow_core.viewer.dropped_images import png_bytes
from inrflow_core.viewer.functions import MOST_LEVELS, MOST_POINTS, Functions, tile_window
from inrflow_core.viewer.guard import Guard
from inrflow_core.viewer.job import CancelledJob
from inrflow_core.viewer.selection import Selection
from inrflow_core.viewer.worker import BusyError, Worker

PAGE = Path(__file__).parent / "page"
"""The page's files."""
USUAL_PORT = 8420
TILE = 256
"""Pixels along the side of a tile."""
STATUS = {Exit.USAGE: 400, Exit.MISSING: 404, Exit.MEMORY: 507, Exit.DIVERGED: 422}
"""HTTP status by exit code; others are 500."""
ROUTES = ("info", "progress", "record", "tile", "points", "mesh", "scene", "clip", "structures", "file", "frozen")
IMMEDIATE = ("info", "progress")
"""Those that are answered without a job."""
CAMERA = ("azimuth", "elevation", "distance")
SIZES = ("resolution", "points", "frames", "views", "fps", "level", *CAMERA)
BYTES = "application/octet-stream"
LEFT = 499
"""Status of a request whose client has left."""
POLL_SECONDS = 0.05
"""How often a waiting request looks whether its client is still there."""


@dataclass(frozen=True)
class Answer:
    """How a request is answered: by `work`, which gets a callback that it calls with its progress."""

    work: Callable[[Progress], Response]
    functions: tuple[Selection, ...] | None = None
    """What it only evaluates: once all are recorded, it waits for no other recording. None of work that is long in any case."""
    needs_model: bool = True
    """Work without never waits for work with a model."""


class Page:
    """The routes of a page over the functions of some runs."""

    def __init__(self, functions: Functions, worker: Worker) -> None:
        self.functions, self.worker = functions, worker

    def app(self, *, host: str = "127.0.0.1", token: str | None = None) -> Guard:
        """The whole application, behind the checks of `Guard`; it closes the worker when it ends."""
        routes = [
            Route("/", self.index),
            *(Route(f"/api/{name}", self._endpoint(name)) for name in ROUTES),
            Route("/api/image", self.drop, methods=["POST"]),
            Mount("/page", StaticFiles(directory=PAGE)),
        ]

        @asynccontextmanager
        async def lifespan(_: Starlette) -> AsyncIterator[None]:
            yield
            await asyncio.to_thread(self.worker.close)

        return Guard(Starlette(routes=routes, lifespan=lifespan), host=host, token=token)

    async def index(self, request: Request) -> Response:
        """The page."""
        return Response((PAGE / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    def info(self, request: Request) -> Answer:
        """The runs and the limits, as JSON."""
        _parse(request, {})
        functions = self.functions
        body = {
            "version": __version__,
            "runs": [run.describe() for run in functions.runs],
            "tile": TILE,
            "levels": MOST_LEVELS,
            "most_points": MOST_POINTS,
            "max_side": functions.max_side,
            "most_steps": parameters.MOST_STEPS,
            "image": functions.first_image,
            "most_bytes": dropped_images.MOST_BYTES,
        }
        return Answer(lambda progress: JSONResponse(body))

    def progress(self, request: Request) -> Answer:
        """Whether a function is recorded, and the steps that are done of its recording; null before it begins."""
        selection, _ = _parse(request, {})
        is_recorded = self.functions.is_recorded(selection)
        done, total = self.functions.progress_of(selection) or (None, None)
        return Answer(lambda progress: JSONResponse({"is_recorded": is_recorded, "done": done, "total": total}))

    def record(self, request: Request) -> Answer:
        """Record a function; the answer has its class, its settings, its bytes and what the recording took."""
        selection, _ = _parse(request, {})

        def work(progress: Progress) -> Response:
            is_cached = selection in self.functions.fields
            recorded = self.functions.record(selection, progress)
            names = list(recorded.model.metadata.get("classes") or [])
            label = None if recorded.labels is None else recorded.labels[0]
            body = {
                "label": label,
                "class": str(names[label]) if label is not None and 0 <= label < len(names) else None,
                "options": recorded.options_as_text(),
                "error": [upsample.ERRORS[name].format(value) for name, value in recorded.error.items()],
                "bytes": recorded.field.size(),
                "is_cached": is_cached,
                "milliseconds": round(1000 * recorded.seconds, 1),
            }
            return JSONResponse(body)

        return Answer(work, (selection,))

    def tile(self, request: Request) -> Answer:
        """A tile of the deep zoom as PNG: that of `level`, `row` and `column`, `size` pixels a side."""
        own = {
            "level": parameters.whole(0, MOST_LEVELS),
            **{name: parameters.whole(0, 2**MOST_LEVELS) for name in ("row", "column")},
            "size": parameters.whole(1, self.functions.max_side),
            "kind": parameters.one_of("function", "bicubic", "pixels", "truth"),
        }
        selection, values = _parse(request, own)
        window = tile_window(*parameters.required(values, "level", "row", "column"))
        size, kind = values.get("size", TILE), values.get("kind", "function")

        def work(progress: Progress) -> Response:
            if kind == "function":
                pixels = self.functions.image(selection, size, window, progress)
            else:
                pixels = self.functions.interpolated(selection, (size, size), window, kind, progress)
            return Response(png_bytes(pixels), media_type="image/png")

        needs_model = kind == "function" or not self.functions.reads_input(selection, kind)
        return Answer(work, (selection,), needs_model)

    def points(self, request: Request) -> Answer:
        """`num` points from number `first` on, as little-endian float32, point after point; `x-channels` numbers each."""
        own = {"first": parameters.whole(0, MOST_POINTS - 1), "num": parameters.whole(1, MOST_POINTS)}
        selection, values = _parse(request, own)
        first, num = values.get("first", 0), *parameters.required(values, "num")

        def work(progress: Progress) -> Response:
            points = self.functions.points(selection, first, num, progress)
            headers = {"x-channels": str(points.shape[1])}
            return Response(points.astype("<f4").tobytes(), media_type=BYTES, headers=headers)

        return Answer(work, (selection,))

    def mesh(self, request: Request) -> Answer:
        """A mesh: float32 positions and normals of its vertices, their colors as bytes where it has some, and uint32 triangles."""
        selection, values = _parse(request, self._sizes("resolution", "level"))

        def work(progress: Progress) -> Response:
            mesh = self.functions.values(selection, "mesh", _size_options(values), progress)
            vertices, faces = len(mesh.vertices), len(mesh.faces)
            normals = mesh.vertices * 0 if mesh.normals is None else mesh.normals
            parts = [mesh.vertices.astype("<f4"), normals.astype("<f4"), mesh.faces.astype("<u4")]
            parts += [] if mesh.colors is None else [mesh.colors]
            headers = {
                "x-vertices": str(vertices),
                "x-faces": str(faces),
                "x-has-colors": str(int(mesh.colors is not None)),
            }
            return Response(b"".join(part.tobytes() for part in parts), media_type=BYTES, headers=headers)

        return Answer(work, (selection,))

    def scene(self, request: Request) -> Answer:
        """A scene as a camera sees it, as PNG."""
        selection, values = _parse(request, self._sizes("resolution", *CAMERA))

        def work(progress: Progress) -> Response:
            views = self.functions.values(selection, "scene", _size_options({**values, "views": 1}), progress)
            return Response(png_bytes(views[0]), media_type="image/png")

        return Answer(work, (selection,))

    def clip(self, request: Request) -> Answer:
        """The frames of a clip, uint8, frame after frame, row after row; `x-shape` has frames, rows, columns and channels."""
        selection, values = _parse(request, self._sizes("resolution", "frames"))

        def work(progress: Progress) -> Response:
            frames = self.functions.values(selection, "clip", _size_options(values), progress)
            headers = {"x-shape": ",".join(map(str, frames.shape))}
            return Response(frames.tobytes(), media_type=BYTES, headers=headers)

        return Answer(work, (selection,))

    def structures(self, request: Request) -> Answer:
        """Proteins of `samples` seeds as the text of a PDB file each, superposed, and in Angstrom how far the C-alpha of each
        residue is from its mean over them."""
        selection, values = _parse(request, {"samples": parameters.whole(1, parameters.MOST_SAMPLES)})
        number = values.get("samples", 1)

        def work(progress: Progress) -> Response:
            samples = self.functions.structures(selection, number, progress)
            deviations = superposition.deviations(samples).round(3).tolist()
            texts = [structure_writer.pdb_text([one], {}) for one in samples]
            return JSONResponse({"structures": texts, "deviations": deviations})

        seeds = range(selection.seed, selection.seed + number)
        return Answer(work, tuple(replace(selection, seed=seed) for seed in seeds))

    def file(self, request: Request) -> Answer:
        """The file that `inrflow sample` writes of the function, with its provenance, as a download."""
        own = {"suffix": parameters.word(10), "window": parameters.parse_window}
        selection, values = _parse(request, {**own, **self._sizes(*SIZES)})
        (suffix,) = parameters.required(values, "suffix")
        window, sizes = values.get("window"), _size_options(values)

        def work(progress: Progress) -> Response:
            content = self.functions.file(selection, f".{suffix}", sizes, window, progress)
            headers = {"content-disposition": f'attachment; filename="seed-{selection.seed}.{suffix}"'}
            return Response(content, media_type=BYTES, headers=headers)

        return Answer(work)

    def frozen(self, request: Request) -> Answer:
        """What the page shows, by the `fragment` of its address, as one HTML file."""
        _, values = _parse(request, {"fragment": parameters.word(16_000)})
        (fragment,) = parameters.required(values, "fragment")

        def work(progress: Progress) -> Response:
            text = frozen.html(self.functions, fragment, progress)
            headers = {"content-disposition": 'attachment; filename="inrflow-view.html"'}
            return Response(text.encode(), media_type=BYTES, headers=headers)

        return Answer(work)

    def _sizes(self, *names: str) -> dict[str, parameters.Parser]:
        """The parsers of parameters that set the size of a sample."""
        parsers = {
            "resolution": parameters.sides(self.functions.max_side),
            "points": parameters.whole(1, MOST_POINTS),
            "frames": parameters.whole(1, 10_000),
            "views": parameters.whole(1, 1024),
            "fps": parameters.number(0.01, 1000),
            "level": parameters.number(1e-6, 1e6),
            "azimuth": parameters.number(-1e4, 1e4),
            "elevation": parameters.number(-90, 90),
            "distance": parameters.number(0.1, 1e4),
        }
        return {name: parsers[name] for name in names}

    def _endpoint(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        """The route that runs the answer of a method as a job."""
        method: Callable[[Request], Answer] = getattr(self, name)

        async def endpoint(request: Request) -> Response:
            try:
                answer = method(request)
                return answer.work(_ignore) if name in IMMEDIATE else await self._run(request, answer)
            except InrflowError as error:
                return self._failed(error)

        return endpoint

    async def drop(self, request: Request) -> Response:
        """Take an image, the body of the request; the answer has the name by which the other addresses know it."""
        try:
            content = await _body(request)
            dropped = await asyncio.to_thread(self.functions.images.add, content)  # it does not wait for samples
            return JSONResponse({"image": dropped.name})
        except ClientDisconnect:
            return Response(status_code=LEFT)
        except InrflowError as error:
            return self._failed(error)

    def _failed(self, error: InrflowError) -> Response:
        """The answer of an error, as JSON in the words of the page."""
        status = 503 if isinstance(error, BusyError) else STATUS.get(error.code, 500)
        hint = None if error.hint is None else self._page_words(error.hint)
        return JSONResponse({"error": self._page_words(error.message), "hint": hint}, status)

    def _page_words(self, text: str) -> str:
        """A message in the words of the page: its controls and runs by name, in place of options and of paths of this machine."""
        for run in sorted(
            self.functions.runs, key=lambda run: len(str(run.source)), reverse=True
        ):  # a file before its folder
            for end in "`/":
                text = text.replace(f"`{run.source}{end}", f"`{run.name}{end}")
        return re.sub(r"`--([a-z])", r"`\1", text)

    async def _run(self, request: Request, answer: Answer) -> Response:
        """The response of a job, with what it took; the job is cancelled where the client leaves before."""
        started = time.perf_counter()
        functions = answer.functions
        job = self.worker.submit(
            answer.work,
            is_short=lambda: functions is not None and self.functions.is_recorded(*functions),
            needs_model=answer.needs_model,
        )
        future = asyncio.wrap_future(job.future)
        try:
            while not (await asyncio.wait([future], timeout=POLL_SECONDS))[0]:
                if await request.is_disconnected():
                    raise CancelledJob
            response = future.result()
        except (CancelledJob, asyncio.CancelledError):  # the client has left, or the server stops
            job.cancel()
            future.add_done_callback(_retrieve)
            return Response(status_code=LEFT)
        waited, total = 1000 * job.waited, 1000 * (time.perf_counter() - started)
        response.headers["server-timing"] = f"queue;dur={waited:.1f}, work;dur={total - waited:.1f}"
        return response


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; without a `port` at the usual one, or where that is in use at a free one.

    Raises:
        UsageError: the port is in use, or the host is not one of this machine's.
    """
    for number in (USUAL_PORT, 0) if port is None else (port,):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, number), family=family)
        except OSError as error:
            if port is not None or error.errno != errno.EADDRINUSE:
                raise UsageError(
                    f"no server can listen at `{host}`, port {number}: {error.strerror or error}",
                    hint="name another `--port`, or a `--host` of this machine",
                ) from error
    raise UsageError(f"no port is free at `{host}`", hint="name one with `--port`")


class _Server(uvicorn.Server):
    """A server that ends the jobs under way at once when it is to stop: their requests are answered then."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop the worker, then the server."""
        self._worker.stop()
        super().handle_exit(sig, frame)


def serve(app: Guard, worker: Worker, listener: socket.socket) -> None:
    """Serve a page until Ctrl-C."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=1, ws="none"
    )
    _Server(config, worker).run(sockets=[listener])


def _parse(request: Request, own: dict[str, Any]) -> tuple[parameters.Selection, dict[str, Any]]:
    return parameters.parse(request.query_params.multi_items(), own)


def _size_options(values: dict[str, Any]) -> SizeOptions:
    """The size in the values of parameters."""
    sizes = {name: values[name] for name in SIZES if name in values and name not in CAMERA}
    return SizeOptions(**sizes, camera=Camera(*(values.get(name) for name in CAMERA)))


async def _body(request: Request) -> bytes:
    """The body of a request; raises UsageError as soon as it is larger than an image may be."""
    declared = request.headers.get("content-length", "")
    dropped_images.check_size(int(declared) if declared.isdecimal() and len(declared) < 20 else 0)
    content = bytearray()
    async for part in request.stream():
        content += part
        dropped_images.check_size(len(content))
    return bytes(content)


def _ignore(done: int, total: int) -> None:
    """Progress of work that takes no time."""


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Take the result of a cancelled job, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()
