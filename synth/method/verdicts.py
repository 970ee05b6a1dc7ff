"""What a run's traces are worth, before anybody trains on them: a verdict of each, and one line about all of them.

    120 of 125 verifiable traces right; the student wrote 94 %; 2 cut; 1 cites the solution (i7 #0): read it first

Whoever has the rows, of shards or over HTTP, hands in dicts with the columns `COLUMNS`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dail.synth.core.config import Frozen
from dail.synth.method.grading import TIMEOUT, Grader
from dail.synth.method.selection import Outcome
from dail.synth.method.thoughts import behind_thought
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.mentions import mentions

COLUMNS = ("item_id", "sample_index", "problem", "trace_text", "completion", "answer", "truncated")
MOST = 200  # traces of a run that are looked at
_WITHIN_S = 20.0  # and no longer than this: the whole run is judged by `dail select`
_GRADE_S = 2.0  # for one trace
_SHOWN, _WIDE = 10, 48
_WORDS: dict[Outcome, str] = {  # those to be read first come first
    "wrong": "wrong",
    "unknown": "not judged: the grader took too long",
    "cut": "cut before its end, so not judged",
    "correct": "correct",
    "no_answer": "not judged: its item has no answer",
}


class Said(NamedTuple):
    """What is judged of a trace; `completion` has what the prompt opened in front."""

    text: str
    completion: str
    answer: str | None
    was_cut: bool


def outcome_of(said: Said, grader: Grader) -> Outcome:
    """A trace that was cut is not correct, whatever it says before: what follows could have taken it back.

    Raises:
        UsageError: the grader made a mistake.
    """
    if said.answer is None:
        return "no_answer"
    if said.was_cut:
        return "cut"
    verdict = grader.grade(said.text, said.answer, behind_thought(said.completion) is None)
    if verdict.method == TIMEOUT:
        return "unknown"
    return "correct" if verdict.correct else "wrong"


class Verdict(Frozen):
    """Of one trace. `given`: what stands in its last box. `cites`: the words in which it gives away the solution."""

    item_id: str
    sample: int
    outcome: Outcome
    given: str | None
    answer: str | None
    cites: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{_short(self.item_id)} #{self.sample}"

    def told(self) -> str:
        words = _WORDS[self.outcome]
        if self.outcome == "wrong":
            given = "it has no \\boxed{} answer" if self.given is None else f"it says {_short(self.given)}"
            words += f": {given}, the answer is {_short(self.answer or '')}"
        return f"{self.name}  {words}" + (f"; cites: “{_short(self.cites[0])}”" if self.cites else "")


class Judgement(Frozen):
    """Of a run of `traces`, of which those in `verdicts` were looked at. `student_share`: of the whole run."""

    traces: int
    student_share: float | None
    verdicts: tuple[Verdict, ...]

    @property
    def counts(self) -> dict[Outcome, int]:
        found = Counter(one.outcome for one in self.verdicts)
        return {outcome: found[outcome] for outcome in _WORDS}

    def summary(self) -> dict[str, Any]:
        """For machines."""
        return {
            "looked_at": len(self.verdicts),
            **{str(outcome): count for outcome, count in self.counts.items()},
            "citing": [{"item_id": one.item_id, "sample": one.sample} for one in self.verdicts if one.cites],
        }

    def told(self) -> list[str]:
        """Lines for people: a verdict each, what is to be read first before the rest, and the line about all."""
        if not self.verdicts:
            return []
        # a proof that cites nothing has nothing to be said of it alone
        worth = [one for one in self.verdicts if one.outcome != "no_answer" or one.cites]
        worth.sort(key=lambda one: (not one.cites, list(_WORDS).index(one.outcome)))
        lines = [f"  {one.told()}" for one in worth[:_SHOWN]]
        if len(worth) > _SHOWN:
            left = Counter(one.outcome.replace("_", " ") for one in worth[_SHOWN:])
            told = ", ".join(f"{count} {outcome}" for outcome, count in left.items())
            lines.append(f"  … and {len(worth) - _SHOWN} more: {told}")
        return ["verdicts:", *lines, self.line()] if lines else [self.line()]

    def line(self) -> str:
        counts = self.counts
        num_judged = counts["correct"] + counts["wrong"] + counts["cut"]
        parts = ["no item has an answer to judge by"]
        if num_judged or counts["unknown"]:
            parts = [f"{counts['correct']} of {num_judged + counts['unknown']} verifiable traces right"]
        if counts["unknown"]:
            parts.append(f"{counts['unknown']} not judged")
        if self.student_share is not None:
            parts.append(f"the student wrote {100 * self.student_share:.0f} %")
        parts.append(f"{counts['cut']} cut" if counts["cut"] else "none cut")
        parts.append(self._citing())
        if self.traces > len(self.verdicts):
            parts.append(f"{len(self.verdicts)} of {self.traces} traces were looked at")
        return "; ".join(parts)

    def _citing(self) -> str:
        citing = [one for one in self.verdicts if one.cites]
        if not citing:
            return "none cites the solution"
        first = citing[0].name
        if len(citing) == 1:
            return f"1 cites the solution ({first}): read it first"
        return f"{len(citing)} cite the solution ({first} …): read them first"


def judge(
    rows: Iterable[Mapping[str, Any]],
    traces: int,
    student_share: float | None,
    grader: str,
    within_s: float = _WITHIN_S,
) -> Judgement:
    """Looks at rows until there are enough, or it took long enough.

    Raises:
        DailError, ModuleNotFoundError: the grader cannot be used.
    """
    until, verdicts = time.monotonic() + within_s, list[Verdict]()
    with Grader(_GRADE_S, grader) as one:
        for row in rows:
            verdicts.append(verdict_of(row, one))
            if len(verdicts) >= MOST or time.monotonic() > until:
                break
    return Judgement(traces=traces, student_share=student_share, verdicts=tuple(verdicts))


def verdict_of(row: Mapping[str, Any], grader: Grader) -> Verdict:
    """Of a row with the columns `COLUMNS`. Raises UsageError: the grader made a mistake."""
    completion, answer = row["completion"][0]["content"], row["answer"]
    outcome = outcome_of(Said(row["trace_text"], completion, answer, row["truncated"]), grader)
    return Verdict(
        item_id=row["item_id"],
        sample=row["sample_index"],
        outcome=outcome,
        given=final_answer(behind_thought(row["trace_text"], behind_thought(completion) is None) or ""),
        answer=answer,
        cites=tuple(mentions(row["trace_text"], row["problem"])),
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"
