"""The choice among an item's traces is a pure function of seed and unit ids."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dail.synth.method.selection import Candidate, choose, count
from dail.synth.schema.selection import BY_VERDICT, KEEPS, Keep

TRACES = [
    Candidate("u0", 0, "wrong", 5.0),
    Candidate("u1", 1, "cut", 9.0),
    Candidate("u2", 2, "correct", 1.0),
    Candidate("u3", 3, "unknown", 7.0),
    Candidate("u4", 4, "correct", 3.0),
    Candidate("u5", 5, "correct", 3.0),
]


def samples(keep: Keep, seed: int = 0) -> list[int]:
    return [one.sample for one in choose(keep, TRACES, seed)]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [("all", [0, 1, 2, 3, 4, 5]), ("all_correct", [2, 4, 5]), ("first_correct", [2]), ("best_correct", [4]),
     ("best", [1])],
)  # fmt: skip
def test_each_rule_keeps_what_its_name_says(keep: Keep, kept: list[int]) -> None:
    assert samples(keep) == kept


def test_by_lot_every_trace_that_may_be_drawn_is_drawn_about_as_often() -> None:
    drawn = Counter(samples("random", seed)[0] for seed in range(1200))
    assert sorted(drawn) == list(range(6)) and all(140 < times < 260 for times in drawn.values())
    correct = Counter(samples("random_correct", seed)[0] for seed in range(1200))
    assert sorted(correct) == [2, 4, 5] and all(330 < times < 470 for times in correct.values())


@given(
    st.sampled_from(KEEPS),
    st.lists(st.sampled_from(["correct", "wrong", "cut", "unknown"]), min_size=1, max_size=9),
    st.integers(0, 2**63 - 1),
    st.randoms(),
)
def test_the_order_of_the_traces_plays_no_part(keep: Keep, outcomes: list, seed: int, chance: random.Random) -> None:
    traces = [Candidate(f"{n:032x}", n, outcome, float(n % 3)) for n, outcome in enumerate(outcomes)]
    shuffled = chance.sample(traces, len(traces))
    kept = choose(keep, traces, seed)
    assert choose(keep, shuffled, seed) == kept
    if keep in BY_VERDICT:
        assert {one.outcome for one in kept} <= {"correct"} and bool(kept) == ("correct" in outcomes)
    counts = count(shuffled, len(kept))
    assert (counts.drawn, counts.correct) == (len(outcomes), outcomes.count("correct"))
    assert counts.chosen + counts.dropped == counts.drawn


def test_a_trace_more_does_not_change_the_lots_of_the_others() -> None:
    """So that the one by lot stays it unless the new one is drawn."""
    for seed in range(50):
        (before,), (after,) = choose("random", TRACES[:-1], seed), choose("random", TRACES, seed)
        assert after in (before, TRACES[-1])


@pytest.mark.parametrize("keep", BY_VERDICT)
def test_an_item_without_an_answer_loses_all_or_keeps_one(keep: Keep) -> None:
    traces = [Candidate(f"u{n}", n, "no_answer", float(n)) for n in (3, 1, 2)]
    assert choose(keep, traces) == []
    kept = choose(keep, traces, 4, "one")
    assert len(kept) == 1
    if keep in ("first_correct", "all_correct"):
        assert kept[0].sample == 1
    if keep == "best_correct":
        assert kept[0].sample == 3


@pytest.mark.parametrize("keep", BY_VERDICT)
def test_an_item_whose_traces_are_all_wrong_keeps_none_of_them_for_want_of_an_answer(keep: Keep) -> None:
    assert choose(keep, [Candidate("u", 0, "wrong", 1.0)], 0, "one") == []
