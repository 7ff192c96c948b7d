"""One call from Python writes what the command writes: a file, a saved field, a folder of shards, with provenance."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inrflow_core.runs import run
from inrflow_core.runtime.progress import Reporter
from inrflow_core.sampling import provenance, sample
from inrflow_core.sampling.options import sampling_options
from inrflow_core.sampling.request import SampleRequest
from inrflow_core.sampling.sample_to_files import OutputSettings, sample_to_files
from inrflow_core.sampling.sharded import SampleJob
from inrflow_core.shards.shard_dataset import SAMPLES, ShardDataset
from tests import tiny

OPTIONS = {"sampler": "euler", "steps": 3}


def job_of(folder: Path, out: str) -> SampleJob:
    tiny.run_folder(folder / "run", tiny.IMAGE)
    weights = run.resolve_weights(folder / "run")
    request = SampleRequest(range(5, 8), [0, 1, 0], (4, 4))
    return SampleJob(weights, folder / out, request, {"note": "mine"}, OPTIONS, device="cpu")


def test_a_file_has_the_samples_of_the_seeds_and_the_provenance_with_the_added_entries(tmp_path: Path):
    job = job_of(tmp_path, "out.npz")
    written = sample_to_files(job, output=OutputSettings(save_field=tmp_path / "field.safetensors"))
    model = sample.load(job.weights, device="cpu")
    options = sampling_options(model, **OPTIONS)
    values = sample.concatenate([values for _, values in sample.iter_samples(model, job.request, options)])
    np.testing.assert_array_equal(np.load(written.files[0])["images"], values)
    origin = provenance.provenance(model, job.weights, job.request, options)
    assert written.files == [job.out] and written.origin == {**origin, "note": "mine"}
    loaded, field = sample.load_field(tmp_path / "field.safetensors", "cpu")
    np.testing.assert_array_equal(sample.evaluate(loaded, field, (4, 4)), values)


def test_a_path_without_suffix_becomes_a_folder_of_shards_which_the_same_call_finds_finished(tmp_path: Path):
    job = job_of(tmp_path, "out")
    lines: list[str] = []
    written = sample_to_files(job, reporter=Reporter(lines.append))
    assert written.files == [job.out] and len(ShardDataset(job.out).read(SAMPLES, range(3)).values) == 3
    sample_to_files(job, reporter=Reporter(lines.append))
    assert lines == [f"`{job.out}` holds all of its 3 samples already"]
