"""A pool of problems, and an engine that solves each of them so many times as it is told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dail.synth.engine.base import Engine, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.train.evals import run
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import TableEngine

Scripted = Callable[[Mapping[int, int]], list[TokenSequence]]


def say(number: int, **fields: Any) -> dict[str, Any]:
    """A row whose problem is to say a number."""
    return {
        "id": f"p{number}",
        "problem": f"Say {number}.",
        "solution": f"It is \\boxed{{{number}}}.",
        "answer": str(number),
        **fields,
    }


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """Makes engines that are right about `Say N.` the first `times[N]` times; gives the list of what they are asked."""

    def script(times: Mapping[int, int]) -> list[TokenSequence]:
        prompts = Prompts(DEMO_MODEL)
        number_of = {tuple(prompts.student_ids(f"Say {number}.")): number for number in range(40)}
        answered, asked = Counter[int](), list[TokenSequence]()

        def answer(row: TokenSequence) -> list[int]:
            asked.append(row)
            number = number_of[tuple(row.prompt_ids)]
            answered[number] += 1
            right = answered[number] <= times.get(number, 0)
            return prompts.tokenizer.encode(rf"\boxed{{{number if right else 777}}}", add_special_tokens=False)

        def engine(*_: Any) -> Engine:
            return TableEngine(answer)

        monkeypatch.setattr(run, "start_engine", engine)
        return asked

    return script
