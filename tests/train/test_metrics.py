"""The figures of a run: one line per step, whatever happened in between."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from synth.schema.base import StorageError
from tests.train.test_checkpoint import record
from train.metrics import METRICS_FILE, metrics

RECORD = record()


def write(out: Path, done: int, steps: range) -> None:
    with metrics(out, done, RECORD) as log:
        for step in steps:
            log.write(step, {"loss": step / 2})


def test_a_resumed_run_replaces_the_lines_of_steps_it_runs_again(tmp_path: Path):
    write(tmp_path, 0, range(1, 6))
    with open(tmp_path / METRICS_FILE, "a") as file:
        file.write('{"step": 6, "lo')  # killed while it wrote
    write(tmp_path, 3, range(4, 8))
    lines = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert lines == [{"step": step, "loss": step / 2} for step in range(1, 8)]


def test_tensorboard_shows_every_step_once(tmp_path: Path):
    write(tmp_path, 0, range(1, 6))
    write(tmp_path, 3, range(4, 8))
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in board.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread, likewise
def test_a_disk_that_refuses_is_said_plainly(tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(StorageError, match=r"cannot write .*metrics\.jsonl"), metrics(tmp_path, 0, RECORD) as log:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            log.write(1, {"loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
