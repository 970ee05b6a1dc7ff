"""Student engine and privileged-student engine with one life (paper §2.1).

Both are the same frozen weights under two prompts, so one engine serves both and the weights are held once. Whoever
owns a pair sees requests go in and traces come out; which strategy draws them stays in here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from synth.config import EngineConfig
from synth.engine.base import Engine, Limits, Records
from synth.strategies.admission import Admission
from synth.strategies.base import Rollout, RolloutRequest, Strategy
from synth.strategies.lazy import Lazy
from synth.strategies.lockstep import Lockstep
from synth.strategies.single import Single

MIXED: dict[str, Callable[[Engine, Admission], Strategy]] = {"lockstep": Lockstep, "lazy": Lazy}
RECORDS_EVERY = 32  # steps; fetching records costs a call into the engine's worker


class Pair:
    """Draws traces for many requests at once. Single-threaded, driven by `step`."""

    def __init__(self, engine: Engine, strategy: Literal["lockstep", "lazy"] = "lockstep") -> None:
        self._engine = engine
        self._admission = Admission(self._engine.limits)
        single = Single(self._engine, self._admission)
        self._by_method: dict[str, Strategy] = {
            "mixed": MIXED[strategy](self._engine, self._admission),
            "direct": single,
            "student": single,
        }
        self._strategies = (self._by_method["mixed"], single)
        self._steps = 0

    @property
    def engine_name(self) -> str:
        return self._engine.name

    @property
    def limits(self) -> Limits:
        return self._engine.limits

    def add(self, request: RolloutRequest) -> None:
        """Queues a request. Raises ItemError if it can never run."""
        self._by_method[request.synthesis.method].add(request)

    def cancel(self, unit_id: str) -> None:
        for strategy in self._strategies:
            strategy.cancel(unit_id)

    def step(self) -> list[Rollout]:
        """One step of the engine; returns the traces that ended in it. Raises EngineDead."""
        self._admission.begin_step()
        for strategy in self._strategies:
            strategy.admit()
        finished = self._engine.step()
        self._steps += 1
        records = self._engine.records() if finished or self._steps % RECORDS_EVERY == 0 else Records()
        return [rollout for strategy in self._strategies for rollout in strategy.take(finished, records)]

    def pending(self) -> int:
        """Requests added and not finished."""
        return sum(strategy.pending() for strategy in self._strategies)

    def progress(self) -> dict[str, tuple[int, int]]:
        """By unit: trace tokens so far, and how many of them the student wrote."""
        return {unit: counts for strategy in self._strategies for unit, counts in strategy.progress().items()}

    def close(self) -> None:
        self._engine.close()


def start_engine(config: EngineConfig, adapter_rank: int | None = None) -> Engine:
    """Starts the engine of a config.

    Args:
        adapter_rank: largest rank of the PEFT adapters that rows may name; none: no adapters.

    Raises:
        UsageError: the engine refused the model folder or the settings.
    """
    if config.kind == "fake":
        from synth.engine.fake import FakeEngine

        return FakeEngine(config)
    from synth.engine.vllm import VllmEngine

    return VllmEngine(config, adapter_rank)
