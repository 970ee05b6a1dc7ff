"""The worker between a source that scripts its answers and a pool without Ray; and the source over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from dail.synth.config import EngineConfig
from dail.synth.core import http as http_module
from dail.synth.core.errors import ApiError, DailError, EngineDead, StorageError
from dail.synth.core.files import Objects
from dail.synth.engine.base import Limits
from dail.synth.engine.fake import FakeEngine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.stop_strings import Decode
from dail.synth.run import shard_writer
from dail.synth.run import worker as worker_module
from dail.synth.run.actor import UnitFailure
from dail.synth.run.pool import Results, Written
from dail.synth.run.unit_source import Fenced, HttpSource, Progress, Standing
from dail.synth.run.worker import Worker
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shard_reader import ShardReader
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import (
    BEAT_TOKENS,
    BEATS_MOST,
    CHECKPOINT_MOST,
    WIRE_VERSION,
    Beat,
    BeatReply,
    Failure,
    Heartbeat,
    HeartbeatReply,
    LeaseReply,
    ShardRef,
    Unit,
)
from tests.conftest import DEMO_MODEL, Told


class InlinePool:
    """A pair on the fake engine, stepped when results are asked for; `paused` units never end.

    `decode`: for requests with stop strings.
    """

    def __init__(self, model_tokens: int = 400, decode: Decode | None = None) -> None:
        config = EngineConfig(model=DEMO_MODEL, kind="fake", rows=8, model_tokens=model_tokens)
        self._pair = Pair(FakeEngine(config), decode=decode)
        self.engine_name = "fake"
        self.written: dict[str, Written] = {}
        self.broken_off: set[str] = set()
        self.cancelled: list[str] = []
        self.paused = False
        self.broken = False

    async def ready(self) -> Limits:
        return self._pair.limits

    def room(self) -> int:
        return 4 - self._pair.pending()

    def submit(self, requests: list[RolloutRequest]) -> None:
        for request in requests:
            self._pair.add(request)
            self.written[request.unit_id] = Written.of(request.prefix[:])

    def cancel(self, unit_id: str) -> None:
        self.cancelled.append(unit_id)
        self._pair.cancel(unit_id)
        self.written.pop(unit_id, None)

    async def next_results(self) -> Results:
        while True:
            await asyncio.sleep(0.001)
            if self.broken:
                raise EngineDead("no engine is left")
            if not self.paused and (finished := self._pair.step()):
                return Results(finished, [])


class ScriptedSource:
    """Hands out its units once and remembers how each ended."""

    def __init__(self, units: list[Unit], out: Path) -> None:
        self.units, self.out = list(units), out
        self.shards: dict[str, ShardRef] = {}
        self.epochs: dict[str, int] = {}
        self.failures: dict[str, Failure] = {}
        self.fenced: set[str] = set()
        self.told: set[str] = set()  # fenced units whose worker knows it
        self.cancelled: set[str] = set()
        self.beats: list[tuple[str, Progress]] = []
        self.kept: dict[str, Tokens] = {}
        self.lease_s = 60.0
        self._total = len(units)

    async def present(self) -> None: ...

    async def lease(self, count: int) -> LeaseReply:
        units, self.units = self.units[:count], self.units[count:]
        return LeaseReply(units=tuple(units), lease_s=self.lease_s, output_root=str(self.out))

    async def heartbeat(self, unit: Unit, progress: Progress) -> BeatReply:
        if unit.unit_id in self.fenced:
            self.told.add(unit.unit_id)
            raise Fenced("the lease is over")
        self.beats.append((unit.unit_id, progress))
        kept = self.kept.setdefault(unit.unit_id, unit.prefix[:])
        if progress.checkpoint:
            assert progress.start == len(kept), "a checkpoint goes on where the last one ended"
            kept.extend(progress.checkpoint)
        return BeatReply(unit_id=unit.unit_id, epoch=unit.epoch, cancel=unit.unit_id in self.cancelled, known=len(kept))

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        if unit.unit_id in self.fenced:
            self.told.add(unit.unit_id)
            raise Fenced("the lease is over")
        assert unit.unit_id not in self.shards, "committed twice"
        self.shards[unit.unit_id] = shard
        self.epochs[unit.unit_id] = unit.epoch

    async def fail(self, unit: Unit, failure: Failure) -> None:
        self.failures[unit.unit_id] = failure

    def finished(self) -> bool:
        return len(self.shards) + len(self.failures) + len(self.told) >= self._total

    def standing(self) -> Standing:
        return Standing(len(self.shards), self._total, {})


def units(model: ModelIdentity, count: int = 6, long: tuple[int, ...] = (), **synthesis: Any) -> list[Unit]:
    settings = Synthesis(**{"max_tokens": 12, **synthesis})
    return [
        Unit(
            unit_id=f"u{number}",
            batch_id="b",
            item_id=f"i{number}",
            sample=0,
            epoch=1,
            item=ExpertSolution(problem="Turn A.", solution="It shows 7. " * (300 if number in long else 1)),
            synthesis=settings,
            model=model,
        )
        for number in range(count)
    ]


def work(source: ScriptedSource, prompts: Prompts, pool: InlinePool | None = None, **settings: Any) -> Worker:
    worker = Worker(source, pool or InlinePool(), prompts, **settings)  # type: ignore[arg-type]
    asyncio.run(asyncio.wait_for(worker.run(asyncio.Event()), 60.0))
    return worker


def test_every_unit_becomes_a_shard_that_reads_back(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    source = ScriptedSource(units(model), tmp_path)
    worker = work(source, prompts)
    assert sorted(source.shards) == [f"u{number}" for number in range(6)]
    for name, shard in source.shards.items():
        (row,) = ShardReader(Objects(tmp_path)).rows(shard)
        assert (row.unit_id, len(row.trace_ids)) == (name, shard.tokens)
    assert worker.num_committed == 6 and not source.failures


def test_while_its_engine_starts_a_worker_lets_itself_be_heard_and_leases_nothing(
    tmp_path: Path, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_PRESENT_EVERY_S", 0.01)
    told = list[int]()

    async def start() -> None:
        heard = asyncio.Event()

        class Starting(InlinePool):
            async def ready(self) -> Limits:
                await heard.wait()
                return await super().ready()

        class Heard(ScriptedSource):
            async def present(self) -> None:
                told.append(len(self.units))
                if len(told) == 3:
                    heard.set()

        await worker_module.wait_for_engine(Starting(), Heard(units(model), tmp_path))  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(start(), 60))
    assert told[:3] == [6, 6, 6] and len(told) <= 4


def test_a_solution_too_long_for_the_model_fails_alone(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    source = ScriptedSource(units(model, long=(2,)), tmp_path)
    work(source, prompts)
    assert {name: failure.code for name, failure in source.failures.items()} == {"u2": "context_length_exceeded"}
    assert len(source.shards) == 5


def test_a_chat_template_that_raises_fails_its_item_alone(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = prompts.tokenizer.apply_chat_template
    calls = iter(range(1000))

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        return 1 // 0 if next(calls) == 0 else render(*args, **kwargs)

    monkeypatch.setattr(prompts.tokenizer, "apply_chat_template", fails_once)
    source = ScriptedSource(units(model), tmp_path)
    work(source, prompts)
    assert {name: failure.code for name, failure in source.failures.items()} == {"u0": "tokenizer_failed"}
    assert len(source.shards) == 5


def test_a_thinking_switch_the_model_lacks_fails_the_unit(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ScriptedSource(units(model, 1, thinking=True), tmp_path)
    monkeypatch.setattr(prompts, "template_reads", ())
    work(source, prompts)
    assert source.failures["u0"].code == "usage" and not source.failures["u0"].retryable


def strays(monkeypatch: pytest.MonkeyPatch, prompts: Prompts, every: int) -> None:
    """Every so many traces run past their turn."""
    told = iter(range(1000))
    monkeypatch.setattr(prompts, "stray_mark", lambda ids: "<|im_start|>" if next(told) % every == 0 else None)


def test_a_run_whose_traces_run_past_their_turn_ends_after_the_first_few(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays(monkeypatch, prompts, every=1)
    source = ScriptedSource(units(model, 40), tmp_path)
    with pytest.raises(DailError, match=r"[3-7] of the first traces ran past their turn, so the run ends: .*token_id"):
        work(source, prompts)
    assert not source.shards
    codes = [failure.code for failure in source.failures.values()]
    assert 3 <= codes.count("stray_turn_mark") <= 7, "three, and what ended beside the third"
    assert all(failure.retryable for failure in source.failures.values())


def test_a_run_that_ends_as_a_unit_is_freed_does_not_go_on_leasing(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    """Both come in one turn of the event loop, where a cancellation was lost and the run never ended."""
    source, pool = ScriptedSource(units(model, 2), tmp_path), InlinePool()
    pool.paused = True
    worker = Worker(source, pool, prompts)  # type: ignore[arg-type]

    async def end() -> bool:
        leasing = asyncio.ensure_future(worker._lease())
        while not worker._freed._waiters:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        worker._freed.set()
        leasing.cancel()
        await asyncio.wait([leasing], timeout=30)
        ended = leasing.cancelled()
        leasing.cancel()
        return ended

    assert asyncio.run(end())


def test_a_trace_among_many_that_runs_past_its_turn_fails_alone(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    strays(monkeypatch, prompts, every=5)
    source = ScriptedSource(units(model, 40), tmp_path)
    work(source, prompts)
    assert {failure.code for failure in source.failures.values()} == {"stray_turn_mark"}
    assert (len(source.failures), len(source.shards)) == (8, 32)


@pytest.mark.parametrize("how", ["fenced", "cancelled"])
def test_a_unit_that_is_no_longer_wanted_is_dropped(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, how: str
) -> None:
    source, pool = ScriptedSource(units(model, 1), tmp_path), InlinePool()
    source.lease_s, pool.paused = 0.04, True
    getattr(source, how).add("u0")
    work(source, prompts, pool)
    assert "u0" in pool.cancelled and not source.shards
    assert [failure.code for failure in source.failures.values()] == (["cancelled"] if how == "cancelled" else [])


class LapsingSource(ScriptedSource):
    """Its first unit is leased twice while it runs: the first lease counts for nothing from then on."""

    def __init__(self, units: list[Unit], out: Path, pool: InlinePool) -> None:
        super().__init__(units, out)
        self._again = units[0].model_copy(update={"epoch": units[0].epoch + 1})
        self._pool, self._num_leases = pool, 0

    async def lease(self, count: int) -> LeaseReply:
        self._num_leases += 1
        reply = await super().lease(count)
        if self._num_leases == 2:
            self._pool.paused = False
            return reply.model_copy(update={"units": (self._again, *reply.units)})
        return reply

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        if unit.unit_id == self._again.unit_id and unit.epoch < self._again.epoch:
            while self._num_leases < 2:  # the lease was lost; it is leased again before this is answered
                await asyncio.sleep(0.001)
            raise Fenced("an older lease")
        await super().commit(unit, shard, correct, rows)


@pytest.mark.parametrize("paused", [True, False], ids=["while it runs", "while it is committed"])
def test_a_unit_leased_again_by_the_worker_that_has_it_keeps_its_rollout(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, paused: bool
) -> None:
    pool = InlinePool()
    pool.paused = paused
    source = LapsingSource(units(model, 3), tmp_path, pool)
    added: list[str] = []
    submit = pool.submit

    def counted(requests: list[RolloutRequest]) -> None:
        added.extend(request.unit_id for request in requests)
        submit(requests)

    pool.submit = counted  # type: ignore[method-assign]
    work(source, prompts, pool)
    assert sorted(added) == ["u0", "u1", "u2"], "a second add of an id ends an engine"
    assert sorted(source.shards) == ["u0", "u1", "u2"]
    assert source.epochs["u0"] == source._again.epoch


def test_a_commit_that_is_fenced_is_no_error(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    source = ScriptedSource(units(model, 3), tmp_path)
    source.fenced = {"u1"}
    worker = work(source, prompts)
    assert sorted(source.shards) == ["u0", "u2"] and worker.num_committed == 2


def test_a_full_disk_delays_a_trace_and_loses_none(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    monkeypatch.setattr(shard_writer, "_DISK_PAUSE_S", 0.01)
    put, refusals = Objects.put, iter(range(7))

    def full_at_first(self: Objects, key: str, data: bytes) -> None:
        if next(refusals, None) is not None:
            raise StorageError("cannot write it: No space left on device; free some space")
        put(self, key, data)

    monkeypatch.setattr(Objects, "put", full_at_first)
    source = ScriptedSource(units(model), tmp_path)
    work(source, prompts)
    assert len(source.shards) == 6 and not source.failures
    said = told()
    # twice if a refusal is heard of after another trace's success
    assert said.count("wait for the disk") in (1, 2), said
    assert "the disk takes traces again" in said


def test_a_stopped_worker_hands_its_units_back(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    source, pool = ScriptedSource(units(model, 3), tmp_path), InlinePool()
    pool.paused = True

    async def go() -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(0.3, stop.set)
        await Worker(source, pool, prompts).run(stop)  # type: ignore[arg-type]

    asyncio.run(go())
    assert sorted(source.failures) == ["u0", "u1", "u2"]
    assert all(failure.code == "worker_stopped" and failure.retryable for failure in source.failures.values())


def test_when_no_engine_is_left_the_units_go_back_too(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    source, pool = ScriptedSource(units(model, 3), tmp_path), InlinePool()
    pool.paused = True

    async def go() -> None:
        asyncio.get_running_loop().call_later(0.3, setattr, pool, "broken", True)
        await Worker(source, pool, prompts).run(asyncio.Event())  # type: ignore[arg-type]

    with pytest.raises(EngineDead):
        asyncio.run(go())
    assert {failure.code for failure in source.failures.values()} == {"worker_stopped"}


def test_a_worker_without_work_ends_when_told_so(tmp_path: Path, prompts: Prompts) -> None:
    source = ScriptedSource([], tmp_path)
    source.finished = lambda: False  # type: ignore[method-assign]
    work(source, prompts, idle_exit_s=0.1)


# The source over HTTP.


def http_source(answer: Callable[[httpx.Request], httpx.Response], model: ModelIdentity) -> HttpSource:
    client = httpx.AsyncClient(base_url="http://api/internal/v1/", transport=httpx.MockTransport(answer))
    return HttpSource(client, "w1", model)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "_PAUSE_S", 0.001)
    monkeypatch.setattr(http_module, "AWAY_S", 0.5)


def test_a_lease_crosses_http(model: ModelIdentity) -> None:
    (unit,) = units(model, 1)
    asked: list[tuple[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, json.loads(request.content)))
        reply = LeaseReply(units=(unit,), lease_s=60, output_root="/data")
        return httpx.Response(200, content=reply.model_dump_json())

    reply = asyncio.run(http_source(answer, model).lease(7))
    assert reply.units == (unit,)
    assert asked == [
        (
            "/internal/v1/leases",
            {"worker": "w1", "count": 7, "wire": WIRE_VERSION, "model": model.model_dump(mode="json")},
        ),
    ]


def test_calls_are_repeated_while_the_api_is_away(model: ModelIdentity, told: Told) -> None:
    (unit,) = units(model, 1)
    script = iter([httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(429), httpx.Response(204)])

    def answer(request: httpx.Request) -> httpx.Response:
        step = next(script)
        if isinstance(step, Exception):
            raise step
        return step

    asyncio.run(http_source(answer, model).fail(unit, Failure(code="c", detail="d")))
    said = told()
    assert said.count("is away") == 1 and "is back" in said


def test_an_api_that_stays_away_ends_the_worker(model: ModelIdentity) -> None:
    with pytest.raises(ApiError, match="was away for") as caught:
        asyncio.run(http_source(lambda request: httpx.Response(502), model).lease(1))
    assert caught.value.status == 502


@pytest.mark.parametrize("status", [404, 409])
def test_a_lost_lease_is_fenced(model: ModelIdentity, status: int) -> None:
    (unit,) = units(model, 1)
    problem = {"status": status, "code": "fenced", "detail": "the lease is over"}
    source = http_source(lambda request: httpx.Response(status, json=problem), model)
    with pytest.raises(Fenced, match="the lease is over"):
        asyncio.run(source.fail(unit, Failure(code="c", detail="d")))


def test_all_that_a_worker_holds_is_told_in_one_request(model: ModelIdentity) -> None:
    held = units(model, 1200)
    asked: list[list[Beat]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        beats = list(Heartbeat.model_validate_json(request.content).beats)
        asked.append(beats)
        replies = tuple(
            BeatReply(unit_id=beat.unit_id, epoch=beat.epoch, known=beat.tokens, fenced=beat.unit_id == "u7")
            for beat in beats
        )
        return httpx.Response(200, content=HeartbeatReply(beats=replies).model_dump_json())

    async def tell(num_tokens: int) -> list[Any]:
        source = http_source(answer, model)
        news = Tokens.of([1] * num_tokens)
        beats = (source.heartbeat(unit, Progress(number, 0, 0, 0, news)) for number, unit in enumerate(held))
        return await asyncio.gather(*beats, return_exceptions=True)

    replies = asyncio.run(tell(0))
    assert [len(beats) for beats in asked] == [BEATS_MOST, 200]
    assert isinstance(replies.pop(7), Fenced)
    assert [reply.known for reply in replies] == [number for number in range(1200) if number != 7]
    asked.clear()
    asyncio.run(tell(100))
    assert len(asked) == 2 and all(sum(len(beat.checkpoint) for beat in beats) <= BEAT_TOKENS for beats in asked)


def test_a_heartbeat_that_is_refused_is_heard_by_all_who_asked(model: ModelIdentity) -> None:
    async def tell() -> list[Any]:
        source = http_source(lambda request: httpx.Response(401, json={"detail": "no token"}), model)
        beats = (source.heartbeat(unit, Progress(1, 0, 0, 0, None)) for unit in units(model, 3))
        return await asyncio.gather(*beats, return_exceptions=True)

    assert ["no token" in str(reply) for reply in asyncio.run(tell())] == [True] * 3


def test_a_refused_token_names_the_variable(model: ModelIdentity) -> None:
    source = http_source(lambda request: httpx.Response(401, json={"detail": "no token"}), model)
    with pytest.raises(ApiError, match="set DAIL_TOKEN"):
        asyncio.run(source.lease(1))


def test_a_reply_of_another_shape_is_refused(model: ModelIdentity) -> None:
    source = http_source(lambda request: httpx.Response(200, json={"units": []}), model)
    with pytest.raises(ApiError, match="is no LeaseReply: /lease_s"):
        asyncio.run(source.lease(1))


class Dying(InlinePool):
    """Its engine dies once, after so many tokens of every unit."""

    def __init__(self, dies_at: int) -> None:
        super().__init__(model_tokens=2000)
        self.dies_at, self.resumed = dies_at, {}

    def submit(self, requests: list[RolloutRequest]) -> None:
        super().submit(requests)
        self.resumed |= {request.unit_id: len(request.prefix) for request in requests}

    async def next_results(self) -> Results:
        while True:
            await asyncio.sleep(0)
            finished = self._pair.step()
            self.written |= {name: Written.of(tokens[:]) for name, tokens in self._pair.progress().items()}
            if finished:
                return Results(finished, [])
            lengths = [len(written.tokens) for written in self.written.values()]
            if self.dies_at and lengths and min(lengths) >= self.dies_at:
                self.dies_at = 0
                lost = list(self._pair.progress())
                self._pair = Pair(FakeEngine(EngineConfig(model=DEMO_MODEL, kind="fake", rows=8, model_tokens=2000)))
                return Results([], [UnitFailure(name, "engine_died", "it died", True) for name in lost])


class Giving(ScriptedSource):
    """Hands a unit that failed retryably out again, with what is kept of its trace."""

    async def fail(self, unit: Unit, failure: Failure) -> None:
        assert failure.retryable
        self.units.append(unit.model_copy(update={"prefix": self.kept[unit.unit_id][:], "epoch": unit.epoch + 1}))


def rows_of(source: ScriptedSource, root: Path) -> dict[str, Any]:
    found = {}
    for name, shard in source.shards.items():
        (row,) = ShardReader(Objects(root)).rows(shard)
        found[name] = row.model_copy(
            update={
                "created_at": row.created_at.replace(
                    year=2000, month=1, day=1, hour=0, minute=0, second=0, microsecond=0
                )
            }
        )
    return found


def test_a_trace_whose_engine_died_is_the_unbroken_one_and_little_of_it_is_drawn_again(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_CHECK_S", 0.01)
    monkeypatch.setattr(worker_module, "CHECKPOINT_TOKENS", 50)
    made = units(model, count=3, max_tokens=600, temperature=1.0, tau=0.3)
    monkeypatch.setattr(prompts, "stop_ids", frozenset())
    monkeypatch.setattr(prompts, "_turn_marks", frozenset())
    whole, broken = ScriptedSource(made, tmp_path / "whole"), Giving(made, tmp_path / "broken")
    work(whole, prompts, InlinePool(model_tokens=2000))
    pool = Dying(dies_at=300)
    work(broken, prompts, pool)
    assert rows_of(broken, tmp_path / "broken") == rows_of(whole, tmp_path / "whole")
    assert all(resumed >= 300 for resumed in pool.resumed.values()), "what was written was told before the unit failed"


def test_much_that_was_written_is_told_without_waiting_for_the_lease(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "_CHECK_S", 0.01)
    source, pool = ScriptedSource(units(model, count=1, max_tokens=50), tmp_path), InlinePool()
    source.lease_s, pool.paused = 3600.0, True

    async def go() -> list[Progress]:
        stop = asyncio.Event()
        task = asyncio.create_task(Worker(source, pool, prompts).run(stop))
        while "u0" not in pool.written:
            await asyncio.sleep(0.01)
        few = worker_module.CHECKPOINT_TOKENS - 1
        for number in (few, 1, CHECKPOINT_MOST + 10):
            pool.written["u0"].extend(Tokens(*([0] * number for _ in range(5))))
            await asyncio.sleep(0.3)
        beats = [progress for _, progress in source.beats]
        stop.set()
        await task
        return beats

    beats = asyncio.run(asyncio.wait_for(go(), 30.0))
    sizes = [(progress.start, len(progress.checkpoint or [])) for progress in beats]
    assert sizes[:2] == [(0, worker_module.CHECKPOINT_TOKENS), (worker_module.CHECKPOINT_TOKENS, CHECKPOINT_MOST)]
    assert len(sizes) == 2, "the ten that are left are not enough for a beat"
