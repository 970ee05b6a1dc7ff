"""Mixed-policy rollouts by draft and verification: the literal reading of the rule with two engines (paper §2.1).

The student drafts k tokens, the privileged student scores prompt, trace and draft in one pass, the longest prefix that
is accepted is kept, and where a token was rejected the privileged student writes its own. Also the only way when the
two roles have different weights. Exact for any rule that is held against raw probabilities, since a scoring pass gives
those.

Where the student proposes several times a position, the others were sampled with the draft, from numbers of their own:
one that was rejected is followed by the next, as a draft of one token. `synthesis.proposer=privileged` turns the two
roles round.

Everything is sampled from the numbers that lockstep and the reference would use, so the traces are the same, token for
token: a rejected draft costs time and changes nothing, since its positions are sampled again from their own numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dail.synth.core.errors import ItemError
from dail.synth.engine.base import SCORE_TOP, Draw, Proposal, Sampled, Score
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.scheduler import (
    Entry,
    Stage,
    Staged,
    Trace,
    drawn_sequence,
    proposals,
    proposing,
    scored_sequence,
    write,
)
from dail.synth.rollout.select import acceptance
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.synthesis import RULES, Acceptance, Role

LONGEST_DRAFT = 32
_FIRST_DRAFT = 4
_MEMORY = 0.98  # how much of what was known of the acceptance rate is kept per draft


@dataclass
class DraftedTrace(Trace):
    """`draft`: at each position what the proposer proposes, in order; `is_drafted`: it is whole, and nobody has scored
    its first proposals yet. `refused`: those that were rejected already where the draft begins. `rejected`: the first
    of them, once the verifier is to write in their place."""

    draft: list[list[Proposal]] = field(default_factory=list)
    is_drafted: bool = False
    refused: list[int] = field(default_factory=list)
    rejected: int | None = None

    @property
    def draft_ids(self) -> list[int]:
        return [proposed[0].token for proposed in self.draft]


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

    def capacity(self, request: RolloutRequest) -> int:
        """One token less than the model holds: an engine scores a prompt only if it may write a token after it."""
        _check_exact(request)
        student = self._student.admission.check([len(request.student_ids)])
        capacity = min(student, self._entry.admission.check([len(request.privileged_ids)])) - 1
        if capacity < 1:
            raise ItemError(
                "context_length_exceeded",
                f"the privileged prompt needs {len(request.privileged_ids)} tokens, and strategy draft_verify 2 more; "
                f"the model holds {self._entry.engine.limits.model_tokens}; take strategy=auto or a longer context",
            )
        return capacity

    @property
    def draft_length(self) -> int:
        """As many tokens as are expected to be accepted in a row, and one."""
        rate = self._num_accepted / self._num_drafted
        return min(LONGEST_DRAFT, 1 + int(rate / max(1 - rate, 1 / LONGEST_DRAFT)))

    def next_stage(self, trace: DraftedTrace) -> Stage:
        how, verifying = trace.request.synthesis, self._entry_of(trace.request.synthesis.verifier)
        if trace.is_drafted:
            known = [*trace.request.prompt_ids(how.verifier), *trace.tokens.ids]
            scored = scored_sequence(trace, how.verifier, [*known, *trace.draft_ids], len(known))
            return Stage(verifying, [scored], 1)
        if trace.rejected is not None:
            return Stage(verifying, [drawn_sequence(trace, 1, Draw(how.verifier, proposer=how.proposer))], 1)
        length = min(self.draft_length, trace.max_tokens - len(trace.tokens))
        return Stage(self._entry_of(how.proposer), [drawn_sequence(trace, length, proposing(how))], length)

    def _entry_of(self, role: Role) -> Entry:
        return self._student if role == "student" else self._entry

    def read(self, trace: DraftedTrace, sampled: Sampled) -> None:
        how = trace.request.synthesis
        if trace.rejected is None:
            trace.draft += proposals(sampled, how.proposer)
            return
        (((token, logprob),),) = proposals(sampled, how.verifier)
        write(trace.tokens, token, how.verifier, {how.verifier: logprob}, rejected=trace.rejected)

    def settle(self, trace: DraftedTrace, stage: Stage) -> None:
        if trace.is_drafted:
            self._keep(trace, stage.ended[0].scores or [])
        elif trace.rejected is None:
            trace.is_drafted = True
        else:
            trace.rejected = None
        # What is drafted or rejected is not settled yet, whatever the trace before it could end with.
        trace.reason = None if trace.is_drafted or trace.rejected is not None else trace.ends()

    def _keep(self, trace: DraftedTrace, scores: list[Score]) -> None:
        """Adds the longest prefix of the draft that is accepted; what follows is the next proposal where it ended, if
        there is one that was not rejected yet."""
        request, draft, refused = trace.request, trace.draft, trace.refused
        how, rule = request.synthesis, acceptance(request.synthesis)
        verdicts = [is_accepted(score, rule, how.temperature, request.suppressed_ids) for score in scores]
        num_kept = verdicts.index(False) if False in verdicts else len(verdicts)
        for proposed, score in list(zip(draft, scores, strict=True))[:num_kept]:
            logprobs = {how.proposer: proposed[0].logprob, how.verifier: score.logprob}
            write(trace.tokens, proposed[0].token, how.proposer, logprobs)
        trace.draft, trace.is_drafted, trace.refused = [], False, []
        is_rejected = num_kept < len(verdicts)
        if not refused:
            self._count(num_kept, is_rejected)
        if is_rejected:
            refused = [*(refused if num_kept == 0 else []), draft[num_kept][0].token]
            left = [proposal for proposal in draft[num_kept][1:] if proposal.token not in refused]
            if left:
                trace.draft, trace.is_drafted, trace.refused = [left], True, refused
            else:
                trace.rejected = refused[0]

    def _count(self, num_kept: int, is_rejected: bool) -> None:
        """Old drafts count for less and less: how often a draft is accepted changes along a trace."""
        self.num_drafts += 1
        self._num_drafted = _MEMORY * self._num_drafted + num_kept + is_rejected
        self._num_accepted = _MEMORY * self._num_accepted + num_kept


def _check_exact(request: RolloutRequest) -> None:
    rule, num_suppressed = acceptance(request.synthesis), len(request.suppressed_ids)
    if request.synthesis.proposer == "privileged" and request.adapters:
        raise ItemError(
            "not_exact",
            "strategy draft_verify lets the student read what the privileged student proposes, and no engine reads a "
            "prompt with an adapter; use strategy=auto or lockstep, or proposer=student",
        )
    if rule.tempered and rule.kind == "absolute":
        raise ItemError(
            "not_exact",
            "strategy draft_verify knows raw probabilities only, and probability_space is tempered; use "
            "strategy=auto or lockstep, or probability_space=raw",
        )
    if rule.kind not in RULES:
        raise ItemError(
            "not_exact",
            f"strategy draft_verify knows the likeliest tokens only, and acceptance={rule.kind} sees whole "
            "distributions; use strategy=auto or lockstep",
        )
    if rule.kind == "topk" and num_suppressed and rule.k + num_suppressed > SCORE_TOP:
        raise ItemError(
            "not_exact",
            f"strategy draft_verify knows the {SCORE_TOP} likeliest tokens, the suppressed among them, and cannot tell "
            f"which are the {rule.k} likeliest beside {num_suppressed} suppressed; use strategy=auto or lockstep, or "
            f"acceptance_k up to {SCORE_TOP - num_suppressed}",
        )


def is_accepted(score: Score, rule: Acceptance, temperature: float, suppressed: frozenset[int] = frozenset()) -> bool:
    """Whether a proposal is accepted, from what the verifier gives it.

    In float32, like the rule over whole distributions, so that a proposal at exactly tau is accepted in both. The
    proposal is none of the suppressed tokens, and these count for nothing in ranks and as the likeliest.
    """
    if rule.kind == "absolute":
        return bool(np.exp(np.float32(score.logprob)) >= np.float32(rule.tau))
    named = list(zip(score.top_ids, score.top_logprobs, strict=True)) if suppressed else []
    if rule.kind == "topk":
        return score.rank - sum(token in suppressed and one >= score.logprob for token, one in named) <= rule.k
    largest = next((one for token, one in named if token not in suppressed), score.top_logprobs[0])
    below = np.float32(score.logprob) - np.float32(largest)
    if rule.tempered:
        below = np.divide(below, np.float32(temperature)) if temperature else np.float32(0 if below == 0 else -np.inf)
    return bool(np.exp(below) >= np.float32(rule.tau))
