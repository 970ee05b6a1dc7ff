"""Where a model's turn ends: the tokens that end a trace, and who says so.

A trace that runs past the end of its turn is rubbish to its full length, and nothing later would notice. Three places
may name the end, any of them may be wrong alone, and a token that any of them names is no part of an answer:

    generation_config.json   eos_token_id, which may name the end of documents only
    the tokenizer            eos_token
    the chat template        what it writes after the text of an assistant
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dail.synth.core.errors import UsageError
from dail.synth.method.thoughts import THOUGHT_MARK

# Of a conversation that is rendered to see its marks.
_ASKED, _THOUGHT, _ANSWERED, _ASKED_ON = "a question", "the thought that was had", "the answer that was given", "more"


def ends_of_turns(model: Path, tokenizer: Any) -> dict[int, tuple[str, ...]]:
    """The ids of the tokens that end a turn, and which places name each: "generation config", "tokenizer", "template".

    Raises:
        UsageError: no place names one.
    """
    places = {
        "generation config": _of_generation_config(model),
        "tokenizer": [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)],
        "template": _of_template(tokenizer),
    }
    ids = sorted({token for found in places.values() for token in found})
    if not ids:
        raise UsageError(
            f"nothing in {model} says which token ends a turn: no eos_token_id in generation_config.json, no eos_token "
            "of the tokenizer, and the chat template writes no token after an answer; set one of them"
        )
    return {token: tuple(place for place, found in places.items() if token in found) for token in ids}


def turn_marks(tokenizer: Any) -> frozenset[int]:
    """The ids of all tokens by which the chat template tells turns apart, which no answer may hold.

    What it writes between a thought and its answer, or between the answer and the token that ends the turn, is a part
    of an answer: some models write `<|end|><|start|>assistant` there themselves.
    """
    special = {int(token): one.content for token, one in tokenizer.added_tokens_decoder.items() if one.special}
    told = _rendered(tokenizer, {"role": "assistant", "content": _ANSWERED})
    inside = _special_in(tokenizer, between_thought_and_answer(tokenizer))
    behind = _run_behind_answer(tokenizer)
    end = _of_template(tokenizer)
    inside |= set(behind[: behind.index(end[0])]) if end and end[0] in behind else set()
    return frozenset(
        token
        for token in _special_in(tokenizer, told) - inside
        if not THOUGHT_MARK.fullmatch(special[token])  # whose tokens are special in few models
    )


def between_thought_and_answer(tokenizer: Any) -> str:
    """What the chat template writes there; nothing if it writes no thoughts."""
    thought = dict.fromkeys(("thinking", "reasoning_content", "reasoning"), _THOUGHT)
    whole = _rendered(tokenizer, {"role": "assistant", "content": _ANSWERED, **thought})
    between, answer, _ = whole.partition(_THOUGHT)[2].partition(_ANSWERED)
    return between if answer else ""


def _special_in(tokenizer: Any, text: str) -> set[int]:
    special = {int(token) for token, one in tokenizer.added_tokens_decoder.items() if one.special}
    return set(map(int, tokenizer.encode(text, add_special_tokens=False))) & special


Render = Callable[[list[dict[str, str]], bool], str]  # a conversation as text; true if an answer is to follow


def opening(render: Render) -> str:
    """What a prompt has written of the assistant's text already, at its end: `<think>`, an empty thought, or nothing.

    Nothing too where the template writes the same in front of an answer that is given to it.
    """
    before, prompt, head = _beginnings(render)
    if not (prompt.startswith(before) and head.startswith(before)):
        return ""
    begun, head = prompt.removeprefix(before), head.removeprefix(before)
    if begun.startswith(head):
        return begun.removeprefix(head)
    head = THOUGHT_MARK.split(head)[0]  # a thought that the template writes where it finds none
    return begun.removeprefix(head) if begun.startswith(head) else ""


def unopened(render: Render) -> str:
    """What the template writes in front of an answer but not at the end of a prompt, since it does not read
    `add_generation_prompt`; nothing if it opens the turn."""
    before, prompt, head = _beginnings(render)
    missing = head.removeprefix(prompt) if prompt == before and head.startswith(prompt) else ""
    return missing if missing.strip() else ""


def _beginnings(render: Render) -> tuple[str, str, str]:
    """A question; the same as a prompt; and what is written up to an answer to it. Nothing if the template fails."""
    asked = [{"role": "user", "content": _ASKED}]
    try:
        head = render([*asked, {"role": "assistant", "content": _ANSWERED}], False).partition(_ANSWERED)[0]
        return render(asked, False), render(asked, True), head
    except Exception:  # a template is a program, and this one may know no assistant
        return "", "", ""


def _of_generation_config(model: Path) -> list[int]:
    from transformers import GenerationConfig

    if not (model / "generation_config.json").is_file():
        return []
    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except (OSError, ValueError) as error:
        raise UsageError(f"{model / 'generation_config.json'} cannot be read: {error}; restore the file") from None
    try:
        return [] if ids is None else [int(one) for one in (ids if isinstance(ids, list) else [ids])]
    except (TypeError, ValueError):
        raise UsageError(
            f"{model / 'generation_config.json'}: eos_token_id is {ids!r:.200}; wanted the number of a token, or a "
            "list of such numbers"
        ) from None


def _of_template(tokenizer: Any) -> list[int]:
    """The token that ends the turn, of those right behind the answer: the tokenizer's own end, else the first.

    Only what is written there too where a question follows: at the end of a conversation some templates write the end
    of the document behind that of the turn. A template that writes nothing there, as GLM's, ends a turn by what begins
    the next one; one that writes other text, by that text.
    """
    last, inside = _run_behind_answer(tokenizer), _run_behind_answer(tokenizer, goes_on=True)
    both = [one for place, one in enumerate(last) if last[: place + 1] == inside[: place + 1]]
    run = both or last or inside[:1]
    return [tokenizer.eos_token_id] if tokenizer.eos_token_id in run else run[:1]


def _run_behind_answer(tokenizer: Any, goes_on: bool = False) -> list[int]:
    """The added tokens that the chat template writes behind an answer, with nothing between them but white space."""
    answer = {"role": "assistant", "content": _ANSWERED}
    after = _rendered(tokenizer, answer, goes_on).partition(_ANSWERED)[2].lstrip()
    spelled = {one.content: int(token) for token, one in tokenizer.added_tokens_decoder.items()}
    longest_first, run = sorted(spelled, key=len, reverse=True), list[int]()
    while text := next((one for one in longest_first if after.startswith(one)), None):
        run.append(spelled[text])
        after = after.removeprefix(text).lstrip()
    return run


def _rendered(tokenizer: Any, answer: dict[str, str], goes_on: bool = False) -> str:
    """A question and its answer as the chat template writes them, and another question if it goes on; nothing if it
    cannot."""
    conversation = [{"role": "user", "content": _ASKED}, answer]
    try:
        more = [{"role": "user", "content": _ASKED_ON}] if goes_on else []
        return str(tokenizer.apply_chat_template([*conversation, *more], tokenize=False))
    except Exception:  # a template is a program, and this one may know no assistant
        return ""
