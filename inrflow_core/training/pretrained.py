"""The frozen networks that a method trains with, such as a perceptual loss: their files are checked before the first step.

Every weights file of the run records the digests of those that it was trained with: a resumed stage must use the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from inrflow_core import models, registry
from inrflow_core.config.preset import Preset
from inrflow_core.errors import UsageError
from inrflow_core.feature_networks import _weights_file
from inrflow_core.runs import checkpoint_manifest
from inrflow_core.storage import plain_file

KEY = "pretrained"
"""The entry of the metadata of weights files: digest by network."""


def find(preset: Preset, done: int, say: Callable[[str], None]) -> dict[str, Path]:
    """The weights files that the rest of a run needs, by network; `done` steps are done.

    Raises:
        MissingError: a file does not exist; the hint says how to make it.
        UsageError: it is not converted yet.
        IntegrityError: it is damaged, or of another network.
    """
    needed = getattr(preset.method.module, "pretrained", lambda config: {})(preset.method.config)
    files: dict[str, Path] = {}
    end = 0
    for stage in preset.stages:
        steps = preset.training.config.for_stage(stage.name).steps
        end += steps
        if not steps or end <= done:
            continue
        for name, configured in needed.get(stage.name, {}).items():
            path = _weights_file.find(name, {} if configured is None else {name: Path(configured)})
            if not _weights_file.check_header(path, registry.find("feature_networks", name).WEIGHTS):
                say(f"note: `{path}` was converted from published files with unknown digests")
            files[name] = path
    return files


def digests(files: Mapping[str, Path]) -> dict[str, str]:
    """The sha256 of each file."""
    return {name: plain_file.file_digest(path) for name, path in files.items()}


def check_unchanged(out: Path, step: int, now: Mapping[str, str]) -> dict[str, str]:
    """The digests that a checkpoint recorded, of networks that its stage no longer needs too.

    Raises:
        UsageError: a file that is still needed has another digest.
    """
    _, info = models.read_metadata(checkpoint_manifest.checkpoint_folder(out, step) / checkpoint_manifest.WEIGHTS)
    before = info.get(KEY) or {}
    for name, digest in now.items():
        was = before.get(name)
        if was != digest:
            raise UsageError(
                f"the run `{out}` was begun with weights of `{name}` whose sha256 is {str(was)[:8]}..., and these have "
                f"{digest[:8]}...",
                hint="name the same file to resume the run, choose another `--out`, or start it again with `--overwrite`",
            )
    return dict(before)
