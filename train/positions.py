"""Which predictions of a trace count in the loss: all of its tokens (paper §2.2), or as a setting leaves out or adds.

The prediction of trace token i is made behind token i - 1, the first one behind the prompt. Three settings choose:

    skip_first=k     the predictions of the trace's first k tokens are left out
    end_token=drop   the token that ended the turn is no part of the trace
    after_last=true  what is predicted behind the trace's last token counts too; it has no token to be held against

The authors' code leaves out the first two tokens of the assistant's content, has no token behind the trace, and counts
the prediction behind its last one: skip_first=2, end_token=drop, after_last=true. Where the prompt has opened the
content already, as with `<think>`, which is one token, that is one of the two and was never predicted: skip_first=1.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from dail.synth.core.errors import UsageError
from dail.synth.method.turns import ends_of_turns
from dail.train.config import TrainConfig


class Positions(NamedTuple):
    """`ends`: ids that are no part of a trace where they end it."""

    skip_first: int = 0
    after_last: bool = False
    ends: frozenset[int] = frozenset()

    def trace(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return ids[:-1] if ids and ids[-1] in self.ends else ids


def read_positions(folder: Path, config: TrainConfig) -> Positions:
    """As the settings say, with the model's ends of turns where they are dropped.

    Raises:
        UsageError: the model does not say what ends a turn.
    """
    ends: frozenset[int] = frozenset()
    if config.end_token == "drop":
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise UsageError(f"end_token=drop needs the tokenizer of {folder}, which cannot be read: {error}") from None
        ends = frozenset(ends_of_turns(folder, tokenizer))
    return Positions(config.skip_first, config.after_last, ends)
