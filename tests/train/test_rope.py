"""LongRoPE: each sequence has the factors it would have alone, whatever lies beside it, or those that are chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dail.train.config import TrainConfig
from dail.train.data import student_input
from dail.train.model import Roles, load_roles
from dail.train.packing import choose_packing
from dail.train.rope import chosen, rope_choices
from tests.train.architectures import LIMIT, LONG_ROPE, PLAIN_ROPE, difference, gradients, oracle, save_model, stir
from tests.train.test_model import CPU
from tests.train.test_packing import traces

SHORT, LONG = 10, 60  # on either side of the 32 tokens that the short factors were made for
LAYERED = {"rope_parameters": {"full_attention": LONG_ROPE, "sliding_attention": PLAIN_ROPE}}


def loaded(folder: Path, kind: str = "phi3", packing: str = "auto", **settings: Any) -> Roles:
    save_model(kind, folder, **settings)
    roles = load_roles(folder, TrainConfig(dtype="float32", lora_rank=4, lora_alpha=4), CPU)
    return choose_packing(roles, traces(SHORT, LONG), packing)  # type: ignore[arg-type]


@pytest.mark.parametrize("packing", ["on", "off"])
@pytest.mark.parametrize("kind", ["phi3", "phimoe", "llama"])
def test_a_trace_s_gradient_does_not_depend_on_its_neighbours(tmp_path: Path, kind: str, packing: str):
    settings = {"rope_parameters": LONG_ROPE} if kind == "llama" else {}
    roles = loaded(tmp_path, kind, packing, **settings)
    stir(roles)
    for batch in (traces(SHORT, LONG, SHORT), traces(SHORT, SHORT), traces(LONG, LONG)):
        assert difference(gradients(roles, batch)[1], oracle(tmp_path, roles, batch)[1]) < LIMIT


def test_layers_of_one_sort_may_have_long_rope_and_others_not(tmp_path: Path):
    roles = loaded(tmp_path, "gemma3_text", **LAYERED)
    assert roles.packs and rope_choices(roles.rope)
    stir(roles)
    batch, each = traces(SHORT, LONG, LONG), []
    for example in batch:
        each.append(roles.student(student_input([example], CPU)))
    together = roles.student(student_input(batch, CPU, packed=True))
    assert torch.allclose(together, torch.cat(each), rtol=0, atol=1e-4)
    # transformers' own fails at its second call on a long sequence, so that each gets a model of its own
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = torch.tensor([[*batch[1].student_prompt_ids, *batch[1].trace_ids]])
    with torch.no_grad():
        wanted = model.model(ids, use_cache=False).last_hidden_state[0, 4:-1]
    assert torch.allclose(roles.reference(student_input(batch[1:2], CPU)), wanted, rtol=0, atol=1e-4)


def test_all_sequences_can_have_the_factors_of_an_engine(tmp_path: Path):
    """vLLM takes the long ones for all if its context is longer than what the short ones were made for."""
    roles = loaded(tmp_path)
    assert roles.rope and rope_choices(roles.rope) == ("each", "long", "short")
    batch = traces(SHORT, LONG)
    by_choice = {}
    for choice in rope_choices(roles.rope):
        with chosen(roles.rope, choice):
            by_choice[choice] = roles.reference(student_input(batch, CPU, packed=True)).split([SHORT, LONG])
    assert roles.rope.choice == "each"
    (short, long), (all_long, same_long), (same_short, all_short) = (by_choice[c] for c in ("each", "long", "short"))
    assert torch.equal(long, same_long) and torch.equal(short, same_short)
    assert not torch.allclose(short, all_long, rtol=0, atol=0.01)
    assert not torch.allclose(long, all_short, rtol=0, atol=0.01)
    other = AutoModelForCausalLM.from_pretrained(tmp_path)
    other.config.original_max_position_embeddings = 2  # everything is long
    other.config.rope_parameters["original_max_position_embeddings"] = 2
    ids = torch.tensor([[*batch[0].student_prompt_ids, *batch[0].trace_ids]])
    with torch.no_grad():
        wanted = other.model(ids, use_cache=False).last_hidden_state[0, 4:-1]
    assert torch.allclose(all_long, wanted, rtol=0, atol=1e-3)


def test_nothing_is_to_choose_where_nothing_depends_on_lengths(tmp_path: Path):
    assert rope_choices(loaded(tmp_path, "llama").rope) == ()
