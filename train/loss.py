"""The objectives of the paper's §2.2 and its ablations, per trace token, over the full vocabulary.

    contrastive    KL(student ‖ privileged student) - gamma · KL(student ‖ negative reference)
    privileged_kl  KL(student ‖ privileged student)                        gamma = 0
    negative_kl    KL(student ‖ negative reference), minimised as in Table 4: it learns to imitate shortcuts
    nll            -log student(trace token)                               behaviour cloning

and whatever the user brings along (`dail.train.objective`), on whole rows of logits (`own_loss`).

All three roles share one frozen head, so a role is given by its hidden states. Logits exist for `chunk` tokens at a
time and in float32 (float64 for float64 inputs); the gradient is taken in the same pass, so nothing of the size
tokens × vocabulary is ever kept.

Two kernels give the same numbers, and a third is for a head that is adapted itself. `kl_loss` makes three rows of
logits a token, under any frozen head. `folded_kl_loss` is for a head that is a plain matrix, and for references whose
log-sum-exps are known (`Reference`): the difference of the roles is taken between hidden states, before the matrix, so
the references' logits never exist. With a and b the weights of the two KLs and z, z_q, z_n the logits,

    s = a · (z - z_q) + b · (z - z_n) = head · (a · (h - h_q) + b · (h - h_n))
    loss = E_p[s] - (a + b) · lse(z) + a · lse(z_q) + b · lse(z_n)         d loss / dz = p · (s - E_p[s])

It costs three matrix products instead of four, and what the roles have in common cancels before it is rounded. The two
KLs by themselves take one product more, for the one that counts less; the other is what is left of the loss:

    KL_n = E_p[z - z_n] - lse(z) + lse(z_n)         KL_q = (loss - b · KL_n) / a

With p the student's distribution, q and n the references' and c = 1 - gamma, the contrastive loss of a token is

    c · KL(p ‖ p*) + floor     p* ∝ (q / n^gamma)^(1/c)     floor = -c · log sum exp((log q - gamma · log n) / c) <= 0

so it may be negative, and `gap` = loss - floor is what training brings to zero.

Axes: R trace tokens, C those of one chunk, D hidden size, V vocabulary. All figures in nats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Module
from torch.utils.checkpoint import checkpoint

from dail.train.objective import Objective

Figures = dict[str, Tensor]  # name → one number per token; `loss` is always there
_ROWS = 32  # whose probabilities are normalised at a time


class Weights(NamedTuple):
    """A token's loss is privileged · KL(student ‖ privileged) + negative · KL(student ‖ negative)."""

    privileged: float
    negative: float


def kl_weights(objective: str, gamma: float) -> Weights | None:
    """Of a built-in objective; none for nll, which has no reference."""
    table: dict[str, Weights | None] = {
        "contrastive": Weights(1.0, -gamma),
        "privileged_kl": Weights(1.0, 0.0),
        "negative_kl": Weights(0.0, 1.0),
        "nll": None,
    }
    return table[objective]


@dataclass(frozen=True)
class Head:
    """Hidden states → logits: cap · tanh(scale · (matrix · h + bias) / cap), of which most models have the matrix only.

    Args:
        matrix_VD: frozen.
        cap: of Gemma 2 and its like; none: no cap.
    """

    matrix_VD: Tensor
    bias_V: Tensor | None = None
    scale: float = 1.0
    cap: float | None = None

    @property
    def is_plain(self) -> bool:
        return self.bias_V is None and self.scale == 1.0 and self.cap is None

    def logits(self, hidden_CD: Tensor) -> Tensor:
        """[C, V], at least float32."""
        logits_CV = project(hidden_CD, self.matrix_VD)
        if self.bias_V is not None:
            logits_CV += self.bias_V
        return self.shape(logits_CV)

    def shape(self, logits_CV: Tensor) -> Tensor:
        """What comes after matrix and bias."""
        if self.scale != 1.0:
            logits_CV *= self.scale
        return logits_CV if self.cap is None else self.cap * torch.tanh(logits_CV / self.cap)

    def gradient(self, slope_CV: Tensor, logits_CV: Tensor) -> Tensor:
        """From the derivative by the logits, which is overwritten, that by the hidden states [C, D]."""
        if self.cap is not None:
            slope_CV *= 1.0 - (logits_CV / self.cap).square()
        if self.scale != 1.0:
            slope_CV *= self.scale
        return slope_CV.to(self.matrix_VD.dtype) @ self.matrix_VD


