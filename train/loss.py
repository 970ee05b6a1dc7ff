"""The losses of the paper's §2.2, its ablations and their kin, per trace token, over the full vocabulary.

    contrastive    KL(student ‖ privileged student) - gamma · KL(student ‖ negative reference)
    privileged_kl  KL(student ‖ privileged student)                        gamma = 0
    negative_kl    KL(student ‖ negative reference), minimised as in Table 4: it learns to imitate shortcuts
    nll            -log student(trace token)                               behaviour cloning

and sums over any references of weight · divergence, at any temperatures (`comparison.py` says which have a minimum,
`divergences.py` has their formulas), and whatever the user brings along (`objective.py`), on whole rows of logits.

All roles share one frozen head, so a role is given by its hidden states. Logits exist for `chunk` tokens at a time and
in float32 (float64 for float64 inputs); the gradient is taken in the same pass, so nothing of the size
tokens × vocabulary is ever kept.

`divergence_loss` makes a row of logits for the student and each reference, under any frozen head;
`adapted_divergence_loss` is the same for a head that is adapted itself. `folded_kl_loss` gives the same numbers for the
reverse KL, for a head that is a plain matrix and references whose log-sum-exps are known (`Reference`): the difference
of the roles is taken between hidden states, before the matrix, so the references' logits never exist, however many they
are. With w the weights, T and T_q the temperatures of student and references, z and z_q the logits,

    s = sum w · (z / T - z_q / T_q) = head · sum w · (h / T - h_q / T_q)
    loss = E_p[s] - sum w · lse(z / T) + sum w · lse(z_q / T_q)         d loss / dz = p · (s - E_p[s]) / T

It costs three matrix products instead of two and one for each reference, and what the roles have in common cancels
before it is rounded. It rests on the reverse KL's target being a mixture in logits. The forward KL's is one in
probabilities, sum w q / sum w, whose log-sum-exps are not linear in hidden states, and the Jensen-Shannon divergence
has a mixture with the student for each reference: neither folds, each reference takes a row of logits.

The KLs by themselves take one product more each, but for the one that counts most; that is what is left of the loss:

    KL_n = E_p[z / T - z_n / T_q] - lse(z / T) + lse(z_n / T_q)         KL_q = (loss - sum of the others) / w_q

With p the student's distribution, q and n the references' and c = 1 - gamma, the contrastive loss of a token is

    c · KL(p ‖ p*) + floor     p* ∝ (q / n^gamma)^(1/c)     floor = -c · log sum exp((log q - gamma · log n) / c) <= 0

so it may be negative, and `gap` = loss - floor is what training brings to zero.

Axes: R trace tokens, C those of one chunk, D hidden size, V vocabulary. All figures in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import Module
from torch.utils.checkpoint import checkpoint

from dail.train.comparison import NEGATIVE, PRIVILEGED, Comparison
from dail.train.divergences import Figures, compare, dot
from dail.train.objective import Objective

_BESIDE = Comparison({PRIVILEGED: 1.0, NEGATIVE: 1.0})  # whose KLs are told of any objective
_ROWS = 32  # whose probabilities are normalised at a time


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
    """What the folded loss needs of a frozen role: final hidden states [R, D], log-sum-exps [R] of their logits ÷
    temperature."""

    hidden_RD: Tensor
    lse_R: Tensor


def reference_of(hidden_RD: Tensor, head_VD: Tensor, chunk: int, temperature: float = 1.0) -> Reference:
    parts = [_cooled(project(hidden_CD, head_VD), temperature).logsumexp(-1) for hidden_CD in hidden_RD.split(chunk)]
    return Reference(hidden_RD, torch.cat(parts))


def divergence_loss(
    student_RD: Tensor, references: Mapping[str, Tensor], head: Head, comparison: Comparison, chunk: int
) -> tuple[Tensor, Figures]:
    """Loss per token [R], which carries gradient to `student_RD` only, and the figures of `compare`.

    Args:
        references: hidden states [R, D] by name; of those that have a weight, no others.
    """

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        student_CV = head.logits(student_RD[part])
        figures, slope_CV = _compared(student_CV, references, part, head, comparison)
        return figures, head.gradient(slope_CV, student_CV)

    return _in_chunks(student_RD, chunk, tokens)


def folded_kl_loss(
    student_RD: Tensor,
    references: Mapping[str, Reference],
    head_VD: Tensor,
    comparison: Comparison,
    chunk: int,
    floor_R: Tensor,
    with_kls: bool = True,
) -> tuple[Tensor, Figures]:
    """As `divergence_loss` of the reverse KL, for a plain head, in three matrix products.

    Args:
        floor_R: of `floors`; it does not change in training.
        with_kls: whether `kl_NAME` of each reference is among the figures, which takes a product more for all but one.
    """

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        those = {name: Reference(one.hidden_RD[part], one.lse_R[part]) for name, one in references.items()}
        figures, gradient_CD = folded_kl_tokens(student_RD[part], those, head_VD, comparison, with_kls)
        return {**figures, "gap": figures["loss"] - floor_R[part], "floor": floor_R[part]}, gradient_CD

    return _in_chunks(student_RD, chunk, tokens)


def nll_loss(
    student_RD: Tensor, trace_R: Tensor, head: Head, chunk: int, temperature: float = 1.0
) -> tuple[Tensor, Figures]:
    """Loss per token [R] of the student's logits ÷ temperature, which carries gradient to `student_RD` only, and the
    figures of `nll_tokens`."""

    def tokens(part: slice) -> tuple[Figures, Tensor]:
        student_CV = head.logits(student_RD[part])
        figures, slope_CV = nll_tokens(_cooled(student_CV, temperature), trace_R[part])
        return figures, head.gradient(_cooled(slope_CV, temperature), student_CV)

    return _in_chunks(student_RD, chunk, tokens)


def adapted_divergence_loss(
    student_RD: Tensor,
    references: Mapping[str, Tensor],
    head: Head,
    adapted: Module,
    comparison: Comparison,
    chunk: int,
) -> tuple[Tensor, Figures]:
    """As `divergence_loss` where the student's head has an adapter (`adapted`: hidden states → logits before scale and
    cap), which gets its gradient through autograd; its logits have the precision of the weights."""

    def tokens(part: slice) -> Figures:
        logits_CV = adapted(student_RD[part])
        student_CV = head.shape(logits_CV.to(torch.promote_types(logits_CV.dtype, torch.float32)))
        with torch.no_grad():
            figures, slope_CV = _compared(student_CV.detach(), references, part, head, comparison)
        return {**figures, "loss": _WithGradient.apply(student_CV, figures["loss"], slope_CV)}

    return _through_autograd(student_RD, chunk, tokens)


def adapted_nll_loss(
    student_RD: Tensor, trace_R: Tensor, head: Head, adapted: Module, chunk: int, temperature: float = 1.0
) -> tuple[Tensor, Figures]:
    """As `nll_loss`, likewise."""

    def tokens(part: slice) -> Figures:
        logits_CV = adapted(student_RD[part])
        wide = torch.promote_types(logits_CV.dtype, torch.float32)
        return nll_tokens(_cooled(head.shape(logits_CV.to(wide)), temperature), trace_R[part])[0]

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
    """As `divergence_loss`, of a user's objective: autograd goes back to the student's logits, and the head's own
    gradient from there to `student_RD`.

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
    both = {PRIVILEGED: privileged_CV, NEGATIVE: negative_CV}
    figures, _ = compare(student_CV, both.__getitem__, _BESIDE)
    return {name: figures[name] for name in ("kl_privileged", "kl_negative", "student_entropy")}


