"""An expert solution → the token ids of its three contexts (paper §2.1, §2.2, Figures 8 to 10).

The role templates put the problem into words; the model's own chat template turns them into token ids, once.
Those ids are what is decoded, stored and trained on: nothing is ever rendered or tokenised a second time.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from dail.synth.core.errors import ExtensionError, ItemError, UsageError
from dail.synth.method.suppressed import suppressed_ids
from dail.synth.method.thoughts import is_in_thought, is_of_mark, without_empty_thought
from dail.synth.method.turns import ends_of_turns, opening, turn_marks, unopened
from dail.synth.method.waypoints import waypoints_of
from dail.synth.schema.chat_templates import chat_template, names_read
from dail.synth.schema.items import ExpertSolution, Kind, Message
from dail.synth.schema.kinds import Resolved, resolve
from dail.synth.schema.models import ROLES, TEMPLATES
from dail.synth.schema.rendering import Rendering, has_thinking_switch
from dail.synth.schema.synthesis import PAPER, PROMPTS, Synthesis

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
# What a role's template may show: the student's nothing that only an expert's solution tells.
_SHOWN = {role: {"problem", "kind", "solution", "answer", "waypoints"} for role in ROLES}
_SHOWN["student"] = {"problem", "kind"}
_PROBE = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3 + 3?"},
]


@dataclass(frozen=True)
class Contexts:
    """One item's prompts. `waypoints` and `answer` are what the negative reference is shown."""

    student_ids: list[int]
    privileged_ids: list[int]
    negative_ids: list[int]
    student_messages: tuple[Message, ...]
    waypoints: list[str]
    kind: Kind
    answer: str | None

    @property
    def longest(self) -> tuple[str, int]:
        """The role with the longest prompt, and its tokens. The trainer reads a trace behind all three."""
        by_role = {"privileged": self.privileged_ids, "student": self.student_ids, "negative": self.negative_ids}
        return max(((role, len(ids)) for role, ids in by_role.items()), key=lambda one: one[1])


def role_messages(item: ExpertSolution, synthesis: Synthesis | None = None) -> dict[str, tuple[Message, ...]]:
    """The three conversations, by role: the item's last user message rendered through each role's template.

    The negative reference sees the answer of a verifiable problem, never of a proof (App. B.1).

    Args:
        synthesis: whose prompts and extractor are taken, and what a lone box is; the defaults if left out.

    Raises:
        ItemError: a template or an extractor that somebody brought along fails on this item.
        UsageError: it cannot be used at all.
    """
    asked = synthesis or Synthesis()
    return _conversations(item, asked, resolve(item, asked.lone_box), waypoints_of(item, asked))


def _conversations(
    item: ExpertSolution, asked: Synthesis, resolved: Resolved, waypoints: list[str]
) -> dict[str, tuple[Message, ...]]:
    values = {
        "problem": item.problem_text,
        "kind": resolved.kind,
        "solution": item.privileged or item.solution_text,
        "answer": _shown_answer(resolved),
        "waypoints": waypoints,
    }
    *earlier, last = item.messages
    templates = role_templates(asked.prompts)
    return {
        role: (*earlier, Message.model_construct(role=last.role, content=fill(templates[role], values)))
        for role in ROLES
    }


def _shown_answer(resolved: Resolved) -> str | None:
    return resolved.answer if resolved.kind == "verifiable" else None


@cache
def role_templates(prompts: str = PAPER) -> Mapping[str, jinja2.Template]:
    """By role, what a reference to prompts means: a folder of templates, or a mapping from role to template.

    A role that is left out keeps the paper's. A template may show `problem`, `kind` (verifiable or proof), and, but for
    the student's, `solution`, `answer` (or none) and `waypoints`, a list.

    Raises:
        ExtensionError: no such prompts; no template; one that shows something else.
    """
    brought = {} if prompts == PAPER else _texts(prompts)
    if unknown := sorted(brought.keys() - set(ROLES)):
        raise ExtensionError(f"prompts {prompts} have a template {unknown[0]!r}; the roles are {', '.join(ROLES)}")
    own = {role: (TEMPLATES / f"{role}.jinja").read_text("utf-8") for role in ROLES if role not in brought}
    return {role: _template(prompts, role, text) for role, text in {**own, **brought}.items()}


def _texts(prompts: str) -> dict[str, str]:
    meant = PROMPTS.load(prompts)
    if isinstance(meant, Path):
        try:
            return {file.stem: file.read_text("utf-8") for file in sorted(meant.glob(PROMPTS.files))}
        except UnicodeDecodeError as error:
            raise ExtensionError(f"prompts {prompts}: a template is not UTF-8: {error}") from None
    if isinstance(meant, Mapping) and all(isinstance(text, str) for text in meant.values()):
        return dict(meant)
    raise ExtensionError(f"prompts {prompts} are a {type(meant).__name__}; wanted a mapping from role to template")


