"""log.jsonl."""

from __future__ import annotations

import json
import os
from io import FileIO

import pytest
from PIL import Image

from inrflow_core.errors import IntegrityError
from inrflow_core.training.metrics_log import Log, _cut


def steps(run) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_torn_line_is_cut_off_and_later_steps_are_logged_again(tmp_path):
    log = Log(tmp_path, 0)
    for step in range(1, 6):
        log.write({"step": step, "loss": 0.5})
    log.close()
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    log = Log(tmp_path, 3)
    assert steps(tmp_path) == [1, 2, 3]
    log.write({"step": 4, "loss": 0.25})
    log.close()
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_the_lines_that_stay_are_never_away_from_the_disk(tmp_path):
    """A kill between cutting and writing would lose what had been written anew."""
    for step in range(1, 6):
        log = Log(tmp_path, step - 1)
        log.write({"step": step})
        log.close()
    seen = []

    class Watched(FileIO):
        def truncate(self, size: int | None = None) -> int:
            result = super().truncate(size)
            seen.append(steps(tmp_path))
            return result

    with Watched(tmp_path / "log.jsonl", "r+") as file:
        _cut(file, tmp_path / "log.jsonl", 3)
    assert seen == [[1, 2, 3]]


def test_a_damaged_line_in_the_middle_goes_alone(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"st#p": 2}\n{"step": 3}\n{"step": 4}\n')
    Log(tmp_path, 3).close()
    assert steps(tmp_path) == [1, 3]


def test_a_hole_in_the_place_of_the_log_is_an_error_and_is_not_read_into_memory(tmp_path):
    with (tmp_path / "log.jsonl").open("wb") as file:
        file.truncate(6 << 30)
    with pytest.raises(IntegrityError, match=r"log\.jsonl` has a line of more than 16,777,216 bytes"):
        Log(tmp_path, 3)
    assert (tmp_path / "log.jsonl").stat().st_size == 6 << 30


def test_numbers_that_json_has_no_word_for_become_null(tmp_path):
    log = Log(tmp_path, 0)
    log.write({"step": 1, "loss": float("nan"), "gradient_norm": float("inf")})
    log.close()
    assert json.loads((tmp_path / "log.jsonl").read_text()) == {"step": 1, "loss": None, "gradient_norm": None}


def test_tensorboard_reads_its_file(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = Log(tmp_path, 0)
    log.write({"step": 3, "loss": 0.5, "held_out_of": "weights"})
    log.close()
    assert [path.name for path in (tmp_path / "tensorboard").iterdir()] == ["events.out.tfevents.inrflow"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [(3, 0.5)]


def test_tensorboard_shows_previews_with_their_bytes(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Image.new("RGB", (12, 7), (200, 30, 0)).save(tmp_path / "00000005.png")
    log = Log(tmp_path, 0)
    log.write({"step": 5, "loss": 0.5})
    log.write_image(5, tmp_path / "00000005.png")
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (image,) = board.Images("samples")
    assert (image.step, image.width, image.height) == (5, 12, 7)
    assert image.encoded_image_string == (tmp_path / "00000005.png").read_bytes()
    assert steps(tmp_path) == [5]


def test_tensorboard_forgets_the_steps_that_a_resumed_run_tells_again(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for begun, ended in ((0, 5), (3, 6)):
        log = Log(tmp_path, begun)
        for step in range(begun + 1, ended + 1):
            log.write({"step": step, "loss": 10.0 * begun + step})
        log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in board.Scalars("loss")] == [
        (1, 1), (2, 2), (3, 3), (4, 34), (5, 35), (6, 36)
    ]  # fmt: skip


@pytest.mark.parametrize("lost", [1, 5, 12])
def test_tensorboard_reads_on_after_a_record_that_was_torn(tmp_path, lost):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file = tmp_path / "tensorboard/events.out.tfevents.inrflow"
    for step in (1, 2):
        log = Log(tmp_path, step - 1)
        log.write({"step": step, "loss": float(step)})
        log.close()
        with file.open("r+b") as torn:
            torn.truncate(file.stat().st_size - lost)
    log = Log(tmp_path, 2)
    log.write({"step": 3, "loss": 3.0})
    log.close()
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("loss")] == [3]


@pytest.mark.parametrize("name", ["log.jsonl", "tensorboard/events.out.tfevents.inrflow"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_the_place_of_a_file_is_named_and_does_not_block(name, make, tmp_path):
    if "/" in name:
        pytest.importorskip("tensorboard")
        (tmp_path / "tensorboard").mkdir()
    make(tmp_path / name)
    with pytest.raises(IntegrityError, match=f"{name}` is a (pipe or a device|folder), not a file"):
        Log(tmp_path, 0)


def test_zeros_in_the_place_of_tensorboards_file_are_cut_off_at_once(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "tensorboard").mkdir()
    path = tmp_path / "tensorboard" / "events.out.tfevents.inrflow"
    with path.open("wb") as file:
        file.truncate(6 << 30)
    Log(tmp_path, 0).close()
    assert 0 < path.stat().st_size < 1000
