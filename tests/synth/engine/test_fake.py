"""The fake engine's own sampler: penalties, and sequences that are followed while they go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dail.synth.config import EngineConfig
from dail.synth.engine.base import Sampled, SequenceKey, TokenSequence
from dail.synth.engine.fake import FakeEngine

LOGITS = (3.0, 2.5, 2.0, 1.5)


def always(context: Sequence[int]) -> Tensor:
    return torch.tensor(LOGITS)


def engine() -> FakeEngine:
    return FakeEngine(EngineConfig(model=Path("/nowhere"), kind="fake"), always)


def greedy(penalty: float, prompt: Sequence[int] = (0,)) -> list[int]:
    """Eight tokens of the fixed logits above."""
    one = engine()
    one.add(TokenSequence(SequenceKey("a"), prompt, 8, 0.0, 0, frozenset(), presence_penalty=penalty))
    while not (ended := one.step()):
        pass
    return ended[0].tokens.ids


@pytest.mark.parametrize(
    ("penalty", "wanted"),
    [
        (0.0, [0] * 8),
        (0.7, [0, 1] + [0] * 6),  # 2.3 < 2.5; then 2.3 beats 1.8 and 2.0, however often it was written
        (2.0, [0, 1, 2, 3] + [0] * 4),  # every token once, then the likeliest of what all were brought down to
        (-2.0, [0] * 8),
    ],
)
def test_a_presence_penalty_is_taken_once_of_what_was_sampled(penalty: float, wanted: list[int]) -> None:
    assert greedy(penalty) == wanted


def test_a_presence_penalty_does_not_count_the_prompt() -> None:
    assert greedy(2.0, prompt=[0, 1, 2, 3])[0] == 0


def test_a_sequence_that_is_followed_is_told_of_once_and_its_end_holds_the_rest() -> None:
    one = engine()
    one.add(TokenSequence(SequenceKey("a"), [0], 8, 1.0, 7, frozenset(), is_followed=True))
    one.add(TokenSequence(SequenceKey("b"), [0], 8, 1.0, 7, frozenset()))
    told, ended = list[Sampled](), list[Sampled]()
    while not ended:
        ended = one.step()
        told += one.written() if len(told) < 3 else []
    assert {sampled.key.unit_id for sampled in told} == {"a"}
    of_a, of_b = sorted(ended, key=lambda sampled: sampled.key)
    assert [token for sampled in [*told, of_a] for token in sampled.tokens.ids] == of_b.tokens.ids
    assert (len(told), len(of_a.tokens), of_a.reason) == (3, 5, "length")
