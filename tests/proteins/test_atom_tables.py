"""Tables of atoms of real files: what mmCIF leaves out has its dictionary's default, and nothing is merged."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import UnreadableItemError
from inrflow_core.proteins import atom_tables, structure_reader
from tests import protein_files
from tests.protein_files import cif, cif_rows, pdb, pdb_lines
from tests.proteins.test_structure_reader import assert_same

pytest.importorskip("biotite")

MADE = protein_files.structure("MGGSAHK")
LEFT_OUT = {
    "an insertion code": ["pdbx_PDB_ins_code"],
    "a group": ["group_PDB"],
    "an author's number": ["auth_seq_id"],
    "a label's number": ["label_seq_id"],
    "all of the author": ["auth_seq_id", "auth_asym_id", "auth_comp_id", "auth_atom_id"],
    "a model": ["pdbx_PDB_model_num"],
    "a B factor": ["B_iso_or_equiv"],
    "an occupancy": ["occupancy"],
    "an alternate location": ["label_alt_id"],
    "an element": ["type_symbol"],
    "all that has a default": [
        "group_PDB", "id", "type_symbol", "label_alt_id", "label_entity_id", "pdbx_PDB_ins_code", "occupancy",
        "B_iso_or_equiv", "pdbx_PDB_model_num",
    ],
}  # fmt: skip


@pytest.mark.parametrize("columns", LEFT_OUT.values(), ids=LEFT_OUT)
def test_an_mmcif_file_without_an_optional_column_is_the_same_structure(columns: list[str]) -> None:
    result = structure_reader.parse(cif(cif_rows(MADE), without=columns), "a.cif")
    assert_same(result, MADE)
    assert result.plddt == (None if "B_iso_or_equiv" in columns else 50.0)


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        (["Cartn_y"], "`_atom_site.Cartn_y`"),
        (["auth_asym_id", "label_asym_id"], "`_atom_site.auth_asym_id` or `_atom_site.label_asym_id`"),
        (["auth_seq_id", "label_seq_id"], "`_atom_site.auth_seq_id` or `_atom_site.label_seq_id`"),
        (["auth_comp_id", "label_comp_id"], "`_atom_site.auth_comp_id` or `_atom_site.label_comp_id`"),
        (["auth_atom_id", "label_atom_id"], "`_atom_site.auth_atom_id` or `_atom_site.label_atom_id`"),
    ],
)
def test_a_file_without_a_needed_column_is_refused_by_its_name(columns: list[str], named: str) -> None:
    with pytest.raises(UnreadableItemError, match=re.escape(f"read as a .cif file: it has no column {named}")):
        structure_reader.parse(cif(cif_rows(MADE), without=columns), "a.cif")


PLAIN = cif(cif_rows(MADE)).decode()
WRITTEN = {
    "an item in capitals": PLAIN.replace("_atom_site.Cartn_x", "_ATOM_SITE.CARTN_X"),
    "all items in capitals": re.sub(r"^_atom_site\.\w+", lambda item: item[0].upper(), PLAIN, flags=re.MULTILINE),
    "keywords in capitals": PLAIN.replace("loop_", "LOOP_").replace("data_", "DATA_"),
    "a byte order mark": "\ufeff" + PLAIN,
    "carriage returns alone": PLAIN.replace("\n", "\r"),
    "uncertainties": PLAIN.replace(" 50.00 ", " 50.00(3) "),
    "a title with lines like keywords": PLAIN.replace("#\n", "_struct.title\n;First\ndata_second\nloop_\n_a.b c\n;\n#\n", 1),
    "a title with a line separator": PLAIN.replace("#\n", "_struct.title 'first \u2028data_second'\n#\n", 1),
    "another block first": "data_meta\n_entry.id x\n#\n" + PLAIN,
}  # fmt: skip


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_an_mmcif_file_is_read_however_its_grammar_lets_it_be_written(text: str) -> None:
    result = structure_reader.parse(text.encode(), "a.cif")
    assert_same(result, MADE)
    assert result.plddt == 50.0


def test_missing_values_have_their_defaults_row_by_row() -> None:
    rows = cif_rows(MADE)
    rows[3] |= {"occupancy": "?", "group_PDB": ".", "label_alt_id": "?", "pdbx_PDB_model_num": "?"}
    rows[4] |= {"auth_atom_id": "?", "auth_comp_id": ".", "auth_asym_id": "?"}
    assert_same(structure_reader.parse(cif(rows), "a.cif"), MADE)


@pytest.mark.parametrize("value", [".", "?"])
def test_the_label_numbers_residues_where_the_author_does_not(value: str) -> None:
    assert_same(structure_reader.parse(cif(cif_rows(MADE, auth_seq_id=value)), "a.cif"), MADE)
    with pytest.raises(UnreadableItemError, match="its residues have no numbers"):
        structure_reader.parse(cif(cif_rows(MADE, auth_seq_id=value, label_seq_id=value)), "a.cif")


def test_residues_of_one_authors_number_are_distinguished_by_the_label() -> None:
    rows = [row | {"auth_seq_id": "17"} if row["label_seq_id"] in ("2", "3") else row for row in cif_rows(MADE)]
    result = structure_reader.parse(cif(rows), "a.cif")
    assert result.sequence == "MGGSAHK" and result.numbers.tolist() == [1, 17, 17, 4, 5, 6, 7]
    np.testing.assert_array_equal(result.positions, MADE.positions)


def renumbered(numbers: dict[int, int]) -> bytes:
    """A PDB file of `MADE` with other numbers."""
    return pdb(
        [line[:22] + f"{numbers.get(int(line[22:26]), int(line[22:26])):4d}" + line[26:] for line in pdb_lines(MADE)]
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (renumbered({2: 17, 3: 17}), "residue 17 has 2 atoms `N`"),
        (renumbered(dict.fromkeys(range(1, 8), 1)), "residue 1 is both `MET` and `GLY`"),
        (renumbered({5: 4}), "residue 4 is both `SER` and `ALA`"),
        (renumbered({5: 2}), "residue 2 of chain `A` is there 2 times"),
        (pdb([*pdb_lines(MADE), "TER", *pdb_lines(MADE)]), "residue 1 of chain `A` is there 2 times"),
        (pdb([*pdb_lines(MADE)[:8], pdb_lines(MADE)[4], *pdb_lines(MADE)[8:]]), "residue 1 has 2 atoms `CB`"),
    ],
    ids=["two of one name", "all of number 1", "two of two names", "apart", "a chain twice", "an atom twice"],
)
def test_residues_of_one_number_are_never_merged(content: bytes, reason: str) -> None:
    with pytest.raises(UnreadableItemError, match=reason):
        structure_reader.parse(content, "a.pdb")


@pytest.mark.parametrize("order", ["one after the other", "atom by atom"])
def test_models_are_distinguished_by_their_numbers(order: str, tmp_path: Path) -> None:
    second = protein_files.structure("MGGSAHK", seed=1)
    one, other = cif_rows(MADE, pdbx_PDB_model_num=3), cif_rows(second, pdbx_PDB_model_num=5)
    rows = (
        one + other
        if order == "one after the other"
        else [row for pair in zip(one, other, strict=True) for row in pair]
    )
    (tmp_path / "a.cif").write_bytes(cif(rows))
    result = structure_reader.read_models(tmp_path / "a.cif")
    for structure, expected in zip(result, (MADE, second), strict=True):
        assert_same(structure, expected)


def test_lines_of_a_pdb_file_may_end_behind_the_position() -> None:
    result = structure_reader.parse(pdb([line[:54] for line in pdb_lines(MADE)]), "a.pdb")
    assert_same(result, MADE)
    assert result.plddt is None


def test_save_frames_and_several_tables_of_atoms_are_refused() -> None:
    faults = {
        PLAIN + "save_x\n_a.b c\nsave_\n": "save frames",
        PLAIN + PLAIN.replace("data_made", "data_second"): "it has 2 tables of atoms",
        PLAIN + PLAIN: "it has 2 tables of atoms",
        PLAIN + PLAIN[PLAIN.index("loop_") :]: "it has 2 tables of atoms",
        "data_x\n_entry.id x\n": "it has no atoms",
    }
    for text, reason in faults.items():
        with pytest.raises(UnreadableItemError, match=reason):
            structure_reader.parse(text.encode(), "a.cif")


def test_a_length_that_a_binary_file_states_is_bounded_before_memory_is_taken() -> None:
    from biotite.structure.io import pdbx

    file = pdbx.BinaryCIFFile.read(io.BytesIO(protein_files.bcif(PLAIN)))
    file["sample"]["atom_site"]["auth_seq_id"].data.encoding.insert(0, pdbx.RunLengthEncoding())
    packed = io.BytesIO()
    file.write(packed)
    run_length = packed.getvalue()
    assert_same(structure_reader.parse(run_length, "a.bcif"), MADE)
    index = run_length.index(b"srcSize") + 7
    bomb = run_length[:index] + b"\xce\x7f\xff\xff\xff" + run_length[index + 1 :]
    with pytest.raises(UnreadableItemError, match="it states 2147483647 rows"):
        structure_reader.parse(bomb, "a.bcif")


def test_a_long_text_in_the_dictionary_of_a_binary_file_is_refused_before_memory_is_taken() -> None:
    from biotite.structure.io import pdbx

    file = pdbx.BinaryCIFFile.read(io.BytesIO(protein_files.bcif(PLAIN)))
    site = file["sample"]["atom_site"]
    texts = site["label_comp_id"].as_array(str)
    width = atom_tables.MOST_BYTES // (4 * len(texts)) + 1
    texts[:] = "GLY"
    encoding = pdbx.StringArrayEncoding(np.array(["GLY"]))
    site["label_comp_id"] = pdbx.BinaryCIFColumn(pdbx.BinaryCIFData(texts, [encoding]))
    packed = io.BytesIO()
    file.write(packed)
    content = packed.getvalue()
    assert len(structure_reader.parse(content, "a.bcif").codes)
    raw = file.serialize()
    (category,) = [one for one in raw["dataBlocks"][0]["categories"] if one["name"] == "_atom_site"]
    (column,) = [one for one in category["columns"] if one["name"] == "label_comp_id"]
    step = column["data"]["encoding"][0]
    step["stringData"] = "x" * width
    step["offsets"] = np.array([0, width], "<i4").tobytes()
    step["offsetEncoding"] = [{"kind": "ByteArray", "type": 3}]
    with pytest.raises(UnreadableItemError, match="its texts would unpack to more than 2,147,483,648 bytes"):
        atom_tables._check_sizes(raw)
    step["offsets"] = np.arange(width, dtype="<i4").tobytes()[: 4 << 16]
    atom_tables._check_sizes(raw)


def test_a_long_value_among_many_atoms_is_refused_before_memory_is_taken() -> None:
    rows = cif_rows(MADE)
    content = cif([rows[0] | {"auth_atom_id": "x" * 200_000}, *rows[1:] * 70])
    with pytest.raises(UnreadableItemError, match="it has a line of 200,0.. characters among 3,... lines of atoms"):
        structure_reader.parse(content, "a.cif")


def test_an_atom_with_and_without_a_letter_is_where_it_is_occupied_more() -> None:
    lines = pdb_lines(MADE)
    other = lines[4][:16] + "B" + lines[4][17:30] + f"{9.0:8.3f}" + lines[4][38:54]
    for occupancy, x in ((0.3, MADE.positions[4, 0]), (0.8, 9.0)):
        plain = lines[4][:54] + f"{1 - occupancy:6.2f}" + lines[4][60:]
        content = pdb([*lines[:4], plain, f"{other}{occupancy:6.2f} 20.00", *lines[5:]])
        assert structure_reader.parse(content, "a.pdb").positions[4, 0] == pytest.approx(x, abs=1e-3)
