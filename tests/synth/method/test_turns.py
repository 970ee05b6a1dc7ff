"""Which tokens end a turn, whoever names them, under chat templates in the structure of public models' own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from dail.synth.core.errors import ItemError, UsageError
from dail.synth.engine.base import FinishReason
from dail.synth.method.prompts import Prompts
from dail.synth.method.thoughts import behind_thought
from dail.synth.rollout.base import Rollout
from dail.synth.run.trace_rows import STRAY_MARK, prepare, trace_row
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Unit
from tests.conftest import DEMO_MODEL

DOCUMENT, TURN = "<|endoftext|>", "<|im_end|>"
ITEM = ExpertSolution(id="i", problem="1 + 1?", solution="It is 2.", answer="2")

# what is written: begin, before and after each message's text; and the token that ends a turn
SHAPES = {
    "Qwen2.5": ("", "<|im_start|>{role}\n", "<|im_end|>\n", "<|im_end|>"),
    "Llama-3": ("<|begin|>", "<|header|>{role}<|/header|>\n\n", "<|eot|>", "<|eot|>"),
    "Mistral": ("<s>", "[INST] ", "</s>", "</s>"),
    "Gemma": ("<bos>", "<start_of_turn>{role}\n", "<end_of_turn>\n", "<end_of_turn>"),
    "DeepSeek": ("<begin>", "<|{role}|>", "<|end▁of▁sentence|>", "<|end▁of▁sentence|>"),
    "Command-R": ("<BOS>", "<|START|><|{role}|>", "<|END_OF_TURN|>", "<|END_OF_TURN|>"),
    "spaces before": ("", "<|im_start|>{role}\n", "\n  <|im_end|>\n", "<|im_end|>"),
}


def model(tmp_path: Path, template: str | None = None, marks: list[str] | None = None, **files: str) -> Path:
    """The demo model's tokenizer with another template, more control tokens, and other files."""
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    if template is not None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_special_tokens({"additional_special_tokens": marks or []})
        tokenizer.save_pretrained(folder)
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, "utf-8")
    return folder


def template(begin: str, before: str, after: str) -> str:
    """As Jinja: `begin`, then every message between `before` and `after`, then the opening of an answer."""
    opening = "".join(f"{{{{- {part} -}}}}" for part in _parts(before, "m.role"))
    answer = "".join(f"{{{{- {part} -}}}}" for part in _parts(before, "'assistant'"))
    return (
        f"{{{{- {begin!r} -}}}}{{%- for m in messages -%}}{opening}{{{{- m.content -}}}}{{{{- {after!r} -}}}}"
        f"{{%- endfor -%}}{{%- if add_generation_prompt -%}}{answer}{{%- endif -%}}"
    )


