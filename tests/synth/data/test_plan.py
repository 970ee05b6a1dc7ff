"""Columns: `--map`, our own names, presets of published sets, and what is said of columns nobody knows."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import InputError, UsageError
from dail.synth.data.columns import natural
from dail.synth.data.plan import ColumnsRefused
from dail.synth.data.presets import PRESETS
from dail.synth.data.reader import Read, Reading, read_solutions
from dail.train.evals.problems import EvalProblem, read_problems
from tests.conftest import Told

LAMP, DUE = "A lamp blinks every $6$ s, a bell every $8$ s. When both?", "lcm is \\boxed{24}."
USER = {"role": "user", "content": LAMP}


def write(folder: Path, *rows: Any, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def mapped(folder: Path, row: dict[str, Any], *maps: str, keep_rest: bool = False) -> Any:
    (item,) = read_solutions(write(folder, row), Reading(maps=maps, keep_rest=keep_rest)).items
    return item


# shape: (a row in the structure of the published set, what it gives). No solution: problems of an evaluation alone.
SHAPES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "e1": ("e1", {"problem_id": "2003-I-4", "problem": LAMP, "solution": DUE}, {"id": "2003-I-4", "answer": None}),
    "e1 with numbers": ("e1", {"problem_id": 12, "problem": LAMP, "solution": DUE}, {"id": "12"}),
    "aimo, aime_2024": (
        "aime",
        {"id": 60, "problem": LAMP, "solution": DUE, "answer": "024", "url": "https://a", "year": "2024"},
        {"id": "60", "answer": "024", "metadata": {"url": "https://a", "year": "2024"}},
    ),
    "aime, 1983 to 2024": (
        "aime-1983-2024",
        {"ID": "1990-II-3", "Year": 1990, "Problem Number": 3, "Question": LAMP, "Answer": 24, "Part": "II"},
        {"id": "1990-II-3", "answer": "24", "metadata": {"Year": 1990, "Problem Number": 3, "Part": "II"}},
    ),
    "aime, with titles": (
        "aime-2024",
        {"ID": "2024-I-1", "Problem": LAMP, "Solution": DUE, "Answer": 24},
        {"id": "2024-I-1", "answer": "24", "metadata": {}},
    ),
    "matharena": (
        "matharena",
        {"problem_idx": 1, "problem": LAMP, "answer": 24, "problem_type": ["Number Theory"]},
        {"id": "1", "answer": "24", "metadata": {"problem_type": ["Number Theory"]}},
    ),
    "beyond aime": ("own columns", {"problem": LAMP, "answer": 24}, {"answer": "24"}),
    "deepscaler": ("own columns", {"problem": LAMP, "answer": "", "solution": DUE}, {"answer": None}),
    "numina, cot": (
        "numina",
        {"source": "amc", "problem": LAMP, "solution": DUE, "messages": [USER, {"role": "assistant", "content": DUE}]},
        {"source": "amc", "answer": None, "metadata": {}},
    ),
    "numina, tir": ("numina", {"problem": LAMP, "solution": DUE, "messages": [USER]}, {"metadata": {}}),
    "numina, 1.5": (
        "numina-1.5",
        {
            "uuid": "aaaa-1", "problem": LAMP, "solution": DUE, "answer": "24", "problem_type": "Number Theory",
            "question_type": "math-word-problem", "source": "amc", "problem_is_valid": "Yes",
            "solution_is_valid": "Yes", "synthetic": False,
        },
        {
            "id": "aaaa-1", "answer": "24", "source": "amc",
            "metadata": {
                "problem_type": "Number Theory", "question_type": "math-word-problem", "problem_is_valid": "Yes",
                "solution_is_valid": "Yes", "synthetic": False,
            },
        },
    ),
    "numina, 1.5 without uuid": (
        "numina-1.5",
        {"problem": LAMP, "solution": DUE, "answer": "24", "problem_type": "A", "question_type": "B"},
        {"answer": "24", "metadata": {"problem_type": "A", "question_type": "B"}},
    ),
    "open-r1": (
        "open-r1",
        {
            "problem": LAMP, "solution": DUE, "answer": "24", "problem_type": "A", "question_type": "B",
            "source": "amc", "uuid": "u", "is_reasoning_complete": [True], "generations": ["<think>"],
            "correctness_math_verify": [True], "correctness_llama": None, "finish_reasons": None,
            "correctness_count": 1, "messages": [USER],
        },
        {"id": "u", "metadata": {"problem_type": "A", "question_type": "B"}},
    ),
    "deepmath": (
        "deepmath",
        {
            "question": LAMP, "final_answer": "24", "difficulty": 4.5, "topic": "A -> B", "r1_solution_1": DUE,
            "r1_solution_2": "b", "r1_solution_3": "c",
        },
        {"solution": DUE, "answer": "24", "metadata": {"difficulty": 4.5, "topic": "A -> B"}},
    ),
    "olympiadbench": (
        "olympiadbench",
        {
            "id": 1606, "question": LAMP, "solution": [DUE], "final_answer": ["$24$"], "context": None,
            "image_1": None, "modality": "Text-only", "is_multiple_answer": False, "unit": None,
        },
        {
            "id": "1606", "problem": LAMP, "solution": (DUE,), "answer": "$24$",
            "metadata": {"modality": "Text-only", "is_multiple_answer": False},
        },
    ),
    "olympiadbench, with context and two answers": (
        "olympiadbench",
        {"id": 2, "question": "When?", "solution": ["a", "b"], "final_answer": ["24", "48"], "context": LAMP},
        {"problem": f"{LAMP}\n\nWhen?", "solution": ("a", "b"), "answer": "24, 48"},
    ),
    "olympiadbench, a proof": (
        "olympiadbench",
        {"id": 3, "question": LAMP, "solution": [DUE], "final_answer": None},
        {"answer": None},
    ),
    "harp": (
        "harp",
        {
            "problem": LAMP, "answer": "24", "solution_1": "a", "solution_2": "b", "solution_10": "c",
            "year": "1950", "contest": "AHSME", "number": 1, "level": 2, "subject": "algebra",
            "choices": {"A": "12", "B": "24"}, "answer_choice": "B", "multiple_choice_only": False,
        },
        {"id": "1950-AHSME-1", "problem": LAMP, "solution": ("a", "b", "c"), "answer": "24"},
    ),
    "harp, choices only": (
        "harp",
        {
            "problem": "Which is it?", "answer": "24", "solution_1": "a", "year": "1950", "contest": "AHSME",
            "number": 2, "choices": {"A": "12", "B": "24"}, "answer_choice": "B", "multiple_choice_only": True,
        },
        {"problem": "Which is it?\n\n(A) 12\n(B) 24", "answer": "B"},
    ),
    "math": (
        "math",
        {"problem": LAMP, "level": "Level 5", "type": "Number Theory", "solution": DUE},
        {"answer": None, "metadata": {"level": "Level 5", "type": "Number Theory"}},
    ),
    "math-500": (
        "math-500",
        {
            "problem": LAMP, "solution": DUE, "answer": "24", "subject": "Number Theory", "level": 5,
            "unique_id": "test/number_theory/24.json",
        },
        {"id": "test-number_theory-24.json", "answer": "24"},
    ),
    "omni-math": (
        "omni-math",
        {"domain": ["A"], "difficulty": 8.0, "problem": LAMP, "solution": DUE, "answer": "24", "source": "imo"},
        {"answer": "24", "source": "imo", "metadata": {"domain": ["A"], "difficulty": 8.0}},
    ),
    "limo": ("limo", {"question": LAMP, "solution": DUE, "answer": "24"}, {"problem": LAMP, "answer": "24"}),
    "verl": (
        "verl",
        {
            "data_source": "imo", "prompt": [USER], "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "24"}, "extra_info": {"index": 3, "split": "test"},
        },
        {
            "id": "3", "answer": "24",
            "metadata": {"ability": "math", "extra_info": {"index": 3, "split": "test"}},
        },
    ),
    "verl, with a solution": (
        "verl",
        {
            "data_source": "imo", "prompt": [USER], "ability": "math", "reward_model": {"ground_truth": 24},
            "extra_info": {"index": 3, "solution": DUE},
        },
        {"id": "3", "answer": "24", "solution": DUE, "source": "imo"},
    ),
    "imo-answerbench": (
        "imo-answerbench",
        {
            "Problem ID": "imo-bench-algebra-001", "Problem": LAMP, "Short Answer": "$24$", "Category": "Algebra",
            "Subcategory": "Operation", "Source": "IMO 2021",
        },
        {
            "id": "imo-bench-algebra-001", "answer": "$24$",
            "metadata": {"Category": "Algebra", "Subcategory": "Operation"},
        },
    ),
    "imo-answerbench, with levels": (
        "imo-answerbench",
        {
            "Problem ID": "imo-bench-algebra-001", "Problem": LAMP, "Short Answer": "24", "Category": "Algebra",
            "Level": "IMO-Medium", "Subcategory": "Operation", "Source": "IMO 2021",
        },
        {
            "answer": "24",
            "metadata": {"Category": "Algebra", "Level": "IMO-Medium", "Subcategory": "Operation"},
        },
    ),
    "imo-proofbench": (
        "imo-proofbench",
        {
            "Problem ID": "PB-1", "Problem": LAMP, "Solution": DUE, "Grading guidelines": "1 point", "Category": "A",
            "Level": "IMO-easy", "Short Answer": None, "Source": "IMO 2021",
        },
        {"id": "PB-1", "answer": None, "source": "IMO 2021"},
    ),
    "gpqa": (
        "gpqa",
        {
            "Record ID": "rec1", "Question": "Which?", "Correct Answer": "right", "Incorrect Answer 1": "w1",
            "Incorrect Answer 2": "w2\n", "Incorrect Answer 3": "w3", "Explanation": DUE, "Subdomain": "Optics",
            "High-level domain": "Physics", "Writer's Difficulty Estimate": "hard", "Canary String": "x",
        },
        {
            "id": "rec1", "problem": "Which?\n\n(A) w1\n(B) w2\n(C) right\n(D) w3", "answer": "C",
            "solution": DUE,
            "metadata": {
                "Subdomain": "Optics", "High-level domain": "Physics", "choices": ["w1", "w2", "right", "w3"],
            },
        },
    ),
    "mmlu-pro": (
        "mmlu-pro",
        {
            "question_id": 70, "question": "Which?", "options": ["w", "x", "right"], "answer": "C", "answer_index": 2,
            "cot_content": "A: Let's think.", "category": "law", "src": "stemez",
        },
        {
            "id": "70", "problem": "Which?\n\n(A) w\n(B) x\n(C) right", "answer": "C",
            "metadata": {"category": "law", "src": "stemez", "choices": ["w", "x", "right"]},
        },
    ),
    "supergpqa": (
        "supergpqa",
        {
            "uuid": "u", "question": "Which?", "options": ["w", "right"], "answer": "right", "answer_letter": "B",
            "discipline": "A", "field": "B", "subfield": "C", "difficulty": "hard", "is_calculation": False,
        },
        {"id": "u", "answer": "B"},
    ),
    "mmlu": (
        "choices",
        {"question": "Which?", "subject": "law", "choices": ["0", "4", "2"], "answer": 1},
        {"problem": "Which?\n\n(A) 0\n(B) 4\n(C) 2", "answer": "B",
         "metadata": {"subject": "law", "choices": ["0", "4", "2"]}},
    ),
    "own, with problem": (
        "problem and choices", {"problem": "Which?", "choices": ["w", "right"], "answer": "right"}, {"answer": "B"},
    ),
    "own, with options": ("options", {"question": "Which?", "options": ["w", "right"], "answer": "b"}, {"answer": "B"}),
    "arc": (
        "arc",
        {"id": "M_7", "question": "Which?", "choices": {"text": ["w", "right"], "label": ["A", "B"]}, "answerKey": "B"},
        {"id": "M_7", "problem": "Which?\n\n(A) w\n(B) right", "answer": "B"},
    ),
    "openbookqa": (
        "openbookqa",
        {
            "id": "7-980", "question_stem": "Which", "choices": {"text": ["w", "right"], "label": ["1", "2"]},
            "answerKey": "2", "fact1": "f", "humanScore": 1.0, "clarity": 2.0, "turkIdAnonymized": "t",
        },
        {"id": "7-980", "answer": "B"},
    ),
    "mmlu, in columns": (
        "lettered",
        {"question": "Which?", "A": "w", "B": 7, "C": "x", "D": "right", "answer": "D", "subject": "law"},
        {"problem": "Which?\n\n(A) w\n(B) 7\n(C) x\n(D) right", "answer": "D"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_published_shape_is_recognised_and_gives_what_it_means(tmp_path: Path, shape: str):
    preset, row, wanted = SHAPES[shape]
    path = write(tmp_path, row)
    read: Read[Any] = (
        read_problems(path) if "solution" not in wanted and not _has_solution(row) else read_solutions(path)
    )
    (item,) = read.items
    assert read.account.sources[0].preset == preset
    assert {name: getattr(item, name) for name in wanted} == wanted


def _has_solution(row: dict[str, Any]) -> bool:
    return any(name.lower() in ("solution", "solution_1", "r1_solution_1", "explanation") for name in row)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_a_preset_does_not_know_is_refused_and_may_be_kept(tmp_path: Path, shape: str):
    preset, row, _ = SHAPES[shape]
    if preset == "gpqa":
        return  # which leaves out all it does not know
    path = write(
        tmp_path, {**row, "solution": DUE, "mood": "good"} if preset == "own columns" else {**row, "mood": "good"}
    )
    with pytest.raises(ColumnsRefused, match=r"nobody knows mood; its columns are .*--keep-rest puts"):
        read_solutions(path)
    (kept,) = (
        (read_solutions if _has_solution(row) or preset == "own columns" else read_problems)(
            path, Reading(keep_rest=True)
        ).items
        if shape != "verl, with a solution"
        else read_solutions(path, Reading(keep_rest=True)).items
    )
    assert kept.metadata["mood"] == "good"


def test_every_preset_has_a_shape_here_and_its_columns_are_its_own():
    assert {preset.name for preset in PRESETS} == {name for name, _, _ in SHAPES.values()} - {"own columns"}
    for preset in PRESETS:
        assert all(map(preset.knows, preset.needs)), preset.name


def test_the_choices_of_gpqa_depend_on_the_question_and_the_seed_alone(tmp_path: Path):
    def letters(question: str, *answers: str, seed: int = 0) -> tuple[str, str]:
        names = ["Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))]
        path = tmp_path / "gpqa.csv"
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([["Question", "Explanation", *names], [question, "e", *answers]])
        read = read_solutions(path, Reading(choices_seed=seed))
        (item,) = read.items
        assert f"drawn from its text and seed {seed};" in read.account.sources[0].notes[0]
        assert f"({item.answer}) {answers[0]}\n" in f"{item.problem}\n"
        return str(item.problem), str(item.answer)

    assert letters("Q", "r", "a", "b", "c") == letters("Q", "r", "a", "b", "c")
    assert {letters(f"Q{n}", "r", "a", "b", "c")[1] for n in range(40)} == set("ABCD")
    assert {letters("Q", "r", "a", "b", "c", seed=n)[1] for n in range(40)} == set("ABCD")


UNUSABLE = {
    "olympiadbench with a picture": (
        {"id": 1, "question": "q", "solution": ["s"], "final_answer": None, "image_1": {"path": "a.png"}},
        "it comes with a picture",
    ),
    "gpqa with three answers": (
        {"Question": "q", "Correct Answer": "a", "Incorrect Answer 1": "b", "Incorrect Answer 2": "c",
         "Incorrect Answer 3": None, "Explanation": "e"},
        "one of its four answers is missing",
    ),
    "harp without its choices": (
        {"problem": "p", "solution_1": "s", "year": 1, "contest": "c", "number": 1, "multiple_choice_only": True},
        "choices or answer_choice are missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_row_that_its_preset_cannot_use_is_a_fault_of_that_row(tmp_path: Path, name: str):
    row, why = UNUSABLE[name]
    with pytest.raises(InputError, match=rf"1 fault in 1 of 1 row; .*\n  {why}|{why}"):
        read_solutions(write(tmp_path, row))


def test_own_columns_win_over_presets_and_other_own_columns_come_with_a_preset(tmp_path: Path):
    row = {"problem_id": 1, "problem": LAMP, "solution": DUE, "answer": "24", "kind": "proof", "license": "CC0"}
    item = mapped(tmp_path, row)
    assert (item.id, item.answer, item.kind, item.license) == ("1", "24", "proof", "CC0")


def test_a_solution_that_means_something_else_in_a_preset_is_no_solution(tmp_path: Path):
    """In one published set of verl's shape a column of that name holds the answer."""
    row = {"prompt": [USER], "reward_model": {"ground_truth": "24"}, "solution": "24", "extra_info": {"index": 1}}
    with pytest.raises(ColumnsRefused, match="nobody knows solution"):
        read_solutions(write(tmp_path, row))


