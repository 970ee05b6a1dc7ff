"""Mixed-policy rollouts with a lazy student: it is asked only where its word matters (paper §2.1).

The privileged student decodes alone. The student's word can change the trace only where a token that the privileged
student did not sample would be accepted (`dail.synth.method.acceptance.draw_own`): a verify point. There the privileged
student's sequence ends, the student is asked for its proposals after the trace so far, in one step, and the privileged
student goes on after whichever token the rule gives. From tau 0.5 on at most one such token exists (a tie aside), so
questions are rare: about one decode row a token instead of two. How often the student may propose changes neither where
it is asked nor what is exact: with q its probability of the one token that can be accepted, n proposals write it with
1 - (1 - q)^n.

`synthesis.proposer=privileged` turns the two round: the student decodes alone and the privileged student is asked.

Everything is sampled from the numbers that lockstep and the reference would use, so the traces are the same, token for
token. Who wrote a token is known where the privileged student was not confident (it did) and where the student was
asked. Elsewhere it is a probability, known once the student has read the finished trace; without that scoring pass it
is unknown (none).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dail.synth.core.errors import ItemError
from dail.synth.engine.base import Draw, Proposal, Sampled, Score, TokenSequence, VerifyPoint
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
from dail.synth.rollout.select import acceptance, lazy_is_exact
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens


@dataclass
class LazyTrace(Trace):
    """`asking`: what the proposer is being asked about, and `answer` what it proposed, in order."""

    asking: VerifyPoint | None = None
    answer: list[Proposal] = field(default_factory=list)
    is_scored: bool = False


class Lazy(Staged[LazyTrace]):
    """Args:
    with_scores: let the proposer read each finished trace, which fills `student_prob` and its log-probabilities.
    """

    name = "lazy"
    make_trace = LazyTrace

    def __init__(self, entry: Entry, with_scores: bool = False, stops: Stops | None = None) -> None:
        super().__init__(entry, stops)
        self._with_scores = with_scores
        self.num_questions = 0

    def capacity(self, request: RolloutRequest) -> int:
        rule = acceptance(request.synthesis)
        if not lazy_is_exact(rule):
            raise ItemError(
                "not_exact",
                f"strategy lazy is not exact for acceptance={rule.kind} with tau={rule.tau}, acceptance_k={rule.k}; it "
                f"wants a rule by which at most two tokens can be accepted (absolute from tau 0.5, topk up to 2); use "
                f"strategy=auto or lockstep",
            )
        return min(self._entry.admission.check([len(ids)]) for ids in (request.student_ids, request.privileged_ids))

    def is_done(self, trace: LazyTrace) -> bool:
        return trace.reason is not None and (trace.is_scored or not self._with_scores)

    def next_stage(self, trace: LazyTrace) -> Stage:
        how = trace.request.synthesis
        if trace.reason:
            return Stage(self._entry, [self._scoring(trace)], 1)
        if trace.asking:
            # Its prompt lies in the prefix cache but for what was written since the last question: a few tokens to
            # prefill, and one to sample.
            return Stage(self._entry, [drawn_sequence(trace, 1, proposing(how))], 1)
        max_tokens = trace.max_tokens - len(trace.tokens)
        draw = Draw(how.verifier, acceptance(how), proposer=how.proposer)
        return Stage(self._entry, [drawn_sequence(trace, max_tokens, draw)], max_tokens)

    def read(self, trace: LazyTrace, sampled: Sampled) -> None:
        if trace.asking:
            # which are no tokens of the trace until the rule says so
            trace.answer += next(iter(proposals(sampled, trace.request.synthesis.proposer)), [])
        else:
            trace.tokens.extend(sampled.tokens)

    def settle(self, trace: LazyTrace, stage: Stage) -> None:
        (last,) = stage.ended
        if trace.reason:
            _score(trace.tokens, last.scores or [], trace.request)
            trace.is_scored = True
            return
        if trace.asking and trace.answer:
            self.num_questions += 1
            _answer(trace.tokens, trace.asking, trace.answer, trace.request.synthesis)
        trace.asking, trace.answer = last.verify, []
        # A trace that stands before a verify point is not whole, even if its last token could end it.
        trace.reason = None if trace.asking else trace.ends()

    def _scoring(self, trace: LazyTrace) -> TokenSequence:
        """The proposer's context with the whole trace, but for a last token for which the model has no room."""
        proposer, capacity = trace.request.synthesis.proposer, self._entry.engine.limits.model_tokens - 1
        prompt_ids = trace.request.prompt_ids(proposer)
        whole = [*prompt_ids, *trace.tokens.ids][:capacity]
        return scored_sequence(trace, proposer, whole, len(prompt_ids))


def _answer(tokens: Tokens, asking: VerifyPoint, answer: list[Proposal], how: Synthesis) -> None:
    """Adds what the rule gives where the proposer was asked: the first of its proposals that is accepted, and else what
    the verifier had sampled there, which the same random number would give again."""
    kept = next((proposal for proposal in answer if proposal.token in asking.accepted), None)
    if kept:
        logprobs = {how.proposer: kept.logprob, how.verifier: asking.accepted[kept.token]}
        write(tokens, kept.token, how.proposer, logprobs)
    else:
        write(tokens, asking.sampled, how.verifier, {how.verifier: asking.logprob}, rejected=answer[0].token)


