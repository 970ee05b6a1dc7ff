"""Who is served next."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dail.serve.store.shares import Share, dealt
from dail.serve.store.transaction import Store
from tests.serve.store.test_transaction import new_batch


def test_a_small_batch_behind_a_large_one_is_served_first():
    large, small = Share(1, "large", "", 40, 10_000), Share(2, "small", "", 0, 1)
    assert dealt([large, small], 1) == {"small": 1}
    assert dealt([large, small], 8) == {"small": 1, "large": 7}


def test_units_are_dealt_evenly_and_to_the_older_first():
    shares = [Share(n, f"b{n}", "", 0, 100) for n in range(3)]
    assert dealt(shares, 7) == {"b0": 3, "b1": 2, "b2": 2}


def test_a_tenant_with_many_batches_has_no_more_than_one_with_one():
    many = [Share(n, f"b{n}", "many", 0, 100) for n in range(20)]
    given = dealt([*many, Share(99, "one", "single", 0, 100)], 20)
    assert given["one"] == 10
    busy = dealt([*(replace(one, leased=1) for one in many), Share(99, "one", "single", 0, 100)], 20)
    assert busy == {"one": 20}, "until both have as many in work"


@pytest.mark.parametrize("count", [0, 5])
def test_there_may_be_less_than_is_asked_for(count):
    assert sum(dealt([Share(1, "a", "", 0, 2), Share(2, "b", "", 0, 1)], count).values()) == min(count, 3)
    assert dealt([], count) == {}


@pytest.fixture
def store(place):
    store = Store(place)
    yield store
    store.close()


def own(batch, **more):
    """With units that no other batch has."""
    units = [(f"{batch.id} {unit}", item, sample, state) for unit, item, sample, state in batch.units]
    return replace(batch, units=units, **more)


def test_claims_go_round_batches_and_tenants(store, model):
    with store.write() as tx:
        tx.batches.add(own(new_batch(model, "large", num_items=50), tenant="a"))
        tx.batches.add(own(new_batch(model, "more", num_items=50), tenant="a"))
    got = []
    for _ in range(4):
        with store.write() as tx:
            got += [unit.batch_id for unit in tx.units.claim("model", "w", 2, 60)]
    assert [got.count("large"), got.count("more")] == [4, 4]
    with store.write() as tx:
        tx.batches.add(own(new_batch(model, "late", num_items=50), tenant="b"))
    with store.write() as tx:
        units = tx.units.claim("model", "w", 8, 60)
    assert [unit.batch_id for unit in units] == ["late"] * 8, "as many as the other tenant has"
    with store.write() as tx:
        again = [unit.batch_id for unit in tx.units.claim("model", "w", 8, 60)]
    assert again.count("late") == 4


def test_what_is_leased_in_another_batch_leaves_its_turn_to_others(store, model):
    """The same units posted twice: while the first batch has them in work, the second has none to give."""
    with store.write() as tx:
        tx.batches.add(new_batch(model, "first", num_items=3))
    with store.write() as tx:
        assert len(tx.units.claim("model", "w", 3, 60)) == 3
        tx.batches.add(new_batch(model, "twin", num_items=3))
    with store.write() as tx:
        tx.batches.add(own(new_batch(model, "other", num_items=3)))
    with store.write() as tx:
        assert [unit.batch_id for unit in tx.units.claim("model", "w", 8, 60)] == ["other"] * 3
        assert tx.units.claim("model", "w", 8, 60) == []


def test_within_one_transaction_what_was_handed_back_is_there_again(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        (leased,) = tx.units.claim("model", "w", 1, 60)
        assert tx.units.claim("model", "w", 1, 60) == []
        tx.units.hand_back(tx.units.held(leased.unit_id, "w", leased.epoch))
        assert len(tx.units.claim("model", "w", 1, 60)) == 1
