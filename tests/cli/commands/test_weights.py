"""`inrflow weights`: what it lists, that its commands followed lead to checked weights, and that damage is found."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core import registry
from inrflow_core.errors import Exit, MissingError
from inrflow_core.feature_networks import _weights_file, i3d, lpips
from inrflow_core.feature_networks._weights_file import VARIABLE
from inrflow_core.runs import shipped
from inrflow_core.storage import plain_file
from inrflow_core.weights import inventory
from tests.feature_networks import hf_folders, i3d_published, published


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, empty, in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    console.stderr.cache_clear()
    return tmp_path / "weights"


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of VideoGPT's file of I3D, which is here with few channels."""
    monkeypatch.setattr(i3d, "STEM", i3d_published.NARROW_STEM)
    monkeypatch.setattr(i3d, "BLOCKS", i3d_published.NARROW_BLOCKS)
    torch.save(i3d_published.tensors(), i3d.STATE_DICT)
    return i3d.STATE_DICT


def answered(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict, str]:
    code = run(["weights", *words, "--json"])
    out, said = capsys.readouterr()
    return code, json.loads(out), " ".join(said.split())


@pytest.mark.parametrize(("columns", "lines", "width"), [(None, 2, 200), ("80", 1, 80), ("400", 1, 400)])
def test_the_list_is_readable_in_a_pipe(columns, lines, width, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    assert run(["weights", "list"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    for entry in inventory.entries():
        start = next(i for i, line in enumerate(out.splitlines()) if re.match(rf" ?{entry.name}[: ]", line))
        text = "\n".join(out.splitlines()[start : start + lines])
        assert ("there" if entry.is_there else "absent") in text
        assert columns == "80" or (entry.sources[0].page in text and entry.sources[0].license in text)


def test_every_network_with_weights_is_listed_with_use_page_and_license(capsys: pytest.CaptureFixture[str]):
    code, answer, _ = answered(capsys, "list")
    listed = {entry["name"]: entry for entry in answer["weights"]}
    parts = {name: registry.find("feature_networks", name) for name in registry.names("feature_networks")}
    with_weights = {name for name, part in parts.items() if getattr(part, "WEIGHTS", None) or hasattr(part, "EXPECTED")}
    assert code == Exit.DONE and set(listed) == with_weights | set(shipped.names())
    for name in with_weights:
        entry = listed[name]
        assert not entry["is_there"] and entry["use"] and entry["path"].startswith("weights/")
        assert all(source["page"].startswith("https://") and source["license"] for source in entry["sources"])
    assert "FID" in listed["inception"]["use"].split(", ") and listed["dinov2"]["use"] == "image conditions"
    assert all(listed[name]["is_there"] and len(listed[name]["sha256"]) == 64 for name in shipped.names())
    assert answered(capsys)[:2] == (code, answer)  # `inrflow weights --json`
    assert run(["weights", "--json", "check"]) == Exit.USAGE
    assert "`inrflow weights check --json`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["clip", "inception", "vgg16"])
def test_one_network_is_listed_with_size_and_digest_of_each_published_file(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "200")  # no digest in two lines
    assert run(["weights", "list", name]) == Exit.DONE
    shown = capsys.readouterr().out
    for file in registry.find("feature_networks", name).WEIGHTS.published:
        assert file.file in shown and (f"{file.bytes:,}" if file.bytes else "unknown") in shown
        assert (file.sha256 or "unknown") in shown


def test_the_command_that_a_hint_names_makes_the_weights_that_were_absent(
    narrow: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(MissingError, match="weights of `i3d` are absent") as caught:
        _weights_file.find("i3d", {})
    assert "`inrflow weights list i3d` lists" in (caught.value.hint or "")
    assert run(["weights", "list", "i3d"]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("inrflow weights convert")]
    (command,) = [command for command in commands if narrow in command]
    assert run(shlex.split(command)[1:]) == 0
    assert _weights_file.find("i3d", {}) == Path("weights/i3d.safetensors") and (folder / "i3d.safetensors").is_file()
    capsys.readouterr()
    code, answer, said = answered(capsys, "check", "i3d")
    assert code == 0 and answer["outputs"] == {f"{one}: logits": [1, 400] for one in i3d.PREPROCESSING}
    assert "whose digest is not known to inrflow" in said
    _, answer, _ = answered(capsys, "list", "i3d")
    assert (answer["is_there"], answer["published"], answer["problem"]) == (True, narrow, None)


def test_a_damaged_file_is_found_and_its_hint_followed_mends_it(
    narrow: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(["weights", "convert", "i3d", narrow]) == 0
    file = folder / "i3d.safetensors"
    whole = file.read_bytes()
    changed = bytearray(whole)
    changed[-3] ^= 1
    file.write_bytes(changed)
    capsys.readouterr()
    code, answer, _ = answered(capsys, "check", "i3d")
    assert code == Exit.INTEGRITY == answer["code"] and "is damaged: its digest is" in answer["error"]
    file.write_bytes(whole[:-3])
    code, answer, _ = answered(capsys, "check", str(file))
    assert code == Exit.INTEGRITY
    assert run(["weights", "convert", "i3d", narrow, "--overwrite"]) == 0
    assert file.read_bytes() == whole


def test_without_a_name_all_that_are_there_are_checked_and_the_code_is_that_of_the_first_failure(
    folder: Path, capsys: pytest.CaptureFixture[str]
):
    folder.mkdir()
    published.lpips_file(folder / "lpips.safetensors")
    (folder / "vgg16.safetensors").write_bytes(b"x")
    code, answer, said = answered(capsys, "check")
    assert code == Exit.INTEGRITY and [one["name"] for one in answer["failed"]] == ["vgg16"]
    assert [one["name"] for one in answer["checked"]] == ["lpips", *shipped.names()]
    assert answer["checked"][0]["outputs"] == {"distance": [1]} and f"of {len(shipped.names()) + 2} are whole" in said


def test_a_model_that_comes_with_inrflow_is_sampled_and_a_damaged_copy_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    copy = Path(shutil.copy(shipped.weights_file("solids"), tmp_path / "copy.safetensors"))
    code, answer, _ = answered(capsys, "check", "copy.safetensors")
    assert code == 0 and answer["outputs"] == {"sample": [1, 256, 3]}
    data = bytearray(copy.read_bytes())
    data[len(data) // 2] ^= 1
    copy.write_bytes(data)
    code, answer, _ = answered(capsys, "check", "copy.safetensors")
    assert code == Exit.INTEGRITY and "is damaged" in answer["error"]


def test_the_folder_of_an_embedder_is_checked_by_its_name_and_by_its_path(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hf_folders.dinov2(folder / "dinov2")
    code, answer, _ = answered(capsys, "check", "dinov2")
    assert code == 0 and answer["outputs"] == {"tokens": [25, 32]}  # 64 pixels are 5 x 5 patches
    shutil.copytree(folder / "dinov2", tmp_path / "elsewhere")
    assert answered(capsys, "check", "elsewhere")[1]["sha256"] == answer["sha256"]
    entry = inventory.find("dinov2", inventory.entries())
    assert entry is not None and entry.sha256 == answer["sha256"]


REFUSED = {
    "check vgg61": (Exit.USAGE, "there are no weights called `vgg61`", "did you mean `vgg16`?"),
    "check vgg16": (
        Exit.MISSING,
        "the weights of `vgg16` are absent",
        "inrflow weights convert vgg16 vgg16.pt --trust",
    ),
    "check some.pth": (Exit.USAGE, "`some.pth` is a published file", "inrflow weights convert NAME some.pth"),
    "convert dinov2 some.pth": (Exit.USAGE, "are used as they are published", "put both into `weights/dinov2`"),
    "convert random some.pth": (Exit.USAGE, "no published file of `random` is converted", "`inception`"),
    "convert vgg16 some.pth": (Exit.INTEGRITY, "is no known file of `vgg16`", "--any-digest"),
    "list nowhere": (Exit.USAGE, "there are no weights called `nowhere`", "allowed: `clip`"),
}


@pytest.mark.parametrize(("words", "expected"), REFUSED.items(), ids=REFUSED)
def test_what_cannot_be_is_an_error_with_its_code_and_what_to_do(
    words: str, expected: tuple[int, str, str], capsys: pytest.CaptureFixture[str]
):
    Path("some.pth").write_bytes(b"nothing")
    code, message, hint = expected
    actual, answer, _ = answered(capsys, *words.split())
    assert actual == code and message in answer["error"] and hint in answer["hint"]


def test_a_file_that_is_not_what_it_says_is_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for number, name in enumerate(["dinov2", "nowhere", "patches", ""]):
        about = {"format": _weights_file.FORMAT, "network": name}
        file = f"{number}.safetensors"
        safetensors.torch.save_file({"a": torch.zeros(2)}, file, about)
        code, answer, _ = answered(capsys, "check", file)
        assert code == Exit.INTEGRITY and f"holds weights of `{name}`" in answer["error"] and "vgg16" in answer["hint"]
    hf_folders.dinov2(tmp_path / "folder")
    config = tmp_path / "folder" / "config.json"
    for kind in (["dinov2"], {"a": 1}, None, 3):
        config.write_text(json.dumps({"model_type": kind}))
        code, answer, _ = answered(capsys, "check", "folder")
        assert (
            code == Exit.INTEGRITY and "holds a network of the type" in answer["error"] and "dinov2" in answer["hint"]
        )


def test_the_hint_of_a_published_file_names_its_own_command_in_quotes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    folder = Path("my files")
    folder.mkdir()
    commands = {
        "vgg.pth": "lpips vgg16-397923af.pth --second 'my files/vgg.pth'",
        "vgg16.pt": "vgg16 'my files/vgg16.pt' --trust",
        "other.pt": "NAME 'my files/other.pt'",
    }
    for name, command in commands.items():
        (folder / name).write_bytes(b"nothing")
        _, answer, _ = answered(capsys, "check", str(folder / name))
        assert f"`inrflow weights convert {command}`" in answer["hint"]
    digest = plain_file.file_digest(folder / "vgg.pth")
    second = lpips.WEIGHTS.second
    assert second is not None
    known = replace(lpips.WEIGHTS, second=second._replace(sha256=digest))
    monkeypatch.setattr(lpips, "WEIGHTS", known)
    _, answer, _ = answered(
        capsys, "check", str(folder / "other.pt")
    )  # the same bytes: the digest comes before the name
    assert "`inrflow weights convert lpips vgg16-397923af.pth --second 'my files/other.pt'`" in answer["hint"]


def test_a_refused_conversion_makes_no_folder(folder: Path, capsys: pytest.CaptureFixture[str]):
    Path("some.pth").write_bytes(b"nothing")
    assert answered(capsys, "convert", "vgg16", "some.pth")[0] == Exit.INTEGRITY and not folder.exists()


def test_a_converted_file_is_not_converted_again(narrow: str, capsys: pytest.CaptureFixture[str]):
    assert run(["weights", "convert", "i3d", narrow, "--out", "mine.safetensors"]) == 0
    assert "check it with `inrflow weights check mine.safetensors`" in capsys.readouterr().err
    code, answer, _ = answered(capsys, "convert", "i3d", "mine.safetensors")
    assert code == Exit.USAGE and "is converted already" in answer["error"]
    assert answered(capsys, "check", "mine.safetensors")[0] == 0
