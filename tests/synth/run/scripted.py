"""A worker without engines: what each unit writes is said by a function of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache
from pathlib import Path

from dail.synth.config import SynthConfig
from dail.synth.core.files import Objects
from dail.synth.core.running import Stop
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.run.trace_rows import prepare, shard_of, trace_row
from dail.synth.run.unit_source import UnitSource
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Failure, Unit
from tests.conftest import DEMO_MODEL

prompts_of = cache(Prompts)
Write = Callable[[Unit], str | None]  # a trace, one that ends in … was cut; or none: the unit fails


class Scripted:
    """Stands for `run_worker`. `most`: so many units are done, then it is as if the process had been killed."""

    def __init__(self, write: Write, most: int | None = None) -> None:
        self.write, self.most = write, most
        self.done: list[Unit] = []
        self.runs = 0
        self.knows_rows = True

    def __call__(self, config: SynthConfig, source: UnitSource, stop: Stop | None = None) -> bool:
        self.runs += 1
        return asyncio.run(self._run(source, stop))

    async def _run(self, source: UnitSource, stop: Stop | None) -> bool:
        while not source.finished():
            for unit in (await source.lease(4)).units:
                if len(self.done) == self.most:
                    raise KeyboardInterrupt
                if stop is not None and stop.is_set():
                    return True
                await self._finish(source, unit)
                self.done.append(unit)
        return False

    async def _finish(self, source: UnitSource, unit: Unit) -> None:
        text = self.write(unit)
        if text is None:
            await source.fail(unit, Failure(code="no", detail="it cannot be drawn"))
            return
        prompts = prompts_of(DEMO_MODEL)
        ids = prompts.tokenizer.encode(text, add_special_tokens=False)
        share = None if unit.synthesis.method != "mixed" else 1 - unit.synthesis.tau
        by_student = [share if share is not None else float(unit.synthesis.method == "student")] * len(ids)
        tokens = Tokens(ids, list(by_student), [None] * len(ids), [None] * len(ids), [None] * len(ids))
        rollout = Rollout(unit.unit_id, tokens, "length" if text.endswith("…") else "stop", "lazy", 2 * len(ids))
        prepared = prepare(unit, prompts, 640)
        data, shard = shard_of(trace_row(prepared, rollout, prompts, "scripted 1"))
        Objects(Path((await source.lease(0)).output_root)).put(shard.key, data)
        await source.commit(unit, shard, rows=rollout.rows if self.knows_rows else None)
