"""Token weights: what they are, that a trace's have the mean 1, and that nothing but the trace decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dail.synth.schema.models import identify
from dail.train.comparison import comparison_of
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, pad
from dail.train.emphasis import measure, normalised, of_positions
from dail.train.loss import Head
from dail.train.model import Roles, load_roles
from dail.train.references import ReferenceCache, fill, made_with
from dail.train.step import GradientStep
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_divergences import close, random_roles
from tests.train.test_loop import SETTINGS, Train, interrupt_before, lines, same, train
from tests.train.test_model import CPU, stir

__all__ = ["train"]  # a fixture

KINDS = ("entropy", "disagreement", "position")


def config_of(kind: Any, **settings: Any) -> TrainConfig:
    return TrainConfig(token_weights=kind, dtype="float32", token_chunk=7, reference_temperature=0.7, **settings)


@pytest.fixture
def roles(tiny_model: Path) -> Roles:
    roles = load_roles(tiny_model, TrainConfig(dtype="float32"), CPU)
    stir(roles)
    return roles


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(6), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


def literal(roles: Roles, example: Example, kind: str, temperature: float) -> Tensor:
    """One trace's, from whole distributions in float64."""
    length = len(example.trace_ids)
    if kind == "position":
        falling = torch.arange(length, 0, -1, dtype=torch.float64)
        return falling / falling.mean()

    def probs(context: tuple[int, ...]) -> Tensor:
        hidden_RD = roles.reference(pad([context], [example.trace_ids], CPU))
        return (hidden_RD.double() @ roles.head.matrix_VD.double().t() / temperature).softmax(-1)

    q = probs(example.privileged_prompt_ids)
    each = -(q * q.log()).sum(-1)
    if kind == "disagreement":
        each = (q - torch.minimum(q, probs(example.student_prompt_ids))).sum(-1)
    return each / each.mean()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_cached", [True, False])
def test_a_step_s_loss_and_gradient_have_the_literal_weights(
    roles: Roles, examples: tuple[Example, ...], tiny_model: Path, tmp_path: Path, kind: str, is_cached: bool
):
    config, cache = config_of(kind), None
    if is_cached:
        cache = ReferenceCache(tmp_path / "cache", made_with(identify(tiny_model), roles, config))
        fill(cache, roles, examples, config)
    wanted = torch.cat([literal(roles, example, kind, 0.7) for example in examples])
    bare_R, _ = GradientStep(roles, config.model_copy(update={"token_weights": "none"}), 1.0).score(examples)
    (bare_R * wanted.float()).sum().backward()
    slopes = {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}
    for batch in (examples, examples[::-1], examples[2:4]):
        loss_R, figures = GradientStep(roles, config, 1.0, cache).score(batch)
        parts = (loss_R / figures["loss"]).detach()
        got = {e.unit_id: x for e, x in zip(batch, parts.split([len(e.trace_ids) for e in batch]), strict=True)}
        for example in batch:
            assert torch.allclose(
                got[example.unit_id].double(), literal(roles, example, kind, 0.7), rtol=1e-3, atol=1e-4
            )
            assert float(got[example.unit_id].mean()) == pytest.approx(1, abs=1e-3)
        assert torch.equal(figures["weighted_loss"], loss_R)
    roles.peft.zero_grad()
    GradientStep(roles, config, 1.0, cache).score(examples)[0].sum().backward()
    for name, slope in slopes.items():
        assert torch.allclose(roles.adapter()[name].grad, slope, rtol=1e-3, atol=1e-4), name


def test_measures_are_those_of_whole_distributions_under_any_head():
    student, matrix, *others = random_roles()
    by = comparison_of(TrainConfig(reference_temperature=0.4))
    head = Head(matrix, cap=3.0, scale=0.5)
    q, b = ((3.0 * torch.tanh(0.5 * hidden @ matrix.t() / 3.0) / 0.4).softmax(-1) for hidden in others[:2])
    assert close(measure(others[:1], head, by, 5), -(q * q.log()).sum(-1))
    assert close(measure(others[:2], head, by, 5), (q - b).clamp(min=0).sum(-1))
    assert not measure(others[:2], head, by, 5).requires_grad
    assert student.requires_grad


def test_a_trace_on_which_all_measures_are_0_counts_as_without_weights():
    found = normalised(torch.tensor([0.0, 0.0, 1.0, 3.0]), [2, 2])
    assert found.tolist() == [1.0, 1.0, 0.5, 1.5]


def test_positions_fall_evenly_to_the_end():
    assert of_positions([1, 3]).tolist() == [1.0, 1.5, 1.0, 0.5]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_ends_alike_however_it_is_cut(train: Train, monkeypatch: pytest.MonkeyPatch, kind: str):
    config = SETTINGS.model_copy(update={"token_weights": kind})
    unbroken = train("unbroken", config)
    with monkeypatch.context() as patch:
        interrupt_before(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train("stopped", config)
    assert same(train("stopped", config), unbroken)
    cut = config.model_copy(update={"microbatch_tokens": 1, "token_chunk": 3, "reference_states": "live"})
    for one, other in zip(lines(unbroken), lines(train("cut", cut)), strict=True):
        assert one["weighted_loss"] == pytest.approx(other["weighted_loss"], abs=1e-4)
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4) and one["loss"] != one["weighted_loss"]
