"""A small classifier of real digits: whether samples have the requested label, and FID and KID of its features.

It is trained on all training digits with a fixed seed, in under a minute of one core, and its weights are cached by the data's
digest. Its features see strokes and classes, which random features hardly do; values compare only with values of this classifier.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from inrflow_cli import console
from inrflow_core.metrics import fid, kid
from inrflow_core.metrics._inputs import Features
from inrflow_core.sample_files.collection import SampleCollection
from inrflow_core.shards import manifest
from inrflow_core.shards.shard_dataset import ShardDataset
from inrflow_core.storage import file_lock, plain_file, safetensors_file

PROTOCOL = "digits"
VERSION = "1"
"""Of network and training: another version makes other values."""
FEATURES, SIDE = 64, 28
EPOCHS, BATCH, RATE, SEED = 3, 128, 2e-3, 0
AT_ONCE = 2000


class DigitClassifier(nn.Module):
    """Two convolutions with stride 2 and two linear maps, of gray images of 28 x 28."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.hidden = nn.Linear(32 * (SIDE // 4) ** 2, FEATURES)
        self.last = nn.Linear(FEATURES, 10)
        self.register_buffer("scale", torch.ones(()))

    def features(self, pixels: Float[Tensor, "B 1 28 28"]) -> Float[Tensor, "B 64"]:
        """Non-negative features of pixels in [-1, 1]."""
        x = F.relu(self.second(F.relu(self.first(pixels))))
        return F.relu(self.hidden(x.flatten(1)))


def load(shards: Path, folder: Path) -> DigitClassifier:
    """The classifier of some shards: its cached weights below `folder`, or trained and cached now.

    Raises:
        IntegrityError: the cached weights are damaged.
    """
    data = plain_file.file_digest(shards / manifest.NAME)[:12]
    path = folder / f"{PROTOCOL}-{VERSION}-{data}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with file_lock.lock(folder / f".{path.name}.lock"):
        if not path.is_file():
            trained = train(shards)
            tensors = dict(trained.state_dict())
            safetensors_file.write_with_digest(path, safetensors_file.layout(tensors), lambda: tensors.values(), {})
    safetensors_file.check_digest(path)
    classifier = DigitClassifier()
    with safetensors_file.open_tensors(path) as file:
        classifier.load_state_dict({name: file.get_tensor(name) for name in classifier.state_dict()})
    return classifier.eval()


def train(shards: Path) -> DigitClassifier:
    """A classifier trained on the split `train`; prints how many of the split `val` it names rightly."""
    data = ShardDataset(shards)
    images, labels = _split(data, "train")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        classifier = DigitClassifier()
        batches = [rows for _ in range(EPOCHS) for rows in torch.randperm(len(images)).split(BATCH)]
    optimizer = torch.optim.Adam(classifier.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, len(batches))
    for rows in batches:
        loss = F.cross_entropy(classifier.last(classifier.features(_pixels(images[rows.numpy()]))), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    classifier.get_buffer("scale").fill_(float(np.sqrt(np.mean(_answers(classifier, images)[0] ** 2))))
    held_out, truth = _split(data, "val")
    accuracy = float((_answers(classifier, held_out)[1] == truth.numpy()).mean())
    console.info(f"trained a classifier of digits: {accuracy:.2%} of {len(truth):,} held-out digits are named rightly")
    return classifier


def scores(classifier: DigitClassifier, samples: SampleCollection, reference: SampleCollection) -> list[dict[str, Any]]:
    """FID and KID of the features, and the percentage of samples that have the requested label."""
    drawn, real = samples.read(range(samples.count)), reference.read(range(reference.count))
    features, answers = _answers(classifier, drawn.values)
    compared = Features(features, _answers(classifier, real.values)[0])
    values = {"fid": fid.compute(compared, PROTOCOL), "kid": kid.compute(compared, PROTOCOL)}
    values["accuracy"] = 100 * float((answers == drawn.labels).mean())
    units = {"kid": kid.unit(PROTOCOL), "accuracy": "%"}
    return [
        {
            **{"metric": f"{name}:{PROTOCOL}", "unit": units.get(name, ""), "value": value, "interval": None},
            **{"samples": samples.count, "reference": None if name == "accuracy" else reference.count},
        }
        for name, value in values.items()
    ]


def _split(data: ShardDataset, split: str) -> tuple[np.ndarray, Tensor]:
    """All images of a split, and their labels."""
    batch = data.read(split, np.arange(data.count(split)))
    return batch.values.copy(), torch.from_numpy(batch.labels.astype(np.int64))


def _pixels(images: np.ndarray) -> Float[Tensor, "B 1 28 28"]:
    """Images, uint8 (B 28 28 1), in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def _answers(
    classifier: DigitClassifier, images: np.ndarray
) -> tuple[Float[np.ndarray, "B 64"], Int64[np.ndarray, " B"]]:
    """Features, with a root mean square of 1 over the training digits, and classes of images."""
    parts = [classifier.features(_pixels(images[at : at + AT_ONCE])) for at in range(0, len(images), AT_ONCE)]
    features = torch.cat(parts)
    return (features / classifier.get_buffer("scale")).numpy(), classifier.last(features).argmax(1).numpy()
