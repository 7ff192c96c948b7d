"""Outputs are checked before the work and whole or absent after it."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from io import FileIO
from pathlib import Path

import pytest

from inrflow_core.errors import OutOfMemory, UsageError
from inrflow_core.storage import atomic_write


def test_a_free_name_in_a_folder_passes(tmp_path: Path) -> None:
    atomic_write.check_writable(tmp_path / "out.ply")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the folder `.*absent` does not exist") as caught:
        atomic_write.check_writable(tmp_path / "absent" / "out.ply")
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("make it with `mkdir -p")


def test_a_file_that_exists_is_left_unless_overwriting_is_requested(tmp_path: Path) -> None:
    path = tmp_path / "out.ply"
    path.write_text("old")
    with pytest.raises(UsageError, match="exists already"):
        atomic_write.check_writable(path)
    atomic_write.check_writable(path, overwrite=True)
    (tmp_path / "link.ply").symlink_to("link.ply")
    with pytest.raises(UsageError, match=r"`.*link\.ply` exists already"):
        atomic_write.check_writable(tmp_path / "link.ply")


def test_numbered_files_are_checked_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "out-002.ply").write_text("old")
    with pytest.raises(UsageError, match=r"`.*out-002\.ply` exists already"):
        atomic_write.check_writable(tmp_path / "out.ply", count=3)


@pytest.mark.parametrize(("parent", "message"), [("file", "is a file, not a folder"), (".", "is a folder")])
def test_files_and_folders_in_each_others_place_are_refused(tmp_path: Path, parent: str, message: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match=message):
        atomic_write.check_writable(tmp_path / parent / "out")


def test_numbered_names_sort_as_their_samples() -> None:
    names = [path.name for path in atomic_write.numbered_paths(Path("a/out.ply"), 1001)]
    assert names == sorted(names)
    assert names[:2] == ["out-0000.ply", "out-0001.ply"]
    assert atomic_write.numbered_paths(Path("out.ply"), 1) == [Path("out.ply")]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def interrupted() -> None:
        with atomic_write.atomic_write(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        interrupted()
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    assert path.read_text() == "old"


FULL = """
import resource, sys
from pathlib import Path
from inrflow_core.errors import OutOfMemory
from inrflow_core.storage import atomic_write
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with atomic_write.atomic_write(Path(sys.argv[1])) as beside:
        beside.write_bytes(bytes(5000))
except OutOfMemory as error:
    sys.exit(int(error.code))
"""


def test_a_full_disk_is_exit_code_5_and_leaves_nothing(tmp_path: Path, checkout: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "out")], cwd=checkout, capture_output=True)
    assert (done.returncode, list(tmp_path.iterdir())) == (5, []), done.stderr.decode()


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [(errno.ENOSPC, OutOfMemory, "no room to write"), (errno.EROFS, UsageError, "cannot be written")],
)
def test_system_errors_become_errors_that_a_user_can_act_on(
    tmp_path: Path, number: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message), atomic_write.atomic_write(tmp_path / "out"):
        raise OSError(number, "reason")


def test_too_little_room_for_a_known_size_is_said_with_what_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 4096))  # pyright: ignore

    def write() -> None:
        with atomic_write.atomic_write(tmp_path / "out.bin", 10_000):
            raise AssertionError("nothing is begun")

    with pytest.raises(OutOfMemory, match=r"out\.bin`: it takes 10 kB, and 4\.1 kB are free for it") as caught:
        write()
    assert caught.value.hint == "free 5.9 kB or more, or name another place"
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_on_the_way_tells_how_far_it_came(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 0))  # pyright: ignore

    def write() -> None:
        with atomic_write.atomic_write(tmp_path / "out.bin") as beside:
            beside.write_bytes(bytes(2000))
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutOfMemory, match=r"out\.bin`: it takes more than the 2 kB that are free for it"):
        write()
    assert not list(tmp_path.iterdir())


def test_a_line_that_has_no_room_is_not_half_there(tmp_path: Path) -> None:
    class Small(FileIO):
        """Takes five bytes, and then says that the disk is full."""

        def write(self, data) -> int:  # pyright: ignore
            if len(data) < 8:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:5])

    path = tmp_path / "log.jsonl"
    path.write_bytes(b"one\n")
    with Small(path, "a+") as file, pytest.raises(OutOfMemory, match=r"log\.jsonl`: it takes 14 B"):
        atomic_write.append_all_or_nothing(file, path, b"two three\n")
    assert path.read_bytes() == b"one\n"
    with path.open("ab", buffering=0) as whole:
        atomic_write.append_all_or_nothing(whole, path, b"two three\n")
    assert path.read_bytes() == b"one\ntwo three\n"
