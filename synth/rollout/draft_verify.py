"""Mixed-policy rollouts by draft and verification: the literal reading of the rule with two engines (paper §2.1).

The student drafts k tokens, the privileged student reads prompt, trace and draft in one pass, the longest prefix that
stands is kept, and where a token was refused the privileged student writes its own. Also the only way when the two
roles have different weights. Exact for any rule that is held against raw probabilities, since a reading gives those.

All draws use the numbers that lockstep and the reference would use, so the traces are the same, token for token.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dail.synth.core.errors import ItemError
from dail.synth.engine.base import AloneRecord, AloneRow, PairRecord, Row, Score
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.scheduler import Entry, Stage, Staged, Trace, alone_row
from dail.synth.rollout.select import acceptance
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.synthesis import Acceptance

LONGEST_DRAFT = 32
_FIRST_DRAFT = 4
_MEMORY = 0.98  # how much of what was known of the acceptance rate is kept per draft


@dataclass
class DraftedTrace(Trace):
    """`drawn` is what the running row drew, `draft` what the student proposed and nobody has read yet, `refused` the
    proposal in whose place the privileged student is to write."""

    drawn: AloneRecord = field(default_factory=lambda: AloneRecord(0))
    draft: AloneRecord | None = None
    refused: int | None = None


class DraftVerify(Staged[DraftedTrace]):
    """Args:
    privileged, student: the engines of the two roles; one may serve both.
    """

    name = "draft_verify"
    make_trace = DraftedTrace

    def __init__(self, privileged: Entry, student: Entry, stops: Stops | None = None) -> None:
        super().__init__(privileged, stops)
        self._student = student
        self._num_drafted, self._num_accepted = float(_FIRST_DRAFT), _FIRST_DRAFT - 1.0
        self.num_drafts = 0

    def room(self, request: RolloutRequest) -> int:
        """One token less than the model holds, since an engine reads a prompt only if it may write a token after it."""
        rule = acceptance(request.synthesis)
        if rule.tempered and rule.kind == "absolute":
            raise ItemError(
                "not_exact",
                "strategy draft_verify knows raw probabilities only, and probability_space is tempered; use "
                "strategy=auto or lockstep, or probability_space=raw",
            )
        student = self._student.admission.check([len(request.student_ids)])
        room = min(student, self._entry.admission.check([len(request.privileged_ids)])) - 1
        if room < 1:
            raise ItemError(
                "context_length_exceeded",
                f"the privileged prompt needs {len(request.privileged_ids)} tokens, and strategy draft_verify 2 more; "
                f"the model holds {self._entry.engine.limits.model_tokens}; take strategy=auto or a longer context",
            )
        return room

    @property
    def draft_length(self) -> int:
        """As many tokens as are expected to stand in a row, and one."""
        rate = self._num_accepted / self._num_drafted
        return min(LONGEST_DRAFT, 1 + int(rate / max(1 - rate, 1 / LONGEST_DRAFT)))

    def next_stage(self, trace: DraftedTrace) -> Stage:
        request = trace.request
        trace.drawn = AloneRecord(len(trace.tokens))
        if trace.draft:
            return Stage(self._entry, [_reading(trace, trace.draft.token_ids)], 1)
        if trace.refused is not None:
            return Stage(self._entry, [alone_row(trace, request.privileged_ids, 1, AloneRow(1))], 1)
        length = min(self.draft_length, trace.max_tokens - len(trace.tokens))
        row = alone_row(trace, request.student_ids, length, AloneRow(0), request.adapter)
        return Stage(self._student, [row], length)

    def read(self, trace: DraftedTrace, record: PairRecord | AloneRecord) -> None:
        assert isinstance(record, AloneRecord), f"{trace.key} is no row alone"
        trace.drawn.put(record)

    def settle(self, trace: DraftedTrace, stage: Stage) -> None:
        (row,) = stage.ended
        drawn = trace.drawn
        if trace.draft:
            self._keep(trace, trace.draft, row.scores or [])
        elif trace.refused is not None:
            trace.tokens.add(drawn.token_ids[0], 0.0, None, drawn.logprob[0], rejected=trace.refused)
            trace.refused = None
        else:
            drawn.cut(len(row.token_ids))
            assert drawn.token_ids == row.token_ids, f"{trace.key} holds other tokens than were drawn for it"
            trace.draft = drawn
        trace.reason = None if trace.draft or trace.refused is not None else trace.ends()

    def _keep(self, trace: DraftedTrace, draft: AloneRecord, scores: list[Score]) -> None:
        """Adds the longest prefix of the draft that stands."""
        rule, temperature = acceptance(trace.request.synthesis), trace.request.synthesis.temperature
        verdicts = [stands(score, rule, temperature) for score in scores]
        num_kept = verdicts.index(False) if False in verdicts else len(verdicts)
        kept = list(zip(draft.token_ids, draft.logprob, scores, strict=True))[:num_kept]
        for token, logprob, score in kept:
            trace.tokens.add(token, 1.0, logprob, score.logprob)
        trace.draft = None
        trace.refused = draft.token_ids[num_kept] if num_kept < len(verdicts) else None
        self.num_drafts += 1
        self._num_drafted = _MEMORY * self._num_drafted + num_kept + (trace.refused is not None)
        self._num_accepted = _MEMORY * self._num_accepted + num_kept


def stands(score: Score, rule: Acceptance, temperature: float) -> bool:
    """Whether a proposal stands, from what the privileged student gives it.

    In float32, like the rule over whole distributions, so that a proposal at exactly tau stands in both.
    """
    if rule.kind == "topk":
        return score.rank <= rule.k
    if rule.kind == "absolute":
        return bool(np.exp(np.float32(score.logprob)) >= np.float32(rule.tau))
    below = np.float32(score.logprob) - np.float32(score.top_logprobs[0])
    if rule.tempered:
        below = np.divide(below, np.float32(temperature)) if temperature else np.float32(0 if below == 0 else -np.inf)
    return bool(np.exp(below) >= np.float32(rule.tau))


def _reading(trace: DraftedTrace, draft: list[int]) -> Row:
    """The privileged student's context with the trace and the draft, of which it gives its probabilities."""
    known = [*trace.request.privileged_ids, *trace.tokens.ids]
    return Row(
        row_id=f"{trace.key}/reading",
        prompt_ids=[*known, *draft],
        max_tokens=1,
        temperature=0.0,
        seed=0,
        stop_ids=frozenset(),
        score_from=len(known),
    )
