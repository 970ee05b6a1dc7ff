r"""Does this completion answer the problem? By the built-in graders `math` and `official`, or by one of the user's own
(`Grade`).

`math` is the paper's (§3.1): the content of the last `\boxed{}` behind the thought against the known answer. What needs
no algebra is decided exactly (`answers.py`). All else goes to math-verify, which can loop or eat memory on what a
model writes (`\boxed{9^{9^{9^9}}}`), and whose own time limit needs SIGALRM in the main thread, which a Ray worker or a
thread cannot give. So it runs in a child process that is killed and replaced when it exceeds its time, of its own
(`child_time.py`): a verdict must not depend on what else the machine does. An own grader runs there too, under the same
limits. `official` compares the same box as text (`same_text.py`).
"""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self

from dail.synth.core.errors import DailError, UsageError
from dail.synth.core.extensions import label
from dail.synth.method.algebra import equal_by_algebra
from dail.synth.method.answers import chosen, compare
from dail.synth.method.child import Child, load_function, own_pipes, send
from dail.synth.method.child_time import SessionTime
from dail.synth.method.same_text import same_text
from dail.synth.method.thoughts import behind_thought
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.selection import GRADERS as GRADERS
from dail.synth.schema.selection import MATH as MATH
from dail.synth.schema.selection import OFFICIAL as OFFICIAL

BY_BOX = (MATH, OFFICIAL)  # graders that judge the last box behind the thought

_START_S = 120.0  # of the child: importing sympy, on a busy machine
_MEMORY_BYTES = 4 << 30  # of the child's address space; an ordinary comparison needs a tenth of it
_ANSWER_CHARS = 2000  # a longer one is a text in a box; the parser's regular expressions are not linear
_NEAR, _EXACT = 1e-6, 1e-20  # relative, of a known answer with and without decimals
_EXACT_DIGITS = {"float_rounding": 20, "numeric_precision": 40}  # of math-verify, whose own are 6 and 15
_DECIMAL = re.compile(r"(?<![0-9.^_A-Za-z])([0-9]{0,15})\.([0-9]{1,15})(?![0-9.]|\s*\\?%|\s*\\overline)")
CUT_IN_THOUGHT, TIMEOUT = "cut in thought", "timeout"
_LOOK_S = 0.25  # between two looks at how much time the child has had


class Grade(Protocol):
    r"""A grader of your own: a function that says whether a completion answers a problem.

    It gets the completion's whole text, without special tokens but for marks of thoughts, and the problem's `answer` as
    the file of problems has it: any text, such as a statute or tests. In law, the statute that is cited last counts:

        def statute(completion: str, answer: str) -> bool:
            cited = re.findall(r"§ ?\d+[a-z]? [A-Z]\w+", completion)
            return bool(cited) and cited[-1] == answer

    In code, the answer is tests, which are run behind the program:

        def passes(completion: str, answer: str) -> bool:
            programs = re.findall(r"```python\n(.*?)```", completion, re.DOTALL)
            return bool(programs) and not subprocess.run([sys.executable, "-c", programs[-1] + answer]).returncode

    `eval.grader` names it: FILE.py:NAME, MODULE:NAME, or an entry point of the group dail.graders. It runs in a process
    of its own, with `eval.grade_timeout_s` for one completion and 4 GiB of memory; what exceeds the time is given up,
    and what it started is ended. That is no sandbox: what a model wrote runs with your rights. An exception, or a value
    that is no bool, is a mistake of the grader and ends the evaluation. The same completion is judged once.
    """

    def __call__(self, completion: str, answer: str, /) -> bool: ...


@dataclass(frozen=True)
class Verdict:
    """`method` says who judged: "exact" (`answers.compare`), "math-verify" or "official"; nobody if there was no answer
    for them: "cut in thought", or "none" without a box; "timeout" if it was given up, so that nobody knows; else the
    label of an own grader, NAME#DIGEST, which extracts nothing."""

    correct: bool
    method: str
    extracted: str | None


