"""Tables of the atoms in PDB, mmCIF and BinaryCIF files, one for each model: Biotite reads the text, the defaults are ours.

mmCIF's optional columns have the defaults of its dictionary: group `ATOM`, model 1, occupancy 1, no alternate location,
no insertion code. Where a name or number of the author is missing, that of the label is read, row by row, and the
other way round. A file without any of two such columns, or without positions, is refused with the column's name.
Keywords, categories and items of mmCIF are matched in any case. Lines of a PDB file may end behind the position.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64

from inrflow_core.errors import UnreadableItemError

MISSING_VALUES = ("", ".", "?", " ")
NO_NUMBER = np.iinfo(np.int64).min
"""The number of a residue to which the file gives none."""
UNREADABLE = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError,
    TypeError, ValueError, struct.error, zlib.error,
)  # fmt: skip
"""Exceptions that the parsers raise on broken content, besides Biotite's own."""
MOST_ROWS = 4_000_000
"""Atoms of the largest table in a BinaryCIF file."""
MOST_BYTES = 1 << 31
"""Of a column of text with a value as long as the longest line in every row: 4 million lines of 134 characters."""
OTHER_LINE_ENDS = dict.fromkeys(map(ord, "\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")
"""Characters at which Python splits lines and the formats do not."""
KEYWORD = re.compile(r"^(data_|loop_|_[^\s.]+\.)", re.MULTILINE | re.IGNORECASE)
"""What begins a block, a loop and an item of a CIF, whose case does not count."""
UNCERTAINTY = re.compile(r"\(\d+\)$")
"""The standard uncertainty behind a number of a CIF: `50.00(3)`."""


class AtomTable(NamedTuple):
    """The atoms of one model as columns, in the order of the file."""

    chain: np.ndarray
    """The author's letter of the chain."""
    strand: np.ndarray
    """mmCIF's own name of the chain; in a PDB file the letter again."""
    number: Int64[np.ndarray, " N"]
    """The author's number of the residue, else the label's; `NO_NUMBER` where there is none."""
    place: Int64[np.ndarray, " N"]
    """mmCIF's own number of the residue; in a PDB file, and outside polymers, the author's again."""
    insertion: np.ndarray
    residue: np.ndarray
    is_hetero: np.ndarray
    atom: np.ndarray
    letter: np.ndarray
    """Of the alternate location; one of `MISSING_VALUES` for none."""
    occupancy: Float[np.ndarray, " N"]
    factor: Float[np.ndarray, " N"]
    """B factors; NaN where there are none."""
    positions: Float32[np.ndarray, "N 3"]


def read_tables(content: bytes, kind: str, *, is_first_alone: bool) -> tuple[list[AtomTable], bool]:
    """The atoms of the first or of every model, with all alternate locations; whether the file is experimental.

    Args:
        kind: `pdb`, `cif` or `bcif`.

    Raises:
        UnreadableItemError: a column is missing. Content that is not of this kind raises one of `unreadable()`.
    """
    with warnings.catch_warnings(action="ignore"):  # Biotite's, of columns that it does not need
        return _from_pdb(content, is_first_alone) if kind == "pdb" else _from_cif(content, kind, is_first_alone)


def unreadable() -> tuple[type[Exception], ...]:
    """All exceptions that the parsers raise on broken content."""
    from biotite import DeserializationError, InvalidFileError
    from biotite.structure import BadStructureError

    return (*UNREADABLE, DeserializationError, InvalidFileError, BadStructureError)


def _text(content: bytes) -> str:
    text = content.decode("utf-8-sig", "replace").translate(OTHER_LINE_ENDS)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _from_pdb(content: bytes, is_first_alone: bool) -> tuple[list[AtomTable], bool]:
    from biotite.structure.io import pdb

    lines = [_complete(line) for line in _text(content).splitlines()]
    file = pdb.PDBFile.read(io.StringIO("\n".join(lines)))
    is_experimental = any(line.startswith("EXPDTA") and "THEORETICAL" not in line for line in lines)
    count = 1 if is_first_alone else file.get_model_count()
    options: Any = {"altloc": "all", "extra_fields": ["occupancy", "b_factor"]}
    return [_of_biotite(file.get_structure(model=model, **options)) for model in range(1, count + 1)], is_experimental


def _complete(line: str) -> str:
    """A line with an occupancy of 1 and no B factor where these columns are empty."""
    if not line.startswith(("ATOM", "HETATM")) or line[60:66].strip():
        return line
    line = f"{line:<80}"
    return line[:54] + (line[54:60] if line[54:60].strip() else "  1.00") + "   nan" + line[66:]


def _of_biotite(atoms: Any) -> AtomTable:
    return AtomTable(
        atoms.chain_id, atoms.chain_id, atoms.res_id.astype(np.int64), atoms.res_id.astype(np.int64), atoms.ins_code,
        atoms.res_name, atoms.hetero, atoms.atom_name, atoms.altloc_id, atoms.occupancy, atoms.b_factor, atoms.coord,
    )  # fmt: skip


def _from_cif(content: bytes, kind: str, is_first_alone: bool) -> tuple[list[AtomTable], bool]:
    from biotite.structure.io import pdbx

    if kind == "cif":
        file: Any = pdbx.CIFFile.read(io.StringIO(_standard_case(_text(content))))
    else:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
        _check_sizes(file.serialize())  # nothing is decoded yet, so this is what the file holds
    blocks = [{name.lower(): name for name in block} | {"": block} for block in file.values()]
    sites = [block[""][block["atom_site"]] for block in blocks if "atom_site" in block]
    _check_one(len(sites))
    methods = [_Columns(block[""][block["exptl"]]).text("method") for block in blocks if "exptl" in block]
    is_experimental = any(
        method not in MISSING_VALUES and "THEORETICAL" not in method.upper() for each in methods for method in each
    )
    columns = _Columns(sites[0])
    models = columns.text("pdbx_PDB_model_num", default="1")
    numbers = list(dict.fromkeys(models.tolist()))[: 1 if is_first_alone else None]
    table = _of_columns(columns)
    rows = [np.flatnonzero(models == number) for number in numbers]
    return [AtomTable(*(column[mine] for column in table)) for mine in rows], is_experimental


def _standard_case(text: str) -> str:
    """An mmCIF file whose keywords and categories are in small letters, and whose text fields have no such lines.

    Raises:
        UnreadableItemError: it has save frames, or several tables of atoms.
    """
    parts = re.split(r"^;", text, flags=re.MULTILINE)
    outside = ";".join(parts[::2])
    if re.search(r"^save_", outside, re.M | re.I):
        raise UnreadableItemError("it has save frames, which belong to dictionaries")
    _check_one(len(re.findall(r"^_atom_site\.Cartn_x\b", outside, re.M | re.I)) or 1)  # blocks may have one name
    _check_widest(outside)
    parts[::2] = [KEYWORD.sub(lambda word: word[0].lower(), part) for part in parts[::2]]
    parts[1::2] = [re.sub(r"\n(?=.)", "\n ", part) for part in parts[1::2]]
    return ";".join(parts)


def _check_widest(text: str) -> None:
    """Raise UnreadableItemError if a line of the table of atoms is so long that a column of such texts fills the memory."""
    start = re.search(r"^_atom_site\.", text, re.M | re.I)
    table = text[start.start() :] if start else ""
    end = re.search(r"^(#|loop_|data_|_(?!atom_site\.))", table, re.M | re.I)
    lines = table[: end.start() if end else None].split("\n")
    widest = max(map(len, lines))
    if 4 * widest * len(lines) > MOST_BYTES:
        raise UnreadableItemError(f"it has a line of {widest:,} characters among {len(lines):,} lines of atoms")


def _check_one(count: int) -> None:
    """Raise UnreadableItemError unless a file has one table of atoms."""
    if count == 0:
        raise UnreadableItemError("it has no atoms")
    if count > 1:
        raise UnreadableItemError(f"it has {count} tables of atoms: each belongs in a file of its own")


def _check_sizes(raw: Any) -> None:
    """Raise UnreadableItemError if a BinaryCIF file states lengths beyond `MOST_ROWS`, or would unpack to columns of text
    beyond `MOST_BYTES`: runs and dictionaries of texts take a few bytes in the file.
    """
    if isinstance(raw, Mapping):
        for name, value in raw.items():
            if name in ("rowCount", "srcSize") and not (isinstance(value, int) and 0 <= value <= MOST_ROWS):
                raise UnreadableItemError(f"it states {value!r} rows, more than {MOST_ROWS:,}")
            _check_sizes(value)
        if isinstance(raw.get("rowCount"), int) and 4 * raw["rowCount"] * _text_width(raw) > MOST_BYTES:
            raise UnreadableItemError(f"its texts would unpack to more than {MOST_BYTES:,} bytes")
    elif isinstance(raw, list):
        for value in raw:
            _check_sizes(value)


def _text_width(raw: Any) -> int:
    """The characters of a row whose texts are all the longest of their dictionaries."""
    if isinstance(raw, list):
        return sum(map(_text_width, raw))
    if not isinstance(raw, Mapping):
        return 0
    own = 0
    if raw.get("kind") == "StringArray":
        from biotite.structure.io.pdbx import encoding

        steps = [encoding.deserialize_encoding(step) for step in raw["offsetEncoding"]]
        ends = encoding.decode_stepwise(raw["offsets"], steps).astype(np.int64)
        own = len(raw["stringData"]) if ends.min(initial=0) < 0 else int(np.diff(ends).max(initial=0))
        if 4 * own * len(ends) > MOST_BYTES:
            raise UnreadableItemError(f"its dictionary of texts would unpack to more than {MOST_BYTES:,} bytes")
    return own + sum(map(_text_width, raw.values()))


class _Columns:
    """The columns of a category by their names in any case; a column is decoded when it is read."""

    def __init__(self, category: Any) -> None:
        self.category = category
        self.columns = {name.lower(): name for name in category}
        self.rows = len(category[next(iter(category))])

    def column(self, name: str) -> Any:
        """A column that is there.

        Raises:
            UnreadableItemError: it is shorter or longer than the others.
        """
        column = self.category[self.columns[name.lower()]]
        if len(column) != self.rows:
            raise UnreadableItemError("its columns differ in length")
        return column

    def text(self, *names: str, default: str | None = None) -> np.ndarray:
        """The first value of each row that the named columns have, as text.

        Raises:
            UnreadableItemError: none of them is there, and there is no default.
        """
        found = [self.column(name).as_array(str, "") for name in names if name.lower() in self.columns]
        if not found and default is None:
            raise UnreadableItemError("it has no column " + " or ".join(f"`_atom_site.{name}`" for name in names))
        values = np.full(self.rows, default or "")
        for column in reversed(found):
            values = np.where(np.isin(column, MISSING_VALUES), values, column)
        return values

    def numbers(self, name: str, *, default: float | None = None) -> Float[np.ndarray, " N"]:
        """The values of a column as numbers; raises as `text` does."""
        empty = np.nan if default is None else default
        if name.lower() in self.columns:
            try:
                return self.column(name).as_array(np.float64, empty)
            except ValueError:
                pass  # numbers with their uncertainty, or none
        values = [
            UNCERTAINTY.sub("", value) for value in self.text(name, default=None if default is None else "").tolist()
        ]
        return np.array([float(value) if value else empty for value in values])


def _of_columns(columns: _Columns) -> AtomTable:
    author, label = (_integers(columns.text(name, default="")) for name in ("auth_seq_id", "label_seq_id"))
    if not {"auth_seq_id", "label_seq_id"} & columns.columns.keys():
        columns.text("auth_seq_id", "label_seq_id")
    number = np.where(author == NO_NUMBER, label, author)
    return AtomTable(
        chain=columns.text("auth_asym_id", "label_asym_id"),
        strand=columns.text("label_asym_id", "auth_asym_id"),
        number=number,
        place=np.where(label == NO_NUMBER, number, label),
        insertion=columns.text("pdbx_PDB_ins_code", default=""),
        residue=columns.text("auth_comp_id", "label_comp_id"),
        is_hetero=columns.text("group_PDB", default="ATOM") == "HETATM",
        atom=columns.text("auth_atom_id", "label_atom_id"),
        letter=columns.text("label_alt_id", default=""),
        occupancy=columns.numbers("occupancy", default=1.0),
        factor=columns.numbers("B_iso_or_equiv", default=np.nan),
        positions=np.stack([columns.numbers(f"Cartn_{axis}") for axis in "xyz"], axis=1).astype(np.float32),
    )


def _integers(values: np.ndarray) -> Int64[np.ndarray, " N"]:
    return np.array([int(value) if value else NO_NUMBER for value in values.tolist()], dtype=np.int64)


def bounds(table: AtomTable) -> Iterator[tuple[int, int]]:
    """The first row of each residue, and the row behind its last."""
    keys = (table.chain, table.strand, table.number, table.place, table.insertion)
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0) if len(table.chain) else np.zeros(0, bool)
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(table.chain)]
    return zip(edges, edges[1:], strict=False)
