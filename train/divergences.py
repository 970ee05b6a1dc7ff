"""Divergences of the student from its references, from rows of logits: value, slope by the student's logits, floor.

With p the student's distribution, q a reference's, w its weight and share = sum w > 0, each distribution of logits that
were divided by their temperature:

    reverse   sum w KL(p ‖ q)                       slope p · (a - E_p[a]),  a = sum w log (p / q)
              = share · KL(p ‖ p*) + floor          p* ∝ product of q^(w / share), a mixture in logits
              floor = -share · log sum_v exp(sum w log q_v / share)
    forward   sum w KL(q ‖ p)                       slope sum w (p - q)
              = share · KL(q* ‖ p) + floor          q* = sum w q / share, a mixture in probabilities
              floor = share · H(q*) - sum w H(q)
    jsd       sum w (β KL(q ‖ m) + (1 - β) KL(p ‖ m)),  m = β q + (1 - β) p
              slope (1 - β) · p · (a - E_p[a]),  a = sum w log (p / m)

The last is the generalised Jensen-Shannon divergence with the beta of GKD (arXiv 2306.13649), TRL and Liger. At β = 1/2
it is the usual one. It vanishes at both ends: divided by β it goes to the forward KL as β → 0, divided by 1 - β to the
reverse KL as β → 1. (TRL and Liger put those two KLs at the very ends, which makes their loss jump there.)

With one reference every floor is 0. Of several under jsd nobody knows the floor, since each mixture has the student in
it: then `floor` and `gap` are no figures. The slope is made of differences of log-probabilities or probabilities of the
two, so it is exactly zero where student and references agree. References are gone through one by one, so that any
number of them takes the memory of one.

Axes: C tokens of a chunk, V vocabulary. All figures in nats.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dail.train.comparison import Comparison

Figures = dict[str, Tensor]  # name → one number per token; `loss` is always there


def compare(student_CV: Tensor, logits_of: Callable[[str], Tensor], comparison: Comparison) -> tuple[Figures, Tensor]:
    """Figures per token, and the derivative of each token's loss by the student's logits [C, V].

    Args:
        student_CV: logits, at least float32, ÷ temperature.
        logits_of: a reference's, likewise, by name; asked for one at a time.
    """
    log_p_CV = student_CV.log_softmax(-1)
    p_CV = log_p_CV.exp()
    pull_CV, target = torch.zeros_like(p_CV), _Target(comparison)
    kls: Figures = {}
    loss_C = torch.zeros_like(p_CV[:, 0])
    for name, weight in comparison.weights.items():
        log_q_CV = logits_of(name).log_softmax(-1)
        target.add(log_q_CV, weight)
        away_CV = log_p_CV - log_q_CV
        kls[f"kl_{name}"] = value_C = dot(p_CV, away_CV)
        if comparison.divergence == "forward":
            q_CV = log_q_CV.exp_()
            value_C = -dot(q_CV, away_CV)
            away_CV = torch.sub(p_CV, q_CV, out=away_CV)
        elif comparison.divergence == "jsd":
            value_C, away_CV = _jensen_shannon(p_CV, log_q_CV, away_CV, comparison.beta)
        pull_CV.add_(away_CV, alpha=weight)
        loss_C = loss_C + weight * value_C
    entropy_C = -dot(p_CV, log_p_CV)
    if comparison.divergence != "forward":
        pull_CV -= dot(p_CV, pull_CV)[:, None]
        pull_CV *= p_CV
    floor_C = target.floor(loss_C)
    ends = {} if floor_C is None else {"gap": loss_C - floor_C, "floor": floor_C}
    return {"loss": loss_C, **ends, **kls, "student_entropy": entropy_C}, pull_CV


def _jensen_shannon(p_CV: Tensor, log_q_CV: Tensor, scratch_CV: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """The divergence [C] and (1 - β) log (p / m) [C, V]. `log_q_CV` and `scratch_CV` are overwritten.

    Both logarithms of the latter are of probabilities, or they would not cancel where p and q are the same.
    """
    q_CV = log_q_CV.exp()
    log_m_CV = _log(torch.lerp(p_CV, q_CV, beta, out=scratch_CV))
    log_q_CV -= log_m_CV
    from_reference_C = dot(q_CV, log_q_CV)
    from_mixture_CV = torch.sub(_log(q_CV.copy_(p_CV)), log_m_CV, out=log_m_CV)
    from_student_C = dot(p_CV, from_mixture_CV)
    return beta * from_reference_C + (1 - beta) * from_student_C, from_mixture_CV.mul_(1 - beta)


def _log(probs_CV: Tensor) -> Tensor:
    """In its place. What is below all normal numbers counts nothing, and its logarithm stays finite."""
    return probs_CV.clamp_(min=torch.finfo(probs_CV.dtype).tiny).log_()


def dot(one_CV: Tensor, other_CV: Tensor) -> Tensor:
    """Row by row [C], without the buffer of products that `vecdot` makes."""
    return torch.bmm(one_CV[:, None], other_CV[:, :, None])[:, 0, 0]


class _Target:
    """The mixture of several references that would be the least loss's, as far as there is one."""

    def __init__(self, comparison: Comparison) -> None:
        self._comparison = comparison
        self._is_mixed = len(comparison.weights) > 1 and comparison.divergence != "jsd"
        self._sum_CV: Tensor | None = None
        self._entropies_C: Tensor | float = 0.0

    def add(self, log_q_CV: Tensor, weight: float) -> None:
        if not self._is_mixed:
            return
        part_CV = log_q_CV
        if self._comparison.divergence == "forward":
            part_CV = log_q_CV.exp()
            self._entropies_C = self._entropies_C - weight * dot(part_CV, log_q_CV)
        if self._sum_CV is None:
            self._sum_CV = torch.zeros_like(part_CV)
        self._sum_CV.add_(part_CV, alpha=weight)

    def floor(self, loss_C: Tensor) -> Tensor | None:
        """The least that each token's loss can be; none if it is not known."""
        if len(self._comparison.weights) == 1:
            return torch.zeros_like(loss_C)
        if self._sum_CV is None:
            return None
        share = self._comparison.share
        best_CV = self._sum_CV.div_(share)
        if self._comparison.divergence == "reverse":
            return -share * best_CV.logsumexp(-1)
        return share * torch.special.entr(best_CV).sum(-1) - self._entropies_C
