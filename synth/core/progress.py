"""How far a piece of work is, told to whoever listens: nobody, a caller's function, or a verb's bar.

    with progress("sampling", total=128) as bar:
        bar.update(17, tokens_per_s=950.0)

    with waiting("starting Ray on this machine"):  # nobody knows how long it takes
        ray.init()

Who listens is a context variable: it reaches every step of a call, and no other call that runs beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Progress:
    """What a listener is told. `title` names the piece of work: units, training, sampling and so on."""

    title: str
    done: int
    total: int
    figures: Mapping[str, object] = field(default_factory=dict)


OnProgress = Callable[[Progress], None]


class Bar(Protocol):
    def update(self, done: int, total: int | None = None, **figures: object) -> None:
        """`total`, where given, is the new one."""


MakeBar = Callable[[str, int], AbstractContextManager[Bar]]


class _Calls:
    """A bar that is a caller's function."""

    def __init__(self, on_progress: OnProgress | None, title: str, total: int) -> None:
        self._on_progress, self._title, self._total = on_progress, title, total

    def update(self, done: int, total: int | None = None, **figures: object) -> None:
        self._total = self._total if total is None else total
        if self._on_progress:
            self._on_progress(Progress(self._title, done, self._total, figures))


def _calling(on_progress: OnProgress | None) -> MakeBar:
    @contextmanager
    def make(title: str, total: int) -> Iterator[Bar]:
        yield _Calls(on_progress, title, total)

    return make


MakeWait = Callable[[str], AbstractContextManager[None]]


def _silently(what: str) -> AbstractContextManager[None]:
    return nullcontext()


_SILENT = _calling(None)
_MAKE_BAR: ContextVar[MakeBar] = ContextVar("make_bar", default=_SILENT)
_MAKE_WAIT: ContextVar[MakeWait] = ContextVar("make_wait", default=_silently)


def progress(title: str, total: int) -> AbstractContextManager[Bar]:
    """A bar for a piece of work, as whoever called wants to see it."""
    return _MAKE_BAR.get()(title, total)


def waiting(what: str) -> AbstractContextManager[None]:
    """Says what is waited for while the block runs, where a verb shows it; functions that listen are not called."""
    return _MAKE_WAIT.get()(what)


@contextmanager
def shown_on(make_bar: MakeBar, make_wait: MakeWait = _silently) -> Iterator[None]:
    """Shows what is done inside on bars of this make, and what is waited for."""
    bars, waits = _MAKE_BAR.set(make_bar), _MAKE_WAIT.set(make_wait)
    try:
        yield
    finally:
        _MAKE_BAR.reset(bars)
        _MAKE_WAIT.reset(waits)


@contextmanager
def told_to(on_progress: OnProgress | None) -> Iterator[None]:
    """Calls this function with what is done inside; with none, whoever listened before goes on listening."""
    if on_progress is None:
        yield
        return
    with shown_on(_calling(on_progress)):
        yield
