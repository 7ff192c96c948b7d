"""Report an error that several processes meet only once.

The processes of a launcher share a key-value store: torchrun's own, or one on rank 0. The first process that registers an
error reports it. Processes that fail only because another one is gone are silent if that one has reported why.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from inrflow_core.errors import Interrupted, UsageError
from inrflow_core.runtime import distributed

STORE_TIMEOUT = timedelta(seconds=5)
"""How long a process tries to reach the store before it reports its error itself."""
LINGER_SECONDS = 3.0
"""Seconds that rank 0 stays for the others if it owns the store."""
PEER_LOST_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""Classes of errors that torch raises if another process does not answer; gloo's errors are recognized by their text."""


class PeerLostError(Interrupted):
    """Another process of the run is gone, so that this one cannot continue (exit code 130)."""


def abandoned(error: BaseException) -> PeerLostError | None:
    """A PeerLostError if the error means that another process is gone or silent, else None."""
    if type(error).__name__ not in PEER_LOST_ERRORS and "gloo/transport" not in str(error):
        return None
    return PeerLostError(
        "another process of this run ended or no longer answers, so that this one stops too",
        hint="run the same command again to resume from the last checkpoint; if no message says why the other ended, it "
        "was killed, perhaps for lack of memory (`dmesg | grep -i kill`), or its machine was lost",
    )


def should_report(error: BaseException, environment: Mapping[str, str]) -> bool:
    """Whether this process reports the error: the first that met it, or the only one."""
    try:
        world = distributed.find(environment, "cpu")
    except UsageError:  # the variables are not a launcher's
        return True
    if world.address is None or world.size == 1:
        return True
    rank, restart = str(world.rank), environment.get("TORCHELASTIC_RESTART_COUNT", "0")
    is_own = world.is_main and "TORCHELASTIC_RUN_ID" not in environment and not torch.distributed.is_initialized()
    try:
        store = TCPStore(*world.address, is_master=is_own, timeout=STORE_TIMEOUT, wait_for_workers=False)
        is_first = _is_first(PrefixStore(f"inrflow/{restart}", store), error, rank)
    except RuntimeError:  # no store at the address, or another program's
        return True
    if is_own:
        _stay(store, world.size)
    return is_first


def _is_first(store: Store, error: BaseException, rank: str) -> bool:
    """Whether no process has reported this error yet; a PeerLostError, whether none has reported any."""
    key = "told" if isinstance(error, PeerLostError) else hashlib.sha256(str(error).encode()).hexdigest()
    is_first = store.compare_set(key, "", rank).decode() == rank
    store.set("told", rank)
    store.add("heard", 1)
    return is_first


def _stay(store: Store, size: int) -> None:
    deadline = time.monotonic() + LINGER_SECONDS
    while time.monotonic() < deadline and store.add("inrflow/0/heard", 0) < size:
        time.sleep(0.05)
