"""How every verb speaks: a live bar on a terminal, one line every 30 s elsewhere, JSON when asked.

For verbs alone. The rest of the code writes to loggers under `dail` and to `dail.synth.core.progress`, and knows no
terminal and no signal; `speaking()` shows both, and what handles signals is here too.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress as RichProgress

from dail.synth.core.bars import live_bar, spinner
from dail.synth.core.errors import EXIT_ERROR, ApiError, ExtensionError, StorageError, UsageError
from dail.synth.core.logs import LogFormat, as_event, log_as
from dail.synth.core.progress import shown_on
from dail.synth.core.running import Stop

_LINE_EVERY_S = 30.0
_ECHO_S = 1.0
_WORTH_A_LINE_S = 2.0  # a wait that was shorter is not spoken of again
_SPEAKERS = ("dail.synth", "dail.train")  # the API has a log of its own


class ConsoleBar:
    """A bar of `done` out of `total`, with named figures behind it. Lives on standard error."""

    def __init__(self, title: str, total: int, bar: RichProgress | None) -> None:
        self._title, self._total, self._bar = title, total, bar
        self._task = bar.add_task(title, total=total, figures=()) if bar else None
        self._said = time.monotonic()
        self._said_done = -1
        self._first: tuple[float, int] | None = None  # when there was first something done, and how much

    def update(self, done: int, total: int | None = None, **figures: object) -> None:
        """`figures` are shown as `name value`; floats with three digits, none not at all."""
        self._total = self._total if total is None else total
        if self._first is None and done:
            self._first = time.monotonic(), done
        words = [f"{_words(name)} {_short(value)}" for name, value in figures.items() if value is not None]
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=self._total, figures=words)
        elif time.monotonic() - self._said >= _LINE_EVERY_S or (done >= self._total and done != self._said_done):
            self._said, self._said_done = time.monotonic(), done
            print(
                f"{self._title}: {done}/{self._total}  {'  '.join(words)}  time left {self._left(done)}",
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
def console_bar(title: str, total: int) -> Iterator[ConsoleBar]:
    if not sys.stderr.isatty():
        yield ConsoleBar(title, total, None)
        return
    with live_bar(Console(stderr=True)) as bar:
        yield ConsoleBar(title, total, bar)


@contextmanager
def console_wait(what: str) -> Iterator[None]:
    """A spinner with the seconds on a terminal; elsewhere, and beside a live bar, a line now, every 30 s and behind."""
    began = time.monotonic()
    with _turning(what) if sys.stderr.isatty() else _repeating(what, began):
        yield
    if (seconds := time.monotonic() - began) >= _WORTH_A_LINE_S:
        say(f"{what}: done in {seconds:.0f} s")


@contextmanager
def _turning(what: str) -> Iterator[None]:
    with spinner(Console(stderr=True)) as turning:
        turning.add_task(what, total=None)
        yield


@contextmanager
def _repeating(what: str, began: float) -> Iterator[None]:
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(_LINE_EVERY_S):
            say(f"{what}: {time.monotonic() - began:.0f} s so far")

    say(f"{what} …")
    thread = threading.Thread(target=repeat, daemon=True, name="dail-waiting")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _words(name: str) -> str:
    """`tokens_per_s` as `tokens/s`."""
    return name.replace("_per_", "/").replace("_", " ")


def _short(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def plain(text: str) -> str:
    """Without the characters that steer a terminal: what others wrote comes along in many a line.

    >>> plain(chr(27) + "[31mred" + chr(0x202E) + chr(10))
    '[31mred\\n'
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else " " * one.isspace() for one in text)


