"""The constants of a TensorFlow GraphDef (.pb), read from protobuf's wire format without TensorFlow.

Field numbers are those of tensorflow/core/framework/{graph,node_def,attr_value,tensor,tensor_shape,types}.proto.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from inrflow_core.errors import IntegrityError

VARINT, EIGHT, BYTES, FOUR = 0, 1, 2, 5
"""Kinds of fields on the wire."""
NODE: Final = 1
NODE_NAME, NODE_OP, NODE_ATTRIBUTE = 1, 2, 5
KEY, VALUE = 1, 2
ATTRIBUTE_TENSOR: Final = 8
TENSOR_TYPE, TENSOR_SHAPE, TENSOR_CONTENT, TENSOR_FLOATS = 1, 2, 4, 5
SHAPE_DIMENSION, DIMENSION_SIZE = 2, 1
FLOAT: Final = 1
"""DT_FLOAT: the only type that weights have here."""
MOST_DIMENSIONS: Final = 8
EXPANDED: Final = 2
"""The constants of a file hold at most this times its bytes: a constant may be stored as one number for all its elements."""

Field = tuple[int, int, int | memoryview]
"""Number, kind, and the whole number or the bytes."""


def constants(data: bytes) -> dict[str, np.ndarray]:
    """Every float32 constant by its node's name.

    Raises:
        IntegrityError: the bytes are no GraphDef, end too soon, or state larger constants than such a file holds.
    """
    tensors, room = {}, EXPANDED * len(data)
    try:
        for number, kind, node in _fields(memoryview(data)):
            if number == NODE and kind == BYTES:
                assert isinstance(node, memoryview)
                name, tensor = _constant(node, room)
                if tensor is not None:
                    tensors[name] = tensor
                    room -= tensor.nbytes
    except (ValueError, UnicodeDecodeError) as error:
        raise IntegrityError(f"no whole GraphDef: {error}", hint="get the file again") from error
    return tensors


def _constant(node: memoryview, room: int) -> tuple[str, np.ndarray | None]:
    """A node's name, and its numbers where it is a constant of float32, of at most `room` bytes."""
    name, operation, tensor = "", "", None
    for number, _, value in _fields(node):
        if number == NODE_NAME:
            name = bytes(_bytes(value)).decode()
        elif number == NODE_OP:
            operation = bytes(_bytes(value)).decode()
        elif number == NODE_ATTRIBUTE:
            entry = {number: part for number, _, part in _fields(_bytes(value))}
            if bytes(_bytes(entry.get(KEY, b""))) == b"value":
                tensor = _bytes(entry.get(VALUE, b""))
    if operation != "Const" or tensor is None:
        return name, None
    for number, _, value in _fields(tensor):
        if number == ATTRIBUTE_TENSOR:
            return name, _tensor(_bytes(value), room)
    return name, None


def _tensor(message: memoryview, room: int) -> np.ndarray | None:
    """Its numbers in C order; None of another type. Of fewer numbers than elements, the last is repeated.

    Raises:
        ValueError: the message is damaged, or states more than `room` bytes.
    """
    kind, shape, content, floats = 0, (), b"", []
    for number, wire, value in _fields(message):
        if number == TENSOR_TYPE:
            kind = _whole(value)
        elif number == TENSOR_SHAPE:
            shape = tuple(
                _dimension(_bytes(part)) for number, _, part in _fields(_bytes(value)) if number == SHAPE_DIMENSION
            )
        elif number == TENSOR_CONTENT:
            content = bytes(_bytes(value))
        elif number == TENSOR_FLOATS:
            if wire not in (BYTES, FOUR):  # packed, or four bytes each
                raise ValueError(f"a float32 as a field of kind {wire}")
            floats.append(bytes(_bytes(value)) if wire == BYTES else _whole(value).to_bytes(4, "little"))
    if kind != FLOAT:
        return None
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"a constant of {len(shape)} dimensions")
    values, size = np.frombuffer(content or b"".join(floats), dtype="<f4"), math.prod(shape)
    if max(size, *shape, 0) * values.itemsize > room:
        raise ValueError(f"a constant of shape {shape} is larger than the file can hold")
    if len(values) < size and not content:
        values = np.pad(values, (0, size - len(values)), mode="edge" if len(values) else "constant")
    if len(values) != size:
        raise ValueError(f"a constant of shape {shape} has {len(values)} numbers")
    return values.reshape(shape)


def _dimension(message: memoryview) -> int:
    return next((_whole(value) for number, _, value in _fields(message) if number == DIMENSION_SIZE), 0)


def _fields(message: memoryview) -> Iterator[Field]:
    """The fields of a message, in their order."""
    offset = 0
    while offset < len(message):
        tag, offset = _varint(message, offset)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            value, offset = _varint(message, offset)
        elif kind in (EIGHT, FOUR, BYTES):
            length = {EIGHT: 8, FOUR: 4}.get(kind)
            if length is None:
                length, offset = _varint(message, offset)
            if offset + length > len(message):
                raise ValueError(f"it ends {offset + length - len(message)} bytes too soon")
            value, offset = message[offset : offset + length], offset + length
            if kind != BYTES:
                value = int.from_bytes(value, "little")
        else:
            raise ValueError(f"a field of kind {kind} at byte {offset}")
        yield number, kind, value


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    """A whole number in groups of seven bits, the lowest first, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(message):
            raise ValueError("it ends within a number")
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError("a number of more than ten bytes")


def _bytes(value: int | bytes | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes should be")
    return memoryview(value)


def _whole(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes where a number should be")
    return value
