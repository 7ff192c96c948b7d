"""The files of an image data set in a folder, in zips or in tars.

Members of archives are read in place: nothing is unpacked, so no name in an archive can lead out of a folder, and links
in archives are never followed. For a tar, only the offset of each member is stored; a worker reads that part.
"""

from __future__ import annotations

import functools
import gzip
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from io import BufferedIOBase
from pathlib import Path
from typing import Any, NamedTuple

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError
from inrflow_core.storage.plain_file import open_plain_file
from inrflow_core.storage.source_files import is_hidden, list_files
from inrflow_core.visualization.image_io import is_image_name

ARCHIVES = (".zip", ".tar")
LARGEST = 1 << 30
"""Bytes of the largest member; a larger one is not an image."""
MOST_UNPACKED = 4 << 30
"""Bytes of the largest tar whose members are read into memory."""
MOST_OF_SMALL, MOST_TIMES_SMALLER = 1 << 26, 50
"""Bytes that any packed tar may unpack to, and for each of its own bytes: images hardly get smaller, zeros 1,000 times."""


class Blob(NamedTuple):
    """A file, or a part of one."""

    path: str
    offset: int = 0
    size: int | None = None

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UnreadableItemError: they cannot be read.
        """
        try:
            with open_plain_file(Path(self.path)) as file:
                if self.size is None:
                    if os.fstat(file.fileno()).st_size > LARGEST:
                        raise UnreadableItemError(f"it has more than {LARGEST:,} bytes")
                    return file.read()
                content = os.pread(file.fileno(), self.size, self.offset)
        except OSError as error:
            raise UnreadableItemError(f"it cannot be opened: {error.strerror}") from error
        except (MissingError, IntegrityError) as error:
            raise UnreadableItemError("it is not a plain file, or cannot be opened") from error
        if len(content) < self.size:
            raise UnreadableItemError("the archive ends before it")
        return content


class Member(NamedTuple):
    """A member of a zip; no other has its name."""

    path: str
    name: str

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UnreadableItemError: they cannot be read, or do not have their checksum.
        """
        try:
            return _unzipped(_zip(self.path), self.name)
        except (
            OSError,
            RuntimeError,
            EOFError,
            KeyError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            ValueError,
            OverflowError,
            struct.error,
        ) as error:
            raise UnreadableItemError(f"it cannot be unzipped: {str(error).partition(chr(10))[0]}") from error


class Content(NamedTuple):
    """A file whose bytes are in memory."""

    content: bytes

    def read(self) -> bytes:
        """The bytes."""
        return self.content


class Entry(NamedTuple):
    """A file of a data set."""

    name: str
    """Relative to the root, with forward slashes."""
    size: int
    location: Blob | Member | Content


def ends(location: Blob | Member | Content, count: int) -> tuple[int, bytes, bytes]:
    """The number of bytes of a file, its first `count` bytes, and its last `count` as far as they are behind the first.

    Raises:
        UnreadableItemError: it cannot be read.
    """
    if not isinstance(location, Blob):
        content = location.read()
        return len(content), content[:count], content[count:][-count:]
    try:
        with open_plain_file(Path(location.path)) as file:
            size = os.fstat(file.fileno()).st_size if location.size is None else location.size
            start = max(min(count, size), size - count)
            head = os.pread(file.fileno(), min(count, size), location.offset)
            return size, head, os.pread(file.fileno(), size - start, location.offset + start)
    except (OSError, MissingError, IntegrityError) as error:
        raise UnreadableItemError("it cannot be read") from error


def listing(source: Path) -> list[Entry]:
    """Every file of a source, sorted by name: those of a folder or, if it has no images, of the zips and tars in it.

    `source` may be one archive. Hidden files are left out.

    Raises:
        IntegrityError: an archive is damaged.
    """
    if not source.is_dir():
        return _archive(source)
    files = [Entry(name, size, Blob(os.path.join(source, name))) for name, size in list_files(source)]
    archives = [entry for entry in files if entry.name.lower().endswith(ARCHIVES)]
    if not archives or any(is_image_name(entry.name) for entry in files):
        return files
    inside = [member for entry in archives for member in _archive(source / entry.name)]
    return sorted(inside + [entry for entry in files if entry not in archives])


def images(entries: Sequence[Entry]) -> list[Entry]:
    """The images among some files."""
    return [entry for entry in entries if is_image_name(entry.name)]


def others(entries: Sequence[Entry]) -> list[str]:
    """The names of the files that are no images."""
    return [entry.name for entry in entries if not is_image_name(entry.name)]


def below(entries: Sequence[Entry], root: str) -> list[Entry]:
    """The files below `root` (empty, or ending in a slash), named relative to it."""
    return [entry._replace(name=entry.name[len(root) :]) for entry in entries if entry.name.startswith(root)]


def root_of(entries: Sequence[Entry], child: str) -> str | None:
    """The topmost folder that contains a folder `child`, as a prefix of names; None if there is none."""
    roots = {entry.name[: match.start(1)] for entry in entries if (match := _component(child)(entry.name))}
    return min(roots, key=lambda root: (root.count("/"), root), default=None)


def common_root(entries: Sequence[Entry]) -> str:
    """The common parent folder of files, as a prefix of their names."""
    return common_folder([entry.name for entry in entries])


def common_folder(names: Sequence[str]) -> str:
    """The common parent folder of names of files, as a prefix of them."""
    folders = [name.rpartition("/")[0].split("/") for name in names]
    parts = os.path.commonprefix(folders) if folders else []
    return "".join(f"{part}/" for part in parts if part)


