"""Models of many template shapes over the demo model's tokenizer, and batches of traces drawn under them.

The templates in `templates/` are ours, in the structure of public models' own: which marks they write, whether they
open a thought in the prompt, write an empty one, or drop the thought of an answer that is given to them.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from dail.synth.core.files import Objects
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.run.trace_rows import prepare, shard_of, trace_row
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Unit, unit_id
from tests.conftest import DEMO_MODEL

TEMPLATES = Path(__file__).parent / "templates"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

# The token that begins every text, the one that ends a turn, and other control tokens.
MARKS: dict[str, tuple[str | None, str, list[str]]] = {
    "demo": (None, "<|im_end|>", []),
    "qwen2_5": (None, "<|im_end|>", []),
    "qwen3": (None, "<|im_end|>", []),
    "qwen3_thinking": (None, "<|im_end|>", []),
    "r1": ("<|begin|>", "<|end|>", ["<|User|>", "<|Assistant|>"]),
    "v3_1": ("<|begin|>", "<|end|>", ["<|User|>", "<|Assistant|>"]),
    "llama3": ("<|begin|>", "<|eot|>", ["<|header|>", "<|/header|>"]),
    "mistral": ("<s>", "</s>", ["[INST]", "[/INST]", "[SYSTEM]", "[/SYSTEM]"]),
    "gemma": ("<bos>", "<end_of_turn>", ["<start_of_turn>"]),
    "own_field": (None, "<|im_end|>", []),
    "closes": (None, "<|end|>", ["<|user|>", "<|assistant|>"]),
    "command_r": ("<BOS>", "<|END|>", ["<|START|>", "<|CHATBOT|>", "<|USER|>"]),
}
ITEMS = (
    ExpertSolution(id="lock", problem="Turn A 12.", solution="It shows 7.", answer="7", source="locks", license="MIT"),
    ExpertSolution(id="sum", problem="1 + 1?\n\nBe exact.", solution="1 + 1 = 2. So it is 2."),
)


@dataclass(frozen=True)
class Shape:
    """A model folder: a template, the switch it is rendered with, and whether think marks are special tokens.

    `begins`: what the prompt has opened already. `kind`: how its traces look, `on`, `off` or `cut`.
    """

    folder: Path
    thinking: bool | None
    begins: str = ""

    @cached_property
    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.folder)

    def traces(self, cut: bool) -> list[tuple[str, str]]:
        """Texts as a model writes them after this prompt, and how each ended."""
        answer = "First 12.\n\nIt shows \\boxed{7}."
        if self.begins == "answer":
            whole = [answer]
        else:
            thought = "Turn A: 12 gives 7.\n\n- maybe\n- or not"
            opened = "" if self.begins == "<think>" else "<think>\n"
            whole = [f"{opened}{thought}\n</think>\n\n{answer}"]
            if cut:
                return [(f"{opened}{thought}", "length")]
        return [(text[: len(text) // 2] if cut else text, "length" if cut else "stop") for text in whole]


def model_folder(folder: Path, name: str, special_thought: bool = False) -> Path:
    """The demo model with another template, and its control tokens in the tokenizer."""
    begin, end, others = MARKS[name]
    shutil.copytree(DEMO_MODEL, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": [mark for mark in (begin, end, *others) if mark]})
    tokenizer.eos_token = end
    if begin:
        tokenizer.bos_token = begin
    if name != "demo":
        tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text().rstrip("\n")
    tokenizer.save_pretrained(folder)
    if special_thought:
        path = folder / "tokenizer.json"
        file = json.loads(path.read_text())
        for token in file["added_tokens"]:
            token["special"] |= token["content"] in ("<think>", "</think>")
        path.write_text(json.dumps(file))
        config = folder / "tokenizer_config.json"
        if "added_tokens_decoder" in (settings := json.loads(config.read_text())):
            del settings["added_tokens_decoder"]
            config.write_text(json.dumps(settings))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": tokenizer.convert_tokens_to_ids(end)}))
    return folder


Draw = Callable[..., Path]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """`draw(shape)`: an output root with a batch of its traces, one per item, as `dail synth` leaves it."""

    def made(
        shape: Shape, cut: bool = False, items: Sequence[ExpertSolution] = ITEMS, tokens: int = 2048, **synthesis: Any
    ) -> Path:
        prompts, identity = Prompts(shape.folder), identify(shape.folder)
        settings = Synthesis(thinking=shape.thinking, max_tokens=512, **synthesis)
        root, shards = tmp_path / "out", []
        for item in items:
            for sample, (text, reason) in enumerate(shape.traces(cut)):
                unit = Unit(
                    unit_id=unit_id(item, settings, identity, sample), batch_id="b", item_id=item.id or "",
                    sample=sample, epoch=1, item=item, synthesis=settings, model=identity,
                )  # fmt: skip
                ids = shape.tokenizer.encode(text, add_special_tokens=False)
                ids += [shape.tokenizer.eos_token_id] if reason == "stop" else []
                done = Rollout(unit.unit_id, Tokens.of(ids), reason, "lockstep")
                row = trace_row(prepare(unit, prompts, tokens), done, prompts, "fake")
                data, shard = shard_of(row)
                Objects(root).put(shard.key, data)
                shards.append(shard)
        manifest = build_manifest("b", 1, identity, settings, shards, NOW)
        Objects(root).put(manifest_key("b", 1), encode_manifest(manifest))
        return root

    return made
