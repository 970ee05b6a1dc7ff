"""Lean LoRA layers: PEFT's numbers, without its copies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import identify
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, student_input
from dail.train.lora import LeanLinear
from dail.train.model import Roles, check_roles, load_roles
from dail.train.recompute import recompute
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_model import CPU, literal_loss, stir


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(4), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


def stirred(tiny_model: Path, **settings: object) -> Roles:
    roles = load_roles(tiny_model, TrainConfig.model_validate({"dtype": "float32", **settings}), CPU)
    stir(roles)
    return roles


def gradients(roles: Roles, examples: tuple[Example, ...], **settings: object) -> dict[str, Tensor]:
    config = TrainConfig.model_validate({"max_grad_norm": 1e9, **settings})
    GradientStep(roles, config, 10.0).gradients(examples)
    return {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}


@pytest.mark.parametrize("rank", [32, 8])  # at alpha 32: scales 1 and 4
def test_in_float32_states_and_gradients_are_peft_s_bit_for_bit(
    tiny_model: Path, examples: tuple[Example, ...], rank: int
):
    lean, plain = (stirred(tiny_model, lora=lora, lora_rank=rank) for lora in ("lean", "peft"))
    assert any(isinstance(module, LeanLinear) for module in lean.peft.modules())
    assert not any(isinstance(module, LeanLinear) for module in plain.peft.modules())
    batch = student_input(examples, CPU)
    assert torch.equal(lean.student(batch), plain.student(batch))
    ours, theirs = gradients(lean, examples), gradients(plain, examples)
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 7 * 2
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_any_other_scale_is_peft_s_up_to_rounding(tiny_model: Path, examples: tuple[Example, ...]):
    ours, theirs = (gradients(stirred(tiny_model, lora=lora, lora_rank=5), examples) for lora in ("lean", "peft"))
    assert all((ours[name] - theirs[name]).norm() <= 1e-5 * theirs[name].norm() for name in ours)


def kept(roles: Roles, examples: tuple[Example, ...]) -> list[Tensor]:
    """What autograd keeps of the student's pass, but the weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in roles.peft.parameters()}
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        roles.student(student_input(examples, CPU))
    return list(found.values())


def test_in_bfloat16_it_keeps_less_and_the_masters_are_float32(tiny_model: Path, examples: tuple[Example, ...]):
    lean, plain = (stirred(tiny_model, lora=lora, dtype="bfloat16", lora_rank=2) for lora in ("lean", "peft"))
    sizes = [sum(tensor.untyped_storage().nbytes() for tensor in kept(roles, examples)) for roles in (lean, plain)]
    assert sizes[0] < 0.8 * sizes[1]
    ours, theirs = gradients(lean, examples), gradients(plain, examples)
    assert {gradient.dtype for gradient in ours.values()} == {torch.float32}
    for name in ours:
        assert (ours[name] - theirs[name]).norm() < 0.1 * theirs[name].norm(), name


def test_recomputed_activations_give_the_same_gradients_and_are_not_kept(
    tiny_model: Path, examples: tuple[Example, ...]
):
    roles = stirred(tiny_model)
    wanted, before = gradients(roles, examples), len(kept(roles, examples))
    roles.peft.zero_grad()
    recompute(roles)
    got = gradients(roles, examples)
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)
    assert len(kept(roles, examples)) < before / 3


def test_named_targets_are_the_only_ones_and_unknown_ones_are_refused(tiny_model: Path):
    roles = load_roles(tiny_model, TrainConfig(dtype="float32", lora_targets=("q_proj", "down_proj")), CPU)
    assert len(roles.adapter()) == 2 * 2 * 2
    assert all("q_proj" in name or "down_proj" in name for name in roles.adapter())
    with pytest.raises(
        UsageError, match=r"lora_targets: 'no_such' matches no layer; linear layers here are q_proj × 2"
    ):
        load_roles(tiny_model, TrainConfig(dtype="float32", lora_targets=("no_such",)), CPU)


@pytest.mark.parametrize("objective", ["contrastive", "nll"])
def test_an_adapted_head_gets_its_gradient_and_the_fold_is_given_up(
    tiny_model: Path, examples: tuple[Example, ...], told: Told, objective: str
):
    config = TrainConfig(dtype="float32", lora_targets=("q_proj", "lm_head"), lora_rank=2)
    roles = load_roles(tiny_model, config, CPU)
    check_roles(roles, examples[0])
    assert "the adapter reaches the head" in told() and not roles.folds
    stir(roles)
    loss_R, figures = GradientStep(roles, config.model_copy(update={"objective": objective}), 1.0).score(examples)
    loss_R.sum().backward()
    got = {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}
    assert any("lm_head" in name for name in got) and len(got) == len(roles.adapter())
    assert torch.equal(figures["loss"], loss_R.detach())
    roles.peft.zero_grad()
    wanted = literal_loss(roles, examples) if objective == "contrastive" else literal_nll(roles, examples)
    wanted.backward()
    assert loss_R.sum().item() == pytest.approx(wanted.item(), rel=1e-5)
    for name, weight in roles.adapter().items():
        assert weight.grad is not None and torch.allclose(got[name], weight.grad, rtol=1e-3, atol=1e-4), name


def literal_nll(roles: Roles, examples: tuple[Example, ...]) -> Tensor:
    batch = student_input(examples, CPU)
    log_p = batch.trace_positions(roles.peft(input_ids=batch.ids_BT, use_cache=False).logits).log_softmax(-1)
    trace = torch.tensor([token for example in examples for token in example.trace_ids])
    return -log_p.gather(-1, trace[:, None]).sum()


def test_dropout_reaches_the_student_alone_and_depends_on_seed_and_step(
    tiny_model: Path, examples: tuple[Example, ...]
):
    roles = stirred(tiny_model, lora_dropout=0.5)
    batch = student_input(examples, CPU)
    assert not torch.equal(roles.student(batch), roles.student(batch))
    assert torch.equal(roles.reference(batch), roles.reference(batch))
    found = []
    for seed, step in ((0, 3), (0, 3), (0, 4), (1, 3)):
        roles.peft.zero_grad()
        GradientStep(roles, TrainConfig(lora_dropout=0.5, seed=seed), 10.0).gradients(examples, step)
        found.append(next(iter(roles.adapter().values())).grad.clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])
