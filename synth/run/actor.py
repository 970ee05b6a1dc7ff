"""The Ray actor around what draws, as a pair does: start, exchange, health, stop. No method logic.

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
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

import ray

from dail.synth.config import SynthConfig
from dail.synth.core.errors import EngineDead, ItemError, UsageError
from dail.synth.engine.base import Limits
from dail.synth.schema.trace_tokens import Tokens

if TYPE_CHECKING:  # torch must not be imported before `start` has set the environment it reads
    from dail.synth.rollout.pair import Pair


class Request(Protocol):
    """What is drawn. `prefix` is what an earlier attempt wrote of it, after which this one goes on."""

    @property
    def unit_id(self) -> str: ...

    @property
    def prefix(self) -> Tokens: ...


class Ended(Protocol):
    """What came of a request."""

    @property
    def unit_id(self) -> str: ...


R = TypeVar("R", bound=Request)
R_in = TypeVar("R_in", bound=Request, contravariant=True)
E = TypeVar("E", bound=Ended)
E_out = TypeVar("E_out", bound=Ended, covariant=True)


class Drawer(Protocol[R_in, E_out]):
    """Draws many requests at once on engines of its own; `Pair` is one, and `Completer` of the evaluation."""

    @property
    def engine_name(self) -> str: ...

    @property
    def limits(self) -> Limits: ...

    def add(self, request: R_in) -> None:
        """Queues a request. Raises ItemError if it can never run."""
        ...

    def cancel(self, unit_id: str) -> None: ...

    def step(self) -> Sequence[E_out]:
        """One step of the engines; returns what ended in it. Raises EngineDead."""
        ...

    def pending(self) -> int:
        """Requests added and not finished."""
        ...

    def progress(self) -> dict[str, Tokens]:
        """By unit, what another attempt could go on from, its prefix included; a unit without is left out."""
        ...

    def close(self) -> None: ...


Make = Callable[[SynthConfig], Drawer[R, E]]

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
class Exchange(Generic[E]):
    """What came of one stretch of work. `written`: by unit, the trace tokens that it gained since the last exchange."""

    finished: list[E]
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
        self._drawer: Drawer[Any, Any] | None = None
        self._moved: float | None = None  # when the last step ended; none between exchanges
        self._told: dict[str, int] = {}  # by unit, how many of its trace's tokens the pool knows
        self._inside: set[str] = set()

    def start(self, config: SynthConfig, make: Make[Any, Any], cpu_threads: int | None) -> Started:
        """Builds what draws. With `cpu_threads` the engine computes on the CPU, on so many threads.

        Raises:
            UsageError: the settings can never work.
            EngineDead: anything else; the process ends.
        """
        _set_environment(cpu_threads)
        try:
            self._drawer = make(config)
        except UsageError:
            raise
        except Exception as error:
            self._die("the engine did not start", error)
        return Started(self._drawer.limits, self._drawer.engine_name)

    def exchange(self, new: Sequence[Request], cancel: Sequence[str], for_s: float) -> Exchange[Any]:
        """Adds and cancels, then steps until `for_s` seconds have passed or nothing is left to do.

        Raises:
            EngineDead: the step failed; the process ends.
        """
        assert self._drawer is not None, "exchange before start"
        self._moved = time.monotonic()
        try:
            for unit_id in cancel:
                self._cancel(self._drawer, unit_id)
            failed = [failure for request in new if (failure := self._add(self._drawer, request))]
            finished = self._step_until(self._drawer, time.monotonic() + for_s)
            self._inside -= {ended.unit_id for ended in finished}
            return Exchange(finished, failed, self._news(self._drawer.progress()), self._drawer.pending())
        except Exception as error:
            self._die("the engine stopped", error)
        finally:
            self._moved = None

    @ray.method(concurrency_group="health")  # type: ignore[untyped-decorator]
    def health(self) -> Health:
        moved = self._moved
        return Health(0.0 if moved is None else time.monotonic() - moved, os.getpid(), _log_path())

    def stop(self) -> None:
        if self._drawer is not None:
            self._drawer.close()

    def _add(self, drawer: Drawer[Any, Any], request: Request) -> UnitFailure | None:
        if request.unit_id in self._inside:  # two attempts under one name would mix
            self._cancel(drawer, request.unit_id)
            detail = "it was added while it was running here, so both attempts were given up"
            return UnitFailure(request.unit_id, "added_twice", detail, True)
        self._told[request.unit_id] = len(request.prefix)
        try:
            drawer.add(request)
        except ItemError as error:
            return UnitFailure(request.unit_id, error.code, str(error), error.retryable)
        self._inside.add(request.unit_id)
        return None

    def _cancel(self, drawer: Drawer[Any, Any], unit_id: str) -> None:
        drawer.cancel(unit_id)
        self._inside.discard(unit_id)

    def _news(self, progress: dict[str, Tokens]) -> dict[str, Tokens]:
        told, self._told = self._told, {unit_id: len(tokens) for unit_id, tokens in progress.items()}
        return {unit_id: tokens[told[unit_id] :] for unit_id, tokens in progress.items() if len(tokens) > told[unit_id]}

    def _step_until(self, drawer: Drawer[Any, Any], until: float) -> list[Any]:
        finished: list[Any] = []
        while drawer.pending() and time.monotonic() < until:
            finished += drawer.step()
            self._moved = time.monotonic()
        return finished

    def _die(self, what: str, error: Exception) -> NoReturn:
        """Ends the process: an engine that raised is in no known state, and only a new process frees its memory."""
        _log.critical("%s; this process ends", what, exc_info=error)
        threading.Timer(_EXIT_AFTER_S, os._exit, (1,)).start()
        raise EngineDead(f"{what}: {_chain(error)} (log: {_log_path()})")


RemoteEngine = ray.remote(concurrency_groups={"health": 1}, max_restarts=0, max_task_retries=0)(EngineActor)


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