class Reference(NamedTuple):
    """What the folded loss needs of a frozen role: final hidden states [R, D], log-sum-exps of their logits [R]."""

    hidden_RD: Tensor
    lse_R: Tensor


def reference_of(hidden_RD: Tensor, head_VD: Tensor, chunk: int) -> Reference:
    parts = [project(hidden_CD, head_VD).logsumexp(-1) for hidden_CD in hidden_RD.split(chunk)]
    return Reference(hidden_RD, torch.cat(parts))


def kl_loss(
    student_RD: Tensor, privileged_RD: Tensor, negative_RD: Tensor, head: Head, weights: Weights, chunk: int
) -> tuple[Tensor, Figures]:
    """Loss per token [R], which carries gradient to `student_RD` only, and the figures of `kl_tokens`."""

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        student_CV = head.logits(student_RD[part])
        privileged_CV, negative_CV = head.logits(privileged_RD[part]), head.logits(negative_RD[part])
        figures, slope_CV = kl_tokens(student_CV, privileged_CV, negative_CV, weights)
        return figures, head.gradient(slope_CV, student_CV)

    return _in_chunks(student_RD, chunk, tokens)


def folded_kl_loss(
    student_RD: Tensor,
    privileged: Reference,
    negative: Reference,
    head_VD: Tensor,
    weights: Weights,
    chunk: int,
    floor_R: Tensor,
    with_kls: bool = True,
) -> tuple[Tensor, Figures]:
    """As `kl_loss`, for a plain head, in three matrix products.

    Args:
        floor_R: of `floors`; it does not change in training.
        with_kls: whether `kl_privileged` and `kl_negative` are among the figures, which takes a fourth product.
    """

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        ours = Reference(privileged.hidden_RD[part], privileged.lse_R[part])
        theirs = Reference(negative.hidden_RD[part], negative.lse_R[part])
        figures, gradient_CD = folded_kl_tokens(student_RD[part], ours, theirs, head_VD, weights, with_kls)
        return {**figures, "gap": figures["loss"] - floor_R[part], "floor": floor_R[part]}, gradient_CD

    return _in_chunks(student_RD, chunk, tokens)


def nll_loss(student_RD: Tensor, trace_R: Tensor, head: Head, chunk: int) -> tuple[Tensor, Figures]:
    """Loss per token [R], which carries gradient to `student_RD` only, and the figures of `nll_tokens`."""

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        student_CV = head.logits(student_RD[part])
        figures, slope_CV = nll_tokens(student_CV, trace_R[part])
        return figures, head.gradient(slope_CV, student_CV)

    return _in_chunks(student_RD, chunk, tokens)


def adapted_kl_loss(
    student_RD: Tensor,
    privileged_RD: Tensor,
    negative_RD: Tensor,
    head: Head,
    adapted: Module,
    weights: Weights,
    chunk: int,
) -> tuple[Tensor, Figures]:
    """As `kl_loss` where the student's head has an adapter (`adapted`: hidden states → logits before scale and cap).

    Through autograd, so that the adapter gets its gradient; its logits have the precision of the weights.
    """

    def tokens(part: slice) -> Figures:
        with torch.no_grad():
            privileged_CV, negative_CV = head.logits(privileged_RD[part]), head.logits(negative_RD[part])
        student_CV = head.shape(adapted(student_RD[part]).to(privileged_CV.dtype))
        return kl_tokens(student_CV, privileged_CV, negative_CV, weights)[0]

    return _through_autograd(student_RD, chunk, tokens)


def adapted_nll_loss(
    student_RD: Tensor, trace_R: Tensor, head: Head, adapted: Module, chunk: int
) -> tuple[Tensor, Figures]:
    """As `nll_loss`, likewise."""

    def tokens(part: slice) -> Figures:
        logits_CV = adapted(student_RD[part])
        wide = torch.promote_types(logits_CV.dtype, torch.float32)
        return nll_tokens(head.shape(logits_CV.to(wide)), trace_R[part])[0]

    return _through_autograd(student_RD, chunk, tokens)


