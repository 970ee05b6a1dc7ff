"""Values as files hold them, made into what JSON and the items know: nulls, NaN, dates, numbers for text, ids."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from decimal import Decimal
from typing import Any

_ID_LENGTH = 128
_DEPTH = 200  # pydantic takes 255
_NOT_ID = re.compile(r"[^A-Za-z0-9_.:-]+")


def plain(value: Any, depth: int = 0) -> Any:
    """The value without nulls and NaN at any depth, with dates, times and decimals as text, numpy's as Python's.

    >>> plain({"when": dt.date(2003, 3, 25), "score": float("nan"), "steps": ["a", None]})
    {'when': '2003-03-25', 'steps': ['a']}

    Raises:
        ValueError: bytes stand in it, or it is nested too deeply.
    """
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return None if value != value else float(value)  # numpy's is one too, and writes itself otherwise
    if depth > _DEPTH:
        raise ValueError("it is nested too deeply")
    if isinstance(value, dict):
        # a key that is no text comes from a Parquet map only
        parts = ((key if isinstance(key, str) else str(key), plain(part, depth + 1)) for key, part in value.items())
        return {key: part for key, part in parts if part is not None}
    if isinstance(value, list | tuple):
        return [part for one in value if (part := plain(one, depth + 1)) is not None]
    if isinstance(value, dt.date | dt.time):  # a datetime is a date too
        return value.isoformat()
    if isinstance(value, Decimal):
        return text_of(value)
    if hasattr(value, "tolist"):  # a number or an array of numpy
        return plain(value.tolist(), depth + 1)
    if isinstance(value, bytes):
        raise ValueError("it holds bytes, which are no text; leave the column out of the file")
    return str(value) if isinstance(value, dt.timedelta) else value


def text_of(value: Any) -> Any:
    """A number as the text that people write: 24 and 24.0 are "24". Anything else as it is; true is no number.

    >>> text_of(24.0), text_of(0.1), text_of(1e22), text_of(True)
    ('24', '0.1', '10000000000000000000000', True)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return value
    if isinstance(value, int):
        return str(value)
    exact = value if isinstance(value, Decimal) else Decimal(repr(value))
    if not exact.is_finite():
        return value
    text = format(exact, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def valid_id(text: str) -> str:
    """An id of letters, digits and _ . : - only, 1 to 128 of them; the same text always gives the same id.

    >>> valid_id("test/algebra/7.json")
    'test-algebra-7.json'
    """
    text = text.strip()
    name = _NOT_ID.sub("-", text)
    name = name if name == text else name.strip("-")
    if name and len(name) <= _ID_LENGTH:
        return name
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{name[: _ID_LENGTH - 13] or 'id'}-{digest}"
