"""`inrflow sample`, `upsample` and `runs` on small runs, through the program's own front door."""

from __future__ import annotations

import json
import struct
import zlib

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from inrflow_cli import console
from inrflow_cli.app import run
from inrflow_core import models
from inrflow_core.geometry import ply_reader
from inrflow_core.methods._flow_field import FlowField
from inrflow_core.sample_files.sample_shard import SampleShard
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import plain_file
from tests import tiny


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    parent = tmp_path_factory.mktemp("runs")
    tiny.run_folder(parent / "clouds", tiny.POINTS)
    tiny.run_folder(parent / "images", tiny.IMAGE)
    return parent


@pytest.fixture(autouse=True)
def _working_folder(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("INRFLOW_RUNS", str(folders))
    monkeypatch.chdir(tmp_path)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def test_a_cloud_needs_no_run_named_and_begins_with_the_smaller_one(tmp_path, capsys):
    assert run(["sample", "--points", "300", "large.ply"]) == 0
    assert "clouds" in capsys.readouterr().err
    assert run(["sample", "small.ply"]) == 0
    large, small = ply_reader.read_points(tmp_path / "large.ply"), ply_reader.read_points(tmp_path / "small.ply")
    assert (large.shape, small.shape) == ((300, 3), (24, 3))
    np.testing.assert_allclose(large[:24], small, atol=1e-4)


def test_points_select_a_run_of_clouds_for_an_image_file_too(tmp_path, capsys):
    assert run(["sample", "--points", "50", "out.png"]) == 0
    assert "clouds`" in capsys.readouterr().err


def test_the_same_command_gives_the_same_bytes(tmp_path):
    for suffix in ("png", "npz", "h5", "ply"):
        size = ["--num", "3", "--resolution", "9x7"] if suffix != "ply" else ["--points", "50"]
        for name in ("a", "b"):
            assert run(["sample", f"{name}.{suffix}", *size, "--label", "dog"]) == 0
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_an_image_records_its_provenance_and_no_path_or_time(tmp_path, folders):
    assert run(["sample", "a.png", "--seed", "5"]) == 0
    with Image.open(tmp_path / "a.png") as image:
        info = image.info
    assert (info["seeds"], info["preset"]) == ("5", "tiny")
    assert str(folders) not in str(info)


def test_the_origin_tells_what_guided_and_when(tmp_path, folders):
    common = ["sample", "--run", str(folders / "images"), "--guidance", "2"]
    assert run([*common, "plain.png"]) == 0
    assert run([*common, "other.png", "--guide-run", str(folders / "images")]) == 0
    assert run([*common, "part.png", "--guidance-interval", "0.1,0.9"]) == 0
    plain, other, part = (Image.open(tmp_path / f"{name}.png").info for name in ("plain", "other", "part"))
    assert other["guide"] == other["weights"] == plain["weights"]
    assert part["guidance_interval"] == "0.1,0.9"
    assert not {"guide", "guidance_interval"} & plain.keys()


def test_each_of_several_clouds_tells_its_own_seed_and_label(tmp_path):
    assert run(["sample", "a.ply", "--num", "3", "--seed", "4", "--label", "all"]) == 0
    for index, (seed, label, name) in enumerate([("4", "1", "dog"), ("5", "2", "owl"), ("6", "0", "cat")]):
        file = tmp_path / f"a-{index:03d}.ply"
        header = file.read_bytes().partition(b"end_header")[0].decode()
        assert f"comment seed: {seed}\ncomment label: {label}\ncomment class: {name}\n" in header
        assert "seeds" not in header and "labels" not in header
        assert run(["sample", "one.ply", "--seed", seed, "--label", name, "--overwrite"]) == 0
        np.testing.assert_allclose(
            ply_reader.read_points(file), ply_reader.read_points(tmp_path / "one.ply"), atol=1e-4
        )


def test_samples_that_are_no_numbers_are_an_error_and_no_file(tmp_path, folders, capsys):
    built = tiny.model(tiny.IMAGE)
    for weight in built.method.parameters():
        weight.fill_(float("nan"))
    models.save(tmp_path / "w.safetensors", built.method.state_dict(), built.preset, {})
    assert run(["sample", "--run", "w.safetensors", "out.png"]) == 7
    assert "left the finite numbers" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_upsample_by_seed_asks_the_same_sample(tmp_path):
    assert run(["sample", "small.png", "--seed", "4", "--label", "1"]) == 0
    assert run(["upsample", "large.png", "--seed", "4", "--label", "1", "--scale", "3"]) == 0
    small, large = (np.asarray(Image.open(tmp_path / name)) for name in ("small.png", "large.png"))
    assert large.shape == (18, 18)
    assert np.abs(large[1::3, 1::3].astype(int) - small).max() <= 1


def test_an_input_image_is_reconstructed_and_its_psnr_is_reported(tmp_path, capsys):
    assert (
        run(
            [
                "sample",
                "given.png",
                "--seed",
                "4",
                "--label",
                "1",
                "--steps",
                "50",
                "--sampler",
                "heun",
                "--guidance",
                "1",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert run(["upsample", "given.png", "finer.png", "--scale", "2", "--label", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["files"][0]["psnr"] > 30
    assert Image.open(tmp_path / "finer.png").size == (12, 12)
    papers = ["upsample", "given.png", "rough.png", "--scale", "3", "--label", "1", "--noise", "independent", "--json"]
    assert run(papers) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["psnr"] == report["files"][0]["psnr"]
    assert run(["upsample", "given.png", "smooth.png", "--scale", "3", "--label", "1"]) == 0
    rough, smooth = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("rough.png", "smooth.png"))
    assert np.abs(rough[1::3, 1::3] - smooth[1::3, 1::3]).max() <= 1
    assert np.abs(rough - smooth).max() > 8


def test_an_input_cloud_is_reconstructed_and_grows(tmp_path, capsys):
    assert run(["sample", "given.ply", "--steps", "50", "--sampler", "heun", "--guidance", "1"]) == 0
    capsys.readouterr()
    assert run(["upsample", "given.ply", "finer.ply", "--points", "200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["chamfer"] < 0.05
    assert ply_reader.read_points(tmp_path / "finer.ply").shape == (200, 3)


def test_several_files_take_the_labels_in_turn_and_record_the_digest_of_their_input(tmp_path):
    for seed in ("1", "2"):
        assert run(["sample", f"{seed}.png", "--seed", seed, "--label", "dog"]) == 0
    (tmp_path / "out").mkdir()
    assert run(["upsample", "1.png", "2.png", "out", "--scale", "2", "--steps", "3", "--label", "dog,owl"]) == 0
    infos = [Image.open(tmp_path / "out" / f"{seed}.png").info for seed in ("1", "2")]
    assert [one["labels"] for one in infos] == ["1", "2"]
    assert [one["given"] for one in infos] == [
        plain_file.file_digest(tmp_path / f"{seed}.png")[:16] for seed in ("1", "2")
    ]
    assert {(one["sampler"], one["guidance"], one["size"]) for one in infos} == {
        ("heun spacing=equal steps=3", "1", "12x12")
    }


def test_samples_of_a_saved_field_record_its_sampling_options(tmp_path):
    common = ["--seed", "4", "--num", "2", "--steps", "3"]
    assert run(["sample", "a.npz", *common, "--resolution", "6", "--save-field", "field.safetensors"]) == 0
    assert run(["upsample", "field.safetensors", "fine.png", "--scale", "3", "--window", "0,0,0.5,1"]) == 0
    info = Image.open(tmp_path / "fine.png").info
    assert (info["seeds"], info["sampler"], info["size"], info["window"]) == (
        "4-5",
        "euler spacing=equal steps=3",
        "18x18",
        "0,0,0.5,1",
    )


def test_what_is_saved_as_a_field_is_sampled_once(tmp_path, monkeypatch):
    common = ["--seed", "4", "--num", "3", "--resolution", "9", "--steps", "3", "--label", "1"]
    assert run(["sample", "plain.npz", *common]) == 0
    times: list[int] = []
    walk = FlowField._evaluate
    monkeypatch.setattr(FlowField, "_evaluate", lambda field, *rest: times.append(1) or walk(field, *rest))
    assert run(["sample", "kept.npz", *common, "--save-field", "f.safetensors"]) == 0
    assert len(times) == 3
    plain, saved = (np.load(tmp_path / f"{name}.npz")["images"].astype(int) for name in ("plain", "kept"))
    assert np.abs(plain - saved).max() <= 1


def test_options_that_do_not_apply_to_an_input_file_or_a_saved_field_are_refused(tmp_path, capsys):
    assert run(["sample", "a.png", "--resolution", "6", "--save-field", "f.safetensors"]) == 0
    both = [["--seed", "3"], ["--num", "2"], ["--sampler", "euler"], ["--guidance", "2"]]
    sampling_only = [
        ["--run", "x"],
        ["--label", "1"],
        ["--steps", "3"],
        ["--ema", "0"],
        ["--checkpoint", "2"],
        ["--noise", "cubic"],
    ]
    for file, options in [("a.png", both), ("f.safetensors", both + sampling_only)]:
        for option in options:
            capsys.readouterr()
            assert run(["upsample", file, "out.png", *option]) == 2
            assert f"`{option[0]}` does not apply to a" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_field_without_a_weight_is_an_error(tmp_path, capsys):
    assert run(["sample", "a.png", "--resolution", "6", "--save-field", "f.safetensors"]) == 0
    tensors = safetensors.torch.load_file(tmp_path / "f.safetensors")
    with safetensors.safe_open(tmp_path / "f.safetensors", "pt") as file:
        metadata = {name: text for name, text in file.metadata().items() if name != "seal"}
    tensors.pop(next(name for name in tensors if name.startswith("decoder.0.")))
    safetensors.torch.save_file(tensors, tmp_path / "f.safetensors", metadata)
    assert run(["upsample", "f.safetensors", "out.png"]) == 4
    assert "is not a whole field" in capsys.readouterr().err


def test_an_image_that_unpacks_to_gigabytes_is_refused(tmp_path, capsys):
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", 0)
        + b"IDAT"
        + struct.pack(">I", zlib.crc32(b"IDAT"))
    )
    assert run(["upsample", "bomb.png", "out.png"]) == 4
    assert "`bomb.png` cannot be read as an image: it cannot be decoded: Image size" in capsys.readouterr().err
    assert not (tmp_path / "out.png").exists()


def test_a_saved_field_is_evaluated_without_its_run(tmp_path, monkeypatch):
    assert run(["sample", "a.npz", "--num", "2", "--save-field", "field.safetensors", "--field-fp16"]) == 0
    monkeypatch.setenv("INRFLOW_RUNS", str(tmp_path / "none"))
    assert run(["upsample", "field.safetensors", "fine.npz", "--scale", "3"]) == 0


def test_a_shard_is_the_same_whatever_the_batch(tmp_path):
    common = ["--seeds", "4-13", "--label", "all", "--resolution", "6"]
    assert run(["sample", "a.h5", *common, "--batch", "4"]) == 0
    assert run(["sample", "b.h5", *common, "--batch", "3"]) == 0
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    read = ShardDataset(tmp_path / "a.h5").read("samples", np.arange(10))
    assert read.labels.tolist() == [seed % 3 for seed in range(4, 14)]
    assert run(["sample", "C.H5", *common]) == 0
    assert (tmp_path / "C.H5").read_bytes() == (tmp_path / "a.h5").read_bytes()
    assert run(["export", "C.H5", "c.npz"]) == 0


def test_the_same_command_again_finds_its_finished_shard_and_another_is_refused(tmp_path, capsys):
    command = ["sample", "a.h5", "--seeds", "4-13"]
    assert run([*command, "--label", "all"]) == 0
    before = (tmp_path / "a.h5").stat().st_mtime_ns
    capsys.readouterr()
    assert run([*command, "--label", "all"]) == 0
    assert "holds all of its 10 samples already" in capsys.readouterr().err
    assert (tmp_path / "a.h5").stat().st_mtime_ns == before
    assert run([*command, "--label", "1"]) == 2
    assert run(["sample", "a.h5", "--seeds", "4-12", "--label", "all"]) == 2
    assert "samples of other options" in capsys.readouterr().err
    assert run([*command, "--label", "1", "--overwrite"]) == 0


def test_two_processes_write_the_shard_of_one(tmp_path, monkeypatch):
    command = ["--seeds", "0-10", "--batch", "2", "--steps", "2"]
    assert run(["sample", "alone.h5", *command]) == 0
    for rank in (1, 0):
        with monkeypatch.context() as patch:
            for name, value in {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "here", "MASTER_PORT": 1}.items():
                patch.setenv(name, str(value))
            assert run(["sample", "shared.h5", *command]) == 0
        if rank == 1:
            pieces = list((tmp_path / "shared.h5.partial").glob("*.npz"))
            assert sum(len(np.load(piece)["indices"]) for piece in pieces) == 5
    assert (tmp_path / "shared.h5").read_bytes() == (tmp_path / "alone.h5").read_bytes()


@pytest.mark.parametrize(
    "other",
    [["--label", "2"], ["--guidance-interval", "0.1,0.9"], ["--guide-run", "weak"], ["--guidance", "3"]],
    ids=lambda words: words[0],
)
def test_an_unfinished_shard_is_resumed_by_the_same_command_alone(other, tmp_path, monkeypatch, capsys):
    for name in ("run", "weak"):
        tiny.run_folder(tmp_path / name, tiny.IMAGE, network={"depth": len(name) - 2})
    command = ["sample", "a.h5", "--run", "run", "--num", "3", "--label", "1", "--guidance", "2"]
    with monkeypatch.context() as patch:
        patch.setattr(SampleShard, "finish", lambda shard: False)  # as if another process still owed a piece
        assert run(command) == 0
    capsys.readouterr()
    assert run([*command, *other]) == 2
    assert "is an unfinished shard of another job" in capsys.readouterr().err
    assert run(command) == 0 and (tmp_path / "a.h5").is_file()


def test_an_image_sampled_with_a_guide_in_an_interval_records_both(tmp_path):
    tiny.run_folder(tmp_path / "weak", tiny.IMAGE, network={"width": 16, "depth": 1})
    how = ["--guide-run", "weak", "--guidance", "2", "--guidance-interval", "0.25,0.75"]
    assert run(["sample", "a.png", *how]) == 0
    with Image.open(tmp_path / "a.png") as image:
        info = image.info
    weights = tmp_path / "weak/checkpoints/00000002/ema_0.999.safetensors"
    assert (info["guidance"], info["guidance_interval"]) == ("2", "0.25,0.75")
    assert info["guide"] == plain_file.file_digest(weights)[:16]


def test_what_cannot_act_is_refused(tmp_path, capsys):
    tiny.run_folder(tmp_path / "plain", tiny.IMAGE, condition=None)
    assert run(["sample", "a.png", "--run", "plain", "--guidance", "3"]) == 2
    assert "never learned without a condition, so that nothing guides it" in capsys.readouterr().err
    assert run(["sample", "a.png", "--run", "plain", "--guide-run", "plain"]) == 2
    assert "changes nothing with guidance 1" in capsys.readouterr().err
    assert run(["sample", "a.png", "--run", "plain", "--guide-run", "plain", "--guidance", "3"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sample", "--points", "0", "out.ply"], 2, "at least 1 point"),
        (["sample", "--label", "9", "out.ply"], 2, "the model has 3 classes"),
        (["sample", "--label", "dgo", "out.ply"], 2, "did you mean `dog`"),
        (["sample", "out.bmp"], 2, "`.bmp`"),
        (["sample", "nowhere/out.ply"], 2, "does not exist"),
        (["sample", "--run", "nowhere", "out.ply"], 3, "does not exist"),
        (["sample", "--resolution", "9", "out.ply"], 2, "`--points"),
        (["sample", "--resolution", "0x4", "out.png"], 2, "is not a size"),
        (["sample", "--seeds", "9-3", "out.png"], 2, "is not a range"),
        (["sample", "--sampler", "eular", "out.png"], 2, "did you mean `euler`"),
        (["sample", "--sampler", "dopri5", "--steps", "3", "out.png"], 2, "chooses its own steps"),
        (["sample", "--guidance-interval", "0.9,0.1", "out.png"], 2, "two times"),
        (["sample", "--device", "gpu7", "out.png"], 2, "is not a device"),
        (["sample", "--device", "meta", "out.png"], 2, "is not there"),
        (["sample", "--guidance", "inf", "out.png"], 2, "`guidance` is inf"),
        (["sample", "--precision", "fp8", "out.png"], 2, "unknown precision `fp8`"),
        (["sample", "--field-fp16", "out.png"], 2, "add `--save-field"),
        (["sample", "--save-field", "field.png", "out.png"], 2, ".safetensors files"),
        (["sample", "--seed", str(2**63 - 1), "--num", "2", "out.png"], 2, "too large"),
        (["upsample", "nowhere.png", "out.png"], 3, "does not exist"),
        (["sample", f"{'a' * 240}.png"], 2, "too long a name"),
        (["sample", f"{'a' * 240}.h5"], 2, "too long a name"),
        (["sample", "nowhere/out.h5"], 2, "does not exist"),
        (["upsample", "out.h5"], 2, "does not write shards"),
        (["upsample", "out.png", "--scale", "0"], 2, "`--scale 0` gives an empty or infinite size"),
        (["upsample", "out.png", "--scale", "nan"], 2, "`--scale nan` gives an empty or infinite size"),
        (["upsample", "out.ply", "--points", "9", "--scale", "inf"], 2, "exclude each other"),
        (["upsample", "out.ply", "--scale", "inf"], 2, "`--scale inf` gives an empty or infinite size"),
        (["upsample", "out.png", "--scale", "2", "--resolution", "4"], 2, "exclude each other"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_gets_its_code_one_sentence_and_a_hint(arguments, code, words, tmp_path, capsys):
    assert run(arguments) == code
    message = capsys.readouterr().err
    assert "error: " in message
    assert "hint: " in message
    assert words in message
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "out.ply").write_text("mine")
    assert run(["sample", "out.ply"]) == 2
    assert (tmp_path / "out.ply").read_text() == "mine"
    assert run(["sample", "out.ply", "--overwrite"]) == 0


@pytest.mark.parametrize("content", [b"junk", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_holds_no_weights_is_refused(content, tmp_path, capsys):
    (tmp_path / "weights.safetensors").write_bytes(content)
    assert run(["sample", "--run", "weights.safetensors", "out.ply"]) == 4
    assert "weights.safetensors" in capsys.readouterr().err


def test_an_image_that_is_cut_off_is_refused(tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:500])
    assert run(["upsample", "a.jpg", "b.png", "--scale", "2"]) == 4
    assert not (tmp_path / "b.png").exists()


def test_runs_lists_what_there_is(capsys):
    assert run(["runs", "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {row["run"].rpartition("/")[2]: row["step"] for row in runs} == {"images": 2, "clouds": 2}


def test_a_setting_of_the_sampler_is_used_and_recorded_and_others_are_refused(tmp_path, capsys):
    options = ["--sampler", "euler-maruyama", "--steps", "3", "--points", "8"]
    assert run(["sample", "hot.ply", *options]) == 0
    assert run(["sample", "cold.ply", *options, "--set", "sampler.temperature=0", "--set", "sampler.spacing=log"]) == 0
    assert b"spacing=log" in (tmp_path / "cold.ply").read_bytes()
    assert b"temperature=0.0" in (tmp_path / "cold.ply").read_bytes()
    assert (
        np.abs(ply_reader.read_points(tmp_path / "hot.ply") - ply_reader.read_points(tmp_path / "cold.ply")).max()
        > 0.01
    )
    capsys.readouterr()
    for text, message in (
        ("sampler.heat=1", "[sampler] has no setting `heat`"),
        ("network.width=8", "`--set network...` cannot change a trained model"),
    ):
        assert run(["sample", "out.ply", *options, "--set", text]) == 2
        assert message in capsys.readouterr().err
