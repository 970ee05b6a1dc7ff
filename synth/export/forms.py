"""What another trainer reads, by its name: the columns, one row a trace or an expert solution, and how to load it.

trl-sft    TRL's SFTTrainer: token ids as they were drawn, the loss on the trace alone; exact for every template
trl-sdft   TRL's SDFTTrainer, self-distillation: the student's prompt, and what the privileged student sees
verl       verl's reinforcement learning: prompts and answers, no traces
openai     messages, for whatever fine-tunes on those
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from dail.synth.export.rebuild import PROMPT, SAME, Rebuilder
from dail.synth.method.prompts import fill, privileged_template, role_templates
from dail.synth.method.thoughts import THOUGHT_MARK
from dail.synth.schema.manifest import Manifest
from dail.synth.schema.shards import TraceRow

Record = dict[str, Any]
Switches = Mapping[str, Any]

_IGNORED = -100  # the label of a token that takes no part in the loss, for torch and all that is built on it


def _messages(*more: str) -> pa.DataType:
    return pa.list_(pa.struct([(name, pa.string()) for name in ("role", "content", *more)]))


_MESSAGES = _messages()
_WHOSE = [("item_id", pa.string()), ("sample_index", pa.int32())]


@dataclass(frozen=True)
class Given:
    """What a row is made from besides its trace. `number`: of the row, from 0."""

    manifest: Manifest
    rebuilder: Rebuilder | None
    number: int


@dataclass(frozen=True)
class Form:
    """One row of the data set from one trace; `per_item`: from the first trace of each expert solution.

    `load`: code or a command that trains on it, from the switches of the chat template. `unusable`: why a trace gives
    no row. `tried`: what becomes of its ids in the other trainer; none where the ids themselves are written. `instead`:
    another form, taken if more ids come back from it. `exact`: it is refused where not all come back.
    """

    about: str
    formats: tuple[str, ...]  # the first is the default
    schema: pa.Schema
    record: Callable[[TraceRow, Given], Record]
    load: Callable[[Switches], str]
    note: str
    per_item: bool = False
    unusable: Callable[[TraceRow], str | None] = lambda row: None
    tried: Callable[[Record, TraceRow, Rebuilder], str] | None = None
    instead: Form | None = None
    exact: bool = False


def _prompt(row: TraceRow) -> list[dict[str, str]]:
    return [message.model_dump() for message in row.prompt]


# --- TRL, supervised fine-tuning ----------------------------------------------------------------------------------


def _sft_record(row: TraceRow, given: Given) -> Record:
    """`labels` stands beside `completion_mask`: in a data set without `prompt` and `completion` SFTTrainer ignores the
    mask unless it is told otherwise, and would train on the problem too."""
    prompt, trace = row.student_prompt_ids, row.trace_ids
    return {
        "input_ids": [*prompt, *trace],
        "completion_mask": [0] * len(prompt) + [1] * len(trace),
        "labels": [_IGNORED] * len(prompt) + [*trace],
        "item_id": row.item_id,
        "sample_index": row.sample_index,
    }


def _sft_load(switches: Switches) -> str:
    return (
        'SFTTrainer(model=MODEL, train_dataset=load_dataset("THIS_FOLDER", split="train"),\n'
        "           args=SFTConfig(max_length=None))"
    )


# --- TRL, self-distillation ---------------------------------------------------------------------------------------


def _sdft_record(row: TraceRow, given: Given) -> Record:
    values = {
        "problem": row.problem,
        "kind": row.kind,
        "solution": row.solution if row.privileged is None else row.privileged,
        "answer": row.answer,
        "waypoints": [] if row.shown == "answer" else [*row.waypoints],
    }
    templates = role_templates(given.manifest.synthesis.prompts)
    seen = fill(templates[privileged_template(row.shown, row.shown_share)], values)
    return {"prompt": _prompt(row), "privileged_context": seen, "item_id": row.item_id}


def _sdft_tried(record: Record, row: TraceRow, rebuilder: Rebuilder) -> str:
    earlier = record["prompt"][:-1]
    privileged = [*earlier, {"role": "user", "content": record["privileged_context"]}]
    got = rebuilder.prompt(record["prompt"], row), rebuilder.prompt(privileged, row)
    return SAME if got == ([*row.student_prompt_ids], [*row.privileged_prompt_ids]) else PROMPT


def _sdft_load(switches: Switches) -> str:
    switch = f", chat_template_kwargs={dict(switches)!r}" if switches else ""
    return (
        f"args = SDFTConfig(max_prompt_length=None{switch})\n"
        'args.teacher_prompt_template = "{privileged_context}"  # SDFTConfig itself wants the prompt twice\n'
        'SDFTTrainer(model=MODEL, args=args, train_dataset=load_dataset("THIS_FOLDER", split="train"))'
    )


def _sdft_text_record(row: TraceRow, given: Given) -> Record:
    rebuilder = given.rebuilder
    assert rebuilder is not None, "texts are made where messages were tried"
    texts = {"prompt": row.student_prompt_ids, "privileged_context": row.privileged_prompt_ids}
    return {**{name: rebuilder.text(ids) for name, ids in texts.items()}, "item_id": row.item_id}


def _sdft_text_tried(record: Record, row: TraceRow, rebuilder: Rebuilder) -> str:
    return PROMPT if None in record.values() else SAME


_SDFT_NOTE = (
    "`privileged_context` is all that the privileged student sees, so the teacher's prompt is that alone; SDFTTrainer "
    "cuts prompts at 512 tokens unless it is given max_prompt_length=None, and samples its own completions, 256 tokens "
    "of them unless it is given max_completion_length."
)
_SDFT_TEXT = Form(
    "TRL's SDFTTrainer: prompt and privileged context, as rendered texts",
    ("parquet", "jsonl"),
    pa.schema([(name, pa.string()) for name in ("prompt", "privileged_context", "item_id")]),
    _sdft_text_record,
    lambda switches: _sdft_load({}),
    f"Prompts are rendered texts, since messages alone did not give their ids. {_SDFT_NOTE}",
    per_item=True,
    tried=_sdft_text_tried,
    exact=True,
)


# --- verl ---------------------------------------------------------------------------------------------------------


def _verl_record(row: TraceRow, given: Given) -> Record:
    return {
        "data_source": row.source or "dail",
        "prompt": _prompt(row),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": row.answer},
        "extra_info": {
            "index": given.number,
            "split": "train",
            "item_id": row.item_id,
            "problem": row.problem,
            "solution": row.solution,
            "waypoints": json.dumps(row.waypoints, ensure_ascii=False),
            "license": row.license,
        },
    }


def _verl_unusable(row: TraceRow) -> str | None:
    return None if row.answer is not None else "expert solutions without an answer, which no rule can reward"


def _verl_tried(record: Record, row: TraceRow, rebuilder: Rebuilder) -> str:
    return SAME if rebuilder.prompt(record["prompt"], row) == [*row.student_prompt_ids] else PROMPT


def _verl_load(switches: Switches) -> str:
    switch = "".join(f" +data.apply_chat_template_kwargs.{name}={value}" for name, value in switches.items())
    return f"python -m verl.trainer.main_ppo data.train_files=THIS_FOLDER/data/train.parquet{switch} …"


_VERL_INFO = [
    ("index", pa.int64()),
    *((name, pa.string()) for name in ("split", "item_id", "problem", "solution", "waypoints", "license")),
]


# --- messages -----------------------------------------------------------------------------------------------------


def _openai_record(row: TraceRow, given: Given) -> Record:
    chat = [*_prompt(row), *(message.model_dump() for message in row.completion)]
    return {"messages": chat, "item_id": row.item_id, "sample_index": row.sample_index}


def _openai_load(switches: Switches) -> str:
    return 'load_dataset("THIS_FOLDER", split="train")["messages"]'


def _openai_tried(record: Record, row: TraceRow, rebuilder: Rebuilder) -> str:
    return rebuilder.conversation(record["messages"], row)


def _split_record(row: TraceRow, given: Given) -> Record:
    """With the thought in a field of its own, which some templates read and others ignore."""
    record = _openai_record(row, given)
    said = record["messages"][-1]
    before, *thought = THOUGHT_MARK.split(said["content"])
    if len(thought) == 2 and not before.strip():
        said |= {"content": thought[1].lstrip("\n"), "reasoning_content": thought[0].strip("\n")}
    return record


_OPENAI_NOTE = (
    "A chat template may drop the thought of an assistant's message, and ends every turn, also one that was cut "
    "(`--finished` leaves those out); `--for trl-sft` holds the ids that were drawn."
)
_SPLIT = Form(
    "messages, one conversation a trace, the thought as `reasoning_content`",
    ("jsonl", "parquet"),
    pa.schema([("messages", _messages("reasoning_content")), *_WHOSE]),
    _split_record,
    _openai_load,
    f"The thought is a field of its own, since more ids come back that way. {_OPENAI_NOTE}",
    tried=_openai_tried,
)

FORMS = {
    "trl-sft": Form(
        "TRL's SFTTrainer: the token ids, exactly",
        ("parquet", "jsonl"),
        pa.schema(
            [
                ("input_ids", pa.list_(pa.int32())),
                ("completion_mask", pa.list_(pa.int8())),
                ("labels", pa.list_(pa.int32())),
                *_WHOSE,
            ]
        ),
        _sft_record,
        _sft_load,
        "SFTTrainer cuts rows at 1024 tokens unless it is given max_length=None.",
    ),
    "trl-sdft": Form(
        "TRL's SDFTTrainer: prompt and privileged context",
        ("parquet", "jsonl"),
        pa.schema([("prompt", _MESSAGES), ("privileged_context", pa.string()), ("item_id", pa.string())]),
        _sdft_record,
        _sdft_load,
        _SDFT_NOTE,
        per_item=True,
        tried=_sdft_tried,
        instead=_SDFT_TEXT,
        exact=True,
    ),
    "verl": Form(
        "verl: prompts and answers for reinforcement learning",
        ("parquet",),
        pa.schema(
            [
                ("data_source", pa.string()),
                ("prompt", _MESSAGES),
                ("ability", pa.string()),
                ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
                ("extra_info", pa.struct(_VERL_INFO)),
            ]
        ),
        _verl_record,
        _verl_load,
        "verl picks its reward function by `data_source`; for a source that it does not know, name one of your own.",
        per_item=True,
        unusable=_verl_unusable,
        tried=_verl_tried,
    ),
    "openai": Form(
        "messages, one conversation a trace",
        ("jsonl", "parquet"),
        pa.schema([("messages", _MESSAGES), *_WHOSE]),
        _openai_record,
        _openai_load,
        _OPENAI_NOTE,
        tried=_openai_tried,
        instead=_SPLIT,
    ),
}
