"""What is said of a run's traces: a verdict of each, what to read first, and one line about all."""

from __future__ import annotations

from typing import Any

import pytest

from dail.synth.core.errors import UsageError
from dail.synth.method import verdicts
from dail.synth.method.verdicts import judge

CITING = r"According to the reference solution it is \boxed{7}."


def row(name: str, text: str, answer: str | None = "7", cut: bool = False) -> dict[str, Any]:
    return {
        "item_id": name,
        "sample_index": 0,
        "problem": f"What is {name}?",
        "trace_text": text,
        "completion": [{"role": "assistant", "content": text}],
        "answer": answer,
        "truncated": cut,
    }


def told(*rows: dict[str, Any], share: float | None = 0.82) -> list[str]:
    return judge(rows, len(rows), share, "math").told()


def test_every_trace_has_its_verdict_and_those_to_be_read_come_first():
    lines = told(
        row("right", r"It is \boxed{7}."),
        row("wrong", r"It is \boxed{8}."),
        row("boxless", "It is 7."),
        row("cut", r"It is \boxed{7} or", cut=True),
        row("citing", CITING),
    )
    assert lines == [
        "verdicts:",
        "  citing #0  correct; cites: “according to the reference solution”",
        "  wrong #0  wrong: it says 8, the answer is 7",
        r"  boxless #0  wrong: it has no \boxed{} answer, the answer is 7",
        "  cut #0  cut before its end, so not judged",
        "  right #0  correct",
        "2 of 5 verifiable traces right; the student wrote 82 %; 1 cut; "
        "1 cites the solution (citing #0): read it first",
    ]


def test_of_many_ten_are_shown_and_the_rest_counted():
    lines = told(*(row(f"i{n}", r"\boxed{7}" if n else r"\boxed{8}") for n in range(13)))
    assert len(lines) == 13 and lines[1].startswith("  i0 #0  wrong")
    assert lines[11] == "  … and 3 more: 3 correct"
    assert lines[12] == "12 of 13 verifiable traces right; the student wrote 82 %; none cut; none cites the solution"


def test_proofs_have_no_verdict_and_are_looked_at_for_what_they_cite():
    lines = told(row("proof", "So it is even.", None), row("citing", CITING, None), share=None)
    assert lines == [
        "verdicts:",
        "  citing #0  not judged: its item has no answer; cites: “according to the reference solution”",
        "no item has an answer to judge by; none cut; 1 cites the solution (citing #0): read it first",
    ]
    assert told(row("proof", "So it is even.", None)) == [
        "no item has an answer to judge by; the student wrote 82 %; none cut; none cites the solution"
    ]


def test_of_a_large_run_some_are_looked_at_and_that_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verdicts, "MOST", 3)
    found = judge((row(f"i{n}", r"\boxed{7}") for n in range(9)), 9, 0.5, "math")
    assert found.line().endswith("; 3 of 9 traces were looked at")
    assert found.summary() == {
        "looked_at": 3, "wrong": 0, "unknown": 0, "cut": 0, "correct": 3, "no_answer": 0, "citing": []
    }  # fmt: skip


def test_judging_ends_with_its_time():
    assert len(judge((row(f"i{n}", r"\boxed{7}") for n in range(9)), 9, 0.5, "math", within_s=0).verdicts) == 1


def test_a_long_id_and_a_text_in_a_box_take_one_line():
    lines = told(row("i" * 500, "\\boxed{" + "a\n" * 300 + "}"))
    assert all("\n" not in line and len(line) < 250 for line in lines)


def test_a_grader_that_is_not_there_is_refused_before_a_trace_is_read():
    with pytest.raises(UsageError, match="nowhere"):
        judge(iter([]), 0, None, "nowhere.py:grade")
