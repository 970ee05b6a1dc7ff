"""One set of weights in three roles, on a real transformers model with a real PEFT adapter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import identify
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, pad, reference_input, student_input
from dail.train.loss import Head
from dail.train.model import Roles, check_roles, device_and_dtype, load_roles, read_limits
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest

CPU = torch.device("cpu")


@pytest.fixture
def roles(tiny_model: Path) -> Roles:
    return load_roles(tiny_model, TrainConfig(dtype="float32"), CPU)


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(4), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


def stir(roles: Roles) -> None:
    """Gives the adapter weights under which it changes the model, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for weight in roles.adapter().values():
            weight.normal_(std=0.1)


def test_a_fresh_adapter_changes_nothing_and_is_checked(roles: Roles, examples: tuple[Example, ...]):
    check_roles(roles, examples[0])
    batch = student_input(examples, CPU)
    assert torch.equal(roles.student(batch), roles.reference(batch))
    stir(roles)
    with pytest.raises(UsageError, match="changes nothing yet"):
        check_roles(roles, examples[0])


def test_a_trained_adapter_changes_the_student_but_never_the_references(
    roles: Roles, examples: tuple[Example, ...], tiny_model: Path
):
    stir(roles)
    batch = student_input(examples, CPU)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager").eval()
    with torch.no_grad():
        plain = batch.trace_positions(base.model(batch.ids_BT).last_hidden_state)
    assert torch.equal(roles.reference(batch), plain)
    assert (roles.student(batch) - plain).abs().max() > 0.1


def test_padded_sequences_score_as_one_by_one(roles: Roles, examples: tuple[Example, ...]):
    stir(roles)
    together = roles.student(student_input(examples, CPU))
    alone = torch.cat([roles.student(student_input([example], CPU)) for example in examples])
    assert torch.allclose(together, alone, rtol=0, atol=1e-5)
    privileged, negative = roles.reference(reference_input(examples, ("privileged", "negative"), CPU)).chunk(2)
    for example in (examples[0], examples[-1]):
        trace = [example.trace_ids]
        start = sum(len(e.trace_ids) for e in examples[: examples.index(example)])
        part = slice(start, start + len(example.trace_ids))
        assert torch.allclose(
            privileged[part], roles.reference(pad([example.privileged_prompt_ids], trace, CPU)), rtol=0, atol=1e-5
        )
        assert torch.allclose(
            negative[part], roles.reference(pad([example.negative_prompt_ids], trace, CPU)), rtol=0, atol=1e-5
        )


def test_hidden_states_at_trace_positions_predict_the_trace(roles: Roles, examples: tuple[Example, ...]):
    batch = student_input(examples[:1], CPU)
    log_p = (roles.student(batch) @ roles.head.matrix_VD.t()).log_softmax(-1)
    trace = torch.tensor(examples[0].trace_ids)
    wanted = torch.stack(
        [
            roles.peft(torch.tensor([[*examples[0].student_prompt_ids, *trace[:i]]])).logits[0, -1].log_softmax(-1)
            for i in range(len(trace))
        ]
    )
    assert torch.allclose(log_p, wanted, atol=1e-5)


def test_microbatches_add_up_to_the_whole_batch(roles: Roles, examples: tuple[Example, ...]):
    stir(roles)
    results = []
    for tokens in (4096, 1):
        config = TrainConfig(microbatch_tokens=tokens, max_grad_norm=1e9)
        figures = GradientStep(roles, config, mean_trace_tokens=15.0).gradients(examples)
        results.append(
            (figures, [weight.grad.clone() for weight in roles.adapter().values() if weight.grad is not None])
        )
        roles.peft.zero_grad()
    (whole, whole_gradients), (split, split_gradients) = results
    assert split == pytest.approx(whole, rel=1e-4)
    assert len(whole_gradients) == len(roles.adapter()) > 0
    for a, b in zip(whole_gradients, split_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-6)


def test_a_smaller_batch_is_still_divided_by_the_batch_size(roles: Roles, examples: tuple[Example, ...]):
    stir(roles)
    norms = {}
    for size in (1, 4):
        roles.peft.zero_grad()
        config = TrainConfig(batch_size=size, max_grad_norm=1e9)
        norms[size] = GradientStep(roles, config, 15.0).gradients(examples[:1])["grad_norm"]
    assert norms[4] == pytest.approx(norms[1] / 4, rel=1e-4)


def test_equal_contexts_and_a_fresh_adapter_give_no_gradient(roles: Roles, examples: tuple[Example, ...]):
    same = [
        Example("u", e.student_prompt_ids, e.student_prompt_ids, e.student_prompt_ids, e.trace_ids) for e in examples
    ]
    for gamma in (0.0, 0.1, 0.9):
        assert GradientStep(roles, TrainConfig(gamma=gamma), 15.0).gradients(same)["grad_norm"] < 1e-5


