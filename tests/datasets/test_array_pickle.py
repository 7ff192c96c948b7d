"""Pickled arrays: those of plain numbers come out, and no state of a file reaches NumPy."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from inrflow_core.datasets import _array_pickle

ARRAYS = [
    np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    np.arange(6, dtype=">i4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.zeros((0, 3), np.float32),
    np.array(7, np.int64),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.ndim}")
@pytest.mark.parametrize("protocol", range(6))
def test_an_array_of_numbers_comes_out_as_it_went_in(array: np.ndarray, protocol: int):
    loaded = _array_pickle.load(pickle.dumps(array, protocol)).to_numpy()
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


def forged(dtype_state: bytes, content: bytes, code: bytes = b"V8") -> bytes:
    """An array whose dtype gets a state of the file's own."""
    return (
        b"\x80\x03cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K\x01\x85"
        + b"cnumpy\ndtype\nX" + len(code).to_bytes(4, "little") + code + b"K\x00K\x01\x87R" + dtype_state + b"b"
        + b"\x89B" + len(content).to_bytes(4, "little") + content + b"tb."
    )  # fmt: skip


OBJECT_FIELD = b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}X\x01\x00\x00\x00acnumpy\ndtype\nX\x02\x00\x00\x00O8K\x00K\x01\x87RK\x00\x86sK\x08K\x01K\x00t"
PLAIN = b"(K\x03X\x01\x00\x00\x00|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (forged(OBJECT_FIELD, b"\x41" * 8), "an array of records"),
        (forged(PLAIN, b"\x41" * 8), "an array of type 'V8'"),
        (forged(PLAIN, b"\x41" * 8, code=b"O8"), "an array of type 'O8'"),
        (forged(PLAIN, b"\x41" * 7, code=b"u8"), "an array has 7 bytes, its shape says 8"),
        (pickle.dumps(np.array(["a"])), "an array of type 'U1'"),
        (pickle.dumps(np.datetime64("2020-01-01")), "it asks for `numpy.*scalar`"),
    ],
)
def test_a_type_that_is_not_of_plain_numbers_is_refused(content: bytes, message: str):
    with pytest.raises(pickle.UnpicklingError, match=message):
        _array_pickle.load(content).to_numpy()


def test_the_forged_state_does_reach_numpy_without_the_stand_ins():
    code = f"import pickle, sys; array = pickle.loads({forged(OBJECT_FIELD, bytes(8))!r}); print(array.dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "O" in done.stdout, done.stderr  # an array with pointers from the file: this is what must not happen


def test_a_text_that_is_encoded_again_and_again_is_refused():
    text = b"X" + (1000).to_bytes(4, "little") + b"a" * 1000
    again = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R0" * 50
    content = b"\x80\x02" + text + b"q\x00" + again + b"."
    with pytest.raises(pickle.UnpicklingError, match="more bytes than it has"):
        _array_pickle.load(content)


@pytest.mark.parametrize("state", [(1, 2, 3, 4, 5), (1, (2,), None, False, b""), (1, (-1,), None, False, b"")])
def test_an_array_with_a_state_of_another_form_is_broken(state: Any):
    array = _array_pickle.PickledArray()
    array.__setstate__(state)
    with pytest.raises(_array_pickle.BROKEN, match="an array without a type"):
        array.to_numpy()


@pytest.mark.parametrize("opcode", [b"r\xff\xff\xff\x7f", b"r\xf0\x00\x00\x00", b"p2000000000\n"])
def test_an_index_of_the_memo_beyond_the_file_is_refused_before_memory_is_taken(opcode: bytes):
    with pytest.raises(pickle.UnpicklingError, match=r"it has the memo index [\d,]+ in \d+ bytes"):
        _array_pickle.load(b"\x80\x02K\x01" + opcode + b".")
