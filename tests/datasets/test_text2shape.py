"""Descriptions of shapes: several of one model, models without any are named, and tables that are none are errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrflow_core.datasets import text2shape
from inrflow_core.datasets._contract import DatasetIndex
from inrflow_core.errors import IntegrityError, MissingError, UsageError
from inrflow_core.feature_networks import words
from inrflow_core.preparation import job, pipeline
from inrflow_core.shards.batch import ConditionSelection
from inrflow_core.shards.shard_dataset import ShardDataset
from tests.datasets.test_occupancy import CHAIR, write_tree

WORDS = text2shape.Config(embedder="words")
ROWS = (
    "id,modelId,description,category,extra",
    '1,a,"A tall, red chair",Chair,x',
    "2,c,ein Stuhl für zwei 椅子,Chair,x",
    '3,a,"It has\nfour  legs",Chair,x',
    '4,a,"A tall, red chair",Chair,x',
    "5,nowhere,a table,Table,x",
    "6,d,,Chair,x",
    "7,,no model,Chair,x",
)


def tree(tmp_path: Path, rows: tuple[str, ...] | bytes = ROWS) -> Path:
    root = write_tree(tmp_path / "ShapeNet")
    content = rows if isinstance(rows, bytes) else "\n".join(rows).encode()
    (root / "captions.csv").write_bytes(content)
    return root


def names(index: DatasetIndex) -> dict[str, list[str]]:
    return {split: [item.name for item in items] for split, items in index.splits.items()}


def test_described_models_are_read_and_the_others_are_counted_and_named(tmp_path: Path) -> None:
    index = text2shape.scan(tree(tmp_path), WORDS)
    assert names(index) == {"train": [f"{CHAIR}/a"], "val": [f"{CHAIR}/c"]} and index.classes == ("chair",)
    (left,) = index.left_out.values()
    assert (left.count, left.names) == (2, (f"{CHAIR}/b", f"{CHAIR}/d"))
    assert index.notes == (
        "rows of `captions.csv` without a model or a description: 2, at the lines 8, 9",
        "models of the table in no list: 1 (`nowhere`)",
    )
    assert index.normalization["embedder_digest"] == "words-1"


def test_descriptions_are_stored_as_texts_and_as_tokens(tmp_path: Path) -> None:
    pipeline.prepare(job.resolve_job("text2shape", tree(tmp_path), tmp_path / "shards", WORDS), workers=1)
    shards = ShardDataset(tmp_path / "shards")
    read = shards.read("train", [0])
    assert bytes(read.condition["descriptions"][0]).decode() == "A tall, red chair\nIt has four legs"
    numbers = [words.number_of(word) for word in ("it", "has", "four", "legs")]
    assert read.condition["text_tokens"][0, 1, :5].tolist() == [*numbers, 0]
    second = shards.read("train", [0], conditions=ConditionSelection(("text_tokens",), np.array([0.5])))
    assert second.condition["text_tokens"][0, :5].tolist() == [*numbers, 0]
    assert bytes(shards.read("val", [0]).condition["descriptions"][0]).decode() == "ein Stuhl für zwei 椅子"


def test_long_descriptions_are_cut_and_counted(tmp_path: Path) -> None:
    index = text2shape.scan(tree(tmp_path, (*ROWS, f"8,b,{'word ' * 10_000},Chair,x")), WORDS)
    assert index.notes[-1] == "descriptions of more than 77 tokens, cut there: 1 (of `b`)"
    one_word = text2shape.scan(tree(tmp_path / "long", (*ROWS, f"8,b,{'x' * 4097},Chair,x")), WORDS)
    assert one_word.notes[-1] == index.notes[-1]
    (item,) = [item for item in index.splits["train"] if item.name.endswith("/b")]
    stored = text2shape.read(item, WORDS).variable_length
    assert len(stored["descriptions"]) == 4096 and (stored["text_tokens"] != 0).sum() == 77


def test_a_table_elsewhere_and_categories_are_settings(tmp_path: Path) -> None:
    root = tree(tmp_path)
    (root / "captions.csv").rename(tmp_path / "other.csv")
    config = text2shape.Config(captions=str(tmp_path / "other.csv"), categories=("airplane",), embedder="words")
    index = text2shape.scan(root, config)
    assert index.splits == {} and next(iter(index.left_out.values())).count == 2
    with pytest.raises(MissingError, match="no .csv of descriptions beside its categories"):
        text2shape.scan(root, WORDS)
    with pytest.raises(MissingError, match="there is no table of descriptions `nowhere.csv`"):
        text2shape.scan(root, text2shape.Config(captions="nowhere.csv", embedder="words"))
    for name in ("one.csv", "two.csv"):
        (root / name).write_text("modelId")
    with pytest.raises(UsageError, match=r"several tables: `one.csv`, `two.csv`"):
        text2shape.scan(root, WORDS)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", IntegrityError, "has no column `modelId`; it has none"),
        (b"modelId,text\na,b\n", IntegrityError, "has no column `description`; it has `modelId`, `text`"),
        (b"modelId,description,category\n", MissingError, "has no description"),
        (b"modelId,description,category\na,caf\xe9,Chair\n", IntegrityError, "not a text in UTF-8: byte 34 is 0xe9"),
        ("modelId,description,category\na,b,Chair\n".encode("utf-16"), IntegrityError, "not a text in UTF-8: byte 0"),
        (
            b"modelId,description,category\na,a boat,Boat\n",
            MissingError,
            "describes `Boat`, and .* has `airplane`, `chair`",
        ),
        (
            b'modelId,description,category\na,"' + b"x" * (1 << 24) + b"y\n",
            IntegrityError,
            "is not a CSV: field larger",
        ),
        (
            b'modelId,description,category\na,"a chair\nb,a stool,Chair\n',
            IntegrityError,
            "is not a CSV: unexpected end",
        ),
    ],
    ids=["empty", "columns", "no rows", "latin-1", "utf-16", "categories", "field", "quote"],
)
def test_tables_that_are_none_are_errors(content: bytes, error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        text2shape.scan(tree(tmp_path, content), WORDS)


def test_a_source_without_lists_and_weights_that_are_absent_are_errors(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("\n".join(ROWS))
    with pytest.raises(MissingError, match="holds no `text2shape` data"):
        text2shape.scan(tmp_path, WORDS)
    with pytest.raises(MissingError, match="weights of `clip-text` are absent") as caught:
        text2shape.scan(tmp_path, text2shape.Config(weights=str(tmp_path / "none")))
    assert "`--set embedder=words` is a placeholder without weights" in str(caught.value.hint)


def test_workers_change_no_byte(tmp_path: Path) -> None:
    root = tree(tmp_path)
    for workers in (1, 2):
        pipeline.prepare(job.resolve_job("text2shape", root, tmp_path / f"by{workers}", WORDS), workers=workers)
    one, two = ((tmp_path / f"by{workers}" / "manifest.json").read_bytes() for workers in (1, 2))
    assert one == two
