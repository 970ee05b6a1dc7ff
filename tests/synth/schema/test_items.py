"""Expert solutions: what is taken, what is refused, and where each fault is said to be."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dail.synth.core.errors import InputError
from dail.synth.schema.items import PROBLEM_BYTES, SOLUTION_BYTES, check_items, strict_json

ITEM: dict[str, Any] = {"problem": "1+1?", "solution": "It is \\boxed{2}."}
USER = {"role": "user", "content": "1+1?"}
DEEP = json.loads("[" * 400 + "]" * 400)

FAULTS: dict[str, tuple[Any, list[str]]] = {
    # name: (value, pointers below /items/1)
    "no object": (3, [""]),
    "null": (None, [""]),
    "a list": ([], [""]),
    "nothing in it": ({}, ["/problem", "/solution"]),
    "blank problem": ({**ITEM, "problem": " \n\t"}, ["/problem"]),
    "problem is a number": ({**ITEM, "problem": 5}, ["/problem"]),
    "problem is null": ({**ITEM, "problem": None}, ["/problem"]),
    "problem is one message": ({**ITEM, "problem": USER}, ["/problem"]),
    "no messages": ({**ITEM, "problem": []}, ["/problem"]),
    "last message is the assistant's": (
        {**ITEM, "problem": [USER, {"role": "assistant", "content": "2"}]},
        ["/problem"],
    ),
    "role of no one": ({**ITEM, "problem": [{"role": "tool", "content": "x"}, USER]}, ["/problem/0/role"]),
    "problem without width": ({**ITEM, "problem": "\u200b\u200b"}, ["/problem"]),
    "problem of marks": ({**ITEM, "problem": "\u0301\ufe0f"}, ["/problem"]),
    "solution of fillers": ({**ITEM, "solution": "\u3164\u2800 \u00ad"}, ["/solution"]),
    "blank message": ({**ITEM, "problem": [USER, {"role": "user", "content": ""}]}, ["/problem/1/content"]),
    "message with a name": ({**ITEM, "problem": [{**USER, "name": "Ada"}]}, ["/problem/0/name"]),
    "message without content": ({**ITEM, "problem": [{"role": "user"}]}, ["/problem/0/content"]),
    "message that is a string": ({**ITEM, "problem": ["1+1?"]}, ["/problem/0"]),
    "two faulty messages": (
        {**ITEM, "problem": [{"role": "x", "content": 1}]},
        ["/problem/0/role", "/problem/0/content"],
    ),
    "problem too big": ({**ITEM, "problem": "é" * (PROBLEM_BYTES // 2 + 1)}, ["/problem"]),
    "blank solution": ({**ITEM, "solution": ""}, ["/solution"]),
    "solution is an object": ({**ITEM, "solution": {"text": "2"}}, ["/solution"]),
    "no solutions": ({**ITEM, "solution": []}, ["/solution"]),
    "second solution blank": ({**ITEM, "solution": ["2", " "]}, ["/solution/1"]),
    "second solution a number": ({**ITEM, "solution": ["2", 2]}, ["/solution/1"]),
    "solution too big": ({**ITEM, "solution": "x" * (SOLUTION_BYTES + 1)}, ["/solution"]),
    "solutions too big together": ({**ITEM, "solution": ["x" * (SOLUTION_BYTES // 2)] * 2}, ["/solution"]),
    "lone surrogate": ({**ITEM, "solution": "a\ud800"}, ["/solution"]),
    "NUL": ({**ITEM, "problem": "a\x00"}, ["/problem"]),
    "escape sequence": ({**ITEM, "solution": ["\x1b[31m"]}, ["/solution/0"]),
    "surrogate in the answer": ({**ITEM, "answer": "\udfff"}, ["/answer"]),
    "answer is a number": ({**ITEM, "answer": 2}, ["/answer"]),
    "answer too long": ({**ITEM, "answer": "1" * 513}, ["/answer"]),
    "unknown field": ({**ITEM, "hint": "add"}, ["/hint"]),
    "unknown field named like a type": ({**ITEM, "str": 1, "tuple[x]": 2}, ["/str", "/tuple[x]"]),
    "unknown field with a slash": ({**ITEM, "a/b~c": 1}, ["/a~1b~0c"]),
    "unknown kind": ({**ITEM, "kind": "essay"}, ["/kind"]),
    "id with a space": ({**ITEM, "id": "a b"}, ["/id"]),
    "id ending in a line break": ({**ITEM, "id": "a\n"}, ["/id"]),
    "id too long": ({**ITEM, "id": "a" * 129}, ["/id"]),
    "metadata is a list": ({**ITEM, "metadata": [1]}, ["/metadata"]),
    "NaN in metadata": ({**ITEM, "metadata": {"str": {"score": float("nan")}}}, ["/metadata"]),
    "surrogate in metadata": ({**ITEM, "metadata": {"a": ["\ud800"]}}, ["/metadata"]),
    "surrogate in a key of metadata": ({**ITEM, "metadata": {"\ud800": 1}}, ["/metadata"]),
    "metadata too deep": ({**ITEM, "metadata": {"a": DEEP}}, ["/metadata"]),
    "bytes in metadata": ({**ITEM, "metadata": {"a": b"x"}}, ["/metadata"]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_told_once_at_its_place_in_the_user_s_json(name: str):
    value, wanted = FAULTS[name]
    with pytest.raises(InputError) as caught:
        check_items([ITEM, value])
    assert [where for where, _, _ in caught.value.problems] == [f"/items/1{path}" for path in wanted]
    assert str(caught.value).startswith(f"nothing was taken: /items/1{wanted[0]}: ")
    assert len(str(caught.value)) < 400


def test_faults_of_all_items_are_told_and_the_message_shows_five():
    with pytest.raises(InputError, match=r"\(and 4 more\)$") as caught:
        check_items([{}, ITEM, *[{**ITEM, "id": "a b"}] * 7])
    assert len(caught.value.problems) == 9


def test_no_items_are_refused():
    with pytest.raises(InputError, match="/items: there is no expert solution in it"):
        check_items([])


def test_a_refused_text_is_not_repeated_in_the_error():
    with pytest.raises(InputError) as caught:
        check_items([{**ITEM, "problem": "canary\x00", "id": "canary canary", "answer": ["canary"]}])
    assert "canary" not in repr(caught.value.problems)


def test_an_id_given_twice_is_refused_naming_both():
    with pytest.raises(InputError, match="/items/2/id: id 'a' is also item 0"):
        check_items([{**ITEM, "id": "a"}, ITEM, {**ITEM, "id": "a"}])


def test_ids_made_up_for_items_keep_clear_of_the_given_ones():
    given_ids = ["item-00002", None, None, "item-00001", "item-00002_"]
    items = check_items([{**ITEM, "id": name} if name else ITEM for name in given_ids])
    assert [item.id for item in items] == ["item-00002", "item-00001_", "item-00002__", "item-00001", "item-00002_"]


def test_several_solutions_become_one_text_and_a_blank_line_stands_between():
    assert check_items([{**ITEM, "solution": ["one", "two"]}])[0].solution_text == "one\n\ntwo"


def test_a_problem_as_messages_asks_what_its_last_message_asks():
    (item,) = check_items([{**ITEM, "problem": [{"role": "system", "content": "Be brief."}, USER]}])
    assert (item.problem_text, [message.role for message in item.messages]) == ("1+1?", ["system", "user"])


def test_texts_of_just_the_largest_size_are_taken():
    check_items([{"problem": "x" * PROBLEM_BYTES, "solution": "x" * SOLUTION_BYTES}])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = st.sampled_from(["problem", "solution", "answer", "id", "kind", "source", "license", "metadata"])


@settings(deadline=None)
@given(st.lists(JSON | st.dictionaries(FIELDS, JSON | st.just([USER]) | st.just("a"), max_size=8), max_size=4))
def test_any_json_is_taken_or_refused_with_pointers_into_it(values: list[Any]):
    try:
        items = check_items(values)
    except InputError as error:
        assert error.problems
        for where, code, detail in error.problems:
            assert code and detail
            first, *path = where.removeprefix("/items").split("/")
            assert first == ""
            _follow(values, [part.replace("~1", "/").replace("~0", "~") for part in path])
    else:
        assert len({item.id for item in items}) == len(values)


def _follow(value: Any, path: list[str]) -> None:
    """Fails unless the path stands in the value; its last part may be a missing key."""
    for number, part in enumerate(path):
        if isinstance(value, list):
            value = value[int(part)]
        else:
            assert isinstance(value, dict) and (part in value or number == len(path) - 1), (value, path)
            value = value.get(part)


@settings(deadline=None)
@given(st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_json_or_a_value_error(data: bytes):
    try:
        value = strict_json(data)
    except ValueError:
        return
    if "Infinity" not in (text := json.dumps(value)):  # 1e999
        assert strict_json(text.encode()) == value


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": [-Infinity]}', "-Infinity is not JSON"),
        (b'{"a": {"b": 1, "b": 2}}', "key 'b' appears twice"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b"[" * 100_000, "nested too deeply"),
        (b"9" * 5000, "4300 digits"),
        (b'{"a": 1', "line 1 column 8"),
        (b"", "line 1 column 1"),
    ],
)
def test_what_is_no_strict_json_is_said(data: bytes, why: str):
    with pytest.raises(ValueError, match=why):
        strict_json(data)


@pytest.mark.parametrize(
    ("dealt", "where"),
    [
        ({"problem": " ", "solution": "s"}, "/items/0/dealt/problem"),
        ({"problem": "p"}, "/items/0/dealt/solution"),
        ({"problem": "p", "solution": ["s", ""]}, "/items/0/dealt/solution/1"),
        ({"problem": "p", "solution": "s", "dealt": {"problem": "p", "solution": "s"}}, "/items/0/dealt"),
        ({"problem": "p", "solution": "s", "wrong_answer": "1"}, "/items/0/dealt"),
        ("other", "/items/0/dealt"),
    ],
)
def test_a_fault_in_what_an_item_brings_as_dealt_has_its_place(dealt: Any, where: str):
    with pytest.raises(InputError) as error:
        check_items([{"problem": "P", "solution": "S", "dealt": dealt}])
    assert [pointer for pointer, _, _ in error.value.problems] == [where]


def test_a_blank_wrong_answer_is_refused():
    with pytest.raises(InputError, match="/items/0/wrong_answer: the text is blank"):
        check_items([{"problem": "P", "solution": "S", "wrong_answer": " "}])
