"""Which token ids `synthesis.suppress` means in a model: one each, or it is refused."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dail.synth.core.errors import UsageError


def suppressed_ids(tokenizer: Any, wanted: Sequence[str | int], stop_ids: Collection[int]) -> frozenset[int]:
    """The ids of tokens that are named by their text, or by id.

    Args:
        stop_ids: tokens that end a turn, without which no trace could end.

    Raises:
        UsageError: a text is not exactly one token of this tokenizer; it has no token of this id; it ends a turn.
    """
    ids = [_of_text(tokenizer, one) if isinstance(one, str) else _of_id(tokenizer, one) for one in wanted]
    for one, token in zip(wanted, ids, strict=True):
        if token in stop_ids:
            raise UsageError(
                f"suppress names {one!r}, token {token}, which ends a turn: every trace would run on to max_tokens; "
                "leave it out (`dail doctor` says which tokens end a turn)"
            )
    return frozenset(ids)


def _of_id(tokenizer: Any, token: int) -> int:
    if token >= len(tokenizer):
        raise UsageError(
            f"suppress names token {token}, and this model's tokenizer has {len(tokenizer)}, from 0 on; give an id of "
            "its own, or the token's text"
        )
    return token


def _of_text(tokenizer: Any, text: str) -> int:
    """A text of which the tokenizer makes one token that says this text, and nothing unknown or changed."""
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    texts = [str(tokenizer.decode([token], skip_special_tokens=False)) for token in ids]
    if len(ids) == 1 and (texts[0] == text or texts[0].strip() == text.strip() != ""):
        return ids[0]
    made = ", ".join(f"{token} ({spelled!r})" for token, spelled in zip(ids, texts, strict=True)) or "none"
    raise UsageError(
        f"suppress names {text!r}, which is not one token of this model's: its tokenizer makes of it {made}; give a "
        "text that is one token, or the id of one"
    )
