"""Which process tells an error: the laws, with a store and no processes."""

from __future__ import annotations

from datetime import timedelta

import pytest
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.runtime import rank_errors

GLOO = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:554] Connection closed by peer [127.0.0.1]:38011")


@pytest.fixture
def ranks() -> list[dict[str, str]]:
    """What torchrun tells three processes, while its store listens."""
    store = TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=10), wait_for_workers=False)
    common = {"WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_RUN_ID": "7"}
    return [_Named(common | {"RANK": str(rank)}, store) for rank in range(3)]


class _Named(dict):
    """Variables that keep the store alive."""

    def __init__(self, names: dict[str, str], store: TCPStore) -> None:
        super().__init__(names)
        self.store = store


def test_an_error_of_all_is_printed_by_the_first_and_another_by_its_own(ranks):
    same = [rank_errors.should_report(UsageError("a batch of 4 does not divide"), ranks[rank]) for rank in (1, 0, 2)]
    assert same == [True, False, False]
    assert rank_errors.should_report(OutOfMemory("the disk is full"), ranks[2])


def test_a_process_that_is_left_alone_says_so_once_where_no_other_gave_a_reason(ranks):
    gone = rank_errors.abandoned(GLOO)
    assert gone is not None and int(gone.code) == 130
    assert [rank_errors.should_report(gone, ranks[rank]) for rank in (2, 0)] == [True, False]


def test_a_process_that_is_left_alone_is_silent_after_another_gave_a_reason(ranks):
    assert rank_errors.should_report(OutOfMemory("the disk is full"), ranks[1])
    gone = rank_errors.abandoned(GLOO)
    assert gone is not None and not rank_errors.should_report(gone, ranks[0])


def test_an_error_of_our_own_does_not_show_that_another_process_is_gone():
    assert rank_errors.abandoned(RuntimeError("shape mismatch")) is None
    assert rank_errors.abandoned(OutOfMemory("the disk is full")) is None


def test_a_process_alone_and_one_that_reaches_no_other_print_their_errors(monkeypatch):
    monkeypatch.setattr(rank_errors, "STORE_TIMEOUT", timedelta(milliseconds=300))
    assert rank_errors.should_report(UsageError("x"), {})
    unheard = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert rank_errors.should_report(UsageError("x"), unheard)


@pytest.mark.parametrize("junk", [{"RANK": "junk"}, {"WORLD_SIZE": "²"}, {"RANK": "7"}])
def test_a_process_whose_rank_is_not_known_reports_its_error_without_looking_for_others(junk, monkeypatch):
    def connect(*arguments, **options):
        raise AssertionError("no other process can be found")

    monkeypatch.setattr(rank_errors, "TCPStore", connect)
    launcher = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    assert rank_errors.should_report(UsageError("x"), launcher | junk)
