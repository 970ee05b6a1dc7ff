r"""Bounded JSON: what a body holds is counted before any of it is built, so that a refusal costs little.

One pass over the bytes counts values, nesting and the length of names and numbers, and stops at the first that is too
much. It also finds where each item of a batch begins and ends. Only then are values made, one item after the other:
the body is decoded piece by piece, and no call holds the interpreter for long, so that a thread can do it while the
event loop answers others.

    read_batch(b'{"items": [{"problem": "1+1?", "solution": "2."}]}')
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from dail.serve.errors import MAX_FAULTS, RequestError
from dail.synth.core.errors import InputFault, pointer
from dail.synth.schema.items import strict_json

MAX_VALUES = 500_000  # of a body; ten thousand items of fifty
MAX_ITEM_VALUES = 10_000
MAX_DEPTH = 32
MAX_NAME_BYTES = 512
MAX_NUMBER_BYTES = 400

# A string, a bracket, a number or word; a colon behind a string makes a name of it. What matches nothing ends the scan,
# such as a string that never closes.
_TOKEN = re.compile(
    rb'[ \t\r\n]*+(?:(?P<text>"[^"\\]*+(?:\\.[^"\\]*+){0,4194304}+")(?P<name>[ \t\r\n]*+:)?'
    rb'|(?P<open>[\[{])|(?P<close>[\]}])|(?P<comma>,)|(?P<word>[^\s"\[\]{},:]++)|(?P<end>\Z)|(?P<bad>.))',
    re.DOTALL,
)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
Faults = list[InputFault]


def read_json(body: bytes | bytearray) -> Any:
    """The value. Raises RequestError: 400 what is no JSON or cannot be stored, 422 what is more than is taken."""
    _Scan(body).run()
    value = _built(body, "")
    _refuse(list(islice(_unfit(value, ()), MAX_FAULTS)))
    return value


def read_batch(body: bytes | bytearray, max_items: int) -> Any:
    """As `read_json`, the list `items` of the outermost object one by one."""
    scan = _Scan(body)
    scan.run(max_items)
    if scan.list_span is None:
        return read_json(body)
    start, end = scan.list_span
    value = _built(body[:start] + body[end:], "")
    faults = list(islice(_unfit(value, ()), MAX_FAULTS))
    items = []
    for number, (first, behind) in enumerate(scan.spans):
        items.append(_built(body[first:behind], f"item {number}: "))
        faults += islice(_unfit(items[-1], ("items", number)), MAX_FAULTS - len(faults))
        if len(faults) >= MAX_FAULTS:
            break
    _refuse(faults)
    value["items"] = items
    return value


def _built(body: bytes | bytearray, where: str) -> Any:
    try:
        return strict_json(body)
    except ValueError as error:
        raise _refused("invalid_json", f"{where}{error}") from None


def _refused(code: str, detail: str, where: str = "", status: int = 400) -> RequestError:
    if status == 400:
        return RequestError(
            400, "invalid_json", "the body is not JSON that is taken", [InputFault(where, code, detail)]
        )
    return RequestError(
        status, "invalid_input", "the batch was refused; nothing was stored", [InputFault(where, code, detail)]
    )


def _refuse(faults: Faults) -> None:
    if faults:
        raise RequestError(400, "invalid_json", "the body holds values that cannot be stored", faults)


def _unfit(value: Any, at: tuple[str | int, ...]) -> Iterator[InputFault]:
    """What is JSON but breaks SQLite or Parquet."""
    waiting: list[tuple[tuple[str | int, ...], Any]] = [(at, value)]
    while waiting:
        where, value = waiting.pop()
        if isinstance(value, str) and (bad := _SURROGATE.search(value)):
            yield InputFault(pointer(where), "surrogate", f"character {bad.start()} is half of a surrogate pair")
        elif isinstance(value, float) and not math.isfinite(value):
            yield InputFault(pointer(where), "number_too_large", "the number is beyond a 64-bit float")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            yield InputFault(pointer(where), "number_too_large", "the number is beyond a 64-bit integer")
        elif isinstance(value, dict):
            if any(_SURROGATE.search(key) for key in value):
                yield InputFault(pointer(where), "surrogate", "a key holds half of a surrogate pair")
            else:
                waiting += (((*where, key), part) for key, part in value.items())
        elif isinstance(value, list):
            waiting += (((*where, index), part) for index, part in enumerate(value))


def _spells_items(text: bytes) -> bool:
    try:
        return bool(strict_json(text) == "items")
    except ValueError:
        return False


@dataclass
class _Scan:
    """What one pass over the bytes found: where the list `items` of the outermost object is, and what is in it."""

    body: bytes | bytearray
    values: int = 0
    list_span: tuple[int, int] | None = None
    spans: list[tuple[int, int]] = field(default_factory=list)

    def run(self, max_items: int = 0) -> None:
        """`max_items` is 0 where no list of items is looked for."""
        depth, in_items, first, before, named = 0, False, 0, 0, False
        for match in _TOKEN.finditer(self.body):
            kind = match.lastgroup
            if kind == "name":
                self._name(match)
                named = bool(max_items) and depth == 1 and self.list_span is None and _spells_items(match["text"])
                continue
            if kind == "end":
                break
            if kind == "open":
                if depth >= MAX_DEPTH:
                    raise _refused("too_deep", f"it is nested more than {MAX_DEPTH} levels")
                depth += 1
                if named and match[0].endswith(b"["):
                    in_items, first, before, self.list_span = True, match.end(), self.values, (match.end(), -1)
            elif kind in ("comma", "close"):
                if in_items and depth == 2:
                    self._item(first, match.start(), self.values - before, kind == "close", max_items)
                    first, before = match.end(), self.values
                if kind == "close":
                    if in_items and depth == 2:
                        in_items, self.list_span = False, (self.list_span[0], match.start())  # type: ignore[index]
                    depth -= 1
            if kind == "bad":
                raise _refused("invalid_json", f"byte {match.start('bad')} begins no value, or its text never ends")
            self._value(kind, match)
            named = False
        if in_items:
            raise _refused("invalid_json", "the list of items never ends")

    def _value(self, kind: str | None, match: re.Match[bytes]) -> None:
        if kind in ("comma", "close"):
            return
        self._count()
        if kind == "word" and len(match["word"]) > MAX_NUMBER_BYTES:
            raise _refused("number_too_large", f"a number of more than {MAX_NUMBER_BYTES} digits")

    def _name(self, match: re.Match[bytes]) -> None:
        if len(match["text"]) > MAX_NAME_BYTES:
            raise _refused("name_too_long", f"a name of more than {MAX_NAME_BYTES} bytes at byte {match.start('text')}")
        self._count()

    def _count(self) -> None:
        self.values += 1
        if self.values > MAX_VALUES:
            raise _refused("too_many_values", f"more than {MAX_VALUES} names and values; post several batches")

    def _item(self, start: int, end: int, values: int, is_last: bool, max_items: int) -> None:
        if is_last and not self.spans and not self.body[start:end].strip():
            return  # an empty list
        where, number = f"/items/{len(self.spans)}", len(self.spans)
        if number >= max_items:
            raise _refused("too_many_items", f"at most {max_items} are taken in one batch; post several", "/items", 422)
        if values > MAX_ITEM_VALUES:
            raise _refused("too_many_values", f"more than {MAX_ITEM_VALUES} names and values in one item", where, 422)
        self.spans.append((start, end))
