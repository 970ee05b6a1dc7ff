"""The problems file: what is taken, and how what is not is named."""

from __future__ import annotations

import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from dail.synth.core.errors import InputError, UsageError
from dail.train.evals.problems import check_for_math, check_problems, load_problems
from tests.conftest import EXPERT_SOLUTIONS


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
        ({"id": "b", "problem": "?"}, "line 2: /answer: it is missing"),
        ({"id": "b", "problem": "?", "answer": " "}, "line 2: /answer"),
        ({"id": "b", "problem": "?", "answer": "1", "metdata": {}}, "line 2: /metdata"),
        ({"id": "a", "problem": "?", "answer": "1"}, "line 2: id 'a' is also on line 1"),
        ("{", "line 2: "),
        ("[1]", "line 2: "),
    ],
)
def test_a_problem_that_cannot_be_used_is_named_by_its_line(tmp_path: Path, line: Any, named: str) -> None:
    path = write(tmp_path / "p.jsonl", {"id": "a", "problem": "?", "answer": "1"}, line)
    with pytest.raises(InputError) as refused:
        load_problems(path)
    assert named in str(refused.value)


def test_a_missing_file_and_an_empty_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        load_problems(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no problem"):
        load_problems(write(tmp_path / "p.jsonl"))


def test_objects_are_taken_as_lines_are(tmp_path: Path) -> None:
    lines = [{"problem": "1 + 1?", "answer": 2}, {"id": "b", "problem": "?", "answer": "1", "solution": "It is 1."}]
    from_file = load_problems(write(tmp_path / "p.jsonl", *lines))
    assert check_problems(MappingProxyType(line) for line in lines) == check_problems(from_file) == from_file


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"problem": "?"}, "problem 2: /answer: it is missing"),
        ({"id": "a", "problem": "?", "answer": "1"}, "problem 2: id 'a' is also on problem 1"),
        ("?", "problem 2: /: wanted an object"),
        ({"problem": "?", "answer": "1", "metadata": {"group": "\ud800"}}, "problem 2: /metadata: it holds half of"),
    ],
)
def test_an_object_that_cannot_be_used_is_named_by_its_number(value: Any, named: str) -> None:
    with pytest.raises(InputError, match=named):
        check_problems([{"id": "a", "problem": "?", "answer": "1"}, value])
    with pytest.raises(InputError, match="the list holds no problem"):
        check_problems([])


def test_an_answer_is_any_text_but_to_math_a_short_one(tmp_path: Path) -> None:
    tests = "assert double(4) == 8\n" * 2000
    problems = load_problems(write(tmp_path / "p.jsonl", {"id": "code", "problem": "Double.", "answer": tests}))
    assert problems[0].answer == tests
    with pytest.raises(InputError, match=r"problem code: its answer has 44000 characters.*eval\.grader"):
        check_for_math(problems)
