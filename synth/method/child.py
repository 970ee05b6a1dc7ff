"""A module of ours as a child process, for a function of a user's: it may hang, die, print, or start programs.

One JSON line goes in, one comes out. The first line out comes by itself: what was loaded, or a text that says why not.

    child = Child(["dail.synth.method.grading", "5.0", "math"])
    child.receive(lambda: False)      True
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import IO, Any

from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import Extension
from dail.synth.core.owner import end_with_pipe


class Child:
    """Ends when our end of its pipe does, or at `kill`.

    Args:
        module: its name, and its arguments.
        stderr: of `subprocess`; ours if left out.

    Raises (from `ask` and `receive`):
        EOFError: it has ended.
    """

    def __init__(self, module: Sequence[str], stderr: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", *module],  # -P: not the folder we stand in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,  # Ctrl-C is for us, and what it starts ends with it
        )

    def ask(self, request: object, is_over: Callable[[], bool], look_s: float) -> Any:
        """Its reply. Raises TimeoutError: `is_over`, which is asked every `look_s` seconds, says so before."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        return self.receive(is_over, look_s)

    def receive(self, is_over: Callable[[], bool], look_s: float = 0.5) -> Any:
        """As `ask`, without asking."""
        assert self.process.stdout is not None
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(look_s):
                    if is_over():
                        raise TimeoutError
                    continue
                block = os.read(self.process.stdout.fileno(), 1 << 16)
                if not block:
                    raise EOFError
                line += block
        return json.loads(line)

    def kill(self) -> None:
        """Ends it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()  # reaps it and closes both pipes


def own_pipes() -> tuple[IO[str], IO[str]]:
    """In the child, both pipes under other numbers, which no program inherits: whatever a user's function, a library or
    a program that it starts prints is no reply, and what they read is no request. It ends with who writes requests."""
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    end_with_pipe(requests.fileno())
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return requests, replies


def send(replies: IO[str], reply: object) -> None:
    """The child's side of `Child.receive`."""
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def load_function(extension: Extension, pinned: str, first: str, second: str) -> Callable[[Any, Any], Any] | str:
    """A function of a user's, which takes `first` and `second`, or in words why there is none."""
    place = pinned.partition("#")[0]
    try:
        found = extension.load(pinned)
    except UsageError as error:
        return str(error)
    except BaseException as error:  # a file that calls sys.exit
        return f"{extension.what} {place} cannot be imported: {type(error).__name__}: {error}"
    if not callable(found):
        return f"{extension.what} {place} is a {type(found).__name__}; wanted a function of {first} and {second}"
    try:
        inspect.signature(found).bind("", "")
    except TypeError as error:
        article = "an" if second[0] in "aeiou" else "a"
        return (
            f"{extension.what} {place} cannot be called with a {first} and {article} {second}: {error}; give it two "
            "parameters"
        )
    except ValueError:  # written in C, it may have no signature
        pass
    function: Callable[[Any, Any], Any] = found
    return function