MAPS: dict[str, tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]] = {
    "names": ({"q": LAMP, "s": DUE, "a": 24.0}, ("problem=q,solution=s,answer=a",), {"problem": LAMP, "answer": "24"}),
    "repeated, with blanks": ({"q": LAMP, "s": DUE}, ("problem = q ", " solution= s"), {"solution": DUE}),
    "names with blanks": ({"The Question": LAMP, "s": DUE}, ("problem=The Question,solution=s",), {"problem": LAMP}),
    "wildcard, in the order of numbers": (
        {"problem": LAMP, "solution_10": "c", "solution_2": "b", "solution_1": "a", "solution_3": None},
        ("solution=solution_*",), {"solution": ("a", "b", "c")},
    ),
    "one of a wildcard": ({"problem": LAMP, "human_solution": DUE}, ("solution=*_solution",), {"solution": (DUE,)}),
    "several columns": ({"problem": LAMP, "a": "1", "b": "2"}, ("solution=b,solution=a",), {"solution": ("2", "1")}),
    "a problem of two": ({"c": "Let $x=1$.", "q": "x?", "solution": DUE}, ("problem=c,problem=q",),
                         {"problem": "Let $x=1$.\n\nx?"}),
    "an id of two": ({"problem": LAMP, "solution": DUE, "y": 1990, "n": 3}, ("id=y,id=n",), {"id": "1990-3"}),
    "nested": (
        {"problem": LAMP, "solution": DUE, "reward_model": {"ground_truth": 24}},
        ("answer=reward_model.ground_truth",), {"answer": "24"},
    ),
    "a place in a list": ({"problem": LAMP, "s": [{"t": "a"}, {"t": "b"}]}, ("solution=s.-1.t",), {"solution": "b"}),
    "all of a list": ({"problem": LAMP, "s": [{"t": "a"}, {"t": "b"}]}, ("solution=s.*.t",), {"solution": ("a", "b")}),
    "a name with a dot": ({"problem": LAMP, "a.b": DUE, "a": {"b": 1}}, ("solution=a.b",), {"solution": DUE}),
    "into the metadata": ({"problem": LAMP, "solution": DUE, "area": "sums"}, ("metadata.group=area",),
                          {"metadata": {"group": "sums"}}),
    "an own name for another": ({"question": LAMP, "answer": DUE}, ("problem=question,solution=answer",),
                                {"solution": DUE, "answer": None}),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_map_says_which_columns_are_which_fields(tmp_path: Path, name: str):
    row, maps, wanted = MAPS[name]
    item = mapped(tmp_path, row, *maps, keep_rest=name == "a name with a dot")
    assert {field: getattr(item, field) for field in wanted} == wanted


WRONG_MAPS = {
    "problem": "'problem' is not FIELD=COLUMN; write for example --map problem=question",
    "problem=": "is not FIELD=COLUMN",
    "=q": "is not FIELD=COLUMN",
    "problem=q,": "'' is not FIELD=COLUMN",
    "problm=q": "no field 'problm'; problem was probably meant; fields are problem, solution",
    "metadata.=q": r"no field 'metadata\.'",
    "answer=q,answer=s": "gives answer twice, by 'q' and 's'",
    "problem=p": "--map problem=p: there is no column 'p'; its columns are q, s; name one of them",
    "solution=x_*": r"there is no column 'x_\*'",
    "problem=q": "no column gives the solution|nobody knows s",
}


@pytest.mark.parametrize("text", WRONG_MAPS)
def test_a_map_that_cannot_be_meant_is_refused(tmp_path: Path, text: str):
    with pytest.raises((UsageError, InputError), match=WRONG_MAPS[text]):
        mapped(tmp_path, {"q": LAMP, "s": DUE}, text)


def test_two_columns_for_one_answer_are_a_fault(tmp_path: Path):
    with pytest.raises(InputError, match="2 columns give something; answer takes one"):
        mapped(tmp_path, {"problem": LAMP, "solution": DUE, "a_1": 1, "a_2": 2}, "answer=a_*")


UNKNOWN = {
    "question and answer": (
        {"question": LAMP, "answer": "long #### 24"}, "no column is the problem; .*try --map 'problem=question'"
    ),
    "other words": (
        {"Prompt": LAMP, "Final Answer": "24", "solution_1": DUE, "x": 1},
        r"try --map 'problem=Prompt,solution=solution_\*,answer=Final Answer'",
    ),
    "nothing like it": ({"text": LAMP}, "try --map 'problem=COLUMN'"),
    "one too many": (
        {"problem": LAMP, "solution": DUE, "hint": 1}, "nobody knows hint; .*--keep-rest puts what nobody knows"
    ),
    "no solution": ({"problem": LAMP, "answer": 1}, "no column gives the solution; .*`dail eval --problems`"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNKNOWN)
def test_columns_that_nobody_knows_are_refused_with_what_to_try(tmp_path: Path, name: str):
    row, why = UNKNOWN[name]
    with pytest.raises(ColumnsRefused, match=why) as refused:
        read_solutions(write(tmp_path, row))
    assert refused.value.facts()["columns"] == list(row)


def test_a_column_that_few_rows_have_is_a_fault_of_those_rows(tmp_path: Path):
    rows = [{"problem": f"{n}?", "solution": DUE} for n in range(5)]
    rows[3]["hint"] = "x"
    path = write(tmp_path, *rows)
    with pytest.raises(InputError, match=r"hint: nobody knows this column; --keep-rest .*line 4$"):
        read_solutions(path)
    assert read_solutions(path, Reading(keep_rest=True)).items[3].metadata == {"hint": "x"}


def test_columns_without_anything_in_them_are_not_there(tmp_path: Path):
    rows = [
        {"problem": "1?", "solution": DUE, "hint": None},
        {"problem": "2?", "solution": DUE, "hint": None, "x": None},
    ]
    assert len(read_solutions(write(tmp_path, *rows)).items) == 2
    rows[1]["x"] = 1
    with pytest.raises(InputError, match=r"x: nobody knows this column; .*line 2$"):
        read_solutions(write(tmp_path, *rows))


def test_columns_of_two_published_sets_are_not_guessed(tmp_path: Path):
    row = {"problem_id": 1, "problem": LAMP, "solution": DUE, "messages": [USER]}
    with pytest.raises(ColumnsRefused, match=r"they can be read as e1 and as numina; .*say which are meant with --map"):
        read_solutions(write(tmp_path, row))
    item = mapped(tmp_path, row, "id=problem_id", keep_rest=True)
    assert item.id == "1" and "messages" in item.metadata


def test_a_few_rows_do_not_make_a_preset(tmp_path: Path):
    rows = [{"problem": f"{n}?", "solution": DUE} for n in range(5)]
    rows[3]["messages"] = [USER]
    with pytest.raises(InputError, match=r"messages: nobody knows this column"):
        read_solutions(write(tmp_path, *rows))


def test_names_of_objects_need_not_be_texts():
    with pytest.raises(InputError, match="nobody knows 1; its columns are problem, solution, 1"):
        read_solutions([{"problem": "1?", "solution": DUE, 1: 2}])


def test_the_rest_does_not_write_over_metadata(tmp_path: Path):
    row = {"problem": LAMP, "solution": DUE, "metadata": {"level": 1}, "level": 2}
    with pytest.raises(InputError, match="column 'level' is to be kept in the metadata, which has a 'level' already"):
        mapped(tmp_path, row, keep_rest=True)


def test_an_index_of_pandas_is_left_out_and_said(tmp_path: Path, told: Told):
    (tmp_path / "a.csv").write_text(",problem,solution\n0,a,b\n")
    assert read_solutions(tmp_path / "a.csv").items[0].metadata == {}
    assert "left out: '' (it has no name)" in told()


def test_what_was_mapped_is_said_with_counts(tmp_path: Path, told: Told):
    path = write(tmp_path, SHAPES["deepmath"][1], {**SHAPES["deepmath"][1], "question": "Other?", "final_answer": 3})
    read = read_solutions(path)
    said = told()
    assert said.startswith(f"deepmath: 2 items from {path}: question → problem, r1_solution_1 → solution, final_answer")
    assert "2 columns kept as metadata (difficulty, topic); left out: r1_solution_2, r1_solution_3 (" in said
    assert said.endswith("answer: numbers as text (1)")
    (source,) = read.account.sources
    assert source.mapped == {"problem": "question", "solution": "r1_solution_1", "answer": "final_answer"}
    assert (source.rows, source.items, source.metadata) == (2, 2, ("difficulty", "topic"))


def test_names_sort_as_people_number_them():
    assert sorted(["s_10", "s_2", "s", "s_1b", "s_1a"], key=natural) == ["s", "s_1a", "s_1b", "s_2", "s_10"]


def test_problems_keep_metadata_of_presets(tmp_path: Path):
    items: list[EvalProblem] = read_problems(write(tmp_path, SHAPES["imo-answerbench"][1])).items
    assert items[0].metadata["Category"] == "Algebra"
