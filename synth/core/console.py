"""How every verb speaks: a live bar on a terminal, one line every 30 s elsewhere, JSON when asked."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_LINE_EVERY_S = 30.0


class Progress:
    """A bar of `done` out of `total`, with named figures behind it. Lives on standard error."""

    def __init__(self, title: str, total: int, bar: RichProgress | None) -> None:
        self._title, self._total, self._bar = title, total, bar
        self._task = bar.add_task(title, total=total, figures="") if bar else None
        self._said = time.monotonic()
        self._said_done = -1
        self._first: tuple[float, int] | None = None  # when there was first something done, and how much

    def update(self, done: int, total: int | None = None, **figures: object) -> None:
        """`figures` are shown as `name value`; floats with three digits."""
        self._total = self._total if total is None else total
        if self._first is None and done:
            self._first = time.monotonic(), done
        text = "  ".join(f"{_words(name)} {_short(value)}" for name, value in figures.items())
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self._total, figures=text)
        elif time.monotonic() - self._said >= _LINE_EVERY_S or (done >= self._total and done != self._said_done):
            self._said, self._said_done = time.monotonic(), done
            print(
                f"{self._title}: {done}/{self._total}  {text}  time left {self._left(done)}",
                file=sys.stderr,
                flush=True,
            )

    def _left(self, done: int) -> str:
        """Neither what an earlier run did nor the wait for the first result says how fast it goes."""
        if done >= self._total:
            return "0 s"
        if self._first is None or done <= self._first[1]:
            return "unknown"
        since, before = self._first
        return f"{(time.monotonic() - since) / (done - before) * (self._total - done):.0f} s"


@contextmanager
def progress(title: str, total: int) -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield Progress(title, total, None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),  # with the figures, a line fits 80 columns
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bar:
        yield Progress(title, total, bar)


def _words(name: str) -> str:
    """`tokens_per_s` as `tokens/s`."""
    return name.replace("_per_", "/").replace("_", " ")


def _short(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def say(text: str) -> None:
    """A line for people, on standard error, so that standard output stays clean for `--json`."""
    print(text, file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """One JSON object a line on standard output; NaN and infinities, which JSON does not know, as null."""
    plain = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    print(json.dumps(plain, ensure_ascii=False), flush=True)
