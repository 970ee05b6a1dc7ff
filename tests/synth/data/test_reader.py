"""What becomes of values, ids, equal items and faults; how it is said, and what `--skip-invalid` leaves."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dail.synth.core.errors import InputError, UsageError
from dail.synth.data.faults import RowsRefused
from dail.synth.data.formats import SUFFIXES
from dail.synth.data.reader import Reading, load_items, read_solutions
from dail.synth.data.values import plain, text_of, valid_id
from dail.synth.schema.items import ExpertSolution
from tests.conftest import Told

ITEM: dict[str, Any] = {"problem": "1+1?", "solution": "It is \\boxed{2}."}
FORM_FEED = {"problem": "1+1?", "solution": "2.\f"}


def write(folder: Path, *rows: Any, name: str = "a.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def one(folder: Path, **fields: Any) -> ExpertSolution:
    (item,) = load_items(write(folder, {**ITEM, **fields}))
    return item


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (24, "24"),
        (24.0, "24"),
        (-3, "-3"),
        (0, "0"),
        (0.5, "0.5"),
        (2.5e-7, "0.00000025"),
        (1e22, "10000000000000000000000"),
        (12345678901234567890123, "12345678901234567890123"),
        ("024", "024"),
        (["24"], "24"),
        ([24.0], "24"),
        ("", None),
        (" \n", None),
        (None, None),
        (math.nan, None),
    ],
)
def test_an_answer_is_the_text_that_people_write(tmp_path: Path, answer: Any, text: str | None):
    assert one(tmp_path, answer=answer).answer == text


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("answer", True, "answer: wanted a text"),
        ("answer", ["1", "2"], r"answer: it is a list of 2; wanted one text; name a part with --map answer=COLUMN\.0"),
        ("answer", [], "answer: it is an empty list"),
        ("answer", {"value": 1}, "answer: wanted a text"),
        ("answer", "1" * 513, "answer: it has 513 characters; at most 512"),
        ("id", False, "id: wanted a text"),
        ("solution", [None], "solution: solution is an empty list"),
        ("solution", {"text": "2"}, "solution: wanted a text"),
        ("metadata", {"a": math.inf}, "metadata: "),
        ("metadata", [1], "metadata: wanted an object"),
        ("kind", "essay", "kind: "),
    ],
)
def test_what_is_no_number_and_no_text_is_refused(tmp_path: Path, field: str, value: Any, why: str):
    with pytest.raises(InputError, match=why):
        one(tmp_path, **{field: value})


def test_nulls_and_nan_are_dropped_at_any_depth(tmp_path: Path):
    metadata = {"score": math.nan, "deep": [{"a": None, "b": [1, math.nan, None]}], "none": None}
    item = one(tmp_path, solution=["one", None, "two"], metadata=metadata)
    assert (item.solution, item.metadata) == (("one", "two"), {"deep": [{"b": [1]}]})


@given(
    st.recursive(
        st.none() | st.floats() | st.text() | st.integers(),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=3), part, max_size=3),
        max_leaves=8,
    )
)
def test_no_null_and_no_nan_is_left(value: Any):
    def is_clean(part: Any) -> bool:
        if isinstance(part, dict | list):
            return all(map(is_clean, part.values() if isinstance(part, dict) else part))
        return part is not None and part == part

    found = plain(value)
    assert found is None or is_clean(found)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_the_text_of_a_number_is_its_value(number: float):
    text = text_of(number)
    assert float(text) == float(number) and "e" not in text and not text.endswith(".0")


@pytest.mark.parametrize(
    ("given_id", "name"),
    [
        (7, "7"),
        (-1, "-1"),
        (7.0, "7"),
        (" a ", "a"),
        ("test/algebra/1.json", "test-algebra-1.json"),
        ("1990 II 3", "1990-II-3"),
    ],
)
def test_an_id_is_made_valid_and_the_given_one_is_kept(tmp_path: Path, told: Told, given_id: Any, name: str):
    item = one(tmp_path, id=given_id, metadata={"level": 1})
    assert item.id == name
    is_changed = isinstance(given_id, str)
    assert item.metadata == {"level": 1} | ({"original_id": given_id} if is_changed else {})
    assert ("id: made valid" if is_changed else "id: numbers as text (1)") in told()


@given(st.text())
def test_any_text_gives_an_id_that_is_taken_and_stays(text: str):
    name = valid_id(text)
    assert ExpertSolution(**ITEM, id=name).id == name == valid_id(name)


def test_ids_that_become_one_are_refused_with_both_lines(tmp_path: Path):
    rows = [{**ITEM, "id": "a b"}, {**ITEM, "problem": "2?", "id": "a/b"}]
    with pytest.raises(InputError, match=r"id: id 'a-b' is also that of .*a\.jsonl line 1; ids must differ: .* line 2"):
        load_items(write(tmp_path, *rows))


def test_equal_items_are_drawn_once_and_said(tmp_path: Path, told: Told):
    again = {**ITEM, "problem": "1+1? ", "solution": "\nIt is \\boxed{2}.", "metadata": {"n": 2}}
    read = read_solutions(write(tmp_path, ITEM, ITEM, again, {**ITEM, "answer": "2"}, {**ITEM, "id": "x"}))
    assert [item.answer for item in read.items] == [None, "2"]
    assert [(one.row[-6:], one.same_as[-6:]) for one in read.account.repeated] == [
        ("line 2", "line 1"),
        ("line 3", "line 1"),
        ("line 5", "line 1"),
    ]
    assert "equal items are drawn once, 3 left out: " in told()


def nine_bad(folder: Path) -> Path:
    rows = [{**ITEM, "problem": f"{n}?"} for n in range(20)]
    for row in rows[3:12]:
        row["solution"] += "\f"
    return write(folder, *rows, name="nine.jsonl")


def test_every_fault_is_told_grouped_and_shortened_and_complete_for_programs(tmp_path: Path):
    path = nine_bad(tmp_path)
    with pytest.raises(RowsRefused) as refused:
        load_items(path)
    first, *grouped = str(refused.value).splitlines()
    assert first.startswith("nothing was taken: 9 faults in 9 of 20 rows; --skip-invalid goes on without these rows")
    assert (
        len(grouped) == 1 and grouped[0].startswith("  solution: ") and grouped[0].endswith("nine.jsonl lines 4 to 12")
    )
    facts = refused.value.facts()
    assert (facts["error"], facts["exit_code"], facts["rows"], facts["bad_rows"]) == ("invalid_input", 2, 20, 9)
    assert [(one["file"], one["line"], one["column"]) for one in facts["faults"]] == [
        (str(path), line, "solution") for line in range(4, 13)
    ]
    assert copy.copy(refused.value).facts() == facts


def test_faults_of_one_row_of_equal_rows_and_of_all_columns_are_told(tmp_path: Path):
    rows = [
        FORM_FEED,
        FORM_FEED,
        {"problem": "", "solution": ""},
        "[1]",
        {**ITEM, "hint": 1, "solution": ""},
        ITEM,
        ITEM,
    ]
    with pytest.raises(RowsRefused) as refused:
        load_items(write(tmp_path, *rows))
    assert [(one.place.number, one.column) for one in sorted(refused.value.faults)] == [
        (1, "solution"), (2, "solution"), (3, "problem"), (3, "solution"), (4, ""), (5, "hint"), (5, "solution"),
    ]  # fmt: skip


def test_many_places_and_many_sorts_are_shortened_and_sorts_are_kept_apart(tmp_path: Path):
    rows = [{**ITEM, "problem": f"{n}?", "solution": " " if n % 2 else "s"} for n in range(60)]
    with pytest.raises(RowsRefused, match=r"lines 2, 4, 6, 8, 10 and 25 more; --json lists every one$"):
        load_items(write(tmp_path, *rows))
    sorts = [{**ITEM, "problem": f"{n}?", f"extra_{chr(97 + n)}": 1} for n in range(12)]
    with pytest.raises(RowsRefused, match=r"and 4 more sorts of fault; --json lists every one$"):
        load_items(write(tmp_path, *sorts))


def test_a_fault_is_told_of_the_user_s_own_column(tmp_path: Path):
    rows = [{"q": "1?", "s": "x"}, {"q": "2?", "s": " "}]
    with pytest.raises(RowsRefused, match=r"s \(as solution\): the text is blank: .* line 2"):
        read_solutions(write(tmp_path, *rows), Reading(maps=("problem=q,solution=s",)))


def test_faults_of_several_files_are_told_together(tmp_path: Path):
    files = [write(tmp_path, FORM_FEED, ITEM, name="a.jsonl"), nine_bad(tmp_path)]
    with pytest.raises(
        RowsRefused, match=r"(?s)10 faults in 10 of 22 rows; .*a\.jsonl line 1; .*nine\.jsonl lines 4 to 12"
    ):
        load_items(files)


def test_a_row_with_a_known_fault_is_looked_at_further(tmp_path: Path):
    rows = [{**ITEM, "id": 1}, {**ITEM, "id": 1, "solution": ["a", " ", "\f"]}, {**ITEM, "answer": [1, 2], "kind": "x"}]
    with pytest.raises(RowsRefused) as refused:
        load_items(write(tmp_path, *rows))
    assert [(one.place.number, one.column) for one in sorted(refused.value.faults)] == [
        (2, "id"), (2, "solution"), (2, "solution"), (3, "answer"), (3, "kind"),
    ]  # fmt: skip


def test_bad_rows_are_left_out_and_written_with_reasons(tmp_path: Path, told: Told):
    path, invalid = nine_bad(tmp_path), tmp_path / "out" / "bad.jsonl"
    read = read_solutions([path], Reading(skip_invalid=True, invalid_to=invalid))
    assert len(read.items) == 11 and (read.account.invalid, read.account.invalid_to) == (9, invalid)
    assert f"9 of 20 rows cannot be used and are left out; the reasons: {invalid}" in told()
    written = [json.loads(line) for line in invalid.read_text("utf-8").splitlines()]
    assert [line["line"] for line in written] == list(range(4, 13))
    assert written[0]["item"] == {"problem": "3?", "solution": "It is \\boxed{2}.\f"}
    assert written[0]["faults"][0]["column"] == "solution" and "U+000C" in written[0]["faults"][0]["detail"]


def test_rows_that_could_not_be_read_are_written_as_they_stand(tmp_path: Path):
    invalid = tmp_path / "bad.jsonl"
    rows = [ITEM, '{"cut', "[1]", {**ITEM, "solution": "\ud800"}]
    read_solutions(write(tmp_path, *rows), Reading(skip_invalid=True, invalid_to=invalid))
    written = [json.loads(line)["item"] for line in invalid.read_text("utf-8").splitlines()]
    assert written[:2] == ['{"cut', [1]] and len(written) == 3


def test_without_a_bad_row_nothing_is_written_but_an_earlier_list_is_emptied(tmp_path: Path):
    invalid, path = tmp_path / "bad.jsonl", write(tmp_path, ITEM)
    reading = Reading(skip_invalid=True, invalid_to=invalid)
    assert read_solutions(path, reading).account.invalid == 0 and not invalid.exists()
    invalid.write_text("of another run")
    read_solutions(path, reading)
    assert invalid.read_text() == ""


def test_what_is_read_is_not_written_over_and_a_place_that_refuses_is_named(tmp_path: Path):
    path = write(tmp_path, ITEM, FORM_FEED)
    with pytest.raises(
        UsageError, match="is read, so what is left out cannot be written to it; give another --invalid-to"
    ):
        read_solutions(path, Reading(skip_invalid=True, invalid_to=path))
    with pytest.raises(UsageError, match=r"cannot be written to .*; give another --invalid-to"):
        read_solutions(path, Reading(skip_invalid=True, invalid_to=path / "bad.jsonl"))


def test_if_no_row_is_left_nothing_is_taken(tmp_path: Path):
    with pytest.raises(RowsRefused, match="2 faults in 2 of 2 rows; no row is left, so mend them"):
        read_solutions(write(tmp_path, FORM_FEED, FORM_FEED), Reading(skip_invalid=True, invalid_to=tmp_path / "bad"))
    with pytest.raises(
        InputError, match=r"a\.jsonl holds nothing; wanted a row for each item, with problem and solution"
    ):
        load_items(write(tmp_path))
    with pytest.raises(InputError, match="the list holds nothing"):
        load_items([])


def test_objects_are_read_as_files_are_and_told_by_their_index(tmp_path: Path):
    rows = [{**ITEM, "answer": 2, "id": 1}, {**ITEM, "solution": " "}]
    with pytest.raises(RowsRefused, match=r"solution: the text is blank: item 1$"):
        load_items(rows)
    assert load_items(rows[:1]) == load_items(write(tmp_path, rows[0]))
    assert load_items(load_items(rows[:1])) == load_items(iter(rows[:1])) == load_items(rows[:1])


def test_numbers_of_numpy_are_numbers():
    rows = [{**ITEM, "id": np.int64(3), "answer": np.float64(24), "metadata": {"a": np.array([1.0, np.nan])}}]
    (item,) = load_items(rows)
    assert (item.id, item.answer, item.metadata) == ("3", "24", {"a": [1.0]})


def test_one_object_is_no_list_of_them():
    with pytest.raises(InputError, match="one object was given; wanted a list of them"):
        load_items(ITEM)


@pytest.mark.parametrize("depth", [150, 400, 900])
def test_what_is_nested_too_deeply_is_a_fault_of_its_row(tmp_path: Path, depth: int):
    path = write(
        tmp_path, ITEM, json.dumps({**ITEM, "metadata": {"a": "X"}}).replace('"X"', "[" * depth + "1" + "]" * depth)
    )
    if depth < 200:
        load_items(path)
    else:
        with pytest.raises(RowsRefused, match=r"nested too deeply: .* line 2$"):
            load_items(path)


def test_metadata_of_csv_may_be_json(tmp_path: Path):
    (tmp_path / "a.csv").write_text('problem,solution,metadata\na,b,"{""level"": 3, ""x"": null}"\n')
    assert load_items(tmp_path / "a.csv")[0].metadata == {"level": 3}
    (tmp_path / "a.csv").write_text("problem,solution,metadata\na,b,hard\n")
    with pytest.raises(InputError, match="metadata: wanted an object"):
        load_items(tmp_path / "a.csv")


def test_bytes_are_refused_with_their_column(tmp_path: Path):
    pq.write_table(pa.table({"problem": ["a"], "solution": ["b"], "picture": [b"x"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="column 'picture': it holds bytes"):
        read_solutions(tmp_path / "a.parquet", Reading(keep_rest=True))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=4), part, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ["problem", "solution", "answer", "id", "kind", "metadata", "question", "final_answer", "prompt", "reward_model",
     "messages", "problem_id", "url", "year", "solution_1", "contest", "number", "image_1", "x", ""]
)  # fmt: skip
ROWS = st.lists(JSON | st.dictionaries(NAMES, JSON | st.just("a"), max_size=8), max_size=4)


@settings(deadline=None)
@given(
    ROWS, st.booleans(), st.sampled_from([(), ("problem=question,solution=solution_*",), ("answer=reward_model.*",)])
)
def test_any_rows_are_taken_or_refused(rows: list[Any], keep_rest: bool, maps: tuple[str, ...]):
    try:
        read = read_solutions(rows, Reading(maps=maps, keep_rest=keep_rest))
    except (InputError, UsageError) as error:
        assert str(error) and json.dumps(error.facts(), default=str)
    else:
        assert len(read.items) + len(read.account.repeated) == len(rows)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=80) | ROWS.map(lambda rows: "\n".join(map(json.dumps, rows)).encode()), st.sampled_from(SUFFIXES)
)
def test_any_file_is_taken_or_refused(tmp_path: Path, data: bytes, suffix: str):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data)
    try:
        load_items(path)
    except (InputError, UsageError) as error:
        assert path.name in str(error)
