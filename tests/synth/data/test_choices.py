"""Multiple choice in the shapes of files: which letter is right, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dail.synth.core.errors import InputError
from dail.synth.data.choices import shuffled
from dail.synth.data.reader import Reading
from dail.train.evals.problems import EvalProblem, read_problems

THREE = ["red", "green", "blue"]


def jsonl(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "a.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def table(folder: Path, *rows: dict[str, Any]) -> Path:
    path = folder / "a.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            cells = {key: json.dumps(part) if isinstance(part, list | dict) else part for key, part in row.items()}
            writer.writerow(cells)
    return path


def read(path: Path) -> EvalProblem:
    (problem,) = read_problems(path).items
    return problem


@pytest.mark.parametrize("write", [jsonl, parquet, table])
@pytest.mark.parametrize(
    "row",
    [
        {"question": "Sky?", "choices": THREE, "answer": 2},
        {"question": "Sky?", "choices": THREE, "answer": "C"},
        {"question": "Sky?", "choices": THREE, "answer": "(c)"},
        {"question": "Sky?", "choices": THREE, "answer": "blue"},
        {"question": "Sky?", "options": THREE, "answer": "C", "answer_index": 2},
        {"question": "Sky?", "choices": {"text": THREE, "label": ["A", "B", "C"]}, "answerKey": "C"},
        {"question": "Sky?", "choices": {"text": THREE, "label": ["1", "2", "3"]}, "answerKey": "3"},
        {"question": "Sky?", "choices": [{"text": text} for text in THREE], "answerKey": "C"},
        {"problem": "Sky?", "choices": {"A": "red", "B": "green", "C": "blue"}, "answer": "C"},
    ],
)  # fmt: skip
def test_the_right_choice_becomes_a_letter_in_every_shape(tmp_path: Path, write: Any, row: dict[str, Any]) -> None:
    problem = read(write(tmp_path, row))
    assert problem.problem == "Sky?\n\n(A) red\n(B) green\n(C) blue"
    assert (problem.answer, problem.metadata["choices"]) == ("C", THREE)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"answer": 3}, "the answer 3 is no letter, no place counted from 0 and no text of the 3 choices (A) red"),
        ({"answer": -1}, "the answer -1 is no letter"),
        ({"answer": "D"}, "the answer 'D' is no letter"),
        ({"answer": "violet"}, "the answer 'violet' is no letter"),
        ({"answer": True}, "the answer True is no letter"),
        ({"answer": 1.5}, "the answer 1.5 is no letter"),
        ({"answer": None}, "answer is missing: which of the 3 choices is right is not said"),
        ({"choices": ["red", None, "blue"]}, "choices has nothing in place 1, counted from 0"),
        ({"choices": ["red", " ", "blue"]}, "choice B is missing"),
        ({"choices": ["red"]}, "it has 1 choice; wanted 2 to 10"),
        ({"choices": list("abcdefghijk")}, "it has 11 choices; wanted 2 to 10"),
        ({"choices": None}, "choices is missing; wanted a list of texts"),
        ({"choices": "red; green"}, "choices is the text 'red; green'; wanted a list, in CSV as JSON"),
        ({"choices": ["red", ["green"]]}, "a choice is ['green']; wanted a text"),
        ({"choices": {"text": THREE, "label": ["A", "B"]}}, "choices has 3 texts and 2 labels"),
        ({"question": " "}, "question is missing"),
        ({"choices": ["O", "A", "B", "AB"], "answer": "B"}, "may be the letter of (B) or the text of (C): (A) O, (B)"),
        ({"choices": [1, 2, 3], "answer": 2}, "the answer 2 may be the place of (C) or the text of (B)"),
        ({"choices": ["2", "1", "0"], "answer": "0"}, "the answer '0' may be the place of (A) or the text of (C)"),
        ({"choices": ["red", "red"], "answer": "red"}, "may be the text of (A) or the text 1 of (B)"),
    ],
)
def test_a_row_that_does_not_say_which_choice_is_right_is_refused(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    good = {"question": "Sky?", "choices": THREE, "answer": 2}
    with pytest.raises(InputError) as refused:
        read_problems(jsonl(tmp_path, good, {**good, **change}))
    assert why in str(refused.value) and "1 fault in 1 of 2 rows" in str(refused.value)
    skipping = Reading(skip_invalid=True, invalid_to=tmp_path / "invalid.jsonl")
    assert len(read_problems(jsonl(tmp_path, good, {**good, **change}), skipping).items) == 1


def test_two_columns_that_say_different_answers_are_refused(tmp_path: Path) -> None:
    row = {"question": "Sky?", "options": THREE, "answer": "C", "answer_index": 1}
    with pytest.raises(InputError, match=r"answer says 'C', which is \(C\) and answer_index says 1, which is \(B\)"):
        read_problems(jsonl(tmp_path, row))


def test_choices_in_columns_end_with_the_last_that_is_there(tmp_path: Path) -> None:
    row = {"question": "Sky?", "A": "red", "B": "blue", "C": "", "D": "", "answer": "B"}
    assert read(table(tmp_path, row)).problem == "Sky?\n\n(A) red\n(B) blue"
    with pytest.raises(InputError, match="choice B is missing, and C is there"):
        read(table(tmp_path, {**row, "B": "", "C": "blue"}))


def test_a_list_as_python_writes_it_is_a_list_and_one_as_numpy_does_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,choices,answer\nSky?,\"['red', 'blue']\",1\n")
    assert read(path).answer == "B"
    path.write_text("question,choices,answer\nSky?,\"['red' 'blue']\",1\n")
    with pytest.raises(InputError, match="it has 1 choice"):
        read(path)


def test_an_order_is_a_permutation_that_text_and_seed_decide() -> None:
    texts = list("wxyz")
    assert all(sorted(shuffled(texts, "Q", seed)) == [0, 1, 2, 3] for seed in range(9))
    assert shuffled(texts, "Q", 5) == shuffled(texts, "Q", 5)
    assert len({tuple(shuffled(texts, "Q", seed)) for seed in range(40)}) > 15
