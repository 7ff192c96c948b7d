"""The table of the amino acids against Biotite's component dictionary and RDKit."""

from __future__ import annotations

import numpy as np
import pytest

from inrflow_core.errors import UsageError
from inrflow_core.proteins import residues
from inrflow_core.proteins.residues import RESIDUES

ids = [residue.name for residue in RESIDUES]


def test_atoms_bonds_and_charges_are_those_of_the_component_dictionary():
    info = pytest.importorskip("biotite.structure.info")
    for residue in RESIDUES:
        known = info.residue(residue.name)
        known = known[(known.element != "H") & (known.atom_name != "OXT")]
        names = known.atom_name.tolist()
        assert list(residue.atoms) == names, residue.name
        assert residue.elements == tuple(known.element), residue.name
        assert residue.charges == tuple(known.charge), residue.name
        mine = {
            (*sorted(residue.atoms[index] for index in pair), order)
            for pair, order in zip(residue.bonds, residue.orders, strict=True)
        }
        # 5 is an aromatic single bond there, 6 an aromatic double one.
        theirs = {(*sorted((names[a], names[b])), {5: 1, 6: 2}.get(t, t)) for a, b, t in known.bonds.as_array()}
        assert mine == theirs, residue.name


def chain_of(middle: str):
    """GLY, a residue and GLY as RDKit sees them, and the atoms of the one in the middle."""
    chem = pytest.importorskip("rdkit.Chem")
    info = pytest.importorskip("biotite.structure.info")
    molecule, indices, last = chem.RWMol(), {}, None
    for number, name in enumerate(("GLY", middle, "GLY")):
        known = info.residue(name)
        known = known[(known.element != "H") & (known.atom_name != "OXT")]
        atoms = []
        for element, charge in zip(known.element, known.charge, strict=True):
            atom = chem.Atom(str(element).capitalize())
            atom.SetFormalCharge(int(charge))
            atoms.append(molecule.AddAtom(atom))
        for a, b, t in known.bonds.as_array().tolist():
            molecule.AddBond(atoms[a], atoms[b], chem.BondType.DOUBLE if t in (2, 6) else chem.BondType.SINGLE)
        own = dict(zip(known.atom_name.tolist(), atoms, strict=True))
        if last is not None:
            molecule.AddBond(last, own["N"], chem.BondType.SINGLE)
        last = own["C"]
        if number == 1:
            indices = own
    chem.SanitizeMol(molecule)
    return molecule, indices


@pytest.mark.parametrize("residue", RESIDUES, ids=ids)
def test_features_are_those_of_rdkit_inside_a_chain(residue: residues.Residue):
    chem = pytest.importorskip("rdkit.Chem")
    molecule, indices = chain_of(residue.name)
    aromatic = {"HIS": {"NE2"}, "TRP": {"NE1"}}.get(residue.name, set())
    rings = molecule.GetRingInfo()
    for name, mine in zip(residue.atoms, residues.atom_features(residue), strict=True):
        atom = molecule.GetAtomWithIdx(indices[name])
        theirs = residues.Atom(
            element=atom.GetSymbol(),
            degree=atom.GetDegree(),
            charge=atom.GetFormalCharge(),
            # What the graph leaves out. RDKit writes the hydrogens of aromatic N-H down when it finds the ring, and
            # then calls their implicit valence 0: NE2 of HIS, NE1 of TRP.
            valence=atom.GetTotalNumHs(),
            hybridization=str(atom.GetHybridization()).lower(),
            is_aromatic=atom.GetIsAromatic(),
            rings=rings.NumAtomRings(atom.GetIdx()),
        )
        assert mine == theirs, (residue.name, name)
        implicit = atom.GetValence(chem.ValenceType.IMPLICIT)
        assert implicit == (0 if name in aromatic else mine.valence), (residue.name, name)


