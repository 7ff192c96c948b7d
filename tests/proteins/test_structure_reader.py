"""Structures in files: the three formats agree, faults of real files are met, and what is written others read."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.errors import IntegrityError, MissingError, UnreadableItemError, UsageError
from inrflow_core.proteins import residues, structure_reader, structure_writer
from inrflow_core.proteins.structure import Structure
from tests import protein_files
from tests.protein_files import pdb, pdb_line, pdb_lines

pytest.importorskip("biotite")


def assert_same(one: Structure, other: Structure, *, tolerance: float = 0.0) -> None:
    assert one.sequence == other.sequence
    np.testing.assert_array_equal(one.is_known, other.is_known)
    np.testing.assert_array_equal(one.numbers, other.numbers)
    np.testing.assert_allclose(one.positions, other.positions, atol=tolerance, rtol=0)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("kind", ["pdb", "cif", "bcif"])
def test_what_is_written_is_read_back_exactly(kind: str, packed: bool) -> None:
    made = protein_files.structure()
    text = {"pdb": structure_writer.pdb_text, "cif": structure_writer.cif_text}.get(kind, structure_writer.cif_text)
    content = text([made], {"seed": "7"})
    data = protein_files.bcif(content) if kind == "bcif" else content.encode()
    file = f"made.{kind}" + (".gz" if packed else "")
    result = structure_reader.parse(gzip.compress(data) if packed else data, file)
    assert_same(result, made)
    assert result.name == "made"


@pytest.mark.parametrize("kind", ["pdb", "cif"])
def test_gemmi_and_biotite_read_models_names_and_origin(kind: str, tmp_path: Path) -> None:
    gemmi = pytest.importorskip("gemmi")
    from biotite.structure.io import load_structure

    first = protein_files.structure(seed=1)
    second = protein_files.structure(seed=2)
    text = {"pdb": structure_writer.pdb_text, "cif": structure_writer.cif_text}[kind]
    origin = {"checkpoint": "a" * 100, "seed": "5"}
    path = tmp_path / f"two.{kind}"
    path.write_text(text([first, second], origin), encoding="ascii")
    for theirs, ours in zip(gemmi.read_structure(str(path)), (first, second), strict=True):
        [chain] = theirs
        assert chain.name == "A"
        assert [residue.name for residue in chain] == [residues.NAMES[code] for code in ours.codes]
        assert [residue.seqid.num for residue in chain] == list(range(1, 21))
        atoms = [atom for residue in chain for atom in residue]
        assert tuple(atom.name for atom in atoms) == sum(residues.ATOMS, ())
        assert tuple(atom.element.name for atom in atoms) == sum(residues.ELEMENTS, ())
        np.testing.assert_allclose([atom.pos.tolist() for atom in atoms], ours.positions, atol=1e-4)
    read = gemmi.read_structure(str(path))
    read.setup_entities()
    assert list(read.entities[0].full_sequence) == list(residues.NAMES)
    both = load_structure(path)
    np.testing.assert_allclose(both.coord, [first.positions, second.positions], atol=1e-4)
    flat = "".join(line.removeprefix("REMARK   3 ").removeprefix("# ").strip() for line in path.open())
    assert "seed: 5" in flat and "a" * 100 in flat


def test_only_known_atoms_are_written() -> None:
    made = protein_files.structure("GAG")
    known = made.is_known.copy()
    known[[3, 8]] = False
    part = Structure("part", made.codes, np.where(known[:, None], made.positions, 0), known, made.numbers)
    for kind, text in (("pdb", structure_writer.pdb_text), ("cif", structure_writer.cif_text)):
        assert_same(structure_reader.parse(text([part], {}).encode(), f"part.{kind}"), part)


def test_every_line_of_a_pdb_file_has_80_columns() -> None:
    lines = structure_writer.pdb_text([protein_files.structure()] * 2, {"note": "x" * 200}).splitlines()
    assert {len(line) for line in lines} == {80}
    assert [line[:6].strip() for line in lines if line[:4] not in ("ATOM", "REMA", "SEQR")] == [
        "MODEL", "TER", "ENDMDL", "MODEL", "TER", "ENDMDL", "END",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["pdb", "cif"])
def test_a_file_is_of_the_whole_origin_that_it_tells_and_of_no_shorter_one(kind: str, tmp_path: Path) -> None:
    text = {"pdb": structure_writer.pdb_text, "cif": structure_writer.cif_text}[kind]
    origin = {"weights": "a" * 200, "seeds": "0-19", "sampler": "euler"}
    path = tmp_path / f"made.{kind}"
    path.write_text(text([protein_files.structure()], origin), encoding="ascii")
    assert structure_writer.has_provenance(path, origin)
    for other in ({"seeds": "0-1"}, {"weights": "a" * 20}, {"guide": "b"}):
        assert not structure_writer.has_provenance(path, origin | other)
    assert not structure_writer.has_provenance(path, {"weights": origin["weights"]})


@pytest.mark.parametrize("kind", ["pdb", "cif"])
def test_a_changed_byte_of_a_written_file_does_not_match_its_digest(kind: str, tmp_path: Path) -> None:
    text = {"pdb": structure_writer.pdb_text, "cif": structure_writer.cif_text}[kind]
    content = text([protein_files.structure("GAG")], {"seeds": "0-19"}).encode()
    path = tmp_path / f"made.{kind}"
    path.write_bytes(content)
    assert not structure_writer.is_damaged(path)
    position = content.index(b"digest")
    digest = range(position + 8, position + 40)
    for index in {*range(0, len(content), 7), *digest} - {*range(position - 11, position + 8)}:
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        assert structure_writer.is_damaged(path), index
    path.write_bytes(
        content[: content.index(b"digest")].rpartition(b"\n")[0] + content[position + 40 :].partition(b"\n")[2]
    )
    assert not structure_writer.is_damaged(path) and not structure_writer.has_provenance(path, {"seeds": "0-19"})
    path.write_bytes(content[: position + 8] + b' {"a":' + content[position + 8 :])  # another colon before the digest
    assert structure_writer.is_damaged(path)
    line = content.rindex(b"\n", 0, position) + 1
    path.write_bytes(content[:line] + b"{" * 20 + content[line:])  # the digest's line no longer begins as one
    assert not structure_writer.has_provenance(path, {"seeds": "0-19"})
    path.write_bytes(content)
    assert structure_writer.has_provenance(path, {"seeds": "0-19"})


def test_a_file_that_is_larger_than_any_that_is_written_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "hole.pdb").open("wb") as file:
        file.truncate(6 << 30)
    for check in (structure_writer.is_damaged, lambda path: structure_writer.has_provenance(path, {})):
        with pytest.raises(IntegrityError, match="has 6,442,450,944 bytes, more than"):
            check(tmp_path / "hole.pdb")


def test_what_a_pdb_file_cannot_hold_is_refused() -> None:
    with pytest.raises(UsageError, match="10,000 residues"):
        structure_writer.pdb_text([protein_files.structure("G" * 10_000)], {})
    with pytest.raises(UsageError, match="differ in their sequence"):
        structure_writer.cif_text([protein_files.structure("GA"), protein_files.structure("AG")], {})
    long = protein_files.structure("G" * 10_000)
    assert_same(structure_reader.parse(structure_writer.cif_text([long], {}).encode(), "a.cif"), long, tolerance=2e-3)


def test_the_place_with_the_highest_occupancy_counts() -> None:
    made = protein_files.structure("GAG")
    lines = pdb_lines(made)
    shifted = made.positions[8] + 1
    lines[8:9] = [
        pdb_line(9, "CB", "ALA", 2, made.positions[8].tolist(), letter="A", occupancy=0.4),
        pdb_line(10, "CB", "ALA", 2, shifted.tolist(), letter="B", occupancy=0.6),
    ]
    result = structure_reader.parse(pdb(lines), "a.pdb")
    np.testing.assert_allclose(result.positions[8], shifted, atol=1e-3)
    lines[8:10] = [line.replace(" 0.40", " 0.50").replace(" 0.60", " 0.50") for line in lines[8:10]]
    result = structure_reader.parse(pdb(lines), "a.pdb")
    np.testing.assert_allclose(result.positions[8], made.positions[8], atol=1e-3)


def test_of_two_residues_in_one_place_the_more_occupied_counts() -> None:
    made = protein_files.structure("GAG")
    lines = pdb_lines(made)
    twice = [
        pdb_line(
            20, atom, name, 2, made.positions[4 + index].tolist(), letter=letter, occupancy=share
        )
        for name, letter, share in (("ALA", "A", 0.3), ("SER", "B", 0.7))
        for index, atom in enumerate(("N", "CA", "C", "O", "CB"))
    ]  # fmt: skip
    result = structure_reader.parse(pdb([*lines[:4], *twice, *lines[9:]]), "a.pdb")
    assert result.sequence == "GSG"
    assert result.is_known.tolist() == [True] * 9 + [False] + [True] * 4


def test_modified_residues_are_read_as_their_parents() -> None:
    made = protein_files.structure("GMSG")
    lines = [
        line.replace("ATOM  ", "HETATM").replace(" SD  MET", "SE   MET").replace("MET", "MSE")
        if " MET " in line
        else line.replace("ATOM  ", "HETATM").replace("SER", "SEP")
        if " SER " in line
        else line
        for line in pdb_lines(made)
    ]
    assert_same(structure_reader.parse(pdb(lines), "a.pdb"), made)


FORCE_FIELDS = [
    *(("HIS", name) for name in ("HSD", "HSE", "HSP", "HID", "HIE", "HIP")), ("GLU", "GLH"), ("ASP", "ASH"),
    ("CYS", "CYX"), ("CYS", "CYM"), ("LYS", "LYN"), ("ARG", "ARN"), ("TYR", "TYM"),
]  # fmt: skip


@pytest.mark.parametrize(("parent", "name"), FORCE_FIELDS)
@pytest.mark.parametrize("kind", ["pdb", "cif"])
def test_names_of_force_fields_are_read_as_their_parents(kind: str, parent: str, name: str) -> None:
    made = protein_files.structure("AHECDKRYG")
    content = protein_files.cif(protein_files.cif_rows(made)) if kind == "cif" else pdb(pdb_lines(made))
    assert_same(structure_reader.parse(content.replace(parent.encode(), name.encode()), f"a.{kind}"), made)


def test_a_residue_with_other_atoms_is_not_what_a_force_field_calls_so() -> None:
    lines = pdb_lines(protein_files.structure("GHG"))
    homoserine = [
        line.replace("HIS", "HSE").replace(" CG ", " C4 ").replace(" CB ", " C3 ")
        for line in lines
        if "HIS" not in line or line[12:16].strip() in ("N", "CA", "C", "O", "CB", "CG")
    ]
    result = structure_reader.parse(pdb(homoserine), "a.pdb")  # the component dictionary's parent
    assert result.sequence == "GSG" and not result.is_known.all()


def test_atoms_that_force_fields_name_otherwise_are_known() -> None:
    made = protein_files.structure("GIG")
    lines = [line.replace(" CD1 ILE", " CD  ILE") for line in pdb_lines(made)]
    lines[-1] = lines[-1].replace(" O   GLY", " OT1 GLY")
    assert_same(structure_reader.parse(pdb([*lines, pdb_line(99, "OT2", "GLY", 3, [0, 0, 0])]), "a.pdb"), made)


@pytest.mark.parametrize("name", ["DAL", "3MY", "UNK", "CRO"])  # 3MY is a D-tyrosine, by its parent TYR
def test_residues_without_a_parent_make_the_file_bad(name: str) -> None:
    lines = [line.replace("ALA", name) for line in pdb_lines(protein_files.structure("GAG"))]
    with pytest.raises(UnreadableItemError, match=f"residue 2 is `{name}`, which is none of the 20"):
        structure_reader.parse(pdb(lines), "a.pdb")


def test_ligands_water_caps_and_hydrogens_are_left_out() -> None:
    made = protein_files.structure("GAG")
    far = [90.0, 90.0, 90.0]
    others = [
        *(pdb_line(50, atom, "GLU", 301, far, record="HETATM") for atom in ("N", "CA", "C")),  # a free amino acid
        pdb_line(53, "O", "HOH", 302, far, record="HETATM"),
        pdb_line(54, "CA", "CA", 303, far, record="HETATM"),
        pdb_line(55, "P", "DA", 304, far, chain="B"),
    ]
    cap = pdb_line(1, "C", "ACE", 0, [-1.3, 0, 0], record="HETATM")
    ends = [pdb_line(98, "OXT", "GLY", 3, far), pdb_line(99, "H", "GLY", 3, far)]
    assert_same(structure_reader.parse(pdb([cap, *pdb_lines(made), *ends, *others]), "a.pdb"), made)


def test_the_chain_is_the_first_or_the_one_named() -> None:
    one, two = protein_files.structure("GAG"), protein_files.structure("WW", seed=1)
    content = pdb([*pdb_lines(one, chain=" "), *pdb_lines(two, chain="z", first=7)])
    assert_same(structure_reader.parse(content, "a.pdb"), one)
    result = structure_reader.parse(content, "a.pdb", "z")
    assert result.sequence == "WW" and result.numbers.tolist() == [7, 8]
    with pytest.raises(UnreadableItemError, match="has no chain `B` of amino acids; it has ` `, `z`|it has ``, `z`"):
        structure_reader.parse(content, "a.pdb", "B")


def test_the_longest_chain_is_chosen_and_every_chain_has_a_name() -> None:
    one, two = protein_files.structure("GAG"), protein_files.structure("WWGG", seed=1)
    content = pdb([*pdb_lines(one, chain="B"), *pdb_lines(two, chain="A")])
    assert structure_reader.chain_names(content, "a.pdb") == ["B", "A"]
    assert [structure_reader.parse(content, "a.pdb", chain).sequence for chain in (None, "first", "longest", "A")] == [
        "GAG", "GAG", "WWGG", "WWGG",
    ]  # fmt: skip


def test_chains_that_mmcif_names_apart_are_not_joined_by_their_letter() -> None:
    one, two = protein_files.structure("GAG"), protein_files.structure("GAG", seed=1)
    rows = protein_files.cif_rows(one) + protein_files.cif_rows(two, label_asym_id="B")
    content = protein_files.cif(rows)
    assert structure_reader.chain_names(content, "a.cif") == ["A", "A.2"]
    assert_same(structure_reader.parse(content, "a.cif"), one)
    assert_same(structure_reader.parse(content, "a.cif", "A.2"), two)


def test_confidence_is_read_where_no_experiment_is_named() -> None:
    made = protein_files.structure("GAG")
    assert structure_reader.parse(pdb(pdb_lines(made, factor=81.5)), "a.pdb").plddt == pytest.approx(81.5)
    assert structure_reader.parse(pdb(pdb_lines(made, factor=0.75)), "a.pdb").plddt == pytest.approx(75)
    assert structure_reader.parse(pdb(pdb_lines(made, factor=0.0)), "a.pdb").plddt is None
    reported = ["EXPDTA    X-RAY DIFFRACTION", *pdb_lines(made)]
    assert structure_reader.parse(pdb(reported), "a.pdb").plddt is None


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.pdb", b""),
        ("a.pdb", b"HEADER    nothing\nEND\n"),
        ("a.cif", b"data_x\n_entry.id x\n"),
        ("a.cif", b"\x00\xff not a cif"),
        ("a.bcif", b"\x81\xa7encoder"),
        ("a.pdb.gz", b"ATOM no gzip"),
        ("a.cif.gz", gzip.compress(b"data_x\n" * 99)[:-9]),
        ("a.pdb", b"ATOM      1  N   GLY A   1      xx.xxx  0.000   0.000  1.00  0.00           N\n"),
    ],
    ids=range(8),
)
def test_broken_content_is_a_bad_item(file: str, content: bytes) -> None:
    with pytest.raises(
        UnreadableItemError, match=r"it cannot be read as a \.\w+(\.gz)? file|it has no chain of amino acids"
    ):
        structure_reader.parse(content, file)


@pytest.mark.parametrize("kind", ["pdb", "cif", "bcif"])
def test_every_model_is_read_or_the_first_alone(kind: str, tmp_path: Path) -> None:
    made = [protein_files.structure("GAG", seed=seed, name="a") for seed in range(3)]
    text = structure_writer.pdb_text(made, {}) if kind == "pdb" else structure_writer.cif_text(made, {})
    content = protein_files.bcif(text, model=None) if kind == "bcif" else text.encode()
    (tmp_path / f"a.{kind}").write_bytes(content)
    result = structure_reader.read_models(tmp_path / f"a.{kind}")
    assert len(result) == 3
    for one, expected in zip(result, made, strict=True):
        assert_same(one, expected)
    assert_same(structure_reader.read(tmp_path / f"a.{kind}"), made[0])


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_too_large_is_a_bad_item(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure_reader, "LARGEST", 1 << 20)
    content = b" " * (2 << 20)
    with pytest.raises(UnreadableItemError, match="larger than 1 MiB" + (" when unpacked" if packed else "$")):
        structure_reader.parse(gzip.compress(content) if packed else content, "a.cif" + (".gz" if packed else ""))


def damaged() -> dict[str, bytes]:
    """Whole files, each with one fault, by what is wrong and a name that says the format."""
    text = structure_writer.cif_text([protein_files.structure("GAGA")], {})
    table = text.index("_atom_site.Cartn_x")
    packed = protein_files.bcif(text)
    index = packed.index(b"Cartn_x")
    return {
        "cut in a row .cif": text[: table + 900].encode(),
        "without a column .cif": text.replace("_atom_site.Cartn_x\n", "").encode(),
        "of unequal rows .cif": text.replace(" ATOM", " ", 1).replace("GLY A ", "GLY ", 1).encode(),
        "cut .bcif": packed[:-200],
        "without a column .bcif": packed[:index] + b"Cartn_?" + packed[index + 7 :],
        "with another type .bcif": packed[:index] + packed[index:].replace(b"ByteArray", b"ByteArroy", 1),
    }


@pytest.mark.parametrize("fault", damaged())
def test_a_whole_file_with_one_fault_is_a_bad_item(fault: str) -> None:
    with pytest.raises(UnreadableItemError, match=r"it cannot be read as a \.b?cif file"):
        structure_reader.parse(damaged()[fault], fault.replace(" ", ""))


def test_positions_that_are_no_numbers_make_the_file_bad() -> None:
    lines = pdb_lines(protein_files.structure("GAG"))
    lines[4] = lines[4][:30] + f"{'nan':>8}" + lines[4][38:]
    with pytest.raises(UnreadableItemError, match="not finite"):
        structure_reader.parse(pdb(lines), "a.pdb")


def test_errors_of_read_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"x\.pdb` does not exist"):
        structure_reader.read(tmp_path / "x.pdb")
    with pytest.raises(UsageError, match="not a structure file by its name"):
        structure_reader.read(tmp_path / "x.ply")
    (tmp_path / "x.cif").write_bytes(b"data_x\n")
    with pytest.raises(IntegrityError, match=r"x\.cif` cannot be read: it cannot be read as a \.cif file"):
        structure_reader.read(tmp_path / "x.cif")


def test_real_entries_are_the_same_in_every_format(real_data) -> None:
    with tarfile.open(real_data("proteins/biotite_cif_bcif_pdb/biotite_structures.tar.gz")) as archive:
        result: dict[str, list[Structure]] = {}
        for member in archive.getmembers():
            if structure_reader.is_structure(member.name):
                file = archive.extractfile(member)
                assert file is not None
                parsed = structure_reader.parse(file.read(), member.name)
                result.setdefault(parsed.name, []).append(parsed)
    assert sorted(map(len, result.values())) == [2] * 2 + [3] * 11
    for one, *others in result.values():
        for other in others:
            assert_same(one, other, tolerance=1e-3)


def test_alphafold_names_one_chain_and_its_confidence(real_data) -> None:
    gemmi = pytest.importorskip("gemmi")
    with tarfile.open(real_data("proteins/afdb_cif_family/afdb_cif_v3.tar")) as archive:
        for member in archive.getmembers()[::30]:
            file = archive.extractfile(member)
            assert file is not None
            text = gzip.decompress(file.read())
            result = structure_reader.parse(text, "a.cif")
            block = gemmi.cif.read_string(text.decode()).sole_block()
            reported = block.find_value("_entity_poly.pdbx_seq_one_letter_code_can")
            assert result.sequence == gemmi.cif.as_string(reported).replace("\n", "")
            assert result.is_known.all()
            each = block.find_values("_ma_qa_metric_local.metric_value")
            assert result.plddt == pytest.approx(np.mean([float(x) for x in each]), abs=0.01)
            written = structure_writer.pdb_text([result], {}).encode()
            assert_same(structure_reader.parse(written, "a.pdb"), result, tolerance=1e-4)


def test_stems_are_names_without_format_and_packing() -> None:
    assert structure_reader.structure_name("b/AF-P1-F1-model_v4.cif.gz") == "b/AF-P1-F1-model_v4"
    assert structure_reader.structure_name("1abc.ENT") == "1abc"
    assert structure_reader.structure_name("notes.txt") == "notes.txt"
    assert not structure_reader.is_structure("notes.txt") and structure_reader.is_structure("x.BCIF.GZ")


def test_a_chain_none_of_whose_atoms_is_known_is_refused_and_not_read_as_empty() -> None:
    lines = structure_writer.pdb_text([protein_files.structure()], {}).splitlines()
    lower = "\n".join(line[:12] + line[12:16].lower() + line[16:] if line[:4] == "ATOM" else line for line in lines)
    with pytest.raises(UnreadableItemError, match="none of its atoms has a name"):
        structure_reader.parse(lower.encode(), "a.pdb")
