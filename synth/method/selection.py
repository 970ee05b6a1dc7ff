"""Which of an item's traces are chosen, by rule: values in, values out, the same on every machine and in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dail.synth.core.extensions import Extension
from dail.synth.schema.selection import BY_LOT, BY_SCORE, BY_VERDICT, Counts, Keep, WithoutAnswer, lot
from dail.synth.schema.shards import TraceRow

Outcome = Literal["correct", "wrong", "cut", "unknown", "no_answer"]
STUDENT_SHARE, SHORTEST = "student_share", "shortest"
SCORES = Extension("score of traces", "dail.scores", (STUDENT_SHARE, SHORTEST))


class Score(Protocol):
    """A score of your own: a function of a row of a shard; of an item's traces the one with the highest is kept.

        def likeliest(trace: TraceRow) -> float:
            known = [one for one in trace.student_logprob if one is not None]
            return sum(known) / len(known) if known else -math.inf

    `dail select --by` names it: FILE.py:NAME, MODULE:NAME, or an entry point of the group dail.scores. Minus infinity
    is the lowest there is; what is no number is a mistake of the score and ends the selection.
    """

    def __call__(self, trace: TraceRow, /) -> float: ...


@dataclass(frozen=True)
class Candidate:
    """One trace of an item. `outcome` and `score` are none where the rule does not ask for them.

    "unknown": its grader was given up; "no_answer": its item has none, as proofs have none.
    """

    unit_id: str
    sample: int
    outcome: Outcome | None = None
    score: float | None = None


def choose(
    keep: Keep, traces: Sequence[Candidate], seed: int = 0, without_answer: WithoutAnswer = "drop"
) -> list[Candidate]:
    """Of one item's traces those that are kept, by sample index.

    An item without an answer has no correct trace: under rules that ask for one it loses all of them, or with
    `without_answer` "one" keeps the one that the rule would take if all were correct (of all_correct the first).
    """
    able = list(traces)
    if keep in BY_VERDICT:
        able = [one for one in traces if one.outcome == "correct"]
        if without_answer == "one" and all(one.outcome == "no_answer" for one in traces):
            able, keep = list(traces), "first_correct" if keep == "all_correct" else keep
    if not able or keep in ("all", "all_correct"):
        return sorted(able, key=_place)
    if keep in BY_LOT:
        return [min(able, key=lambda one: lot(seed, one.unit_id))]
    if keep in BY_SCORE:
        return [min(able, key=lambda one: (-_score(one), _place(one)))]
    return [min(able, key=_place)]


def count(traces: Sequence[Candidate], num_chosen: int) -> Counts:
    """Of one item, or of all; verdicts are counted where there are any."""
    outcomes = [one.outcome for one in traces if one.outcome is not None]
    judged = bool(outcomes)
    return Counts(
        drawn=len(traces),
        correct=outcomes.count("correct") if judged else None,
        cut=outcomes.count("cut") if judged else None,
        unknown=outcomes.count("unknown") if judged else None,
        chosen=num_chosen,
        dropped=len(traces) - num_chosen,
    )


def student_share(trace: TraceRow) -> float:
    """Of the tokens whose writer is known; minus infinity where none is."""
    return float("-inf") if trace.student_share is None else trace.student_share


def shortest(trace: TraceRow) -> float:
    """Fewest tokens, highest score."""
    return -float(len(trace.trace_ids))


BUILTIN: dict[str, Score] = {STUDENT_SHARE: student_share, SHORTEST: shortest}


def _place(one: Candidate) -> tuple[int, str]:
    return one.sample, one.unit_id


def _score(one: Candidate) -> float:
    assert one.score is not None, f"{one.unit_id} has no score"
    return one.score
