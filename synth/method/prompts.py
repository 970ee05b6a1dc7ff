"""An expert solution → the token ids of its three contexts (paper §2.1, §2.2, Figures 8 to 10).

The role templates put the problem into words; the model's own chat template turns them into token ids, once.
Those ids are what is decoded, stored and trained on: nothing is ever rendered or tokenised a second time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from dail.synth.core.errors import ItemError, UsageError
from dail.synth.method.waypoints import final_answer, waypoints
from dail.synth.schema.items import ExpertSolution, Message
from dail.synth.schema.models import ROLES, TEMPLATES, chat_template

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)


@dataclass(frozen=True)
class Contexts:
    """One item's prompts. `waypoints` and `answer` are what the negative reference is shown."""

    student_ids: list[int]
    privileged_ids: list[int]
    negative_ids: list[int]
    student_messages: tuple[Message, ...]
    waypoints: list[str]
    answer: str | None


def role_messages(item: ExpertSolution) -> dict[str, tuple[Message, ...]]:
    """The three conversations, by role: the item's last user message rendered through each role's template.

    The negative reference sees the answer of a verifiable problem, never of a proof (App. B.1).
    """
    values = {
        "problem": item.problem_text,
        "kind": item.resolved_kind,
        "solution": item.solution_text,
        "answer": shown_answer(item),
        "waypoints": shown_waypoints(item),
    }
    *earlier, last = item.messages
    return {
        role: (*earlier, Message.model_construct(role=last.role, content=_template(role).render(values)))
        for role in ROLES
    }


def shown_answer(item: ExpertSolution) -> str | None:
    """The item's answer, else the last \\boxed{} of its solution; none for proofs."""
    return (item.answer or final_answer(item.solution_text)) if item.resolved_kind == "verifiable" else None


def shown_waypoints(item: ExpertSolution) -> list[str]:
    """The waypoints of the item's solution, without its answer."""
    solution = item.solution_text
    return waypoints(solution, item.resolved_kind, item.answer or final_answer(solution))


@cache
def _template(role: str) -> jinja2.Template:
    return _JINJA.from_string((TEMPLATES / f"{role}.jinja").read_text("utf-8"))


class Prompts:
    """Renders and tokenises for one model folder. Loads the tokenizer, no weights.

    Raises:
        UsageError: no tokenizer or no chat template in the folder.
    """

    def __init__(self, model: Path) -> None:
        from transformers import AutoTokenizer

        self.has_thinking_switch = "enable_thinking" in chat_template(model)
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
        except Exception as error:  # the tokenizers library raises Exception itself
            raise UsageError(f"the tokenizer in {model} cannot be loaded: {error}; restore its files") from None
        self._special = _special_tokens(self.tokenizer)
        self.stop_ids = frozenset(_stop_ids(model, self.tokenizer))

    def contexts(self, item: ExpertSolution, thinking: bool | None) -> Contexts:
        """Token ids of the three contexts, each ending where the model is to start writing.

        Raises:
            ItemError: the tokenizer or the chat template failed on this item, or a text of it spells a special token.
            UsageError: `thinking` is set and the chat template has no such switch.
        """
        by_role = role_messages(item)
        ids = {role: self.render(messages, thinking) for role, messages in by_role.items()}
        return Contexts(
            student_ids=ids["student"],
            privileged_ids=ids["privileged_student"],
            negative_ids=ids["negative_reference"],
            student_messages=by_role["student"],
            waypoints=shown_waypoints(item),
            answer=shown_answer(item),
        )

    def student_ids(self, problem: str, thinking: bool | None) -> list[int]:
        """The student's context of a bare problem with a checkable answer, as in evaluation."""
        content = _template("student").render(problem=problem, kind="verifiable")
        return self.render((Message.model_construct(role="user", content=content),), thinking)

    def render(self, messages: tuple[Message, ...], thinking: bool | None) -> list[int]:
        if thinking is not None and not self.has_thinking_switch:
            raise UsageError(
                f"thinking={thinking} is set, but this model's chat template has no enable_thinking switch"
            )
        for message in messages:
            if found := self._special.search(message.content):
                raise ItemError(
                    "special_token_in_text",
                    f"a {message.role} message holds {found.group()!r}, which this model's tokenizer reads as a "
                    "control token, so that the text would break out of its turn; remove it or spell it differently",
                )
        switch = {} if thinking is None else {"enable_thinking": thinking}
        try:
            ids = self.tokenizer.apply_chat_template(
                [message.model_dump() for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **switch,
            )
        except Exception as error:  # a template is a program: whatever it raises concerns this item alone
            raise ItemError("tokenizer_failed", f"the chat template failed: {type(error).__name__}: {error}") from error
        return [int(token) for token in ids]

    def solution_ids(self, item: ExpertSolution) -> list[int]:
        """The expert solution as a trace: its text, and the token that ends a turn."""
        ids = [int(token) for token in self.tokenizer.encode(item.solution_text, add_special_tokens=False)]
        own = self.tokenizer.eos_token_id
        return [*ids, own if own in self.stop_ids else min(self.stop_ids)]

    def text(self, token_ids: list[int]) -> str:
        """What people read of a trace: special tokens left out. Never tokenised again."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=True))


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds what the tokenizer would read as a control token; `<think>` and its like are no such tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    spellings = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spellings)) or r"(?!)")


def _stop_ids(model: Path, tokenizer: Any) -> set[int]:
    """The ids that end a turn: the generation config's eos ids, else the tokenizer's own."""
    from transformers import GenerationConfig

    if (model / "generation_config.json").is_file():
        ids = GenerationConfig.from_pretrained(model).eos_token_id
        if ids is not None:
            return set(ids) if isinstance(ids, list) else {ids}
    if tokenizer.eos_token_id is None:
        raise UsageError(f"{model} names no end-of-sequence token; set eos_token_id in generation_config.json")
    return {int(tokenizer.eos_token_id)}
