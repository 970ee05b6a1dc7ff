r"""A dozen chat templates in the structure of public models' own: what is asked, where a reply begins, how a turn ends.

What comes of their traces in other trainers is in `tests/synth/export/test_trl.py`, by the same templates. Real ones
are tried where a package of the registry ships them: TRL has chat templates, mistral_common has tokenizers.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dail.synth.core.errors import ItemError
from dail.synth.method.prompts import Prompts
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL
from tests.synth.export.conftest import model_folder

ITEM = ExpertSolution(id="i", problem="1 + 1?", solution="It is 2.", answer="2")
ASKED = "1 + 1?\n\nPlease reason step by step, and put your final answer within \\boxed{}."

# template, settings, the student's whole prompt, whether a reply begins inside a thought, what ends a turn
SHAPES: dict[str, tuple[str, dict[str, Any], str, bool, str]] = {
    "Qwen2.5": (
        "qwen2_5",
        {},
        "<|im_start|>system\nYou are an assistant.<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
        False,
        "<|im_end|>",
    ),
    "Qwen3": ("qwen3", {}, "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", False, "<|im_end|>"),
    "Qwen3, thinking off": (
        "qwen3",
        {"thinking": False},
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        False,
        "<|im_end|>",
    ),
    "Qwen3, as the authors open it": (
        "qwen3",
        {"thinking": False, "drop_empty_thought": True, "opening": "<think>"},
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>",
        True,
        "<|im_end|>",
    ),
    "Qwen3, always thinking": (
        "qwen3_thinking",
        {},
        "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<think>\n",
        True,
        "<|im_end|>",
    ),
    "R1": ("r1", {}, "<|begin|><|User|>{}<|Assistant|><think>\n", True, "<|end|>"),
    "V3.1, thinking": ("v3_1", {"thinking": True}, "<|begin|><|User|>{}<|Assistant|><think>", True, "<|end|>"),
    "V3.1, not thinking": ("v3_1", {"thinking": False}, "<|begin|><|User|>{}<|Assistant|></think>", False, "<|end|>"),
    "Llama 3": (
        "llama3",
        {},
        "<|begin|><|header|>user<|/header|>\n\n{}<|eot|><|header|>assistant<|/header|>\n\n",
        False,
        "<|eot|>",
    ),
    "Mistral": ("mistral", {}, "<s>[INST] {}[/INST]", False, "</s>"),
    "Mistral, opened by us": ("mistral", {"opening": "[THINK]"}, "<s>[INST] {}[/INST][THINK]", True, "</s>"),
    "Gemma": (
        "gemma",
        {},
        "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
        False,
        "<end_of_turn>",
    ),
    "Command R": ("command_r", {}, "<BOS><|START|><|USER|>{}<|END|><|START|><|CHATBOT|>", False, "<|END|>"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_prompt_opening_and_end_are_those_of_the_shape(name: str, tmp_path: Path) -> None:
    template, settings, wanted, is_inside, end = SHAPES[name]
    prompts = Prompts(model_folder(tmp_path / "model", template))
    asked = Synthesis(**settings)
    contexts = prompts.contexts(ITEM, asked)
    assert prompts.tokenizer.decode(contexts.student_ids) == wanted.replace("{}", ASKED)
    assert contexts.student_ids == prompts.student_ids("1 + 1?", asked)
    before, behind = wanted.split("{}")
    for ids in (contexts.privileged_ids, contexts.negative_ids):
        text = prompts.tokenizer.decode(ids)
        assert text.startswith(before) and text.endswith(behind)
    assert prompts.is_in_thought(asked) is is_inside
    ended = prompts.tokenizer.convert_tokens_to_ids(end)
    assert prompts.ends[ended][-1] == "template"
    assert prompts.solution_ids(ITEM)[-1] == ended


@pytest.mark.parametrize("name", SHAPES)
def test_a_beginning_of_sequence_token_is_written_once(name: str, tmp_path: Path) -> None:
    template, settings, *_ = SHAPES[name]
    prompts = Prompts(model_folder(tmp_path / "model", template))
    ids = prompts.contexts(ITEM, Synthesis(**settings)).student_ids
    assert ids.count(prompts.tokenizer.bos_token_id) <= 1


# real templates, on our tokenizer

TRL = find_spec("trl")
REAL = Path(next(iter(TRL.submodule_search_locations or []))) / "chat_templates" if TRL else Path("nowhere")
# what each can be told, whether it prints the date, whether a reply begins inside a thought
KNOWN: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "qwen2_5": ((), False, False),
    "qwen3": (("enable_thinking",), False, False),
    "qwen3_instruct_2507": ((), False, False),
    "deepseek_r1_distill": ((), False, True),
    "deepseekv3": ((), False, True),
    "gemma3": ((), False, False),
    "cohere2": ((), False, False),
    "phi3": ((), False, False),
    "glm4moe": (("enable_thinking",), False, False),
    "gptoss": (("builtin_tools", "model_identity", "reasoning_effort", "strftime_now"), True, False),
    "llama3_1": (("builtin_tools", "custom_tools", "date_string", "tools_in_user_message"), False, False),
    "llama3_2": (("custom_tools", "date_string", "strftime_now", "tools_in_user_message"), True, False),
}


def real_model(folder: Path, name: str, *marks: str, **files: str) -> Path:
    shutil.copytree(DEMO_MODEL, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    tokenizer.chat_template = (REAL / f"{name}.jinja").read_text("utf-8")
    tokenizer.bos_token = "<|endoftext|>"
    tokenizer.save_pretrained(folder)
    for file, text in files.items():
        (folder / f"{file}.json").write_text(text)
    return folder


@pytest.mark.skipif(TRL is None, reason="trl, which ships real chat templates, is not installed")
@pytest.mark.parametrize("name", KNOWN)
def test_a_real_template_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    if not (REAL / f"{name}.jinja").is_file():
        pytest.skip(f"this release of trl ships no {name}.jinja")
    folder = real_model(tmp_path / "model", name)
    prompts = Prompts(folder)
    assert (prompts.template_reads, prompts.prints_date(), prompts.is_in_thought()) == KNOWN[name]
    assert identify(folder).template_reads == prompts.template_reads
    text = prompts.tokenizer.decode(prompts.contexts(ITEM, Synthesis(date=dt.date(2026, 11, 26))).student_ids)
    assert ASKED in text
    assert ("26 Nov 2026" in text or "2026-11-26" in text) is prompts.prints_date()


@pytest.mark.skipif(TRL is None, reason="trl, which ships real chat templates, is not installed")
@pytest.mark.parametrize(
    ("name", "mark", "put"),
    [
        ("qwen3", "</think>", "</think>"),
        ("deepseek_r1_distill", "</think>", "</think>"),
        ("gptoss", "<|channel|>final<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
        ("muse_glimmer", "</think>", "</think>"),  # which our tokenizer has, and its own has not
    ],
)
def test_a_thought_is_ended_as_the_model_would_end_it(name: str, mark: str, put: str, tmp_path: Path) -> None:
    if not (REAL / f"{name}.jinja").is_file():
        pytest.skip(f"this release of trl ships no {name}.jinja")
    prompts = Prompts(real_model(tmp_path / "m", name, "<|start|>", "<|end|>", "<|message|>", "<|channel|>"))
    closing = prompts.closing()
    assert (closing.mark, prompts.tokenizer.decode(closing.ids)) == (mark, put)
    assert (closing.token is None) == (name == "gptoss")


@pytest.mark.skipif(TRL is None, reason="trl, which ships real chat templates, is not installed")
def test_marks_that_a_model_writes_inside_its_own_turn_are_no_other_turns(tmp_path: Path) -> None:
    """gpt-oss ends its thought with `<|end|><|start|>assistant`; Command A closes its response before the turn."""
    harmony = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>")
    oss = Prompts(real_model(tmp_path / "oss", "gptoss", *harmony))
    written = "<|channel|>analysis<|message|>Two.<|end|><|start|>assistant<|channel|>final<|message|>2<|return|>"
    ids = oss.tokenizer.encode(written, add_special_tokens=False)
    assert oss.stray_mark(ids) is None and ids[-1] in oss.stop_ids

    command = (
        "<|START_RESPONSE|>",
        "<|END_RESPONSE|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|START_OF_TURN_TOKEN|>",
        "<|USER_TOKEN|>",
    )
    folder = real_model(tmp_path / "cohere", "cohere2", *command)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|END_OF_TURN_TOKEN|>"
    tokenizer.save_pretrained(folder)
    cohere = Prompts(folder)
    end = cohere.tokenizer.eos_token_id
    assert cohere.ends[end] == ("tokenizer", "template")
    assert cohere.tokenizer.convert_tokens_to_ids("<|END_RESPONSE|>") not in cohere.stop_ids
    whole = "It is 2.<|END_RESPONSE|><|END_OF_TURN_TOKEN|>"
    assert cohere.stray_mark(cohere.tokenizer.encode(whole, add_special_tokens=False)) is None
    ran_on = "It is 2.<|END_RESPONSE|><|START_OF_TURN_TOKEN|><|USER_TOKEN|>"
    assert cohere.stray_mark(cohere.tokenizer.encode(ran_on, add_special_tokens=False)) == "<|START_OF_TURN_TOKEN|>"


@pytest.mark.skipif(TRL is None, reason="trl, which ships real chat templates, is not installed")
def test_a_template_that_wants_more_than_text_fails_the_item_and_names_no_wrong_end(tmp_path: Path) -> None:
    prompts = Prompts(real_model(tmp_path / "model", "idefics3", "<|im_start|>"))
    assert prompts.tokenizer.convert_tokens_to_ids("<|im_start|>") not in prompts.stop_ids
    with pytest.raises(ItemError, match="leaves out or changes the last message") as caught:
        prompts.contexts(ITEM)
    assert caught.value.code == "template_drops_text"


def test_a_real_mistral_tokenizer_gives_the_ids_of_its_own_library(tmp_path: Path) -> None:
    mistral_common = pytest.importorskip("mistral_common", reason="mistral_common, which ships tokenizers, is missing")
    pytest.importorskip("sentencepiece", reason="the tokenizer of Mistral 7B is a sentencepiece model")
    from mistral_common.protocol.instruct.messages import UserMessage
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    file = Path(mistral_common.__file__).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    if not file.is_file():
        pytest.skip("this release of mistral_common ships no tokenizer of version 3")
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(file, folder / "tokenizer.model")
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral", "architectures": ["MistralForCausalLM"]}))
    marks = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(marks))
    (folder / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
        "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
    )
    prompts = Prompts(folder)
    ours = prompts.student_ids("1 + 1?")
    request = ChatCompletionRequest(messages=[UserMessage(content=ASKED)])
    assert ours == MistralTokenizer.from_file(str(file)).encode_chat_completion(request).tokens
    assert prompts.ends == {prompts.tokenizer.eos_token_id: ("tokenizer", "template")}