def own_loss(
    student_RD: Tensor,
    privileged_RD: Tensor,
    negative_RD: Tensor,
    trace_R: Tensor,
    head: Head,
    objective: Objective,
    gamma: float,
    chunk: int,
    with_kls: bool = True,
) -> tuple[Tensor, Figures]:
    """As `kl_loss`, of a user's objective: autograd goes back to the student's logits, and the head's own gradient from
    there to `student_RD`.

    Args:
        with_kls: whether there are figures beside the loss, those of `_beside`.
    """

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        student_CV = head.logits(student_RD[part])
        privileged_CV, negative_CV = head.logits(privileged_RD[part]), head.logits(negative_RD[part])
        figures = _beside(student_CV, privileged_CV, negative_CV) if with_kls else {}
        with torch.enable_grad():
            loss_C = objective(student_CV.requires_grad_(), privileged_CV, negative_CV, trace_R[part], gamma)
            # each token's loss depends on its own row alone, so this is the derivative of each
            (slope_CV,) = torch.autograd.grad(loss_C.sum(), student_CV)
        figures["loss"] = loss_C.detach()
        return figures, head.gradient(slope_CV.contiguous(), student_CV.detach())

    return _in_chunks(student_RD, chunk, tokens)


def adapted_own_loss(
    student_RD: Tensor,
    privileged_RD: Tensor,
    negative_RD: Tensor,
    trace_R: Tensor,
    head: Head,
    adapted: Module,
    objective: Objective,
    gamma: float,
    chunk: int,
    with_kls: bool = True,
) -> tuple[Tensor, Figures]:
    """As `own_loss` where the student's head has an adapter, likewise."""

    def tokens(part: slice) -> Figures:
        with torch.no_grad():
            privileged_CV, negative_CV = head.logits(privileged_RD[part]), head.logits(negative_RD[part])
        student_CV = head.shape(adapted(student_RD[part]).to(privileged_CV.dtype))
        figures = _beside(student_CV.detach(), privileged_CV, negative_CV) if with_kls else {}
        return {**figures, "loss": objective(student_CV, privileged_CV, negative_CV, trace_R[part], gamma)}

    return _through_autograd(student_RD, chunk, tokens)


def _beside(student_CV: Tensor, privileged_CV: Tensor, negative_CV: Tensor) -> Figures:
    """What is said of the roles under any objective."""
    figures, _ = kl_tokens(student_CV, privileged_CV, negative_CV, Weights(1.0, 0.0))
    return {name: figures[name] for name in ("kl_privileged", "kl_negative", "student_entropy")}


def floors(privileged: Reference, negative: Reference, head_VD: Tensor, weights: Weights, chunk: int) -> Tensor:
    """The least that each token's loss can be [R]: see above."""
    if 0.0 in weights:  # one reference alone is reached, at distance 0
        return torch.zeros_like(privileged.lse_R)
    share = weights.privileged + weights.negative
    constant_R = weights.privileged * privileged.lse_R + weights.negative * negative.lse_R
    parts = []
    for privileged_CD, negative_CD in zip(
        privileged.hidden_RD.split(chunk), negative.hidden_RD.split(chunk), strict=True
    ):
        best_CV = project(privileged_CD, head_VD).mul_(weights.privileged)
        best_CV.add_(project(negative_CD, head_VD), alpha=weights.negative).div_(share)
        parts.append(-share * best_CV.logsumexp(-1))
    return torch.cat(parts) + constant_R


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