def _parts(before: str, role: str) -> list[str]:
    first, sep, last = before.partition("{role}")
    return [repr(first), role, repr(last)] if sep else [repr(first)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_token_that_the_template_writes_after_an_answer_ends_a_turn(shape: str, tmp_path: Path):
    begin, before, after, end = SHAPES[shape]
    marks = [mark for mark in (begin, end) if mark] + ["<|user|>", "<|assistant|>"]
    folder = model(
        tmp_path, template(begin, before, after), marks, generation_config__json='{"eos_token_id": 1019}'
    )  # which names the end of documents only
    prompts = Prompts(folder)
    wanted = prompts.tokenizer.convert_tokens_to_ids(end)
    assert "template" in prompts.ends[wanted]
    assert prompts.ends[1019] == ("generation config",)
    assert prompts.solution_ids(ITEM)[-1] == wanted


def test_the_end_of_the_document_behind_the_last_turn_is_not_the_end_of_a_turn(tmp_path: Path):
    phi = (
        "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- else -%}{{- eos_token -}}{%- endif -%}"
    )
    prompts = Prompts(model(tmp_path, phi, ["<|user|>", "<|assistant|>", "<|end|>"]))
    end = prompts.tokenizer.convert_tokens_to_ids("<|end|>")
    assert prompts.ends[end] == ("template",)
    assert "template" not in prompts.ends[prompts.tokenizer.eos_token_id]
    assert prompts.solution_ids(ITEM)[-1] == end


def test_a_template_without_an_end_ends_a_turn_by_what_begins_the_next(tmp_path: Path):
    glm = (
        "{%- for m in messages -%}{{- '<|' + m.role + '|>\n' + m.content -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
    )
    prompts = Prompts(
        model(tmp_path, glm, ["<|user|>", "<|assistant|>"], generation_config__json='{"eos_token_id": 1019}')
    )
    end = prompts.tokenizer.convert_tokens_to_ids("<|user|>")
    assert prompts.ends[end] == ("template",)
    assert prompts.solution_ids(ITEM)[-1] == end
    assert prompts.stray_mark([5, end]) is None
    assert prompts.stray_mark([5, end, 6]) == "<|user|>"


def test_every_place_that_names_an_end_is_heard_and_said(tmp_path: Path):
    folder = model(tmp_path, generation_config__json='{"eos_token_id": [3, 5]}')
    turn = Prompts(folder).tokenizer.convert_tokens_to_ids(TURN)
    assert Prompts(folder).ends == {
        3: ("generation config",), 5: ("generation config",), turn: ("tokenizer", "template")
    }  # fmt: skip
    (folder / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert Prompts(folder).stop_ids == {7, turn}
    (folder / "generation_config.json").unlink()
    assert Prompts(folder).ends == {turn: ("tokenizer", "template")}


def test_a_template_that_ends_turns_by_text_names_no_token(tmp_path: Path):
    plain = "{%- for m in messages -%}{{- m.role + ': ' + m.content + '\\n\\n' -}}{%- endfor -%}"
    prompts = Prompts(model(tmp_path, plain, generation_config__json='{"eos_token_id": 1019}'))
    assert "template" not in {place for places in prompts.ends.values() for place in places}


def test_a_template_that_knows_no_assistant_is_asked_in_vain(tmp_path: Path):
    picky = "{%- for m in messages -%}{%- if m.role != 'user' -%}{{ raise_exception('no') }}{%- endif -%}{%- endfor -%}"
    prompts = Prompts(model(tmp_path, picky))
    assert prompts.stop_ids >= {1019}


def test_a_model_of_which_nothing_says_where_turns_end_is_refused(tmp_path: Path):
    folder = model(tmp_path, "{{ messages[-1].content }}")
    (folder / "generation_config.json").unlink()
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text().replace('"eos_token": "<|im_end|>",', ""))
    with pytest.raises(UsageError, match="says which token ends a turn"):
        Prompts(folder)


def test_an_end_that_is_no_number_is_refused(tmp_path: Path):
    folder = model(tmp_path, generation_config__json='{"eos_token_id": "<|im_end|>"}')
    with pytest.raises(UsageError, match=r"eos_token_id is '<\|im_end\|>'; wanted the number of a token"):
        Prompts(folder)


@pytest.mark.parametrize(
    "picky",
    [
        "{%- for m in messages -%}{%- if m.role != 'user' -%}{{ raise_exception('') }}{%- endif -%}{{ m.content }}"
        "{%- endfor -%}",
        "{%- if messages | length > 1 -%}{{ raise_exception('one') }}{%- endif -%}{{ messages[0].content }}",
    ],
)
def test_a_template_of_one_message_has_a_probe_too(tmp_path: Path, picky: str):
    prompts = Prompts(model(tmp_path, picky))
    assert prompts.probe() == "And 3 + 3?"
    assert not prompts.prints_date() and not prompts.is_in_thought()


def test_a_template_that_never_opens_the_assistant_s_turn_is_refused_unless_the_settings_do(tmp_path: Path):
    closed = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' -}}{%- endfor -%}"
    )
    prompts = Prompts(model(tmp_path, closed))
    with pytest.raises(UsageError, match=r"it writes '<\|im_start\|>assistant\\n' in front of an answer"):
        prompts.contexts(ITEM, Synthesis())
    opened = prompts.contexts(ITEM, Synthesis(opening="<|im_start|>assistant\n")).student_ids
    assert str(prompts.tokenizer.decode(opened)).endswith("<|im_end|>\n<|im_start|>assistant\n")


