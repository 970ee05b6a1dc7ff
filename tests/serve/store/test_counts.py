"""What the store keeps count of costs the same in a batch of any size."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dail.serve.store.transaction import Store
from dail.synth.schema.units import Failure
from tests.serve.store.test_transaction import new_batch


def _steps(store, action) -> int:
    """Instructions of SQLite's machine, in hundreds: the same on any computer under any load."""
    done = 0

    def count() -> int:
        nonlocal done
        done += 1
        return 0

    with store.write() as tx:
        connection = tx._sql.connection.driver_connection
        connection.set_progress_handler(count, 100)
        try:
            action(tx)
            tx.events.write()
        finally:
            connection.set_progress_handler(None, 0)
    return done


def _lease_and_give_up(tx):
    (leased,) = tx.units.claim("model", "w", 1, 60)
    assert tx.units.hand_back(tx.units.held(leased.unit_id, "w", leased.epoch)) == 1


@pytest.mark.parametrize(
    "action",
    [
        _lease_and_give_up,
        lambda tx: tx.batches.tally("b1"),
        lambda tx: tx.batches.items("b1", None, None, 20),
        lambda tx: tx.batches.item_status("b1", "i7"),
        lambda tx: tx.batches.refused("b1", ["i7"]),
        lambda tx: tx.units.give_back_lapsed(10, Failure(code="lease_lost", detail="")),
        lambda tx: tx.batches.due(),
        lambda tx: tx.batches.page(None, None, 20),
    ],
    ids=["lease", "tally", "items", "item", "refused", "lapsed", "due", "page"],
)
def test_the_cost_does_not_grow_with_the_batch(tmp_path, model, action):
    costs = []
    for num_items in (50, 2_000):
        store = Store(tmp_path / f"{num_items}.sqlite")
        with store.write() as tx:
            tx.batches.add(new_batch(model, num_items=num_items, num_samples=4))
        costs.append(_steps(store, action))
        store.close()
    assert costs[1] <= 1.2 * costs[0] + 5, costs


def _fill(store, model, what):
    """Much that concerns no lease of this model."""
    with store.write() as tx:
        if what == "other models":
            tx.batches.add(replace(new_batch(model, "other", num_items=2_000), model_key="another"))
        elif what == "ended":
            tx.batches.add(new_batch(model, "old", num_items=2_000))
            tx.units.end_all("old", "cancelled")
            tx.batches.start_cancel("old")
            tx.batches.settle("old")
            tx.batches.end("old", 1, None)
        elif what == "cancelling":
            tx.batches.add(new_batch(model, "stopped", num_items=2_000))
            tx.batches.start_cancel("stopped")


@pytest.mark.parametrize("what", ["other models", "ended", "cancelling"])
def test_a_lease_costs_the_same_whatever_else_is_in_the_store(tmp_path, model, what):
    costs = []
    for kind in ("nothing", what):
        store = Store(tmp_path / f"{kind}.sqlite")
        _fill(store, model, kind)
        with store.write() as tx:
            tx.batches.add(_of_its_own(new_batch(model, "ours", num_items=50)))
        costs.append(_steps(store, _lease_and_give_up))
        store.close()
    assert costs[1] <= 1.2 * costs[0] + 10, costs


def _of_its_own(batch):
    """With other units than a batch of the same items has."""
    return replace(batch, units=[(f"own {unit}", item, sample, state) for unit, item, sample, state in batch.units])


def test_asked_before_the_commit_the_counts_are_those_of_the_transaction(tmp_path, model):
    store = Store(tmp_path / "dail.sqlite")
    with store.write() as tx:
        tx.batches.add(new_batch(model, num_items=3))
        assert tx.batches.tally("b1").items["queued"] == 3
        tx.units.claim("model", "w", 2, 60)
        assert tx.batches.tally("b1").items == {
            "total": 3, "queued": 1, "running": 2, "completed": 0, "failed": 0, "cancelled": 0, "expired": 0,
        }  # fmt: skip
    with store.read() as tx:
        assert tx.batches.tally("b1").units["leased"] == 2
    store.close()