def folded_kl_tokens(
    student_CD: Tensor, privileged: Reference, negative: Reference, head_VD: Tensor, weights: Weights, with_kls: bool
) -> tuple[Figures, Tensor]:
    """Figures per token, but the floor's, and the derivative of each token's loss by its hidden state [C, D].

    Differences are taken between hidden states in float32 and only then rounded to the head's precision.
    """
    exact = torch.float64 if student_CD.dtype == torch.float64 else torch.float32
    share = weights.privileged + weights.negative
    hidden_CD = student_CD.to(exact)
    from_privileged_CD, from_negative_CD = hidden_CD - privileged.hidden_RD, hidden_CD - negative.hidden_RD
    difference_CD = weights.privileged * from_privileged_CD + weights.negative * from_negative_CD
    pull_CV = project(difference_CD.to(head_VD.dtype), head_VD)
    p_CV = project(student_CD, head_VD)
    peak_C1 = p_CV.argmax(-1, keepdim=True)
    top_C1 = p_CV.gather(-1, peak_C1)
    p_CV -= top_C1
    log_total_C, entropy_C = _normalise(p_CV)
    lse_C = top_C1[:, 0] + log_total_C
    mean_C, from_peak_C = _mean(p_CV, pull_CV, peak_C1)
    constant_C = weights.privileged * privileged.lse_R + weights.negative * negative.lse_R
    loss_C = mean_C + from_peak_C - share * lse_C + constant_C
    figures = {"loss": loss_C, "student_entropy": entropy_C}
    if with_kls:
        # one is measured, and the other, whose weight is the larger, is what is left: no rounding is magnified
        measures_negative = abs(weights.negative) <= abs(weights.privileged)
        reference, away_CD = (negative, from_negative_CD) if measures_negative else (privileged, from_privileged_CD)
        kl_C = sum(_mean(p_CV, project(away_CD.to(head_VD.dtype), head_VD), peak_C1)) - lse_C + reference.lse_R
        if measures_negative:
            figures |= {"kl_privileged": (loss_C - weights.negative * kl_C) / weights.privileged, "kl_negative": kl_C}
        else:
            figures |= {"kl_privileged": kl_C, "kl_negative": (loss_C - weights.privileged * kl_C) / weights.negative}
    pull_CV -= mean_C[:, None]
    p_CV *= pull_CV
    return figures, p_CV.to(head_VD.dtype) @ head_VD


def _mean(p_CV: Tensor, values_CV: Tensor, peak_C1: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the vocabulary in two parts [C]: counted from the likeliest token's value, and that value.

    The first part of a peaked distribution is small, and exact. `values_CV` are counted from there afterwards.
    """
    from_peak_C1 = values_CV.gather(-1, peak_C1)
    values_CV -= from_peak_C1
    return _dot(p_CV, values_CV), from_peak_C1[:, 0]


def _normalise(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Turns logits, none above 0, into probabilities in their place; log-sum-exp and entropy [C].

    A few rows at a time, since another buffer of the chunk's size would be half as much memory again.
    """
    log_totals, entropies = [], []
    scratch_CV = torch.empty_like(logits_CV[:_ROWS])  # one for all, since C libraries let go of what is freed late
    for rows_CV in logits_CV.split(_ROWS):
        weight_CV = torch.exp(rows_CV, out=scratch_CV[: len(rows_CV)])
        total_C = weight_CV.sum(-1)
        entropies.append(total_C.log() - _dot(weight_CV, rows_CV) / total_C)
        log_totals.append(total_C.log())
        torch.div(weight_CV, total_C[:, None], out=rows_CV)
    return torch.cat(log_totals), torch.cat(entropies)


def _dot(one_CV: Tensor, other_CV: Tensor) -> Tensor:
    """Row by row [C], without the buffer of products that `vecdot` makes."""
    return torch.bmm(one_CV[:, None], other_CV[:, :, None])[:, 0, 0]


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
    student_RD: Tensor, chunk: int, tokens: Callable[[slice], tuple[Figures, Tensor]]
) -> tuple[Tensor, Figures]:
    """Runs `tokens` over slices of at most `chunk` rows, which gives figures and gradient of each."""
    parts: list[Figures] = []
    gradient_RD = torch.empty_like(student_RD)
    with torch.no_grad():
        for start in range(0, len(student_RD), chunk):
            part = slice(start, start + chunk)
            figures, gradient_RD[part] = tokens(part)
            parts.append(figures)
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return _WithGradient.apply(student_RD, joined["loss"], gradient_RD), joined


def _through_autograd(student_RD: Tensor, chunk: int, tokens: Callable[[slice], Figures]) -> tuple[Tensor, Figures]:
    """As `_in_chunks`, but every chunk is computed again in the backward pass, which finds its gradients then."""
    slices = [slice(start, start + chunk) for start in range(0, len(student_RD), chunk)]
    parts = [checkpoint(tokens, part, use_reentrant=False) for part in slices]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return joined["loss"], {name: value.detach() for name, value in joined.items()}


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
