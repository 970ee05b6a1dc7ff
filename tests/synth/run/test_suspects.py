"""Whose fault it is that engines die."""

from __future__ import annotations

from dail.synth.run.suspects import MOST_ALONE, Suspects


def test_who_dies_among_others_is_not_convicted() -> None:
    suspects = Suspects()
    assert not any(suspects.convicted({"a": 5, "b": 5}, ["b", "c"]) for _ in range(10))
    assert not suspects.convicted({}, ["b", "c"]), "an engine died before it had anything"


def test_two_deaths_alone_at_one_place_convict_once_others_went_on() -> None:
    suspects = Suspects()
    assert not suspects.convicted({"a": 5}, ["b", "c"])
    suspects.went_on(["a"])
    assert not suspects.convicted({"a": 5}, ["b", "c"]), "no other went on: the engines may be broken"
    suspects.went_on(["b"])
    assert suspects.convicted({"a": 5}, ["b", "c"])
    assert not suspects.convicted({"a": 5}, ["b", "c"]), "a conviction is spent"


def test_with_no_other_unit_two_deaths_are_enough() -> None:
    suspects = Suspects()
    assert [suspects.convicted({"a": 0}, []) for _ in range(2)] == [False, True]


def test_with_no_other_that_could_show_that_engines_work_two_are_enough_as_well() -> None:
    suspects = Suspects()
    assert not suspects.convicted({"a": 0}, ["b"])
    assert suspects.lets_go_first("a", ["b"]) and not suspects.lets_go_first("b", ["a"])
    assert not suspects.convicted({"b": 0}, ["a"])
    assert not suspects.lets_go_first("a", ["b"])
    assert suspects.convicted({"a": 0}, ["b"]) and suspects.convicted({"b": 0}, [])


def test_getting_further_clears_but_not_for_ever() -> None:
    suspects = Suspects()
    verdicts = []
    for place in range(MOST_ALONE):
        suspects.went_on(["b"])
        verdicts.append(suspects.convicted({"a": place}, ["b", "c"]))
    assert verdicts == [False] * (MOST_ALONE - 1) + [True]


def test_one_that_ended_or_was_cancelled_is_forgotten() -> None:
    suspects = Suspects()
    suspects.convicted({"a": 0}, [])
    suspects.forget("a")
    assert not suspects.convicted({"a": 0}, [])
