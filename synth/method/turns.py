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

_ASKED, _ANSWERED = "a question", "the answer that was given"  # of a conversation that is rendered to see its marks


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
    """The ids of all tokens by which the chat template tells turns apart, which no answer may hold."""
    # thoughts and tools have tokens too, which belong to an answer: most are not special, those of thoughts may be
    special = {
        int(token)
        for token, one in tokenizer.added_tokens_decoder.items()
        if one.special and not THOUGHT_MARK.fullmatch(one.content)
    }
    return frozenset(map(int, tokenizer.encode(_rendered(tokenizer), add_special_tokens=False))) & special


def opening(render: Callable[[list[dict[str, str]], bool], str]) -> str:
    """What a prompt has written of the assistant's text already, at its end: `<think>`, an empty thought, or nothing.

    Nothing too where the template writes the same in front of an answer that is given to it.

    Args:
        render: a conversation as text; true if an answer is to follow.
    """
    asked = [{"role": "user", "content": _ASKED}]
    try:
        before, prompt = render(asked, False), render(asked, True)
        head = render([*asked, {"role": "assistant", "content": _ANSWERED}], False).partition(_ANSWERED)[0]
    except Exception:  # a template is a program, and this one may know no assistant
        return ""
    if not (prompt.startswith(before) and head.startswith(before)):
        return ""
    begun, head = prompt.removeprefix(before), head.removeprefix(before)
    if begun.startswith(head):
        return begun.removeprefix(head)
    head = THOUGHT_MARK.split(head)[0]  # a thought that the template writes where it finds none
    return begun.removeprefix(head) if begun.startswith(head) else ""


def _of_generation_config(model: Path) -> list[int]:
    from transformers import GenerationConfig

    if not (model / "generation_config.json").is_file():
        return []
    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except (OSError, ValueError) as error:
        raise UsageError(f"{model / 'generation_config.json'} cannot be read: {error}; restore the file") from None
    return [] if ids is None else [int(one) for one in (ids if isinstance(ids, list) else [ids])]


def _of_template(tokenizer: Any) -> list[int]:
    """The token right behind the answer. A template that writes other text there ends a turn by that text."""
    after = _rendered(tokenizer).rpartition(_ANSWERED)[2].lstrip()
    spelled = {one.content: int(token) for token, one in tokenizer.added_tokens_decoder.items()}
    return [spelled[text] for text in sorted(spelled, key=len, reverse=True) if after.startswith(text)][:1]


def _rendered(tokenizer: Any) -> str:
    """A question and its answer as the chat template writes them; nothing if it cannot."""
    asked = [{"role": "user", "content": _ASKED}, {"role": "assistant", "content": _ANSWERED}]
    try:
        return str(tokenizer.apply_chat_template(asked, tokenize=False))
    except Exception:  # a template is a program, and this one may know no assistant
        return ""
