"""Keys and values of an LMDB file, read page by page: a damaged file is an error and cannot end the process.

liblmdb maps the file and follows its page numbers, so that a file that is cut off or damaged is a bus error or a
segmentation fault. Format: liblmdb 0.9, `mdb.c`, 64-bit and little-endian: a page has a header of 16 bytes, pages 0 and
1 are the two states of the database, the rest is a B+ tree whose large values lie on pages of their own.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from inrflow_core.errors import IntegrityError, UnreadableItemError
from inrflow_core.storage.plain_file import open_plain_file

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE = struct.Struct("<QHHHH")
"""A page's header: number, padding, kind, end of its table of entries, start of its free space."""
STATE = struct.Struct("<IIQQ" + "IHHQQQQQ" * 2 + "QQ")
"""The content of pages 0 and 1; the first table's padding is the size of a page."""
ENTRY = struct.Struct("<HHHH")
"""The header of an entry: the size of its value (or a page's number) in three parts, and the size of its key."""
BRANCH, LEAF, OVERFLOW = 1, 2, 4
ON_PAGES_OF_ITS_OWN = 1
"""The flag of an entry with a large value."""
EMPTY = (1 << 64) - 1
"""The root of a database without entries."""
MOST_DEPTH = 32
PAGE_SIZES = {1 << bits for bits in range(8, 17)}
AGAIN = "copy or download it again"


class Record(NamedTuple):
    """The location of a value."""

    file: str
    start: int
    size: int
    page: int = -1
    """The first page of a large value."""

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UnreadableItemError: the file ends before them, or their page is another.
        """
        try:
            with open(self.file, "rb", buffering=0) as file:
                content = os.pread(file.fileno(), self.size, self.start)
                header = os.pread(file.fileno(), PAGE.size, self.start - PAGE.size) if self.page >= 0 else b""
        except OSError as error:
            raise UnreadableItemError(f"the database cannot be read: {error.strerror}") from error
        if len(content) < self.size:
            raise UnreadableItemError("the database ends before it")
        if self.page >= 0:
            number, _, kind, low, high = PAGE.unpack(header)
            if number != self.page or kind != OVERFLOW or (low | high << 16) == 0:
                raise UnreadableItemError("its page of the database is damaged")
        return content


def records(path: Path) -> list[tuple[bytes, Record]]:
    """Every key and the location of its value, in the order of the keys.

    Raises:
        MissingError, IntegrityError: there is no such plain file, it is not an LMDB, is cut off or has damaged pages.
    """
    try:
        with open_plain_file(path, hint=AGAIN) as file:
            tree = _Tree(str(path), file.fileno())
            found = list(tree.walk())
    except (struct.error, ValueError) as error:
        raise IntegrityError(f"`{path.parent}` is not a complete database: {error}", hint=AGAIN) from error
    return found


class _Tree:
    """The newest state of an open database."""

    def __init__(self, path: str, handle: int) -> None:
        self._path, self._handle = path, handle
        self._bytes = os.fstat(handle).st_size
        first = self._state(0)
        self._page_size = first[4]
        if self._page_size not in PAGE_SIZES:
            raise ValueError(f"it states pages of {self._page_size:,} bytes")
        newest = max(first, self._state(self._page_size), key=lambda state: state[-1])
        self._count, self._root, self._last = newest[-4], newest[-3], newest[-2]
        if self._bytes < (self._last + 1) * self._page_size:
            raise ValueError(f"it has {self._bytes:,} bytes, its pages need {(self._last + 1) * self._page_size:,}")

    def walk(self) -> Iterator[tuple[bytes, Record]]:
        """Every key and the location of its value."""
        rest = [] if self._root == EMPTY else [(self._root, 1)]
        seen, count, last_key = set(), 0, None
        while rest:
            number, depth = rest.pop()
            if number in seen or not 2 <= number <= self._last or depth > MOST_DEPTH:
                raise ValueError(f"its page {number:,} is not a page of the tree")
            seen.add(number)
            kind, content, starts = self._page(number)
            if kind == BRANCH:
                rest += [(self._child(content, start), depth + 1) for start in reversed(starts)]
                continue
            for start in starts:
                key, record = self._leaf(number, content, start)
                if last_key is not None and key <= last_key:
                    raise ValueError(f"the keys of its page {number:,} are not in order")
                last_key, count = key, count + 1
                yield key, record
        if count != self._count:
            raise ValueError(f"it has {count:,} keys and states {self._count:,}")

    def _state(self, start: int) -> tuple[int, ...]:
        content = os.pread(self._handle, PAGE.size + STATE.size, start)
        state = STATE.unpack(content[PAGE.size :])
        if state[:2] != (MAGIC, VERSION):
            raise ValueError("it does not begin as an LMDB does")
        return state

    def _page(self, number: int) -> tuple[int, bytes, list[int]]:
        """Kind and content of a page, and where its entries start."""
        content = os.pread(self._handle, self._page_size, number * self._page_size)
        stated, _, kind, low, high = PAGE.unpack(content[: PAGE.size])
        if stated != number or kind not in (BRANCH, LEAF) or not PAGE.size <= low <= high <= len(content) or low % 2:
            raise ValueError(f"its page {number:,} is damaged")
        starts = struct.unpack(f"<{(low - PAGE.size) // 2}H", content[PAGE.size : low])
        if any(start < high for start in starts):
            raise ValueError(f"its page {number:,} has an entry outside")
        return kind, content, list(starts)

    def _child(self, content: bytes, start: int) -> int:
        low, middle, high, _ = ENTRY.unpack_from(content, start)
        return low | middle << 16 | high << 32

    def _leaf(self, number: int, content: bytes, start: int) -> tuple[bytes, Record]:
        low, high, flags, key_size = ENTRY.unpack_from(content, start)
        size, at = low | high << 16, start + ENTRY.size + key_size
        key = content[start + ENTRY.size : at]
        is_large = flags == ON_PAGES_OF_ITS_OWN
        if flags not in (0, ON_PAGES_OF_ITS_OWN) or at + (8 if is_large else size) > len(content):
            raise ValueError(f"its page {number:,} has an entry that is damaged or of another kind")
        if not is_large:
            return key, Record(self._path, number * self._page_size + at, size)
        (page,) = struct.unpack_from("<Q", content, at)
        if page > self._last:
            raise ValueError(f"its page {number:,} names the page {page:,}, beyond its end")
        return key, Record(self._path, page * self._page_size + PAGE.size, size, page)
