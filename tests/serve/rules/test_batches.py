"""What a batch is fixed to when it is posted, and what is told of its items."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dail.serve.batch_in import BatchIn
from dail.serve.bodies import BatchOut
from dail.serve.rules import batches
from dail.serve.rules.service import Service
from dail.serve.store.transaction import Store
from dail.synth.core.errors import InputError
from dail.synth.core.files import Objects
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.units import LeaseRequest
from tests.serve.conftest import items

MODEL = ModelIdentity(
    name="tiny", revision="r", tokenizer_hash="t", template_hash="p", template_reads=("strftime_now", "verbosity")
)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": MODEL}, 60)
    service.start()
    yield service
    service.store.close()


def test_a_batch_keeps_the_day_it_was_posted_and_the_same_body_finds_it_on_another(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    """The model's chat template prints the date: a unit that goes on tomorrow goes on under the same prompt."""
    body = BatchIn.parse({"items": items(1)})

    def create(day: int) -> tuple[BatchOut, bool]:
        now = SimpleNamespace(now=lambda zone: dt.datetime(2026, 11, day, tzinfo=zone))
        monkeypatch.setattr(batches, "dt", SimpleNamespace(datetime=now, UTC=dt.UTC))
        return service.batches.create(body, None)

    (first, is_new), (second, is_other) = create(25), create(26)
    assert (is_new, is_other, second.id) == (True, False, first.id)
    assert first.synthesis.date == second.synthesis.date == dt.date(2026, 11, 25)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=MODEL)).units
    assert unit.synthesis.date == dt.date(2026, 11, 25)


def test_what_the_models_template_does_not_read_is_refused_with_a_pointer(service: Service):
    for settings in ({"thinking": True}, {"template_args": {"reasoning_effort": "high"}}):
        with pytest.raises(InputError, match=r"which this model|has no thinking switch") as caught:
            service.batches.create(BatchIn.parse({"items": items(1), "synthesis": settings}), None)
        assert [(where, code) for where, code, _ in caught.value.problems] == [("/synthesis", "not_of_this_model")]


def test_a_batch_says_how_many_of_its_items_are_of_which_kind(service: Service):
    solutions = [
        {"problem": "1+1?", "solution": "It is 2.", "answer": "2"},
        {"problem": "1+2?", "solution": r"Since 5 = 2 + 3 it is $\boxed{3}$."},
        {"problem": "1+3?", "solution": r"It is $\boxed{4}$, as 3 + 1.", "answer": "notfound"},
        {"problem": "Show it.", "solution": "As n + 1 > n."},
        {"problem": "Show it too.", "solution": "Clearly.", "answer": "proof"},
        {"problem": "2+2?", "solution": "Two and two.", "kind": "verifiable"},
    ]
    kinds = {"by_answer": 1, "by_box": 2, "without_answer": 1, "proofs": 2}
    batch, _ = service.batches.create(BatchIn.parse({"items": solutions}), None)
    assert batch.item_kinds.model_dump() == {**kinds, "without_waypoints": 3}
    nothing = {"items": solutions, "synthesis": {"lone_box": "nothing"}}
    batch, _ = service.batches.create(BatchIn.parse(nothing), None)
    assert batch.item_kinds.model_dump() == {**kinds, "by_box": 0, "proofs": 4, "without_waypoints": 3}
