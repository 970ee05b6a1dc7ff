"""What a worker counts and tells, on a pool without Ray and on engines that die; and the port where it is read."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from dail.synth.core.errors import UsageError
from dail.synth.core.logs import FIELDS, JsonLines
from dail.synth.method.prompts import Prompts
from dail.synth.run import metrics as room
from dail.synth.run import pool as pool_module
from dail.synth.run.metrics import Metrics
from dail.synth.run.metrics_port import metrics_port
from dail.synth.run.pool import Results, Watcher, rollout_pool
from dail.synth.run.worker import Worker
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Failure, Unit
from tests.conftest import ROOT
from tests.synth.run import stub_pair
from tests.synth.run.stub_pair import StubPair
from tests.synth.run.test_worker import InlinePool, ScriptedSource, units

Figures = dict[str, float]


class WatchedPool(InlinePool):
    """Each of its units takes a second of the one engine."""

    def __init__(self) -> None:
        super().__init__()
        self.watcher, self.quiet, self.engines = Watcher(), [0.0], ["ready"]

    def states(self) -> list[str]:
        return self.engines

    def quiet_s(self) -> list[float]:
        return self.quiet

    def submit(self, requests: list[Any]) -> None:
        super().submit(requests)
        self.watcher.engines_used([request.unit_id for request in requests], len(requests))


@pytest.fixture
def log() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The events of the log so far."""
    out = io.StringIO()
    handler, logger = logging.StreamHandler(out), logging.getLogger("dail")
    handler.setFormatter(JsonLines(worker="w1"))
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(level)


def figures(metrics: Metrics) -> Figures:
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def worked(source: ScriptedSource, prompts: Prompts, stop_s: float | None = None, paused: bool = False) -> Metrics:
    """A worker's whole run, or until it is stopped."""
    metrics, pool, stop = Metrics(), WatchedPool(), asyncio.Event()
    pool.paused = paused

    async def go() -> None:
        metrics.watch(pool)  # type: ignore[arg-type]
        if stop_s is not None:
            asyncio.get_running_loop().call_later(stop_s, stop.set)
        await asyncio.wait_for(Worker(source, pool, prompts, metrics=metrics).run(stop), 60)  # type: ignore[arg-type]

    asyncio.run(go())
    return metrics


def commit(source: ScriptedSource, prompts: Prompts) -> Metrics:
    return worked(source, prompts)


def be_fenced(source: ScriptedSource, prompts: Prompts) -> Metrics:
    source.fenced.add("u0")
    return worked(source, prompts)


def be_cancelled(source: ScriptedSource, prompts: Prompts) -> Metrics:
    source.cancelled.add("u0")
    source.lease_s = 0.04
    return worked(source, prompts, paused=True)


def be_stopped(source: ScriptedSource, prompts: Prompts) -> Metrics:
    return worked(source, prompts, stop_s=0.3, paused=True)


MOVED: list[tuple[str, float, Callable[[ScriptedSource, Prompts], Metrics]]] = [
    ("dail_gpu_seconds_total committed", 1, commit),
    ("dail_gpu_seconds_total lost", 0, commit),
    ("dail_rollout_accept_ratio_count", 1, commit),
    ("dail_units_held", 0, commit),
    ("dail_gpu_seconds_total lost", 1, be_fenced),
    ("dail_gpu_seconds_total committed", 0, be_fenced),
    ("dail_gpu_seconds_total lost", 1, be_cancelled),
    ("dail_gpu_seconds_total handed_on", 1, be_stopped),
]


