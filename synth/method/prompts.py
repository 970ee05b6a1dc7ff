"""An expert solution → the token ids of its three contexts (paper §2.1, §2.2, Figures 8 to 10).

The role templates put the problem into words; the model's own chat template turns them into token ids, once.
Those ids are what is decoded, stored and trained on: nothing is ever rendered or tokenised a second time.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta

from dail.synth.core.errors import ExtensionError, ItemError, UsageError
from dail.synth.method.dealing import shown_answer
from dail.synth.method.exposure import beginning
from dail.synth.method.suppressed import suppressed_ids
from dail.synth.method.thoughts import (
    MARKS,
    closing_mark,
    has_empty_thought,
    is_in_thought,
    is_of_mark,
    without_empty_thought,
)
from dail.synth.method.turns import between_thought_and_answer, ends_of_turns, opening, turn_marks, unopened
from dail.synth.method.waypoints import waypoints_of
from dail.synth.schema.chat_templates import chat_template, names_read
from dail.synth.schema.items import ExpertSolution, Kind, Message
from dail.synth.schema.kinds import resolve
from dail.synth.schema.models import ROLES, TEMPLATES
from dail.synth.schema.rendering import Rendering, has_thinking_switch
from dail.synth.schema.synthesis import PAPER, PROMPTS, Synthesis

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)
# What a role's template may show: the student's nothing that only an expert's solution tells.
_EVERYTHING = frozenset({"problem", "kind", "solution", "answer", "waypoints"})
_SHOWN = {"student": frozenset({"problem", "kind"})}
# What a further context, and a privileged student that is shown a part or the answer alone, is rendered by where no
# folder brings a template of that name: one of ours, or that of a role, filled with other values.
BEGINNING, ANSWER_ONLY = "privileged_beginning", "answer_only"
_RENDERED_BY = {
    BEGINNING: BEGINNING,
    "reference_only": "reference_only",
    "waypoints": "negative_reference",
    ANSWER_ONLY: "negative_reference",
    "wrong_hint": "negative_reference",
    "other_solution": "privileged_student",
}
_PROBE = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "It is 4."},
    {"role": "user", "content": "And 3 + 3?"},
]


@dataclass(frozen=True)
class Told:
    """What of an item is put into its prompts.

    Args:
        waypoints: what the negative reference is told, and `answer` beside them.
        privileged: what the privileged student is shown, which is `share` of the whole; none: the student's prompt.
    """

    kind: Kind
    waypoints: list[str]
    answer: str | None
    privileged: str | None
    share: float


@dataclass(frozen=True)
class Contexts:
    """One item's prompts, of the three roles and `further` ones by name, and what was `told` in them."""

    student_ids: list[int]
    privileged_ids: list[int]
    negative_ids: list[int]
    further: dict[str, list[int]]
    student_messages: tuple[Message, ...]
    told: Told

    @property
    def ids(self) -> dict[str, list[int]]:
        """By role, and by the name of a further context."""
        roles = {"privileged": self.privileged_ids, "student": self.student_ids, "negative": self.negative_ids}
        return {**roles, **self.further}

    @property
    def longest(self) -> tuple[str, int]:
        """The context with the longest prompt, and its tokens. The trainer reads a trace behind all of them."""
        return max(((name, len(ids)) for name, ids in self.ids.items()), key=lambda one: one[1])


def role_messages(item: ExpertSolution, synthesis: Synthesis | None = None) -> dict[str, tuple[Message, ...]]:
    """The three conversations, by role, and those of `synthesis.contexts` by their names: the item's last user message
    rendered through each one's template.

    The negative reference sees the answer of a verifiable problem, never of a proof (App. B.1), unless that is set.

    Args:
        item: with what it is dealt, if the settings take something of another's (`dail.synth.method.dealing`).
        synthesis: whose prompts and extractor are taken, and what a lone box is; the defaults if left out.

    Raises:
        ItemError: a template or an extractor that somebody brought along fails on this item, or nothing was dealt.
        UsageError: it cannot be used at all.
    """
    asked = synthesis or Synthesis()
    return _conversations(item, asked, told_of(item, asked))


def told_of(item: ExpertSolution, asked: Synthesis) -> Told:
    """What the settings make of an item. Raises ItemError as `role_messages` does."""
    answer, whole = shown_answer(item, asked), _privileged_text(item, asked)
    shown = None if whole is None else beginning(whole, asked.exposure)
    source = _other(item) if asked.waypoints_from == "other" else item
    return Told(
        kind=resolve(item, asked.lone_box).kind,
        waypoints=waypoints_of(source, asked),
        answer=answer,
        privileged=shown,
        share=len(shown) / len(whole) if whole and shown else 0.0,
    )


def _privileged_text(item: ExpertSolution, asked: Synthesis) -> str | None:
    if asked.shown == "nothing":
        return None
    if asked.shown == "answer":
        return _answer(item, asked)
    return _other(item).shown_text if asked.shown == "other_solution" else item.shown_text


