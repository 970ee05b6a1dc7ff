"""The figures of a run: one line per step, whatever happened in between."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from accelerate import tracking
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dail.synth.core.errors import StorageError, UsageError
from dail.train import metrics as module
from dail.train.metrics import CURVES_FILE, METRICS_FILE, check_trackers, metrics
from tests.conftest import ROOT, Told
from tests.train.test_checkpoint import record

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


GARBAGE = {
    "no JSON": b"killed",
    "a torn line in the middle": b'{"step": 2, "lo',
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "no step": b'{"loss": 1.0}',
    "a step of another kind": b'{"step": "2", "loss": 1.0}',
    "a truth value as step": b'{"step": true, "loss": 1.0}',
    "a fraction as step": b'{"step": 1.5, "loss": 1.0}',
    "a step before the first": b'{"step": 0, "loss": 1.0}',
    "no UTF-8": b'{"step": 2, "note": "\xff\xfe"}',
    "zeros of a lost block": b"\0" * 64,
    "an empty line": b"",
    "lists without end": b"[" * 200_000,
    "a step beyond all digits": b'{"step": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE)
def test_a_line_that_is_no_step_is_left_out_and_counted(tmp_path: Path, told: Told, line: bytes):
    write(tmp_path, 0, range(1, 4))
    assert "left out" not in told()
    path = tmp_path / METRICS_FILE
    first, *others = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([first, line + b"\n", line + b"\n", *others]))
    write(tmp_path, 3, range(4, 6))
    assert "2 of 5 lines hold no figures of a step and are left out" in told()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4, 5]
    assert (tmp_path / CURVES_FILE).exists()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "9" * 400, '"text"', "null", "[1]", "true"])
def test_a_line_with_an_odd_value_is_kept_as_it_is_and_drawn_without_it(tmp_path: Path, value: str):
    odd = f'{{"step": 2, "loss": {value}, "note": "\u2028"}}\n'.encode()
    (tmp_path / METRICS_FILE).write_bytes(b'{"step": 1, "loss": 0.5}\n' + odd)
    write(tmp_path, 2, range(3, 5))
    assert odd in (tmp_path / METRICS_FILE).read_bytes()
    picture = (tmp_path / CURVES_FILE).read_text()
    assert "NAN" not in picture.upper().replace("ANNOT", "") and "loss" in picture


def test_a_figures_file_that_cannot_be_read_is_said_plainly(tmp_path: Path):
    (tmp_path / METRICS_FILE).mkdir()
    with pytest.raises(StorageError, match=r"metrics\.jsonl"), metrics(tmp_path, 0, RECORD):
        pass


def test_a_panel_says_of_how_many_steps_it_is_where_not_all_have_it(tmp_path: Path):
    with metrics(tmp_path, 0, RECORD) as log:
        for step in range(1, 31):
            log.write(step, {"loss": step / 2, **({"kl_privileged": 0.5} if step == 1 or step % 10 == 0 else {})})
    picture = (tmp_path / CURVES_FILE).read_text()
    assert re.findall(r"\d+ of \d+ steps", picture) == ["4 of 30 steps"]


def test_tensorboard_shows_every_step_once(tmp_path: Path):
    write(tmp_path, 0, range(1, 6))
    time.sleep(1.01)  # TensorBoard reads files of one second by a process's count of them, where 10 is before 9
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


def test_the_curves_are_a_picture_of_their_own(tmp_path: Path):
    write(tmp_path, 0, range(1, 6))
    picture = ElementTree.fromstring((tmp_path / CURVES_FILE).read_text())
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert "loss" in "".join(picture.itertext())


def test_trackio_has_every_step_and_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("trackio")
    code = (
        "import sys; from pathlib import Path; from tests.train.test_checkpoint import record; "
        "from dail.train.metrics import metrics\n"
        "with metrics(Path(sys.argv[1]), 0, record(trackers=['trackio'], gamma=0.3)) as log:\n"
        "    [log.write(step, {'loss': step / 2}) for step in (1, 2, 3)]"
    )
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "board")}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    with sqlite3.connect(tmp_path / "board" / "dail.db") as board:
        rows = board.execute("select step, metrics from metrics order by step").fetchall()
        settings = " ".join(map(str, board.execute("select * from configs").fetchall()))
    assert [(step, json.loads(figures)["train/loss"]) for step, figures in rows] == [(1, 0.5), (2, 1.0), (3, 1.5)]
    assert "gamma" in settings and "0.3" in settings


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "wandb" else True)
    check_trackers(record(trackers=["tensorboard"]).config)
    with pytest.raises(UsageError, match="tracker wandb is not installed; run: pip install wandb, or leave it out"):
        check_trackers(record(trackers=["tensorboard", "wandb"]).config)


def test_a_tracker_that_cannot_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(tracking.TrackioTracker, "start", refuse)
    with (
        pytest.raises(UsageError, match="tracker trackio cannot start: nobody answers; set it up, or leave it out"),
        metrics(tmp_path, 0, record(trackers=["trackio"])),
    ):
        pass


def test_a_tracker_that_fails_later_is_left_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("the board is gone")

    monkeypatch.setattr(module.TensorBoard, "log", fail)
    write(tmp_path, 0, range(1, 4))
    assert told().count("tracker tensorboard fails (the board is gone); this run goes on without") == 1
    assert len((tmp_path / METRICS_FILE).read_text().splitlines()) == 3
