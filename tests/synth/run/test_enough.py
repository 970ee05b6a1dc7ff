"""Drawing until there are enough, then choosing, is drawing all, then choosing: in a folder and through the API."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from dail.serve.batch_in import BatchIn
from dail.serve.rules.service import Service
from dail.serve.store.transaction import Store
from dail.synth import select
from dail.synth.core.errors import InputError, UsageError
from dail.synth.core.extensions import label
from dail.synth.core.files import Objects
from dail.synth.method.prompts import Prompts
from dail.synth.run.local import Batch, LocalSource, _write_manifest, make_batch, open_ledger
from dail.synth.run.trace_rows import shard_of
from dail.synth.run.unit_source import Progress
from dail.synth.run.worker import Worker
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.manifest import read_manifest, read_rows
from dail.synth.schema.models import identify
from dail.synth.schema.selection import Keep
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import WORKER_STOPPED, Beat, Commit, Fail, Failure, Heartbeat, LeaseRequest, ShardRef, Unit
from tests.conftest import DEMO_MODEL
from tests.serve.worker import trace_row
from tests.synth.run.drawn import MODEL, item_of
from tests.synth.run.test_worker import InlinePool

SAMPLES = 8
ITEMS = [item_of("easy"), item_of("hard"), item_of("never"), item_of("odd"), item_of("proof", None)]
RATES = {"easy": 0.8, "hard": 0.15, "never": 0.0, "odd": 0.4, "proof": 0.5}
EARLY: tuple[Keep, ...] = ("first_correct", "random_correct", "random")
Verdict = Callable[[Unit], bool]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory: thousands of small syncs, and what they are for is tested elsewhere."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def verdicts(seed: int) -> Verdict:
    """The same for a unit whenever it is drawn."""
    return lambda unit: random.Random(f"{seed} {unit.unit_id}").random() < RATES[unit.item_id]


def shard(root: Path, unit: Unit, is_right: bool) -> tuple[TraceRow, ShardRef]:
    text = rf"\boxed{{{7 if is_right else 8}}}"
    row = trace_row(unit).model_copy(update={"trace_text": text, "answer": unit.item.answer})
    data, made = shard_of(row)
    Objects(root).put(made.key, data)
    return row, made


def told(unit: Unit, is_right: bool) -> bool | None:
    """What a worker says of it."""
    return is_right if unit.synthesis.stops_by_verdict and unit.item.answer else None


def batch(enough: str, seed: int = 0) -> Batch:
    settings = Synthesis.model_validate({"samples_per_item": SAMPLES, "enough": enough, "seed": seed})
    return make_batch(ITEMS, settings, MODEL)


def draw_locally(root: Path, made: Batch, verdict: Verdict, chance: random.Random, stop_after: int = 10**6) -> int:
    """With some units in flight, that end in any order; the number of shards."""
    root.mkdir(exist_ok=True)
    with open_ledger(root / "ledger.jsonl") as ledger:
        source, held, lost = LocalSource(made, ledger, root), list[Unit](), set[str]()
        while not source.finished() and stop_after:
            stop_after -= 1
            held += asyncio.run(source.lease(chance.randint(1, 7))).units
            unit = held.pop(chance.randrange(len(held)))
            beat = asyncio.run(source.heartbeat(unit, Progress(0, 0, 0.0, 0, None)))
            if beat.cancel and chance.random() < 0.7:
                asyncio.run(source.fail(unit, Failure(code="cancelled", detail="")))
            elif unit.unit_id not in lost and chance.random() < 0.2:
                lost.add(unit.unit_id)  # a third time would end it
                asyncio.run(source.fail(unit, Failure(code="lost", detail="", retryable=True)))
            else:
                right = verdict(unit)
                asyncio.run(source.commit(unit, shard(root, unit, right)[1], told(unit, right)))
        done, total, _ = source.standing()
        if source.finished():
            assert done == total == len(source.shards) + source.skipped + len(source.failures)
            _write_manifest(made, source.shards, root)
        return len(source.shards)


def test_a_failure_that_another_run_may_cure_is_cured_although_a_later_sample_was_right(tmp_path: Path) -> None:
    made = batch("first_correct")
    for run in range(2):
        with open_ledger(tmp_path / "ledger.jsonl") as ledger:
            source = LocalSource(made, ledger, tmp_path)
            while units := asyncio.run(source.lease(1)).units:
                if run == 0 and units[0].sample == 0:
                    asyncio.run(source.fail(units[0], Failure(code="lost", detail="", retryable=True)))
                else:
                    made_shard = shard(tmp_path, units[0], True)[1]
                    asyncio.run(source.commit(units[0], made_shard, told(units[0], True)))
            assert source.finished()
            assert len(source.failures) == (len(ITEMS) if run == 0 else 0)
    assert len(source.shards) == 2 * len(ITEMS)


def manifest_of(root: Path) -> Path:
    (path,) = (root / "manifests").glob("*/v1.json")
    return path


def chosen(manifest: Path, keep: Keep) -> Sequence[tuple[str, int]]:
    result = select(manifest, keep, **({} if keep == "random" else {"without_answer": "one"}))
    return sorted((row.item_id, row.sample_index) for row in read_rows(result.manifest))


@pytest.mark.parametrize("keep", EARLY)
@pytest.mark.parametrize("seed", range(2))
def test_in_a_folder_the_same_traces_are_chosen_and_fewer_drawn(tmp_path: Path, keep: Keep, seed: int) -> None:
    chance, verdict = random.Random(seed), verdicts(seed)
    whole = draw_locally(tmp_path / "whole", batch("all", seed), lambda unit: verdict(unit), chance)
    drawn = draw_locally(tmp_path / "early", batch(keep, seed), verdict, chance)
    assert drawn < 0.7 * whole
    assert chosen(manifest_of(tmp_path / "early"), keep) == chosen(manifest_of(tmp_path / "whole"), keep)


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_stopped_again_and_again_ends_the_same(tmp_path: Path, seed: int) -> None:
    chance, verdict, made = random.Random(seed), verdicts(seed), batch("first_correct")
    draw_locally(tmp_path / "once", made, verdict, chance)
    while not list((tmp_path / "often").glob("manifests/*/v1.json")):
        draw_locally(tmp_path / "often", made, verdict, chance, stop_after=5)
    once, often = manifest_of(tmp_path / "once"), manifest_of(tmp_path / "often")
    assert chosen(once, "first_correct") == chosen(often, "first_correct")


def test_random_draws_one_trace_of_each_item(tmp_path: Path) -> None:
    chance = random.Random(1)
    assert len(ITEMS) <= draw_locally(tmp_path, batch("random"), lambda _: False, chance) <= len(ITEMS) + 1


def draw_through_the_api(root: Path, enough: str, verdict: Verdict, chance: random.Random) -> tuple[Path, dict]:
    service = Service(Store(root / "dail.sqlite"), Objects(root / "objects"), {"m": MODEL}, 60)
    items = [item.model_dump(mode="json", exclude_defaults=True) for item in ITEMS]
    body = {"items": items, "synthesis": {"samples_per_item": SAMPLES, "enough": enough}}
    posted, _ = service.batches.create(BatchIn.parse(body), None)
    held, lost = list[Unit](), set[str]()
    while (now := service.batches.get(posted.id)).status == "in_progress":
        units = now.units.model_dump()
        assert units.pop("total") == sum(units.values()) == SAMPLES * len(ITEMS)
        held += service.leases.lease(LeaseRequest(worker="w", count=chance.randint(1, 7), model=MODEL)).units
        unit = held.pop(chance.randrange(len(held)))
        beat = Beat(unit_id=unit.unit_id, epoch=unit.epoch, tokens=0, attributed_tokens=0, student_tokens=0)
        fail = Fail(worker="w", epoch=unit.epoch, code="lost", detail="", retryable=True)
        if service.leases.heartbeat(Heartbeat(worker="w", beats=(beat,))).beats[0].cancel and chance.random() < 0.7:
            service.leases.fail(unit.unit_id, fail.model_copy(update={"code": "cancelled", "retryable": False}))
        elif chance.random() < 0.2:
            code = WORKER_STOPPED if unit.unit_id in lost else "lost"  # a third failure would end the unit
            lost.add(unit.unit_id)
            service.leases.fail(unit.unit_id, fail.model_copy(update={"code": code}))
        else:
            right = verdict(unit)
            made = shard(root / "objects", unit, right)[1]
            commit = Commit(worker="w", epoch=unit.epoch, shard=made, correct=told(unit, right))
            service.leases.commit(unit.unit_id, commit)
    assert now.status == "completed" and now.manifest
    counts = {"units": now.units, "items": now.request_counts}
    statuses = [result.status for result in service.outputs.results(posted.id)]
    assert statuses.count("skipped") == now.units.skipped and statuses.count("succeeded") == now.units.committed
    pages = service.items.page(posted.id, None, None, 100).data
    assert [[sample.sample for sample in item.samples] for item in pages] == [list(range(SAMPLES))] * len(ITEMS)
    service.store.close()
    return Path(now.manifest.path), counts


@pytest.mark.parametrize("keep", EARLY)
@pytest.mark.parametrize("seed", range(2))
def test_through_the_api_the_same_traces_are_chosen_and_fewer_drawn(tmp_path: Path, keep: Keep, seed: int) -> None:
    chance, verdict = random.Random(seed), verdicts(seed)
    whole, all_of = draw_through_the_api(tmp_path / "whole", "all", verdict, chance)
    early, few_of = draw_through_the_api(tmp_path / "early", keep, verdict, chance)
    assert few_of["units"].committed < 0.7 * all_of["units"].committed and few_of["units"].skipped
    assert few_of["items"].completed == len(ITEMS)
    assert chosen(early, keep) == chosen(whole, keep)


def test_a_unit_that_no_worker_survives_lets_the_next_sample_come(tmp_path: Path) -> None:
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "objects"), {"m": MODEL}, -1.0)
    item = ITEMS[0].model_dump(mode="json", exclude_defaults=True)
    body = {"items": [item], "synthesis": {"samples_per_item": 2, "enough": "first_correct"}}
    posted, _ = service.batches.create(BatchIn.parse(body), None)
    seen = []
    for _ in range(12):
        seen += [unit.sample for unit in service.leases.lease(LeaseRequest(worker="w", count=9, model=MODEL)).units]
        service.ending.sweep()
    assert set(seen) == {0, 1}
    assert service.batches.get(posted.id).units.failed == 1
    service.batches.cancel(posted.id)
    service.ending.sweep()
    assert service.batches.get(posted.id).status == "cancelled"
    service.store.close()


def test_what_waits_is_cancelled_with_its_batch(tmp_path: Path) -> None:
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "objects"), {"m": MODEL}, 60)
    items = [item.model_dump(mode="json", exclude_defaults=True) for item in ITEMS]
    body = {"items": items, "synthesis": {"samples_per_item": 3, "enough": "random_correct"}}
    posted, _ = service.batches.create(BatchIn.parse(body), None)
    assert (posted.units.waiting, posted.units.queued, posted.request_counts.queued) == (10, 5, 5)
    ended = service.batches.cancel(posted.id)
    assert (ended.status, ended.units.cancelled) == ("cancelled", 15)
    service.store.close()


def test_where_nothing_can_be_correct_it_is_refused_before_anything_is_stored(tmp_path: Path) -> None:
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "objects"), {"m": MODEL}, 60)
    items = [{"problem": "Prove it.", "solution": r"\boxed{7}", "kind": "proof"}]
    with pytest.raises(InputError) as refused:
        service.batches.create(BatchIn.parse({"items": items, "synthesis": {"enough": "first_correct"}}), None)
    assert refused.value.problems[0][:2] == ("/synthesis/enough", "no_answers")
    service.store.close()


@pytest.mark.parametrize(
    ("keep", "rule", "said"),
    [
        ("random", {}, "keep random"),
        ("random_correct", {}, "keep random_correct"),
        ("best", {"by": "shortest"}, "keep best"),
        ("first_correct", {"grader": "official"}, "grader official"),
    ],
)
def test_another_rule_than_the_one_that_stopped_the_drawing_is_refused(
    tmp_path: Path, keep: Keep, rule: dict[str, str], said: str
) -> None:
    draw_locally(tmp_path, batch("first_correct"), verdicts(1), random.Random(1))
    with pytest.raises(
        UsageError, match=rf"until there were enough for keep=first_correct .* what {said} would choose"
    ):
        select(manifest_of(tmp_path), keep, **rule)
    assert select(manifest_of(tmp_path), "all").selection.counts.dropped == 0


def test_another_seed_than_that_of_the_lot_is_refused(tmp_path: Path) -> None:
    draw_locally(tmp_path, batch("random", seed=5), verdicts(1), random.Random(1))
    with pytest.raises(UsageError, match="what seed 4 would choose"):
        select(manifest_of(tmp_path), "random", seed=4)
    assert select(manifest_of(tmp_path), "random", seed=5).selection.missing >= (SAMPLES - 2) * len(ITEMS)


def test_how_drawing_stops_makes_another_batch_of_the_same_units() -> None:
    whole, early = batch("all"), batch("first_correct")
    assert whole.batch_id != early.batch_id and list(whole.units) == list(early.units)
    items, model = [ExpertSolution(id="a", problem="1?", solution="1.", answer="1")], MODEL
    named = [make_batch(items, Synthesis(grader=grader), model).batch_id for grader in ("math", "official")]
    assert named[0] == named[1]


def test_the_verdict_is_in_the_ledger_and_nothing_is_where_none_was_asked_for(tmp_path: Path) -> None:
    draw_locally(tmp_path, batch("first_correct"), verdicts(2), random.Random(2))
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    assert any('"correct":true' in line for line in lines) and any('"correct":false' in line for line in lines)
    draw_locally(tmp_path / "whole", batch("all"), verdicts(2), random.Random(2))
    assert "correct" not in (tmp_path / "whole" / "ledger.jsonl").read_text()
    assert read_manifest(manifest_of(tmp_path)).synthesis.enough == "first_correct"


GRADER = """
import zlib