def _template(prompts: str, role: str, text: str) -> jinja2.Template:
    try:
        unknown = jinja2.meta.find_undeclared_variables(_JINJA.parse(text)) - _SHOWN[role]
    except jinja2.TemplateError as error:
        raise ExtensionError(f"prompts {prompts}: the template of {role} is no Jinja template: {error}") from None
    if unknown:
        raise ExtensionError(
            f"prompts {prompts}: the template of {role} shows {', '.join(sorted(unknown))}; it may show "
            f"{', '.join(sorted(_SHOWN[role]))}"
        )
    return _JINJA.from_string(text)


def fill(template: jinja2.Template, values: Mapping[str, object]) -> str:
    """Fills a role's template. Raises ItemError: it failed on these values."""
    try:
        return template.render(values)
    except Exception as error:  # a template is a program: whatever it raises concerns this item alone
        raise ItemError("template_failed", f"a role's template failed: {type(error).__name__}: {error}") from error


def load_tokenizer(model: Path) -> Any:
    """transformers' own, of a model folder; code that lies in the folder is never run.

    Raises:
        UsageError: the folder has no tokenizer, or one that needs code of its own.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises Exception itself
        if "trust_remote_code" in str(error):
            raise UsageError(
                f"the tokenizer in {model} brings code of its own (auto_map in its tokenizer_config.json), which is "
                "never run; wanted a tokenizer that transformers has; save the folder's as a tokenizer.json"
            ) from None
        raise UsageError(f"the tokenizer in {model} cannot be loaded: {error}; restore its files") from None


class Prompts:
    """Renders and tokenises for one model folder. Loads the tokenizer, no weights.

    Raises:
        UsageError: no tokenizer or no chat template in the folder.
    """

    def __init__(self, model: Path) -> None:
        self.tokenizer = load_tokenizer(model)
        self.template_reads = names_read(_template_of(self.tokenizer, model))
        self._special = _special_tokens(self.tokenizer)
        self._unread = _unread_ids(self.tokenizer)
        self.ends = ends_of_turns(model, self.tokenizer)
        self.stop_ids = frozenset(self.ends)
        self._turn_marks = turn_marks(self.tokenizer) | self.stop_ids
        self._unopened = unopened(
            lambda messages, begins: str(
                self.tokenizer.apply_chat_template(messages, add_generation_prompt=begins, tokenize=False)
            )
        )

    @property
    def has_thinking_switch(self) -> bool:
        return has_thinking_switch(self.template_reads)

    def contexts(self, item: ExpertSolution, synthesis: Synthesis | None = None) -> Contexts:
        """Token ids of the three contexts, each ending where the model is to start writing.

        Raises:
            ItemError: the tokenizer or the chat template failed on this item, or a text of it spells a special token.
            UsageError: the chat template does not read what the settings set; prompts or extractor cannot be used.
        """
        asked = synthesis or Synthesis()
        resolved, waypoints = resolve(item, asked.lone_box), waypoints_of(item, asked)
        by_role = _conversations(item, asked, resolved, waypoints)
        ids = {role: self.render(messages, asked) for role, messages in by_role.items()}
        return Contexts(
            student_ids=ids["student"],
            privileged_ids=ids["privileged_student"],
            negative_ids=ids["negative_reference"],
            student_messages=by_role["student"],
            waypoints=waypoints,
            kind=resolved.kind,
            answer=_shown_answer(resolved),
        )

    def student_ids(self, problem: str, rendering: Rendering | None = None, prompts: str = PAPER) -> list[int]:
        """The student's context of a bare problem with a checkable answer, as in evaluation."""
        content = fill(role_templates(prompts)["student"], {"problem": problem, "kind": "verifiable"})
        return self.render((Message.model_construct(role="user", content=content),), rendering)

    def render(self, messages: tuple[Message, ...], rendering: Rendering | None = None) -> list[int]:
        """Raises ItemError, UsageError as `contexts` does."""
        for message in messages:
            if found := self._special.search(message.content):
                raise ItemError(
                    "special_token_in_text",
                    f"a {message.role} message holds {found.group()!r}, which this model's tokenizer reads as a "
                    "control token, so that the text would break out of its turn; remove it or spell it differently",
                )
        self._check_opened(rendering or Rendering())
        text = self._text([message.model_dump() for message in messages], rendering or Rendering())
        if messages[-1].content.strip() not in text:
            raise ItemError(
                "template_drops_text",
                "the chat template leaves out or changes the last message, so that the model would not see the problem "
                "as it stands: it may want parts, as models with pictures do; give the model a template for text",
            )
        return [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]

    def _check_opened(self, rendering: Rendering) -> None:
        if rendering.opening or not (missing := self._unopened):
            return
        raise UsageError(
            f"the chat template does not open the assistant's turn: it writes {missing!r} in front of an answer, and "
            "not at the end of a prompt, since it does not read add_generation_prompt; mend it, or set opening to that "
            "text"
        )

    def _text(self, conversation: list[dict[str, str]], rendering: Rendering) -> str:
        arguments = rendering.arguments(self.template_reads)
        try:
            text = str(
                self.tokenizer.apply_chat_template(
                    conversation, add_generation_prompt=True, tokenize=False, **arguments
                )
            )
        except Exception as error:  # a template is a program: whatever it raises concerns this item alone
            raise ItemError("tokenizer_failed", f"the chat template failed: {type(error).__name__}: {error}") from error
        return (without_empty_thought(text) if rendering.drop_empty_thought else text) + rendering.opening

    def _closed(self, conversation: list[dict[str, str]], rendering: Rendering) -> str:
        arguments = rendering.arguments(self.template_reads)
        return str(self.tokenizer.apply_chat_template(conversation, tokenize=False, **arguments))

    def probe(self, rendering: Rendering | None = None) -> str:
        """A fixed conversation as a prompt. Two programs that render it alike agree about what shapes a prompt."""
        try:
            return self._text(_PROBE, rendering or Rendering())
        except ItemError:  # it may know no assistant, or one message only
            return self._text(_PROBE[-1:], rendering or Rendering())

    def prints_date(self, rendering: Rendering | None = None) -> bool:
        """Whether prompts of another day would be other prompts, tried on two of them."""
        days = (dt.date(2001, 2, 3), dt.date(2012, 11, 30))
        first, second = (self.probe((rendering or Rendering()).model_copy(update={"date": day})) for day in days)
        return first != second

    def is_in_thought(self, rendering: Rendering | None = None) -> bool:
        """Whether a prompt ends inside a thought, so that a model's reply begins with the rest of it."""
        return is_in_thought(self.probe(rendering).rpartition(_PROBE[-1]["content"])[2])

    def solution_ids(self, item: ExpertSolution) -> list[int]:
        """The expert solution as a trace: its text, and the token by which the chat template ends a turn."""
        ids = [int(token) for token in self.tokenizer.encode(item.solution_text, add_special_tokens=False)]
        places = ("template", "tokenizer", "generation config")  # the surest first
        return [*ids, next(token for place in places for token, named in self.ends.items() if place in named)]

    def suppressed_ids(self, synthesis: Synthesis) -> frozenset[int]:
        """What `synthesis.suppress` means in this model; nothing for a trace that nobody draws.

        Raises:
            UsageError: it names what is not one token of the model's, or one that ends a turn.
        """
        wanted = () if synthesis.method == "expert" else synthesis.suppress
        return suppressed_ids(self.tokenizer, wanted, self.stop_ids)

    def stray_mark(self, trace_ids: list[int]) -> str | None:
        """A token inside a trace that begins or ends a turn, as text; none if the trace is one turn."""
        inside = trace_ids[:-1] if trace_ids and trace_ids[-1] in self.stop_ids else trace_ids
        stray = next((token for token in inside if token in self._turn_marks), None)
        return None if stray is None else self.spelled(stray)

    def spelled(self, token: int) -> str:
        return str(self.tokenizer.decode([token], skip_special_tokens=False))

    def completion(self, trace_ids: list[int], rendering: Rendering | None = None) -> str:
        """The assistant's message as other trainers read it: whole, with its thought and the marks around it.

        What the prompt has begun of the turn (a template that opens the thought itself) stands in front; of the tokens
        that are special only the one that ends the turn is left out, since a template writes it.
        """
        asked = rendering or Rendering()
        inside = trace_ids[:-1] if trace_ids and trace_ids[-1] in self.stop_ids else trace_ids
        begun = opening(lambda messages, begins: (self._text if begins else self._closed)(messages, asked))
        return begun + str(self.tokenizer.decode(inside, skip_special_tokens=False))

    def text(self, token_ids: list[int]) -> str:
        """What people and graders read of a trace: without special tokens, but for those that tell a thought from what
        is said. Never tokenised again."""
        return str(
            self.tokenizer.decode(
                [token for token in token_ids if token not in self._unread], skip_special_tokens=False
            )
        )


def _template_of(tokenizer: Any, model: Path) -> str:
    """As transformers choose it, which is what will be rendered. Raises UsageError: it finds none."""
    try:
        return str(tokenizer.get_chat_template())
    except ValueError:  # transformers reads chat_template.json for models with pictures only
        tokenizer.chat_template = chat_template(model)  # which says what is missing
        return str(tokenizer.chat_template)


def _unread_ids(tokenizer: Any) -> set[int]:
    """Of the special tokens, all but the marks of thoughts."""
    added = tokenizer.added_tokens_decoder.items()
    special = {int(token) for token, one in added if one.special} | {int(token) for token in tokenizer.all_special_ids}
    return special - {int(token) for token, one in added if is_of_mark(one.content.strip())}


def _special_tokens(tokenizer: Any) -> re.Pattern[str]:
    """Finds what the tokenizer would read as a control token; `<think>` and its like are no such tokens."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    spellings = sorted({*added, *tokenizer.all_special_tokens}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, spellings)) or r"(?!)")
