"""Attention: packs and pads give what each sequence gives alone, and nothing that a model asks for is dropped."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from dail.synth.schema.models import identify
from dail.train import attention
from dail.train.attention import PACKED, packed_attention, padded_attention, register
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, pack, student_input
from dail.train.model import Roles, load_roles
from dail.train.packing import choose_packing
from dail.train.step import GradientStep
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_model import CPU, stir


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(6), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


@pytest.fixture
def roles(tiny_model: Path, examples: tuple[Example, ...]) -> Roles:
    roles = choose_packing(load_roles(tiny_model, TrainConfig(dtype="float32"), CPU), examples[:3])
    assert roles.packs
    stir(roles)
    return roles


def kernel_of_torch_2_11(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    return_aux: None = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
) -> Tensor:  # fmt: skip
    """A stand-in for `varlen_attn`: takes what that version's takes, and finds each sequence by its ends alone."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and torch.equal(cu_seq_q, cu_seq_k)
    assert window_size[1] == 0 and cu_seq_q[-1] == len(query)
    assert max_q == max_k == cu_seq_q.diff().max()
    group = query.shape[1] // key.shape[1]
    parts = []
    for begin, end in pairwise(cu_seq_q.tolist()):
        keys, values = (states[begin:end].repeat_interleave(group, 1) for states in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[begin:end], keys) * (scale or query.shape[2] ** -0.5)
        seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril()
        seen = seen if window_size[0] < 0 else seen.triu(-window_size[0])
        parts.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, -torch.inf).softmax(-1), values))
    return torch.cat(parts)


def kernel_of_torch_2_12(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor | None, max_q: int, max_k: int, *,
    return_aux: None = None, scale: float | None = None, window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False, seqused_k: None = None, block_table: None = None, num_splits: int | None = None,
) -> Tensor:  # fmt: skip
    """Wants to be told that several heads share their keys."""
    if query.shape[1] != key.shape[1] and not enable_gqa:
        raise ValueError("Expect query and key/value to have the same number of heads")
    assert cu_seq_k is not None
    return kernel_of_torch_2_11(
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size
    )


