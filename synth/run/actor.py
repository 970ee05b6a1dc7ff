"""The Ray actor around a pair: start, exchange, health, stop. No method logic.

Everything that touches the engine runs in the actor's default group, which is one thread: CUDA's current device and
OpenMP's settings belong to a thread. Health answers from its own group, so a hung step cannot silence it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import ray

from dail.synth.config import SynthConfig
from dail.synth.core.errors import EngineDead, ItemError, UsageError
from dail.synth.engine.base import Limits
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.schema.trace_tokens import Tokens

if TYPE_CHECKING:  # torch must not be imported before `start` has set the environment it reads
    from dail.synth.rollout.pair import Pair

MakePair = Callable[[SynthConfig], "Pair"]

_EXIT_AFTER_S = 1.0  # time for the reply that carries the cause to leave the dying process
_log = logging.getLogger("dail.actor")


@dataclass(frozen=True)
class UnitFailure:
    """Why a unit has no trace from this attempt."""

    unit_id: str
    code: str
    detail: str
    retryable: bool


@dataclass(frozen=True)
class Started:
    limits: Limits
    engine: str


@dataclass(frozen=True)
class Exchange:
    """What came of one stretch of work. `written`: by unit, the trace tokens that it gained since the last exchange."""

    finished: list[Rollout]
    failed: list[UnitFailure]
    written: dict[str, Tokens]
    pending: int


@dataclass(frozen=True)
class Health:
    """`quiet_s`: how long the step that is running has been running. `log`: where the process's errors go."""

    quiet_s: float
    pid: int
    log: str


def make_pair(config: SynthConfig) -> Pair:
    from dail.synth.rollout.pair import start_pair

    return start_pair(config)


class EngineActor:
    def __init__(self) -> None:
        self._pair: Pair | None = None
        self._moved: float | None = None  # when the last step ended; none between exchanges
        self._told: dict[str, int] = {}  # by unit, how many of its trace's tokens the pool knows

    def start(self, config: SynthConfig, make: MakePair, cpu_threads: int | None) -> Started:
        """Builds the pair. With `cpu_threads` the engine computes on the CPU, on so many threads.

        Raises:
            UsageError: the settings can never work.
            EngineDead: anything else; the process ends.
        """
        _set_environment(cpu_threads)
        try:
            self._pair = make(config)
        except UsageError:
            raise
        except Exception as error:
            self._die("the engine did not start", error)
        return Started(self._pair.limits, self._pair.engine_name)

    def exchange(self, new: Sequence[RolloutRequest], cancel: Sequence[str], for_s: float) -> Exchange:
        """Adds and cancels, then steps until `for_s` seconds have passed or nothing is left to do.

        Raises:
            EngineDead: the step failed; the process ends.
        """
        assert self._pair is not None, "exchange before start"
        self._moved = time.monotonic()
        try:
            for unit_id in cancel:
                self._pair.cancel(unit_id)
            self._told |= {request.unit_id: len(request.prefix) for request in new}
            failed = [failure for request in new if (failure := _add(self._pair, request))]
            finished = self._step_until(self._pair, time.monotonic() + for_s)
            return Exchange(finished, failed, self._news(self._pair.progress()), self._pair.pending())
        except Exception as error:
            self._die("the engine stopped", error)
        finally:
            self._moved = None

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def health(self) -> Health:
        moved = self._moved
        return Health(0.0 if moved is None else time.monotonic() - moved, os.getpid(), _log_path())

    def stop(self) -> None:
        if self._pair is not None:
            self._pair.close()

    def _news(self, progress: dict[str, Tokens]) -> dict[str, Tokens]:
        told, self._told = self._told, {unit_id: len(tokens) for unit_id, tokens in progress.items()}
        return {unit_id: tokens[told[unit_id] :] for unit_id, tokens in progress.items() if len(tokens) > told[unit_id]}

    def _step_until(self, pair: Pair, until: float) -> list[Rollout]:
        finished: list[Rollout] = []
        while pair.pending() and time.monotonic() < until:
            finished += pair.step()
            self._moved = time.monotonic()
        return finished

    def _die(self, what: str, error: Exception) -> NoReturn:
        """Ends the process: an engine that raised is in no known state, and only a new process frees its memory."""
        _log.critical("%s; this process ends", what, exc_info=error)
        threading.Timer(_EXIT_AFTER_S, os._exit, (1,)).start()
        raise EngineDead(f"{what}: {_chain(error)} (log: {_log_path()})")


RemoteEngine = ray.remote(concurrency_groups={"health": 1}, max_restarts=0, max_task_retries=0)(EngineActor)


def _add(pair: Pair, request: RolloutRequest) -> UnitFailure | None:
    try:
        pair.add(request)
    except ItemError as error:
        return UnitFailure(request.unit_id, error.code, str(error), error.retryable)
    return None


def _set_environment(cpu_threads: int | None) -> None:
    """What transformers and torch read when they are imported; synth/engine/vllm.py sets what vLLM reads."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if cpu_threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(cpu_threads)  # Ray sets it to 1
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning on shared cores: 30 times slower


def _chain(error: BaseException) -> str:
    """The error and what caused it, first cause last, on one line.

    >>> _chain(ValueError("no room"))
    'ValueError: no room'
    """
    text = f"{type(error).__name__}: {error}"
    return f"{text}; caused by {_chain(error.__cause__)}" if error.__cause__ else text


def _log_path() -> str:
    """Ray points every worker's standard error at a file of its session."""
    try:
        return os.readlink("/proc/self/fd/2")
    except OSError:
        return str(Path.cwd())
