"""`from dail.synth import synthesise`: in a running loop, in a thread, silent, and leaving the process as it was."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dail.synth import (
    EngineConfig,
    ExpertSolution,
    Progress,
    Stop,
    SynthConfig,
    Synthesis,
    SynthesisResult,
    read_traces,
    synthesise,
)
from dail.synth.core.errors import InputError, UsageError
from dail.synth.core.running import run_to_end
from dail.synth.run import pool, shard_writer
from tests.conftest import DEMO_MODEL, ROOT, Told

ITEMS = [{"id": f"i{n}", "problem": f"Turn A {n}.", "solution": f"It shows {n}."} for n in range(3)]
CONFIG = SynthConfig(engine=EngineConfig(model=DEMO_MODEL, kind="fake", rows=8))
SHORT = Synthesis(max_tokens=10)

# A process of its own, in which Ray is started and ended, as a notebook's is.
NOTEBOOK = """
import asyncio, json, os, signal, sys
from dail.synth import EngineConfig, SynthConfig, Synthesis, synthesise

def state():
    return os.getcwd(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)], sys.stdout, sys.stderr

async def cell():
    before = state()
    told = []
    config = SynthConfig(engine=EngineConfig(model=sys.argv[1], kind="fake", rows=8))
    items = json.loads(sys.argv[3])
    result = synthesise(items, sys.argv[2], config, Synthesis(max_tokens=10), on_progress=told.append)
    assert state() == before, (state(), before)
    assert (told[-1].title, told[-1].done, told[-1].total) == ("units", 3, 3), told
    return result

print(asyncio.run(cell()).model_dump_json())
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "EXCHANGE_S", 0.05)


def test_a_notebook_gets_traces_and_nothing_else_happens_to_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", NOTEBOOK, str(DEMO_MODEL), str(tmp_path / "out"), json.dumps(ITEMS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    result = SynthesisResult.model_validate_json(line)
    assert (result.committed, result.failed, result.interrupted) == (3, 0, False)
    assert result.manifest and {row.item_id for row in read_traces(result.manifest)} == {"i0", "i1", "i2"}


@pytest.mark.usefixtures("cluster")
def test_a_thread_gets_traces_of_items_that_are_objects(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[Progress] = []
    items = [ExpertSolution.model_validate(item) for item in ITEMS]
    with ThreadPoolExecutor(1) as thread:
        result = thread.submit(synthesise, items, tmp_path, CONFIG, SHORT, on_progress=told.append).result()
    assert sorted(row.item_id for row in result.traces()) == ["i0", "i1", "i2"]
    assert told[-1].done == told[-1].total == 3 and "student_share" in told[-1].figures
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("cluster")
def test_an_item_without_a_trace_is_listed_with_its_reason(tmp_path: Path, told: Told) -> None:
    items = [*ITEMS, {"id": "long", "problem": "Turn A.", "solution": "It shows 7. " * 2000}]
    result = synthesise(items, tmp_path, CONFIG, SHORT)
    (failed,) = result.failures
    assert failed.item_id == "long" and failed.failure and failed.failure.code == "context_length_exceeded"
    assert len(list(result.traces())) == 3
    told()
    assert synthesise(items, tmp_path, CONFIG, SHORT) == result
    assert told() == "finished before: all 4 units are done (1 failed)"


@pytest.mark.usefixtures("cluster")
def test_a_run_that_is_asked_to_stop_keeps_what_it_has_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_writer, "MOST_TRACES", 4)  # so that there are ends before the last one
    items = [{"problem": f"Turn A {n}.", "solution": f"It shows {n}."} for n in range(60)]
    stop = Stop()

    def enough(progress: Progress) -> None:
        if progress.done >= 5:
            stop.set()

    first = synthesise(items, tmp_path, CONFIG, Synthesis(max_tokens=200), on_progress=enough, stop=stop)
    assert first.interrupted and first.manifest is None and list(first.traces()) == []
    assert not stop.is_heard and 5 <= first.committed < 60
    assert synthesise(items, tmp_path, CONFIG, Synthesis(max_tokens=200)).committed == 60


@pytest.mark.usefixtures("cluster")
def test_what_the_callback_raises_ends_the_run(tmp_path: Path) -> None:
    def refuse(progress: Progress) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        synthesise(ITEMS, tmp_path, CONFIG, SHORT, on_progress=refuse)


def test_ctrl_c_in_a_notebook_lets_the_coroutine_clean_up() -> None:
    """The thread that waits is interrupted; the one that works must not be left behind."""
    seen: list[str] = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(threading.current_thread().name)

    async def cell() -> None:
        with pytest.raises(KeyboardInterrupt):
            run_to_end(work)

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        asyncio.run(cell())
    finally:
        signal.signal(signal.SIGALRM, before)
    assert seen and seen[0].startswith("dail")


def test_wrong_input_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no model is named"):
        synthesise(ITEMS, tmp_path / "out")
    with pytest.raises(InputError, match="solution: it is missing: item 0"):
        synthesise([{"problem": "Turn A."}], tmp_path / "out", model=DEMO_MODEL)
    with pytest.raises(UsageError, match="does not exist"):
        synthesise("nowhere.jsonl", tmp_path / "out", model=DEMO_MODEL)
    assert not (tmp_path / "out").exists()
