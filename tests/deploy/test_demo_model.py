"""The demo model that is shipped: its files, what it can and cannot do, and that its recipe still learns."""

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from make_model import (
    LONGEST,
    MIXTURE,
    ROUNDS,
    Lesson,
    Role,
    Round,
    draw_examples,
    make_network,
    measure,
    summed_loss,
    train,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

MODEL = Path(__file__).parents[2] / "deploy" / "demo" / "model"
TOKENIZER: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(MODEL)
TURN = [{"role": "user", "content": "Hi 12"}]
STARTED = "<|im_start|>user\nHi 12<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def network() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)


@given(st.text())
def test_any_text_survives_the_tokenizer(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text), clean_up_tokenization_spaces=False) == text


@given(st.text(alphabet="0123456789 ,.+=A\n", min_size=1))
def test_every_digit_is_a_token_of_its_own(text):
    tokens = TOKENIZER.tokenize(text)
    assert all(len(token) == 1 for token in tokens if any(character.isdigit() for character in token))


def test_template_boilerplate_costs_few_tokens():
    boilerplate = "Please reason step by step, and put your final answer within \\boxed{}."
    assert len(TOKENIZER.tokenize(boilerplate)) <= 3


@pytest.mark.parametrize(
    ("switch", "prompt"),
    [
        ({}, STARTED),
        ({"enable_thinking": True}, STARTED),
        ({"enable_thinking": False}, STARTED + "<think>\n\n</think>\n\n"),
    ],
)
def test_chat_template_switches_thinking_off_as_qwen3_does(switch, prompt):
    assert TOKENIZER.apply_chat_template(TURN, tokenize=False, add_generation_prompt=True, **switch) == prompt


def test_chat_template_renders_answers_and_leaves_the_last_turn_closed():
    messages = [*TURN, {"role": "assistant", "content": "Yes"}]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False)
    assert rendered == STARTED + "Yes<|im_end|>\n"


def test_special_tokens_have_their_roles():
    ids = TOKENIZER.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    generation = json.loads((MODEL / "generation_config.json").read_text())
    assert [TOKENIZER.eos_token_id, TOKENIZER.pad_token_id] == ids == generation["eos_token_id"]
    assert all(len(TOKENIZER.encode(token)) == 1 for token in ("<|im_start|>", "<think>", "</think>"))


def test_folder_is_below_four_megabytes_and_its_weights_are_bfloat16():
    data = (MODEL / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    header.pop("__metadata__", None)
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 4_000_000


@pytest.mark.parametrize(
    ("role", "turns", "least_right", "most_right", "least_jumped", "most_jumped"),
    [
        ("student", (2, 6), 0.85, 1.0, 0.0, 0.1),
        ("student", (9, 12), 0.0, 0.05, 0.8, 1.0),
        ("privileged_student", (9, 12), 0.8, 1.0, 0.02, 0.4),
        ("negative_reference", (9, 12), 0.0, 1.0, 0.7, 1.0),
    ],
)
def test_shipped_model_is_in_the_papers_situation(
    network, role: Role, turns, least_right, most_right, least_jumped, most_jumped
):
    right, jumped = measure(network, TOKENIZER, role, turns, count=64)
    assert least_right <= right <= most_right
    assert least_jumped <= jumped <= most_jumped


@torch.no_grad()
def test_shipped_model_fits_the_recipes_examples(network):
    examples = draw_examples(TOKENIZER, random.Random(1), ROUNDS[-1].mixture, Lesson(LONGEST, largest_digit=9))
    loss = summed_loss(network, examples) / sum(len(example.answer_ids) for example in examples)
    assert loss < 0.4  # mostly the results of jumps, which nobody can know


def test_recipe_learns():
    torch.manual_seed(0)
    losses = train(make_network(TOKENIZER), TOKENIZER, Round(40, 2e-3, MIXTURE, has_lessons=True))
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
