"""What is to be suppressed is exactly one token each, or refused with what the tokenizer makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dail.synth.core.errors import UsageError
from dail.synth.method.prompts import load_tokenizer
from dail.synth.method.suppressed import suppressed_ids
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL


@pytest.fixture(scope="module")
def words() -> PreTrainedTokenizerFast:
    """Whole words, small letters only, and an unknown token: as older models have it."""
    made = Tokenizer(models.WordLevel({"[UNK]": 0, "wait": 1, "end": 2, "hint": 3}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]")


def test_texts_and_ids_of_single_tokens_are_taken(words: PreTrainedTokenizerFast):
    assert suppressed_ids(words, ("wait", 3, "hint"), {2}) == {1, 3}
    assert suppressed_ids(words, (), {2}) == frozenset()


def test_a_mark_of_thoughts_is_one_token_where_the_model_has_it(words: PreTrainedTokenizerFast):
    words.add_tokens(["</think>"])
    assert suppressed_ids(words, ("</think>",), {2}) == {len(words) - 1}


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("wait hint", r"'wait hint', which is not one token .* makes of it 1 \('wait'\), 3 \('hint'\)"),
        ("never heard", r"makes of it 0 \('\[UNK\]'\), 0"),
        ("unheard", r"makes of it 0 \('\[UNK\]'\)"),
        ("Wait", r"makes of it 1 \('wait'\)"),
        (" ", "makes of it none"),
        (5_000, r"names token 5000, and this model's tokenizer has \d+, from 0 on"),
        ("end", r"names 'end', token 2, which ends a turn"),
        (2, r"names 2, token 2, which ends a turn"),
    ],
)
def test_what_is_not_one_token_or_ends_a_turn_is_refused(words: PreTrainedTokenizerFast, named: str | int, why: str):
    with pytest.raises(UsageError, match=why):
        suppressed_ids(words, ("hint", named), {2})


@pytest.mark.parametrize("text", ["\n", " the", "</think>", "<|im_start|>"])
def test_tokens_of_a_byte_level_tokenizer_are_found_as_they_are_written(text: str):
    tokenizer = load_tokenizer(Path(DEMO_MODEL))
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) == 1:
        assert suppressed_ids(tokenizer, (text,), ()) == set(ids)
    else:
        with pytest.raises(UsageError, match="not one token"):
            suppressed_ids(tokenizer, (text,), ())


@pytest.mark.parametrize(
    "value", [(True,), (-1,), (1.5,), ("",), (None,), (2**31,), ("\ud800",), "</think>", tuple(range(17))], ids=str
)
def test_what_names_no_token_is_no_setting(value: object):
    with pytest.raises(ValidationError, match="suppress"):
        Synthesis(suppress=value)


@pytest.mark.parametrize("value", [0, -1, 65, 2.5, "many"])
def test_a_number_of_proposals_is_between_one_and_sixty_four(value: object):
    with pytest.raises(ValidationError, match="proposals"):
        Synthesis(proposals=value)


def test_a_number_names_an_id_and_digits_in_quotes_a_text():
    assert Synthesis(suppress=(5, "5")).suppress == (5, "5")
    assert Synthesis.model_validate_json('{"suppress": [5, "5", "</think>"]}').suppress == (5, "5", "</think>")
