"""Files and folders of another kind than a command reads: the hint names what can be done with them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from inrflow_cli import app, console
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of images with a saved field and its function, and a run of clouds."""
    parent = tmp_path_factory.mktemp("hints")
    tiny.run_folder(parent / "images", tiny.INR)
    tiny.run_folder(parent / "clouds", tiny.POINTS, condition=None)
    sampled = ["sample", parent / "out.png", "--run", parent / "images", "--save-field", parent / "field.safetensors"]
    assert app.run([str(word) for word in sampled]) == 0
    assert app.run(["export", str(parent / "field.safetensors"), str(parent / "one.safetensors")]) == 0
    np.save(parent / "x.npy", np.zeros((5, 3), np.float32))
    np.savez(parent / "x.npz", points=np.zeros((2, 5, 3), np.float32))
    (parent / "x.txt").write_text("0 0 0\n")
    (parent / "mine.toml").write_text("")
    (parent / "mesh.glb").write_bytes(b"glTF")
    (parent / "unfinished" / "samples-00000.h5.partial").mkdir(parents=True)
    return parent


FIELD = "holds a saved field, no samples hint: evaluate it with `inrflow upsample field.safetensors OUT`"
FUNCTION = (
    "hint: read it as docs/inrct.md shows, or evaluate the saved field that it is of with `inrflow upsample FIELD"
)
WEIGHTS = "images/checkpoints/00000002/weights.safetensors"


@pytest.mark.parametrize(
    ("words", "message", "code"),
    [
        ("export field.safetensors x.ply", FIELD, 2),
        ("export field.safetensors x.png", FIELD, 2),
        ("export one.safetensors x.png", f"holds one exported function, no samples {FUNCTION}", 2),
        ("export one.safetensors x.safetensors", f"holds one exported function, expected weights {FUNCTION}", 4),
        ("upsample one.safetensors x.png", f"holds one exported function, expected a saved field {FUNCTION}", 4),
        (f"upsample {WEIGHTS} x.png", f"`inrflow upsample OUT --run {WEIGHTS}`", 4),
        (f"export {WEIGHTS} x.png", "holds weights, no samples hint: sample them with", 2),
        ("sample x.png --run field.safetensors", "holds a saved field, expected weights hint: evaluate it", 4),
        (
            "eval --samples out.png --reference x.npz --out scores",
            "`out.png` is an image (of one sample, or a sheet of several), not a file of samples hint: give a folder of shards",
            2,
        ),
        ("eval --samples x.txt --reference x.npz --out scores", "`x.txt` holds no samples hint: give a folder", 2),
        (
            "export images new.pgn",
            "a run becomes a .safetensors or an .onnx file, not `new.pgn` hint: name such a file",
            2,
        ),
        (
            "eval --samples images --reference x.npz --out scores",
            "`images` is a run, no samples hint: draw some: `inrflow sample --run images OUT`",
            2,
        ),
        (
            "eval --samples unfinished --reference x.npz --out scores",
            "the samples in `unfinished` are not finished hint: run the `inrflow sample` command that began them again",
            2,
        ),
        (
            "export unfinished new.png",
            "the samples in `unfinished` are not finished hint: run the `inrflow sample` command that began them again",
            2,
        ),
        ("export out.png new.png", "`inrflow sample out.h5` writes samples for it", 2),
        ("export mesh.glb new.png", "`mesh.glb` is a mesh, not a file of samples hint: give a folder of shards", 2),
        ("export clouds.pcd new.png", "`clouds.pcd` does not exist hint: did you mean `clouds`?", 3),
        ("export nope.npz new.ply", "`nope.npz` does not exist hint: give", 3),
        ("export ot.png new.png", "`ot.png` does not exist hint: did you mean `out.png`?", 3),
        (
            "eval --samples X.npz --reference x.npz --out scores",
            "`X.npz` does not exist hint: did you mean `x.npz`?",
            3,
        ),
        (
            "sample new.png --run out.png",
            "`out.png` holds no weights hint: give a run folder",
            2,
        ),
        ("upsample ot.png new.png --run images", "`ot.png` does not exist hint: did you mean `out.png`?", 3),
        ("sample new.png --run image", "`image` does not exist hint: did you mean `images`?", 3),
        ("prepare image-folder --source imges", "`imges` does not exist hint: did you mean `images`?", 3),
        ("prepare clouds --source CLOUDS/checkpoints", "hint: did you mean `clouds/checkpoints`?", 3),
        ("prepare clouds --source absent", "hint: check `--source`; docs/data-sets.md says what", 3),
        ("train --preset ./presets/mine.toml", "`presets/mine.toml` does not exist hint: presets that come with", 3),
        ("train --preset mne.toml", "`mne.toml` does not exist hint: did you mean `mine.toml`?", 3),
        ("train --preset clouds-demo --data cloud", "it does not exist hint: did you mean `clouds`?", 3),
        ("train --preset glyphs-demo --data cloud", "it does not exist hint: did you mean `clouds`?", 3),
        ("train --preset glyphs-demo", "it does not exist hint: make them with `inrflow prepare glyphs", 3),
        (
            "sample --model objects --image ot.png x.ply",
            "the photo `ot.png` does not exist hint: did you mean `out.png`?",
            3,
        ),
        ("prepare mnist", "hint: put the data set there, or name its place with `--source DIR`; docs/data-sets", 3),
        (
            "upsample x.txt out.ply --run clouds",
            "`x.txt` is not one of them hint: give a cloud (.ply, .npy, .npz, .xyz",
            2,
        ),
        ("upsample x.npy new.png --run images", "`x.npy` is not one of them hint: choose with `--run` a model of", 2),
        ("upsample x.npz out.ply --run clouds", "`x.npz` holds 2 clouds, and a model encodes one hint: write one", 2),
        (
            "upsample out.png out.ply --run clouds",
            "not one of them hint: choose with `--run` a model of images or scene",
            2,
        ),
    ],
)
def test_the_hint_says_what_works(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    message: str,
    code: int,
):
    monkeypatch.chdir(folder)
    before = sorted(os.listdir())
    console.stderr.cache_clear()
    assert app.run(words.split()) == code
    assert message in " ".join(capsys.readouterr().err.split())
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("names", [["a.txt"], ["a.txt", ".lock"]])
def test_a_folder_of_other_files_is_left_as_it_was(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str]
):
    for name in names:
        (tmp_path / name).write_text("")
    console.stderr.cache_clear()
    assert app.run(["sample", "--run", str(folder / "images"), "--num", "2", str(tmp_path)]) == 2
    assert "is not empty: it holds `a.txt`" in " ".join(capsys.readouterr().err.split())
    assert sorted(os.listdir(tmp_path)) == sorted(names)