class Grader:
    """Judges completions, one thread at a time.

        with Grader() as grader:
            grader.grade(r"So it is \boxed{075}.", "75")      Verdict(True, "exact", "075")

    The child of an own grader starts on entering, which refuses what cannot be loaded; that of `math` at the first
    answer that takes algebra; `official` has none.

    Raises (from all of it):
        UsageError: there is no such grader, it cannot be loaded, it changed, or it made a mistake.
        DailError: the child process cannot be started.
        ModuleNotFoundError: `math` without math-verify.
    """

    def __init__(self, timeout_s: float = 5.0, reference: str = MATH) -> None:
        self._pinned = GRADERS.pin(reference)
        self._is_math = self._pinned == MATH
        if self._is_math and importlib.util.find_spec("math_verify") is None:
            missing = "grading needs the package math-verify; run: pip install 'dail[train]'"
            raise ModuleNotFoundError(missing, name="math-verify")
        self._timeout_s = timeout_s
        self._child: _Child | None = None
        # of 128 samples most give the same few answers, and one that takes too long by itself should do so once
        self._known: dict[tuple[str, str], tuple[bool, str]] = {}

    def __enter__(self) -> Self:
        if self._pinned not in BY_BOX:
            self._child = _Child(self._timeout_s, self._pinned)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def grade(self, completion: str, answer: str, in_thought: bool = False, choices: Sequence[str] = ()) -> Verdict:
        """To the built-in graders a completion without a box behind its thought is wrong; of several boxes the last one
        counts.

        Args:
            in_thought: the completion's prompt ends inside a thought, which it goes on with.
            choices: of a problem whose answer is a letter, the texts in their order: to `math`, the text of one of them
                in the box names it, as its letter does.
        """
        if self._pinned not in BY_BOX:
            return Verdict(*self._judge(completion, answer), None)
        said = behind_thought(completion, in_thought)
        if said is None:
            return Verdict(False, CUT_IN_THOUGHT, None)
        extracted = final_answer(said)
        if extracted is None:
            return Verdict(False, "none", None)
        letter = chosen(extracted, choices) if self._is_math and len(extracted) <= _ANSWER_CHARS else None
        return Verdict(*self._judge(letter or extracted, answer), extracted)

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _judge(self, given: str, wanted: str) -> tuple[bool, str]:
        if (given, wanted) not in self._known:
            judge = {MATH: self._compare, OFFICIAL: self._official}.get(self._pinned, self._ask)
            try:
                self._known[given, wanted] = judge(given, wanted)
            except _HeldUp:
                return False, TIMEOUT
        return self._known[given, wanted]

    def _compare(self, given: str, wanted: str) -> tuple[bool, str]:
        if len(given) > _ANSWER_CHARS:
            return False, "exact"
        decided = compare(given, wanted)
        return (decided, "exact") if isinstance(decided, bool) else self._ask(*decided)

    def _official(self, given: str, wanted: str) -> tuple[bool, str]:
        return same_text(given, wanted), OFFICIAL

    def _ask(self, given: str, wanted: str) -> tuple[bool, str]:
        """Raises _HeldUp if it ended for another reason than what was asked, so that another time it may go well."""
        for _ in range(2):  # a child killed from outside gets a second try; what kills it by itself does so again
            if self._child is None:
                self._child = _Child(self._timeout_s, self._pinned)
            try:
                return self._child.judge(given, wanted), "math-verify" if self._is_math else label(self._pinned)
            except TimeoutError:
                self.close()
                return False, TIMEOUT
            except EOFError:
                self.close()
        raise _HeldUp


class _HeldUp(Exception):
    """The child died, or was kept from running, twice."""


class _Child(Child):
    """`python -m dail.synth.method.grading TIMEOUT GRADER`. A text as its reply says what is wrong with the grader."""

    def __init__(self, timeout_s: float, pinned: str) -> None:
        self._timeout_s = timeout_s
        module = ["dail.synth.method.grading", str(timeout_s), pinned]
        super().__init__(module, subprocess.DEVNULL)  # the parser complains about what a model wrote
        try:
            deadline = time.monotonic() + _START_S
            _checked(self.receive(lambda: time.monotonic() > deadline))
        except (EOFError, TimeoutError):
            self.kill()
            raise DailError(
                f"the grading process did not start (exit code {self.process.returncode}); "
                f"run `{sys.executable} -m {' '.join(module)}` to see why"
            ) from None
        except BaseException:  # what is wrong with the grader, or Ctrl-C
            self.kill()
            raise

    def judge(self, given: str, wanted: str) -> bool:
        """Raises TimeoutError, EOFError if the child died or was held up, or UsageError if the grader is mistaken."""
        spent = SessionTime(self.process.pid)
        look_s = min(_LOOK_S, self._timeout_s)
        try:
            return bool(_checked(self.ask([given, wanted], lambda: spent.is_over(self._timeout_s), look_s)))
        except TimeoutError:
            if spent.spent_s() < self._timeout_s:  # kept from running all the while: nothing is known about this text
                raise EOFError from None
            raise


def _checked(reply: Any) -> Any:
    if isinstance(reply, str):
        raise UsageError(reply)
    return reply


