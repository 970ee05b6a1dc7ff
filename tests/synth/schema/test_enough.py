"""Which samples of an item are drawn: never too few, never many too many, and none after the one that is wanted."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from dail.synth.schema.enough import Standing, draw_order, ended_as, next_step
from dail.synth.schema.selection import lot
from dail.synth.schema.synthesis import Synthesis


def drawn(verdicts: list[bool], chance: random.Random) -> list[Standing]:
    """How the samples stand when no more is to come, whatever ends first."""
    places: list[Standing] = ["waiting"] * len(verdicts)
    while True:
        step = next_step(places)
        for place in step.next:
            places[place] = "open"
        under_way = [place for place, standing in enumerate(places) if standing == "open"]
        if not under_way:
            return places
        one = chance.choice(under_way)
        places[one] = "hit" if verdicts[one] else "miss"


@given(st.lists(st.booleans(), min_size=1, max_size=70), st.randoms())
def test_whatever_ends_first_the_first_hit_is_drawn_and_what_came_before_it(
    verdicts: list[bool], chance: random.Random
) -> None:
    places = drawn(verdicts, chance)
    wanted = verdicts.index(True) if True in verdicts else len(verdicts) - 1
    assert all(standing in ("hit", "miss") for standing in places[: wanted + 1])
    assert len(places) - places.count("waiting") <= max(1, 2 * wanted)


def test_an_item_that_nothing_solves_takes_few_rounds() -> None:
    places: list[Standing] = ["waiting"] * 32
    rounds = []
    while step := next_step(places).next:
        rounds.append(len(step))
        for place in step:
            places[place] = "miss"
    assert rounds == [1, 1, 2, 4, 8, 16]


def test_what_is_under_way_behind_a_hit_is_needless_and_what_comes_before_it_is_not() -> None:
    assert next_step(["open", "hit", "open", "waiting", "miss"]) == ([], [2, 3])
    assert next_step(["hit", "hit"]) == ([], [])
    assert next_step(["waiting", "miss", "hit", "waiting"]) == ([0], [3])  # the first one failed in an earlier run


def test_a_sample_that_is_tried_again_holds_its_place() -> None:
    assert next_step(["open", "waiting"]).next == []
    assert next_step(["miss", "open", "waiting", "waiting"]).next == []
    assert next_step(["miss", "miss", "open", "waiting", "waiting"]).next == [3]
    assert next_step(["miss", "open", "miss", "miss", "miss", "waiting"]).next == []  # a slow one is waited for


def test_a_trace_that_nobody_judges_is_enough() -> None:
    assert [ended_as(correct) for correct in (True, False, None)] == ["hit", "miss", "hit"]


def test_samples_go_by_index_or_by_the_lot_of_the_selection() -> None:
    names = [f"{n:032x}" for n in range(9)]
    assert draw_order(Synthesis(enough="first_correct"), names) == list(range(9))
    order = draw_order(Synthesis(enough="random", seed=3), names)
    assert order == sorted(range(9), key=lambda n: lot(3, names[n])) != list(range(9))
    assert draw_order(Synthesis(enough="random_correct", seed=4), names) != order


def test_how_many_are_drawn_is_no_part_of_a_trace() -> None:
    plain = Synthesis().identity()
    assert Synthesis(enough="random_correct", grader="official", samples_per_item=256).identity() == plain
