from __future__ import annotations

import io
import json
import logging

import pytest

from dail.synth.core.logs import JsonLines, tell


@pytest.fixture
def lines():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("dail")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    log.removeHandler(handler)
    log.setLevel(before)


def test_an_event_is_one_object_a_line_with_its_fields(lines):
    tell("unit_committed", batch_id="batch_1", epoch=2, duration_s=1.23456789, code=None)
    (line,) = lines()
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info", "event": "unit_committed", "batch_id": "batch_1", "epoch": 2, "duration_s": 1.234568
    }  # fmt: skip


def test_what_is_no_name_is_not_repeated(lines):
    tell("unit_failed", code="It is 2.\nforged", worker="w" * 200)
    assert (lines()[0]["code"], lines()[0]["worker"]) == ("other", "other")


def test_a_field_that_nobody_knows_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="no fields"):
        tell("request", problem="1+1?")


def test_an_exception_tells_where_and_not_what(lines):
    try:
        raise ValueError("It is 2.")
    except ValueError:
        logging.getLogger("dail.serve").exception("the sweep failed")
    (line,) = lines()
    assert (line["event"], line["level"], line["error"]) == ("message", "error", "ValueError")
    assert "test_logs.py" in line["at"][0]
    assert "It is 2." not in json.dumps(line)