@pytest.fixture(params=[kernel_of_torch_2_11, kernel_of_torch_2_12], ids=["torch 2.11", "torch 2.12"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Packs go through the kernel, as on a GPU; the number of sequences of every call."""
    calls: list[int] = []

    @functools.wraps(request.param)
    def counted(*args: Any, **settings: Any) -> Tensor:
        calls.append(len(args[3]) - 1)
        return request.param(*args, **settings)

    monkeypatch.setattr(attention, "varlen_attn", counted)
    monkeypatch.setattr(attention, "has_kernel", lambda _: True)
    return calls


@pytest.mark.parametrize("heads_of_keys", [4, 2, 1])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_one_call_for_a_pack_attends_as_each_sequence_alone(kernel: list[int], heads_of_keys: int, scale: float | None):
    torch.manual_seed(0)
    lengths, module = [5, 1, 7], torch.nn.Module()
    query, key, value = (
        torch.randn(1, heads, 13, 8, dtype=torch.float64, requires_grad=True)
        for heads in (4, heads_of_keys, heads_of_keys)
    )
    ends = torch.tensor([0, 5, 6, 13], dtype=torch.int32)
    together, _ = packed_attention(module, query, key, value, None, scale, pack_lengths=lengths, pack_ends=ends)
    assert kernel == [3]
    split = zip(*(states.split(lengths, 2) for states in (query, key, value)), strict=True)
    alone = torch.cat([packed_attention(module, *states, None, scale)[0] for states in split], 1)
    assert kernel == [3]
    assert torch.allclose(together, alone, rtol=0, atol=1e-12)
    outer = torch.randn_like(alone)
    for got, wanted in zip(
        *(torch.autograd.grad(out, (query, key, value), outer) for out in (together, alone)), strict=True
    ):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-12)


def test_a_model_is_packed_in_one_call_a_layer_and_has_the_gradients_of_pads(
    kernel: list[int], tiny_model: Path, examples: tuple[Example, ...]
):
    roles = choose_packing(load_roles(tiny_model, TrainConfig(dtype="float32"), CPU), examples[:3])
    assert roles.packs and set(kernel) == {3}
    stir(roles)
    kernel.clear()
    packed = gradients(roles, examples)
    assert kernel == [6, 6, 12, 12]  # the student's pass, then that of both references
    padded = gradients(replace(roles, packs=False), examples)
    assert len(kernel) == 4
    for name, gradient in packed.items():
        assert torch.allclose(gradient, padded[name], rtol=1e-4, atol=1e-5), name


def gradients(roles: Roles, examples: tuple[Example, ...], tokens: int = 10_000) -> dict[str, Tensor]:
    config = TrainConfig(dtype="float32", microbatch_tokens=tokens, max_grad_norm=1e9)
    GradientStep(roles, config, 10.0).gradients(examples)
    found = {name: weight.grad.clone() for name, weight in roles.adapter().items() if weight.grad is not None}
    roles.peft.zero_grad()
    return found


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
    ways = ((True, 10_000), (True, 1), (False, 10_000))
    found = [gradients(replace(roles, packs=packs), examples, tokens) for packs, tokens in ways]
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert torch.allclose(gradient, other[name], rtol=1e-4, atol=1e-5), name


def by_hand(query: Tensor, key: Tensor, value: Tensor, window: int, cap: float | None, sinks: Tensor | None) -> Tensor:
    """The formula, in float64 and pair by pair; [T, H, D]."""
    heads, length, size = query.shape[1:]
    found = torch.zeros(length, heads, size, dtype=torch.float64)
    for head in range(heads):
        own = head * key.shape[1] // heads
        for i in range(length):
            seen = range(max(0, i - window + 1), i + 1)
            scores = [float(query[0, head, i] @ key[0, own, j]) / size**0.5 for j in seen]
            scores = [cap * math.tanh(score / cap) for score in scores] if cap else scores
            weights = [math.exp(score) for score in scores]
            total = sum(weights) + (math.exp(sinks[head]) if sinks is not None else 0)
            for j, weight in zip(seen, weights, strict=True):
                found[i, head] += weight / total * value[0, own, j]
    return found


@pytest.mark.parametrize("window", [4, 99])
@pytest.mark.parametrize(("cap", "sinks"), [(None, None), (0.7, None), (None, [0.5, -1.0, 2.0, 0.0]), (0.7, [0.5] * 4)])
def test_windows_caps_and_sinks_are_what_their_formula_says(window: int, cap: float | None, sinks: list[float] | None):
    torch.manual_seed(0)
    lengths = [9, 3]
    query, key, value = (torch.randn(1, heads, 12, 8, dtype=torch.float64) for heads in (4, 2, 2))
    s_aux = None if sinks is None else torch.tensor(sinks, dtype=torch.float64)
    wanted = torch.cat(
        [
            by_hand(*part, window, cap, s_aux)
            for part in zip(*(x.split(lengths, 2) for x in (query, key, value)), strict=True)
        ]
    )
    more = {"sliding_window": window, "softcap": cap, "s_aux": s_aux}
    packed, _ = packed_attention(torch.nn.Module(), query, key, value, None, pack_lengths=lengths, **more)
    assert torch.allclose(packed[0], wanted, rtol=0, atol=1e-12)
    first = [x[:, :, :9] for x in (query, key, value)]
    mask = None if window > 9 else torch.ones(9, 9, dtype=torch.bool).tril().triu(1 - window)[None, None]
    padded, _ = padded_attention(torch.nn.Module(), *first, mask, **more)
    assert torch.allclose(padded[0], wanted[:9], rtol=0, atol=1e-12)


def test_the_kernel_is_told_of_windows(kernel: list[int]):
    torch.manual_seed(0)
    states = [torch.randn(1, 4, 12, 8, dtype=torch.float64) for _ in range(3)]
    ends = torch.tensor([0, 9, 12], dtype=torch.int32)
    more = {"pack_lengths": [9, 3], "sliding_window": 4}
    wanted, _ = packed_attention(torch.nn.Module(), *states, None, **more)
    found, _ = packed_attention(torch.nn.Module(), *states, None, pack_ends=ends, **more)
    assert kernel == [2] and torch.allclose(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("attend", [packed_attention, padded_attention])
@pytest.mark.parametrize(
    ("name", "value"),
    [("position_bias", torch.zeros(1)), ("indices", torch.zeros(1)), ("dropout", 0.1), ("is_causal", False),
     ("something_new", 3), ("s_aux_2", [1.0])],
)  # fmt: skip
def test_what_attention_does_not_know_is_refused_by_name(attend: Any, name: str, value: object):
    states = torch.randn(1, 2, 5, 4)
    with pytest.raises(NotImplementedError, match="looks ahead" if name == "is_causal" else name):
        attend(torch.nn.Module(), states, states, states, None, **{name: value})
    attend(
        torch.nn.Module(), states, states, states, None, **{"position_ids": torch.zeros(1), "dropout": 0.0, name: None}
    )


def test_a_window_that_no_sequence_fills_does_not_matter():
    states = torch.randn(1, 2, 6, 4)
    plain, _ = packed_attention(torch.nn.Module(), states, states, states, None, pack_lengths=[3, 3])
    window, _ = packed_attention(torch.nn.Module(), states, states, states, None, pack_lengths=[3, 3], sliding_window=3)
    assert torch.equal(plain, window)


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