def tar_members(path: Path, inside: str | None = None) -> Iterator[Entry]:
    """The plain files of an uncompressed tar or, with `inside`, of the tars in it, each named below its tar's stem.

    Raises:
        IntegrityError: the tar is damaged.
    """
    try:
        with tarfile.open(path, "r:") as outer:
            for member in outer:
                if not member.isreg() or member.issparse() or _is_left_out(member.name):
                    continue
                if inside is None:
                    yield Entry(member.name.removeprefix("./"), member.size, _part(path, 0, member))
                elif member.name.endswith(inside):
                    yield from _inner(path, outer, member)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise IntegrityError(f"`{path}` is not a complete tar: {error}", hint="copy or download it again") from error


def read_members(
    file: BufferedIOBase, source: str | Path, names: Collection[str], *, largest: int = LARGEST
) -> dict[str, bytes]:
    """Some plain members of a tar, compressed with gzip or not, by the last part of their name; ones above `largest` are skipped.

    Raises:
        IntegrityError: the tar is damaged; `source` names it.
    """
    content = {}
    for member, inside in _streamed(
        file, source, lambda member: member.name.rpartition("/")[2] in names and member.size <= largest
    ):
        content[member.name.rpartition("/")[2]] = inside
    return dict(sorted(content.items()))


def packed_members(path: Path) -> list[Entry]:
    """The plain files of a tar that is compressed with gzip, sorted by name, with their content in memory.

    Raises:
        IntegrityError: the tar is damaged, or unpacks to more than MOST_UNPACKED bytes or MOST_TIMES_SMALLER times its
            size and MOST_OF_SMALL bytes.
    """
    with open_plain_file(path) as file:
        most = min(MOST_UNPACKED, MOST_OF_SMALL + MOST_TIMES_SMALLER * os.fstat(file.fileno()).st_size)
        found = [
            Entry(member.name.removeprefix("./"), member.size, Content(inside))
            for member, inside in _streamed(file, path, lambda member: not _is_left_out(member.name), most)
        ]
    return sorted(found, key=lambda entry: entry.name)


def _streamed(
    file: Any, source: str | Path, selects: Callable[[tarfile.TarInfo], bool], most: int = MOST_UNPACKED
) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Some plain members of a tar, compressed with gzip or not, with their content."""
    try:
        is_packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        unpacked: Any = _SizedReader(gzip.GzipFile(fileobj=file) if is_packed else file, most)
        with tarfile.open(fileobj=unpacked, mode="r:") as archive:
            for member in archive:
                if member.isreg() and not member.issparse() and selects(member):
                    opened = archive.extractfile(member)
                    assert opened is not None
                    yield member, opened.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise IntegrityError(f"`{source}` is not a complete tar: {error}", hint="copy or download it again") from error


def _inner(path: Path, outer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[Entry]:
    """The files of a tar inside a tar, as parts of the outer one."""
    stem = Path(member.name).stem
    with tarfile.open(fileobj=outer.extractfile(member), mode="r:") as inner:
        for item in inner:
            if item.isreg() and not item.issparse() and not _is_left_out(item.name):
                yield Entry(f"{stem}/{Path(item.name).name}", item.size, _part(path, member.offset_data, item))


def _part(path: Path, start: int, member: tarfile.TarInfo) -> Blob:
    return Blob(str(path), start + member.offset_data, member.size)


def _check_names(path: Path, names: Sequence[str]) -> None:
    """Raise IntegrityError if several members of an archive have one name."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise IntegrityError(
            f"`{path}` has {len(repeated):,} names that several members share: `{repeated[0]}`",
            hint="which of them counts is not known: pack the folder again",
        )


def _archive(path: Path) -> list[Entry]:
    if path.suffix.lower() == ".tar":
        entries = sorted(tar_members(path))
        _check_names(path, [entry.name for entry in entries])
        return entries
    if path.suffix.lower() != ".zip":
        return [Entry(path.name, path.stat().st_size, Blob(str(path)))]
    try:
        members = _zip(str(path)).infolist()
    except (OSError, ValueError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise IntegrityError(f"`{path}` is not a complete zip: {error}", hint="copy or download it again") from error
    if not all(member.filename for member in members):
        raise IntegrityError(f"`{path}` has a member without a name", hint="copy or download it again")
    _check_names(path, [member.filename for member in members])
    return sorted(
        Entry(member.filename, member.file_size, Member(str(path), member.filename))
        for member in members
        if not member.is_dir() and not _is_left_out(member.filename) and member.file_size <= LARGEST
    )


def _unzipped(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes, at most as many as it states."""
    info = archive.getinfo(name)
    # Python bounds the output of deflate alone; of others a few bytes are unpacked at once.
    piece = info.file_size if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else 4096
    content = bytearray()
    with archive.open(info) as file:
        while part := file.read(piece):
            content += part
    return bytes(content)


class _SizedReader:
    """A file of which no more than LARGEST bytes are read at once, and none beyond `most`."""

    def __init__(self, file: Any, most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST:
            raise tarfile.ReadError(f"a header states {size:,} bytes")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._check(offset)
        return self._file.seek(offset, whence)

    def _check(self, end: int) -> None:
        if end > self._most:
            raise tarfile.ReadError(f"it unpacks to more than {self._most:,} bytes")

    def tell(self) -> int:
        return self._file.tell()


@functools.cache
def _zip(path: str) -> zipfile.ZipFile:
    """A zip, opened once in each process."""
    return zipfile.ZipFile(path)


@functools.cache
def _component(name: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(rf"(?:^|.*?/)({re.escape(name)})/").match


def _is_left_out(name: str) -> bool:
    return any(is_hidden(part) for part in name.removeprefix("./").split("/"))
