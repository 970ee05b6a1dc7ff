"""One trace with a token of unknown writer, asked at every place that says how much of it the student wrote."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.serve.batch_in import BatchIn
from dail.serve.commands import _show
from dail.serve.rules.service import Service
from dail.serve.store.transaction import Store
from dail.synth.commands import synth
from dail.synth.core.files import Objects
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.run import local
from dail.synth.run.pool import Results, Written
from dail.synth.run.preview import PreviewTrace, _Run
from dail.synth.run.trace_rows import prepare, shard_of, trace_row
from dail.synth.run.unit_source import Standing
from dail.synth.run.worker import Worker
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.manifest import build_manifest
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Beat, Commit, Heartbeat, LeaseRequest, ShardRef, Unit
from dail.train.evals.report import trace_facts
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import NOW

SHARE = 2 / 3  # of all four tokens it would be 0.5
NOTHING: list[Any] = [None] * 4
TOKENS = Tokens([5, 6, 7, 8], [1.0, 1.0, 0.0, None], NOTHING, NOTHING, NOTHING)
UNKNOWN = Tokens.of([5, 6, 7, 8])


@pytest.fixture
def batch(model: ModelIdentity) -> local.Batch:
    return local.make_batch([ExpertSolution(id="i", problem="1+1?", solution="It is 2.")], Synthesis(), model)


@pytest.fixture
def unit(batch: local.Batch) -> Unit:
    return next(iter(batch.units.values()))


class Bar:
    def __init__(self) -> None:
        self.figures: dict[str, Any] = {}

    def update(self, done: int, total: int | None = None, **figures: object) -> None:
        self.figures = figures


class OnePool:
    engine_name = "fake"

    def __init__(self, **written: Tokens) -> None:
        self.written = {name: Written.of(tokens) for name, tokens in written.items()}


def row_of(unit: Unit, prompts: Prompts, tokens: Tokens) -> TraceRow:
    return trace_row(prepare(unit, prompts, 4096), Rollout(unit.unit_id, tokens, "stop", "lockstep"), prompts, "fake")


def shard(unit: Unit, prompts: Prompts, tokens: Tokens = TOKENS) -> ShardRef:
    return shard_of(row_of(unit, prompts, tokens))[1]


@pytest.mark.parametrize(("tokens", "share"), [(TOKENS, SHARE), (UNKNOWN, None)])
def test_of_a_row(unit: Unit, prompts: Prompts, tokens: Tokens, share: float | None) -> None:
    assert row_of(unit, prompts, tokens).student_share == share


@pytest.mark.parametrize(("tokens", "said"), [(TOKENS, "66.7 % of the"), (UNKNOWN, "unknown")])
def test_in_the_report(unit: Unit, prompts: Prompts, model: ModelIdentity, tokens: Tokens, said: str) -> None:
    manifest = build_manifest("b", 1, model, Synthesis(), [shard(unit, prompts, tokens)], NOW)
    assert trace_facts(manifest)["by the student"].startswith(said)


@pytest.mark.parametrize(("tokens", "share"), [(TOKENS, SHARE), (UNKNOWN, None)])
def test_in_the_result_and_the_words_of_dail_synth(
    batch: local.Batch, unit: Unit, prompts: Prompts, tokens: Tokens, share: float | None, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with local.open_ledger(tmp_path / "ledger.jsonl") as ledger:
        source = local.LocalSource(batch, ledger, tmp_path)
        asyncio.run(source.commit(unit, shard(unit, prompts, tokens)))
        result = local.conclude(source, batch, tmp_path, interrupted=False)
    assert result.student_share == share
    monkeypatch.setattr(local, "synthesise", lambda *_, **__: result)
    said = CliRunner().invoke(synth, ["solutions.jsonl", "--out", "out", "--model", str(DEMO_MODEL)])
    assert ("0.67 by the student" in said.stderr) is (share is not None), said.output
    assert "1 traces, 4 tokens, " in said.stderr


@pytest.mark.parametrize(("tokens", "share"), [(TOKENS, SHARE), (UNKNOWN, None)])
def test_in_the_preview_of_dail_doctor(unit: Unit, prompts: Prompts, tokens: Tokens, share: float | None) -> None:
    run = _Run([unit], prompts)
    run._prepared[unit.unit_id] = prepare(unit, prompts, 4096)
    pool: Any = OnePool()
    run.take(Results([Rollout(unit.unit_id, tokens, "stop", "lockstep")], []), pool)
    shown = run.ended[unit.unit_id]
    assert isinstance(shown, PreviewTrace) and shown.student_share == share


@pytest.mark.parametrize(("tokens", "share"), [(TOKENS, SHARE), (UNKNOWN, None)])
def test_in_a_worker_s_progress(unit: Unit, prompts: Prompts, tokens: Tokens, share: float | None) -> None:
    """Of a trace that is running, which grew once, and of one that ended."""

    class Source:
        def standing(self) -> Standing:
            return Standing(0, 1, {})

    source: Any = Source()
    pool: Any = OnePool(u=tokens[:2])
    pool.written["u"].extend(tokens[2:])
    bar = Bar()
    Worker(source, pool, prompts)._update(bar, deque([(0.0, 0)]), None)
    assert bar.figures["student_share"] == share
    ended, worker = shard(unit, prompts, tokens), Worker(source, pool, prompts)
    pool.written.clear()
    worker.tokens, worker.attributed_tokens, worker.student_tokens = (
        ended.tokens, ended.attributed_tokens, ended.student_tokens,
    )  # fmt: skip
    worker._update(bar, deque([(0.0, 0)]), None)
    assert bar.figures["student_share"] == share


@pytest.mark.parametrize(("tokens", "share"), [(TOKENS, SHARE), (UNKNOWN, None)])
def test_in_the_api_and_the_words_of_dail_watch(
    prompts: Prompts, model: ModelIdentity, tokens: Tokens, share: float | None, tmp_path: Path
) -> None:
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path), {"tiny": model}, 60)
    item = {"id": "i", "problem": "1+1?", "solution": "It is 2."}
    batch, _ = service.batches.create(BatchIn.parse({"items": [item]}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    beat = Beat(
        unit_id=unit.unit_id, epoch=unit.epoch, tokens=4, attributed_tokens=tokens.attributed_tokens,
        student_tokens=tokens.student_tokens,
    )  # fmt: skip
    service.leases.heartbeat(Heartbeat(worker="w", beats=(beat,)))
    assert service.batches.get(batch.id).tokens.student_share == share
    data, ended = shard_of(row_of(unit, prompts, tokens))
    service.objects.put(ended.key, data)
    service.leases.commit(unit.unit_id, Commit(worker="w", epoch=unit.epoch, shard=ended))
    found = service.batches.get(batch.id)
    assert found.tokens.student_share == share
    bar: Any = Bar()
    _show(bar, found.model_dump(mode="json") | {"request_counts": dict.fromkeys(_STATES, 0) | {"total": 1}}, None)
    assert bar.figures["student_share"] == share
    service.store.close()


_STATES = ("completed", "failed", "cancelled", "expired")