def now_and_then(completion, answer):
    return zlib.crc32(completion.encode()) % 4 == 0

def broken(completion, answer):
    raise KeyError("oh")
"""


def work_locally(root: Path, made: Batch, prompts: Prompts) -> Path | None:
    root.mkdir(exist_ok=True)
    with open_ledger(root / "ledger.jsonl") as ledger:
        source = LocalSource(made, ledger, root)
        worker = Worker(source, InlinePool(decode=lambda ids: str(prompts.tokenizer.decode(list(ids)))), prompts)  # type: ignore[arg-type]
        asyncio.run(asyncio.wait_for(worker.run(asyncio.Event()), 60.0))
        assert source.finished()
        failures = {entry.failure.code: entry.failure.detail for entry in source.failures if entry.failure}
        (root / "failures.txt").write_text(json.dumps(failures))
        return _write_manifest(made, source.shards, root) if source.shards else None


@pytest.mark.parametrize("keep", EARLY)
def test_a_worker_that_judges_what_it_draws_leaves_what_the_selection_needs(tmp_path: Path, keep: Keep) -> None:
    (tmp_path / "own.py").write_text(GRADER)
    prompts, model = Prompts(DEMO_MODEL), identify(DEMO_MODEL)
    settings = {
        "grader": f"{tmp_path}/own.py:now_and_then",
        "samples_per_item": 8,
        "max_tokens": 60,
        "stop": ("e", "1"),
    }
    paths = []
    for enough in ("all", keep):
        asked = Synthesis.model_validate({**settings, "enough": enough}).pinned()
        paths.append(work_locally(tmp_path / enough, make_batch(ITEMS, asked, model), prompts))
    whole, early = paths
    assert whole and early and read_manifest(early).rows < read_manifest(whole).rows == 8 * len(ITEMS)
    assert chosen(early, keep) == chosen(whole, keep)
    if keep != "random":
        assert select(whole, keep).selection.grader == label(asked.grader)  # the traces' own, unasked
        assert 0 < select(whole, keep).selection.items_kept < len(ITEMS)


def test_what_a_grader_does_wrong_is_the_units_failure(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(GRADER)
    asked = Synthesis(
        grader=f"{tmp_path}/own.py:broken", enough="first_correct", samples_per_item=2, max_tokens=60, stop=("e", "1")
    )
    made = make_batch(ITEMS[:1], asked.pinned(), identify(DEMO_MODEL))
    assert work_locally(tmp_path / "out", made, Prompts(DEMO_MODEL)) is None
    assert "failed with KeyError: 'oh'" in json.loads((tmp_path / "out" / "failures.txt").read_text())["usage"]
