"""A log that machines read: one JSON object a line, with ids and never a text.

    {"ts": "2026-11-27T12:00:00.123Z", "level": "info", "event": "unit_committed", "batch_id": "batch_…", "epoch": 1, …}

`tell` writes an event by its stable name. What else is logged comes as the event `message` with its `detail`, and an
exception as the places it went through: what it says may repeat a problem's text, or a token. A sentence for people in
which others' words may stand is logged with `as_event`: people read the sentence, machines the event.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from typing import Any, Literal

LogFormat = Literal["text", "json"]
FIELDS = ("request_id", "batch_id", "unit_id", "epoch", "worker", "code", "duration_s", "method", "route", "status",
          "bytes", "count", "engine", "log")  # fmt: skip
_OURS = ("route", "log")  # fields that no client fills
_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")
_EVENTS = logging.getLogger("dail.events")


def tell(event: str, **fields: Any) -> None:
    """An event with some of FIELDS; those that are None are left out, and a text that is no name is `other`."""
    _EVENTS.info(event, extra=as_event(event, **fields))


def as_event(event: str, **fields: Any) -> dict[str, Any]:
    """`extra` of a call of a logger, whose sentence machines then do not get."""
    assert not (unknown := fields.keys() - set(FIELDS)), f"a log has no fields {unknown}"
    known = {name: value if name in _OURS else _told(value) for name, value in fields.items() if value is not None}
    return {"dail_event": event, "dail_fields": known}


def _told(value: Any) -> Any:
    if isinstance(value, str):
        return name_or_other(value)
    return round(value, 6) if isinstance(value, float) else value


def name_or_other(text: str) -> str:
    """What clients send as a code or as their name comes this way: never a sentence of theirs."""
    return text if _NAME.fullmatch(text) else "other"


class JsonLines(logging.Formatter):
    """One object a line, with `always` in each; of an exception where it was raised, not what it says."""

    def __init__(self, **always: str) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line: dict[str, Any] = {"ts": at, "level": record.levelname.lower(), **self._always}
        event = getattr(record, "dail_event", None)
        if event is not None:
            line |= {"event": event, **record.dail_fields}  # type: ignore[attr-defined]
        else:
            line |= {"event": "message", "logger": record.name}
            if record.name.startswith("dail") or not record.exc_info:  # others repeat what an exception says
                line["detail"] = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            kind, _, trace = record.exc_info
            places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(trace)]
            line |= {"error": kind.__name__, "at": places}
        return json.dumps(line, ensure_ascii=True, default=str)


def log_as(form: LogFormat, **always: str) -> None:
    """Logs of this process on standard error: warnings as lines for people, or everything as JSON, `always` in each."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(**always) if form == "json" else logging.Formatter(_TEXT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("dail").setLevel(logging.INFO if form == "json" else logging.WARNING)
