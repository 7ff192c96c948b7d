"""The classifier of digits that scores samples of MNIST: trained the same each time, cached, and right on what it learned."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from inrflow_core.errors import IntegrityError
from inrflow_core.sample_files import readers
from tools.recipes import digit_classifier, kinds
from tools.recipes.kinds import KINDS


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Noise around one image of each class, as a small MNIST: 800 for training and 100 held out."""
    folder = tmp_path_factory.mktemp("raw") / "mnist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 256, (10, 28, 28))
    for prefix, count in (("train", 800), ("t10k", 100)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = np.clip(classes[labels] + rng.normal(0, 40, (count, 28, 28)), 0, 255).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape)
            (folder / f"{prefix}-{name}-ubyte").write_bytes(header + array.tobytes())
    return kinds.prepare(KINDS["mnist"], folder.parent, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def classifier(shards, tmp_path_factory) -> digit_classifier.DigitClassifier:
    torch.set_num_threads(1)
    return digit_classifier.load(shards, tmp_path_factory.mktemp("classifiers"))


def test_real_images_have_their_labels_and_no_distance_from_themselves(shards, classifier):
    real = readers.open_collection(shards, "val")
    values = {score["metric"]: score["value"] for score in digit_classifier.scores(classifier, real, real)}
    assert values["accuracy:digits"] == 100
    assert values["fid:digits"] == pytest.approx(0, abs=1e-4)


def test_features_have_a_root_mean_square_of_1_over_the_training_digits(shards, classifier):
    images = readers.open_collection(shards, "train").read(range(800)).values
    features, _ = digit_classifier._answers(classifier, images)
    assert np.sqrt(np.mean(features**2)) == pytest.approx(1, rel=1e-5)


def test_weights_are_cached_equal_however_often_they_are_trained_and_checked(shards, classifier, tmp_path, monkeypatch):
    again = digit_classifier.load(shards, tmp_path)
    torch.testing.assert_close(again.state_dict(), classifier.state_dict(), rtol=0, atol=0)
    monkeypatch.setattr(digit_classifier, "train", lambda shards: pytest.fail("cached weights were trained again"))
    torch.testing.assert_close(digit_classifier.load(shards, tmp_path).state_dict(), again.state_dict(), rtol=0, atol=0)
    (file,) = tmp_path.glob("*.safetensors")
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.write_bytes(bytes(damaged))
    with pytest.raises(IntegrityError, match="is damaged"):
        digit_classifier.load(shards, tmp_path)
