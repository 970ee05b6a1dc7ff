"""A batch's first trace, in colours by who wrote each token, as soon as it is committed: what the demo shows first."""

from __future__ import annotations

import io
import re
import shutil
import sys
import textwrap
from typing import Any

from rich.console import Console
from rich.text import Text

from dail.serve.judged import rows
from dail.synth.core.http import Client
from dail.synth.view.terminal import LEGEND, coloured
from dail.synth.view.traces import inked

_LINES = 12
_END = re.compile(r"<\|[^|<>]+\|>|</s>")  # the mark that ends a turn says nothing to a reader


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
            for line in described(trace, width, sys.stderr.isatty()):
                # not a console's own print, which writes past the bar that is drawn there
                print(f"     {line}", file=sys.stderr, flush=True)


def described(trace: dict[str, Any], width: int, in_colour: bool) -> list[str]:
    """Its problem, and the trace as `dail inspect` shows it, in lines of this width."""
    texts, probs = list(trace["token_texts"]), list(trace["student_prob"])
    if not texts:  # drawn by an older worker
        texts, probs = [trace["trace_text"]], [None]
    if _END.fullmatch(texts[-1]):
        texts, probs = texts[:-1], probs[:-1]
    known = [one for one in probs if one is not None]
    share = sum(known) / max(1, len(known))
    problem = textwrap.shorten(inked(trace["problem"]), 3 * width, placeholder=" …")
    # a terminal of its own, since what is shown goes through the bar's
    drawn = Console(file=io.StringIO(), width=width, color_system="standard" if in_colour else None)
    written = coloured(texts, probs, in_colour).wrap(drawn, width)
    shown = [
        Text(f"the first trace ({inked(trace['item_id'])}), {100 * share:.0f} % by the student"),
        *Text(LEGEND, "dim").wrap(drawn, width),
        *Text(problem, "dim").wrap(drawn, width)[:3],
        *written[:_LINES],
        *([Text("…")] if len(written) > _LINES else []),
    ]
    with drawn.capture() as captured:
        for line in shown:
            drawn.print(line, no_wrap=True, crop=True, highlight=False)
    return [line.rstrip() for line in captured.get().splitlines()]