def say(text: str) -> None:
    """A line for people, on standard error, so that standard output stays clean for `--json`."""
    print(plain(text), file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """One JSON object a line on standard output; NaN and infinities, which JSON does not know, as null.

    What steers a terminal or ends a line (U+2028) is spelled `\\u2028`, other letters as they are.
    """
    known = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    line = json.dumps(known, ensure_ascii=False)
    if not line.isprintable():
        line = "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)
    print(line, flush=True)


class _Speaker(logging.Handler):
    """A log's messages as lines for people."""

    def emit(self, record: logging.LogRecord) -> None:
        say(("warning: " if record.levelno == logging.WARNING else "") + record.getMessage())


@contextmanager
def speaking() -> Iterator[None]:
    """Shows what the library logs, and bars for its progress, on standard error."""
    speaker = _Speaker()
    before = [(log, log.level, log.propagate) for log in map(logging.getLogger, _SPEAKERS)]
    for log, _, _ in before:
        log.addHandler(speaker)
        log.setLevel(logging.INFO)
        log.propagate = False  # whoever else shows logs would say it twice
    try:
        with shown_on(console_bar, console_wait):
            yield
    finally:
        for log, level, propagates in before:
            log.removeHandler(speaker)
            log.setLevel(level)
            log.propagate = propagates


@contextmanager
def logged_as(form: LogFormat, **always: str) -> Iterator[Callable[[str], None]]:
    """Ends `speaking()` for a while where machines read: standard error is then the log, `always` in each line.

    Gives what tells a line to whoever reads. As JSON also what ends the verb is one; of an error whose words may not be
    ours, since an engine or a model's template said them, the code and the places alone.
    """
    if form == "text":
        yield say
        return
    logs = [logging.getLogger(), *map(logging.getLogger, ("dail", *_SPEAKERS))]
    before = [(log, log.handlers[:], log.level, log.propagate) for log in logs]
    for log in logs[2:]:
        log.handlers[:], log.propagate = [], True
    log_as(form, **always)
    verb = logging.getLogger("dail.verb")
    try:
        with shown_on(_NoBar), contextlib.redirect_stderr(_Lines(logging.getLogger("dail.stderr"))):
            yield verb.info
    except Exception as error:
        is_ours = isinstance(error, UsageError | ApiError | StorageError) and not isinstance(error, ExtensionError)
        event = {} if is_ours else as_event("verb_failed", code=getattr(error, "code", "internal"))
        verb.error(str(error), extra=event, exc_info=None if is_ours else error)
        sys.exit(getattr(error, "exit_code", EXIT_ERROR))
    finally:
        for log, handlers, level, propagates in before:
            log.handlers[:], log.propagate = handlers, propagates
            log.setLevel(level)


class _Lines(io.TextIOBase):
    """What others write to standard error, as Ray does of a process that died: lines of the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log, self._rest = log, ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(None, map(str.strip, lines)):
            self._log.info(line)
        return len(text)


class _NoBar(contextlib.AbstractContextManager["_NoBar"]):
    def __init__(self, title: str, total: int) -> None: ...

    def __exit__(self, *_: object) -> None: ...

    def update(self, done: int, total: int | None = None, **figures: object) -> None: ...


@contextmanager
def silent_unless(is_first: bool) -> Iterator[None]:
    """Of several ranks the first speaks; the others write nothing, nor do their libraries, but for errors."""
    if is_first:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield


def all_on_stderr() -> contextlib.AbstractContextManager[Any]:
    """Ray prints what becomes of its processes, and standard output belongs to `--json`."""
    return contextlib.redirect_stdout(sys.stderr)


@contextmanager
def stop_on_signals(second_ends: bool = False) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM ask the run to stop; where none looks at it, they end the verb at once.

    Args:
        second_ends: a second one ends the verb at once too, whether it is looked at or not; but not one that comes with
            the first under torchrun, which passes on to its ranks what the terminal has told them already.
    """
    stop, asked_at = Stop(), 0.0
    echo_s = _ECHO_S if "TORCHELASTIC_RUN_ID" in os.environ else 0.0

    def ask(number: int, _: object) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if not stop.is_heard or (second_ends and stop.is_set() and now - asked_at >= echo_s):
            if number == signal.SIGTERM:
                say("stopped by SIGTERM; rerun the same command to go on")
                sys.exit(128 + number)
            raise KeyboardInterrupt
        if not stop.is_set():
            asked_at = now
        stop.signal = number
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the verb as an exit does, so that Ray's processes are stopped."""

    def leave(number: int, _: object) -> None:
        sys.exit(number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
