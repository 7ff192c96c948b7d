"""Archives are read in place, within bounds: a name is one member, and no member unpacks to more than it states."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from inrflow_core.datasets import _archives
from inrflow_core.errors import IntegrityError, UnreadableItemError


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_two_members_of_one_name_are_refused_by_name(tmp_path: Path, suffix: str):
    if suffix == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for content in ("one", "two"):
                archive.writestr("x/a.png", content)
    else:
        (tmp_path / "content").write_text("one")
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for _ in range(2):
                archive.add(tmp_path / "content", "x/a.png")
    with pytest.raises(IntegrityError, match=r"1 names that several members share: `x/a\.png`"):
        _archives.listing(tmp_path)


def test_a_zip_with_a_member_without_a_name_is_refused(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", "one")
        archive.filelist[0].filename = ""
    with pytest.raises(IntegrityError, match=r"a\.zip` has a member without a name"):
        _archives.listing(tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_is_read_whole_by_every_method_and_a_flipped_bit_is_an_unreadable_item(tmp_path: Path, method: int):
    content = os.urandom(9000) + bytes(50_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", content)
    (entry,) = _archives.listing(path)
    assert entry.location.read() == content
    damaged = bytearray(path.read_bytes())
    damaged[3000] ^= 1
    (tmp_path / "b.zip").write_bytes(damaged)
    (entry,) = _archives.listing(tmp_path / "b.zip")
    with pytest.raises(UnreadableItemError, match="it cannot be unzipped"):
        entry.location.read()


def test_a_tar_packed_by_another_method_than_gzip_is_refused_before_it_is_unpacked(tmp_path: Path):
    packed = bz2.compress(bytes(1 << 24))
    with pytest.raises(IntegrityError, match="is not a complete tar"):
        _archives.read_members(io.BytesIO(packed), "kit.tar.gz", ["a"])


def test_a_header_that_states_gigabytes_is_refused():
    header = tarfile.TarInfo("long")
    header.type, header.size = tarfile.XHDTYPE, 7 << 30
    content = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(IntegrityError, match="a header states 7,516,192,768 bytes"):
        _archives.read_members(io.BytesIO(content), "kit.tar.gz", ["a"])


def test_a_packed_tar_that_unpacks_to_far_more_than_its_bytes_is_refused(tmp_path: Path, monkeypatch):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for number in range(3):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 1_000_000
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    (tmp_path / "a.tar.gz").write_bytes(file.getvalue())
    assert len(_archives.packed_members(tmp_path / "a.tar.gz")) == 3
    monkeypatch.setattr(_archives, "MOST_OF_SMALL", 1_500_000)
    with pytest.raises(IntegrityError, match=r"it unpacks to more than 1,\d{3},\d{3} bytes"):
        _archives.packed_members(tmp_path / "a.tar.gz")


def test_a_pipe_in_a_folder_is_an_unreadable_item(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(UnreadableItemError, match="not a plain file"):
        _archives.Blob(str(tmp_path / "a.png")).read()
