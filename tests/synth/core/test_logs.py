from __future__ import annotations

import io
import json
import logging

import pytest

from dail.synth.core.logs import JsonLines, as_event, tell


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
    tell("unit_failed", code="It is 1/2.", route="/v1/batches/{batch_id}")
    assert (lines()[1]["code"], lines()[1]["route"]) == ("other", "/v1/batches/{batch_id}")


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


def test_a_sentence_for_people_is_an_event_for_machines(lines, caplog):
    logging.getLogger("dail.synth").error("it said: It is 2.", extra=as_event("engine_died", engine=1))
    assert lines()[0].items() >= {"level": "error", "event": "engine_died", "engine": 1}.items()
    assert "It is 2." not in json.dumps(lines()) and caplog.messages == ["it said: It is 2."]


def test_what_others_log_of_an_exception_is_not_repeated():
    """asyncio's own sentence holds the exception's."""
    record = logging.LogRecord("asyncio", logging.ERROR, "f.py", 1, "never retrieved: ValueError('It is 2.')", (), None)
    assert json.loads(JsonLines().format(record))["detail"].startswith("never retrieved")
    record.exc_info = (ValueError, ValueError("It is 2."), None)
    assert "It is 2." not in JsonLines().format(record)


def test_what_is_always_in_a_line_is():
    record = logging.LogRecord("dail", logging.INFO, "f.py", 1, "it starts", (), None)
    assert json.loads(JsonLines(worker="w1").format(record))["worker"] == "w1"
