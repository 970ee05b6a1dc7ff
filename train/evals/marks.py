"""Shortcuts in completions: a function of the user's own says where they are, and an evaluation counts and shows them.

Which pass@k does not tell: whether a model that is right got there by the steps it writes. What a shortcut is depends
on the problems (a step left out, a result that comes from nowhere), so nothing is built in.

The function runs in a process of its own, which ends with ours and can be ended if it goes on for ever.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import Extension
from dail.synth.core.progress import progress
from dail.synth.method.child import Child, load_function, own_pipes, send
from dail.train.evals.problems import EvalProblem

if TYPE_CHECKING:
    from dail.train.evals.run import Judged  # loads the engine, which the child has no use for

MARKS = Extension("marks", "dail.marks", ())
_START_S, _LONGEST_S = 120.0, 60.0  # of importing it, and for one completion
_LOOK_S = 0.5

Span = tuple[int, int]  # of characters of a completion's text, the end left out
Spans = dict[str, tuple[Span, ...]]  # of the completions, by key


class Mark(Protocol):
    """A function of your own that finds shortcuts: where in a completion's text they are, as pairs of its characters.

    It gets the text as the grader does, and the problem as the file of problems has it (`id`, `problem`, `answer`,
    `metadata`). Results that are stated before anything led to them, in a made-up world of sums:

        def jumps(completion: str, problem: EvalProblem) -> list[tuple[int, int]]:
            return [match.span() for match in re.finditer(r"clearly|obviously|one can see that", completion)]

    `eval.marks` names it: FILE.py:NAME, MODULE:NAME, or an entry point of the group dail.marks. Nothing found is an
    empty list. What it raises, or a pair that is no part of the text, is its mistake and ends the evaluation, which
    keeps the completions.
    """

    def __call__(self, completion: str, problem: EvalProblem, /) -> Sequence[Span]: ...


def find_marks(marker: Marker, judged: Sequence[Judged], problems: Sequence[EvalProblem]) -> Spans:
    """The shortcuts of every completion. Raises UsageError: the function erred."""
    by_id = {problem.id: problem for problem in problems}
    found: Spans = {}
    with progress("looking for shortcuts", len(judged)) as bar:
        for done, said in enumerate((one.completion for one in judged), 1):
            try:
                found[said.key] = marker.spans(said.text, by_id[said.problem_id])
            except UsageError as error:
                where = f"problem {said.problem_id}, sample {said.sample} of {said.arm}"
                raise UsageError(f"{where}: {error}; the completions are kept") from None
            bar.update(done)
    return found


class Marker:
    """`python -m dail.train.evals.marks PINNED`; a text as its reply says what is wrong.

        with Marker("shortcuts.py:jumps#…") as marker:
            marker.spans("Clearly it is 4.", problem)      ((0, 7),)

    Entering refuses what cannot be loaded.
    """

    def __init__(self, pinned: str) -> None:
        self._pinned = pinned

    def __enter__(self) -> Self:
        self._child = Child(["dail.train.evals.marks", self._pinned])
        try:
            self._reply(self._child.receive, _START_S)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._child.kill()

    def spans(self, text: str, problem: EvalProblem) -> tuple[Span, ...]:
        """Raises UsageError: the function erred, or took too long."""
        ask = partial(self._child.ask, [text, problem.model_dump(mode="json")])
        return tuple((start, end) for start, end in self._reply(ask, _LONGEST_S))

    def _reply(self, ask: Callable[[Callable[[], bool], float], Any], longest_s: float) -> Any:
        deadline = time.monotonic() + longest_s
        name = f"marks {self._pinned.partition('#')[0]}"
        try:
            reply = ask(lambda: time.monotonic() > deadline, _LOOK_S)
        except TimeoutError:
            raise UsageError(f"{name} took longer than {longest_s:g} s; correct it and run again") from None
        except EOFError:
            code = self._child.process.wait()
            raise UsageError(f"{name} ended its process (exit code {code}); correct it and run again") from None
        if isinstance(reply, str):
            raise UsageError(reply)
        return reply


def clipped(spans: Sequence[Span], start: int, end: int) -> tuple[Span, ...]:
    """What of the spans is in a part of the text, counted from the part's beginning; what overlaps is one.

    >>> clipped([(0, 4), (3, 6), (8, 20)], 2, 10)
    ((0, 4), (6, 8))
    """
    found: list[Span] = []
    for one in sorted(spans):
        first, last = max(one[0], start) - start, min(one[1], end) - start
        if first >= last:
            continue
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(last, found[-1][1])
        else:
            found.append((first, last))
    return tuple(found)


def _serve(pinned: str) -> None:
    """The child's whole life; it ends when our end of its pipe does."""
    requests, replies = own_pipes()
    mark = load_function(MARKS, pinned, "completion", "problem")
    send(replies, mark if isinstance(mark, str) else None)
    if isinstance(mark, str):
        return
    for line in requests:
        text, problem = json.loads(line)
        send(replies, _checked(mark, pinned.partition("#")[0], text, EvalProblem.model_validate(problem)))


def _checked(mark: Callable[[str, EvalProblem], Any], place: str, text: str, problem: EvalProblem) -> list[Span] | str:
    try:
        found = [(start, end) for start, end in mark(text, problem)]
    except BaseException as error:  # sys.exit is a mistake too
        return (
            f"marks {place} failed with {type(error).__name__}: {error!s:.500}{_line_of(error)}; wanted pairs of "
            "characters, as [(0, 7)]; correct it and run again"
        )
    for start, end in found:
        if not (type(start) is int and type(end) is int and 0 <= start < end <= len(text)):
            return (
                f"marks {place} returned ({start!r}, {end!r}) for a text of {len(text)} characters; wanted whole "
                "numbers, 0 <= start < end <= its length; correct it and run again"
            )
    return found


def _line_of(error: BaseException) -> str:
    """Where in the function's own code it failed."""
    frames = traceback.extract_tb(error.__traceback__)[1:]
    return f", in line {frames[0].lineno} of {Path(frames[0].filename).name}" if frames else ""


if __name__ == "__main__":
    _serve(sys.argv[1])
