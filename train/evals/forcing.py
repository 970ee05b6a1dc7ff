"""What is put into a completion, and where: budget forcing, and the announcement of an answer (paper §3.3).

    budgets                     first the thought, up to its mark or the largest budget; for every budget its first
                                tokens, the mark if the thought had not ended, the announcement, and the answer
    an announcement alone       first the completion; behind one without a box the announcement, and the answer
    neither                     the completion

A thought is drawn once for all budgets. Its first tokens are distributed as those of a thought that is drawn with a
smaller budget, and are the same if the seed is, so the budgets of one sample are pairs. A thought that ends by itself
is every larger budget's, its answer too.

A model that ends its turn inside the thought has it ended for it; one that ends its turn without a thought has
answered, and that is as without budgets. A stop string ends all. Ids are put behind ids: nothing that was drawn is
tokenised again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from dail.synth.core.errors import UsageError
from dail.synth.engine.base import FinishReason
from dail.synth.method.prompts import Closing, Prompts
from dail.synth.method.thoughts import behind_thought
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.boxes import final_answer
from dail.train.evals.config import EvalConfig

Ended = Literal["closed", "turn", "stop", "length"]  # by its mark, by the turn's end, at a stop string, at a limit


@dataclass(frozen=True)
class First:
    """What was drawn first, without the token that ended the turn, which `num_drawn` counts."""

    ids: list[int]
    num_drawn: int
    ended: Ended


@dataclass(frozen=True)
class Part:
    """A completion before its answer is drawn, or, if `is_whole`, all of it.

    Args:
        ids: what was drawn, and `appended` what is put behind it.
        thought_tokens: that were drawn in the thought; none without budgets.
        forced: the thought was ended at the budget.
    """

    ids: list[int]
    num_drawn: int
    appended: list[int]
    is_whole: bool
    reason: FinishReason
    thought_tokens: int | None = None
    forced: bool = False


class Forcing:
    """The rules of one model and one set of settings.

    Raises:
        UsageError: budgets, and nothing says how this model ends a thought; an announcement that it cannot spell.
    """

    def __init__(self, config: EvalConfig, prompts: Prompts) -> None:
        self.prompts, self.is_in_thought = prompts, prompts.is_in_thought(config)
        self._stops = Stops(lambda ids: str(prompts.tokenizer.decode(list(ids), skip_special_tokens=False)))
        self.closing = _closing(config, prompts) if config.budgets else None
        self.announcement = prompts.appended_ids(config.announce) if config.announce else []
        self._answer_tokens = config.answer_tokens

    @property
    def has_answers(self) -> bool:
        """Whether an answer may be drawn behind what is drawn first."""
        return bool(self.closing or self.announcement)

    @property
    def tokens_behind(self) -> int:
        """How many tokens may follow what is drawn first."""
        if not self.has_answers:
            return 0
        return len(self.closing.ids if self.closing else ()) + len(self.announcement) + self._answer_tokens

    @property
    def stop_ids(self) -> frozenset[int]:
        """That end what is drawn first."""
        token = self.closing.token if self.closing else None
        return self.prompts.stop_ids if token is None else self.prompts.stop_ids | {token}

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """That end it, beside those that the settings name."""
        return (self.closing.mark,) if self.closing and self.closing.token is None else ()

    def read(self, ids: Sequence[int], reason: FinishReason) -> First:
        """How what was drawn first ended. An engine may call a last token that ends it the last one of a limit."""
        last, whole = (ids[-1] if ids else None), list(ids)
        if self.closing and self._is_closed(whole, self.closing):
            return First(whole, len(whole), "closed")
        if last in self.prompts.stop_ids:
            return First(whole[:-1], len(whole), "turn")
        return First(whole, len(whole), reason)

    def _is_closed(self, ids: list[int], closing: Closing) -> bool:
        if closing.token is not None:
            return ids[-1:] == [closing.token]
        return bool(ids) and self._stops.find(ids, (closing.mark,), len(ids) - 1) is not None

    def is_enough(self, first: First, budget: int) -> bool:
        """Whether a thought that was drawn is as long as this budget would have it."""
        return first.ended != "length" or len(first.ids) >= budget

    def part(self, first: First, budget: int | None) -> Part:
        """What becomes of it under a budget, or without."""
        return self._unforced(first) if budget is None else self._forced(first, budget)

    def _unforced(self, first: First) -> Part:
        reason: FinishReason = "length" if first.ended == "length" else "stop"
        is_whole = self.is_final(self.prompts.text(first.ids))
        return Part(first.ids, first.num_drawn, [] if is_whole else self.announcement, is_whole, reason)

    def is_final(self, text: str) -> bool:
        """Whether nothing is to be put behind a completion without a budget: an answer in a box need not be announced,
        and cannot be inside a thought that was cut."""
        said = behind_thought(text, self.is_in_thought)
        return not self.announcement or said is None or final_answer(said) is not None

    def _forced(self, first: First, budget: int) -> Part:
        assert self.closing is not None, "a budget without a mark that ends a thought"
        assert self.is_enough(first, budget), "a thought that is too short for this budget"
        close = list(self.closing.ids)
        if first.ended == "length" or first.num_drawn > budget:
            behind = [*close, *self.announcement]
            return Part(first.ids[:budget], budget, behind, False, "length", thought_tokens=budget, forced=True)
        drawn = first.num_drawn
        if first.ended == "closed":
            return Part(first.ids, drawn, self.announcement, False, "stop", thought_tokens=drawn)
        is_open = behind_thought(self.prompts.text(first.ids), self.is_in_thought) is None
        if first.ended == "turn" and is_open:
            return Part(first.ids, drawn, [*close, *self.announcement], False, "stop", thought_tokens=drawn)
        if first.ended == "turn":
            return replace(self._unforced(first), thought_tokens=0)
        return Part(first.ids, drawn, [], True, "stop", thought_tokens=drawn if is_open else 0)


def _closing(config: EvalConfig, prompts: Prompts) -> Closing:
    try:
        return prompts.closing(config)
    except UsageError as error:
        raise UsageError(
            f"eval.budgets is set, and {error}; leave budgets out (announce alone is for models that do not think)"
        ) from None
