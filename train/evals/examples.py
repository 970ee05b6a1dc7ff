"""Completions to read in the report: a few problems, and of each arm one completion of every outcome.

The choice looks at nothing but places: problems evenly over the file, completions by their sample number, so that it
flatters nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dail.synth.method.grading import CUT_IN_THOUGHT, TIMEOUT
from dail.train.evals.marks import Span, Spans, clipped
from dail.train.evals.problems import EvalProblem
from dail.train.evals.results import ArmRef
from dail.train.evals.run import Judged

NUM_PROBLEMS = 24
_FOLDED = 600  # characters; a longer completion is folded until it is asked for
_MOST_CHARS = 12_000  # shown of one completion, its beginning and its end
_OUTCOMES = ("right", "wrong", "not judged")


@dataclass(frozen=True)
class Example:
    """One completion. `head` and `tail` are its text, with `num_left_out` characters between them, and the spans of
    their characters that are shortcuts; `num_marks` of the whole, none if nobody looked for them."""

    arm: str
    outcome: str
    sample: int
    num_tokens: int
    extracted: str | None
    remarks: tuple[str, ...]
    head: str
    tail: str = ""
    num_left_out: int = 0
    num_marks: int | None = None
    head_spans: tuple[Span, ...] = ()
    tail_spans: tuple[Span, ...] = ()

    @property
    def is_folded(self) -> bool:
        return len(self.head) > _FOLDED


@dataclass(frozen=True)
class ProblemExamples:
    problem: EvalProblem
    examples: tuple[Example, ...]


def choose(
    problems: Sequence[EvalProblem], judged: Sequence[Judged], arms: Sequence[ArmRef], marks: Spans | None = None
) -> list[ProblemExamples]:
    """At most `NUM_PROBLEMS` problems, in their order, and of each and each arm the first completion, by its number,
    that is right, that is wrong, and that nobody judged."""
    step = max(1.0, len(problems) / NUM_PROBLEMS)
    chosen = [problems[int(place * step)] for place in range(min(NUM_PROBLEMS, len(problems)))]
    found: dict[str, dict[tuple[str, str], Judged]] = {problem.id: {} for problem in chosen}
    for one in judged:
        firsts, place = found.get(one.completion.problem_id), (one.completion.arm, _outcome(one))
        if firsts is not None and (place not in firsts or one.completion.sample < firsts[place].completion.sample):
            firsts[place] = one
    order = [(arm.name, outcome) for arm in arms for outcome in _OUTCOMES]
    return [
        ProblemExamples(problem, tuple(_example(firsts[place], marks) for place in order if place in firsts))
        for problem in chosen
        for firsts in (found[problem.id],)
    ]


def _outcome(one: Judged) -> str:
    if one.verdict.method == TIMEOUT:
        return "not judged"
    return "right" if one.verdict.correct else "wrong"


def _example(one: Judged, marks: Spans | None) -> Example:
    said, verdict = one.completion, one.verdict
    remarks = {
        "cut at the limit of tokens": said.finish_reason == "length",
        "the thought was ended at its budget": said.forced,
        "the thought never ended": verdict.method == CUT_IN_THOUGHT,
        "no box": verdict.method == "none",
        "the grader gave up": verdict.method == TIMEOUT,
    }
    text, left_out = said.text, max(0, len(said.text) - _MOST_CHARS)
    end = _MOST_CHARS // 4 if left_out else 0  # where the answer is
    spans = marks[said.key] if marks is not None else ()
    return Example(
        said.arm,
        _outcome(one),
        said.sample,
        said.num_tokens,
        verdict.extracted,
        tuple(remark for remark, is_so in remarks.items() if is_so),
        text[: _MOST_CHARS - end] if left_out else text,
        text[len(text) - end :] if left_out else "",
        left_out,
        None if marks is None else len(spans),
        clipped(spans, 0, len(text) - left_out - end),
        clipped(spans, len(text) - end, len(text)) if left_out else (),
    )
