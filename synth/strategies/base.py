"""What a rollout strategy takes and gives. A strategy turns requests into rows of an engine and back into traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from synth.engine.base import Finished, FinishReason, Records
from synth.schema.items import Synthesis


@dataclass(frozen=True)
class RolloutRequest:
    """One trace to draw. `adapter` is the student's own LoRA folder, none for the paper's first round."""

    unit_id: str
    student_ids: Sequence[int]
    privileged_ids: Sequence[int]
    synthesis: Synthesis
    seed: int
    stop_ids: frozenset[int]
    adapter: str | None = None


@dataclass(frozen=True)
class Rollout:
    """One trace. Per token: probability that the student wrote it, and both log-probabilities (None: not computed).

    `trace_ids` ends with the stop token if one ended it; nothing is appended to a trace that was cut.
    """

    unit_id: str
    trace_ids: list[int]
    source: list[float | None]
    student_logprob: list[float | None]
    privileged_logprob: list[float | None]
    reason: FinishReason
    strategy: str


class Strategy(Protocol):
    """Turns requests into rows of an engine and ended rows into traces. The `Pair` around it steps the engine."""

    def add(self, request: RolloutRequest) -> None:
        """Queues a request. Raises ItemError (`context_length_exceeded`) if it can never run."""
        ...

    def cancel(self, unit_id: str) -> None: ...

    def admit(self) -> None:
        """Adds to the engine what fits into its next step."""
        ...

    def take(self, finished: Sequence[Finished], records: Records) -> list[Rollout]:
        """Picks its own rows out of what the engine's step gave; returns the traces that are now whole.

        `records` holds what was recorded since the last call, and everything of pairs that just ended.
        """
        ...

    def pending(self) -> int:
        """Requests added and not finished."""
        ...

    def progress(self) -> dict[str, tuple[int, int]]:
        """By unit: trace tokens so far, and how many of them the student wrote."""
        ...
