"""The mixed-policy rollout's rule as pure arithmetic (paper §2.1). No clock, no disk, no engine, no state.

    t ~ student(. | x, r)                  the student's proposal
    keep t   if privileged(t | x, s, r) >= tau
    else     draw from privileged(. | x, s, r)

Axes: P pairs, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Mixed(NamedTuple):
    """One step of P pairs. Log-probabilities are natural logs at temperature 1, float32."""

    token_P: Tensor
    accepted_P: Tensor
    proposal_P: Tensor
    student_logprob_P: Tensor
    privileged_logprob_P: Tensor


class Rule(NamedTuple):
    """Per-pair settings of the rule as tensors. `tempered_P`: tau is held against probabilities at `temperature_P`."""

    tau_P: Tensor
    temperature_P: Tensor
    tempered_P: Tensor


def mix(student_PV: Tensor, privileged_PV: Tensor, rule: Rule, uniform_P2: Tensor) -> Mixed:
    """Draws one token per pair from the two rows of logits.

    Args:
        student_PV, privileged_PV: logits of any float type; the arithmetic is in float32.
        uniform_P2: in [0, 1); column 0 draws the proposal, column 1 the privileged student's own token.
    """
    student_PV, privileged_PV = student_PV.float(), privileged_PV.float()
    proposal_P = draw(student_PV, rule.temperature_P, uniform_P2[:, 0])
    own_P = draw(privileged_PV, rule.temperature_P, uniform_P2[:, 1])
    privileged_log_PV = privileged_PV.log_softmax(-1)
    verdict_P = _at(privileged_log_PV, proposal_P).exp()
    if rule.tempered_P.any():
        verdict_P = torch.where(rule.tempered_P, _tempered(privileged_PV, rule.temperature_P, proposal_P), verdict_P)
    accepted_P = verdict_P >= rule.tau_P
    token_P = torch.where(accepted_P, proposal_P, own_P)
    return Mixed(
        token_P, accepted_P, proposal_P, _at(student_PV.log_softmax(-1), token_P), _at(privileged_log_PV, token_P)
    )


class Watched(NamedTuple):
    """One step of P rows that one role draws alone, and where the rule needs the student's word.

    `best_PK` are the likeliest tokens and `stands_PK` whether a proposal of them would stand; K is 2, since from
    tau 0.5 on no third token can. Log-probabilities at temperature 1.
    """

    token_P: Tensor
    logprob_P: Tensor
    confident_P: Tensor
    pause_P: Tensor
    best_PK: Tensor
    best_logprob_PK: Tensor
    stands_PK: Tensor


def watch(privileged_PV: Tensor, rule: Rule, uniform_P: Tensor) -> Watched:
    """The privileged student's own draw, exact for tau >= 0.5 (or above 1, which asks nobody).

    The student matters only where a token other than the drawn one would stand: if it proposes that token, the token
    replaces the draw; whatever else it proposes, the draw is what the rule gives. So the trace is the one that `mix`
    would draw from the same numbers.
    """
    privileged_PV = privileged_PV.float()
    token_P = draw(privileged_PV, rule.temperature_P, uniform_P)
    log_PV = privileged_PV.log_softmax(-1)
    best_log_PK, best_PK = log_PV.topk(2, dim=-1)
    verdict_PK = best_log_PK.exp()
    if rule.tempered_P.any():
        tempered_PK = torch.stack([_tempered(privileged_PV, rule.temperature_P, best_P) for best_P in best_PK.T], -1)
        verdict_PK = torch.where(rule.tempered_P[:, None], tempered_PK, verdict_PK)
    stands_PK = verdict_PK >= rule.tau_P[:, None]
    pause_P = (stands_PK & (best_PK != token_P[:, None])).any(-1)
    return Watched(token_P, _at(log_PV, token_P), stands_PK.any(-1), pause_P, best_PK, best_log_PK, stands_PK)


def draw(logits_PV: Tensor, temperature_P: Tensor, uniform_P: Tensor) -> Tensor:
    """One token per row by inverting the cumulative distribution; temperature 0 takes the first largest logit.

    One uniform number decides a draw, so a draw depends on nothing but its own row and seed.
    """
    greedy_P = temperature_P == 0
    heat_P1 = torch.where(greedy_P, 1.0, temperature_P)[:, None]
    # float64, since a float32 running sum over 150,000 tokens loses the tail
    cumulative_PV = (logits_PV / heat_P1).softmax(-1).cumsum(-1, dtype=torch.float64)
    total_P1 = cumulative_PV[:, -1:]
    # kept below the total, or rounding could land on a token of probability 0 at the end of the vocabulary
    target_P1 = (uniform_P.double()[:, None] * total_P1).minimum(total_P1.nextafter(torch.zeros_like(total_P1)))
    sampled_P = torch.searchsorted(cumulative_PV, target_P1, right=True)[:, 0]
    return torch.where(greedy_P, logits_PV.argmax(-1), sampled_P)


def _tempered(logits_PV: Tensor, temperature_P: Tensor, token_P: Tensor) -> Tensor:
    """Probability of the token at the pair's temperature; at temperature 0 all of it is on the largest logit."""
    greedy_P = temperature_P == 0
    heat_P1 = torch.where(greedy_P, 1.0, temperature_P)[:, None]
    probability_P = _at((logits_PV / heat_P1).softmax(-1), token_P)
    return torch.where(greedy_P, (token_P == logits_PV.argmax(-1)).float(), probability_P)


def _at(values_PV: Tensor, index_P: Tensor) -> Tensor:
    return values_PV.gather(-1, index_P[:, None])[:, 0]


def mixed_distribution(student_V: Tensor, privileged_V: Tensor, tau: float, verdict_V: Tensor | None = None) -> Tensor:
    """The exact distribution of the next trace token, from probabilities.

    P(t) = student(t) [verdict(t) >= tau] + privileged(t) · sum of student(u) over the u that are refused.
    `verdict_V` is what tau is held against, the privileged student's probabilities unless given.
    """
    kept_V = student_V * ((privileged_V if verdict_V is None else verdict_V) >= tau)
    return kept_V + privileged_V * (1 - kept_V.sum())


def uniforms(seed_P: np.ndarray, position_P: np.ndarray, draws: int = 2) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [P, draws], a pure function of seed and position in the trace.

    The SplitMix64 generator read at place `position * draws + k`: a resumed rollout draws what an unbroken one
    would have, whatever else is in the batch.
    """
    place_PK = position_P.astype(np.uint64)[:, None] * np.uint64(draws) + np.arange(draws, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = seed_P.astype(np.uint64)[:, None] + (place_PK + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
