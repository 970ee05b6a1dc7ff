"""A pair without an engine: every unit takes so many steps, and faults come when the unit's name asks for them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import EngineDead, ItemError, UsageError
from dail.synth.engine.base import Limits
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens


@dataclass
class StubPair:
    """A unit named `sigkill-…`, `dead-…` or `hang-…` does that in its second step, unless `marker` says it was done.

    `faults` names the fault of units whose names cannot be chosen.
    """

    config: SynthConfig
    marker: Path
    step_s: float = 0.01
    steps: int = 3
    faults: Mapping[str, str] = field(default_factory=dict)

    engine_name = "stub"

    def __post_init__(self) -> None:
        self.limits = Limits(
            model_tokens=4096, rows=self.config.engine.rows or 8, step_tokens=8192, kv_tokens=1 << 30, kv_block=16
        )
        self.units: dict[str, int] = {}
        self.begun: dict[str, int] = {}
        self.most_units = 0

    def add(self, request: RolloutRequest) -> None:
        if request.unit_id.startswith("poisoned"):
            raise ItemError("context_length_exceeded", "the prompt needs 9 tokens; the model holds 8")
        self.units[request.unit_id] = self.begun[request.unit_id] = len(request.prefix)
        self.most_units = max(self.most_units, len(self.units))

    def cancel(self, unit_id: str) -> None:
        self.units.pop(unit_id, None)

    def step(self) -> list[Rollout]:
        time.sleep(self.step_s)
        for unit_id in self.units:
            self.units[unit_id] += 1
            if self.units[unit_id] == 2:
                self._fault(unit_id)
        ended = [unit_id for unit_id, steps in self.units.items() if steps >= self.steps]
        return [self._rollout(unit_id) for unit_id in ended if self.units.pop(unit_id)]

    def _fault(self, unit_id: str) -> None:
        kind = self.faults.get(unit_id, unit_id.partition("-")[0])
        if kind not in ("sigkill", "dead", "hang") or (self.marker.exists() and not unit_id.endswith("-always")):
            return
        self.marker.touch()
        if kind == "sigkill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "hang":
            time.sleep(1000)
        raise EngineDead("the engine is on fire")

    def _rollout(self, unit_id: str) -> Rollout:
        # the process, the most units it held at once, and the length of its prefix travel in the trace, where a test
        # can see them
        ids = [os.getpid(), self.most_units, self.begun[unit_id]]
        tokens = Tokens(ids, [1.0, 0.0, 0.0], [None] * 3, [-0.1, -0.2, -0.1], [-0.1, -0.2, -0.1])
        return Rollout(unit_id, tokens, "stop", "stub")

    def pending(self) -> int:
        return len(self.units)

    def progress(self) -> dict[str, Tokens]:
        """A token a step, which is the number of the step."""
        return {unit_id: stub_tokens(steps) for unit_id, steps in self.units.items()}

    def close(self) -> None:
        self.units.clear()


def stub_tokens(number: int) -> Tokens:
    places = range(number)
    return Tokens(list(places), [1.0 for _ in places], *([None for _ in places] for _ in range(3)))


class Refusing(StubPair):
    def __post_init__(self) -> None:
        raise UsageError("the model folder holds a poem; give a model")


def config(**settings: object) -> SynthConfig:
    engine = EngineConfig(model=Path("/nowhere"), kind="fake", rows=8)
    return SynthConfig(engine=engine, **settings)


def request(unit_id: str) -> RolloutRequest:
    return RolloutRequest(unit_id, [1, 2], [1, 2, 3], Synthesis(max_tokens=8), 0, frozenset({0}))
