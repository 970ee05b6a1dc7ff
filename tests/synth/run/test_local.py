"""`dail synth`: a file to shards and a manifest; interrupted, killed, resumed, repeated."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import load_dataset

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.core.files import Objects
from dail.synth.core.running import Stop
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.run import local, pool
from dail.synth.run.local import Entry, LocalSource, SynthesisResult, make_batch, open_ledger, synthesise
from dail.synth.run.pool import rollout_pool
from dail.synth.run.trace_rows import prepare, shard_of, trace_row
from dail.synth.run.unit_source import Progress, UnitSource
from dail.synth.run.worker import Worker
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.manifest import read_manifest, read_rows
from dail.synth.schema.models import identify
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Failure, Unit
from tests.conftest import DEMO_MODEL, Told
from tests.synth.run.stub_pair import StubPair

DAIL = Path(sys.executable).with_name("dail")


def items(count: int, long: tuple[int, ...] = ()) -> list[dict[str, str]]:
    return [
        {"id": f"i{n}", "problem": f"Turn A {n}.", "solution": f"It shows {n}. " * (2000 if n in long else 1)}
        for n in range(count)
    ]


def write_items(folder: Path, values: list[dict[str, str]]) -> Path:
    path = folder / "solutions.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


def fake_config(**settings: Any) -> SynthConfig:
    return SynthConfig(engine=EngineConfig(model=DEMO_MODEL, kind="fake", rows=8), **settings)


@pytest.fixture
def on_the_cluster(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """`synthesise` in this process, on the Ray that is there."""
    monkeypatch.setattr(pool, "EXCHANGE_S", 0.05)

    def run(config: SynthConfig, source: UnitSource, stop: Stop | None) -> bool:
        async def go() -> None:
            async with rollout_pool(config) as engines:
                await Worker(source, engines, Prompts(config.engine.model)).run(asyncio.Event())

        asyncio.run(go())
        return False

    monkeypatch.setattr(local, "run_worker", run)


def test_what_the_items_contradict_is_said_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(local, "run_worker", lambda *_, **__: True)
    caplog.set_level("INFO", logger="dail")
    wrong = [{"id": "a", "problem": "1+1?", "solution": r"As 1 is odd, \boxed{2}", "answer": "3"}]
    assert synthesise(wrong, tmp_path, fake_config(), against=[{"problem": "1 + 1?", "answer": "2"}]).interrupted
    found = "1 answer contradicts the box (a); 1 problem of the evaluation set (a)"
    assert f"data check: {found}; `dail doctor` lists what was found" in caplog.messages


@pytest.mark.parametrize("named", ["The lock", "<|im_end|>", 5000])
def test_what_cannot_be_suppressed_is_refused_before_anything_is_drawn(
    named: str | int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "run_worker", never_run)
    with pytest.raises(UsageError, match="suppress names"):
        synthesise(items(1), tmp_path / "out", fake_config(), Synthesis(suppress=(named,)))
    assert not (tmp_path / "out").exists()


def never_run(config: SynthConfig, source: UnitSource, stop: Stop | None) -> bool:
    raise AssertionError("there was nothing to run")


def entry(batch: local.Batch, number: int, **end: Any) -> Entry:
    unit = list(batch.units.values())[number]
    return Entry(batch_id=batch.batch_id, unit_id=unit.unit_id, item_id=unit.item_id, **end)


def batch(count: int = 3, **synthesis: Any) -> local.Batch:
    return make_batch(
        [ExpertSolution.model_validate(item) for item in items(count)], Synthesis(**synthesis), identify(DEMO_MODEL)
    )


@pytest.mark.usefixtures("on_the_cluster")
def test_one_item_too_long_fails_alone_and_the_rest_is_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    file, out = write_items(tmp_path, items(6, long=(3,))), tmp_path / "out"
    settings = Synthesis(max_tokens=10, samples_per_item=2)
    summary = synthesise(file, out, fake_config(), settings)
    assert (summary.committed, summary.failed, summary.exit_code) == (10, 2, 3)
    assert {e.failure.code for e in summary.failures if e.failure} == {"context_length_exceeded"}
    rows = list(read_rows(Path(str(summary.manifest))))
    assert sorted((row.item_id, row.sample_index) for row in rows) == [
        (f"i{n}", k) for n in (0, 1, 2, 4, 5) for k in (0, 1)
    ]
    assert (out / "manifests" / summary.batch_id / "settings.json").is_file()
    assert len(json.loads((out / "manifests" / summary.batch_id / "failures.json").read_text())) == 2

    monkeypatch.setattr(local, "run_worker", never_run)  # the same command again: nothing to do, the same answer
    told()
    assert synthesise(file, out, fake_config(), settings) == summary
    assert "finished before: all 12 units are done (2 failed)" in told()


@pytest.mark.usefixtures("cluster")
def test_a_killed_engine_ends_with_every_unit_committed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "EXCHANGE_S", 0.05)
    made = batch(20)
    killer = next(iter(made.units))
    stub = partial(StubPair, marker=tmp_path / "done", faults={killer: "sigkill"})
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        source = LocalSource(made, ledger, tmp_path)

        async def go() -> int:
            async with rollout_pool(fake_config(actors=2), stub) as engines:
                await Worker(source, engines, Prompts(DEMO_MODEL)).run(asyncio.Event())
                return engines.num_restarts

        assert asyncio.run(asyncio.wait_for(go(), 120.0)) == 1
        committed = [e.unit_id for e in ledger.entries if e.shard]
    assert sorted(committed) == sorted(made.units), "a unit is missing, or there twice"


def test_a_finished_folder_is_read_by_datasets_through_its_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, prompts = batch(3, method="expert"), Prompts(DEMO_MODEL)
    (tmp_path / "out").mkdir()
    with open_ledger(tmp_path / "out" / "ledger.jsonl") as ledger:
        for unit in made.units.values():
            prepared = prepare(unit, prompts, 2048)
            done = Rollout(unit.unit_id, prepared.request.prefix, "stop", "none")
            data, shard = shard_of(trace_row(prepared, done, prompts, "none"))
            Objects(tmp_path / "out").put(shard.key, data)
            ledger.append(Entry(batch_id=unit.batch_id, unit_id=unit.unit_id, item_id=unit.item_id, shard=shard))
    monkeypatch.setattr(local, "run_worker", never_run)
    file = write_items(tmp_path, items(3))
    assert synthesise(file, tmp_path / "out", fake_config(), Synthesis(method="expert")).committed == 3
    traces = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(traces["item_id"]) == ["i0", "i1", "i2"]


def test_other_settings_make_another_batch_and_the_model_s_name_does_not(tmp_path: Path) -> None:
    assert batch(tau=0.8).batch_id != batch(tau=0.7).batch_id
    values = [ExpertSolution.model_validate(item) for item in items(3)]
    renamed = identify(DEMO_MODEL, name="another name")
    assert make_batch(values, Synthesis(), renamed).batch_id == batch().batch_id


def test_the_same_problem_twice_is_drawn_once(told: Told) -> None:
    twice = [ExpertSolution(id=name, problem="Turn A.", solution="It shows 7.") for name in ("a", "b")]
    assert len(make_batch(twice, Synthesis(), identify(DEMO_MODEL)).units) == 1
    assert "item b repeats item a" in told()


def test_a_torn_last_line_is_no_commit(tmp_path: Path) -> None:
    path, made = tmp_path / "ledger.jsonl", batch()
    with open_ledger(path) as ledger:
        for number in range(3):
            ledger.append(entry(made, number, failure=Failure(code="c", detail="d")))
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines()[-1])):
        path.write_bytes(whole[:-cut])
        with open_ledger(path) as ledger:
            assert len(ledger.entries) == 2
            ledger.append(entry(made, 2, failure=Failure(code="c", detail="d")))
        assert path.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    path.write_text("{}\n")
    with pytest.raises(IntegrityError, match=r"ledger\.jsonl:1 is no ledger entry"), open_ledger(path):
        pass


def test_a_folder_of_an_earlier_build_is_not_resumed(tmp_path: Path) -> None:
    """Its shards have another schema version; a manifest of this build must not list them."""
    path = tmp_path / "ledger.jsonl"
    shard = {"key": "k", "rows": 1, "size_bytes": 1, "sha256": "s", "unit_id": "u", "item_id": "i", "tokens": 4}
    line = {"batch_id": "b", "unit_id": "u", "item_id": "i", "shard": {**shard, "student_tokens": 2.0}}
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(IntegrityError, match="go on with the release of dail that wrote it"), open_ledger(path):
        pass


def test_two_writers_of_one_folder_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    with open_ledger(path), pytest.raises(UsageError, match="another `dail synth`"), open_ledger(path):
        pass


def test_a_rerun_tries_again_what_may_be_cured(tmp_path: Path) -> None:
    made = batch()
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        ledger.append(entry(made, 0, failure=Failure(code="context_length_exceeded", detail="d")))
        ledger.append(entry(made, 1, failure=Failure(code="engine_died", detail="d", retryable=True)))
        source = LocalSource(made, ledger, tmp_path)
        leased = asyncio.run(source.lease(10)).units
    assert [unit.item_id for unit in leased] == ["i1", "i2"]


def test_a_unit_is_given_up_after_three_failures_of_others(tmp_path: Path) -> None:
    busy = Failure(code="queue_full", detail="d", retryable=True)
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        source = LocalSource(batch(1), ledger, tmp_path)
        for _ in range(local.MAX_ATTEMPTS):
            (unit,) = asyncio.run(source.lease(1)).units
            asyncio.run(source.fail(unit, busy))
        assert source.finished() and not asyncio.run(source.lease(1)).units


def test_engines_that_die_cost_a_unit_nothing_however_often(tmp_path: Path) -> None:
    died = Failure(code="engine_died", detail="d", retryable=True)
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        source = LocalSource(batch(1), ledger, tmp_path)
        for _ in range(3 * local.MAX_ATTEMPTS):
            (unit,) = asyncio.run(source.lease(1)).units
            asyncio.run(source.fail(unit, died))
        assert not source.finished() and source.failures == []


def test_nothing_is_started_for_a_folder_that_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "run_worker", never_run)
    config = SynthConfig(engine=EngineConfig(model=tmp_path, kind="fake"))
    with pytest.raises(UsageError, match=r"it has no config\.json"):
        synthesise(write_items(tmp_path, items(1)), tmp_path / "out", config, Synthesis())
    assert not (tmp_path / "out").exists()


DATED = (
    "{{ '<|im_start|>system\\n' + strftime_now('%d %b %Y') + '<|im_end|>\\n' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.mark.usefixtures("cluster")
def test_a_batch_whose_template_prints_the_date_goes_on_as_of_the_day_it_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else what was written of a trace under yesterday's prompt would go on under today's."""
    model = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    (model / "chat_template.jinja").write_text(DATED)
    caplog.set_level("INFO", logger="dail")

    def run(day: int) -> list[TraceRow]:
        class Day(dt.date):
            @classmethod
            def today(cls) -> dt.date:
                return dt.date(2026, 11, day)

        monkeypatch.setattr(local, "dt", SimpleNamespace(date=Day, datetime=dt.datetime, UTC=dt.UTC))
        config = SynthConfig(engine=EngineConfig(model=model, kind="fake", rows=8))
        return list(synthesise(items(2), tmp_path / "out", config, Synthesis(max_tokens=20)).traces())

    first = run(25)
    ledger = tmp_path / "out" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().splitlines()[0] + "\n")  # one unit is still to do
    second = run(26)
    assert {row.date for row in first + second} == {"2026-11-25"}
    assert [row.unit_id for row in second] == [row.unit_id for row in first]
    assert "this batch goes on as of 2026-11-25, the day it was begun" in caplog.text
    prompts = Prompts(model)
    assert all("25 Nov 2026" in prompts.tokenizer.decode(row.student_prompt_ids) for row in second)


