"""Whose fault it is that engines die."""

from __future__ import annotations

from dail.synth.run.suspects import MOST_ALONE, Suspects


def test_who_dies_among_others_is_not_convicted() -> None:
    suspects = Suspects()
    assert not any(suspects.convicted({"a": 5, "b": 5}, True) for _ in range(10))
    assert not suspects.convicted({}, True), "an engine died before it had anything"


def test_two_deaths_alone_at_one_place_convict_once_others_went_on() -> None:
    suspects = Suspects()
    assert not suspects.convicted({"a": 5}, True)
    suspects.went_on(["a"])
    assert not suspects.convicted({"a": 5}, True), "no other went on: the engines may be broken"
    suspects.went_on(["b"])
    assert suspects.convicted({"a": 5}, True)
    assert not suspects.convicted({"a": 5}, True), "a conviction is spent"


def test_with_no_other_unit_two_deaths_are_enough() -> None:
    suspects = Suspects()
    assert [suspects.convicted({"a": 0}, False) for _ in range(2)] == [False, True]


def test_getting_further_clears_but_not_for_ever() -> None:
    suspects = Suspects()
    verdicts = []
    for place in range(MOST_ALONE):
        suspects.went_on(["b"])
        verdicts.append(suspects.convicted({"a": place}, True))
    assert verdicts == [False] * (MOST_ALONE - 1) + [True]


def test_one_that_ended_or_was_cancelled_is_forgotten() -> None:
    suspects = Suspects()
    suspects.convicted({"a": 0}, False)
    suspects.forget("a")
    assert not suspects.convicted({"a": 0}, False)
