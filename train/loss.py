"""The objectives of the paper's §2.2 and its ablations, per trace token, over the full vocabulary.

    contrastive    KL(student ‖ privileged student) - gamma · KL(student ‖ negative reference)
    privileged_kl  KL(student ‖ privileged student)                        gamma = 0
    negative_kl    KL(student ‖ negative reference), minimised as in Table 4: it learns to imitate shortcuts
    nll            -log student(trace token)                               behaviour cloning

All three roles share one frozen head, so a role is given by its hidden states. Logits exist for `chunk` tokens at a
time and in float32 (float64 for float64 inputs); the gradient is taken in the same pass, so nothing of the size
tokens × vocabulary is ever kept.

With p the student's distribution, q and n the references' and c = 1 - gamma, the contrastive loss of a token is

    c · KL(p ‖ p*) + floor     p* ∝ (q / n^gamma)^(1/c)     floor = -c · log sum exp((log q - gamma · log n) / c) <= 0

so it may be negative, and `gap` = loss - floor is what training brings to zero.

Axes: R trace tokens, C those of one chunk, D hidden size, V vocabulary. All figures in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from train.config import Objective

Figures = dict[str, Tensor]  # name → one number per token; `loss` is always there


class Weights(NamedTuple):
    """A token's loss is privileged · KL(student ‖ privileged) + negative · KL(student ‖ negative)."""

    privileged: float
    negative: float


def kl_weights(objective: Objective, gamma: float) -> Weights | None:
    """None for nll, which has no reference."""
    table: dict[Objective, Weights | None] = {
        "contrastive": Weights(1.0, -gamma),
        "privileged_kl": Weights(1.0, 0.0),
        "negative_kl": Weights(0.0, 1.0),
        "nll": None,
    }
    return table[objective]


def kl_loss(
    student_RD: Tensor, privileged_RD: Tensor, negative_RD: Tensor, head_VD: Tensor, weights: Weights, chunk: int
) -> tuple[Tensor, Figures]:
    """Loss per token [R], which carries gradient to `student_RD` only, and the figures of `kl_tokens`."""

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        student_CV = project(student_RD[part], head_VD)
        privileged_CV = project(privileged_RD[part], head_VD)
        negative_CV = project(negative_RD[part], head_VD)
        return kl_tokens(student_CV, privileged_CV, negative_CV, weights)

    return _in_chunks(student_RD, head_VD, chunk, tokens)


def nll_loss(student_RD: Tensor, trace_R: Tensor, head_VD: Tensor, chunk: int) -> tuple[Tensor, Figures]:
    """Loss per token [R], which carries gradient to `student_RD` only, and the figures of `nll_tokens`."""

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        return nll_tokens(project(student_RD[part], head_VD), trace_R[part])

    return _in_chunks(student_RD, head_VD, chunk, tokens)


def kl_tokens(
    student_CV: Tensor, privileged_CV: Tensor, negative_CV: Tensor, weights: Weights
) -> tuple[Figures, Tensor]:
    """From three rows of logits: figures per token, and the derivative of each token's loss by its student logits."""
    log_p_CV = student_CV.log_softmax(-1)
    log_q_CV = privileged_CV.log_softmax(-1)
    log_n_CV = negative_CV.log_softmax(-1)
    share = weights.privileged + weights.negative
    best_CV = (weights.privileged * log_q_CV + weights.negative * log_n_CV) / share
    floor_C = -share * best_CV.logsumexp(-1)
    # Differences of log-probabilities first: where the roles agree the slope is exactly zero, at any weights.
    from_privileged_CV = log_p_CV - log_q_CV
    from_negative_CV = log_p_CV - log_n_CV
    p_CV = log_p_CV.exp()
    kl_privileged_C = torch.linalg.vecdot(p_CV, from_privileged_CV)
    kl_negative_C = torch.linalg.vecdot(p_CV, from_negative_CV)
    loss_C = weights.privileged * kl_privileged_C + weights.negative * kl_negative_C
    pull_CV = weights.privileged * from_privileged_CV + weights.negative * from_negative_CV
    figures = {
        "loss": loss_C,
        "gap": loss_C - floor_C,
        "floor": floor_C,
        "kl_privileged": kl_privileged_C,
        "kl_negative": kl_negative_C,
        "student_entropy": -torch.linalg.vecdot(p_CV, log_p_CV),
    }
    return figures, p_CV * (pull_CV - loss_C[:, None])


def nll_tokens(student_CV: Tensor, trace_C: Tensor) -> tuple[Figures, Tensor]:
    """As `kl_tokens`. The floor of a negative log-likelihood is 0, so its gap is the loss itself."""
    log_p_CV = student_CV.log_softmax(-1)
    p_CV = log_p_CV.exp()
    loss_C = -log_p_CV.gather(-1, trace_C[:, None])[:, 0]
    figures = {"loss": loss_C, "gap": loss_C, "student_entropy": -torch.linalg.vecdot(p_CV, log_p_CV)}
    return figures, p_CV.scatter_add(-1, trace_C[:, None], -torch.ones_like(loss_C)[:, None])


def project(hidden_RD: Tensor, head_VD: Tensor) -> Tensor:
    """Logits, at least float32: in bfloat16 they would cancel where the student still agrees with its references."""
    if hidden_RD.dtype in (torch.float32, torch.float64):
        return hidden_RD @ head_VD.t()
    if hidden_RD.is_cuda:
        return torch.mm(hidden_RD, head_VD.t(), out_dtype=torch.float32)
    return hidden_RD.float() @ head_VD.float().t()


def _in_chunks(
    student_RD: Tensor, head_VD: Tensor, chunk: int, tokens: Callable[[slice], tuple[Figures, Tensor]]
) -> tuple[Tensor, Figures]:
    """Runs `tokens` over slices of at most `chunk` rows; its slopes become the gradient at once and are dropped."""
    parts: list[Figures] = []
    gradient_RD = torch.empty_like(student_RD)
    with torch.no_grad():
        for start in range(0, len(student_RD), chunk):
            part = slice(start, start + chunk)
            figures, slope_CV = tokens(part)
            gradient_RD[part] = slope_CV.to(head_VD.dtype) @ head_VD
            parts.append(figures)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return _WithGradient.apply(student_RD, joined["loss"], gradient_RD), joined


class _WithGradient(torch.autograd.Function):
    """The loss of each token, whose derivative by that token's hidden state is already known."""

    @staticmethod
    def forward(ctx: Any, student_RD: Tensor, loss_R: Tensor, gradient_RD: Tensor) -> Tensor:
        ctx.save_for_backward(gradient_RD)
        return loss_R.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer_R: Tensor) -> tuple[Tensor, None, None]:
        (gradient_RD,) = ctx.saved_tensors
        return (gradient_RD * outer_R[:, None]).to(gradient_RD.dtype), None, None