def _score(tokens: Tokens, scores: list[Score], request: RolloutRequest) -> None:
    """Fills in what the proposer gives each token, and with it who wrote those of which that is unknown.

    Where the verifier was confident and sampled the token that is accepted, that token is written whatever is proposed;
    the proposer wrote it if it proposed it. With q the probability of its own sampling and n proposals, of which each
    one that is not this token is refused, that has the probability 1 - (1 - q)^n.
    """
    how = request.synthesis
    logprobs = tokens.student_logprob if how.proposer == "student" else tokens.privileged_logprob
    logprobs[: len(scores)] = [score.logprob for score in scores]
    unknown = [place for place in range(len(scores)) if tokens.student_prob[place] is None]
    if not unknown:
        return
    asked = [scores[place] for place in unknown]
    if how.greedy_proposals:
        _score_greedy(tokens, unknown, asked, request)
        return
    written_R = draw_probabilities(asked, how.temperature, how.top_p, how.top_k, request.suppressed_ids)
    if how.proposals > 1:
        written_R = 1 - (1 - written_R) ** how.proposals
    student_R = written_R if how.proposer == "student" else 1 - written_R
    for place, probability in zip(unknown, student_R.astype(np.float32).tolist(), strict=True):  # as shards hold it
        tokens.student_prob[place] = probability


def _score_greedy(tokens: Tokens, places: list[int], scores: list[Score], request: RolloutRequest) -> None:
    """The proposer wrote the token if it is among the likeliest that it proposes, which a score tells as far as it
    names them; what lies beyond stays unknown."""
    how, hidden = request.synthesis, request.suppressed_ids
    drawable_R = draw_probabilities(scores, how.temperature or 1.0, how.top_p, how.top_k, hidden)
    for place, score, drawable in zip(places, scores, drawable_R.tolist(), strict=True):
        own = (-score.logprob, tokens.ids[place])
        named = [one for one in zip(score.top_ids, score.top_logprobs, strict=True) if one[0] not in hidden]
        ahead = sum((-logprob, token) < own for token, logprob in named)
        if any(token == tokens.ids[place] for token, _ in named) or ahead >= how.proposals:
            by_proposer = ahead < how.proposals and drawable > 0
            tokens.student_prob[place] = float(by_proposer == (how.proposer == "student"))


def draw_probabilities(
    scores: Sequence[Score],
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    suppressed: frozenset[int] = frozenset(),
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The probability with which a role draws each token of these scores [R]; K likeliest tokens are named in each.

    Exact at temperature 1, and wherever the likeliest tokens that a score names hold all of the probability. What lies
    beyond them is taken as flat as the last of them, which below temperature 1 is the most it can weigh; a suppressed
    token that lies there is taken for one that is drawn, since what it weighs is not known.

    >>> score = Score(np.log(0.8), 1, (np.log(0.8), np.log(0.2)), (7, 3))
    >>> [round(float(draw_probabilities([score], temperature)[0]), 6) for temperature in (1.0, 0.5, 0.0)]
    [0.8, 0.941176, 1.0]
    >>> draw_probabilities([score], 1.0, suppressed=frozenset([3])).tolist()
    [1.0]
    """
    own_R, rank_R = np.array([score.logprob for score in scores]), np.array([score.rank for score in scores])
    named_RK = top_RK = np.array([score.top_logprobs for score in scores])
    if suppressed:
        is_hidden_RK = np.isin(np.array([score.top_ids for score in scores]), list(suppressed))
        rank_R = rank_R - (is_hidden_RK & (named_RK >= own_R[:, None])).sum(1)
        top_RK = -np.sort(-np.where(is_hidden_RK, -np.inf, named_RK), axis=1)
    if temperature == 0:
        return (own_R >= top_RK[:, 0]).astype(np.float64)
    weight_RK = np.exp((top_RK[:, : top_k or None] - top_RK[:, :1]) / temperature)
    own_weight_R = np.exp((own_R - top_RK[:, 0]) / temperature)
    total_R = weight_RK.sum(1)
    is_drawn_R = rank_R <= top_k if top_k else np.ones(len(scores), dtype=bool)
    if not top_k:
        tail_R, last_R = np.maximum(0.0, 1.0 - np.exp(named_RK).sum(1)), named_RK[:, -1]
        flat_R = np.exp((last_R - top_RK[:, 0]) / temperature - last_R, where=tail_R > 0, out=0 * tail_R)
        total_R = total_R + tail_R * flat_R
    if top_p < 1:
        mass_R1 = top_p * total_R[:, None]
        before_R1 = (weight_RK * (weight_RK > own_weight_R[:, None])).sum(1, keepdims=True)
        is_drawn_R &= ((rank_R == 1) | (rank_R <= top_RK.shape[1])) & (before_R1 < mass_R1)[:, 0]
        # the fewest likeliest tokens that have this mass together
        total_R = (weight_RK * (weight_RK.cumsum(1) - weight_RK < mass_R1)).sum(1)
    return np.where(is_drawn_R, np.minimum(1.0, own_weight_R / total_R), 0.0)
