"""The rules under any order of events, checked against what must always hold, on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
    run_state_machine_as_test,
)

from dail.serve.batch_in import BatchIn
from dail.serve.rules.errors import Conflict
from dail.serve.rules.service import Service
from dail.serve.store.tables import METADATA
from dail.serve.store.transaction import Store
from dail.synth.core.files import Objects
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.units import Beat, Commit, Fail, Heartbeat, LeaseRequest
from tests.serve.conftest import items, lapse
from tests.serve.worker import write_shard

MODEL = ModelIdentity(name="tiny", revision="r", tokenizer_hash="t", template_hash="p")
WORKERS = st.sampled_from(["w1", "w2"])


class Leases(RuleBasedStateMachine):
    """Submit, lease, heartbeat, expire, commit, commit of a zombie, fail, cancel, restart."""

    leased = Bundle("leased")
    batches = Bundle("batches")

    def __init__(self, url: str | None = None) -> None:
        super().__init__()
        memory = Path("/dev/shm")  # thousands of small syncs; what they are for is tested with kill -9
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        self.place = url or self.folder / "dail.sqlite"
        self.num_batches = 0
        self.committed: set[tuple[str, str]] = set()
        self.holder: dict[str, tuple[str, int]] = {}
        self._open()

    def _open(self) -> None:
        self.service = Service(Store(self.place), Objects(self.folder / "o"), {"tiny": MODEL}, 60, 10_000)
        self.service.start()

    def teardown(self) -> None:
        with self.service.store.write() as tx:  # a database is used again
            for table in reversed(METADATA.sorted_tables):
                tx._sql.execute(table.delete())
        self.service.store.close()
        shutil.rmtree(self.folder)

    @rule(target=batches, num_items=st.integers(1, 2), num_samples=st.integers(1, 2))
    def submit(self, num_items, num_samples):
        self.num_batches += 1
        body = {
            "items": items(num_items),
            "synthesis": {"samples_per_item": num_samples},
            "run_label": str(self.num_batches),
        }
        batch, is_new = self.service.batches.create(BatchIn.parse(body), None)
        assert is_new
        return batch.id

    @rule(target=leased, worker=WORKERS)
    def lease(self, worker):
        units = self.service.leases.lease(LeaseRequest(worker=worker, count=1, model=MODEL)).units
        self.holder |= {unit.unit_id: (worker, unit.epoch) for unit in units}
        return (worker, units[0] if units else None)

    @rule(held=leased)
    def heartbeat(self, held):
        worker, unit = held
        if unit:
            beat = Beat(unit_id=unit.unit_id, epoch=unit.epoch, tokens=1, attributed_tokens=1, student_tokens=1)
            if not self.service.leases.heartbeat(Heartbeat(worker=worker, beats=(beat,))).beats[0].fenced:
                assert self.holder[unit.unit_id] == (worker, unit.epoch), "a zombie renewed its lease"

    @rule(held=leased)
    def commit(self, held):
        """Also of zombies, and of what was committed already: a lease stays in the bundle."""
        worker, unit = held
        if unit:
            shard = write_shard(self.service.objects, unit)
            if self._try(
                self.service.leases.commit, unit.unit_id, Commit(worker=worker, epoch=unit.epoch, shard=shard)
            ):
                self.committed.add((unit.batch_id, unit.unit_id))

    @rule(held=consumes(leased), retryable=st.booleans())
    def fail(self, held, retryable):
        worker, unit = held
        if unit:
            body = Fail(worker=worker, epoch=unit.epoch, code="boom", detail="", retryable=retryable)
            if self._try(self.service.leases.fail, unit.unit_id, body):
                assert self.holder.pop(unit.unit_id) == (worker, unit.epoch), "a zombie failed a unit"

    @rule()
    def expire(self):
        lapse(self.service.store)

    @rule()
    def sweep(self):
        self.service.ending.sweep()

    @rule(batch=batches)
    def cancel(self, batch):
        self._try(self.service.batches.cancel, batch)

    @rule()
    def restart(self):
        self.service.store.close()
        self._open()

    def _try(self, action, *arguments) -> bool:
        try:
            action(*arguments)
        except Conflict:
            return False
        return True

    @invariant()
    def counts_add_up_and_nothing_is_lost_or_doubled(self):
        found = self.service.batches.page(None, None, 100).data
        assert len(found) == self.num_batches
        shards = [(batch.id, shard.unit_id) for batch in found for shard in self.service.outputs.shards(batch.id).data]
        assert len(shards) == len(set(shards))
        assert set(shards) == self.committed
        with self.service.store.read() as tx:
            for batch in found:
                assert +tx.counts._kept(batch.id) == +tx.counts.count(batch.id), "the kept counts are off"
        for batch in found:
            for counts in (batch.request_counts, batch.units):
                states = counts.model_dump()
                assert states.pop("total") == sum(states.values())
            has_open_units = batch.units.queued + batch.units.leased > 0
            assert (batch.status in ("completed", "cancelled")) == (not has_open_units)
            assert (batch.manifest is not None) == (not has_open_units and batch.shards > 0)
            if batch.manifest:
                listed = {shard.unit_id for shard in read_manifest(Path(batch.manifest.path)).shards}
                assert listed == {unit for owner, unit in shards if owner == batch.id}


def run(url: str | None, examples: int, steps: int) -> None:
    settings = hypothesis_settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(lambda: Leases(url), settings=settings)


def test_on_a_file():
    run(None, 20, 20)


def test_on_postgresql(postgres):
    run(postgres(), 10, 20)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_runs_on_a_file():
    run(None, 10_000, 50)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_ten_thousand_runs_on_postgresql(postgres):
    run(postgres(), 10_000, 50)
