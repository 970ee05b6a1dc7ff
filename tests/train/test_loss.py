"""The loss against a literal reading of the paper's formula in float64, and its promises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dail.train.comparison import Comparison, comparison_of
from dail.train.config import TrainConfig
from dail.train.loss import Head, divergence_loss, floors, folded_kl_loss, nll_loss, project, reference_of
from tests.bench.loss import inputs

R, D, V = 13, 8, 41


def pair(privileged: float, negative: float) -> Comparison:
    """Reverse KLs to the two references by these weights; a weight of 0 leaves one out."""
    weights = {"privileged": privileged, "negative": negative}
    return Comparison({name: weight for name, weight in weights.items() if weight})


def kl_loss(student: Tensor, privileged: Tensor, negative: Tensor, head: Head, comparison: Comparison, chunk: int):
    """To those of the two that have a weight."""
    both = {"privileged": privileged, "negative": negative}
    return divergence_loss(student, {name: both[name] for name in comparison.weights}, head, comparison, chunk)


def objective_of(objective: str, gamma: float) -> Comparison:
    return comparison_of(TrainConfig.model_validate({"objective": objective, "gamma": gamma}))


CONTRASTIVE = pair(1.0, -0.1)
KL_OBJECTIVES = [
    ("contrastive", 0.0),
    ("contrastive", 0.1),
    ("contrastive", 0.9),
    ("privileged_kl", 0.1),
    ("negative_kl", 0.1),
]


def roles(rows: int = R, vocabulary: int = V, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Hidden states of the three roles, and a head peaked enough for probabilities from 0.9 down to 1e-20."""
    draw = torch.Generator().manual_seed(0)
    student, privileged, negative = (torch.randn(rows, D, generator=draw, dtype=dtype) for _ in range(3))
    head = 3 * torch.randn(vocabulary, D, generator=draw, dtype=dtype)
    return student.requires_grad_(), privileged, negative, head


