"""What a rollout strategy takes and gives. A strategy turns requests into rows of an engine and back into traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dail.synth.engine.base import FinishReason, Sampled
from dail.synth.schema.synthesis import Role, Synthesis
from dail.synth.schema.trace_tokens import Tokens


@dataclass(frozen=True)
class RolloutRequest:
    """One trace to draw. `adapters` are LoRA folders of roles that have one: none in the paper's only round.

    `prefix` is what an earlier attempt wrote of the trace; it goes on after it. `suppressed_ids` are never drawn: what
    `synthesis.suppress` means in this model.
    """

    unit_id: str
    student_ids: Sequence[int]
    privileged_ids: Sequence[int]
    synthesis: Synthesis
    seed: int
    stop_ids: frozenset[int]
    adapters: Mapping[Role, str] = field(default_factory=dict)
    prefix: Tokens = field(default_factory=Tokens)
    suppressed_ids: frozenset[int] = frozenset()

    def prompt_ids(self, role: Role) -> Sequence[int]:
        return self.student_ids if role == "student" else self.privileged_ids

    def adapter_of(self, role: Role) -> str | None:
        return self.adapters.get(role)


@dataclass(frozen=True)
class Rollout:
    """One trace. It ends with the stop token if one ended it; nothing is appended to a trace that was cut.

    `rows`: what it took of the engines, one for each step of each of its sequences: two a token in lockstep.
    """

    unit_id: str
    tokens: Tokens
    reason: FinishReason
    strategy: str
    rows: int = field(default=0, compare=False)  # one trace is one trace, whatever it took


class Strategy(Protocol):
    """Turns requests into rows of an engine and ended rows into traces. The `Pair` around it steps the engine."""

    def add(self, request: RolloutRequest) -> None:
        """Queues a request. Raises ItemError (`context_length_exceeded`) if it can never run."""
        ...

    def cancel(self, unit_id: str) -> None: ...

    def admit(self) -> None:
        """Adds to the engine what fits into its next step."""
        ...

    def take(self, sampled: Sequence[Sampled]) -> list[Rollout]:
        """Picks its own sequences out of what the engine gave; returns the traces that are now whole."""
        ...

    def pending(self) -> int:
        """Requests added and not finished."""
        ...

    def progress(self) -> dict[str, Tokens]:
        """By unit, the trace so far, its prefix included: what another attempt could go on from."""
        ...
