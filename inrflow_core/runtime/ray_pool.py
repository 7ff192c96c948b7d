"""Map a function over tasks on a Ray cluster, as `process_pool.map_unordered` does on one machine.

Ray restarts a task elsewhere if its node is lost, so a task must be repeatable and write atomically. All machines must
have the same files under the same paths, and the same inrflow: each node checks this before each task, and an error
names the node.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inrflow_core import __version__
from inrflow_core.errors import InrflowError, MissingError, OutOfMemory, UsageError
from inrflow_core.runtime.process_pool import Function, ReportProgress

MAX_ATTEMPTS = 6
"""Attempts of a task whose node or process is lost."""
SECONDS = 0.5
"""Interval between two updates of the progress."""
STARTED = (
    "start `inrflow` on a machine of the cluster (`ray start --head` and `ray start --address` make one), with "
    "RAY_AUTH_MODE and the token that it was started with"
)
SAME_VERSION_HINT = "install the same inrflow and its extras on every machine of the cluster"


@dataclass(frozen=True)
class NodeEnvironment:
    """What every node must share with this machine."""

    folder: str
    """The working folder."""
    visible_paths: tuple[str, ...]
    """Paths that must exist; the first is a mark of this run, so that another folder of the same name is detected."""
    settings: tuple[tuple[str, str], ...]
    """Environment variables of inrflow."""
    version: str = __version__

    def enter(self) -> None:
        """Make a worker's process like this one.

        Raises:
            UsageError: this node does not see a path, or has another inrflow.
        """
        node = socket.gethostname()
        if self.version != __version__:
            raise UsageError(
                f"the Ray node `{node}` has inrflow {__version__}, and this machine {self.version}",
                hint=SAME_VERSION_HINT,
            )
        for path in self.visible_paths:
            if not os.path.exists(path):
                raise UsageError(
                    f"the Ray node `{node}` does not see `{path}`",
                    hint="what is read and what is written must lie where all machines see it under the same path",
                )
        with contextlib.suppress(OSError):  # not needed for absolute paths
            os.chdir(self.folder)
        os.environ.update(self.settings)


class ProgressCounter:
    """Progress of each task, reported by the nodes and read by this machine."""

    def __init__(self) -> None:
        self._done: dict[int, int] = {}

    def report(self, number: int, count: int) -> None:
        """Record that a task has done `count` items; a restarted task counts once it has caught up."""
        self._done[number] = max(count, self._done.get(number, 0))

    def read(self) -> dict[int, int]:
        """The items of each task."""
        return self._done


def ray_map(
    address: str | None = None, *, source: Path | None, out: Path, workers: int | None = None
) -> Callable[..., Iterator[Any]]:
    """What spreads tasks over a Ray cluster: takes what `process_pool.map_unordered` takes, and goes by its own `workers`.

    Args:
        address: of the cluster; None takes `RAY_ADDRESS`, else the cluster that runs on this machine, else starts
            one for this process.
        source: what the tasks read.
        out: the folder that they write to.
        workers: tasks at once; None takes as many as the cluster has cores, and has as many wait.
    """

    def each(function: Function, tasks: Sequence[Any], *, advance: ReportProgress, **_: Any) -> Iterator[Any]:
        if not tasks:
            return
        # Ray prints messages about lost nodes to stdout, which is reserved for `--json`.
        with contextlib.redirect_stdout(sys.stderr), _connected(address) as ray, _marked(out) as mark:
            visible_paths = (mark, *([] if source is None else [source]))
            site = NodeEnvironment(os.getcwd(), tuple(str(path.absolute()) for path in visible_paths), _settings())
            yield from _spread(ray, function, tasks, site, advance, workers)

    return each


def num_free_slots(workers: int | None, cores: int, running: int) -> int:
    """How many more tasks to hand out; none where a node is lost and more are out than the others have cores for."""
    return max(0, (workers or 2 * max(1, cores)) - running)


def _spread(
    ray: Any,
    function: Function,
    tasks: Sequence[Any],
    site: NodeEnvironment,
    advance: ReportProgress,
    workers: int | None,
) -> Iterator[Any]:
    counter = _progress_counter(ray)
    work = ray.remote(num_cpus=1, max_retries=MAX_ATTEMPTS - 1, scheduling_strategy="SPREAD")(_work)
    pending, running = iter(enumerate(tasks)), {}
    done: dict[int, int] = {}
    shown, last = 0, 0.0
    try:
        while True:
            cores = int(ray.cluster_resources().get("CPU", 0))
            for number, task in itertools.islice(pending, num_free_slots(workers, cores, len(running))):
                running[work.remote(function, task, number, site, counter)] = number
            if not running:
                return
            ready, _ = ray.wait(list(running), timeout=SECONDS)
            results = [(running.pop(one), _received(ray, one)) for one in ready]
            done |= {number: count for number, (_, count) in results}
            if results or time.monotonic() - last > SECONDS:
                last = time.monotonic()
                now = sum((ray.get(counter.read.remote()) | done).values())
                advance(max(0, now - shown))
                shown = max(now, shown)
            yield from (result for _, (result, _) in results)
    finally:
        for one in running:
            ray.cancel(one, force=True)


def _work(function: Function, task: Any, number: int, site: NodeEnvironment, counter: Any) -> tuple[str, Any, int]:
    """One task on some node: how it ended, with what, and the items that it did."""
    done, last = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, last
        done += count
        if time.monotonic() - last > SECONDS:
            last = time.monotonic()
            counter.report.remote(number, done)

    try:
        site.enter()
        result = function(task, advance)
        site.enter()  # where the source went away meanwhile, its items were not unreadable
    except (InrflowError, OSError, MemoryError) as error:
        return "error", error, done
    return "result", result, done


def _received(ray: Any, one: Any) -> tuple[Any, int]:
    """The result of a task that has ended, and its items."""
    try:
        kind, content, count = ray.get(one)
    except ray.exceptions.RayTaskError as error:
        if "failed to import" in str(error) or isinstance(error.cause, ImportError):
            raise MissingError(
                f"a node of the Ray cluster cannot load inrflow: {str(error).strip().splitlines()[-1]}",
                hint=SAME_VERSION_HINT,
            ) from error
        raise
    except ray.exceptions.RayError as error:
        raise OutOfMemory(
            f"a task lost its worker {MAX_ATTEMPTS} times, as where memory runs out: {str(error).partition(chr(10))[0]}",
            hint="run the same command again to resume; take fewer `--workers`",
        ) from error
    if kind == "error":
        raise content
    return content, count


def _progress_counter(ray: Any) -> Any:
    """A `Tally` on this machine, which lives as long as this run."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(ProgressCounter).remote()


@contextlib.contextmanager
def _connected(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster; what was started for this is stopped."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingError("`--engine ray` needs the package `ray`", hint="`pip install 'inrflow[cluster]'`") from error
    if ray.is_initialized():
        yield ray
        return
    cluster = address or os.environ.get("RAY_ADDRESS")
    if cluster and cluster.startswith("ray://"):
        raise UsageError(f"`{cluster}` is the address of a Ray client", hint=STARTED)
    try:
        _check_reachable(cluster)
        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        raise MissingError(f"no Ray cluster answers at `{cluster or 'this machine'}`", hint=STARTED) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise what a socket raises where nothing answers: Ray would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file in a folder by which a node knows that its folder of that name is the same."""
    mark = folder / f".seen-{secrets.token_hex(4)}.partial"  # removed with half-written files, should this be killed
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _settings() -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in os.environ.items() if name.startswith("INRFLOW_"))
