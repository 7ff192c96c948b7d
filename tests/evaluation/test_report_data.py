"""The content of the report: which samples and training items it shows, also for few items."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from inrflow_core.evaluation import memorization, report_data
from inrflow_core.evaluation.memorization import MemorizationSet
from inrflow_core.evaluation.results import EvaluatedSamples, Results, SampleScores
from inrflow_core.report import content, galleries
from inrflow_core.sample_files.collection import ArrayCollection
from tests.training import small


def in_memory(values: np.ndarray, name: str = "mine") -> ArrayCollection:
    """Items in memory."""

    return ArrayCollection(
        source=Path(name),
        domain="image" if values.dtype == np.uint8 else "points",
        digest="d" * 64,
        names=[str(index) for index in range(len(values))],
        load_values=lambda indices: values[indices],
    )


def noise_images(count: int, seed: int, side: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 1), dtype=np.uint8)


def clouds(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 100, 3)).astype(np.float32)


def page(samples: np.ndarray, training: MemorizationSet | None, reference: np.ndarray) -> content.Page:
    scores = [SampleScores(EvaluatedSamples("mine", in_memory(samples)), [])]
    return report_data.build_report(Results(in_memory(reference, "reference"), scores, {}), training)


def verdict(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray | None) -> str:
    training = MemorizationSet(in_memory(train), None if held_out is None else in_memory(held_out))
    neighbors = page(samples, training, train).neighbors
    assert neighbors is not None
    return re.sub(r"<[^>]+>", "", galleries.neighbors(neighbors)).replace("\N{NO-BREAK SPACE}", " ")


@pytest.mark.parametrize("kind", [noise_images, clouds])
def test_a_model_that_copies_is_detected_and_one_that_does_not_is_not(kind):
    train, held_out = kind(60, 0), kind(40, 1)
    assert "100.0 % of the samples lie within" in verdict(train[20:40], train, held_out)
    assert "of the 40 held-out items, 2.5 % do" in verdict(kind(20, 2), train, held_out)


def test_copies_are_detected_where_the_held_out_data_repeat_the_training_set():
    train = noise_images(60, 0)
    text = verdict(train[20:40], train, train[:30])
    assert "100.0 % of the samples lie within 0 of" in text and "of the 30 held-out items, 100.0 % do" in text
    assert "0.0 % of the samples lie within 0 of" in verdict(noise_images(20, 2), train, train[:30])


def test_one_held_out_item_and_none_are_reported_as_what_they_are():
    train = noise_images(60, 0)
    assert "of the 1 held-out items, 100.0 % do" in verdict(noise_images(20, 2), train, noise_images(1, 1))
    assert "are not given" in verdict(train[:5], train, None)
    assert "Two random point clouds of one surface" in verdict(clouds(5, 0), clouds(9, 1), None)


def test_the_page_says_among_how_many_training_items_it_looked(monkeypatch):
    train = noise_images(60, 0)
    assert "covered 60 training items" in verdict(noise_images(20, 2), train, None)
    monkeypatch.setattr(memorization, "WORK", 20 * 64 * 15.0)
    assert "covered 15 evenly spaced ones of 60 training items" in verdict(noise_images(20, 2), train, None)
    assert "shown: 12 of 20" in verdict(noise_images(20, 2), train, None)


def test_large_items_are_read_few_at_a_time_and_have_the_same_neighbors(monkeypatch):
    train, read = noise_images(60, 0), []
    items = in_memory(train)
    items = replace(items, load_values=lambda indices: (read.append(len(indices)), train[indices])[1])
    monkeypatch.setattr(memorization, "MOST_BYTES", 7 * 64)
    neighbors = page(train[20:40], MemorizationSet(items, None), train).neighbors
    assert neighbors is not None and (neighbors.sample_distances == 0).all()
    assert max(read[:-1]) == 7  # the last reading is of what is shown


def test_a_training_cloud_without_extent_harms_no_other():
    train = clouds(9, 0)
    train[4] = 1.0
    neighbors = page(clouds(5, 1), MemorizationSet(in_memory(train), None), clouds(6, 2)).neighbors
    assert neighbors is not None and np.isfinite(neighbors.distances).all()


def test_every_run_has_a_gallery_and_the_heading_counts_them_all():
    scores = [
        SampleScores(EvaluatedSamples(f"{run}-{step}", in_memory(noise_images(3, step)), {"run": run}), [])
        for run in ("a", "b", "c")
        for step in range(10)
    ]
    shown = report_data.build_report(Results(in_memory(noise_images(4, 0), "r"), scores, {}), None)
    assert shown.title == "Evaluation of a (10 checkpoints), b (10 checkpoints), c (10 checkpoints)"
    names = [gallery.title for gallery in shown.galleries]
    assert names == ["a-9", "b-9", *(f"c-{step}" for step in range(4, 10))]


def test_histograms_are_of_each_image():
    values = noise_images(20, 0)
    flat = values.reshape(20, -1).astype(np.float64)
    mean, deviation = page(values, None, values).histograms
    np.testing.assert_allclose(mean.values["samples of mine"], flat.mean(1), rtol=1e-12)
    np.testing.assert_allclose(deviation.values["reference"], flat.std(1), rtol=1e-12)


def test_copies_are_looked_for_in_the_shards_that_are_named_beside_their_held_out_split(tmp_path):
    from inrflow_core.sample_files import readers

    shards = small.images(tmp_path / "images", side=8)
    training = memorization.memorization_set(None, readers.open_collection(shards, prefer=("train",)))
    assert training is not None and training.items.split == "train"
    assert training.held_out is not None and training.held_out.split == "val"
    alone = memorization.memorization_set(None, in_memory(noise_images(3, 0)))
    assert alone is not None and alone.held_out is None