def _answer(item: ExpertSolution, asked: Synthesis) -> str:
    answer = shown_answer(item, asked)
    if answer is None:
        raise ItemError(
            "no_answer", "the settings show the privileged student the answer, and this item has none to be shown"
        )
    return answer


def _other(item: ExpertSolution) -> ExpertSolution:
    if item.dealt is None:
        raise ItemError(
            "nothing_dealt",
            "the settings show another problem's solution or waypoints, and none was dealt to this item; it is by "
            "`dail synth` and the API, or bring dealt",
        )
    return item.dealt


def _conversations(item: ExpertSolution, asked: Synthesis, told: Told) -> dict[str, tuple[Message, ...]]:
    values = {
        "problem": item.problem_text,
        "kind": told.kind,
        "solution": item.shown_text,
        "answer": told.answer,
        "waypoints": told.waypoints,
    }
    *earlier, last = item.messages
    templates = role_templates(asked.prompts)

    def said(name: str, **others: object) -> tuple[Message, ...]:
        content = fill(templates[name], {**values, **others})
        # a system message is how the model is spoken to; what else was said is of the problem
        before = [one for one in earlier if one.role == "system"] if name == "reference_only" else earlier
        return (*before, Message.model_construct(role=last.role, content=content))

    privileged: dict[str, object] = {"solution": told.privileged}
    if asked.shown == "answer":
        privileged["waypoints"] = []
    conversations = {
        "student": said("student"),
        "privileged_student": said(privileged_template(asked.shown, told.share), **privileged),
        "negative_reference": said("negative_reference"),
    }
    others: dict[str, dict[str, object]] = {ANSWER_ONLY: {"waypoints": []}}
    if "wrong_hint" in asked.contexts:
        others["wrong_hint"] = {"waypoints": [], "answer": _wrong_answer(item)}
    if "other_solution" in asked.contexts:
        others["other_solution"] = {"solution": _other(item).shown_text}
    return conversations | {name: said(name, **others.get(name, {})) for name in asked.contexts}


def privileged_template(shown: str, share: float) -> str:
    """Which template the privileged student's prompt is made by: of what it is shown, and how much of that."""
    if shown == "nothing":
        return "student"
    if shown == "answer":
        return ANSWER_ONLY
    return "privileged_student" if share == 1 else BEGINNING


def _wrong_answer(item: ExpertSolution) -> str:
    if item.wrong_answer is None:
        raise ItemError(
            "nothing_dealt",
            "the context wrong_hint has no wrong answer of this item; one is dealt by `dail synth` and the API, or "
            "bring wrong_answer",
        )
    return item.wrong_answer


@cache
def role_templates(prompts: str = PAPER) -> Mapping[str, jinja2.Template]:
    """By role, and by the names of further contexts, what a reference to prompts means: a folder of templates, or a
    mapping from those names to templates.

    A role that is left out keeps the paper's. Without one of its own, a further context is rendered by ours or by a
    role's: `privileged_beginning`, the privileged student's where it is shown a part, by its own template where there
    is one. A template may show `problem`, `kind` (verifiable or proof), and, but for the student's, `solution`,
    `answer` (or none) and `waypoints`, a list; `answer` of wrong_hint is wrong, `solution` of other_solution another's.

    Raises:
        ExtensionError: no such prompts; no template; one that shows something else.
    """
    brought = {} if prompts == PAPER else _texts(prompts)
    if unknown := sorted(brought.keys() - {*ROLES, *_RENDERED_BY}):
        raise ExtensionError(
            f"prompts {prompts} have a template {unknown[0]!r}; the roles are {', '.join(ROLES)}, and further contexts "
            f"{', '.join(_RENDERED_BY)}"
        )
    made = {role: _template(prompts, role, brought[role] if role in brought else _ours(role)) for role in ROLES}
    for name, source in _RENDERED_BY.items():
        if name == BEGINNING and "privileged_student" in brought:
            source = "privileged_student"
        if name not in brought and source in ROLES:
            made[name] = made[source]
        else:
            made[name] = _template(prompts, name, brought[name] if name in brought else _ours(source))
    return made


