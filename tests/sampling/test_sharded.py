"""Many samples from Python: a job fills a folder of shards, alone or with worker processes."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from unittest import mock

import torch

from inrflow_core.models import Model
from inrflow_core.runs import run
from inrflow_core.runtime.progress import Reporter, no_log
from inrflow_core.sampling import provenance, sharded
from inrflow_core.sampling.labels import resolve_labels
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.sample import load
from inrflow_core.sampling.sharded import SampleJob
from inrflow_core.shards.shard_dataset import SAMPLES, ShardDataset
from tests import tiny


def job_of(folder: Path, model: Model, weights: Path) -> SampleJob:
    request = SampleRequest(range(5, 11), resolve_labels(model, range(5, 11), None), (4, 4), batch=4)
    options = {"sampler": "euler", "steps": 3}
    origin = provenance.provenance(model, weights, request, sampling_options(model, **options))
    return SampleJob(weights, folder, request, origin, options, device="cpu", threads=1)


def test_a_job_fills_a_folder_and_says_so_when_it_is_repeated(tmp_path: Path):
    tiny.run_folder(tmp_path / "run", tiny.IMAGE)
    weights = run.resolve_weights(tmp_path / "run")
    job = job_of(tmp_path / "out", load(weights), weights)
    lines: list[str] = []
    assert sharded.sample_shards(job, reporter=Reporter(lines.append)) == [tmp_path / "out"]
    assert ShardDataset(tmp_path / "out").read(SAMPLES, range(6)).values.shape == (6, 4, 4, 1)
    sharded.sample_shards(job, reporter=Reporter(lines.append))
    assert lines == [f"`{tmp_path / 'out'}` holds all of its 6 samples already"]


def test_workers_get_a_job_that_can_be_pickled_and_their_share_of_the_threads(tmp_path: Path, monkeypatch):
    started: list[tuple] = []

    class Context:
        def Process(self, *, target, args, daemon):
            started.append(pickle.loads(pickle.dumps(args)))
            return mock.Mock()

    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: Context())
    shares: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", shares.append)
    condition = {"tokens": torch.arange(6.0).view(1, 2, 3).expand(4, 2, 3)}
    request = SampleRequest(range(4), condition=condition)
    job = SampleJob(tmp_path / "w.safetensors", tmp_path / "out", request, {}, device="cpu", threads=2)
    assert sharded.start_workers(job, 0, no_log)() == []
    assert len(sharded.start_workers(job, 2, no_log)()) == 2 and shares == [2]
    for own, warn, _ in started:
        assert (own.weights, own.out, own.device, own.threads) == (job.weights, job.out, "cpu", 2) and warn is no_log
        assert torch.equal(own.request.condition["tokens"], condition["tokens"])
