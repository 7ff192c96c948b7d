"""Checkpoints."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from inrflow_core.errors import IntegrityError
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.storage import safetensors_file
from tests.training import small


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return small.images(tmp_path_factory.mktemp("checkpoint") / "shards")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    """A run of four steps with checkpoints of steps 2 and 4."""
    out = tmp_path_factory.mktemp("trained") / "run"
    small.train(data, out, save_every=2, keep=2, steps=4)
    return out


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize(
    "name", ["weights.safetensors", "ema_0.99.safetensors", "state/main.safetensors", "state/counters.json"]
)
def test_one_flipped_byte_is_found_and_the_file_is_named(data, run, name):
    file = run / "checkpoints/00000004" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(IntegrityError, match=rf"00000004/{name}` is damaged") as caught:
        small.train(data, run, save_every=2, steps=6)
    assert caught.value.hint == f"remove `{run}/checkpoints/00000004` to resume from the checkpoint before it"
    shutil.rmtree(run / "checkpoints/00000004")
    assert small.train(data, run, save_every=2, steps=4).counters.step == 4


def test_a_file_that_is_short_or_gone_is_named(run):
    folder = run / "checkpoints/00000004"
    with (folder / "weights.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(IntegrityError, match=r"weights.safetensors` has 1000 bytes"):
        checkpoint_manifest.verify(folder)
    (folder / "weights.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"lacks `.*weights.safetensors`"):
        checkpoint_manifest.verify(folder)


def test_a_save_that_fails_leaves_the_older_checkpoints_and_nothing_half(data, run, monkeypatch):
    write = safetensors_file.write

    def fail(path, *rest):
        if path.name == "main.safetensors":
            raise OSError(28, "No space left on device")
        return write(path, *rest)

    monkeypatch.setattr(safetensors_file, "write", fail)
    with pytest.raises(OSError, match="No space left"):
        small.train(data, run, save_every=6, steps=6)
    monkeypatch.undo()
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["00000002", "00000004"]
    assert small.train(data, run, save_every=6, steps=6).counters.step == 6


@pytest.mark.parametrize("name", ["weights.safetensors", "ema_0.99.safetensors", "main.safetensors"])
def test_a_disk_that_gives_back_other_bytes_makes_no_checkpoint(data, run, monkeypatch, name):
    write = safetensors_file.write

    def spoil(path, *rest):
        digest = write(path, *rest)
        if path.name == name:
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        return digest

    monkeypatch.setattr(safetensors_file, "write", spoil)
    with pytest.raises(IntegrityError, match=rf"{name}` is damaged"):
        small.train(data, run, save_every=6, steps=6)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["00000002", "00000004"]


def test_what_an_interrupted_save_left_is_not_taken_for_a_checkpoint_and_is_removed(data, run):
    (run / "checkpoints/00000004/manifest.json").rename(run / "gone")
    (run / "checkpoints/.00000006.partial").mkdir()
    assert checkpoint_manifest.complete_steps(run) == [2]
    (run / "gone").unlink()
    trainer = small.train(data, run, save_every=2, steps=4, keep=1)
    assert trainer.counters.step == 4
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["00000004"]


@pytest.mark.parametrize("is_last", [False, True], ids=["in the middle", "behind the last step"])
def test_what_an_interrupted_removal_left_goes(data, run, monkeypatch, is_last):
    remove = shutil.rmtree

    def killed(path, **named):
        if Path(path).name.strip(".").startswith("00000002"):
            (Path(path) / "weights.safetensors").unlink()
            raise KeyboardInterrupt
        remove(path, **named)

    steps = 6 if is_last else 8
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            small.train(data, run, save_every=2, steps=steps)
    assert checkpoint_manifest.complete_steps(run) == [4, 6]
    small.train(data, run, save_every=2, steps=steps)
    names = ["00000004", "00000006"] if is_last else ["00000006", "00000008"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == names


def test_a_kill_behind_the_last_checkpoint_leaves_none_too_many(data, run, monkeypatch):
    prune = checkpoint_manifest.prune

    def killed(run, *keep):
        if 6 in checkpoint_manifest.complete_steps(run):
            raise KeyboardInterrupt
        prune(run, *keep)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_manifest, "prune", killed)
        with pytest.raises(KeyboardInterrupt):
            small.train(data, run, save_every=2, steps=6)
    assert checkpoint_manifest.complete_steps(run) == [2, 4, 6]
    small.train(data, run, save_every=2, steps=6)
    assert checkpoint_manifest.complete_steps(run) == [4, 6]


def test_a_checkpoint_has_the_bytes_that_were_predicted(data, tmp_path):
    trainer = small.train(data, tmp_path / "run", steps=1)
    from inrflow_core.training import setup

    predicted = setup.check_job(small.job(data, tmp_path / "other"), {}).plan.checkpoint
    files = list((trainer.out / "checkpoints/00000001").rglob("*.safetensors"))
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in files)
    assert sum(path.stat().st_size for path in files) - headers == predicted
