"""What a worker counts and tells: its figures for Prometheus, its health, and the events of its log.

    dail worker --api URL --model FOLDER --metrics-port 9100      /metrics, /livez and /readyz on loopback

An engine's time is shared out: of each stretch of it the units that were in it take equal parts, times the devices that
it spans (one on a CPU). With a unit's end its part becomes `dail_gpu_seconds_total`: `committed`, `handed_on` where the
next attempt goes on from what was written, or `lost`. Together they are the time in which engines had work.

Labels come from closed sets; ids are in the log, and texts in neither. Figures may be read from another thread.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.logs import tell
from dail.synth.rollout.base import Rollout
from dail.synth.run.pool import EngineState, Reason, RolloutPool, Watcher, Written
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import student_share
from dail.synth.schema.units import Unit

STILL_S = 120.0  # so long no token may move, while there is something to draw
TURN_S = 30.0  # so long the worker's loop may take for a turn, which it makes every second
SOURCES = ("student", "privileged", "unknown")
OUTCOMES = ("committed", "handed_on", "lost")
STATES: tuple[EngineState, ...] = ("ready", "starting", "given_up")
REASONS: tuple[Reason, ...] = ("hung", "start_timeout", "failed", "killed")
_SHARES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)

End = Literal["committed", "handed_back", "failed", "fenced"]  # how a unit left the worker, and the event of it


class Check(NamedTuple):
    ok: bool
    detail: str


class _Length(Protocol):
    """How much there is of a trace."""

    @property
    def attributed_tokens(self) -> int: ...

    @property
    def student_tokens(self) -> float: ...


@dataclass
class _Attempt:
    """A unit that is held. Tokens are those that were counted, or that it came with."""

    unit: Unit
    begun_at: float
    tokens: int
    attributed_tokens: int
    student_tokens: float
    device_s: float = 0.0


class Metrics(Watcher):
    """One worker's: a registry of its own, so that several workers in a process do not mix."""

    def __init__(self) -> None:
        self._pool: RolloutPool | None = None
        self._attempts: dict[str, _Attempt] = {}
        self._turned_at: float | None = None
        self._found_any = True
        self.registry = registry = CollectorRegistry()
        self._tokens = Counter(
            "dail_rollout_tokens_total", "Trace tokens that were drawn, by who wrote them.", ["source"],
            registry=registry,
        )  # fmt: skip
        self._accepted = Histogram(
            "dail_rollout_accept_ratio", "Of a finished trace's tokens, the share that the proposer wrote.",
            buckets=_SHARES, registry=registry,
        )  # fmt: skip
        self._device_s = Counter(
            "dail_gpu_seconds_total", "Time of engines by what became of the units in them, times their devices.",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self._restarts = Counter(
            "dail_engine_restarts_total", "Engines that were started again, by why they ended.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._age = Gauge(
            "dail_engine_progress_age_seconds", "Since a token moved; 0 where an engine has nothing to draw.",
            ["engine"], registry=registry,
        )  # fmt: skip
        self._engines = Gauge("dail_engines", "Engines by state.", ["state"], registry=registry)
        Gauge("dail_units_held", "Units that are leased here.", registry=registry).set_function(
            lambda: len(self._attempts)
        )
        Gauge("dail_build_info", "This release.", ["version"], registry=registry).labels(TOOL_VERSION).set(1)
        for counter, values in ((self._device_s, OUTCOMES), (self._restarts, REASONS)):
            for value in values:  # a counter that is there from the start shows its first step
                counter.labels(value)
        self._by_source = [self._tokens.labels(source) for source in SOURCES]

    def watch(self, pool: RolloutPool) -> None:
        """From now on it is this pool whose engines are told of."""
        self._pool, pool.watcher = pool, self

    def text(self) -> bytes:
        """In Prometheus' text format."""
        if self._pool:
            for number, quiet_s in enumerate(self._pool.quiet_s()):
                self._age.labels(str(number)).set(quiet_s or 0.0)
            states = self._pool.states()
            for state in STATES:
                self._engines.labels(state).set(states.count(state))
        return generate_latest(self.registry)

    def is_live(self) -> bool:
        """The worker's loop turns; before its first turn a worker starts, which may take long."""
        return self._turned_at is None or time.monotonic() - self._turned_at <= TURN_S

    def readiness(self) -> dict[str, Check]:
        """What a worker needs to get on, by name."""
        states = self._pool.states() if self._pool else []
        quiet_s = [one for one in (self._pool.quiet_s() if self._pool else []) if one is not None]
        engines = f"{states.count('ready')} of {len(states)} engines are ready, {states.count('given_up')} given up"
        moves = not quiet_s or min(quiet_s) <= STILL_S
        still = f"no token moved for {min(quiet_s):.0f} s" if quiet_s else "nothing is held that could move"
        return {
            "loop": Check(self.is_live(), f"a turn every second, within {TURN_S:.0f} s"),
            "engines": Check("ready" in states and "given_up" not in states, engines),
            "tokens": Check(moves, still),
        }

    def turned(self) -> None:
        self._turned_at = time.monotonic()

    def asked(self, num_units: int) -> None:
        """Told where it is another answer than the last one: a worker asks every two seconds."""
        if num_units or self._found_any:
            tell("asked", count=num_units)
        self._found_any = num_units > 0

    def leased(self, units: Sequence[Unit]) -> None:
        """What a unit comes with was drawn elsewhere; one that runs on here under a newer lease comes with nothing."""
        for unit in units:
            tell("leased", **_names(unit))
            if attempt := self._attempts.get(unit.unit_id):
                attempt.unit = unit
                continue
            before = unit.prefix
            counts = len(before), before.attributed_tokens, before.student_tokens
            self._attempts[unit.unit_id] = _Attempt(unit, time.monotonic(), *counts)

    def drawn(self, unit_id: str, written: Written) -> None:
        """Counts what is new of a trace."""
        if attempt := self._attempts.get(unit_id):
            tokens = len(written.tokens) - attempt.tokens
            attributed = written.attributed_tokens - attempt.attributed_tokens
            student = written.student_tokens - attempt.student_tokens
            news = student, attributed - student, tokens - attributed
            for counter, number in zip(self._by_source, news, strict=True):
                if number > 0:  # sums of shares round, and most of the time nothing is new
                    counter.inc(number)
            attempt.tokens, attempt.attributed_tokens = len(written.tokens), written.attributed_tokens
            attempt.student_tokens = written.student_tokens

    def finished(self, rollout: Rollout, synthesis: Synthesis) -> None:
        whole = Written.of(rollout.tokens)
        self.drawn(rollout.unit_id, whole)
        share = student_share(whole.student_tokens, whole.attributed_tokens)
        if synthesis.method == "mixed" and share is not None:
            self._accepted.observe(share if synthesis.proposer == "student" else 1 - share)

    def ended(self, unit_id: str, end: End, code: str | None) -> None:
        if attempt := self._attempts.pop(unit_id, None):
            outcome = {"committed": "committed", "handed_back": "handed_on"}.get(end, "lost")
            self._device_s.labels(outcome).inc(attempt.device_s)
            tell(end, code=code, duration_s=time.monotonic() - attempt.begun_at, **_names(attempt.unit))

    def engine_started(self, engine: int) -> None:
        tell("engine_started", engine=engine)

    def engine_restarts(self, engine: int, reason: Reason) -> None:
        self._restarts.labels(reason).inc()

    def engines_used(self, units: Collection[str], device_s: float) -> None:
        share = device_s / len(units)
        for unit_id in units:
            if attempt := self._attempts.get(unit_id):
                attempt.device_s += share
            else:  # it ended here a moment ago, and its engine does not know yet
                self._device_s.labels("lost").inc(share)


def _names(unit: Unit) -> dict[str, str | int]:
    return {"batch_id": unit.batch_id, "unit_id": unit.unit_id, "epoch": unit.epoch}
