"""What items are given of each other: by contents and seed alone, never of the same problem."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dail.synth.core.errors import InputError
from dail.synth.method.answers import compare
from dail.synth.method.dealing import dealt
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.synthesis import Synthesis

OTHER, HINT = Synthesis(shown="other_solution"), Synthesis(contexts=("wrong_hint",))


def items(count: int, **fields: Any) -> list[ExpertSolution]:
    return [
        ExpertSolution(
            id=f"i{n}", problem=f"What is {n} + {n}?", solution=f"It is {2 * n}.", answer=str(2 * n), **fields
        )
        for n in range(count)
    ]


def others(given: list[ExpertSolution]) -> dict[str, str]:
    return {item.problem_text: item.dealt.problem_text for item in given if item.dealt}


def test_without_a_setting_that_takes_something_the_items_stay():
    assert dealt(items(3), Synthesis()) == items(3)


@pytest.mark.parametrize("count", [2, 3, 7, 50])
def test_every_solution_is_dealt_once_and_none_to_its_own_problem(count: int):
    found = others(dealt(items(count), OTHER))
    assert sorted(found.values()) == sorted(found) and all(problem != other for problem, other in found.items())


def test_who_is_given_what_follows_from_contents_and_seed_alone():
    whole = items(20)
    mixed = [item.model_copy(update={"id": f"x{n}", "source": "s"}) for n, item in enumerate(whole)]
    random.Random(1).shuffle(mixed)
    assert others(dealt(mixed, OTHER)) == others(dealt(whole, OTHER))
    assert others(dealt(whole, OTHER.model_copy(update={"seed": 1}))) != others(dealt(whole, OTHER))
    hints = {item.problem_text: item.wrong_answer for item in dealt(whole, HINT)}
    assert {item.problem_text: item.wrong_answer for item in dealt(mixed, HINT)} == hints


def test_several_solutions_of_one_problem_are_never_dealt_among_each_other():
    one = [ExpertSolution(id=f"a{n}", problem="Find $x$.", solution=f"Way {n}.") for n in range(5)]
    same = [ExpertSolution(id="b", problem="  find x ", solution="Way 9.")]
    rest = items(2)
    found = dealt([*one, *same, *rest], OTHER)
    assert all(item.dealt and item.dealt.id in ("i0", "i1") for item in found[:6])
    assert all(item.dealt and item.dealt.id not in (item.id, "i2") for item in found[6:])


def test_equal_items_are_given_the_same():
    twice = [*items(4), items(4)[2].model_copy(update={"id": "again"})]
    found = dealt(twice, OTHER)
    assert found[2].dealt == found[4].dealt


def test_a_dealt_item_keeps_its_name_and_what_shapes_a_trace():
    given = items(2, waypoints=("w",), license="CC0-1.0", metadata={"a": 1})
    (first, _) = dealt(given, OTHER)
    assert first.dealt == items(2, waypoints=("w",))[1]


def test_a_wrong_answer_is_another_item_s_and_not_equal_by_the_grader():
    answers = ["12", "12.0", r"\frac{24}{2}", "7", "(A)", "yes", r"\sqrt{144}"]
    given = [ExpertSolution(id=f"i{n}", problem=f"P{n}", solution="s", answer=one) for n, one in enumerate(answers)]
    for item in dealt(given, HINT):
        assert item.wrong_answer in answers and compare(item.wrong_answer, str(item.answer)) is False


def test_what_an_item_brings_stands():
    own = ExpertSolution(problem="Another one", solution="So.")
    given = [item.model_copy(update={"dealt": own, "wrong_answer": "99"}) for item in items(1)]
    assert dealt(given, Synthesis(contexts=("wrong_hint", "other_solution"))) == given


@pytest.mark.parametrize(
    ("given", "synthesis", "code"),
    [
        (items(1), OTHER, "no_other_problem"),
        (items(1), Synthesis(waypoints_from="other"), "no_other_problem"),
        (items(1), Synthesis(contexts=("other_solution",)), "no_other_problem"),
        ([ExpertSolution(id=f"i{n}", problem="P", solution=f"{n}") for n in range(3)], OTHER, "no_other_problem"),
        (items(1), HINT, "no_wrong_answer"),
        ([one.model_copy(update={"answer": "4"}) for one in items(3)], HINT, "no_wrong_answer"),
        (items(2, kind="proof"), HINT, "no_answer"),
        (items(2, kind="proof"), Synthesis(contexts=("answer_only",)), "no_answer"),
        ([ExpertSolution(id="i", problem="P", solution="s")], Synthesis(contexts=("answer_only",)), "no_answer"),
        ([one.model_copy(update={"wrong_answer": f"{one.answer}.0"}) for one in items(2)], HINT, "not_wrong"),
        ([one.model_copy(update={"dealt": one}) for one in items(2)], OTHER, "same_problem"),
    ],
)
def test_a_batch_that_lacks_what_is_to_be_dealt_is_refused_item_by_item(
    given: list[ExpertSolution], synthesis: Synthesis, code: str
):
    with pytest.raises(InputError) as error:
        dealt(given, synthesis)
    assert [(where, found) for where, found, _ in error.value.problems] == [
        (f"/items/{n}", code) for n in range(len(given))
    ]


def test_the_answer_of_a_proof_is_shown_where_that_is_set():
    given = items(2, kind="proof")
    asked = Synthesis(contexts=("answer_only", "wrong_hint"), proof_answers=True)
    assert [item.wrong_answer for item in dealt(given, asked)] == ["2", "0"]
