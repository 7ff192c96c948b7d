"""Arrays of plain numbers from untrusted pickles: neither code of the file nor NumPy's own unpickling runs.

`numpy.dtype` and `numpy.ndarray` take their whole state from the pickle, so that a void dtype with an object field
turns bytes of the file into pointers. This unpickler replaces both, and builds arrays from a type code and bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

NUMBER = re.compile(r"[<>|=]?([biuf])([1248])")
"""The type codes that are read: truth values, integers and floating-point numbers."""
MEMO_INDEXES = ("PUT", "BINPUT", "LONG_BINPUT")
"""The opcodes that store a value at an index of the file's."""
BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ImportError,
    MemoryError,
    ArithmeticError,
    RecursionError,
)
"""Exceptions that `load` raises for a broken or a refused pickle."""


def load(content: bytes) -> Any:
    """The content of a pickle: numbers, text, lists, dictionaries and arrays of plain numbers.

    Arrays come as `PickledArray`. Texts of Python 2 are bytes.

    Raises:
        BROKEN: the pickle is damaged, or asks for anything else.
    """
    _check_memo(content)
    return _Unpickler(content).load()


def _check_memo(content: bytes) -> None:
    """Raise UnpicklingError where an index of the memo is beyond the number of bytes: memory would follow the index."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in MEMO_INDEXES and argument is not None and argument > len(content):
            raise pickle.UnpicklingError(f"it has the memo index {argument:,} in {len(content):,} bytes")


class PickledArray:
    """An array as a pickle describes it; `to_numpy` builds it."""

    dtype: PickledDType
    shape: tuple[int, ...]
    is_fortran: bool
    content: bytes

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, self.is_fortran, self.content = state

    def to_numpy(self) -> np.ndarray:
        """The array.

        Raises:
            pickle.UnpicklingError: it is not of plain numbers, or its shape needs another number of bytes.
        """
        if not isinstance(self.dtype, PickledDType):
            raise pickle.UnpicklingError("it has an array without a type")
        dtype = self.dtype.to_numpy()
        if not isinstance(self.shape, tuple) or not all(type(size) is int and size >= 0 for size in self.shape):
            raise pickle.UnpicklingError("it has an array without a shape")
        if not isinstance(self.content, bytes | bytearray | memoryview):
            raise pickle.UnpicklingError("it has an array without bytes")
        expected = math.prod(self.shape) * dtype.itemsize
        if len(self.content) != expected:
            raise pickle.UnpicklingError(f"an array has {len(self.content):,} bytes, its shape says {expected:,}")
        return np.frombuffer(self.content, dtype).reshape(self.shape, order="F" if self.is_fortran else "C")


class PickledDType:
    """A type of numbers as a pickle describes it."""

    order = "|"

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        _, order, subtype, names, fields, *_ = state
        if (subtype, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("it has an array of records, which is refused")
        self.order = order.decode("latin1") if isinstance(order, bytes) else order

    def to_numpy(self) -> np.dtype:
        """The type.

        Raises:
            pickle.UnpicklingError: it is not of plain numbers.
        """
        if not isinstance(self.code, str) or not NUMBER.fullmatch(self.code) or self.order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has an array of type {str(self.code)[:20]!r}, which is refused")
        return np.dtype(self.code).newbyteorder(self.order)


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._encodable = len(content)

    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., Any]:
        allowed: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): PickledArray,
            ("numpy", "dtype"): PickledDType,
            ("numpy.core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.multiarray", "_reconstruct"): _empty_array,
            ("numpy._core.numeric", "_frombuffer"): _array_of_bytes,
            ("_codecs", "encode"): self._encode,
            ("__builtin__", "bytes"): _no_bytes,
            ("builtins", "bytes"): _no_bytes,
        }
        if (module_name, global_name) not in allowed:
            raise pickle.UnpicklingError(f"it asks for `{module_name}.{global_name}`, which is refused")
        return allowed[module_name, global_name]

    def _encode(self, text: str, encoding: str) -> bytes:
        """Bytes as protocols 0 to 2 write them; in total at most the file's size, also if a text is repeated."""
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"it asks for the encoding {str(encoding)[:20]!r}, which is refused")
        self._encodable -= len(text)
        if self._encodable < 0:
            raise pickle.UnpicklingError("it makes more bytes than it has")
        return text.encode("latin1")


def _no_bytes() -> bytes:
    """The constructor of empty bytes in protocols 0 to 2."""
    return b""


def _empty_array(*_: Any) -> PickledArray:
    return PickledArray()


def _array_of_bytes(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> PickledArray:
    """The constructor of arrays in the newest pickles."""
    array = PickledArray()
    array.__setstate__((1, shape, dtype, order == "F", content))
    return array
