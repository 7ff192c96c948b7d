"""Which checkpoints of a run are evaluated."""

from __future__ import annotations

from pathlib import Path

import pytest

from inrflow_core.errors import UsageError
from inrflow_core.evaluation.sampling_plan import SamplingSettings, resolve_models
from tests import tiny


def test_all_checkpoints_are_those_of_a_run_and_not_of_one_checkpoint_or_file(tmp_path: Path):
    run = tmp_path / "run"
    tiny.run_folder(run, tiny.IMAGE)
    every = SamplingSettings(checkpoints="all")
    assert [model.name for model in resolve_models(run, "run", every)] == ["run-00000002"]
    checkpoint = run / "checkpoints" / "00000002"
    for source, kind in {checkpoint: "checkpoint", checkpoint / "weights.safetensors": "file of weights"}.items():
        with pytest.raises(UsageError, match=f"is one {kind}$"):
            resolve_models(source, "run", every)