def _compared(
    student_CV: Tensor, references: Mapping[str, Tensor], part: slice, head: Head, comparison: Comparison
) -> tuple[Figures, Tensor]:
    """Figures of a chunk, and the derivative of each token's loss by the student's logits as they are."""

    def logits_of(name: str) -> Tensor:
        logits_CV, temperature = head.logits(references[name][part]), comparison.reference_temperature
        return logits_CV if temperature == 1.0 else logits_CV.div_(temperature)

    figures, slope_CV = compare(_cooled(student_CV, comparison.student_temperature), logits_of, comparison)
    return figures, _cooled(slope_CV, comparison.student_temperature)


def _cooled(logits: Tensor, temperature: float) -> Tensor:
    return logits if temperature == 1.0 else logits / temperature


def floors(references: Mapping[str, Reference], head_VD: Tensor, comparison: Comparison, chunk: int) -> Tensor:
    """The least that each token's reverse KLs together can be [R]: see above."""
    weights, (first, *_) = comparison.weights, references.values()
    if len(references) == 1:  # it alone is reached, at distance 0
        return torch.zeros_like(first.lse_R)
    share, parts = comparison.share, []
    for start in range(0, len(first.lse_R), chunk):
        best_CV: Tensor | None = None
        for name, one in references.items():
            logits_CV = _cooled(
                project(one.hidden_RD[start : start + chunk], head_VD), comparison.reference_temperature
            )
            best_CV = logits_CV.mul_(weights[name]) if best_CV is None else best_CV.add_(logits_CV, alpha=weights[name])
        assert best_CV is not None
        parts.append(-share * best_CV.div_(share).logsumexp(-1))
    return torch.cat(parts) + _weighted(weights, {name: one.lse_R for name, one in references.items()})


