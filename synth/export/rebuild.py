"""Does a text form give back the token ids that were drawn? Rendered and tokenised as the other trainer does it.

Traces are ids. A form that goes through text comes back through a chat template, which may drop a thought, end a turn
that was cut, or put a default system message in front; each row is tried, and what does not come back is counted.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dail.synth.method.prompts import load_tokenizer
from dail.synth.method.thoughts import THOUGHT_MARK
from dail.synth.schema.chat_templates import names_read
from dail.synth.schema.rendering import Rendering
from dail.synth.schema.shards import TraceRow

SAME = "the same ids"
PROMPT = "the prompt has other ids"
CUT = "a trace that was cut gets an end of turn that was never written"
THOUGHT = "the thought is lost"
MORE = "the template writes more behind the turn than white space"
BEGUN = "the same ids, but the loss falls on what the prompt has begun of the answer too"
OTHER = "the answer has other ids"

Chat = Sequence[Mapping[str, Any]]


def switches(row: TraceRow, names: tuple[str, ...]) -> dict[str, Any]:
    """What the chat template was given besides the messages, and another trainer can give it too.

    Args:
        names: that the template reads.
    """
    return Rendering(thinking=row.thinking, template_args=json.loads(row.template_args)).arguments(names)


class Rebuilder:
    """The tokenizer and chat template of a model folder; no weights are needed.

    Raises:
        UsageError: the folder has no tokenizer.
    """

    def __init__(self, model: Path) -> None:
        self._tokenizer = load_tokenizer(model)
        self._names = names_read(str(self._tokenizer.get_chat_template()))

    def prompt(self, messages: Chat, row: TraceRow) -> list[int] | None:
        """The ids of messages that end where the assistant begins; none if the template fails on them."""
        return self._chat(messages, row, begins=True)

    def text(self, ids: Sequence[int]) -> str | None:
        """A text that this tokenizer turns into exactly these ids, its own first token put in front again; or none."""
        whole = str(self._tokenizer.decode(list(ids), skip_special_tokens=False))
        begin = self._tokenizer.bos_token or ""
        candidates = (whole, whole.removeprefix(begin), whole.removeprefix(begin).removeprefix(" "))
        return next((text for text in candidates if self._tokenizer(text=text)["input_ids"] == list(ids)), None)

    def conversation(self, messages: Chat, row: TraceRow) -> str:
        """What becomes of a trace in messages that end with the assistant's: `SAME` or why not.

        White space that a template writes after the end of the turn is no part of the trace and does not count.
        """
        prompt, whole = [*row.student_prompt_ids], [*row.student_prompt_ids, *row.trace_ids]
        asked, got = self.prompt(messages[:-1], row) or [], self._chat(messages, row, begins=False) or []
        if got[: len(whole)] == whole:
            behind = str(self._tokenizer.decode(got[len(whole) :], skip_special_tokens=False))
            if row.truncated or behind.strip():
                return CUT if row.truncated else MORE
            # as TRL and others have it, the loss begins where the conversation leaves the prompt
            begins = next((n for n, pair in enumerate(zip(asked, got, strict=False)) if len({*pair}) > 1), len(asked))
            return SAME if begins == len(prompt) else BEGUN
        if asked != prompt:
            return PROMPT
        return THOUGHT if self._lacks_thought(got, row) else OTHER

    def _lacks_thought(self, got: list[int], row: TraceRow) -> bool:
        *thoughts, _ = THOUGHT_MARK.split(row.completion[-1].content)
        lines = [line for text in thoughts for line in text.splitlines()]
        rendered = str(self._tokenizer.decode(got, skip_special_tokens=False))
        return any(line not in rendered for line in lines)

    def _chat(self, messages: Chat, row: TraceRow, begins: bool) -> list[int] | None:
        if row.date is not None:  # another trainer's prompts have the date of its own day
            return None
        try:
            ids = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=begins,
                tokenize=True,
                return_dict=False,
                **switches(row, self._names),
            )
        except Exception:  # a template is a program, and may refuse a conversation
            return None
        return [int(token) for token in ids]


def summary(found: Counter[str]) -> str:
    """`6 of 8 rows give the same ids; 2: the thought is lost`."""
    rest = "".join(f"; {count}: {why}" for why, count in found.most_common() if why != SAME)
    return f"{found[SAME]} of {found.total()} rows give {SAME}{rest}"
