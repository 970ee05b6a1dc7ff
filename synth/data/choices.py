"""Multiple choice: the choices below the question as (A), (B) …, and the letter of the right one as the answer.

Sets say which one is right by its letter, by its place counted from 0, or by its text. Where what stands there can be
read in two ways that differ, the row is refused: the answer `B` of the choices O, A, B, AB is one of them.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from dail.synth.data.values import text_of

LETTERS = "ABCDEFGHIJ"  # those that graders know as letters of choices
CHOICES = "choices"  # the metadata that has the texts, in the order of their letters
Adjust = Callable[[dict[str, Any], int], dict[str, Any]]

_LETTER = re.compile(r"\(?\s*([A-Ja-j])\s*[).:]?")


class Choice(NamedTuple):
    """One choice: what its set calls it, blank if it has no name there, its text, and whether that was a number."""

    label: str
    text: str
    is_number: bool = False


def asked(question: str, texts: Sequence[str]) -> str:
    """The question with its choices below it.

    >>> asked("1 + 1?", ["1", "2"])
    '1 + 1?\\n\\n(A) 1\\n(B) 2'
    """
    return "\n".join([f"{question}\n", *(f"({letter}) {text}" for letter, text in zip(LETTERS, texts, strict=False))])


def shuffled(texts: Sequence[str], question: str, seed: int) -> list[int]:
    """The places of the texts in an order that depends on the question's text and the seed, and on nothing else."""
    salt = f"{seed}:" if seed else ""

    def drawn(place: int) -> bytes:
        return hashlib.sha256(f"{salt}{place}{question}".encode("utf-8", "surrogatepass")).digest()

    return sorted(range(len(texts)), key=drawn)


def multiple_choice(question: str, choices: str, answer: str, also: str = "") -> Adjust:
    """What makes a row with these columns a problem whose answer is a letter; the order of the choices stays.

    Args:
        question, choices, answer: columns. `choices`: a list of texts, of objects with label and text, or an object of
            both lists, or of letters and texts; in CSV as JSON.
        also: a column that says the answer once more, if the set has one.
    """

    def adjust(row: dict[str, Any], seed: int) -> dict[str, Any]:
        del seed  # their order is the set's own
        return _of_row(row, question, _choices(row.get(choices), choices), answer, also)

    return adjust


def lettered(question: str, answer: str) -> Adjust:
    """The same for a set whose choices are columns named A, B, C …"""

    def adjust(row: dict[str, Any], seed: int) -> dict[str, Any]:
        del seed
        there = [letter for letter in LETTERS if not _is_blank(row.get(letter))]
        if there != list(LETTERS[: len(there)]):
            missing = next(letter for letter in LETTERS if letter not in there)
            raise ValueError(f"choice {missing} is missing, and {there[-1]} is there")
        return _of_row(row, question, _usable([_choice(row[one], one) for one in there]), answer, "")

    return adjust


def _of_row(row: dict[str, Any], question: str, choices: list[Choice], answer: str, also: str) -> dict[str, Any]:
    if _is_blank(row.get(question)):
        raise ValueError(f"{question} is missing")
    if _is_blank(row.get(answer)) and not (also and not _is_blank(row.get(also))):
        raise ValueError(f"{answer} is missing: which of the {len(choices)} choices is right is not said")
    said = {name: right(row[name], choices) for name in (answer, also) if name and not _is_blank(row.get(name))}
    if len(set(said.values())) > 1:
        both = " and ".join(f"{name} says {row[name]!r}, which is ({LETTERS[place]})" for name, place in said.items())
        raise ValueError(both)
    texts = [one.text for one in choices]
    place = next(iter(said.values()))
    return {**row, question: asked(str(row[question]), texts), answer: LETTERS[place], CHOICES: texts}


