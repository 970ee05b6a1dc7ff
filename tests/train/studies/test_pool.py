"""Which rows are one problem, what it has of them, and what is told of where it came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import InputError
from dail.synth.data.faults import RowsRefused
from dail.synth.data.plan import ColumnsRefused
from dail.train.studies.pool import Joined, PoolProblem, join, read_pool
from tests.train.studies.conftest import say, write

LONG = (
    "Find the number of positive integers less than one thousand whose digits sum to a prime that divides {n} evenly."
)


def joined(folder: Path, *files: list[dict[str, Any]], near: bool = False) -> Joined:
    paths = [write(folder / f"{name}.jsonl", rows) for name, rows in zip("abcd", files, strict=False)]
    return join(read_pool(paths).rows, near)


def only(found: Joined) -> PoolProblem:
    (problem,) = found.problems
    return problem


def test_solutions_of_one_problem_are_joined_and_equal_ones_are_there_once(tmp_path: Path):
    rows = [say(1, id=None, solution=text) for text in ("First.", "Second.", " First.\n")]
    problem = only(joined(tmp_path, rows))
    assert problem.solutions == ("First.", "Second.")
    assert [origin.solutions for origin in problem.origins] == [(0,), (1,), (0,)]
    assert [origin.row for origin in problem.origins] == ["line 1", "line 2", "line 3"]


def test_a_row_may_have_several_solutions_and_another_the_answer(tmp_path: Path):
    problem = only(
        joined(
            tmp_path,
            [{"id": "p1", "problem": "Say 1.", "answer": 1, "license": "MIT"}],
            [{"id": "q1", "problem": "say $1$", "solution": ["A.", "B."], "source": "wiki"}],
        )
    )
    assert (problem.id, problem.answer, problem.solutions) == ("p1", "1", ("A.", "B."))
    assert [(one.file, one.id, one.license, one.set) for one in problem.origins] == [
        ("a.jsonl", "p1", "MIT", None),
        ("b.jsonl", "q1", None, "wiki"),
    ]


def test_rows_of_one_id_are_joined_if_they_are_worded_alike(tmp_path: Path):
    first, other = "Compute the sum of $x$ and 12.", "Compute the sum of x and 12"
    found = joined(tmp_path, [say(1, problem=first, id="k")], [say(1, problem=other + " please.", id="k")])
    assert len(found.problems) == 1 and found.apart == []


def test_ids_that_two_files_count_on_their_own_are_kept_apart(tmp_path: Path):
    found = joined(tmp_path, [say(1, id="1"), say(2, id="2")], [say(3, id="1"), say(4, id="3")])
    assert [problem.id for problem in found.problems] == ["1", "2", "b:1", "3"]
    assert found.apart == ["1"]


def test_one_file_that_gives_one_id_to_two_problems_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"a\.jsonl line 1 and .*a\.jsonl line 2 have the id 'k' and are different"):
        joined(tmp_path, [say(1, id="k"), say(2, id="k")])


def test_a_number_makes_another_problem_of_one_id(tmp_path: Path):
    assert len(joined(tmp_path, [say(1, id="k")], [say(2, id="k")]).problems) == 2


def test_most_of_the_wording_joins_only_where_it_is_asked_for_and_answers_agree(tmp_path: Path):
    text = LONG.format(n=12)
    files = [say(1, problem=text, id="x")], [say(1, problem=text + " Express it as a box.", id="y")]
    assert len(joined(tmp_path, *files).problems) == 2
    found = joined(tmp_path, *files, near=True)
    assert only(found).id == "x" and [pair[:2] for pair in found.near] == [("x", "y")]
    other = [say(2, problem=text + " Express it as a box.", id="y")]
    assert len(joined(tmp_path, files[0], other, near=True).problems) == 2


def test_the_longer_wording_may_come_first(tmp_path: Path):
    text = LONG.format(n=12)
    files = [say(1, problem=text + " " + LONG.format(n=7), id="x")], [say(1, problem=text, id="y")]
    assert only(joined(tmp_path, *files, near=True)).id == "x"


def test_near_problems_of_one_file_stay_apart(tmp_path: Path):
    text = LONG.format(n=12)
    rows = [say(1, problem=text, id="x"), say(1, problem=text + " Now.", id="y")]
    assert len(joined(tmp_path, rows, near=True).problems) == 2


def test_an_id_of_our_own_depends_on_the_wording_alone(tmp_path: Path):
    rows = [say(number, id=None) for number in range(3)]
    first = [problem.id for problem in joined(tmp_path, rows).problems]
    assert [problem.id for problem in joined(tmp_path, rows[::-1]).problems] == first[::-1]
    assert len(set(first)) == 3


def test_the_earlier_year_of_a_column_counts(tmp_path: Path):
    files = [say(1, id="2020-I-1", metadata={"year": 2001})], [say(1, id="1990-I-1", metadata={"year": 1999})]
    problem = only(joined(tmp_path, *files))
    assert (problem.year, problem.year_found) == (1999, "column")


def test_metadata_of_all_rows_is_kept_and_the_first_row_s_word_stands(tmp_path: Path):
    files = [say(1, metadata={"a": 1, "b": 1})], [say(1, metadata={"b": 2, "c": 2})]
    assert only(joined(tmp_path, *files)).metadata == {"a": 1, "b": 1, "c": 2}


def test_rows_are_counted_and_places_are_true_with_a_row_left_out(tmp_path: Path):
    from dail.synth.data.reader import Reading

    path = write(tmp_path / "a.jsonl", [say(1), {"id": "bad", "problem": ""}, say(2)])
    with pytest.raises(RowsRefused, match="line 2"):
        read_pool(path)
    pool = read_pool(path, Reading(skip_invalid=True, invalid_to=tmp_path / "invalid.jsonl"))
    assert [placed.place.number for placed in pool.rows] == [1, 3]
    assert (pool.account.rows, pool.account.invalid) == (3, 1)


def test_a_pool_without_problems_or_with_unknown_columns_is_refused(tmp_path: Path):
    with pytest.raises(ColumnsRefused, match="no column is the problem"):
        read_pool(write(tmp_path / "a.jsonl", [{"text": "Say 1."}]))
    with pytest.raises(ColumnsRefused, match="nobody knows hardness"):
        read_pool(write(tmp_path / "a.jsonl", [{"problem": "Say 1.", "hardness": 3}]))
    with pytest.raises(InputError, match="holds nothing"):
        read_pool(write(tmp_path / "a.jsonl", []))