def test_a_template_in_the_file_of_models_with_pictures_is_taken(tmp_path: Path):
    folder = model(tmp_path, chat_template__json='{"chat_template": "{{ messages[-1].content }}<|im_end|>"}')
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert Prompts(folder).contexts(ITEM, Synthesis()).student_ids[-1] == 1021


@pytest.mark.parametrize(
    ("text", "reason", "is_stray"),
    [
        (f"It is 2.{TURN}", "stop", False),
        (f"It is 2.{DOCUMENT}", "stop", False),
        ("It is", "length", False),
        ("<think>two</think> It is 2.", "length", False),
        (f"It is 2.{TURN}\n<|im_start|>user\nAnd", "length", True),
        (f"It is 2.<|im_start|>{TURN}", "stop", True),
    ],
)
def test_a_trace_of_more_than_one_turn_is_none(text: str, reason: FinishReason, is_stray: bool):
    prompts = Prompts(DEMO_MODEL)
    unit = Unit(
        unit_id="u", batch_id="b", item_id="i", sample=0, epoch=1, item=ITEM, synthesis=Synthesis(thinking=False),
        model=identify(DEMO_MODEL),
    )  # fmt: skip
    ids = prompts.tokenizer.encode(text, add_special_tokens=False)
    nothing = [None] * len(ids)
    rollout = Rollout("u", Tokens(ids, [0.0] * len(ids), nothing[:], nothing[:], nothing[:]), reason, "lockstep")
    prepared = prepare(unit, prompts, 2048)
    if not is_stray:
        assert trace_row(prepared, rollout, prompts, "fake").finish_reason == reason
        return
    with pytest.raises(ItemError, match="which begins or ends a turn: the model wrote on past its own") as failed:
        trace_row(prepared, rollout, prompts, "fake")
    assert failed.value.code == STRAY_MARK and failed.value.retryable


@pytest.mark.parametrize(("begin", "end"), [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷")])
def test_a_thought_s_marks_are_no_turn_s_also_where_they_are_special_tokens(tmp_path: Path, begin: str, end: str):
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + f"{begin}\n\n{end}\n\n"
        + "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    prompts = Prompts(model(tmp_path, template, [begin, end]))
    written = prompts.tokenizer.encode(f"{begin}\nhm\n{end}\n\nIt is 2.", add_special_tokens=False)
    assert prompts.stray_mark(written) is None
    assert prompts.stray_mark([*written, prompts.tokenizer.convert_tokens_to_ids("<|im_start|>"), 5]) == "<|im_start|>"


@pytest.mark.parametrize(
    ("marks", "cut", "whole"),
    [
        (["[THINK]", "[/THINK]"], "[THINK]maybe \\boxed{3}?", "[THINK]no[/THINK]It is \\boxed{2}."),
        (
            ["<|channel|>", "<|message|>", "<|end|>", "<|start|>"],
            "<|channel|>analysis<|message|>maybe \\boxed{3}?",
            "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>It is \\boxed{2}.",
        ),
        (
            ["<|channel>", "<channel|>"],
            "<|channel>thought\nmaybe \\boxed{3}?",
            "<|channel>thought\nno<channel|>\\boxed{2}",
        ),
    ],
)
def test_what_graders_read_tells_a_thought_also_where_its_marks_are_special_tokens(
    tmp_path: Path, marks: list[str], cut: str, whole: str
):
    prompts = Prompts(model(tmp_path, "{{ messages[-1].content }}<|im_end|>", marks))
    texts = [prompts.text(prompts.tokenizer.encode(f"{one}{TURN}", add_special_tokens=False)) for one in (cut, whole)]
    assert TURN not in texts[0] + texts[1]
    assert behind_thought(texts[0]) is None
    assert final_answer(str(behind_thought(texts[1]))) == "2"