@pytest.mark.parametrize(
    ("name", "value", "does"), MOVED, ids=[f"{name} by {does.__name__}" for name, _, does in MOVED]
)
def test_each_metric_moves_with_what_it_counts(
    name: str, value: float, does: Any, tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    assert figures(does(ScriptedSource(units(model, 1), tmp_path), prompts))[name] == pytest.approx(value)


def test_every_token_that_was_drawn_is_counted_once_by_who_wrote_it(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    source = ScriptedSource(units(model, tau=0.001), tmp_path)
    found = figures(worked(source, prompts))
    shards = source.shards.values()
    student, attributed = sum(one.student_tokens for one in shards), sum(one.attributed_tokens for one in shards)
    assert found["dail_rollout_tokens_total student"] == pytest.approx(student) and student > 0
    assert found["dail_rollout_tokens_total privileged"] == pytest.approx(attributed - student)
    assert found["dail_rollout_tokens_total unknown"] == sum(one.tokens for one in shards) - attributed
    assert found["dail_rollout_accept_ratio_sum"] == pytest.approx(
        sum(one.student_tokens / one.attributed_tokens for one in shards)
    )


def unit_with(tokens: Tokens, model: ModelIdentity, epoch: int = 1) -> Unit:
    return units(model, 1)[0].model_copy(update={"prefix": tokens, "epoch": epoch})


def test_what_a_unit_came_with_was_drawn_elsewhere(model: ModelIdentity) -> None:
    metrics, trace = Metrics(), Tokens(list(range(4)), [1.0, 0.0, 1.0, None], *([None] * 4 for _ in range(3)))
    metrics.leased([unit_with(trace[:1], model)])
    metrics.drawn("u0", pool_module.Written.of(trace[:2]))
    metrics.leased([unit_with(Tokens(), model, epoch=2)])  # its lease lapsed, and it runs on under the next one
    for _ in range(2):
        metrics.drawn("u0", pool_module.Written.of(trace[:]))
    found = figures(metrics)
    assert [found[f"dail_rollout_tokens_total {source}"] for source in room.SOURCES] == [1, 1, 1]
    assert found["dail_units_held"] == 1


def test_the_proposers_share_is_the_privileged_students_where_that_one_proposes(model: ModelIdentity) -> None:
    from dail.synth.rollout.base import Rollout

    trace = Tokens([1, 2, 3, 4], [1.0, 0.0, 0.0, 0.0], *([None] * 4 for _ in range(3)))
    for settings, share in (({}, 0.25), ({"proposer": "privileged"}, 0.75), ({"method": "student"}, None)):
        metrics = Metrics()
        metrics.finished(Rollout("u0", trace, "stop", "lazy"), units(model, 1, **settings)[0].synthesis)
        found = figures(metrics)
        assert found["dail_rollout_accept_ratio_count"] == (share is not None)
        assert found["dail_rollout_accept_ratio_sum"] == (share or 0)


@pytest.mark.parametrize(
    ("engines", "quiet", "failed"),
    [
        (["ready"], [None], set()),
        (["ready"], [119.0], set()),
        (["ready"], [121.0], {"tokens"}),
        (["ready", "ready"], [121.0, None], {"tokens"}),
        (["ready", "ready"], [500.0, 1.0], set()),
        (["starting", "ready"], [500.0, 1.0], set()),
        (["given_up", "ready"], [500.0, 1.0], {"engines"}),
        (["starting"], [None], {"engines"}),
        (["starting"], [300.0], {"engines", "tokens"}),
    ],
)
def test_a_worker_is_ready_while_tokens_move_and_no_engine_is_given_up(
    engines: list[str], quiet: list[float], failed: set[str]
) -> None:
    metrics, pool = Metrics(), WatchedPool()
    pool.engines, pool.quiet = engines, quiet
    metrics.watch(pool)  # type: ignore[arg-type]
    assert {name for name, check in metrics.readiness().items() if not check.ok} == failed
    found = figures(metrics)
    assert [found[f"dail_engine_progress_age_seconds {n}"] for n in range(len(engines))] == [s or 0 for s in quiet]
    assert {state: found[f"dail_engines {state}"] for state in room.STATES} == {
        state: engines.count(state) for state in room.STATES
    }


def test_a_worker_whose_loop_stands_still_is_not_live(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = Metrics()
    assert metrics.is_live(), "it starts"
    metrics.turned()
    assert metrics.is_live()
    later = time.monotonic() + room.TURN_S + 1
    monkeypatch.setattr(room.time, "monotonic", lambda: later)
    assert not metrics.is_live() and not metrics.readiness()["loop"].ok


FAULTS = {"sigkill": "killed", "dead": "failed", "hang": "hung"}


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_whose_engine_dies_is_counted_and_told_without_a_word_of_a_text(
    fault: str, tmp_path: Path, prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch, log: Any
) -> None:
    monkeypatch.setattr(pool_module, "EXCHANGE_S", 0.05)
    monkeypatch.setattr(pool_module, "RESTART_PAUSE_S", 0.05)
    monkeypatch.setattr(pool_module, "HEALTH_EVERY_S", 0.3)
    monkeypatch.setattr(pool_module, "HANG_S", 1.5)
    given, metrics = units(model, 8), Metrics()
    too_long = given[5].item.model_copy(update={"solution": "It shows 7. " * 3000})
    given[5] = given[5].model_copy(update={"item": too_long})
    source = ScriptedSource(given, tmp_path)
    source.fenced.add("u6")
    stub = partial(StubPair, marker=tmp_path / "done", faults={"u1": fault}, step_s=0.05)
    fail, details = source.fail, []

    async def failed(unit: Unit, failure: Failure) -> None:
        details.append(failure.detail)
        await fail(unit, failure)

    source.fail = failed  # type: ignore[method-assign]

    async def go() -> None:
        pool = rollout_pool(stub_pair.config(actors=1), stub)
        metrics.watch(pool)
        began = time.monotonic()
        async with pool:
            await asyncio.wait_for(Worker(source, pool, prompts, metrics=metrics).run(asyncio.Event()), 120)
        nonlocal took_s
        took_s = time.monotonic() - began

    took_s = 0.0
    asyncio.run(go())
    found, lines = figures(metrics), log()
    assert (len(source.shards), [*source.failures]) == (6, ["u5"])
    for reason in room.REASONS:
        assert found[f"dail_engine_restarts_total {reason}"] == (reason == FAULTS[fault])
    used = {outcome: found[f"dail_gpu_seconds_total {outcome}"] for outcome in room.OUTCOMES}
    assert used["committed"] > 0.1 and used["lost"] > 0 and used["handed_on"] == 0
    assert sum(used.values()) <= took_s
    assert found["dail_units_held"] == 0

    (died,) = (line for line in lines if line["event"] == "engine_died")
    assert (died["engine"], died["code"], died["level"], died["worker"]) == (0, FAULTS[fault], "error", "w1")
    events = [line["event"] for line in lines]
    assert events.count("engine_started") == 2 and events.count("leased") == 8 and events.count("committed") == 6
    assert {"asked", "fenced"} <= set(events)
    (refused,) = (line for line in lines if line["event"] == "failed")
    assert (refused["unit_id"], refused["code"]) == ("u5", "context_length_exceeded") and refused["duration_s"] >= 0
    text = json.dumps(lines)
    assert details, "what was refused had words"
    for words in ("Turn A", "It shows 7", "on fire", *details):
        assert words not in text
    for line in lines:
        assert set(line) <= {"ts", "level", "event", "logger", "detail", "worker", *FIELDS}


def test_an_engine_has_an_age_only_while_it_has_something_to_draw(cluster: None, tmp_path: Path) -> None:
    async def go() -> tuple[list[Any], list[Any], list[Any], list[str]]:
        pool = rollout_pool(stub_pair.config(actors=1), partial(StubPair, marker=tmp_path / "done", steps=40))
        async with pool:
            await pool.ready()
            idle = pool.quiet_s()
            pool.submit([stub_pair.request("a")])
            while not (busy := pool.quiet_s()) or busy[0] is None:
                await asyncio.sleep(0.01)
            results: Results[Any] = await asyncio.wait_for(pool.next_results(), 60)
            assert results.finished
            return idle, busy, pool.quiet_s(), [*pool.states()]

    idle, busy, after, states = asyncio.run(go())
    assert idle == after == [None] and 0 <= busy[0] < 5 and states == ["ready"]


@pytest.fixture
def port() -> Iterator[tuple[Metrics, WatchedPool, httpx.Client]]:
    metrics, pool = Metrics(), WatchedPool()
    metrics.watch(pool)  # type: ignore[arg-type]
    with metrics_port(metrics, 0) as url, httpx.Client(base_url=str(url), trust_env=False, timeout=30) as client:
        yield metrics, pool, client


def test_the_port_shows_figures_and_health(port: tuple[Metrics, WatchedPool, httpx.Client]) -> None:
    metrics, pool, client = port
    shown = client.get("/metrics")
    assert shown.status_code == 200 and shown.headers["content-type"].startswith("text/plain; version=")
    assert shown.content == metrics.text()
    assert client.head("/metrics").content == b""
    assert client.get("/livez").json() == {"ok": True}
    assert client.get("/readyz").status_code == 200
    pool.quiet = [121.0]
    refused = client.get("/readyz")
    assert refused.status_code == 503
    assert refused.json()["checks"]["tokens"] == {"ok": False, "detail": "no token moved for 121 s"}
    assert client.get("/").status_code == 404
    assert client.post("/metrics").status_code == 501


def test_the_port_answers_to_loopbacks_names_alone(port: tuple[Metrics, WatchedPool, httpx.Client]) -> None:
    for name, status in (("localhost:1", 200), ("[::1]", 200), ("evil.example", 421), ("", 421), ("a]b", 421)):
        assert port[2].get("/metrics", headers={"Host": name}).status_code == status, name


def test_a_client_that_says_nothing_keeps_nobody_waiting(port: tuple[Metrics, WatchedPool, httpx.Client]) -> None:
    with socket.create_connection((port[2].base_url.host, port[2].base_url.port or 0)):
        assert port[2].get("/livez").status_code == 200


def test_the_port_ends_with_the_worker_and_a_taken_one_is_said(tmp_path: Path) -> None:
    before = threading.active_count()
    with metrics_port(Metrics(), 0) as url:
        number = httpx.URL(str(url)).port or 0
        taken = pytest.raises(UsageError, match=f"--metrics-port {number} cannot .* in use; choose another one, or 0")
        with taken, metrics_port(Metrics(), number):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez", trust_env=False)
    assert threading.active_count() == before


def test_the_readme_has_every_metric_and_no_other() -> None:
    named = set(re.findall(r"`(dail_\w+)`", (ROOT / "synth/run/README.md").read_text("utf-8")))
    metrics, pool = Metrics(), WatchedPool()
    metrics.watch(pool)  # type: ignore[arg-type]
    found = {name for name in re.findall(r"# TYPE (dail_\w+) ", metrics.text().decode()) if "_created" not in name}
    assert named == found


def test_labels_come_from_closed_sets() -> None:
    closed: dict[str, Any] = {
        "source": room.SOURCES,
        "outcome": room.OUTCOMES,
        "reason": room.REASONS,
        "state": room.STATES,
        "engine": ("0",),
    }
    metrics, pool = Metrics(), WatchedPool()
    metrics.watch(pool)  # type: ignore[arg-type]
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in ("le", "version") or value in closed[label], (sample.name, label, value)