def right(answer: Any, choices: Sequence[Choice]) -> int:
    """The place of the right choice. Raises ValueError if the answer names none, or may name two."""
    found = _readings(answer, choices)
    places = sorted(set(found.values()))
    if len(places) == 1:
        return places[0]
    shown = ", ".join(f"({letter}) {one.text[:40]}" for letter, one in zip(LETTERS, choices, strict=False))
    if not places:
        raise ValueError(
            f"the answer {answer!r} is no letter, no place counted from 0 and no text of the {len(choices)} choices "
            f"{shown}"
        )
    ways = " or ".join(f"{way} of ({LETTERS[place]})" for way, place in found.items())
    raise ValueError(f"the answer {answer!r} may be {ways}: {shown}; say it by a letter that is no choice's text")


def _readings(answer: Any, choices: Sequence[Choice]) -> dict[str, int]:
    """By way of reading, the place that is meant."""
    is_number = isinstance(answer, int | float) and not isinstance(answer, bool)
    text = str(int(answer)) if is_number and float(answer).is_integer() else str(answer).strip()
    found: dict[str, int] = {}
    labels = [one.label for one in choices]
    if text in labels:
        found["the label"] = labels.index(text)
    elif (letter := _LETTER.fullmatch(text)) and LETTERS.index(letter[1].upper()) < len(choices) and not any(labels):
        found["the letter"] = LETTERS.index(letter[1].upper())
    elif letter and letter[1].upper() in labels:
        found["the label"] = labels.index(letter[1].upper())
    elif re.fullmatch(r"[0-9]+", text) and int(text) < len(choices) and not any(label.isdigit() for label in labels):
        found["the place"] = int(text)
    if not is_number or any(one.is_number for one in choices):  # a number is no text: MMLU's answers are all places
        same = [place for place, one in enumerate(choices) if one.text == text]
        found |= {"the text" if place == same[0] else f"the text {number}": place for number, place in enumerate(same)}
    return found


def _choices(value: Any, column: str) -> list[Choice]:
    """Raises ValueError if it is none of the shapes, or a choice is missing."""
    if isinstance(value, str):
        value = _parsed(value, column)
    if isinstance(value, Mapping):
        names = {name.lower().rstrip("s"): part for name, part in value.items()}
        texts, labels = names.get("text"), names.get("label")
        if isinstance(texts, list) and isinstance(labels, list):
            if len(texts) != len(labels):
                raise ValueError(f"{column} has {len(texts)} texts and {len(labels)} labels")
            return _usable([_choice(text, str(label)) for label, text in zip(labels, texts, strict=True)])
        if value and all(len(name) == 1 and name.isalpha() for name in value):
            return _usable([_choice(value[name], name) for name in sorted(value)])
    if isinstance(value, list) and value and all(isinstance(one, Mapping) and "text" in one for one in value):
        return _usable([_choice(one["text"], str(one.get("label", ""))) for one in value])
    if isinstance(value, list):
        return _usable(list(map(_choice, value)))
    raise ValueError(f"{column} is {'missing' if value is None else f'{value!r:.60}'}; wanted a list of texts")


def _parsed(text: str, column: str) -> Any:
    """A cell of CSV: JSON, or a list as Python writes it."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise ValueError(f"{column} is the text {text[:60]!r}; wanted a list, in CSV as JSON")


def _choice(value: Any, label: str = "") -> Choice:
    if isinstance(value, list | Mapping):
        raise ValueError(f"a choice is {value!r:.60}; wanted a text")
    return Choice(label, "" if value is None else str(text_of(value)).strip(), isinstance(value, int | float))


def _usable(choices: list[Choice]) -> list[Choice]:
    if not 2 <= len(choices) <= len(LETTERS):
        raise ValueError(f"it has {len(choices)} choice{'s' * (len(choices) != 1)}; wanted 2 to {len(LETTERS)}")
    for place, one in enumerate(choices):
        if not one.text:
            raise ValueError(f"choice {one.label or LETTERS[place]} is missing")
    return choices


def _is_blank(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())
