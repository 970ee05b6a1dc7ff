"""Where a model's thought begins and ends: the marks of the models that have them."""

from __future__ import annotations

import re
from collections.abc import Collection

# Of Qwen, DeepSeek and most others; Magistral; Kimi; Seed; Command A; open models that imitate o1; gpt-oss; Gemma 4;
# MedGemma.
MARKS = (
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>thought", "<unused95>"),
)
# A token that looks like one of these or of their kind: it belongs to an answer, though it may be a special token.
THOUGHT_MARK = re.compile(r"[<\[◁][^<>\[\]◁▷\s]*(?:think|thought|reasoning)[^<>\[\]◁▷\s]*[>\]▷]", re.IGNORECASE)
# Tags of other models: <thinking>, <Thought>, <reasoning>, <longcat_think>, <mm:think>, <|thinking|>.
_TAG = r"(?i:(?:[a-z]{1,12}[_:])?(?:think(?:ing)?|thoughts?|reasoning))"
_MARK = re.compile(
    "|".join(f"(?P<o{n}>{re.escape(o)})|(?P<c{n}>{re.escape(c)})" for n, (o, c) in enumerate(MARKS))
    + rf"|(?P<opened><\|?{_TAG}\|?>)|(?P<closed><\|?/{_TAG}\|?>)"
)
_EMPTY_AT_END = re.compile(
    "(?:"
    + "|".join(rf"{re.escape(opened)}\s*{re.escape(closed)}" for opened, closed in MARKS)
    + rf"|<\|?{_TAG}\|?>\s*<\|?/{_TAG}\|?>)\s*\Z"
)


def is_of_mark(token: str) -> bool:
    """Whether a token, which may be a special one, is a mark of a thought or a part of one."""
    return THOUGHT_MARK.fullmatch(token) is not None or any(token in mark for pair in MARKS for mark in pair)


def behind_thought(completion: str, is_open: bool = False) -> str | None:
    """What a completion says behind its last thought; none if that was cut.

    Without any mark the whole is what it says, unless the prompt left a thought open.

    Args:
        is_open: the prompt ends inside a thought, so that a completion has the closing mark alone.

    behind_thought("<think> Is it 3? No. </think> It is 4.")      " It is 4."
    behind_thought("<think> Is it 3?")                            None
    behind_thought("Is it 3? No. </think> It is 4.", True)        " It is 4."
    behind_thought("Is it 3?", True)                              None
    """
    marks = list(_MARK.finditer(completion))
    if not marks:
        return None if is_open else completion
    return completion[marks[-1].end() :] if _is_closing(marks[-1]) else None


def closing_mark(prompt: str, template: str, tokens: Collection[str]) -> str | None:
    """The mark by which a model ends its thoughts; none if prompts, template and tokens have none.

    Of the thought that the prompt leaves open, if it does. Else the first that the chat template spells, one that is a
    token before one that is not; else the first of the known marks that is a token.

    Args:
        prompt: as it ends, where the model is to begin.
        template: the chat template's text.
        tokens: the added tokens of the tokenizer.

    >>> closing_mark("<|im_start|>assistant\\n<think>\\n", "", [])
    '</think>'
    """
    marks = list(_MARK.finditer(prompt))
    if marks and not _is_closing(marks[-1]):
        return _closing_of(marks[-1].group())
    spelled = [match.group() for match in _MARK.finditer(template) if _is_closing(match)]
    known = [closed for _, closed in MARKS if closed in tokens]
    return next(iter([mark for mark in spelled if mark in tokens] or spelled or known), None)


def _is_closing(match: re.Match[str]) -> bool:
    return str(match.lastgroup).startswith("c")


def _closing_of(opened: str) -> str:
    """Of an opening mark: the known one, or the same tag with a slash."""
    return dict(MARKS).get(opened) or re.sub(r"^<(\|?)", r"<\1/", opened)


def has_empty_thought(prompt: str) -> bool:
    """Whether a prompt ends with an empty thought, by which a template says that there is to be none."""
    return _EMPTY_AT_END.search(prompt) is not None


def without_empty_thought(prompt: str) -> str:
    """The prompt without an empty thought at its end, `<think>\\n\\n</think>\\n\\n`."""
    return _EMPTY_AT_END.sub("", prompt)


def is_in_thought(text: str) -> bool:
    """Whether a text ends inside a thought."""
    return behind_thought(text) is None
