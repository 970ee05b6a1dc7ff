"""A coroutine run to its end from anywhere: a script, a thread, or a notebook, where a loop is running already."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


class Stop(threading.Event):
    """Asks a run to end early and to keep what it has; `set()` it from another thread or from a signal's handler.

    `is_heard`: a run looks at it now. Before and after that, a handler had better raise KeyboardInterrupt.
    """

    is_heard = False
    signal: int | None = None  # by which it was set

    @contextmanager
    def listened_to(self) -> Iterator[None]:
        """While a run looks at it."""
        self.is_heard = True
        try:
            yield
        finally:
            self.is_heard = False


def run_to_end(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns. It blocks; in a coroutine of your own: `await asyncio.to_thread(...)`.

    KeyboardInterrupt cancels the coroutine and is raised once that has cleaned up.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(make())
    return _in_a_thread(make)


def _in_a_thread(make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """A loop cannot run inside another, so it gets a thread, in which the context of the call holds."""
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []

    async def main() -> T:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs outside a task"
        running.append((asyncio.get_running_loop(), task))
        return await make()

    with ThreadPoolExecutor(1, thread_name_prefix="dail") as thread:  # leaving it waits for the thread
        result = thread.submit(copy_context().run, lambda: asyncio.run(main()))
        try:
            return result.result()
        except KeyboardInterrupt:
            for loop, task in running:
                with suppress(RuntimeError):  # it has just ended
                    loop.call_soon_threadsafe(task.cancel)
            raise