def _weighted(weights: Mapping[str, float], values: Mapping[str, Tensor]) -> Tensor:
    """Their sum, in the weights' order."""
    first, *others = (weights[name] * values[name] for name in weights)
    for other in others:
        first = first + other
    return first


def folded_kl_tokens(
    student_CD: Tensor, references: Mapping[str, Reference], head_VD: Tensor, comparison: Comparison, with_kls: bool
) -> tuple[Figures, Tensor]:
    """Figures per token, but the floor's, and the derivative of each token's loss by its hidden state [C, D].

    Differences are taken between hidden states in float32 and only then rounded to the head's precision.
    """
    exact = torch.float64 if student_CD.dtype == torch.float64 else torch.float32
    weights, own, theirs = comparison.weights, comparison.student_temperature, comparison.reference_temperature
    hidden_CD = _cooled(student_CD.to(exact), own)
    away = {name: hidden_CD - _cooled(one.hidden_RD.to(exact), theirs) for name, one in references.items()}
    pull_CV = project(_weighted(weights, away).to(head_VD.dtype), head_VD)
    p_CV = project(student_CD, head_VD)
    if own != 1.0:
        p_CV /= own
    peak_C1 = p_CV.argmax(-1, keepdim=True)
    top_C1 = p_CV.gather(-1, peak_C1)
    p_CV -= top_C1
    log_total_C, entropy_C = _normalise(p_CV)
    lse_C = top_C1[:, 0] + log_total_C
    mean_C, from_peak_C = _mean(p_CV, pull_CV, peak_C1)
    constant_C = _weighted(weights, {name: one.lse_R for name, one in references.items()})
    loss_C = mean_C + from_peak_C - comparison.share * lse_C + constant_C
    figures = {"loss": loss_C, "student_entropy": entropy_C}
    if with_kls:
        # all are measured but the one of the largest weight, which is what is left: no rounding is magnified
        last = max(weights, key=lambda name: abs(weights[name]))
        kls = {
            name: sum(_mean(p_CV, project(away[name].to(head_VD.dtype), head_VD), peak_C1)) - lse_C + one.lse_R
            for name, one in references.items()
            if name != last
        }
        left_C = loss_C
        for name, kl_C in kls.items():
            left_C = left_C - weights[name] * kl_C
        kls[last] = left_C / weights[last]
        figures |= {f"kl_{name}": kls[name] for name in weights}
    pull_CV -= mean_C[:, None]
    p_CV *= pull_CV
    return figures, _cooled(p_CV.to(head_VD.dtype) @ head_VD, own)


def _mean(p_CV: Tensor, values_CV: Tensor, peak_C1: Tensor) -> tuple[Tensor, Tensor]:
    """The mean over the vocabulary in two parts [C]: counted from the likeliest token's value, and that value.

    The first part of a peaked distribution is small, and exact. `values_CV` are counted from there afterwards.
    """
    from_peak_C1 = values_CV.gather(-1, peak_C1)
    values_CV -= from_peak_C1
    return dot(p_CV, values_CV), from_peak_C1[:, 0]


def _normalise(logits_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Turns logits, none above 0, into probabilities in their place; log-sum-exp and entropy [C].

    A few rows at a time, since another buffer of the chunk's size would be half as much memory again.
    """
    log_totals, entropies = [], []
    scratch_CV = torch.empty_like(logits_CV[:_ROWS])  # one for all, since C libraries let go of what is freed late
    for rows_CV in logits_CV.split(_ROWS):
        weight_CV = torch.exp(rows_CV, out=scratch_CV[: len(rows_CV)])
        total_C = weight_CV.sum(-1)
        entropies.append(total_C.log() - dot(weight_CV, rows_CV) / total_C)
        log_totals.append(total_C.log())
        torch.div(weight_CV, total_C[:, None], out=rows_CV)
    return torch.cat(log_totals), torch.cat(entropies)


def nll_tokens(student_CV: Tensor, trace_C: Tensor) -> tuple[Figures, Tensor]:
    """As `compare`. The floor of a negative log-likelihood is 0, so its gap is the loss itself."""
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
