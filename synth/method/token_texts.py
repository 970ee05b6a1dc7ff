"""The text of each token of a trace, for people who read who wrote what; nothing is ever made into tokens again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dail.synth.schema.shards import TraceRow

Decode = Callable[[list[int]], str]

_BEFORE = 4  # tokens that a refused one is read behind: some tokenizers drop a leading space


def with_texts(row: TraceRow, decode: Decode) -> TraceRow:
    """The row as it is, or of a shard that does not know the texts of its tokens, with these."""
    if row.token_texts:
        return row
    texts = {
        "token_texts": tuple(token_texts(row.trace_ids, decode)),
        "rejected_texts": tuple(rejected_texts(row.trace_ids, row.rejected_ids, decode)),
    }
    return row.model_copy(update=texts)


def token_texts(ids: Sequence[int], decode: Decode) -> list[str]:
    """The text of each token; joined they are the decoded whole.

    A token may be some bytes of a character: its text is empty, and the token that completes the character gets all
    of it. Each token is decoded behind its predecessors back to the last whole character but one, since some
    tokenizers drop a leading space.
    """
    text = decode(list(ids))
    texts: list[str] = []
    start, read, place = 0, 0, 0
    for end in range(1, len(ids) + 1):
        known, grown = decode(list(ids[start:read])), decode(list(ids[start:end]))
        piece = grown[len(known) :] if grown.startswith(known) else ""
        if piece and text.startswith(piece, place):
            start, read, place = read, end, place + len(piece)
        else:
            piece = ""
        texts.append(piece)
    if texts:
        texts[-1] += text[place:]
    return texts


def rejected_texts(ids: Sequence[int], rejected: Sequence[int | None], decode: Decode) -> list[str | None]:
    """The text that each refused token would have had in place of the one that stands there."""
    return [
        None if token is None else _instead(ids, position, token, decode) for position, token in enumerate(rejected)
    ]


def _instead(ids: Sequence[int], position: int, rejected: int, decode: Decode) -> str:
    before = list(ids[max(0, position - _BEFORE) : position])
    known, grown = decode(before), decode([*before, rejected])
    return grown[len(known) :] if grown.startswith(known) else decode([rejected])
