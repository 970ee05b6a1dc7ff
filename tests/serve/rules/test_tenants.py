"""Tenants beside each other, in any order of what they do: nobody sees, changes or gets what is another's."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dail.serve.batch_in import BatchIn
from dail.serve.rules.errors import Conflict, NotFound, TooMany
from dail.serve.rules.service import Service
from dail.serve.store.tables import METADATA
from dail.serve.store.transaction import Store
from dail.synth.core.errors import InputError
from dail.synth.core.files import Objects
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.units import Commit, LeaseRequest
from tests.serve.conftest import items
from tests.serve.worker import write_shard

MODEL = ModelIdentity(name="tiny", revision="r", tokenizer_hash="t", template_hash="p")
TENANTS = ("", "a", "b")
MOST = 2
CALLERS = st.sampled_from([*((tenant, False) for tenant in TENANTS), ("office", True)])


class Tenants(RuleBasedStateMachine):
    batches = Bundle("batches")

    def __init__(self, url: str | None = None) -> None:
        super().__init__()
        memory = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
        store, objects = Store(url or self.folder / "dail.sqlite"), Objects(self.folder / "o")
        self.service = Service(store, objects, {"tiny": MODEL}, 60, MOST)
        self.service.start()
        self.whose: dict[str, str] = {}  # every batch that is not deleted
        self.ended: set[str] = set()
        self.of_key: dict[tuple[str, str | None, int], str] = {}

    def teardown(self) -> None:
        with self.service.store.write() as tx:  # a database is used again
            for table in reversed(METADATA.sorted_tables):
                tx._sql.execute(table.delete())
        self.service.store.close()
        shutil.rmtree(self.folder)

    def _open(self, tenant: str) -> int:
        return sum(owner == tenant and batch not in self.ended for batch, owner in self.whose.items())

    @rule(target=batches, caller=CALLERS, number=st.integers(1, 3), key=st.sampled_from([None, "k", "of a key k"]))
    def post(self, caller, number, key):
        """The same few bodies and keys by all of them."""
        tenant = caller[0]
        body = BatchIn.parse({"items": items(1), "run_label": str(number)})
        known = {(k, n): b for (t, k, n), b in self.of_key.items() if t == tenant and b in self.whose}
        num_open = self._open(tenant)
        try:
            batch, is_new = self.service.for_caller(*caller).batches.create(body, key)
        except InputError:
            assert key is not None and any(k == key and n != number for k, n in known)
            return "batch_none"
        except TooMany:
            assert num_open >= MOST and (key, number) not in known
            return "batch_none"
        assert is_new == ((key, number) not in known)
        assert num_open < MOST if is_new else known[key, number] == batch.id
        assert batch.tenant == tenant
        self.whose[batch.id] = tenant
        self.of_key[tenant, key, number] = batch.id
        return batch.id

    @rule(
        caller=CALLERS, batch=batches, what=st.sampled_from(["get", "items", "item", "shards", "manifest", "results"])
    )
    def look(self, caller, batch, what):
        seen = self.service.for_caller(*caller)
        looks = {
            "get": lambda: seen.batches.get(batch),
            "items": lambda: seen.items.page(batch, None, None, 10),
            "item": lambda: seen.items.get(batch, "i0"),
            "shards": lambda: seen.outputs.shards(batch),
            "manifest": lambda: seen.outputs.manifest(batch),
            "results": lambda: list(seen.outputs.results(batch)),
        }
        self._do(caller, batch, looks[what])

    @rule(caller=CALLERS, batch=batches)
    def cancel(self, caller, batch):
        if self._do(caller, batch, lambda: self.service.for_caller(*caller).batches.cancel(batch)):
            self.service.ending.sweep()
            self._note_ends()

    @rule(caller=CALLERS, batch=batches)
    def retry(self, caller, batch):
        if self._do(caller, batch, lambda: self.service.for_caller(*caller).batches.retry(batch, "failed")):
            self.ended.discard(batch)

    @rule(caller=CALLERS, batch=batches)
    def delete(self, caller, batch):
        if self._do(caller, batch, lambda: self.service.for_caller(*caller).batches.delete(batch)):
            del self.whose[batch]

    @rule()
    def work(self):
        """A worker is every tenant's."""
        for unit in self.service.leases.lease(LeaseRequest(worker="w", count=1, model=MODEL)).units:
            shard = write_shard(self.service.objects, unit)
            self.service.leases.commit(unit.unit_id, Commit(worker="w", epoch=unit.epoch, shard=shard))
        self._note_ends()

    def _do(self, caller, batch, act) -> bool:
        tenant, sees_all = caller
        is_theirs = batch in self.whose and (sees_all or self.whose[batch] == tenant)
        before = self._state()
        try:
            act()
        except NotFound as error:
            assert not is_theirs or "manifest" in str(error)
        except Conflict:
            assert is_theirs
        else:
            assert is_theirs
            return True
        assert self._state() == before
        return False

    def _state(self) -> dict[str, str]:
        return {
            batch: self.service.batches.get(batch).model_dump_json(exclude={"tokens_per_s"}) for batch in self.whose
        }

    def _note_ends(self) -> None:
        for batch in self.whose:
            if self.service.batches.get(batch).status in ("completed", "cancelled", "expired"):
                self.ended.add(batch)

    @invariant()
    def each_list_is_its_own(self):
        for tenant, sees_all in (*((one, False) for one in TENANTS), ("office", True)):
            page = self.service.for_caller(tenant, sees_all).batches.page(None, None, 100)
            wanted = {batch for batch, owner in self.whose.items() if sees_all or owner == tenant}
            assert {one.id for one in page.data} == wanted


def run(url: str | None, examples: int, steps: int) -> None:
    settings = hypothesis_settings(max_examples=examples, stateful_step_count=steps, deadline=None)
    run_state_machine_as_test(lambda: Tenants(url), settings=settings)


def test_on_a_file():
    run(None, 8, 25)


def test_on_postgresql(postgres):
    run(postgres(), 3, 15)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_long(postgres):
    run(None, 2000, 40)
    run(postgres(), 500, 40)
