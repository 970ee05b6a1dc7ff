"""Several batches through one pool: dealt in turn, resumed, each as `dail synth` would make it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.running import Stop
from dail.synth.engine.fake import FakeEngine
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.run import local
from dail.synth.run.local import LocalSource, make_batch, open_ledger, synthesise
from dail.synth.run.several import Order, Several, SeveralSources, synthesise_several
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Failure, Unit
from tests.conftest import DEMO_MODEL
from tests.synth.run.scripted import Scripted
from tests.synth.run.test_local import fake_config, items, never_run

TAUS = (0.2, 0.8)
SETTINGS = [Synthesis(tau=tau, max_tokens=12) for tau in TAUS] + [Synthesis(method="direct", max_tokens=12)]


def wrote(unit: Unit) -> str:
    return f"{unit.item_id} at {unit.synthesis.tau}"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    scripted = Scripted(wrote)
    monkeypatch.setattr(local, "run_worker", scripted)
    return scripted


def drawn(out: Path, settings: list[Synthesis] | None = None) -> Several:
    return synthesise_several(items(3), out, settings or SETTINGS, fake_config())


def test_all_batches_come_of_one_run_and_dail_synth_finds_each_finished(
    tmp_path: Path, worker: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = drawn(tmp_path)
    assert worker.runs == 1
    manifests = [read_manifest(batch.result.manifest) for batch in found.batches if batch.result.manifest]
    assert [one.rows for one in manifests] == [3, 3, 3]
    assert [(one.synthesis.tau, one.synthesis.method) for one in manifests[:2]] == [(tau, "mixed") for tau in TAUS]
    assert found.tokens == sum(one.tokens for one in manifests) and found.seconds > 0
    assert all(batch.rows == 2 * batch.row_tokens == 2 * batch.result.tokens for batch in found.batches)
    monkeypatch.setattr(local, "run_worker", never_run)
    alone = synthesise(items(3), tmp_path, fake_config(), SETTINGS[1])
    assert (alone.batch_id, alone.manifest) == (manifests[1].batch_id, found.batches[1].result.manifest)


def test_a_run_that_was_stopped_goes_on_and_what_was_drawn_is_not_drawn_again(
    tmp_path: Path, worker: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn(tmp_path, SETTINGS[:1])
    stop = Stop()
    stop.set()
    stopped = synthesise_several(items(3), tmp_path, SETTINGS, fake_config(), stop=stop)
    assert stopped.interrupted and [bool(batch.result.manifest) for batch in stopped.batches] == [True, False, False]
    more = drawn(tmp_path)
    assert more.tokens == sum(batch.result.tokens for batch in more.batches[1:])
    assert more.batches[0].rows == 2 * more.batches[0].row_tokens > 0  # which the ledger keeps
    monkeypatch.setattr(local, "run_worker", never_run)
    again = drawn(tmp_path)
    assert (again.tokens, again.seconds, again.interrupted) == (0, 0.0, False)
    assert [one.result.manifest for one in again.batches] == [one.result.manifest for one in more.batches]


def test_what_a_trace_took_is_not_known_where_another_attempt_began_it(tmp_path: Path, worker: Scripted) -> None:
    worker.knows_rows = False
    assert [(batch.rows, batch.row_tokens) for batch in drawn(tmp_path).batches] == [(0, 0)] * 3


@pytest.mark.parametrize(("synthesis", "least", "most"), zip(SETTINGS, (2, 1, 1), (2, 3, 1), strict=True))
def test_a_trace_takes_as_many_rows_as_its_strategy_decodes(synthesis: Synthesis, least: int, most: int) -> None:
    pair = Pair(FakeEngine(EngineConfig(model=DEMO_MODEL)), "auto")
    pair.add(RolloutRequest("u", [3, 5], [3, 5, 9], synthesis, seed=1, stop_ids=frozenset()))
    while not (rollouts := pair.step()):
        pass
    assert least * 12 <= rollouts[0].rows <= most * 12


def test_the_same_settings_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two of the batches have the same settings"):
        drawn(tmp_path, [SETTINGS[0], SETTINGS[0]])


def test_lazy_is_refused_for_values_for_which_it_is_not_exact(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not exact for acceptance=absolute with tau=0.2; set worker.strategy=auto"):
        synthesise_several(items(1), tmp_path / "out", SETTINGS, fake_config(strategy="lazy"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("order", "expected"),
    [("by_item", ["a 0.2", "a 0.8", "b 0.2", "b 0.8", "c 0.2"]), ("by_batch", ["a 0.2", "b 0.2", "c 0.2", "a 0.8"])],
)
def test_units_are_dealt_by_item_or_by_batch(tmp_path: Path, order: Order, expected: list[str]) -> None:
    things = [ExpertSolution(id=name, problem=f"{name}?", solution="1.") for name in "abc"]
    batches = [make_batch(things, Synthesis(tau=tau), identify(DEMO_MODEL)) for tau in TAUS]
    with open_ledger(tmp_path / "ledger.jsonl") as ledger:
        sources = {batch.batch_id: LocalSource(batch, ledger, tmp_path) for batch in batches}
        source = SeveralSources(sources, order)
        dealt = [unit for count in (2, 1, 9) for unit in asyncio.run(source.lease(count)).units]
        assert [f"{unit.item_id} {unit.synthesis.tau}" for unit in dealt][: len(expected)] == expected
        assert Counter(unit.item_id for unit in dealt) == dict.fromkeys("abc", 2)
        assert asyncio.run(source.lease(5)).units == ()
        asyncio.run(source.fail(dealt[0], Failure(code="engine_died", detail="gone", retryable=True)))
        assert asyncio.run(source.lease(5)).units == (dealt[0],)  # it comes back, of its own batch
        for unit in dealt:
            asyncio.run(source.fail(unit, Failure(code="no", detail="no")))
        assert source.finished() and source.standing()[:2] == (6, 6)
        assert source.standing().figures == {"batches": "2/2", "failed": 6}