def test_all_failed_is_exit_code_4() -> None:
    summary = SynthesisResult(
        batch_id="b", manifest=None, units=1, committed=0, failed=1, tokens=0, student_share=0, interrupted=False,
        kinds=ItemKinds(), failures=(),
    )  # fmt: skip
    assert summary.exit_code == 4


def test_interrupted_it_leaves_no_process_and_a_rerun_resumes(tmp_path: Path) -> None:
    """The user's folder holds files named like our rooms: neither the verb nor its actors may import them."""
    for room in ("synth", "serve", "train"):
        (tmp_path / f"{room}.py").write_text("raise SystemExit('a user file was imported')\n")
    write_items(tmp_path, items(400))
    mark = uuid.uuid4().hex
    command = [DAIL, "synth", "solutions.jsonl", "--out", "out", "--model", DEMO_MODEL, "--json"]
    command += ["--set", "engine.kind=fake", "--set", "engine.rows=8", "--set", "synthesis.max_tokens=40"]
    running = subprocess.Popen(
        command, cwd=tmp_path, env={**os.environ, "DAIL_TEST_MARK": mark}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    ledger = tmp_path / "out" / "ledger.jsonl"
    wait_for(lambda: ledger.exists() and len(ledger.read_bytes().splitlines()) >= 5, running)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: the whole group
    _, said = running.communicate(timeout=300)
    done = len(ledger.read_bytes().splitlines())
    assert running.returncode == 130, said
    assert "interrupted; rerun the same command" in said and "Traceback" not in said
    assert not (left := processes(mark)), f"left behind: {left}"
    assert done < 400, "it was finished before the signal came"

    rerun = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert rerun.returncode == 0, rerun.stderr
    assert f"resuming: {done} of 400 units were done" in rerun.stderr
    summary = json.loads(rerun.stdout)
    assert summary["committed"] == read_manifest(Path(summary["manifest"])).rows == 400


def wait_for(condition: Any, running: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120.0
    while not condition():
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline, "waited 120 s"
        time.sleep(0.05)


def processes(mark: str) -> list[str]:
    """Command lines of the processes that inherited the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_what_was_written_of_a_trace_is_there_for_the_next_run(tmp_path: Path) -> None:
    made = batch(1)
    written = Tokens([1, 2, 3], [1.0, 0.0, None], [None, 4, None], [-0.5, None, None], [-0.1, -0.2, -0.3])

    async def go(source: LocalSource) -> Unit:
        (unit,) = (await source.lease(1)).units
        return unit

    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        first = LocalSource(made, ledger, tmp_path)
        unit = asyncio.run(go(first))
        assert unit.prefix == Tokens()
        for start in (0, 2):
            reply = asyncio.run(first.heartbeat(unit, Progress(3, 2, 1.0, start, written[start : start + 2])))
        assert reply.known == 3
        second = LocalSource(made, ledger, tmp_path)
        assert asyncio.run(go(second)).prefix == written
        asyncio.run(second.fail(unit, Failure(code="boom", detail="it broke", retryable=False)))
    assert not list((tmp_path / "prefixes").rglob("*.json")), "a unit that ended keeps nothing"


def test_a_damaged_prefix_costs_only_the_head_start(tmp_path: Path) -> None:
    path = tmp_path / "u.json"
    path.write_text('{"ids": [1, 2], "student_prob": [1.0]}')
    assert local._read_prefix(path) == Tokens()
