"""`inrflow sample` of a photo, of a sequence and of a FASTA file, on small runs with stand-ins for the embedders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core.geometry import ply_reader
from inrflow_core.proteins import structure_reader, superposition
from inrflow_core.proteins.structure import Structure
from inrflow_core.sampling.fold import safe_filename
from tests import tiny

SEQUENCE = "MKTWAYG"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("runs")
    metadata = {"normalization": {"embedder": "patches", "embedder_digest": "patches-1"}}
    tiny.run_folder(parent / "objects", tiny.IMAGE_TO_POINTS, metadata=metadata)
    tiny.run_folder(parent / "proteins", tiny.PROTEIN)
    tiny.run_folder(parent / "clouds", tiny.POINTS)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(folders))
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    Path("two.fa").write_text(f">one first of them\n{SEQUENCE[:4]}\n{SEQUENCE[4:]}\n\n>two\nggsl\n")
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def chains(file: str) -> list[Structure]:
    """The models of a .pdb file that `sample` wrote."""
    text, structures = Path(file).read_text(), []
    for part in text.split("ENDMDL") if "ENDMDL" in text else [text]:
        if "ATOM" in part:
            structures.append(structure_reader.parse(part.encode(), "model.pdb"))
    return structures


def test_a_photo_becomes_a_cloud_whose_first_points_are_those_of_fewer(capsys):
    assert run(["sample", "--image", "photo.png", "--points", "60", "large.ply"]) == 0
    assert "objects`" in capsys.readouterr().err
    assert run(["sample", "--image", "photo.png", "small.ply"]) == 0
    large, small = ply_reader.read_points(Path("large.ply")), ply_reader.read_points(Path("small.ply"))
    assert (large.shape, small.shape) == ((60, 3), (24, 3))
    np.testing.assert_allclose(large[:24], small, atol=1e-4)


def test_another_photo_camera_or_guidance_is_another_cloud_of_the_same_seed():
    Image.new("RGB", (9, 9), "red").save("red.png")
    assert run(["sample", "--image", "photo.png", "first.ply"]) == 0
    first = ply_reader.read_points(Path("first.ply"))
    for index, options in enumerate((["--image", "red.png"], ["--azimuth", "90"], ["--guidance", "3"])):
        image = [] if options[0] == "--image" else ["--image", "photo.png"]
        assert run(["sample", *image, *options, f"{index}.ply"]) == 0
        assert np.abs(ply_reader.read_points(Path(f"{index}.ply")) - first).max() > 1e-3


def test_a_photos_cloud_is_the_same_in_any_batch_and_in_a_shard():
    assert run(["sample", "--image", "photo.png", "--num", "3", "a.ply", "--batch", "1"]) == 0
    assert run(["sample", "--image", "photo.png", "--num", "3", "a.npz"]) == 0
    assert run(["sample", "--image", "photo.png", "--num", "3", "a.h5", "--batch", "2"]) == 0
    assert run(["export", "a.h5", "b.npz"]) == 0
    (together,), (shard,) = (
        [file[name] for name in file.files if file[name].ndim == 3] for file in map(np.load, ("a.npz", "b.npz"))
    )
    np.testing.assert_allclose(shard, together, atol=1e-4)
    for index in range(3):
        np.testing.assert_allclose(ply_reader.read_points(Path(f"a-{index:03d}.ply")), together[index], atol=1e-4)


def test_a_saved_field_of_a_photo_answers_as_the_model_does():
    direct = ["sample", "--image", "photo.png", "--seed", "3"]
    assert run([*direct, "--points", "90", "direct.ply"]) == 0
    assert run([*direct, "small.ply", "--save-field", "field.safetensors"]) == 0
    assert run(["upsample", "field.safetensors", "finer.ply", "--points", "90"]) == 0
    np.testing.assert_allclose(
        ply_reader.read_points(Path("finer.ply")), ply_reader.read_points(Path("direct.ply")), atol=1e-5
    )


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_a_sequence_becomes_models_of_its_atoms_that_depend_on_their_seeds_alone(suffix, capsys):
    assert run(["sample", "--sequence", SEQUENCE, "--num", "2", "--seed", "4", f"both.{suffix}"]) == 0
    assert "7 residues each" in capsys.readouterr().err
    assert (
        run(["sample", "--sequence", SEQUENCE.lower(), "--num", "2", "--seed", "4", f"same.{suffix}", "--batch", "1"])
        == 0
    )
    assert run(["sample", "--sequence", SEQUENCE, "--seed", "5", f"second.{suffix}"]) == 0
    if suffix == "cif":
        assert structure_reader.parse(Path("both.cif").read_bytes(), "both.cif").sequence == SEQUENCE
        return
    both, same, (second,) = chains("both.pdb"), chains("same.pdb"), chains("second.pdb")
    assert [one.sequence for one in both] == [SEQUENCE] * 2
    for one, other in zip(both, same, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=2e-3)
    # In the file of both, the second is superposed on the first; alone it is as it was sampled.
    motion = superposition.superpose(second.ca, both[1].ca)
    np.testing.assert_allclose(motion(second.positions), both[1].positions, atol=5e-3)
    assert np.abs(both[0].positions - both[1].positions).max() > 0.1


def test_a_fasta_file_becomes_a_file_of_each_sequence_and_existing_files_remain(capsys):
    fold = ["sample", "--fasta", "two.fa", "--num", "2", "folded"]
    assert run(fold) == 0
    assert sorted(path.name for path in Path("folded").iterdir()) == ["one.pdb", "two.pdb"]
    assert [one.sequence for one in chains("folded/two.pdb")] == ["GGSL"] * 2
    assert run(["sample", "--sequence", SEQUENCE, "--num", "2", "alone.pdb"]) == 0
    for one, other in zip(chains("folded/one.pdb"), chains("alone.pdb"), strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=2e-3)
    before = Path("folded/one.pdb").stat().st_mtime_ns
    Path("folded/two.pdb").unlink()
    capsys.readouterr()
    assert run(fold) == 0
    assert "1 of 2 sequences are folded already" in capsys.readouterr().err
    assert Path("folded/one.pdb").stat().st_mtime_ns == before and Path("folded/two.pdb").is_file()
    for other in (["--num", "1"], ["--num", "20"], ["--steps", "3"]):
        assert run([*fold, *other]) == 2
        assert "`folded/one.pdb` exists, with samples of other options" in capsys.readouterr().err
    assert run([*fold, "--steps", "3", "--overwrite"]) == 0
    assert run(["sample", "--fasta", "two.fa", "folded", "--format", "cif"]) == 0
    assert Path("folded/one.cif").is_file()


def test_a_guide_is_a_part_of_a_folded_files_origin(folders, capsys):
    fold = ["sample", "--fasta", "two.fa", "folded", "--guidance", "2", "--guide-run"]
    tiny.run_folder(Path("weak"), tiny.PROTEIN, network={"depth": 1})
    assert run([*fold, "weak"]) == 0
    capsys.readouterr()
    assert run([*fold, str(folders / "proteins")]) == 2
    assert "samples of other options" in capsys.readouterr().err


def test_no_name_leads_out_of_the_folder():
    names = [
        "../../etc/x",
        "/etc/passwd",
        "..",
        ".hidden",
        "a b",
        "ü",
        "C:\\x",
        "-rf",
        "sp|P69905|HBA_HUMAN",
        "x" * 400,
    ]
    for name in names:
        made = safe_filename(name)
        assert "/" not in made and "\\" not in made and not made.startswith(".") and 0 < len(made) <= 128
        assert made.isascii() and Path(made).name == made
    assert safe_filename("sp|P69905|HBA_HUMAN") == "sp_P69905_HBA_HUMAN"
    Path("out.fa").write_text(">../../escaped\nGG\n")
    assert run(["sample", "--fasta", "out.fa", "inside/folder"]) == 0
    assert [path.name for path in Path("inside/folder").iterdir()] == ["_.._escaped.pdb"]


BAD = {
    "two things": (["--image", "photo.png", "--sequence", "GG", "a.ply"], 2, "`--image` and `--sequence` exclude each other"),
    "no such photo": (["--image", "none.png", "a.ply"], 3, "the photo `none.png` does not exist"),
    "not an image": (["--image", "two.fa", "a.ply"], 4, "`two.fa` cannot be read as an image: its content is not JPEG"),
    "a photo for a structure": (["--image", "photo.png", "a.pdb"], 2, "is not conditioned on images"),
    "a photo for a plain run": (["--image", "photo.png", "--run", "{runs}/clouds", "a.ply"], 2, "is not conditioned on images"),
    "no photo": (["--run", "{runs}/objects", "a.ply"], 2, "add `--image photo.png`"),
    "no sequence": (["--run", "{runs}/proteins", "a.pdb"], 2, "add `--sequence MKT...` or `--fasta FILE`"),
    "a camera of nothing": (["--azimuth", "20", "a.ply"], 2, "add `--image FILE`"),
    "weights of nothing": (["--weights", "w", "a.ply"], 2, "`--weights` needs `--image`"),
    "weights of a stand-in": (["--image", "photo.png", "--weights", "w", "a.ply"], 2, "the embedder `patches` has no weights"),
    "a stand-in of residues": (["--sequence", "GG", "--weights", "w", "a.pdb"], 2, "the embedder `one-hot` has no weights"),
    "unknown letters": (["--sequence", "MKX1", "a.pdb"], 2, "`X` at 3, `1` at 4"),
    "an empty sequence": (["--sequence", "", "a.pdb"], 2, "the sequence is empty"),
    "a sequence for a cloud": (["--sequence", "GG", "a.ply"], 2, "is not conditioned on sequences"),
    "points of a protein": (["--sequence", "GG", "--points", "5", "a.pdb"], 2, "does not apply: the model samples proteins"),
    "a field of a protein": (["--sequence", "GG", "--save-field", "f.safetensors", "a.pdb"], 2, "a fixed set of atoms"),
    "a shard of proteins": (["--sequence", "GG", "--run", "{runs}/proteins", "a.h5"], 2, "a fixed set of atoms"),
    "guidance of a sequence": (["--sequence", "GG", "--guidance", "2", "a.pdb"], 2, "never learned without a condition"),
    "a folder that is a file": (["--fasta", "two.fa", "photo.png"], 2, "`photo.png` is a file"),
    "another format": (["--fasta", "two.fa", "--format", "xyz", "folder"], 2, "unknown format of structures `xyz`"),
    "a format of nothing": (["--format", "cif", "a.pdb"], 2, "`--format cif` applies to `--fasta`"),
    "no such FASTA": (["--fasta", "none.fa", "folder"], 3, "the FASTA file `none.fa` does not exist"),
    "a misspelt FASTA": (["--fasta", "twoo.fa", "folder"], 3, "did you mean `two.fa`?"),
    "an empty FASTA": (["--fasta", "empty.fa", "folder"], 2, "`empty.fa` holds no sequence"),
    "letters in a FASTA": (["--fasta", "letters.fa", "folder"], 2, "`bad` in `letters.fa`: the sequence has letters"),
    "one file of two names": (["--fasta", "alike.fa", "folder"], 2, "`a|b` and `a:b` would both become `a_b.pdb`"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_its_code_one_sentence_and_a_hint(name: str, folders: Path, capsys):
    arguments, code, words = BAD[name]
    Path("empty.fa").write_text("\n")
    Path("letters.fa").write_text(">good\nMK\n>bad\nMKZ\n")
    Path("alike.fa").write_text(">a|b\nMK\n>a:b\nMKT\n")
    before = sorted(Path().iterdir())
    assert run(["sample", *(text.replace("{runs}", str(folders)) for text in arguments)]) == code
    message = capsys.readouterr().err
    assert "error: " in message and "hint: " in message
    assert words in message
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("kind", ["objects", "proteins"])
def test_no_graph_is_made_of_a_model_that_draws_from_more_than_a_class(kind: str, folders: Path, capsys):
    assert run(["export", str(folders / kind), "a.onnx"]) == 2
    assert "the graph takes no more than a class beside the set" in capsys.readouterr().err
    assert run(["export", str(folders / kind), "a.safetensors"]) == 0


def test_a_cloud_of_a_photo_is_evaluated_again_by_its_field_alone(folders: Path, capsys):
    run_of = ["--run", str(folders / "objects")]
    assert run(["sample", "--image", "photo.png", "a.ply", *run_of]) == 0
    for files in ([], ["a.ply"]):
        capsys.readouterr()
        assert run(["upsample", *files, "b.ply", *run_of, "--points", "50"]) == 2
        message = capsys.readouterr().err
        assert (
            "`tiny` is conditioned on images, which `upsample` does not take" in message and "--save-field" in message
        )
