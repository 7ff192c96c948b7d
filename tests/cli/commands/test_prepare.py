"""`inrflow prepare`: where it reads and writes, what it says, and its exit codes."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrflow_cli import app, console
from inrflow_core import registry
from inrflow_core.preparation.notes import SkipReason, skip_reasons
from inrflow_core.shards.manifest import Skipped
from inrflow_core.shards.shard_dataset import ShardDataset
from tests import protein_files
from tests.datasets import raw


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("INRFLOW_DATA", raising=False)
    console.stderr.cache_clear()
    yield
    console.stderr.cache_clear()


def run(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    capsys.readouterr()
    code = app.run(["prepare", *line.split()])
    output = capsys.readouterr()
    return code, output.out, output.err


def image_files(folder: str, *, spoilt: tuple[int, ...] = ()) -> Path:
    source = raw.folder(Path(folder), [f"{'ab'[n % 2]}/{n}.png" for n in range(6)])
    for number in spoilt:
        (source / f"{'ab'[number % 2]}/{number}.png").write_bytes(b"")
    return source


def test_digits_need_nothing_and_everything_is_said(capsys: pytest.CaptureFixture[str]):
    code, out, err = run("digits", capsys)
    assert (code, out) == (0, "")
    lines = err.splitlines()
    assert lines[0] == "making `digits`"
    assert re.fullmatch(r"preparing digits: 1,797 of 1,797 items, [\d,]+/s, in .*", lines[1])
    assert re.fullmatch(r"wrote `shards/digits`: 1,498 train, 299 val \(8 shards, \d{3} kB\)", lines[2])
    assert ShardDataset("shards/digits").count("train") == 1498
    assert run("digits", capsys)[2].splitlines()[-1].startswith("nothing to do: `shards/digits`: 1,498 train")


def test_it_reads_data_name_and_writes_shards_name_with_the_resolution(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    image_files("data/images")
    assert run("images --resolution 8", capsys)[0] == 0
    assert ShardDataset("shards/images-8").manifest.shape == (8, 8, 3)
    image_files("big/images")
    monkeypatch.setenv("INRFLOW_DATA", "big")
    assert run("images --resolution 4 --out elsewhere/mine", capsys)[0] == 0
    assert ShardDataset("elsewhere/mine").manifest.shape == (4, 4, 3)


def test_settings_come_by_set_and_by_their_own_options(capsys: pytest.CaptureFixture[str]):
    image_files("p")
    assert run("images --source p --classes --resolution 4 --set channels=1", capsys)[0] == 0
    opened = ShardDataset("shards/images-4")
    assert (opened.classes, opened.manifest.shape) == (("a", "b"), (4, 4, 1))
    assert opened.manifest.settings == {"resolution": 4, "classes": True, "channels": 1, "upright": True}


def test_a_folder_in_place_of_a_name_leads_to_the_command_that_reads_it(capsys: pytest.CaptureFixture[str]):
    image_files("photos")
    Path("scans").mkdir()
    np.save("scans/a.npy", np.eye(3))
    for folder, expected in (("photos", "image-folder"), ("scans", "clouds"), ("scans/", "clouds")):
        code, _, err = run(folder, capsys)
        assert code == 2 and f"`inrflow prepare {expected} --source {folder}`" in err
    Path("nothing").mkdir()
    assert "allowed:" in run("nothing", capsys)[2]
    code, _, err = run("clouds --source scans --out shards/scans --set val=0", capsys)
    assert code == 0 and "wrote `shards/scans`: 1 train" in err
    assert "note: each set has 3 points, as the smallest file has; `--set points=N` takes another number" in err


def test_images_that_are_enlarged_are_counted(capsys: pytest.CaptureFixture[str]):
    for number, side in enumerate((5, 8, 9, 30)):
        Path("p").mkdir(exist_ok=True)
        raw.image(number, size=(side, 40)).save(f"p/{number}.png")
    err = run("image-folder --source p --resolution 9", capsys)[2]
    assert "note: 2 items are smaller than 9 pixels along a side, and enlarged\n" in err
    assert "enlarged" not in run("image-folder --source p --resolution 5", capsys)[2]


def test_shapenet_takes_the_categories_named(capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(0)
    for synset in ("02691156", "02958343", "03001627"):
        folder = Path("data/shapenet/ShapeNetCore.v2.PC15k") / synset / "train"
        folder.mkdir(parents=True)
        np.save(folder / "a.npy", rng.normal(size=(30, 3)).astype(np.float32))
    for words, classes in [
        ("", ("airplane", "car", "chair")),
        (" --category chair", ("chair",)),
        (" --category chair --category 02691156", ("airplane", "chair")),
    ]:
        assert run(f"shapenet --overwrite{words}", capsys)[0] == 0
        assert ShardDataset("shards/shapenet").classes == classes
    code, _, err = run("shapenet --category chiar", capsys)
    assert code == 2 and "did you mean `chair`?" in err
    assert run("digits --category chair", capsys)[0] == 2


def test_a_run_whose_only_items_of_a_split_are_bad_counts_its_shards_right(capsys: pytest.CaptureFixture[str]):
    source = raw.folder(Path("p"), ["train/1.png", "val/1.png"])
    (source / "val/1.png").write_bytes(b"")
    assert "wrote `shards/images-4`: 1 train (1 shard, " in run("images --source p --resolution 4", capsys)[2]


def test_json_is_one_object_on_stdout(capsys: pytest.CaptureFixture[str]):
    image_files("p")
    code, out, err = run("images --source p --resolution 4 --json", capsys)
    report = json.loads(out)
    assert (code, out.count("\n")) == (0, 1)
    assert (report["dataset"], report["splits"], report["made"], report["skipped"]) == ("images", {"train": 6}, 1, [])
    assert "wrote `shards/images-4`" in err


def test_unreadable_items_are_named_counted_and_make_exit_code_6(capsys: pytest.CaptureFixture[str]):
    image_files("p", spoilt=(2, 3))
    for line in (
        "images --source p --resolution 4",
        "images --source p --resolution 4 --json",
    ):  # the second finds it all there
        code, out, err = run(line, capsys)
        assert code == 6
        assert err.splitlines()[-2:] == [
            "  2 items, the first `train/a/2.png`: it is empty",
            "note: skipped 2 items; `shards/images-4/manifest.json` names them",
        ]
    assert [item["name"] for item in json.loads(out)["skipped"]] == ["train/a/2.png", "train/b/3.png"]
    assert json.loads(out)["skip_reasons"] == [{"count": 2, "reason": "it is empty", "first": "train/a/2.png"}]


def test_skipped_items_are_counted_by_reason_whatever_numbers_and_names_are_in_it():
    names = {"a": "it has 5 open edges", "b": "it is empty", "c": "it has 1,200 open edges", "d": "`d.mtl` is missing"}
    skipped = [Skipped("train", name, reason) for name, reason in [*names.items(), ("e", "`e.mtl` is missing")]]
    assert skip_reasons([*skipped, Skipped("val", "f", "it has 7 open edges")]) == [
        SkipReason(3, "it has 5 open edges", "a"),
        SkipReason(2, "`d.mtl` is missing", "d"),
        SkipReason(1, "it is empty", "b"),
    ]


def test_the_hint_of_a_setting_that_cannot_be_names_no_preset(capsys: pytest.CaptureFixture[str]):
    code, _, err = run("clouds --source p --set val=2", capsys)
    assert code == 2 and "`val` is 2" in err and "preset" not in err and "docs/data-sets.md" in err


def test_what_filters_leave_out_is_counted_and_named(capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("biotite")
    Path("p").mkdir()
    for number in range(5):
        lines = protein_files.pdb_lines(protein_files.structure("GAGWM", seed=number), factor=50 + 10 * number)
        Path(f"p/{number}.pdb").write_bytes(protein_files.pdb(lines))
    line = "swissprot --source p --out s --set embedder=one-hot --set test=0 --set val=0 --json --set plddt="
    code, out, err = run(f"{line}65", capsys)
    assert (code, json.loads(out)["left_out"]["`plddt=65`"]["count"]) == (0, 2)
    assert re.search(r"`plddt=65` leaves out 2: `[01]`, `[01]`$", err, re.MULTILINE)
    code, out, err = run(f"{line}0.65 --overwrite", capsys)
    assert (code, json.loads(out)["left_out"], json.loads(out)["splits"]) == (0, {}, {"train": 5})
    assert "note: `plddt=0.65` leaves out nothing: pLDDT is from 0 to 100" in err
    assert run(f"{line}99 --overwrite", capsys)[0] == 3


def test_a_dry_run_predicts_and_writes_nothing(capsys: pytest.CaptureFixture[str]):
    image_files("p")
    before = sorted(os.listdir())
    code, out, err = run("images --source p --resolution 4 --dry-run --json", capsys)
    assert code == 0 and sorted(os.listdir()) == before
    assert "would write `shards/images-4`: 6 train (1 shard, 288 B), in about" in err
    assert json.loads(out)["seconds"] > 0


@pytest.mark.parametrize(
    ("line", "code", "error", "hint"),
    [
        ("", 2, "no data set is named", "`inrflow prepare --list` lists all data sets"),
        ("imagnet", 2, "no data set is called `imagnet`", "did you mean `imagenet`?"),
        ("mnist", 3, "no data for `mnist`: `data/mnist` does not exist", "--source DIR"),
        ("images --source p --resolution 0", 2, "[images] `resolution` is 0: from 1 to 8192", "--set"),
        (
            "images --source p --set resolutoin=8",
            2,
            "[images] has no setting `resolutoin`",
            "did you mean `resolution`?",
        ),
        ("images --source p --set resolution=big", 2, "[images] `resolution` is 'big'", "give a whole number"),
        ("images --source p --set resolution", 2, "`--set resolution` gives no value", "--set key=value"),
        ("digits --resolution 16", 2, "`digits` has no settings", "leave resolution out"),
        ("images --source p --repair --overwrite", 2, "exclude each other", "`--repair` keeps undamaged shards"),
        ("imagenet --source p", 3, "`p` holds no `imagenet` data: looked for", "docs/data-sets.md"),
        ("digits --out p/a/0.png", 2, "`p/a/0.png` cannot be a folder: a file is in the way", "another `--out`"),
        ("digits --out p/a/0.png/x", 2, "cannot be a folder: a file is in the way", "another `--out`"),
        ("images --source empty", 3, "looked for image files; found no files", "docs/data-sets.md"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_code(
    line: str, code: int, error: str, hint: str, capsys: pytest.CaptureFixture[str]
):
    image_files("p")
    Path("empty").mkdir()
    got, out, err = run(line, capsys)
    assert (got, out) == (code, "")
    head, _, tail = err.partition("\n\nhint: ")
    assert error in head.partition("error: ")[2] and hint in tail
    assert "Traceback" not in err and not Path("shards").exists()


def test_the_hint_of_a_damaged_shard_is_a_command_that_mends_it(capsys: pytest.CaptureFixture[str]):
    image_files("p")
    run("images --source p --resolution 4 --classes --limit 4", capsys)
    path = Path("shards/images-4/train-00000.h5")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    code, _, err = run("images --source p --resolution 4 --classes --limit 4", capsys)
    assert code == 4 and "is damaged: it has" in err
    hinted = re.search(r"`inrflow prepare (.*)`", err.partition("hint:")[2])
    assert hinted is not None
    assert run(hinted[1].replace("DIR", "p"), capsys)[0] == 0
    assert path.read_bytes() == whole


def test_the_list_says_of_every_data_set_what_it_reads_and_makes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, err = run("--list --json", capsys)
    rows = {row["name"]: row for row in json.loads(out)}
    assert code == 0 and list(rows) == registry.names("datasets")
    assert rows["digits"]["domain"] == "image" and rows["digits"]["makes"].startswith("gray 8 x 8")
    for name in rows:
        assert f" {name} " in err


def wedge(folder: str) -> Path:
    source = Path(folder)
    source.mkdir(parents=True)
    (source / "wedge.obj").write_text("v 0 0 0\nv 4 0 0\nv 4 0 3\nv 0 2 0\nf 1 2 3\nf 1 4 2\nf 1 3 4\nf 2 4 3\n")
    return source


def test_images_of_meshes_need_weights_or_a_stand_in_that_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("INRFLOW_WEIGHTS", raising=False)
    source = wedge("data/objaverse")
    code, out, err = run("objaverse --resolution 16", capsys)
    assert (code, out) == (3, "")
    assert "the weights of `dinov2` are absent: there is no folder `weights/dinov2`" in err
    assert "`facebook/dinov2-base`" in err and "`--set embedder=patches` is a placeholder without weights" in err
    (source / "wedge.obj").touch()
    code, _, err = run("objaverse --resolution 16 --set embedder=patches --set points=100", capsys)
    assert code == 0
    assert "`patches` is a placeholder for a pretrained network" in err
    [split] = ShardDataset("shards/objaverse-16").splits
    assert ShardDataset("shards/objaverse-16").read(split, [0]).condition["tokens"].shape == (1, 4, 64, 198)


def test_tokens_may_be_left_to_training(capsys: pytest.CaptureFixture[str]):
    wedge("data/objaverse")
    code, _, err = run("objaverse --resolution 16 --features online --set points=100", capsys)
    assert code == 0 and "placeholder" not in err
    shards = ShardDataset("shards/objaverse-16")
    assert shards.manifest.settings["features"] == "online"
    assert set(shards.read(shards.splits[0], [0]).condition) == {"image", "camera", "offset", "scale"}
    code, _, err = run("objaverse --features sometimes", capsys)
    assert code == 2 and "`features` is 'sometimes'" in err and "`online`" in err
    code, _, err = run("digits --features online", capsys)
    assert code == 2 and "`digits` has no settings" in err


def test_weights_are_looked_for_where_they_are_named(capsys: pytest.CaptureFixture[str]):
    wedge("data/objaverse")
    code, _, err = run("objaverse --weights elsewhere", capsys)
    assert code == 3 and "there is no folder `elsewhere`" in err
    code, _, err = run("objaverse --weights elsewhere --set embedder=patches", capsys)
    assert code == 2 and "the embedder `patches` has no weights, got `elsewhere`" in err


def test_pieces_of_a_job_array_say_what_they_did_and_the_last_one_finishes(capsys: pytest.CaptureFixture[str]):
    code, out, err = run("digits --array-size 2 --array-index 1 --json", capsys)
    report = json.loads(out)
    assert (code, report["is_whole"], report["left"], report["made"]) == (0, False, 4, 4)
    assert "piece 1 of 2 made 4 of its 4 shards in `shards/digits`; 4 of others are left" in err
    code, _, err = run("digits --array-size 2 --array-index 0", capsys)
    assert code == 0 and "wrote `shards/digits`: 1,498 train, 299 val (8 shards, 4 of them there already" in err


@pytest.mark.parametrize(
    ("line", "error", "hint"),
    [
        ("--array-size 2", "`--array-size` is given without `--array-index`", "a job array needs both"),
        ("--array-index 0", "`--array-index` is given without `--array-size`", "a job array needs both"),
        ("--array-size 2 --array-index 2", "`--array-index 2`: there is no such run among 2", "counted from 0 to 1"),
        (
            "--array-size 2 --array-index 0 --overwrite",
            "`--overwrite` and `--array-size` exclude",
            "without `--array-size",
        ),
        ("--array-size 2 --array-index 0 --repair", "`--repair` and `--array-size` exclude", "without `--array-size"),
        ("--ray-address auto", "`--ray-address` is given without `--engine ray`", "leave the address out"),
    ],
)
def test_options_of_several_machines_that_do_not_fit_are_refused(
    line: str, error: str, hint: str, capsys: pytest.CaptureFixture[str]
):
    code, out, err = run(f"digits {line}", capsys)
    assert (code, out) == (2, "") and error in err and hint in err and not Path("shards").exists()


@pytest.mark.parametrize(
    ("metric", "expected", "message"),
    [
        ("fid:randm", 2, "did you mean `random`?"),
        ("fid:adm", 3, "the weights of `inception` are absent"),
        ("psnr", 2, "has no reference features to cache"),
    ],
)
def test_statistics_that_cannot_be_are_refused_before_the_work(
    metric: str, expected: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("INRFLOW_WEIGHTS", raising=False)
    code, _, stderr = run(f"digits --out digits --limit 40 --statistics {metric}", capsys)
    assert code == expected and message in stderr and not Path("digits").exists()


def test_counting_the_items_is_not_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    image_files("a")
    scan = registry.find("datasets", "image-folder").scan

    def scan_slowly(*arguments: Any) -> Any:
        monkeypatch.setattr(console, "REPEAT", 0.02)
        end = time.monotonic() + 10
        said = ""
        while "counting the items: " not in said:
            assert time.monotonic() < end, said
            time.sleep(0.01)
            said += capsys.readouterr().err
        monkeypatch.setattr(console, "REPEAT", 3600.0)
        return scan(*arguments)

    monkeypatch.setattr(registry.find("datasets", "image-folder"), "scan", scan_slowly)
    code, _, stderr = run("image-folder --source a --out shards --resolution 8", capsys)
    assert code == 0 and "counting the items" not in stderr and "wrote `shards`" in stderr