def _serve(timeout_s: float, pinned: str) -> None:
    """The child's whole life."""
    requests, replies = own_pipes()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(
        resource.RLIMIT_AS, (_MEMORY_BYTES if most == resource.RLIM_INFINITY else min(_MEMORY_BYTES, most), most)
    )
    loaded = _loaded(pinned)
    send(replies, loaded if isinstance(loaded, str) else True)
    if isinstance(loaded, str):
        return
    for line in requests:
        # if the parent is gone nobody else stops a comparison that keeps every thread of ours from running, as a power
        # of large numbers does; processor time, like the parent's
        signal.setitimer(signal.ITIMER_PROF, timeout_s + 1)
        reply = loaded(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(replies, reply)


def _loaded(pinned: str) -> Callable[[str, str], bool | str] | str:
    """What judges, or why there is nothing: what it gives is a verdict, or what is wrong with the grader."""
    if pinned == MATH:
        _math_verify_equal("1/2", "0.5")  # loads its parser before the first clock starts
        return _math_verify_equal
    grade = load_function(GRADERS, pinned, "completion", "answer")
    return grade if isinstance(grade, str) else partial(_verdict, grade, pinned.partition("#")[0])


def _verdict(grade: Grade, place: str, completion: str, answer: str) -> bool | str:
    try:
        correct: object = grade(completion, answer)
        if isinstance(correct, bool):
            return correct
        fault = f"returned {correct!r:.200}; wanted True or False"
    except BaseException as error:  # sys.exit would look like a child that was killed
        fault = f"failed with {type(error).__name__}: {error!s:.500}{_line_of(error)}"
        if isinstance(error, MemoryError):
            fault += f"; it may take {_MEMORY_BYTES >> 30} GiB"
    return f"grader {place} {fault}; correct it and run again"


def _line_of(error: BaseException) -> str:
    """The last line of the grader's own file on the way to what failed."""
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is our call
    if not frames:
        return ""
    last = [frame for frame in frames if frame.filename == frames[0].filename][-1]
    return f", in line {last.lineno} of {last.filename}: {last.line}"


def _math_verify_equal(given: str, wanted: str) -> bool:
    """math-verify's verdict, which is not symmetric: the known answer goes first. What it cannot read is unequal, as
    are numbers that differ beyond rounding.

    It compares to six decimals, which makes 3.1415927 equal to pi. That is for a known answer that is a decimal itself;
    beside any other, also 0.5 pi, a decimal is what it says, and must be equal to many digits.
    """
    gold, prediction = _parsed(wanted), _parsed(given)
    if any(_is_rounded(one) for one in gold):
        return _verified(gold, prediction, {}, _NEAR)
    gold = [_exact(one) for one in gold]
    found = [[_exact(one) for one in prediction]]
    if (as_fractions := _DECIMAL.sub(_as_fraction, given)) != given:  # it computes e^{0.5} while it reads it
        found.append([_exact(one) for one in _parsed(as_fractions)])
    return any(_verified(gold, one, _EXACT_DIGITS, _EXACT) for one in found)


def _parsed(text: str) -> list[Any]:
    """What math-verify reads. Left to itself it takes what looks like a unit from the end, also variables: 2 - 2m is 0,
    and 2ab is 2 to it. Units that are marked as words, or stand behind a number, were taken before (`answers.py`).
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    latex = LatexExtractionConfig()
    latex = replace(latex, normalization_config=replace(latex.normalization_config, units=False))
    # without raise_on_error, its default here, whatever a parse or a comparison raises reads as "not equal"
    return list(
        parse(
            rf"\boxed{{{text}}}",
            extraction_config=[latex, ExprExtractionConfig()],
            parsing_timeout=None,
        )
    )


def _verified(gold: list[Any], prediction: list[Any], digits: dict[str, int], near: float) -> bool:
    from math_verify import verify

    if bool(verify(gold, prediction, timeout_seconds=None, **digits)) and not _far_apart(gold, prediction, near):
        return True
    return equal_by_algebra(gold, prediction)


def _as_fraction(decimal: re.Match[str]) -> str:
    return rf"\frac{{{int(decimal[1] + decimal[2])}}}{{{10 ** len(decimal[2])}}}"


def _is_rounded(parsed: Any) -> bool:
    """Whether it is a decimal, or holds one as an item."""
    if type(parsed).__name__ in ("Tuple", "FiniteSet", "Interval"):
        items = parsed.args
    else:
        items = list(parsed) if hasattr(parsed, "tolist") else [parsed]  # a matrix
    return any(getattr(one, "is_Float", False) for one in items)


def _decimals(parsed: Any) -> set[Any]:
    from sympy import Float

    return set(parsed.atoms(Float)) if hasattr(parsed, "atoms") else set()


def _exact(parsed: Any) -> Any:
    """With each decimal as the fraction that it says."""
    from sympy import Rational

    return parsed.xreplace({one: Rational(str(one)) for one in found}) if (found := _decimals(parsed)) else parsed


def _far_apart(gold: list[Any], prediction: list[Any], near: float) -> bool:
    """Whether both are real numbers and differ relative to their size: 2^{-70} pi is not 2^{-71} pi."""
    ours, theirs = prediction[0], gold[0]
    if not (getattr(ours, "is_extended_real", False) and getattr(theirs, "is_extended_real", False)):
        return False
    if not (ours.is_number and theirs.is_number) or ours == theirs or "%" in f"{prediction[1:]}{gold[1:]}":
        return False
    difference, size = abs((ours - theirs).evalf(30)), max(abs(ours.evalf(30)), abs(theirs.evalf(30)))
    return bool(difference > near * size)


if __name__ == "__main__":
    _serve(float(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else MATH)
