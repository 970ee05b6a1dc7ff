"""A few items drawn to their ends while the engines are full, and what that says of the whole run.

The five items lie evenly over the file, which may be sorted. Other units of the run fill the engines meanwhile, so the
rate is that of the run; only the five count for lengths, since of the others the short ones end first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from dail.synth.config import SynthConfig
from dail.synth.core.config import Frozen
from dail.synth.core.errors import DailError, ItemError
from dail.synth.core.progress import progress
from dail.synth.core.running import run_to_end
from dail.synth.engine.base import Limits
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.run.pool import Results, RolloutPool, rollout_pool
from dail.synth.run.trace_rows import Prepared, prepare, shard_of, trace_row
from dail.synth.schema.units import Unit

ITEMS = 5
_STANDARD_ERRORS = 2.0  # to either end of a forecast's range


class PreviewTrace(Frozen):
    """One trace of the preview, and what its shard weighs."""

    item_id: str
    tokens: int
    student_share: float | None
    finish_reason: str
    shard_bytes: int
    text: str


class Forecast(Frozen):
    """Of the whole run. `tokens` and what follows from it are means; `tokens_low` and `tokens_high` two standard
    errors away, none with fewer than two traces. `engine_hours` are GPU-hours if the engines run on GPUs."""

    units: int
    tokens: int
    tokens_low: int | None
    tokens_high: int | None
    tokens_per_s: float
    hours: float
    engine_hours: float
    disk_bytes: int


class Preview(Frozen):
    engine: str
    num_engines: int
    rows: int
    step_tokens: int
    model_tokens: int
    kv_tokens: int
    start_s: float
    draw_s: float
    tokens_per_s: float
    traces: tuple[PreviewTrace, ...]
    failed: dict[str, str]


def spread(num_items: int, wanted: int = ITEMS) -> list[int]:
    """Places of so many items, evenly over the file.

    >>> spread(128), spread(3)
    ([0, 31, 63, 95, 127], [0, 1, 2])
    """
    if num_items <= wanted:
        return list(range(num_items))
    return [place * (num_items - 1) // (wanted - 1) for place in range(wanted)]


async def preview(config: SynthConfig, units: Sequence[Unit], prompts: Prompts) -> Preview:
    """Draws the first sample of five items, on the engines of the run.

    Args:
        units: those of the whole run that can run.

    Raises:
        DailError: no engine can run.
    """
    firsts = list({unit.item_id: unit for unit in reversed(units)}.values())[::-1]
    chosen = [firsts[place] for place in spread(len(firsts))]
    wanted = {unit.unit_id for unit in chosen}
    run = _Run([*chosen, *(unit for unit in units if unit.unit_id not in wanted)], prompts)
    started = time.monotonic()
    async with rollout_pool(config) as pool:
        limits = await pool.ready()
        drawing = time.monotonic()
        with progress("preview", len(wanted)) as bar:
            while wanted - run.ended.keys():
                run.submit(pool, limits)
                run.take(await pool.next_results(), pool)
                bar.update(len(wanted & run.ended.keys()), tokens=run.tokens(pool))
        seconds = time.monotonic() - drawing
        return Preview(
            engine=pool.engine_name,
            num_engines=pool.num_engines,
            rows=limits.rows,
            step_tokens=limits.step_tokens,
            model_tokens=limits.model_tokens,
            kv_tokens=limits.kv_tokens,
            start_s=drawing - started,
            draw_s=seconds,
            tokens_per_s=run.tokens(pool) / seconds,
            traces=tuple(trace for name in sorted(wanted) if isinstance(trace := run.ended[name], PreviewTrace)),
            failed={run.item_of[name]: end for name in sorted(wanted) if isinstance(end := run.ended[name], str)},
        )


class _Run:
    """Units on their way through the pool, and how those ended that did: with a trace, or why with none."""

    def __init__(self, units: Sequence[Unit], prompts: Prompts) -> None:
        self._units, self._prompts = iter(units), prompts
        self._prepared: dict[str, Prepared] = {}
        self._finished_tokens = 0
        self.item_of = {unit.unit_id: unit.item_id for unit in units}
        self.ended: dict[str, PreviewTrace | str] = {}

    def submit(self, pool: RolloutPool, limits: Limits) -> None:
        for _ in range(pool.room()):
            if (unit := next(self._units, None)) is None:
                return
            try:
                self._prepared[unit.unit_id] = prepare(unit, self._prompts, limits.model_tokens)
            except ItemError as error:  # the engine's limits are its own: known only now
                self.ended[unit.unit_id] = str(error)
                continue
            pool.submit([self._prepared[unit.unit_id].request])

    def take(self, results: Results[Rollout], pool: RolloutPool) -> None:
        for failure in results.failed:
            if failure.retryable:
                pool.submit([self._prepared[failure.unit_id].request])
            else:
                self.ended[failure.unit_id] = failure.detail
        for rollout in results.finished:
            self._finished_tokens += len(rollout.tokens)
            prepared = self._prepared.pop(rollout.unit_id)
            try:
                row = trace_row(prepared, rollout, self._prompts, pool.engine_name)
            except DailError as error:
                self.ended[rollout.unit_id] = str(error)
                continue
            self.ended[rollout.unit_id] = PreviewTrace(
                item_id=row.item_id,
                tokens=len(row.trace_ids),
                student_share=row.student_share,
                finish_reason=row.finish_reason,
                shard_bytes=shard_of(row)[1].size_bytes,
                text=row.trace_text,
            )

    def tokens(self, pool: RolloutPool) -> int:
        return self._finished_tokens + sum(len(written.tokens) for written in pool.written.values())


def forecast(preview: Preview, num_units: int, gpus_per_engine: int = 1) -> Forecast | None:
    """Of a run of so many units. None if no item of the preview has a trace.

    The rate is the preview's: engines that it did not fill, having too few units, are not full in the run either.
    """
    lengths = [trace.tokens for trace in preview.traces]
    if not lengths:
        return None
    mean = statistics.fmean(lengths)
    error = _STANDARD_ERRORS * statistics.stdev(lengths) / len(lengths) ** 0.5 if len(lengths) > 1 else None
    hours = mean * num_units / preview.tokens_per_s / 3600
    return Forecast(
        units=num_units,
        tokens=round(mean * num_units),
        tokens_low=None if error is None else round(max(1.0, mean - error) * num_units),
        tokens_high=None if error is None else round((mean + error) * num_units),
        tokens_per_s=preview.tokens_per_s,
        hours=hours,
        engine_hours=hours * preview.num_engines * gpus_per_engine,
        disk_bytes=round(statistics.fmean(trace.shard_bytes for trace in preview.traces) * num_units),
    )


def run_preview(config: SynthConfig, units: Sequence[Unit], prompts: Prompts) -> Preview:
    return run_to_end(lambda: preview(config, units, prompts))