@pytest.mark.parametrize("code", range(20), ids=ids)
def test_no_two_atoms_of_a_residue_have_the_same_coordinate(code: int):
    count = len(residues.ATOMS[code])
    rows = np.concatenate([residues.FEATURES[code], residues.EIGENVECTORS[code]], axis=1)
    apart = np.abs(rows[:count, None] - rows[None, :count]).max(-1)
    assert apart[~np.eye(count, dtype=bool)].min() > 0.4
    assert not rows[count:].any()


def test_each_range_of_table_8_has_one_place_taken():
    assert residues.FEATURES.shape == (20, 14, 35 + 7 + 3 + 7 + 6 + 1 + 4)
    is_atom = np.arange(14) < residues.SIZES[:, None]
    blocks = np.split(residues.FEATURES, np.cumsum([35, 7, 3, 7, 6, 1]), axis=-1)
    for number, block in enumerate(blocks):
        if number != 5:
            np.testing.assert_array_equal(block.sum(-1), is_atom)
    aromatic = {ids[code]: int(blocks[5][code].sum()) for code in range(20)}
    assert {name: count for name, count in aromatic.items() if count} == {"HIS": 5, "PHE": 6, "TYR": 6, "TRP": 9}


@pytest.mark.parametrize("code", range(20), ids=ids)
def test_eigenvectors_solve_the_laplacian_of_the_bonds(code: int):
    count = len(residues.ATOMS[code])
    result = residues.EIGENVECTORS[code, :count].astype(np.float64)
    laplacian = np.zeros((count, count))
    for a, b in residues.BONDS[code]:
        laplacian[[a, b], [b, a]] -= 1
        laplacian[[a, b], [a, b]] += 1
    used = min(count - 1, 8)
    values = np.linalg.eigvalsh(laplacian)[1 : used + 1]
    assert values[0] > 0.01  # the constant vector is not among them
    np.testing.assert_allclose(laplacian @ result[:, :used], result[:, :used] * values, atol=2e-6)
    np.testing.assert_allclose(result.T @ result, np.diag([1.0] * used + [0.0] * (8 - used)), atol=2e-6)


@pytest.mark.parametrize("code", range(20), ids=ids)
def test_eigenvectors_do_not_depend_on_what_the_linear_algebra_returns(code: int, monkeypatch: pytest.MonkeyPatch):
    solved = np.linalg.eigh
    generator = np.random.default_rng(code)

    def turned(matrix: np.ndarray):
        values, vectors = solved(matrix)
        for value in set(values.round(6)):
            same = np.flatnonzero(np.abs(values - value) < 1e-5)
            vectors[:, same] = vectors[:, same] @ np.linalg.qr(generator.normal(size=(len(same), len(same))))[0]
        return values, vectors

    monkeypatch.setattr(np.linalg, "eigh", turned)
    result = residues.eigenvectors(RESIDUES[code])
    np.testing.assert_allclose(result, residues.EIGENVECTORS[code, : len(result)], atol=1e-6)


def test_layout_lists_every_atom_of_every_residue_in_order():
    codes = residues.to_codes("gAw")
    residue, index = residues.atom_layout(codes)
    names = [residues.ATOMS[codes[r]][p] for r, p in zip(residue, index, strict=True)]
    assert " ".join(names) == "N CA C O N CA C O CB N CA C O CB CG CD1 CD2 NE1 CE2 CE3 CZ2 CZ3 CH2"
    assert residue.tolist() == [0] * 4 + [1] * 5 + [2] * 14
    assert residues.to_letters(codes) == "GAW"
    assert residues.to_letters(residues.to_codes(residues.LETTERS)) == residues.LETTERS


def test_unknown_letters_are_named_with_their_places():
    with pytest.raises(UsageError, match=r"no amino acid: `B` at 3, `-` at 5$"):
        residues.to_codes("MKBA-")
    with pytest.raises(UsageError, match="and 2 more"):
        residues.to_codes("XXXXXXX")
    with pytest.raises(UsageError, match="the sequence is empty"):
        residues.to_codes("")
