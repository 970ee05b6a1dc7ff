"""Packs: a sequence in one gives what it gives alone, whatever lies beside it, and models that cannot are padded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dail.synth.schema.models import identify
from dail.train.attention import PACKED, packed_attention, register
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, pack, student_input
from dail.train.model import Roles, choose_packing, load_roles
from dail.train.step import GradientStep
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_model import CPU, other_model, stir


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(6), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


@pytest.fixture
def roles(tiny_model: Path, examples: tuple[Example, ...]) -> Roles:
    roles = choose_packing(load_roles(tiny_model, TrainConfig(dtype="float32"), CPU), examples[:3])
    assert roles.packs
    stir(roles)
    return roles


def test_packed_and_padded_hidden_states_agree(roles: Roles, examples: tuple[Example, ...]):
    packed = roles.student(student_input(examples, CPU, packed=True))
    padded = roles.student(student_input(examples, CPU))
    assert torch.allclose(packed, padded, rtol=0, atol=1e-5)


def test_another_sequence_changes_no_bit_of_its_neighbours(roles: Roles):
    """With the model's own defaults: in training mode, and with a cache if it makes one."""
    one, other = [5, 6, 7, 8, 9], [11, 12, 13, 14]
    for train_mode in (False, True):
        roles.peft.train(train_mode)
        decoder = roles.peft.get_base_model().get_decoder()
        for settings in ({}, {"use_cache": False}):
            found = []
            for middle in ([20, 21, 22], [30, 31, 32]):
                batch = pack([one, middle, other], [[1], [2], [3]], CPU)
                hidden = decoder(
                    input_ids=batch.ids_BT, position_ids=batch.positions_BT, pack_lengths=batch.lengths, **settings
                ).last_hidden_state[0]
                found.append(hidden.detach())
            first, second = found
            assert torch.equal(first[:6], second[:6]) and torch.equal(first[10:], second[10:])
            assert not torch.equal(first[6:10], second[6:10])


def test_gradients_of_packs_pads_and_single_traces_agree(roles: Roles, examples: tuple[Example, ...]):
    found = []
    for packs, tokens in ((True, 10_000), (True, 1), (False, 10_000)):
        config = TrainConfig(dtype="float32", microbatch_tokens=tokens, max_grad_norm=1e9)
        ways = Roles(roles.peft, roles.head, roles.device, packs)
        GradientStep(ways, config, 10.0).gradients(examples)
        found.append({name: w.grad.clone() for name, w in roles.adapter().items() if w.grad is not None})
        roles.peft.zero_grad()
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert torch.allclose(gradient, other[name], rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("wanted", [{"softcap": 30.0}, {"sliding_window": 3}, {"s_aux": torch.zeros(2)}])
def test_what_packed_attention_has_not_is_refused(wanted: dict[str, object]):
    states = torch.randn(1, 2, 5, 4)
    with pytest.raises(NotImplementedError):
        packed_attention(torch.nn.Module(), states, states, states, None, pack_lengths=[5], **wanted)


def test_a_window_that_no_sequence_fills_does_not_matter():
    states = torch.randn(1, 2, 6, 4)
    plain, _ = packed_attention(torch.nn.Module(), states, states, states, None, pack_lengths=[3, 3])
    window, _ = packed_attention(torch.nn.Module(), states, states, states, None, pack_lengths=[3, 3], sliding_window=3)
    assert torch.equal(plain, window)


def test_a_model_whose_attention_is_capped_is_padded(
    tmp_path: Path, examples: tuple[Example, ...], capsys: pytest.CaptureFixture[str]
):
    roles = other_model(tmp_path, "gemma2", head_dim=8, attn_logit_softcapping=2.0)
    chosen = choose_packing(roles, examples[:3])
    assert not chosen.packs and "sequences are padded" in capsys.readouterr().err
    assert roles.peft.config._attn_implementation != PACKED


def test_a_model_that_packs_wrongly_is_seen_and_padded(
    tiny_model: Path, examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A model that drops the lengths on the way to its attention would let sequences see each other."""
    import dail.train.attention as module

    real = module.packed_attention
    monkeypatch.setattr(module, "packed_attention", lambda *a, pack_lengths=None, **k: real(*a, **k))
    roles = choose_packing(load_roles(tiny_model, TrainConfig(dtype="float32"), CPU), examples[:3])
    assert not roles.packs and "are off by" in capsys.readouterr().err


def test_grouped_heads_attend_as_in_transformers_own_attention(tmp_path: Path):
    config = AutoConfig.for_model(
        "qwen2", vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=2, initializer_range=0.3,
    )  # fmt: skip
    register()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(50, (1, 9))
    with torch.no_grad():
        own = model.model(ids, use_cache=False).last_hidden_state
        model.set_attn_implementation(PACKED)
        packed = model.model(torch.cat([ids, ids], 1), position_ids=torch.arange(9).repeat(2)[None], use_cache=False,
                             pack_lengths=(9, 9)).last_hidden_state  # fmt: skip
    assert torch.allclose(packed[:, :9], own, rtol=0, atol=1e-5)
    assert torch.allclose(packed[:, 9:], own, rtol=0, atol=1e-5)