def _ours(name: str) -> str:
    return (TEMPLATES / f"{name}.jinja").read_text("utf-8")


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
        may_show = _SHOWN.get(role, _EVERYTHING)
        unknown = jinja2.meta.find_undeclared_variables(_JINJA.parse(text)) - may_show
    except jinja2.TemplateError as error:
        raise ExtensionError(f"prompts {prompts}: the template of {role} is no Jinja template: {error}") from None
    if unknown:
        raise ExtensionError(
            f"prompts {prompts}: the template of {role} shows {', '.join(sorted(unknown))}; it may show "
            f"{', '.join(sorted(may_show))}"
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


def decoder(model: Path) -> Callable[[Sequence[int]], str]:
    """The decode of a model folder's tokenizer, which is loaded when it is first needed. Nothing is left out."""

    @cache
    def tokenizer() -> Any:
        return load_tokenizer(model)

    return lambda ids: str(tokenizer().decode(list(ids), skip_special_tokens=False))


@dataclass(frozen=True)
class Closing:
    """How a model's thoughts end: the mark, which may be one `token`, and the ids by which somebody else ends one."""

    mark: str
    token: int | None
    ids: tuple[int, ...]


class Prompts:
    """Renders and tokenises for one model folder. Loads the tokenizer, no weights.

    Raises:
        UsageError: no tokenizer or no chat template in the folder.
    """

    def __init__(self, model: Path) -> None:
        self.tokenizer = load_tokenizer(model)
        self.template_reads = names_read(_template_of(self.tokenizer, model))
        self._special = _special_tokens(self.tokenizer)
        self._added = {str(one.content).strip() for one in self.tokenizer.added_tokens_decoder.values()}
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
        """Token ids of the three contexts and of further ones, each ending where the model is to start writing.

        Raises:
            ItemError: the tokenizer or the chat template failed on this item, a text of it spells a special token, or
                nothing was dealt to it.
            UsageError: the chat template does not read what the settings set; prompts or extractor cannot be used.
        """
        asked = synthesis or Synthesis()
        told = told_of(item, asked)
        by_name = _conversations(item, asked, told)
        ids = {name: self.render(messages, asked) for name, messages in by_name.items()}
        return Contexts(
            student_ids=ids["student"],
            privileged_ids=ids["privileged_student"],
            negative_ids=ids["negative_reference"],
            further={name: ids[name] for name in asked.contexts},
            student_messages=by_name["student"],
            told=told,
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

    def closing(self, rendering: Rendering | None = None) -> Closing:
        """How thoughts of this model end.

        Raises:
            UsageError: nothing says how, or these prompts say that there is to be no thought.
        """
        prompt = self.probe(rendering).rpartition(_PROBE[-1]["content"])[2]
        if has_empty_thought(prompt):
            raise UsageError(
                f"prompts of this model end with an empty thought, {prompt.strip()!r:.200}, so that there is none to "
                "end; set thinking=true, or drop_empty_thought=true with an opening"
            )
        mark = closing_mark(prompt, str(self.tokenizer.chat_template), self._added)
        if mark is None:
            known = ", ".join(closed for _, closed in MARKS)
            raise UsageError(
                f"nothing says how this model ends a thought: looked for {known}, and tags such as </thinking>, in how "
                f"a prompt ends ({prompt!r:.200}), in the chat template and among the tokenizer's added tokens"
            )
        # some models end a message in front of the mark and begin another
        before, found, _ = between_thought_and_answer(self.tokenizer).partition(mark)
        alone = self._ids_of(mark)
        ids = self._ids_of((before + found).strip() if found else mark)
        return Closing(mark, alone[0] if len(alone) == 1 else None, tuple(ids))

    def appended_ids(self, text: str) -> list[int]:
        """A text that is put behind what a model wrote, as ids of its own: what was written is never tokenised again.

        Raises:
            UsageError: it spells a control token, or the tokenizer does not give it back.
        """
        if found := self._special.search(text):
            raise UsageError(
                f"{text!r:.200} holds {found.group()!r}, which this model's tokenizer reads as a control token; leave "
                "it out"
            )
        return self._ids_of(text)

    def _ids_of(self, text: str) -> list[int]:
        ids = [int(token) for token in self.tokenizer.encode(text, add_special_tokens=False)]
        back = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        if back.strip() != text.strip():
            raise UsageError(
                f"this model's tokenizer makes {back!r:.200} of {text!r:.200}; give a text that it can spell"
            )
        return ids

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
        return self.decode([token])

    def completion(self, trace_ids: list[int], rendering: Rendering | None = None) -> str:
        """The assistant's message as other trainers read it: whole, with its thought and the marks around it.

        What the prompt has begun of the turn (a template that opens the thought itself) stands in front; of the tokens
        that are special only the one that ends the turn is left out, since a template writes it.
        """
        asked = rendering or Rendering()
        inside = trace_ids[:-1] if trace_ids and trace_ids[-1] in self.stop_ids else trace_ids
        begun = opening(lambda messages, begins: (self._text if begins else self._closed)(messages, asked))
        return begun + self.decode(inside)

    def decode(self, token_ids: list[int]) -> str:
        """All that token ids say, special tokens too."""
        return str(self.tokenizer.decode(token_ids, skip_special_tokens=False))

    def text(self, token_ids: list[int]) -> str:
        """What people and graders read of a trace: without special tokens, but for those that tell a thought from what
        is said. Never tokenised again."""
        return self.decode([token for token in token_ids if token not in self._unread])


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
