"""The checker itself: a history without a fault passes, and every fault that is put into one is found."""

from __future__ import annotations

import pytest

from tests.chaos.history import Batch, History, Row, violations

COUNTS = {"request_counts": {"completed": 2, "queued": 0, "total": 2}, "units": {"committed": 2, "total": 2}}


def sound():
    history = History()
    with history.call("post", "b0", items=("i0", "i1")) as call:
        call.ok(batch="batch_0")
    with history.call("post", "b1", items=("i0",)):
        pass  # its reply was lost
    for n in range(2):
        with history.call("commit", f"unit_{n}", batch="batch_0", item=f"i{n}", sample=0, shard=f"k{n}") as call:
            call.ok()
    with history.call("commit", "unit_0", batch="batch_0", item="i0", sample=0, shard="zombie") as call:
        call.refused(status=409)
    rows = [Row(f"i{n}", 0, f"k{n}", f"s{n}", f"s{n}") for n in range(2)]
    return history, {"batch_0": Batch("b0", {"i0": ["completed"], "i1": ["completed"]}, rows, [COUNTS])}


def _lose_batch(history, found):
    del found["batch_0"]


def _lose_item(history, found):
    del found["batch_0"].items["i1"]


def _never_end(history, found):
    found["batch_0"].items["i1"] = ["in_progress"]


def _end_twice(history, found):
    found["batch_0"].items["i1"].append("failed")


def _double_row(history, found):
    found["batch_0"].rows.append(found["batch_0"].rows[0])


def _phantom_row(history, found):
    found["batch_0"].rows.append(Row("i9", 0, "k", "s", "s"))


def _rot(history, found):
    found["batch_0"].rows[0] = Row("i0", 0, "k0", "rotten", "s0")


def _lose_commit(history, found):
    found["batch_0"].rows.pop()


def _zombie_wins(history, found):
    found["batch_0"].rows[0] = Row("i0", 0, "zombie", "s0", "s0")


def _miscount(history, found):
    found["batch_0"].events.append({**COUNTS, "units": {"committed": 1, "total": 2}})


def _double_unknown(history, found):
    found |= {f"batch_{n}": Batch("b1", {"i0": ["completed"]}) for n in (1, 2)}


def _unasked(history, found):
    found["batch_3"] = Batch("b3", {"i0": ["completed"]})


FAULTS = {
    _lose_batch: "which is gone",
    _lose_item: "acknowledged items are gone: i1",
    _never_end: "in in_progress",
    _end_twice: "in completed and failed",
    _double_row: "sample 0 is 2 rows",
    _phantom_row: "never taken",
    _rot: "not what the manifest says",
    _lose_commit: "in no manifest",
    _zombie_wins: "in no manifest",
    _miscount: "do not add up",
    _double_unknown: "one body is 2 batches",
    _unasked: "nobody posted",
}


def test_a_sound_history_passes_whether_an_unknown_post_became_a_batch_or_none():
    history, found = sound()
    assert violations(history, found) == []
    assert violations(history, found | {"batch_1": Batch("b1", {"i0": ["failed"]})}) == []


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__.strip("_"))
def test_each_fault_is_found(spoil):
    history, found = sound()
    spoil(history, found)
    assert any(FAULTS[spoil] in line for line in violations(history, found))