def test_only_the_adapter_is_trained_in_float32_and_the_head_is_not_adapted(tiny_model: Path):
    roles = load_roles(tiny_model, TrainConfig(dtype="bfloat16", lora_rank=4), CPU)
    assert {weight.dtype for weight in roles.adapter().values()} == {torch.float32}
    assert roles.head.matrix_VD.dtype == torch.bfloat16 and not roles.head.matrix_VD.requires_grad
    assert all(".layers." in name and ".lora_" in name for name in roles.adapter())
    assert len(roles.adapter()) == 2 * 7 * 2  # layers × linears × (A, B)


def test_the_first_adapter_depends_on_the_seed_alone(tiny_model: Path):
    first, again, other = (load_roles(tiny_model, TrainConfig(dtype="float32", seed=s), CPU) for s in (5, 5, 6))
    pairs = [(first.adapter()[n], again.adapter()[n], other.adapter()[n]) for n in first.adapter() if "lora_A" in n]
    assert all(torch.equal(a, b) and not torch.equal(a, c) for a, b, c in pairs)


HEADS = [
    ("granite", {"logits_scaling": 4.0}, {"scale": 0.25}),
    ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 8}, {"cap": 3.0}),
    ("cohere", {"logit_scale": 0.5}, {"scale": 0.5}),
]


def other_model(folder: Path, kind: str, **settings: object) -> Roles:
    """A small random model of another kind."""
    config = AutoConfig.for_model(
        kind,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=1,
        **settings,
    )
    torch.manual_seed(2)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return load_roles(folder, TrainConfig(dtype="float32"), CPU)


@pytest.mark.parametrize(("kind", "settings", "known"), HEADS)
def test_heads_that_do_more_than_multiply_train_with_whole_logits(
    tmp_path: Path,
    examples: tuple[Example, ...],
    told: Told,
    kind: str,
    settings: dict[str, object],
    known: dict[str, float],
):
    roles = other_model(tmp_path, kind, **settings)
    assert all(getattr(roles.head, name) == value for name, value in known.items())
    check_roles(roles, examples[0])
    assert "cannot be folded" in told()
    stir(roles)
    loss_R, _ = GradientStep(roles, TrainConfig(dtype="float32"), 1.0).score(examples)
    loss_R.sum().backward()
    ours = {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}
    roles.peft.zero_grad()
    literal_loss(roles, examples).backward()
    for name, gradient in ours.items():
        wanted = roles.adapter()[name].grad
        assert wanted is not None and torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-4), name


def literal_loss(roles: Roles, examples: tuple[Example, ...]) -> torch.Tensor:
    """The paper's formula on the model's own logits, with autograd."""
    student, references = student_input(examples, CPU), reference_input(examples, ("privileged", "negative"), CPU)
    log_p = student.trace_positions(roles.peft(input_ids=student.ids_BT, use_cache=False).logits).log_softmax(-1)
    with torch.no_grad(), roles.peft.disable_adapter():
        logits = references.trace_positions(roles.peft(input_ids=references.ids_BT, use_cache=False).logits)
    log_q, log_n = logits.log_softmax(-1).chunk(2)
    return (log_p.exp() * ((log_p - log_q) - 0.1 * (log_p - log_n))).sum()


def test_logits_that_are_not_understood_are_refused(tmp_path: Path, examples: tuple[Example, ...]):
    roles = other_model(tmp_path, "granite", logits_scaling=4.0)
    with pytest.raises(UsageError, match="granite models do something to their logits that is not known"):
        check_roles(replace(roles, head=Head(roles.head.matrix_VD)), examples[0])


def test_limits_come_from_the_model_s_config(tiny_model: Path, tmp_path: Path):
    assert read_limits(tiny_model) == ModelLimits(CONTEXT, VOCABULARY)
    (tmp_path / "config.json").write_text('{"model_type": "no such model"}')
    with pytest.raises(UsageError, match=r"config\.json"):
        read_limits(tmp_path)


def test_damaged_weights_are_refused(tiny_model: Path, tmp_path: Path):
    for file in tiny_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be read"):
        load_roles(tmp_path, TrainConfig(dtype="float32"), CPU)


def test_auto_dtype_is_resolved_before_it_is_recorded():
    device, config = device_and_dtype(TrainConfig())
    assert config.dtype == ("bfloat16" if device.type == "cuda" else "float32")
    assert device_and_dtype(TrainConfig(dtype="bfloat16"))[1].dtype == "bfloat16"
