"""Shards: write-then-read is exact, nothing else than a whole shard of ours is opened, a flipped byte is found."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.shards import batch, hdf5, manifest, schema, shard_dataset, shard_file, writer
from inrflow_core.shards.manifest import ChannelStats, Manifest, Split
from inrflow_core.shards.schema import Header, ShardColumns
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.shards.shard_file import ShardFile
from inrflow_core.storage import plain_file

HEADER = Header("image", "tiny", "train", {"kind": "pixels"}, ("a", "b"), {"resolution": 4})
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
CLOUDS = [np.random.default_rng(n).normal(size=(n % 4, 3)).astype(np.float32) for n in range(9)]


def write(path: Path, values: np.ndarray = PIXELS, header: Header = HEADER, **columns) -> manifest.ShardEntry:
    beside = {"labels": np.arange(len(values)) % 2, "names": [f"é{n}" for n in range(len(values))], **columns}
    half = len(values) // 2
    blocks = [values[:half], values[half:]]
    return writer.write(path, header, blocks, ShardColumns(**beside), shape=values.shape, dtype=str(values.dtype))


def folder(place: Path) -> Path:
    """A folder of two shards of one split, with its manifest."""
    place.mkdir()
    entries = tuple(write(place / f"train-{n:05d}.h5", part) for n, part in enumerate((PIXELS[:12], PIXELS[12:])))
    split = Split(20, entries, ChannelStats((0.0,) * 3, (1.0,) * 3))
    reported = Manifest("tiny", "image", "0", (4, 4, 3), "uint8", ("a", "b"), {}, {}, {}, {"train": split})
    manifest.save(reported, place)
    return place


@pytest.mark.parametrize("dtype", shard_file.VALUE_TYPES)
def test_what_was_written_is_read_in_the_requested_order(tmp_path: Path, dtype: str):
    values = PIXELS.astype(dtype)
    write(tmp_path / "s.h5", values, seeds=np.arange(20) + 2**40, condition={"view": np.arange(40.0).reshape(20, 2)})
    expected = [19, 0, 7, 7]
    read = ShardDataset(tmp_path / "s.h5").read("train", expected, with_names=True)
    np.testing.assert_array_equal(read.values, values[expected], strict=True)
    np.testing.assert_array_equal(read.labels, [1, 0, 1, 1])
    np.testing.assert_array_equal(read.seeds, np.array(expected) + 2**40)
    np.testing.assert_array_equal(read.condition["view"], np.arange(40.0).reshape(20, 2)[expected])
    assert read.names == ["é19", "é0", "é7", "é7"]


def test_one_view_of_each_set_is_read_alone(tmp_path: Path):
    images = np.arange(20 * 4 * 3, dtype=np.float16).reshape(20, 4, 3)
    write(tmp_path / "s.h5", condition={"picture": images, "other": np.zeros((20, 1))})
    expected = batch.ConditionSelection(("picture",), np.array([0.0, 0.26, 0.5, 0.999]))
    read = ShardDataset(tmp_path / "s.h5").read("train", [19, 0, 7, 7], conditions=expected)
    np.testing.assert_array_equal(read.condition["picture"], images[[19, 0, 7, 7], [0, 1, 2, 3]], strict=True)
    assert set(read.condition) == {"picture"}


def test_conditions_of_different_sizes_come_padded_with_their_counts(tmp_path: Path):
    rows = [np.full((n % 5, 2), n, dtype=np.uint8) for n in range(20)]
    write(tmp_path / "s.h5", ragged={"residues": schema.concatenate_ragged(rows)})
    read = ShardDataset(tmp_path / "s.h5").read("train", [13, 0, 4])
    assert read.condition_lengths["residues"].tolist() == [3, 0, 4]
    np.testing.assert_array_equal(read.condition["residues"][:, :, 0], [[13, 13, 13, 0], [0, 0, 0, 0], [4, 4, 4, 4]])


def test_one_view_is_read_of_sets_with_different_numbers_of_views_and_zeros_where_there_is_none(tmp_path: Path):
    rows = [100 * n + np.arange(n % 4, dtype=np.int32)[:, None] + np.ones((1, 2), np.int32) for n in range(20)]
    write(tmp_path / "s.h5", ragged={"texts": schema.concatenate_ragged(rows)}, condition={"other": np.arange(20)})
    opened, first = ShardDataset(tmp_path / "s.h5"), np.array([0.999, 0.999, 0.5, 0.0])
    selection = batch.ConditionSelection(("texts", "other"), first, ["texts"])
    read = opened.read("train", [3, 4, 10, 19], conditions=selection)
    np.testing.assert_array_equal(read.condition["texts"], [[303, 303], [0, 0], [1002, 1002], [1901, 1901]])
    assert read.condition["other"].tolist() == [3, 4, 10, 19]
    assert opened.view_counts("train", "texts").tolist() == [n % 4 for n in range(20)]
    assert (opened.views("train", "texts"), opened.view_shape("train", "texts")) == (3, (2,))


def test_a_condition_that_is_not_there_is_named(tmp_path: Path):
    write(tmp_path / "s.h5")
    with pytest.raises(UsageError, match="have no condition 'tokens'"):
        ShardDataset(tmp_path / "s.h5").read("train", [0], conditions=batch.ConditionSelection(("tokens",)))


def test_sets_of_different_sizes_come_padded_with_their_sizes(tmp_path: Path):
    sizes = [len(cloud) for cloud in CLOUDS]
    columns = ShardColumns(np.zeros(9, np.int64), offsets=np.cumsum([0, *sizes]))
    writer.write(tmp_path / "s.h5", HEADER, CLOUDS, columns, shape=(sum(sizes), 3), dtype="float32")
    read = ShardDataset(tmp_path / "s.h5").read("train", [3, 4, 5])
    assert read.sizes is not None and read.sizes.tolist() == [3, 0, 1]
    assert read.values.shape == (3, 3, 3)
    for row, number in enumerate((3, 4, 5)):
        np.testing.assert_array_equal(read.values[row, : sizes[number]], CLOUDS[number])
        assert not read.values[row, sizes[number] :].any()


def test_the_same_sets_give_the_same_bytes(tmp_path: Path):
    first, second = write(tmp_path / "a.h5"), write(tmp_path / "b.h5")
    assert first.sha256 == second.sha256 == plain_file.file_digest(tmp_path / "a.h5")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_a_folder_is_read_across_its_shards_into_the_buffer_given(tmp_path: Path):
    opened = ShardDataset(folder(tmp_path / "s"))
    assert (opened.splits, opened.count("train"), opened.classes) == (["train"], 20, ("a", "b"))
    expected = np.random.default_rng(1).permutation(20)
    out = opened.buffer("train", 20)
    read = opened.read("train", expected, out)
    assert read.values is out
    np.testing.assert_array_equal(out, PIXELS[expected])
    np.testing.assert_array_equal(opened.labels("train"), [*(np.arange(12) % 2), *(np.arange(8) % 2)])


def test_many_threads_read_at_once(tmp_path: Path):
    opened = ShardDataset(folder(tmp_path / "s"))
    orders = [np.random.default_rng(n).permutation(20) for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        for order, read in zip(orders, pool.map(lambda order: opened.read("train", order), orders), strict=True):
            np.testing.assert_array_equal(read.values, PIXELS[order])


def test_an_unknown_split_gets_the_nearest(tmp_path: Path):
    with pytest.raises(UsageError, match="no split `trian`") as caught:
        ShardDataset(folder(tmp_path / "s")).read("trian", [0])
    assert caught.value.hint == "did you mean `train`?"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.7, 0.9, 0.9999])
def test_one_flipped_byte_of_a_shard_is_found(tmp_path: Path, share: float):
    path = folder(tmp_path / "s") / "train-00001.h5"
    ShardDataset(tmp_path / "s").verify()
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="its digest is .{8}..., the manifest says") as caught:
        ShardDataset(tmp_path / "s").verify()
    assert str(path) in caught.value.message
    assert f"inrflow prepare tiny --source DIR --out {tmp_path / 's'} --repair" in (caught.value.hint or "")


def test_a_flipped_byte_anywhere_in_the_manifest_is_found(tmp_path: Path):
    path = folder(tmp_path / "s") / manifest.NAME
    content = path.read_bytes()
    for index in range(0, len(content) - 1, 3):
        path.write_bytes(content[:index] + bytes([content[index] ^ 1]) + content[index + 1 :])
        with pytest.raises(IntegrityError, match=r"manifest\.json"):
            manifest.load(tmp_path / "s")


def test_a_missing_or_shortened_shard_is_found_at_once(tmp_path: Path):
    path = folder(tmp_path / "s")
    shutil.copytree(path, tmp_path / "t")
    (path / "train-00000.h5").unlink()
    with pytest.raises(IntegrityError, match=r"train-00000\.h5` is gone"):
        ShardDataset(path)
    cut = tmp_path / "t" / "train-00001.h5"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"train-00001\.h5` is damaged: it has \d+ bytes"):
        ShardDataset(tmp_path / "t")


def test_a_shard_of_another_data_set_is_not_taken_for_ours(tmp_path: Path):
    path = folder(tmp_path / "s")
    write(
        path / "train-00000.h5",
        PIXELS[:12],
        Header("protn", "tiny", "train", HEADER.normalization, ("a", "b"), {"resolution": 4}),
    )
    with pytest.raises(IntegrityError, match="of another data set than the manifest"):
        ShardDataset(path).read("train", [0])


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path: Path):
    path = folder(tmp_path / "s")
    reported = json.loads((path / manifest.NAME).read_text())
    reported["splits"]["train"]["shards"][0]["file"] = "../other.h5"
    reported.pop("digest")
    (path / manifest.NAME).write_text(json.dumps(reported | {"digest": manifest._own_digest(reported)}))
    with pytest.raises(IntegrityError, match="'../other.h5' is not a name of a shard"):
        ShardDataset(path)


@pytest.mark.parametrize("where", ["split", "shard", "both"])
def test_a_manifest_whose_numbers_contradict_each_other_is_refused(tmp_path: Path, where: str):
    path = folder(tmp_path / "s")
    reported = json.loads((path / manifest.NAME).read_text())
    split = reported["splits"]["train"]
    if where != "shard":
        split["count"] = 2_000_000_000
    if where != "split":
        split["shards"][0]["count"] = -5
    reported.pop("digest")
    (path / manifest.NAME).write_text(json.dumps(reported | {"digest": manifest._own_digest(reported)}))
    with pytest.raises(IntegrityError, match=r"the split `train` has .* examples, and its shards have"):
        ShardDataset(path)


@pytest.mark.parametrize("shape", [[], [8, -8, 1]])
def test_a_manifest_whose_sets_have_no_shape_is_refused(tmp_path: Path, shape: list[int]):
    path = folder(tmp_path / "s")
    reported = json.loads((path / manifest.NAME).read_text()) | {"shape": shape}
    reported.pop("digest")
    (path / manifest.NAME).write_text(json.dumps(reported | {"digest": manifest._own_digest(reported)}))
    with pytest.raises(IntegrityError, match="the shape of a set is"):
        ShardDataset(path)


def test_an_absent_folder_and_one_without_manifest_say_how_to_get_shards(tmp_path: Path):
    with pytest.raises(MissingError, match="does not exist") as caught:
        ShardDataset(tmp_path / "none")
    assert "inrflow prepare" in (caught.value.hint or "")
    with pytest.raises(MissingError, match=r"it has no `manifest\.json`"):
        ShardDataset(tmp_path)


def test_another_schema_is_said(tmp_path: Path):
    write(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "a") as file:
        file.attrs["schema"] = np.int64(2)
    with pytest.raises(IntegrityError, match="a shard of schema 2, this inrflow reads 1"):
        ShardFile(tmp_path / "s.h5")


def _external_link(file: h5py.File) -> None:
    file["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_link(file: h5py.File) -> None:
    del file["labels"]
    file["labels"] = h5py.SoftLink("/values")


def _external_storage(file: h5py.File) -> None:
    del file["labels"]
    file.create_dataset("labels", (20,), "<i8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((20,), "<i8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "labels", (20,))
    del file["labels"]
    file.create_virtual_dataset("labels", layout)


def _reference(file: h5py.File) -> None:
    file.create_dataset("pointer", data=file["values"].ref, dtype=h5py.ref_dtype)


def _reference_attribute(file: h5py.File) -> None:
    file["values"].attrs["pointer"] = file["labels"].ref


def _unknown_filter(file: h5py.File) -> None:
    del file["labels"]
    file.create_dataset("labels", data=np.zeros(20, "<i8"), chunks=(20,), scaleoffset=3)


def _hidden_deep(file: h5py.File) -> None:
    file.create_group("condition/deep/deeper")["elsewhere"] = h5py.ExternalLink("/etc/passwd", "/")


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (_external_link, "a link to elsewhere, `/elsewhere`"),
        (_soft_link, "a link to elsewhere, `/labels`"),
        (_hidden_deep, "a link to elsewhere, `/condition/deep/deeper/elsewhere`"),
        (_external_storage, "stored in another file, `/labels`"),
        (_virtual, "a virtual data set, `/labels`"),
        (_reference, "an array of neither numbers nor text, `/pointer`"),
        (_reference_attribute, "an attribute that is neither a number nor text, `pointer`"),
        (_unknown_filter, "an unknown filter, number 6, on `/labels`"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_what_could_reach_outside_is_refused(tmp_path: Path, spoil: Callable[[h5py.File], None], named: str):
    write(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "a") as file:
        spoil(file)
    for open_it in (ShardFile, lambda path: hdf5.open_hdf5_safely(path).__enter__()):
        with pytest.raises(IntegrityError, match="which is refused") as caught:
            open_it(tmp_path / "s.h5")
        assert named in caught.value.message and str(tmp_path / "s.h5") in caught.value.message


def _chunked(file: h5py.File) -> None:
    del file["values"]
    file.create_dataset("values", data=PIXELS, chunks=(1, 4, 4, 3))


def _fewer_labels(file: h5py.File) -> None:
    del file["labels"]
    file["labels"] = np.zeros(19, np.int64)


def _float_labels(file: h5py.File) -> None:
    del file["labels"]
    file["labels"] = np.zeros(20)


def _wrong_offsets(file: h5py.File) -> None:
    file["offsets"] = np.arange(21)[::-1]


def _no_values(file: h5py.File) -> None:
    del file["values"]


def _not_json(file: h5py.File) -> None:
    file.attrs["classes"] = np.bytes_(b"[")


@pytest.mark.parametrize(
    "spoil",
    [_chunked, _fewer_labels, _float_labels, _wrong_offsets, _no_values, _not_json],
    ids=lambda f: f.__name__[1:],
)
def test_a_file_of_other_parts_is_damaged_and_named(tmp_path: Path, spoil: Callable[[h5py.File], None]):
    write(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "a") as file:
        spoil(file)
    with pytest.raises(IntegrityError, match=r"s\.h5` is (not an HDF5 file or is )?damaged"):
        ShardFile(tmp_path / "s.h5")


@pytest.mark.parametrize(
    "content", [b"", b"junk" * 1000, b"\x89HDF\r\n\x1a\n" + b"\xff" * 5000], ids=["empty", "junk", "torn"]
)
def test_junk_is_not_a_shard(tmp_path: Path, content: bytes):
    (tmp_path / "s.h5").write_bytes(content)
    with pytest.raises(IntegrityError, match="not an HDF5 file or is damaged"):
        ShardFile(tmp_path / "s.h5")


def test_a_shard_cut_at_any_length_is_damaged(tmp_path: Path):
    write(tmp_path / "s.h5")
    content = (tmp_path / "s.h5").read_bytes()
    for length in range(0, len(content), 97):
        (tmp_path / "cut.h5").write_bytes(content[:length])
        with pytest.raises(IntegrityError, match="damaged"):
            ShardFile(tmp_path / "cut.h5")


def test_any_other_hdf5_file_is_not_a_shard(tmp_path: Path):
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["x"] = np.arange(3)
    with pytest.raises(IntegrityError, match="not a shard of inrflow"):
        ShardFile(tmp_path / "s.h5")


def test_more_shards_than_files_that_may_be_open_are_read(tmp_path: Path) -> None:
    header, columns = schema.Header("points", "x", "train"), schema.ShardColumns(np.full(1, -1))
    entries = tuple(
        writer.write(
            tmp_path / f"train-{index:05d}.h5", header, [np.full((1, 4, 3), index, "f4")], columns,
            shape=(1, 4, 3), dtype="float32",
        )
        for index in range(300)
    )  # fmt: skip
    split = manifest.Split(300, entries, manifest.ChannelStats((0.0,), (1.0,)))
    reported = manifest.Manifest("x", "points", "0", (4, 3), "float32", (), {}, {}, {}, {"train": split})
    manifest.save(reported, tmp_path)
    before = psutil.Process().num_fds()
    batch = shard_dataset.ShardDataset(tmp_path).read("train", range(300))
    assert batch.values[:, 0, 0].tolist() == list(range(300))
    assert psutil.Process().num_fds() - before <= shard_file.OPEN_FILES


@pytest.mark.parametrize(("old", "new"), [("normalisation", "normalization"), ("deviation", "std")])
def test_a_manifest_is_read_by_the_names_of_its_fields_and_by_its_earlier_keys(tmp_path: Path, old: str, new: str):
    expected = manifest.load(folder(tmp_path / "s"))
    path = tmp_path / "s" / manifest.NAME
    written = path.read_text()
    assert f'"{old}"' in written and f'"{new}"' not in written
    renamed = json.loads(written.replace(f'"{old}"', f'"{new}"'))
    renamed["digest"] = manifest._own_digest({key: value for key, value in renamed.items() if key != "digest"})
    path.write_text(json.dumps(renamed))
    assert manifest.load(tmp_path / "s") == expected


def test_the_header_of_a_shard_is_read_under_either_name_of_the_normalization(tmp_path: Path):
    write(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        file.attrs["normalization"] = file.attrs["normalisation"]
        del file.attrs["normalisation"]
    assert ShardFile(tmp_path / "s.h5").header == HEADER