def literal_kl(student: Tensor, reference: Tensor, head: Tensor) -> Tensor:
    """KL(student ‖ reference) per token as PyTorch has it, from whole logits, with autograd."""
    log_p, log_q = (student @ head.t()).log_softmax(-1), (reference @ head.t()).log_softmax(-1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize(("objective", "gamma"), KL_OBJECTIVES)
def test_loss_and_gradient_are_those_of_the_literal_formula(objective: Any, gamma: float):
    student, privileged, negative, head = roles()
    to_privileged, to_negative = literal_kl(student, privileged, head), literal_kl(student, negative, head)
    wanted = {
        "contrastive": to_privileged - gamma * to_negative,
        "privileged_kl": to_privileged,
        "negative_kl": to_negative,
    }[objective]
    weights = objective_of(objective, gamma)
    got, figures = kl_loss(student, privileged, negative, Head(head), weights, chunk=5)
    outer = torch.rand(R, dtype=torch.float64)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    assert torch.allclose(
        gradient((got * outer).sum(), student), gradient((wanted * outer).sum(), student), rtol=0, atol=1e-12
    )
    for name, kl in (("privileged", to_privileged), ("negative", to_negative)):
        assert (f"kl_{name}" in figures) == (name in weights.weights)
        assert name not in weights.weights or torch.allclose(figures[f"kl_{name}"], kl, rtol=0, atol=1e-12)


def test_nll_loss_and_gradient_are_those_of_cross_entropy():
    student, _, _, head = roles()
    trace = torch.randint(V, (R,), generator=torch.Generator().manual_seed(1))
    wanted = functional.cross_entropy(student @ head.t(), trace, reduction="none")
    got, _ = nll_loss(student, trace, Head(head), chunk=5)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    assert torch.allclose(gradient(got.sum(), student), gradient(wanted.sum(), student), rtol=0, atol=1e-12)


def test_gradients_pass_gradcheck():
    student, privileged, negative, head = roles(rows=4)
    trace = torch.tensor([0, 5, 40, 7])
    assert torch.autograd.gradcheck(lambda h: kl_loss(h, privileged, negative, Head(head), CONTRASTIVE, 3)[0], student)
    assert torch.autograd.gradcheck(lambda h: nll_loss(h, trace, Head(head), 3)[0], student)


def test_gamma_zero_is_plain_kl_to_the_privileged_student():
    assert objective_of("contrastive", 0.0) == objective_of("privileged_kl", 0.3) == pair(1.0, 0.0)


def folded(
    student: Tensor,
    privileged: Tensor,
    negative: Tensor,
    head: Tensor,
    comparison: Comparison,
    chunk: int,
    with_kls: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The folded loss with everything it wants to know of the references."""
    both = {"privileged": privileged, "negative": negative}
    references = {name: reference_of(both[name].detach(), head.detach(), chunk) for name in comparison.weights}
    floor = floors(references, head.detach(), comparison, chunk)
    return folded_kl_loss(student, references, head, comparison, chunk, floor, with_kls)


@pytest.mark.parametrize(("objective", "gamma"), KL_OBJECTIVES)
@pytest.mark.parametrize("chunk", [1, 5, R])
def test_the_folded_loss_is_the_loss_in_every_figure(objective: Any, gamma: float, chunk: int):
    student, privileged, negative, head = roles()
    weights = objective_of(objective, gamma)
    wanted, wanted_figures = kl_loss(student, privileged, negative, Head(head), weights, chunk=R)
    got, figures = folded(student, privileged, negative, head, weights, chunk)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    outer = torch.rand(R, dtype=torch.float64)
    assert torch.allclose(
        gradient((got * outer).sum(), student), gradient((wanted * outer).sum(), student), rtol=0, atol=1e-12
    )
    assert figures.keys() == wanted_figures.keys()
    for name, value in figures.items():
        assert torch.allclose(value, wanted_figures[name], rtol=0, atol=1e-12), name


def test_without_the_two_kls_all_else_is_the_same_to_the_last_bit():
    student, *others = roles(dtype=torch.float32)
    whole, figures = folded(student, *others, CONTRASTIVE, 5)
    bare, fewer = folded(student, *others, CONTRASTIVE, 5, with_kls=False)
    assert figures.keys() - fewer.keys() == {"kl_privileged", "kl_negative"}
    assert all(torch.equal(fewer[name], figures[name]) for name in fewer)
    assert torch.equal(gradient(bare.sum(), student), gradient(whole.sum(), student))


@pytest.mark.parametrize(("objective", "gamma"), KL_OBJECTIVES)
@pytest.mark.parametrize("chunk", [3, 8, 64])
def test_the_two_kls_of_text_that_repeats_every_8_tokens_are_exact(objective: Any, gamma: float, chunk: int):
    """A sample of every 8th token would see the same token of the text each time."""
    student, privileged, negative, head = (tensor.detach() for tensor in roles(rows=8))
    periodic = [tensor.repeat(8, 1) for tensor in (student, privileged, negative)]
    kls = [literal_kl(periodic[0], reference, head).mean().item() for reference in periodic[1:]]
    weights = objective_of(objective, gamma)
    _, figures = folded(*periodic, head, weights, chunk)
    means = {name: value.mean().item() for name, value in figures.items()}
    assert abs(literal_kl(periodic[0], privileged.repeat(8, 1), head)[::8].mean().item() - kls[0]) > 0.1
    known = {name: kl for name, kl in zip(("privileged", "negative"), kls, strict=True) if name in weights.weights}
    assert {name: means[f"kl_{name}"] for name in known} == pytest.approx(known, abs=1e-12)
    assert means["loss"] == pytest.approx(sum(w * known[name] for name, w in weights.weights.items()), abs=1e-12)


@pytest.mark.parametrize("gap", [1.0, 0.1, 0.03])
@pytest.mark.parametrize("weights", [CONTRASTIVE, pair(1.0, 0.0), pair(0.0, 1.0), pair(1.0, -0.97)])
def test_the_two_kls_keep_the_loss_s_precision_in_bfloat16(gap: float, weights: Comparison):
    """Against float64 on the same bfloat16 inputs; they are what the loss is made of however near the roles are."""
    half = [tensor.bfloat16() for tensor in inputs(200, 128, 2000, gap)]
    exact = [tensor.double() for tensor in half]
    _, figures = folded(*half, weights, 64)
    both, made = {"privileged": exact[1], "negative": exact[2]}, torch.zeros(200)
    for name, weight in weights.weights.items():
        wanted = literal_kl(exact[0], both[name], exact[3]).mean().item()
        assert figures[f"kl_{name}"].mean().item() == pytest.approx(wanted, rel=0.05), name
        made = made + weight * figures[f"kl_{name}"]
    assert torch.allclose(figures["loss"], made, rtol=1e-5, atol=1e-5)


def test_the_folded_loss_passes_gradcheck():
    student, privileged, negative, head = roles(rows=4)
    assert torch.autograd.gradcheck(lambda h: folded(h, privileged, negative, head, CONTRASTIVE, 3)[0], student)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.7, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_all_roles_agree_the_folded_gradient_is_exactly_zero(gamma: float, dtype: torch.dtype):
    student, _, _, head = (t.detach().to(dtype) for t in roles())
    loss, _ = folded(student.requires_grad_(), student, student, head, pair(1.0, -gamma), 5)
    assert gradient(loss.sum(), student).count_nonzero() == 0


def test_the_folded_loss_keeps_little_and_stays_finite():
    rows, vocabulary, chunk = 64, 4096, 8
    student, privileged, _, head = roles(rows, vocabulary, torch.float32)
    negative = torch.full((rows, D), 300.0)
    with largest_tensor() as seen:
        loss, figures = folded(student, privileged, negative, head, pair(1.0, -0.9), chunk)
        slope = gradient(loss.sum(), student)
    assert max(seen) <= chunk * vocabulary < rows * vocabulary
    assert slope.isfinite().all() and all(value.isfinite().all() for value in figures.values())


@pytest.mark.parametrize("gap", [1.0, 0.3, 0.1, 0.03])
def test_bfloat16_gradients_are_right_however_near_the_references_are(gap: float):
    """Against float64 on the same bfloat16 inputs; 4e-3 is the goal, most of it the rounding of the result itself."""
    half = [t.bfloat16() for t in inputs(200, 128, 2000, gap)]
    exact = [t.double() for t in half]
    student, exact_student = half[0].requires_grad_(), exact[0].requires_grad_()
    wanted = gradient(kl_loss(exact_student, *exact[1:3], Head(exact[3]), CONTRASTIVE, 64)[0].sum(), exact_student)
    got = gradient(folded(student, *half[1:], CONTRASTIVE, 64)[0].sum(), student)
    assert float((got.double() - wanted).norm() / wanted.norm()) <= 4e-3


def test_rows_that_pad_the_vocabulary_count_as_the_model_has_them():
    """Zeros below the tokenizer's last id, as Qwen's heads have: logit 0 for every role, no token ever."""
    student, privileged, negative, head = roles()
    padded = torch.cat([head, torch.zeros(7, D, dtype=head.dtype)])
    wanted = literal_kl(student, privileged, padded) - 0.1 * literal_kl(student, negative, padded)
    got, _ = folded(student, privileged, negative, padded, CONTRASTIVE, 5)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    assert torch.allclose(gradient(got.sum(), student), gradient(wanted.sum(), student), rtol=0, atol=1e-12)
    assert not torch.allclose(got, folded(student, privileged, negative, head, CONTRASTIVE, 5)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.6, 2.0])
def test_a_temperature_is_a_scale_of_the_head(temperature: float):
    student, privileged, negative, head = roles()
    scaled = head / temperature
    wanted = literal_kl(student, privileged, scaled) - 0.1 * literal_kl(student, negative, scaled)
    wanted_gradient = gradient(wanted.sum(), student)
    for got in (
        kl_loss(student, privileged, negative, Head(head, scale=1 / temperature), CONTRASTIVE, 5)[0],
        folded(student, privileged, negative, scaled, CONTRASTIVE, 5)[0],
    ):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
        assert torch.allclose(gradient(got.sum(), student), wanted_gradient, rtol=0, atol=1e-12)


def liger(student: Tensor, teacher: Tensor, head: Tensor) -> Tensor:
    loss = pytest.importorskip("liger_kernel.chunked_loss", reason="liger-kernel is not installed")
    jsd = loss.LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=1.0, compiled=False)
    return len(student) * jsd(student, head, teacher, head, torch.zeros(len(student), dtype=torch.long))


def trl(student: Tensor, teacher: Tensor, head: Tensor) -> Tensor:
    kernel = pytest.importorskip("trl.kernels.chunked_divergence", reason="trl is not installed")
    return kernel.ChunkedDivergenceFunction.apply(student, head, None, teacher, head, None, 1.0)[0].sum()


@pytest.mark.parametrize("other", [liger, trl])
def test_other_libraries_reverse_kl_to_the_virtual_teacher_is_the_same_loss(other: Any):
    """It is (1 - gamma) KL(student ‖ p*) + floor, where p* has the hidden state (h_q - gamma h_n) / (1 - gamma)."""
    gamma = 0.1
    student, privileged, negative, head = roles(rows=64, vocabulary=500, dtype=torch.float32)
    teacher = (privileged - gamma * negative) / (1 - gamma)
    got, figures = folded(student, privileged, negative, head, CONTRASTIVE, 16)
    theirs = (1 - gamma) * other(student, teacher, head)
    assert (theirs + figures["floor"].sum()).item() == pytest.approx(got.sum().item(), rel=1e-3)
    ours, wanted = gradient(theirs, student), gradient(got.sum(), student)
    assert float((ours - wanted).norm() / wanted.norm()) < 1e-3


@pytest.mark.parametrize("changes", [{"cap": 3.0}, {"scale": 0.25}, {"bias_V": 1}, {"cap": 5.0, "scale": 2.0}])
def test_heads_with_a_cap_a_scale_or_a_bias_have_the_gradient_of_autograd(changes: dict[str, Any]):
    student, privileged, negative, matrix = roles()
    if "bias_V" in changes:
        changes = changes | {"bias_V": torch.linspace(-1, 1, V, dtype=torch.float64)}
    head = Head(matrix, **changes)
    assert not head.is_plain and Head(matrix).is_plain

    def literal(hidden: Tensor) -> Tensor:
        logits = head.scale * (hidden @ matrix.t() + (head.bias_V if head.bias_V is not None else 0.0))
        return (logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)).log_softmax(-1)

    def kl(reference: Tensor) -> Tensor:
        log_p, log_q = literal(student), literal(reference)
        return (log_p.exp() * (log_p - log_q)).sum(-1)

    wanted = kl(privileged) - 0.1 * kl(negative)
    got, _ = kl_loss(student, privileged, negative, head, CONTRASTIVE, 5)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    assert torch.allclose(gradient(got.sum(), student), gradient(wanted.sum(), student), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.7, 0.99])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_all_roles_agree_the_gradient_is_exactly_zero(gamma: float, dtype: torch.dtype):
    student, _, _, head = (t.detach().to(dtype) for t in roles())
    weights = pair(1.0, -gamma)
    loss, _ = kl_loss(student.requires_grad_(), student.detach(), student.detach(), Head(head), weights, 5)
    assert gradient(loss.sum(), student).count_nonzero() == 0


@pytest.mark.parametrize("gamma", [0.1, 0.5, 0.9])
def test_loss_is_distance_from_the_ideal_distribution_plus_the_floor(gamma: float):
    student, privileged, negative, head = roles()
    log_q, log_n = ((h @ head.t()).log_softmax(-1) for h in (privileged, negative))
    ideal = ((log_q - gamma * log_n) / (1 - gamma)).log_softmax(-1)
    log_p = (student @ head.t()).log_softmax(-1)
    distance = (1 - gamma) * (log_p.exp() * (log_p - ideal)).sum(-1)
    loss, figures = kl_loss(student, privileged, negative, Head(head), pair(1.0, -gamma), chunk=R)
    assert torch.allclose(loss, distance + figures["floor"], rtol=0, atol=1e-11)
    assert torch.allclose(figures["gap"], distance, rtol=0, atol=1e-11)
    assert (figures["gap"] >= 0).all() and (figures["floor"] <= 0).all()


def test_floor_of_a_plain_kl_is_zero():
    student, privileged, negative, head = roles()
    _, figures = kl_loss(student, privileged, negative, Head(head), pair(1.0, 0.0), chunk=R)
    assert torch.allclose(figures["floor"], torch.zeros(R, dtype=torch.float64), atol=1e-14)


@pytest.mark.parametrize("chunk", [1, 4, R, 10 * R])
def test_chunk_size_does_not_matter(chunk: int):
    student, privileged, negative, head = roles()
    whole, _ = kl_loss(student, privileged, negative, Head(head), CONTRASTIVE, R)
    parts, figures = kl_loss(student, privileged, negative, Head(head), CONTRASTIVE, chunk)
    assert torch.allclose(parts, whole, rtol=0, atol=1e-13)
    assert torch.allclose(gradient(parts.sum(), student), gradient(whole.sum(), student), rtol=0, atol=1e-13)
    assert all(len(value) == R for value in figures.values())


def test_only_the_student_receives_gradient():
    student, privileged, negative, head = roles()
    for tensor in (privileged, negative, head):
        tensor.requires_grad_()
    kl_loss(student, privileged, negative, Head(head), CONTRASTIVE, 5)[0].sum().backward()
    assert student.grad is not None
    assert privileged.grad is None and negative.grad is None and head.grad is None


def test_a_token_the_negative_reference_finds_impossible_stays_finite():
    student, privileged, _, head = roles(dtype=torch.float32)
    negative = torch.full((R, D), 300.0)  # logits thousands apart: its probabilities underflow
    loss, figures = kl_loss(student, privileged, negative, Head(head), pair(1.0, -0.9), 5)
    assert all(value.isfinite().all() for value in figures.values())
    assert gradient(loss.sum(), student).isfinite().all()


def test_no_tensor_of_the_size_tokens_by_vocabulary_ever_exists():
    rows, vocabulary, chunk = 64, 4096, 8
    student, privileged, negative, head = roles(rows, vocabulary, torch.float32)
    with largest_tensor() as seen:
        loss, _ = kl_loss(student, privileged, negative, Head(head), CONTRASTIVE, chunk)
        loss.sum().backward()
        nll_loss(student, torch.zeros(rows, dtype=torch.long), Head(head), chunk)[0].sum().backward()
    assert max(seen) <= chunk * vocabulary < rows * vocabulary


def test_what_is_kept_for_backward_is_the_size_of_the_hidden_states():
    student, privileged, negative, head = roles()
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kl_loss(student, privileged, negative, Head(head), CONTRASTIVE, 5)
    assert kept == [R * D]


def test_logits_of_bfloat16_states_are_float32():
    hidden, _, _, head = (t.detach().bfloat16() for t in roles())
    logits = project(hidden, head)
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, hidden.float() @ head.float().t(), rtol=1e-6)


@contextmanager
def largest_tensor() -> Iterator[list[int]]:
    """The number of elements of every tensor that any operation gives while it lasts, views included."""
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
            return result

    with Watch():
        yield sizes
