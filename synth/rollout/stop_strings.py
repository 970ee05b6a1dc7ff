"""Stop strings: where the text of a trace first holds one of them. Ids are decoded to look, never tokenised again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

_MARGIN = 8  # tokens: a decoder may swallow a space or a cut-off character at the beginning of what it is given


class Stops:
    """Args:
    decode: the tokenizer's; none where no request has stop strings.
    """

    def __init__(self, decode: Decode | None) -> None:
        self._decode = decode

    def find(self, ids: Sequence[int], strings: Sequence[str], since: int) -> int | None:
        """The number of tokens up to the one that completes one of the strings, itself included; none if none does.

        Args:
            since: so many tokens were searched before.
        """
        assert self._decode is not None, "stop strings are asked for, but there is no tokenizer"
        # a string of n bytes is written by n tokens at the most
        first = max(0, since - max(len(string.encode()) for string in strings) - _MARGIN)

        def holds(end: int) -> bool:
            text = self._decode(ids[first:end]) if self._decode else ""
            return any(string in text for string in strings)

        if not holds(len(ids)):
            return None
        return next(end for end in range(since + 1, len(ids) + 1) if holds(end))
