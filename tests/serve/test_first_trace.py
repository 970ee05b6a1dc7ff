"""The demo shows a trace in colours by who wrote each token, as soon as there is one."""

from __future__ import annotations

from typing import Any

import pytest

from dail.serve import first_trace
from dail.serve.first_trace import FirstTrace, described

ESCAPE = chr(27)


def trace(*tokens: tuple[str, float | None], problem: str = "What is 1 + 1?") -> dict[str, Any]:
    texts, probs = zip(*tokens, strict=True)
    return {"item_id": "a", "problem": problem, "token_texts": list(texts), "student_prob": list(probs)}


def test_the_tokens_of_both_are_told_apart_with_and_without_colours():
    found = trace(("It ", 1.0), ("is ", 1.0), ("two", 0.0), (".", None), ("<|im_end|>", None))
    first, *legend, problem, written = described(found, 80, in_colour=False)
    assert (first, problem, written) == ("the first trace (a), 67 % by the student", "What is 1 + 1?", "It is ⟦two⟧.")
    assert "⟦…⟧" in " ".join(legend)
    *_, written = described(found, 80, in_colour=True)
    assert f"{ESCAPE}[1;30;43mtwo{ESCAPE}[0m" in written and "⟦" not in written


def test_a_long_trace_takes_few_lines_and_none_is_too_wide():
    found = trace(*((f"word{n} ", float(n % 3 > 0)) for n in range(5000)), problem="Long. " * 500)
    lines = described(found, 60, in_colour=False)
    assert len(lines) <= 20 and max(map(len, lines)) <= 60 and lines[-1] == "…"


def test_what_steers_a_terminal_does_not_reach_it():
    found = trace((f"a{ESCAPE}[2Jb\r\n", 0.0), ("c", 1.0), problem=f"{ESCAPE}]0;x")
    lines = described(found, 60, in_colour=False)
    assert all(ESCAPE not in line and "\r" not in line for line in lines) and "[2J" in "".join(lines)
    assert f"{ESCAPE}[2J" not in "".join(described(found, 60, in_colour=True))


def test_it_is_shown_once_and_not_before_there_is_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    shards: list[Any] = []

    class Api:
        def get(self, path: str) -> Any:
            return {"data": shards}

    monkeypatch.setattr(first_trace, "rows", lambda client, batch: iter([trace(("It ", 1.0), ("is.", 0.0))]))
    first = FirstTrace(Api(), "b")  # type: ignore[arg-type]
    first.look()
    assert not capsys.readouterr().err
    shards.append({})
    first.look()
    first.look()
    assert capsys.readouterr().err.count("It ⟦is.⟧") == 1
