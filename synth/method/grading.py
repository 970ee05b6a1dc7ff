r"""Does this completion answer the problem? The content of its last `\boxed{}` against the known answer (paper §3.1).

Two integers are compared as numbers. All else goes to math-verify, which can loop or eat memory on what a model
writes (`\boxed{9^{9^{9^9}}}`), and whose own time limit needs SIGALRM in the main thread, which a Ray worker or a
thread cannot give. So it runs in a child process that is killed and replaced when it exceeds its time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from dail.synth.core.errors import DailError, UsageError
from dail.synth.method.waypoints import final_answer

Method = Literal["integer", "math-verify", "none", "timeout"]

_START_S = 120.0  # of the child: importing sympy, on a busy machine
_MEMORY_BYTES = 4 << 30  # of the child's address space; an ordinary comparison needs a tenth of it
_ANSWER_CHARS = 2000  # a longer one is a text in a box; the parser's regular expressions are not linear
_INTEGER = re.compile(r"[+-]?\d{1,1000}")


@dataclass(frozen=True)
class Verdict:
    """`method` says who judged: nobody if there is no box, "timeout" if the comparison was given up as wrong."""

    correct: bool
    method: Method
    extracted: str | None


class Grader:
    """Judges completions, one thread at a time. The child starts at the first answer that is not an integer.

        with Grader() as grader:
            grader.grade(r"So it is \boxed{075}.", "75")      Verdict(True, "integer", "075")

    Raises (from grade):
        DailError: the child process cannot be started.
    """

    def __init__(self, timeout_s: float = 5.0) -> None:
        if importlib.util.find_spec("math_verify") is None:
            raise UsageError("grading needs the package math-verify; run: pip install 'dail[worker]'")
        self._timeout_s = timeout_s
        self._child: _Child | None = None
        # of 128 samples most give the same few answers, and one that takes too long should do so once
        self._known: dict[tuple[str, str], tuple[bool, Method]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def grade(self, completion: str, answer: str) -> Verdict:
        """A cut completion without a box is wrong; of several boxes the last one counts."""
        extracted = final_answer(completion)
        if extracted is None:
            return Verdict(False, "none", None)
        if (extracted, answer) not in self._known:
            self._known[extracted, answer] = self._compare(extracted, answer)
        return Verdict(*self._known[extracted, answer], extracted)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _compare(self, given: str, wanted: str) -> tuple[bool, Method]:
        integers = _integer(given), _integer(wanted)
        if None not in integers:
            return integers[0] == integers[1], "integer"
        if len(given) > _ANSWER_CHARS:
            return False, "math-verify"
        for _ in range(2):  # a child killed from outside gets a second try; what kills it by itself does so again
            if self._child is None:
                self._child = _Child(self._timeout_s)
            try:
                return self._child.equal(given, wanted), "math-verify"
            except TimeoutError:
                self.close()
                break
            except EOFError:
                self.close()
        return False, "timeout"


def _integer(text: str) -> int | None:
    digits = text.strip().strip("$").strip()
    return int(digits) if _INTEGER.fullmatch(digits) else None


class _Child:
    """`python -m dail.synth.method.grading`: one JSON line in, one out. It ends when our end of its pipe closes."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dail.synth.method.grading", str(timeout_s)],  # -P: not the folder we stand in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # the parser's complaints about what a model wrote
            start_new_session=True,  # Ctrl-C is for us
        )
        try:
            self._read(_START_S)
        except (EOFError, TimeoutError):
            self.kill()
            raise DailError(
                f"the grading process did not start (exit code {self._process.returncode}); "
                f"run `{sys.executable} -m dail.synth.method.grading 5` to see why"
            ) from None

    def equal(self, given: str, wanted: str) -> bool:
        """Raises TimeoutError, or EOFError if the child died."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([given, wanted]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise EOFError from None
        return self._read(self._timeout_s) == b"true\n"

    def _read(self, timeout_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                block = os.read(self._process.stdout.fileno(), 4096)
                if not block:
                    raise EOFError
                line += block
        return line

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()  # reaps it and closes both pipes


def _serve(timeout_s: float) -> None:
    """The child's whole life."""
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints is no reply
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (_MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most), most)
    )
    _math_verify_equal("1/2", "0.5")  # loads its parser before the first clock starts
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        # if the parent is gone nobody else will stop a comparison that does not end
        signal.setitimer(signal.ITIMER_REAL, timeout_s + 1)
        given, wanted = json.loads(line)
        equal = _math_verify_equal(given, wanted)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(equal), file=replies, flush=True)


def _math_verify_equal(given: str, wanted: str) -> bool:
    """math-verify's verdict, which is not symmetric: the known answer goes first. What it cannot read is unequal."""
    from math_verify import parse, verify

    # without raise_on_error, its default here, whatever a parse or a comparison raises reads as "not equal"
    gold, prediction = (parse(rf"\boxed{{{text}}}", parsing_timeout=None) for text in (wanted, given))
    return bool(verify(gold, prediction, timeout_seconds=None))


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
