"""Several processes, one voice: an error that many of them meet is told once.

The processes of a launcher ask a store that all of them reach: torchrun's own, else that of the leading process. Who
comes first with an error tells it. Those who fail only because another process is gone stay silent where that one has
told why.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from datetime import timedelta

import torch
from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from inrflow_core.errors import Interrupted
from inrflow_core.runtime import distributed

STORE_TIMEOUT = timedelta(seconds=5)
"""How long a process looks for the store before it speaks for itself."""
LINGER_SECONDS = 3.0
"""Seconds that the leading process stays for the others where the store is its own."""
PEER_LOST_ERRORS = ("DistBackendError", "DistNetworkError", "DistStoreError")
"""Classes of errors that torch raises where another process does not answer; gloo's are known by their text."""


class PeerLostError(Interrupted):
    """Another process of the run is gone, so that this one cannot go on (exit code 130)."""


def abandoned(error: BaseException) -> PeerLostError | None:
    """The error as what it means where another process is gone or silent; None where it is something else."""
    if type(error).__name__ not in PEER_LOST_ERRORS and "gloo/transport" not in str(error):
        return None
    return PeerLostError(
        "another process of this run ended or no longer answers, so that this one stops too",
        hint="run the same command again to resume from the last checkpoint; where no message says why the other ended, somebody "
        "killed it, the system for want of memory (`dmesg | grep -i kill`), or its machine was lost",
    )


def should_report(error: BaseException, environment: Mapping[str, str]) -> bool:
    """Whether this process is the one to tell the error: the first that met it, or the only one."""
    names = distributed.torchrun_variables(environment)
    address = distributed.address(names)
    if address is None or int(names.get("WORLD_SIZE", "1")) == 1:
        return True
    leads, restart = names["RANK"] == "0", names.get("TORCHELASTIC_RESTART_COUNT", "0")
    is_own = leads and "TORCHELASTIC_RUN_ID" not in names and not torch.distributed.is_initialized()
    try:
        store = TCPStore(address[0], address[1], is_master=is_own, timeout=STORE_TIMEOUT, wait_for_workers=False)
        is_first = _is_first(PrefixStore(f"inrflow/{restart}", store), error, names["RANK"])
    except RuntimeError:  # nobody listens, or its port is another's
        return True
    if is_own:
        _stay(store, int(names["WORLD_SIZE"]))
    return is_first


def _is_first(store: Store, error: BaseException, rank: str) -> bool:
    """Nobody has told this error yet, and of an abandoned process: nobody has told any."""
    told = "told" if isinstance(error, PeerLostError) else hashlib.sha256(str(error).encode()).hexdigest()
    is_first = store.compare_set(told, "", rank).decode() == rank
    store.set("told", rank)
    store.add("heard", 1)
    return is_first


def _stay(store: Store, size: int) -> None:
    deadline = time.monotonic() + LINGER_SECONDS
    while time.monotonic() < deadline and store.add("inrflow/0/heard", 0) < size:
        time.sleep(0.05)
