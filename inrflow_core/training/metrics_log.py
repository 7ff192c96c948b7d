"""The log of a run: log.jsonl, and TensorBoard's file where that is installed."""

from __future__ import annotations

import io
import json
import math
import os
from io import FileIO
from pathlib import Path
from typing import Any

from inrflow_core.storage import atomic_write, typed_json
from inrflow_core.storage.plain_file import check_plain_file

LogRecord = dict[str, Any]


class Log:
    """Appends lines to log.jsonl, one JSON object each; `run_folder.lock` excludes other processes.

    Opening removes an incomplete last line, left by a kill, and the lines after `step`, which a resumed run writes again.

    Raises:
        IntegrityError: a folder, a pipe or a device lies in the place of one of the files, or a line has more than
            `typed_json.MAX_LINE` bytes.
    """

    def __init__(self, run: Path, step: int) -> None:
        self._path = run / "log.jsonl"
        check_plain_file(self._path)
        self._file = self._path.open("a+b", buffering=0)
        _cut(self._file, self._path, step)
        self._board = _Board(run / "tensorboard", step)

    def write(self, record: LogRecord) -> None:
        """Append one record; NaN and infinity become null.

        Raises:
            OutOfMemory: the disk is full; nothing of the line is written.
        """
        plain = {key: _plain(value) for key, value in record.items()}
        atomic_write.append_all_or_nothing(self._file, self._path, (json.dumps(plain, allow_nan=False) + "\n").encode())
        self._board.write(plain)

    def write_image(self, step: int, png: Path) -> None:
        """Show the preview of a step in TensorBoard; log.jsonl has no images.

        Raises:
            OutOfMemory: the disk is full; nothing of the image is written.
        """
        self._board.write_image(step, png)

    def flush(self) -> None:
        """Wait until every line is on the disk: call it before a checkpoint is written, which must not be newer than the log."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()


class _Board:
    """Writes TensorBoard's event file; does nothing if TensorBoard is not installed."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer = None
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.record_writer import RecordWriter
        except ImportError:
            return
        folder.mkdir(exist_ok=True)
        self._events, self._summaries = event_pb2, summary_pb2
        # TensorBoard's writer would put host and time into the file name.
        self._path = folder / "events.out.tfevents.inrflow"
        check_plain_file(self._path)
        _cut_record(self._path)
        self._file = self._path.open("ab", buffering=0)
        self._writer = RecordWriter
        self._append(event_pb2.Event(file_version="brain.Event:2"))
        # Readers then drop the later steps of an earlier call, which this call logs again.
        begun = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._append(event_pb2.Event(step=step + 1, session_log=begun))

    def write(self, record: LogRecord) -> None:
        if self._writer is None:
            return
        values = [
            self._summaries.Summary.Value(tag=tag, simple_value=float(value))
            for tag, value in _flat(record).items()
            if isinstance(value, int | float) and tag != "step"
        ]
        self._append(self._events.Event(step=record["step"], summary=self._summaries.Summary(value=values)))

    def write_image(self, step: int, png: Path) -> None:
        if self._writer is None:
            return
        from inrflow_core.visualization import image_io

        written = image_io.read_image(png, None)
        image = self._summaries.Summary.Image(
            height=written.height,
            width=written.width,
            colorspace=len(written.getbands()),
            encoded_image_string=png.read_bytes(),
        )
        value = self._summaries.Summary.Value(tag="samples", image=image)
        self._append(self._events.Event(step=step, summary=self._summaries.Summary(value=[value])))

    def close(self) -> None:
        if self._writer is not None:
            self._file.close()

    def _append(self, event: Any) -> None:
        """Append one record completely or not at all: TensorBoard's writer would buffer what a full disk refuses."""
        assert self._writer is not None
        record = io.BytesIO()
        self._writer(record).write(event.SerializeToString())
        atomic_write.append_all_or_nothing(self._file, self._path, record.getvalue())


def _cut_record(path: Path) -> None:
    """Cut off an incomplete last record, left by a kill: readers would stop there.

    A record is the length of its data (8 bytes), 4 bytes, the data, and 4 bytes. One without data is none that was written: a
    hole of zeros ends the file too.
    """
    if not path.is_file():
        return
    size, end = path.stat().st_size, 0
    with path.open("r+b") as file:
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head, "little")
            after = end + 16 + length
            if not length or after > size:
                break
            end = file.seek(after)
        file.truncate(end)


def _cut(file: FileIO, path: Path, step: int) -> None:
    """Keep the complete lines up to `step`. Those before the first removed line are not rewritten: a kill cannot lose them."""
    file.seek(0)
    reader, end, later = io.BufferedReader(file), 0, list[bytes]()
    is_cut = False
    for line in typed_json.lines(reader, path):
        stays = _step_of(line) <= step
        is_cut = is_cut or not stays
        if not is_cut:
            end += len(line)
        elif stays:
            later.append(line)
    reader.detach()
    file.truncate(end)
    atomic_write.append_all_or_nothing(file, path, b"".join(later))


def _step_of(line: bytes) -> float:
    """The step of a line; infinite if the line is incomplete or has no step."""
    record = typed_json.parse_line(line) if line.endswith(b"\n") else None
    step = None if record is None else record.get("step")
    return float(step) if isinstance(step, int | float) and not isinstance(step, bool) else math.inf


def _flat(record: LogRecord) -> LogRecord:
    """The record with the values of inner tables as `table/key`, which TensorBoard groups."""
    flat: LogRecord = {}
    for key, value in record.items():
        flat |= {f"{key}/{name}": inner for name, inner in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
