"""The problems file: what is taken, and how what is not is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dail.synth.core.errors import InputError, UsageError
from dail.synth.data.reader import Reading
from dail.train.evals.problems import EvalProblem, check_for_math, read_problems
from tests.conftest import EXPERT_SOLUTIONS, Told


def load_problems(source: Any) -> list[EvalProblem]:
    return read_problems(source).items


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_number_as_answer_is_text(tmp_path: Path) -> None:
    (problem,) = load_problems(write(tmp_path / "p.jsonl", {"id": "a", "problem": "1 + 1?", "answer": 2}))
    assert (problem.id, problem.answer, problem.group) == ("a", "2", None)


def test_a_group_is_read_from_the_metadata(tmp_path: Path) -> None:
    line = {"problem": "1 + 1?", "answer": "2", "metadata": {"group": "sums"}}
    (problem,) = load_problems(write(tmp_path / "p.jsonl", line))
    assert (problem.id, problem.group) == ("problem-00001", "sums")


def test_expert_solutions_with_answers_are_problems_too() -> None:
    assert load_problems(EXPERT_SOLUTIONS)[0].answer


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"id": "b", "problem": "?"}, "answer: it is missing"),
        ({"id": "b", "problem": "?", "answer": " "}, "answer: it is missing"),
        ({"id": "b", "problem": "?", "answer": "1", "metdata": {}}, "metdata: nobody knows this column"),
        ({"id": "a", "problem": "2?", "answer": "1"}, "id: id 'a' is also that of "),
        ("{", "it is no JSON"),
        ("[1]", "it is no object"),
    ],
)
def test_a_problem_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, line: Any, named: str) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "a", "problem": "?", "answer": "1"}, line)
    with pytest.raises(InputError) as refused:
        load_problems(path)
    assert named in str(refused.value) and str(refused.value).endswith(f"{path} line 2")


def test_a_missing_file_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="holds nothing; wanted a row for each item, with problem and answer"):
        load_problems(write(tmp_path / "p.jsonl"))


def test_objects_are_taken_as_lines_are(tmp_path: Path) -> None:
    lines = [{"problem": "1 + 1?", "answer": 2}, {"id": "b", "problem": "?", "answer": "1", "solution": "It is 1."}]
    from_file = load_problems(write(tmp_path / "p.jsonl", *lines))
    assert load_problems(MappingProxyType(line) for line in lines) == load_problems(from_file) == from_file


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"problem": "?"}, "answer: it is missing: item 1"),
        ({"id": "a", "problem": "2?", "answer": "1"}, "id: id 'a' is also that of item 0; ids must differ: item 1"),
        ("?", "it is no object; wanted one with names and values: item 1"),
        ({"problem": "?", "answer": "1", "metadata": {"group": "\ud800"}}, "metadata: it holds half of .*: item 1"),
    ],
)
def test_an_object_that_cannot_be_used_is_named_by_its_number(value: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        load_problems([{"id": "a", "problem": "?", "answer": "1"}, value])
    with pytest.raises(InputError, match="the list holds nothing"):
        load_problems([])


def test_a_box_is_the_answer_where_there_is_none_and_that_is_said(tmp_path: Path, told: Told) -> None:
    lines = [
        {"problem_id": 7, "problem": "1?", "solution": "So \\boxed{4}, and \\boxed{\\frac{1}{2}}."},
        {"problem_id": 8, "problem": "2?", "solution": "It is \\boxed{3}.", "answer": "2"},
    ]
    problems = load_problems(write(tmp_path / "p.jsonl", *lines))
    assert [(one.id, one.answer) for one in problems] == [("7", "\\frac{1}{2}"), ("8", "2")]
    assert "1 of 2 problems have no answer but a solution, whose last box is taken" in told()
    lines[1] = {"problem_id": 8, "problem": "2?", "solution": "By induction."}
    with pytest.raises(InputError, match=r"answer: it is missing: .* line 2"):
        load_problems(write(tmp_path / "p.jsonl", *lines))


def test_a_conversation_is_a_problem_if_the_user_says_all_of_it(tmp_path: Path) -> None:
    user = {"role": "user", "content": "1?"}
    (problem,) = load_problems(write(tmp_path / "p.jsonl", {"problem": [user], "answer": 1}))
    assert problem.problem == "1?"
    with pytest.raises(InputError, match=r"problem: it is a list of 2 messages; wanted a text, or one message"):
        load_problems(write(tmp_path / "p.jsonl", {"problem": [{**user, "role": "system"}, user], "answer": 1}))


def test_problems_are_mapped_and_grouped_by_a_column(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"q": "1?", "final": 24.0, "area": "sums"})
    (problem,) = read_problems(path, Reading(maps=("problem=q,answer=final", "metadata.group=area"))).items
    assert (problem.problem, problem.answer, problem.group) == ("1?", "24", "sums")


def test_an_answer_is_any_text_but_to_math_a_short_one(tmp_path: Path) -> None:
    tests = "assert double(4) == 8\n" * 2000
    problems = load_problems(write(tmp_path / "p.jsonl", {"id": "code", "problem": "Double.", "answer": tests}))
    assert problems[0].answer == tests
    with pytest.raises(InputError, match=r"problem code: its answer has 44000 characters.*eval\.grader"):
        check_for_math(problems)
