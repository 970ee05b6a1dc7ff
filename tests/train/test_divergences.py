"""Divergences from any number of references, in every kernel, against dense formulas in float64 under autograd."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div

from dail.train import memory
from dail.train.comparison import Comparison
from dail.train.divergences import compare
from dail.train.live_bytes import LiveBytes
from dail.train.loss import (
    Head,
    adapted_divergence_loss,
    adapted_nll_loss,
    divergence_loss,
    floors,
    folded_kl_loss,
    nll_loss,
    reference_of,
)
from tests.train.test_loss import D, R, V, gradient, largest_tensor

NAMES = ("privileged", "negative", "student", "hint")
DIVERGENCES = [("reverse", 0.5), ("forward", 0.5), ("jsd", 0.5), ("jsd", 0.1), ("jsd", 0.93)]
WEIGHTS = [(1.0,), (0.7,), (0.8, 0.3), (1.0, -0.1), (1.0, -0.4, 0.3, -0.2)]
TEMPERATURES = [(1.0, 1.0), (0.6, 0.6), (1.0, 0.6), (2.5, 0.4)]
HEADS: dict[str, dict[str, Any]] = {
    "plain": {},
    "cap, scale and bias": {"cap": 5.0, "scale": 0.5, "bias_V": torch.linspace(-1, 1, V, dtype=torch.float64)},
}


def random_roles(dtype: torch.dtype = torch.float64, rows: int = R, vocabulary: int = V) -> tuple[Tensor, ...]:
    """Hidden states of the student, head, and hidden states by name."""
    draw = torch.Generator().manual_seed(7)
    student, *others = (torch.randn(rows, D, generator=draw, dtype=dtype) for _ in range(1 + len(NAMES)))
    head = 3 * torch.randn(vocabulary, D, generator=draw, dtype=dtype)
    return student.requires_grad_(), head, *others


def comparison(weights: tuple[float, ...], divergence: Any = "reverse", beta: float = 0.5, *temperatures: float):
    return Comparison(dict(zip(NAMES, weights, strict=False)), divergence, beta, *temperatures)


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return kl_div(log_b, log_a, reduction="none", log_target=True).sum(-1)


def literal_divergence(log_p: Tensor, log_q: Tensor, divergence: str, beta: float) -> Tensor:
    if divergence == "jsd":
        log_m = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
        return beta * kl(log_q, log_m) + (1 - beta) * kl(log_p, log_m)
    return kl(log_p, log_q) if divergence == "reverse" else kl(log_q, log_p)


def literal_logits(hidden: Tensor, head: Head) -> Tensor:
    logits = head.scale * (hidden @ head.matrix_VD.t() + (0.0 if head.bias_V is None else head.bias_V))
    return logits if head.cap is None else head.cap * torch.tanh(logits / head.cap)


def literal(student_logits: Tensor, references: dict[str, Tensor], head: Head, by: Comparison) -> Tensor:
    """Per token, dense, with autograd."""
    log_p = (student_logits / by.student_temperature).log_softmax(-1)
    each = {
        name: (literal_logits(hidden, head) / by.reference_temperature).log_softmax(-1)
        for name, hidden in references.items()
    }
    return sum(
        (w * literal_divergence(log_p, each[name], by.divergence, by.beta) for name, w in by.weights.items()),
        start=torch.zeros(R, dtype=torch.float64),
    )


def given(by: Comparison, others: list[Tensor]) -> dict[str, Tensor]:
    return {name: hidden for name, hidden in zip(NAMES, others, strict=True) if name in by.weights}


def close(got: Tensor, wanted: Tensor, within: float = 1e-11) -> bool:
    return torch.allclose(got, wanted, rtol=0, atol=within)


CASES = [
    pytest.param(w, d, b, t, id=f"{d} {b} of {w} at {t}")
    for w, (d, b), t in itertools.product(WEIGHTS, DIVERGENCES, TEMPERATURES)
    if d != "forward" or min(w) > 0
]


@pytest.mark.parametrize(("weights", "divergence", "beta", "temperatures"), CASES)
def test_every_kernel_has_the_loss_and_the_gradient_of_the_dense_formula(
    weights: Any, divergence: str, beta: float, temperatures: Any
):
    student, matrix, *others = random_roles()
    by = comparison(weights, divergence, beta, *temperatures)
    references, outer = given(by, others), torch.rand(R, dtype=torch.float64)
    for changes in HEADS.values():
        head = Head(matrix, **changes)
        wanted = literal(literal_logits(student, head), references, head, by)
        slope = gradient((wanted * outer).sum(), student)
        got, figures = divergence_loss(student, references, head, by, chunk=5)
        assert close(got, wanted) and close(gradient((got * outer).sum(), student), slope, 1e-10)
        for name, hidden in references.items():
            log_q = (literal_logits(hidden, head) / by.reference_temperature).log_softmax(-1)
            log_p = (literal_logits(student, head) / by.student_temperature).log_softmax(-1)
            assert close(figures[f"kl_{name}"], kl(log_p, log_q)), name
        if head.is_plain and by.folds:
            known = {name: reference_of(one, matrix, 4, by.reference_temperature) for name, one in references.items()}
            floor_R = floors(known, matrix, by, 3)
            folded, its = folded_kl_loss(student, known, matrix, by, 5, floor_R)
            assert close(folded, wanted) and close(gradient((folded * outer).sum(), student), slope, 1e-10)
            assert its.keys() == figures.keys()
            assert all(close(its[name], figures[name]) for name in its)


@pytest.mark.parametrize(("weights", "divergence", "beta", "temperatures"), CASES[:: len(TEMPERATURES) + 1])
def test_so_has_a_head_with_an_adapter_and_the_adapter(weights: Any, divergence: str, beta: float, temperatures: Any):
    student, matrix, *others = random_roles()
    by = comparison(weights, divergence, beta, *temperatures)
    head, adapted = Head(matrix, cap=5.0, scale=0.5), nn.Linear(D, V, bias=False, dtype=torch.float64)
    logits = 5.0 * torch.tanh(0.5 * adapted(student) / 5.0)
    wanted = literal(logits, references := given(by, others), head, by)
    got, _ = adapted_divergence_loss(student, references, head, adapted, by, 5)
    assert close(got, wanted)
    ours, theirs = (torch.autograd.grad(one.square().sum(), (student, adapted.weight)) for one in (got, wanted))
    assert all(close(mine, other, 1e-9) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 3.0])
def test_the_student_s_temperature_is_that_of_behaviour_cloning_too(temperature: float):
    student, matrix, *_ = random_roles()
    trace = torch.arange(R)
    head, adapted = Head(matrix, cap=5.0), nn.Linear(D, V, bias=False, dtype=torch.float64)
    for got, logits in (
        (nll_loss(student, trace, head, 5, temperature)[0], literal_logits(student, head)),
        (
            adapted_nll_loss(student, trace, head, adapted, 5, temperature)[0],
            5.0 * torch.tanh(adapted(student) / 5.0),
        ),
    ):
        wanted = nn.functional.cross_entropy(logits / temperature, trace, reduction="none")
        assert close(got, wanted) and close(gradient(got.sum(), student), gradient(wanted.sum(), student))


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
@pytest.mark.parametrize("weights", [(1.0,), (0.3, 0.7), (0.9, 0.35, 0.05)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_all_roles_agree_the_gradient_is_exactly_zero(
    divergence: str, beta: float, weights: Any, dtype: torch.dtype
):
    student, matrix, *_ = (tensor.detach().to(dtype) for tensor in random_roles())
    by = comparison(weights, divergence, beta, 0.6, 0.6)
    same = dict.fromkeys(by.weights, student.clone())
    loss, figures = divergence_loss(student.requires_grad_(), same, Head(matrix, cap=5.0), by, 5)
    assert gradient(loss.sum(), student).count_nonzero() == 0
    assert figures["loss"].abs().max() < 1e-6
    if by.folds:
        known = {name: reference_of(hidden, matrix, 5, 0.6) for name, hidden in same.items()}
        loss, _ = folded_kl_loss(student, known, matrix, by, 5, floors(known, matrix, by, 5))
        assert gradient(loss.sum(), student).count_nonzero() == 0


@pytest.mark.parametrize(
    ("divergence", "weights"),
    [
        ("reverse", (0.8, 0.3)),
        ("reverse", (1.0, -0.4, 0.3, -0.2)),
        ("forward", (0.8, 0.3)),
        ("forward", (0.1, 2.0, 1.0)),
    ],
)
def test_the_floor_is_reached_by_the_mixture_and_by_nothing_below_it(divergence: str, weights: Any):
    """A mixture of logits for the reverse KL, of probabilities for the forward KL."""
    _, matrix, *others = random_roles()
    by = comparison(weights, divergence)
    logs = {name: (hidden @ matrix.t()).log_softmax(-1) for name, hidden in given(by, others).items()}
    if divergence == "reverse":
        best = sum(w * logs[name] for name, w in by.weights.items()) / by.share
    else:
        best = (sum(w * logs[name].exp() for name, w in by.weights.items()) / by.share).log()
    figures, slope = compare(best, logs.__getitem__, by)
    assert close(figures["loss"], figures["floor"]) and close(slope, torch.zeros_like(slope))
    draw = torch.Generator().manual_seed(2)
    for size in (1e-3, 0.1, 10.0):
        noise = torch.randn(best.shape, generator=draw, dtype=best.dtype)
        elsewhere, _ = compare(best + size * noise, logs.__getitem__, by)
        assert (elsewhere["gap"] > 0).all() and close(elsewhere["floor"], figures["floor"])


def test_one_reference_has_the_floor_0_and_several_under_jsd_have_none_that_is_known():
    _, matrix, *others = random_roles()
    logs = {name: (hidden @ matrix.t()).log_softmax(-1) for name, hidden in zip(NAMES, others, strict=True)}
    student = torch.zeros(R, V, dtype=torch.float64)
    for divergence, beta in DIVERGENCES:
        one, _ = compare(student, logs.__getitem__, comparison((0.7,), divergence, beta))
        assert not one["floor"].count_nonzero() and torch.equal(one["gap"], one["loss"]) and (one["loss"] > 0).all()
    by = comparison((0.7, 0.2), "jsd")
    several, _ = compare(student, logs.__getitem__, by)
    assert "floor" not in several and "gap" not in several


def test_jsd_is_bounded_and_goes_to_the_two_kls_at_its_ends():
    _, matrix, *others = random_roles()
    logs = [(0.2 * hidden @ matrix.t()).log_softmax(-1) for hidden in others[:2]]

    def value(divergence: str, beta: float = 0.5) -> Tensor:
        figures, _ = compare(logs[0], lambda _: logs[1], comparison((1.0,), divergence, beta))
        return figures["loss"]

    for beta in (0.01, 0.5, 0.99):
        most = -beta * math.log(beta) - (1 - beta) * math.log(1 - beta)
        assert ((value("jsd", beta) > 0) & (value("jsd", beta) <= most)).all()
    assert torch.allclose(value("jsd", 1e-7) / 1e-7, value("forward"), rtol=1e-2)
    assert torch.allclose(value("jsd", 1 - 1e-7) / 1e-7, value("reverse"), rtol=1e-2)


@pytest.mark.parametrize(
    ("beta", "divergence"), [(0.1, "jsd"), (0.5, "jsd"), (0.8, "jsd"), (0.0, "forward"), (1.0, "reverse")]
)
def test_beta_is_that_of_trl(beta: float, divergence: str):
    kernel = pytest.importorskip("trl.kernels.chunked_divergence", reason="trl is not installed")
    student, matrix, teacher, *_ = random_roles(torch.float32)
    theirs = kernel.ChunkedDivergenceFunction.apply(student, matrix, None, teacher, matrix, None, beta)[0].sum()
    by = comparison((1.0,), divergence, beta or 0.5)
    ours = divergence_loss(student, {"privileged": teacher}, Head(matrix), by, 5)[0].sum()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4)
    got, wanted = gradient(ours, student), gradient(theirs, student)
    assert float((got - wanted).norm() / wanted.norm()) < 1e-4


def test_a_negative_weight_leaves_jsd_a_minimum_and_the_forward_kl_none():
    """As the logit of a token that the negative reference likes falls, one loss rises, the other falls for ever."""
    log_q, log_n = (
        torch.tensor([row], dtype=torch.float64).softmax(-1).log() for row in ([2.0, 0.0, -9.0], [0.0, 0.0, 3.0])
    )

    def at(logit: float, divergence: str) -> tuple[float, float]:
        student = torch.tensor([[2.0, 0.0, logit]], dtype=torch.float64)
        both = {"privileged": log_q, "negative": log_n}
        figures, slope = compare(student, both.__getitem__, comparison((1.0, -0.5), divergence))
        return figures["loss"].item(), slope[0, 2].item()

    forward = [at(logit, "forward")[0] for logit in (-10.0, -100.0, -1000.0)]
    assert forward[0] > forward[1] + 10 > forward[2] + 100
    assert at(-1000.0, "jsd")[1] <= 0 and at(-60.0, "jsd")[1] < 0 and at(-60.0, "reverse")[1] < 0
    assert all(math.isfinite(at(logit, name)[0]) for logit in (-1000.0, 1000.0) for name in ("reverse", "jsd"))


@pytest.mark.parametrize(("divergence", "beta"), [*DIVERGENCES, ("jsd", 0.01), ("jsd", 0.99)])
def test_logits_thousands_apart_stay_finite_in_float32(divergence: str, beta: float):
    student, matrix, privileged, *_ = random_roles(torch.float32)
    far = {"privileged": privileged, "negative": torch.full((R, D), 300.0), "student": torch.full((R, D), -300.0)}
    by = comparison((1.0, 0.2, 0.1), divergence, beta, 0.1, 0.1)
    loss, figures = divergence_loss(student, far, Head(matrix), by, 5)
    assert all(value.isfinite().all() for value in figures.values())
    assert gradient(loss.sum(), student).isfinite().all()


@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES[:3])
@pytest.mark.parametrize("num_references", [1, 2, 4])
def test_memory_is_that_of_a_few_chunks_for_any_number_of_references(divergence: str, beta: float, num_references: int):
    rows, vocabulary, chunk = 64, 4096, 16
    student, matrix, *others = random_roles(torch.float32, rows, vocabulary)
    by = comparison((1.0, 0.2, 0.3, 0.4)[:num_references], divergence, beta, 0.6, 0.6)
    references, head = given(by, others), Head(matrix, cap=5.0, scale=2.0)
    adapted = nn.Linear(D, vocabulary, bias=False)
    ways = {
        "rows of logits": (lambda: divergence_loss(student, references, head, by, chunk), memory._OTHER_BUFFERS),
        "adapted": (
            lambda: adapted_divergence_loss(student, references, head, adapted, by, chunk),
            memory._OTHER_BUFFERS,
        ),
    }
    if by.folds:
        known = {name: reference_of(one, matrix, chunk, 0.6) for name, one in references.items()}
        floor_R = floors(known, matrix, by, chunk)
        ways["folded"] = (
            lambda: folded_kl_loss(student, known, matrix, by, chunk, floor_R),
            memory._FOLDED_BUFFERS,
        )
    for name, (way, buffers) in ways.items():
        with LiveBytes([student, matrix, adapted.weight, *others]) as live, largest_tensor() as seen:
            way()[0].sum().backward()
        assert live.peak <= buffers * 4 * chunk * vocabulary, (name, live.peak / (4 * chunk * vocabulary))
        assert max(seen) <= max(chunk * vocabulary, vocabulary * D) < rows * vocabulary, name
        adapted.weight.grad = student.grad = None


@pytest.mark.parametrize("gap", [1.0, 0.1, 0.03])
@pytest.mark.parametrize(("divergence", "beta"), DIVERGENCES)
def test_bfloat16_gradients_are_right_however_near_the_references_are(divergence: str, beta: float, gap: float):
    """Against float64 on the same bfloat16 inputs, as of the folded loss."""
    from tests.bench.loss import inputs

    student, *others, matrix = (tensor.bfloat16() for tensor in inputs(120, 128, 2000, gap))
    by, found = comparison((1.0, 0.3), divergence, beta), []
    for dtype in (torch.bfloat16, torch.float64):
        leaf = student.to(dtype).requires_grad_()
        references = {name: hidden.to(dtype) for name, hidden in zip(NAMES, others, strict=False)}
        loss, _ = divergence_loss(leaf, references, Head(matrix.to(dtype)), by, 64)
        found.append(gradient(loss.sum(), leaf).double())
    assert float((found[0] - found[1]).norm() / found[1].norm()) <= 4e-3
