"""Ways through the model together: packs by proof, pads where packs leak, one by one where pads do."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import identify
from dail.train import attention
from dail.train.attention import PACKED
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples, student_input
from dail.train.distributed import Ranks
from dail.train.model import Roles, load_roles
from dail.train.packing import choose_packing
from tests.conftest import Told
from tests.train.architectures import LIMIT, difference, gradients, oracle, save_model, stir
from tests.train.architectures import VOCABULARY as OTHER_VOCABULARY
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_model import CPU


def small(folder: Path, kind: str, dtype: str = "float32", **settings: Any) -> Roles:
    save_model(kind, folder, **settings)
    return load_roles(folder, TrainConfig(dtype=dtype, lora_rank=4, lora_alpha=4), CPU)


def traces(*lengths: int) -> list[Example]:
    """Of so many tokens each, in contexts of 5."""
    draw = random.Random(1)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, OTHER_VOCABULARY) for _ in range(count))

    return [Example(str(i), ids(5), ids(5), ids(5), ids(length)) for i, length in enumerate(lengths)]


def off(folder: Path, roles: Roles, batch: list[Example]) -> float:
    """How far gradients are from the oracle's."""
    stir(roles)
    return difference(gradients(roles, batch)[1], oracle(folder, roles, batch)[1])


@pytest.mark.parametrize("kind", ["lfm2", "qwen3_next", "falcon_h1"])
def test_states_that_run_on_into_the_next_sequence_are_seen_in_bfloat16_at_any_length(
    tmp_path: Path, told: Told, kind: str
):
    """On traces this long a mean over all tokens hides what the first of each get from their neighbour."""
    targets = ("q_proj", "up_proj") if kind == "falcon_h1" else "all-linear"
    save_model(kind, tmp_path, max_position_embeddings=512)
    roles = load_roles(tmp_path, TrainConfig(dtype="bfloat16", lora_targets=targets), CPU)
    assert not choose_packing(roles, traces(300, 400)).packs
    assert "sequences are padded" in (said := told()) and "one sequence changes another's hidden states" in said


def test_one_trace_alone_is_no_excuse(tmp_path: Path):
    assert not choose_packing(small(tmp_path / "lfm2", "lfm2"), traces(20)).packs
    assert choose_packing(small(tmp_path / "llama", "llama"), traces(20)).packs


def test_windows_are_kept_where_a_later_trace_is_longer(tmp_path: Path):
    roles = choose_packing(small(tmp_path, "mistral", sliding_window=64), batch := traces(*[20] * 11, 150))
    assert roles.packs
    assert off(tmp_path, roles, batch) < LIMIT


def dropped(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The model forgets to hand this to its attention."""
    real = attention.packed_attention
    monkeypatch.setattr(attention, "packed_attention", lambda *a, **k: real(*a, **{n: k[n] for n in k if n != name}))


@pytest.mark.parametrize("name", ["sliding_window", "pack_lengths", "scaling"])
def test_a_model_that_hands_not_everything_to_its_attention_is_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    """Its window is longer than any trace, and would not be missed yet."""
    dropped(monkeypatch, name)
    roles = choose_packing(small(tmp_path, "gemma2", query_pre_attn_scalar=64, sliding_window=4096), traces(20, 30))
    assert not roles.packs and not roles.alone


def test_experts_change_bits_without_a_leak(tmp_path: Path):
    roles = choose_packing(small(tmp_path, "mixtral"), batch := traces(20, 30, 10))
    assert roles.packs
    assert off(tmp_path, roles, batch) < LIMIT


def test_a_leak_smaller_than_rounding_is_seen(tmp_path: Path, told: Told):
    roles = small(tmp_path, "llama")

    def lean(_: object, __: object, hidden_BTD: Tensor) -> Tensor:
        return hidden_BTD + 1e-6 * hidden_BTD.roll(1, 1).cumsum(1)

    roles.decoder.layers[0].register_forward_hook(lean)
    assert not choose_packing(roles, traces(20, 30)).packs
    assert "what one sequence says reaches another" in told()


def test_what_depends_on_the_width_of_the_batch_goes_one_by_one(tmp_path: Path, told: Told):
    roles = small(tmp_path, "llama")
    roles.decoder.layers[0].register_forward_hook(lambda _, __, hidden: hidden * (1 + hidden.shape[1] / 100))
    chosen = choose_packing(roles, batch := traces(20, 30))
    assert chosen.alone and not chosen.packs and "one by one" in told()
    stir(chosen)
    together, student = gradients(chosen, batch)[1], chosen.student(student_input(batch, CPU))
    each = [chosen.student(student_input([example], CPU)) for example in batch]
    assert torch.equal(student, torch.cat(each))
    apart = gradients(replace(chosen, alone=False), batch, tokens=1)[1]
    assert difference(together, apart) < LIMIT
    with pytest.raises(UsageError, match="leave shard_weights off"):
        choose_packing(roles, batch, "auto", Ranks(share_weights=True))


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="bert-generation models look ahead"):
        choose_packing(small(tmp_path, "bert-generation", is_decoder=False), traces(20))


def test_packing_can_be_left_off_or_insisted_on(tmp_path: Path, told: Told):
    llama = small(tmp_path / "llama", "llama")
    assert choose_packing(llama, traces(20), "on").packs
    assert not choose_packing(llama, traces(20), "off").packs and "takes longer" not in told()
    with pytest.raises(UsageError, match="packing=on, but lfm2 models cannot be packed: one sequence changes"):
        choose_packing(small(tmp_path / "lfm2", "lfm2"), traces(20), "on")


def test_windows_are_as_they_were_after_the_probe(tmp_path: Path):
    roles = choose_packing(small(tmp_path, "mistral", sliding_window=64), traces(20))
    found = {vars(one)["sliding_window"] for one in (roles.peft.config, *roles.peft.modules()) if "sliding_window" in
             vars(one)}  # fmt: skip
    assert found == {64}


@pytest.fixture
def examples(make_manifest: MakeManifest, tiny_model: Path) -> tuple[Example, ...]:
    return load_examples(make_manifest(6), identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


@pytest.mark.parametrize("failure", [RuntimeError("no kernel image"), TypeError("unexpected keyword 'scale'")])
def test_a_kernel_that_fails_is_told_once_with_its_reason_and_sequences_are_padded(
    tiny_model: Path,
    examples: tuple[Example, ...],
    monkeypatch: pytest.MonkeyPatch,
    told: Told,
    failure: Exception,
):
    def fail(*_: object, **__: object) -> Tensor:
        raise failure

    monkeypatch.setattr(attention, "varlen_attn", fail)
    monkeypatch.setattr(attention, "has_kernel", lambda _: True)
    roles = choose_packing(load_roles(tiny_model, TrainConfig(dtype="float32"), CPU), examples)
    assert not roles.packs and roles.peft.config._attn_implementation != PACKED
    said = told()
    assert said.count("padded") == 1 and f"{type(failure).__name__}: {failure}" in said and torch.__version__ in said


def test_a_kernel_without_memory_is_no_reason_to_pad(
    tiny_model: Path, examples: tuple[Example, ...], monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object, **__: object) -> Tensor:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(attention, "varlen_attn", fail)
    monkeypatch.setattr(attention, "has_kernel", lambda _: True)
    with pytest.raises(torch.OutOfMemoryError):
        choose_packing(load_roles(tiny_model, TrainConfig(dtype="float32"), CPU), examples)
