"""Which strategy draws a rollout, and what it takes of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dail.synth.rollout.base import RolloutRequest
from dail.synth.schema.synthesis import Acceptance, Synthesis

Wanted = Literal["auto", "lockstep", "lazy", "draft_verify"]
Chosen = Literal["lockstep", "lazy", "draft_verify", "single"]

LAZY_TAU = 0.5
LAZY_ACCEPTED = 2  # how many tokens may be accepted at one position for lazy to be exact: so many are recorded


def acceptance(synthesis: Synthesis) -> Acceptance:
    """The rule of these settings, as the engine needs it."""
    return Acceptance(
        synthesis.acceptance, synthesis.tau, synthesis.acceptance_k, synthesis.probability_space == "tempered"
    )


def lazy_is_exact(rule: Acceptance) -> bool:
    """Whether at most two tokens can be accepted at one position, an exact tie included."""
    if rule.kind == "topk":
        return rule.k <= LAZY_ACCEPTED
    return rule.kind == "absolute" and rule.tau >= LAZY_TAU


def choose(synthesis: Synthesis, wanted: Wanted) -> Chosen:
    """The strategy of one request: mixed rollouts as wanted, one role alone in its own way."""
    if synthesis.method != "mixed":
        return "single"
    if wanted == "auto":
        return "lazy" if lazy_is_exact(acceptance(synthesis)) else "lockstep"
    return wanted


def contexts(request: RolloutRequest, wanted: Wanted) -> list[Sequence[int]]:
    """The prompts that are decoded side by side in one engine, one row each."""
    if request.synthesis.method == "student":
        return [request.student_ids]
    if choose(request.synthesis, wanted) == "lockstep":
        return [request.student_ids, request.privileged_ids]
    if request.synthesis.method == "mixed":
        return [request.prompt_ids(request.synthesis.verifier)]
    return [request.privileged_ids]
