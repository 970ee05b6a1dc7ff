"""One item's fields, as a file gives them, made into what the item's own check takes; nothing without a word."""

from __future__ import annotations

import json
from typing import Any

from dail.synth.core.errors import InputFault
from dail.synth.data.values import plain, text_of, valid_id

_NEEDED = ("problem", "solution")  # a blank one is a fault, which their check tells


class Notes:
    """What was changed, each sort of change with its first example and a count."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._first: dict[str, str] = {}

    def add(self, what: str, example: str = "") -> None:
        self._counts[what] = self._counts.get(what, 0) + 1
        self._first.setdefault(what, example)

    def lines(self) -> list[str]:
        """`id: numbers as text (2)`, with an example where there is one."""
        return [
            f"{what} ({count}{', such as ' + self._first[what] if self._first[what] else ''})"
            for what, count in self._counts.items()
        ]


def mended(values: dict[str, Any], noted: Notes) -> list[InputFault]:
    """Changes the fields in place: numbers become text, a blank that may be missing is none, ids are made valid.

    Args:
        values: the fields, without nulls.
        noted: gets what was changed.

    Returns:
        What cannot be mended, by the field's name.
    """
    faults = []
    for name, value in list(values.items()):
        if name == "metadata":
            continue
        if name == "answer" and isinstance(value, list):
            if len(value) != 1:
                detail = f"it is a list of {len(value)}; wanted one text; name a part with --map answer=COLUMN.0"
                faults.append(
                    InputFault(name, "several_answers", detail if value else "it is an empty list; wanted a text")
                )
                continue
            value = value[0]
            noted.add("answer: lists of one")
        text = list(map(text_of, value)) if isinstance(value, list) else text_of(value)
        if text != value:
            noted.add(f"{name}: numbers as text")
        if isinstance(text, str) and not text.strip() and name not in _NEEDED:
            noted.add(f"{name}: blank, taken as none")
            del values[name]
        else:
            values[name] = text
    _name(values, noted)
    if isinstance(metadata := values.get("metadata"), str):  # a cell of CSV
        values["metadata"] = _parsed(metadata)
    return faults


def _name(values: dict[str, Any], noted: Notes) -> None:
    given = values.get("id")
    if not isinstance(given, str) or (name := valid_id(given)) == given:
        return
    values["id"] = name
    noted.add("id: made valid, the given one is metadata.original_id", f"{given[:40]!r} → {name[:40]!r}")
    if isinstance(metadata := values.get("metadata", {}), dict):
        values["metadata"] = {"original_id": given, **metadata}


def _parsed(text: str) -> Any:
    try:
        return plain(json.loads(text))
    except (ValueError, RecursionError):
        return text  # which the check of the item will refuse
