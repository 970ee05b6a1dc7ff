"""A batch's first trace, in colours by who wrote each token, as soon as it is committed: what the demo shows first."""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click

from dail.serve.judged import rows
from dail.synth.core.console import plain
from dail.synth.core.http import Client

_LINES = 12
_END = re.compile(r"(<\|[^|<>]+\|>|</s>)$")  # the mark that ends a turn says nothing to a reader
_STUDENT, _PRIVILEGED = "cyan", "yellow"


class FirstTrace:
    """Shown once, on standard error: look as often as you like."""

    def __init__(self, client: Client, batch_id: str) -> None:
        self._client, self._batch_id, self._is_shown = client, batch_id, False

    def look(self) -> None:
        if self._is_shown or not self._client.get(f"/v1/batches/{self._batch_id}/shards")["data"]:
            return
        if trace := next(rows(self._client, self._batch_id), None):
            self._is_shown = True
            width = max(20, min(100, shutil.get_terminal_size().columns - 7))
            for line in described(trace, width):
                # not click's echo, which writes past the bar that is drawn there
                print(f"     {line if sys.stderr.isatty() else click.unstyle(line)}", file=sys.stderr, flush=True)


def described(trace: dict[str, Any], width: int) -> list[str]:
    """The problem, and the trace in colours; without colours the privileged student's words are in ‹ ›."""
    known = [one for one in trace["student_prob"] if one is not None]
    share = sum(known) / max(1, len(known))
    problem = textwrap.shorten(plain(trace["problem"]), 3 * width, placeholder=" …")
    key = f"{click.style('the student', _STUDENT)}, {_by_privileged('‹the privileged student›')}"
    return [
        f"the first trace ({plain(trace['item_id'])}), {100 * share:.0f} % by the student",
        key,
        *(click.style(line, dim=True) for line in textwrap.wrap(problem, width)[:3]),
        *_coloured(list(_stretches(trace["token_texts"], trace["student_prob"])), width),
    ]


def _stretches(texts: Sequence[str], probs: Sequence[float | None]) -> Iterator[tuple[str, bool]]:
    """Text that one of them wrote; whether it was the student, who has the benefit of the doubt."""
    text, is_student = "", True
    for piece, prob in zip(texts, probs, strict=True):
        by_student = prob is None or prob >= 0.5
        if by_student != is_student and text:
            yield text, is_student
            text = ""
        text, is_student = text + piece, by_student
    if text := _END.sub("", text):
        yield text, is_student


def _coloured(stretches: Sequence[tuple[str, bool]], width: int) -> list[str]:
    lines, room = [""], width
    for text, is_student in stretches:
        marked = plain(text) if is_student else f"‹{plain(text)}›"
        for number, row in enumerate(marked.split("\n")):
            if number:
                lines.append("")
                room = width
            while row:
                if not room:
                    lines.append("")
                    room = width
                piece, row = row[:room], row[room:]
                room -= len(piece)
                lines[-1] += click.style(piece, _STUDENT) if is_student else _by_privileged(piece)
    return [*lines[:_LINES], "…"] if len(lines) > _LINES else lines


def _by_privileged(text: str) -> str:
    return click.style(text, _PRIVILEGED, underline=True)
