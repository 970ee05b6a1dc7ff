"""Work on engines: one in this process, or the pool of actors on Ray that synthesis uses.

Of several models one has its engines after the other, so that the memory is free in between.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

from dail.synth.config import SynthConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.progress import Bar, progress
from dail.synth.core.running import run_to_end
from dail.synth.engine.sizing import shape_of
from dail.synth.engine.start import start_engine
from dail.train.evals.completer import MakeEngine, rows, start_completer
from dail.train.evals.config import EvalConfig
from dail.train.evals.work import Work

_log = logging.getLogger(__name__)

_POLL_S = 0.5
_LOAD = 1.25  # of the rows of an engine: the rest waits, so freed rows are taken at once


def draw(config: EvalConfig, works: Sequence[Work], make_engine: MakeEngine = start_engine) -> None:
    """Draws all that is missing.

    Args:
        works: of one model each, opened.
        make_engine: instead of the engine that the settings ask for. Actors must be able to load it.

    Raises:
        UsageError: an engine cannot start, or a problem does not fit into it.
        EngineDead: no engine is left.
    """
    todo = [work for work in works if not work.is_done]
    if not todo:
        return
    for work in todo:
        if most := _most_tokens(config, work, make_engine):
            work.check_model_tokens(most)
    on_ray = wants_ray(config, len(todo), make_engine)
    one_after_another = draw_on_ray if on_ray else draw_here
    with (
        progress("sampling", sum(work.num_missing for work in todo)) as bar,
        _ray() if on_ray else nullcontext(),  # once for all models: it takes as long as an engine to start
    ):
        shown = _Shown(bar, todo)
        for work in todo:
            engine = config.engine.model_copy(update={"model": work.folder})
            _log.info(f"starting the engine of {work.folder.name}")
            settings = SynthConfig(engine=engine, actors=config.actors)
            one_after_another(settings, work, shown, make_engine)


def _most_tokens(config: EvalConfig, work: Work, make_engine: MakeEngine) -> int | None:
    """No engine of this model holds a longer text; none: only the engine can tell."""
    if config.engine.model_tokens or make_engine is not start_engine:
        return config.engine.model_tokens
    try:
        return shape_of(work.folder).model_tokens
    except UsageError:
        return None


def wants_ray(config: EvalConfig, num_models: int, make_engine: MakeEngine = start_engine) -> bool:
    """Whether engines are actors of a pool: so many are asked for, a cluster is named, or several real ones come one
    after the other, of which only a process that ends gives all of its memory back."""
    is_real = config.engine.kind == "vllm" and make_engine is start_engine
    return config.actors is not None or bool(os.environ.get("RAY_ADDRESS")) or (num_models > 1 and is_real)


class _Shown:
    """How far all work is, on a bar."""

    def __init__(self, bar: Bar, works: Sequence[Work]) -> None:
        self._bar, self._works, self._started = bar, works, time.monotonic()
        self._before = sum(work.num_done for work in works)

    def update(self) -> None:
        done = sum(work.num_done for work in self._works) - self._before
        tokens = sum(work.num_tokens for work in self._works)
        self._bar.update(done, tokens_per_s=tokens / max(time.monotonic() - self._started, 1e-3))


def draw_here(config: SynthConfig, work: Work, shown: _Shown, make_engine: MakeEngine) -> None:
    """On one engine in this process."""
    completer = start_completer(config, work.max_rank, make_engine)
    try:
        work.check(completer.limits)
        most = int(_LOAD * completer.limits.rows) + 1
        while not work.is_done:
            for request in work.next(most - completer.pending()):
                completer.add(request)
            for drawn in completer.step():
                work.take(drawn, completer.engine_name)
                shown.update()
    finally:
        completer.close()


@contextmanager
def _ray() -> Iterator[None]:
    try:  # an evaluation in one process does without Ray
        from dail.synth.run.ray_cluster import ray_cluster
    except ModuleNotFoundError as error:
        raise UsageError(
            f"engines on Ray (eval.actors, RAY_ADDRESS, or several models) need the package {error.name}; run: pip "
            "install 'dail[worker]'"
        ) from None
    with ray_cluster():
        yield


def draw_on_ray(config: SynthConfig, work: Work, shown: _Shown, make_engine: MakeEngine) -> None:
    """On the actors of a pool, as many as there are GPUs, or as `actors` says. One that dies loses what it was drawing,
    which is drawn again."""
    run_to_end(lambda: _draw_in_pool(config, work, shown, make_engine))


async def _draw_in_pool(config: SynthConfig, work: Work, shown: _Shown, make_engine: MakeEngine) -> None:
    from dail.synth.run.pool import Pool

    make = partial(start_completer, max_rank=work.max_rank, make_engine=make_engine)
    async with Pool(config, make, rows) as pool:
        work.check(await pool.ready())
        while not work.is_done:
            pool.submit(work.next(pool.room()))
            try:
                async with asyncio.timeout(_POLL_S):  # further engines may have started, and have room
                    results = await pool.next_results()
            except TimeoutError:
                continue
            for failure in results.failed:
                work.lost(failure.unit_id, failure.detail, failure.retryable)
            for drawn in results.finished:
                work.take(drawn, pool.engine_name)
            shown.update()
