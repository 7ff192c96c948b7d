"""A test of the whole program in seconds: shards of 64 digits, three training steps of a tiny model, four samples."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from inrflow_core import registry
from inrflow_core.config import preset
from inrflow_core.preparation import pipeline
from inrflow_core.preparation.job import PrepareJob
from inrflow_core.runs.run import resolve_weights
from inrflow_core.sampling import labels, request, sample
from inrflow_core.sampling.sample_to_files import SampleJob, sample_to_files
from inrflow_core.training import setup
from inrflow_core.visualization import image_io

STEPS, BATCH, SAMPLES, ITEMS = 3, 8, 4, 64
TINY = (
    *("network.width=32", "network.depth=1", "network.decoder_width=32", "sampler.steps=4", "training.warmup=0"),
    *(f"training.steps={STEPS}", f"training.batch={BATCH}", "training.save_every=100", "training.samples_every=100"),
    "training.precision=auto",
)
"""What makes `digits-demo` tiny; bf16 where training would take it."""


@dataclass(frozen=True)
class SmokeTest:
    """What the test did."""

    device: str
    precision: str
    steps: int
    samples: int
    size: tuple[int, int]
    """Rows and columns of the image of the samples."""
    seconds: float
    """Of preparing, training and sampling, after the imports."""


def run(device: str | None = None) -> SmokeTest:
    """Prepare, train and sample on a device, by default a GPU if there is one, in a temporary folder that is removed.

    Raises:
        InrflowError: a part of it failed, with what to do.
    """
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="inrflow-doctor-") as name:
        folder = Path(name)
        config = registry.find("datasets", "digits").Config()
        pipeline.prepare(PrepareJob("digits", folder, folder / "shards", config, limit=ITEMS), workers=1)
        tiny = preset.load("digits-demo", TINY)
        trainer = setup.train(setup.TrainJob(tiny, folder / "run", data=folder / "shards", device=device))
        weights, on = resolve_weights(folder / "run"), str(trainer.world.device)
        model = sample.load(weights, device=on)
        seeds = range(SAMPLES)
        drawn = request.SampleRequest(seeds=seeds, labels=labels.resolve_labels(model, seeds))
        written = sample_to_files(SampleJob(weights, folder / "four.png", drawn, device=on), model=model)
        columns, rows = image_io.read_image(written.files[0], None).size
        seconds = time.monotonic() - start
        return SmokeTest(on, trainer.precision, trainer.counters.step, SAMPLES, (rows, columns), seconds)
