"""Models that come with inrflow: their files, their cards, and that they sample without a run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core import models
from inrflow_core.errors import MissingError, UsageError
from inrflow_core.runs import shipped
from inrflow_core.runs.run import latest_run, resolve_weights
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.sample import note_on_label
from inrflow_core.storage import plain_file, safetensors_file
from tests import tiny
from tools import ship_models

NAMES = shipped.names()
MOST_BYTES = 24 << 20
"""Of all models together: they are a part of every installation."""


def test_all_models_together_are_small():
    assert {"glyphs", "numerals", "objects", "proteins", "shapes", "solids"} <= set(NAMES)
    assert sum(shipped.weights_file(name).stat().st_size for name in NAMES) < MOST_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_a_card_states_the_figures_of_its_file(name):
    file = resolve_weights(shipped.weights_file(name))
    preset, info = models.read_metadata(file)
    parameters = sum(math.prod(shape) for shape in safetensors_file.tensor_shapes(file).values())
    text = shipped.card(name)
    for figure in (
        plain_file.file_digest(file),
        f"`{preset.name}`",
        f"{parameters:,} parameters",
        f"{info['step']:,} steps",
    ):
        assert figure in text, figure
    assert "## License" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_model_samples_without_a_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    preset = models.read_metadata(shipped.weights_file(name))[0]
    out = {"points": "out.ply", "protein": "out.pdb", "shape": "out.glb"}.get(preset.domain.name, "out.png")
    Image.new("RGB", (40, 30), "red").save("photo.png")
    condition = None if preset.condition is None else preset.condition.name
    inputs = {"image": ["--image", "photo.png"], "sequence": ["--sequence", "MKTAYIAKQR"]}.get(condition or "", [])
    assert run(["sample", out, "--model", name, "--steps", "2", *inputs]) == 0
    assert Path(out).stat().st_size > 0


def test_an_unknown_model_is_refused_with_the_known_ones(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="comes with no model `glyph`"):
        shipped.weights_file("glyph")
    assert run(["sample", "a.png", "--model", "glyph"]) == 2
    assert "did you mean `glyphs`" in capsys.readouterr().err
    assert run(["sample", "a.png", "--model", "glyphs", "--run", "runs/a"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_without_a_run_the_hint_names_a_model_and_a_demo_that_fit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["sample", "out.ply"]) == 3
    hint = capsys.readouterr().err
    assert "solids-demo" in hint and "`--model solids`" in hint and "glyphs" not in hint
    assert run(["sample", "out.png", "--resolution", "96"]) == 3
    assert "`--model glyphs`" in capsys.readouterr().err
    for domains, condition, demo in (
        (["protein"], "sequence", "proteins-demo"),
        (["protein"], None, "proteins-demo"),
        (["points"], "image", "objects-demo"),
        (["shape"], "text", "solids-text-ddmi-demo"),
        (["radiance", "video"], None, "moving-digits-ddmi-demo"),
    ):
        with pytest.raises(MissingError) as raised:
            latest_run(tuple(domains), condition)
        assert f"inrflow train --preset {demo}" in str(raised.value.hint)


def test_shipped_weights_are_the_average_of_a_run_in_fp16(tmp_path):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE, metadata={"secret": "of the run"})
    digest = ship_models.ship(tmp_path / "run", tmp_path / "small.safetensors")
    assert digest == plain_file.file_digest(tmp_path / "small.safetensors")
    source = resolve_weights(tmp_path / "run")
    full, small = models.load(source), models.load(resolve_weights(tmp_path / "small.safetensors"))
    assert "secret" not in small.metadata and small.metadata["step"] == 2
    for (name, one), other in zip(full.method.state_dict().items(), small.method.state_dict().values(), strict=True):
        torch.testing.assert_close(other, one.half().float(), msg=name)


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("sample --model glyphs --checkpoint best a.png", "`glyphs` holds step", "leave `--checkpoint` (or"),
        ("sample --model glyphs --ema 0.5 a.png", "`glyphs` holds the EMA of", "leave `--ema` out"),
        (
            "sample --model glyphs --sequence GG a.pdb",
            "`glyphs` is not conditioned",
            "take `--model proteins`, or",
        ),
        (
            "sample --model solids a.png --sequence GG",
            "`solids` is not conditioned",
            "take `--model proteins`, or",
        ),
        (
            "sample --model objects a.ply",
            "the model `objects` is conditioned on images",
            "add `--image photo.png`",
        ),
        (
            "upsample --model objects a.ply",
            "`objects` is conditioned",
            "`inrflow sample --model objects OUT` with",
        ),
        (
            "upsample --model glyphs b.xyz a.png",
            "`b.xyz` is not one of them",
            "or take `--model shapes` or `--model solids`",
        ),
        ("sample --model glyphs a.jpg", "no format of the domain `image` writes", "in one of `.npz`, `.png`, `.h5`\n"),
        ("upsample --model glyphs a.jpg", "no format of the domain `image` writes", "in one of `.npz`, `.png`\n"),
        ("sample --model proteins a.ply", "`proteins` samples proteins", "write one of `.cif`, `.pdb`, `.png`\n"),
        ("sample --model solids a.pdb", "`solids` samples point clouds", "write one of `.glb`"),
    ],
)
def test_messages_call_a_model_by_its_name(
    words: str,
    message: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("b.xyz").write_text("0 0 0\n1 1 1\n")
    console.stderr.cache_clear()
    assert run(words.split()) == 2
    err = capsys.readouterr().err
    assert message in err and hint in err and str(shipped.FOLDER) not in err and "-demo" not in err


@pytest.mark.parametrize(
    ("label", "note"),
    [
        ("7", "note: label 7 is the class `H`\n"),
        ("R, 7,0,7", "note: label 7 is the class `H`, 0 is the class `A`\n"),
        ("R", ""),
        ("all", ""),
        (None, ""),
    ],
)
def test_a_number_of_a_class_that_has_a_name_is_noted(
    label: str | None,
    note: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    options = ["--model", "glyphs", "--steps", "1", *([] if label is None else ["--label", label])]
    for command in ("sample", "upsample"):
        assert run([command, *options, f"{command}.png"]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines(keepends=True) if line.startswith("note: label")]
        assert "".join(lines) == note


def test_a_class_whose_name_is_a_number_is_meant_by_its_name(tmp_path: Path) -> None:
    model = models.load(resolve_weights(shipped.weights_file("glyphs")))
    swapped = dataclasses.replace(model, metadata={**model.metadata, "classes": ["1", "0", "two"]})
    assert resolve_labels(swapped, [0, 1, 2], "0,1,2") == [1, 0, 2]
    assert note_on_label(swapped, "0,1") is None and note_on_label(swapped, "0,2") == "label 2 is the class `two`"


def test_a_model_is_exported_as_a_file_that_samples_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["export", "--model", "glyphs", "own.safetensors"]) == 0
    for name, source in (("a", ["--model", "glyphs"]), ("b", ["--run", "own.safetensors"])):
        assert run(["sample", f"{name}.npz", *source, "--label", "R", "--steps", "2"]) == 0
    np.testing.assert_array_equal(np.load("a.npz")["images"], np.load("b.npz")["images"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "glyphs", "a.npz", "b.onnx"], "FROM and `--model` exclude each other"),
        (["--model", "glyphs", "a.png"], "a model becomes a .safetensors or an .onnx file, not `a.png`"),
        (["--model", "glyps", "a.onnx"], "inrflow comes with no model `glyps`"),
        (["a.npz"], "`export` writes FROM as OUT, and 1 path is named"),
        (["a.npz", "b.npz", "c.npz"], "`export` writes FROM as OUT, and 3 paths are named"),
    ],
)
def test_an_export_has_one_source(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["export", *words]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_only_files_in_the_folder_of_models_are_called_by_their_name(tmp_path: Path) -> None:
    file = shipped.weights_file("glyphs")
    assert (shipped.option_of(file), shipped.title_of(file)) == ("--model glyphs", "glyphs")
    own = tmp_path / "glyphs.safetensors"
    assert (shipped.option_of(own), shipped.title_of(own)) == (f"--run {own}", str(own))
