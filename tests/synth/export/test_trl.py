"""Exports through TRL's own trainers, for every shape of chat template: the ids that were drawn, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM

from dail.synth.export.export import export
from dail.synth.export.rebuild import BEGUN, CUT, MORE, OTHER, SAME, THOUGHT
from dail.synth.schema.card import write_card
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.manifest import read_rows
from dail.synth.schema.shards import TraceRow
from tests.conftest import DEMO_MODEL, Told
from tests.synth.export.conftest import Draw, Shape, model_folder

# template, switch, what the prompt has opened, think marks that are special tokens; and what messages give back of it
SHAPES: dict[str, tuple[str, bool | None, str, bool, str]] = {
    "ChatML, thinks if it likes": ("demo", None, "", False, SAME),
    "ChatML, thinking on": ("demo", True, "", False, SAME),
    "ChatML, thinking off": ("demo", False, "answer", False, SAME),
    "ChatML, special think marks": ("demo", None, "", True, SAME),
    "Qwen2.5": ("qwen2_5", None, "answer", False, SAME),
    "Qwen3": ("qwen3", None, "", False, SAME),
    "Qwen3, thinking on": ("qwen3", True, "", False, SAME),
    "Qwen3, thinking off": ("qwen3", False, "answer", False, SAME),
    "Qwen3, special think marks": ("qwen3", True, "", True, SAME),
    "Qwen3, always thinking": ("qwen3_thinking", None, "<think>", False, SAME),
    "R1": ("r1", None, "<think>", False, THOUGHT),
    "R1, special think marks": ("r1", None, "<think>", True, THOUGHT),
    "V3.1, thinking on": ("v3_1", True, "<think>", False, THOUGHT),
    "V3.1, thinking off": ("v3_1", False, "answer", False, SAME),
    "thought in a field of its own": ("own_field", None, "<think>", False, SAME),
    "Phi, which ends the conversation too": ("closes", None, "answer", False, MORE),
    "Llama 3": ("llama3", None, "answer", False, SAME),
    "Mistral": ("mistral", None, "answer", False, SAME),
    "Gemma": ("gemma", None, "answer", False, SAME),
    "Command R": ("command_r", None, "answer", False, SAME),
}


@pytest.fixture(params=SHAPES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def shape(name: str, tmp_path: Path) -> Shape:
    template, thinking, begins, special, _ = SHAPES[name]
    return Shape(model_folder(tmp_path / "model", template, special), thinking, begins)


@pytest.fixture(params=[False, True], ids=["whole", "cut"])
def cut(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def weights() -> Any:
    return AutoModelForCausalLM.from_pretrained(DEMO_MODEL)


def load(folder: Path, tmp_path: Path) -> Dataset:
    return load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))


def drawn(root: Path) -> list[TraceRow]:
    return list(read_rows(root / "manifests" / "b" / "v1.json"))


def sft(data: Dataset, shape: Shape, weights: Any, tmp_path: Path) -> Dataset:
    """What SFTTrainer makes of the data before its first step."""
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        output_dir=str(tmp_path / "trl"), max_length=None, shuffle_dataset=False, report_to=[], use_cpu=True, bf16=False
    )
    trainer = SFTTrainer(model=weights, args=settings, train_dataset=data, processing_class=shape.tokenizer)
    assert isinstance(trainer.train_dataset, Dataset)
    return trainer.train_dataset


@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_sft_trains_on_the_drawn_ids_and_on_the_trace_alone(
    draw: Draw, shape: Shape, cut: bool, format: str, weights: Any, tmp_path: Path
):
    root = draw(shape, cut)
    export(root, "trl-sft", tmp_path / "sft", format=format)
    got = sft(load(tmp_path / "sft", tmp_path), shape, weights, tmp_path)
    rows = drawn(root)
    assert len(got) == len(rows) == 2
    for one, row in zip(got, rows, strict=True):
        prompt, trace = list(row.student_prompt_ids), list(row.trace_ids)
        assert one["input_ids"] == prompt + trace
        assert one["completion_mask"] == [0] * len(prompt) + [1] * len(trace)
        assert one["labels"] == [-100] * len(prompt) + trace


def test_messages_give_back_what_the_export_says_they_give(
    draw: Draw, name: str, shape: Shape, cut: bool, weights: Any, tmp_path: Path, told: Told
):
    root = draw(shape, cut)
    exported = export(root, "openai", tmp_path / "messages", model=shape.folder)
    messages = load(tmp_path / "messages", tmp_path)["messages"]
    given = {} if shape.thinking is None else {"chat_template_kwargs": {"enable_thinking": shape.thinking}}
    data = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:], **given} for chat in messages])
    got = sft(data, shape, weights, tmp_path)["input_ids"]
    whole = [[*row.student_prompt_ids, *row.trace_ids] for row in drawn(root)]
    back = [ids[: len(row)] == row for ids, row in zip(got, whole, strict=True)]
    assert exported.rebuilt is not None and sum(exported.rebuilt.values()) == 2
    if not cut:
        assert exported.rebuilt == {SHAPES[name][-1]: 2}
        assert back == [SHAPES[name][-1] in (SAME, MORE)] * 2
        ends = {shape.tokenizer.decode(ids[len(row) :]).strip() for ids, row in zip(got, whole, strict=True)}
        assert SHAPES[name][-1] != SAME or ends == {""}
    else:
        assert exported.rebuilt == ({CUT: 2} if all(back) else {OTHER: 2})
        assert "0 of 2 rows give the same ids" in told()


def test_the_shards_own_columns_give_back_as_much_without_an_export(
    draw: Draw, name: str, shape: Shape, weights: Any, tmp_path: Path
):
    root = draw(shape)
    assert write_card(root)
    got = sft(load(root, tmp_path), shape, weights, tmp_path)["input_ids"]
    whole = [[*row.student_prompt_ids, *row.trace_ids] for row in drawn(root)]
    comes_back = SHAPES[name][-1] in (SAME, MORE) and SHAPES[name][0] != "own_field"
    assert [ids[: len(row)] == row for ids, row in zip(got, whole, strict=True)] == [comes_back] * 2


def test_no_thought_and_no_mark_of_one_is_missing_in_messages(draw: Draw, shape: Shape, cut: bool, tmp_path: Path):
    root = draw(shape, cut)
    export(root, "openai", tmp_path / "messages")
    for chat, row in zip(load(tmp_path / "messages", tmp_path)["messages"], drawn(root), strict=True):
        content, everything = chat[-1]["content"], shape.tokenizer.decode([*row.student_prompt_ids, *row.trace_ids])
        ((text, _),) = shape.traces(cut)
        assert content.endswith(text) and content in everything
        if shape.begins != "answer":
            assert content.startswith("<think>") and content.count("<think>") == 1


TOLD = ExpertSolution(id="told", problem="1 + 1?", solution="It is 2.", privileged="Count on your fingers.")
LONG = ExpertSolution(id="long", problem="1 + 1?", solution=("It is 2.", "Or so: " + "it is 2. " * 200))


@pytest.mark.parametrize("item", [TOLD, LONG], ids=["privileged", "dropped"])
def test_sdft_shows_what_the_privileged_student_was_shown(
    draw: Draw, item: ExpertSolution, weights: Any, tmp_path: Path
):
    shape = Shape(model_folder(tmp_path / "model", "demo"), None)
    root = draw(shape, items=[item], tokens=300, too_long="drop_later_solutions", prompt_tokens=250)
    (row,) = drawn(root)
    assert (item is LONG) == bool(row.dropped)
    export(root, "trl-sdft", tmp_path / "sdft")
    ((student, teacher),) = sdft_prompts(tmp_path / "sdft", shape, weights, tmp_path, chat=True)
    assert (student, teacher) == (list(row.student_prompt_ids), list(row.privileged_prompt_ids))


def test_sdft_shows_the_answer_where_that_was_all(draw: Draw, weights: Any, tmp_path: Path):
    shape = Shape(model_folder(tmp_path / "model", "demo"), None)
    item = ExpertSolution(id="sum", problem="2 + 3 + 4?", solution="2 + 3 = 5, 5 + 4 = 9.", answer="9")
    (row,) = drawn(root := draw(shape, items=[item], shown="answer"))
    assert row.privileged == "9" and row.waypoints
    export(root, "trl-sdft", tmp_path / "sdft")
    ((student, teacher),) = sdft_prompts(tmp_path / "sdft", shape, weights, tmp_path, chat=True)
    assert (student, teacher) == (list(row.student_prompt_ids), list(row.privileged_prompt_ids))


def test_prompts_of_another_day_come_back_as_texts(draw: Draw, weights: Any, tmp_path: Path):
    folder = model_folder(tmp_path / "model", "llama3")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(
        template.replace("{{- bos_token }}", "{{- bos_token + strftime_now('%d %b %Y') }}", 1)
    )
    shape = Shape(folder, None, "answer")
    root = draw(shape, date="2020-02-29")
    export(root, "trl-sdft", tmp_path / "sdft", model=folder)
    got = sdft_prompts(tmp_path / "sdft", shape, weights, tmp_path, chat=False)
    first = {row.item_id: (list(row.student_prompt_ids), list(row.privileged_prompt_ids)) for row in drawn(root)}
    assert sorted(got) == sorted(first.values())
    assert all("29 Feb 2020" in shape.tokenizer.decode(ids) for pair in got for ids in pair)


RENDERINGS: dict[str, tuple[dict[str, Any], str]] = {
    "an opening that is set": ({"opening": "<think>\n"}, BEGUN),
    "a template's own argument": ({"template_args": {"enable_thinking": False}}, SAME),
    "an empty thought that is left out": ({"thinking": False, "drop_empty_thought": True}, SAME),
}


@pytest.mark.parametrize("rendering", RENDERINGS)
def test_whatever_shaped_the_prompt_sft_has_it_and_messages_are_tried_for_it(
    draw: Draw, rendering: str, weights: Any, tmp_path: Path
):
    settings, verdict = RENDERINGS[rendering]
    shape = Shape(model_folder(tmp_path / "model", "demo"), settings.pop("thinking", None), "<think>")
    root = draw(shape, **settings)
    export(root, "trl-sft", tmp_path / "sft")
    got = sft(load(tmp_path / "sft", tmp_path), shape, weights, tmp_path)
    assert [one["input_ids"] for one in got] == [[*row.student_prompt_ids, *row.trace_ids] for row in drawn(root)]
    exported = export(root, "openai", tmp_path / "openai", model=shape.folder)
    assert exported.rebuilt == {verdict: 2}
    chats = load(tmp_path / "openai", tmp_path)["messages"]
    given = {"chat_template_kwargs": {"enable_thinking": False}} if "argument" in rendering else {}
    data = Dataset.from_list([{"prompt": chat[:-1], "completion": chat[-1:], **given} for chat in chats])
    for one, row in zip(sft(data, shape, weights, tmp_path), drawn(root), strict=True):
        whole = [*row.student_prompt_ids, *row.trace_ids]
        assert one["input_ids"][: len(whole)] == whole
        assert (one["labels"].count(-100) == len(row.student_prompt_ids)) == (verdict == SAME)


def sdft_prompts(folder: Path, shape: Shape, weights: Any, tmp_path: Path, chat: bool) -> list[tuple[list[int], ...]]:
    """The ids of the student's and of the teacher's prompt, as SDFTTrainer makes them."""
    from trl.experimental.sdft import SDFTConfig, SDFTTrainer

    data = load(folder, tmp_path)
    switch = {"enable_thinking": shape.thinking} if chat and shape.thinking is not None else None
    settings = SDFTConfig(
        output_dir=str(tmp_path / "trl"), max_prompt_length=None, chat_template_kwargs=switch, report_to=[],
        use_cpu=True, bf16=False,
    )  # fmt: skip
    settings.teacher_prompt_template = "{privileged_context}"
    trainer = SDFTTrainer(model=weights, args=settings, train_dataset=data, processing_class=shape.tokenizer)
    prompts = list(data["prompt"])
    teacher = trainer.teacher_context_builder.select_generation_prompts(prompts, list(data["privileged_context"]))
    return list(zip(trainer._tokenize_prompts(prompts), trainer._tokenize_prompts(teacher), strict=True))


def test_sdft_sees_what_student_and_privileged_student_saw(draw: Draw, shape: Shape, weights: Any, tmp_path: Path):
    root = draw(shape)
    exported = export(root, "trl-sdft", tmp_path / "sdft", model=shape.folder)
    assert exported.rebuilt == {SAME: 2}
    got = sdft_prompts(tmp_path / "sdft", shape, weights, tmp_path, chat=True)
    first = {row.item_id: (list(row.student_prompt_ids), list(row.privileged_prompt_ids)) for row in drawn(root)}
    assert sorted(got) == sorted(first.values())
