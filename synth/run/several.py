"""Several batches of the same items through one pool of engines, which start once: one folder, one ledger.

    from dail.synth import Synthesis
    from dail.synth.run.several import synthesise_several
    settings = [Synthesis(tau=tau, max_tokens=256, thinking=False) for tau in (0.2, 0.8)]
    drawn = synthesise_several("deploy/demo/olympiad.jsonl", "runs/taus", settings, model="deploy/demo/model")
    print(*[batch.result.manifest for batch in drawn.batches])

Each batch is the one that `dail synth` makes of these settings in that folder: it has a manifest of its own, and
whichever of the two comes second finds it finished. A run that was killed goes on.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dail.synth.config import SynthConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.progress import OnProgress, told_to
from dail.synth.core.running import Stop
from dail.synth.data.reader import Reading, Source, read_solutions
from dail.synth.rollout.select import acceptance, lazy_is_exact
from dail.synth.run.local import (
    Batch,
    LocalSource,
    SynthesisResult,
    checked,
    conclude,
    draw_missing,
    ledger_in,
    make_batch,
    with_model,
)
from dail.synth.run.unit_source import Progress, Standing
from dail.synth.schema.card import write_card
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import identify
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import BeatReply, Failure, LeaseReply, ShardRef, Unit

Order = Literal["by_item", "by_batch"]


@dataclass(frozen=True)
class Drawn:
    """A batch, and what its traces took of the engines: rows, one for each step of each sequence.

    `rows` are of `row_tokens` trace tokens: of a trace that an interrupted run began they are not known.
    """

    batch: Batch
    result: SynthesisResult
    shards: tuple[ShardRef, ...]
    rows: int
    row_tokens: int


@dataclass(frozen=True)
class Several:
    """What became of the batches, in the order of their settings.

    `tokens` and `seconds` are of this call, from the first unit that an engine was given to the last trace: none were
    drawn where all was there before.
    """

    batches: tuple[Drawn, ...]
    interrupted: bool
    tokens: int
    seconds: float


class SeveralSources:
    """Deals units of several batches in turn, and tells each batch of its own.

    By item, an item's units of all batches come one after another: they have the same prompts, which are in the
    prefix cache then.
    """

    def __init__(self, sources: Mapping[str, LocalSource], order: Order = "by_item") -> None:
        self._sources, self._order = dict(sources), order
        self._turn = deque(self._sources.values())
        self._began: float | None = None
        self._ended = 0.0
        self.tokens = 0  # committed in this call

    @property
    def seconds(self) -> float:
        return 0.0 if self._began is None else max(0.0, self._ended - self._began)

    async def present(self) -> None:
        """Nobody else asks."""

    async def lease(self, count: int) -> LeaseReply:
        units: list[Unit] = []
        num_empty, reply = 0, await self._turn[0].lease(0)
        while len(units) < count and num_empty < len(self._turn):
            reply = await self._turn[0].lease(1 if self._order == "by_item" else count - len(units))
            units += reply.units
            num_empty = 0 if reply.units else num_empty + 1
            if self._order == "by_item" or not reply.units:
                self._turn.rotate(-1)
        if units and self._began is None:
            self._began = time.monotonic()
        return reply.model_copy(update={"units": tuple(units)})

    async def heartbeat(self, unit: Unit, progress: Progress) -> BeatReply:
        return await self._sources[unit.batch_id].heartbeat(unit, progress)

    async def upload(self, unit: Unit, key: str, data: bytes) -> None:
        await self._sources[unit.batch_id].upload(unit, key, data)

    async def commit(self, unit: Unit, shard: ShardRef, correct: bool | None = None, rows: int | None = None) -> None:
        await self._sources[unit.batch_id].commit(unit, shard, correct, rows)
        self.tokens += shard.tokens
        self._ended = time.monotonic()

    async def fail(self, unit: Unit, failure: Failure) -> None:
        await self._sources[unit.batch_id].fail(unit, failure)

    def finished(self) -> bool:
        return all(source.finished() for source in self._sources.values())

    def standing(self) -> Standing:
        each = [source.standing() for source in self._sources.values()]
        failed = sum(len(source.failures) for source in self._sources.values())
        figures: dict[str, object] = {"batches": f"{sum(one.done == one.total for one in each)}/{len(each)}"}
        if failed:
            figures["failed"] = failed
        return Standing(sum(one.done for one in each), sum(one.total for one in each), figures)


def synthesise_several(
    items: Source,
    out: str | Path,
    settings: Sequence[Synthesis],
    config: SynthConfig | None = None,
    *,
    model: str | Path | None = None,
    reading: Reading | None = None,
    order: Order = "by_item",
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> Several:
    """Draws what is missing of every batch, on this machine or on the cluster of RAY_ADDRESS.

    Args:
        items, out, config, model, reading, on_progress, stop: as those of `dail.synth.synthesise`.
        settings: of each batch.
        order: which units come first: an item's of all batches, or a batch's of all items.

    Raises:
        UsageError, InputError: items, model or settings cannot be used; nothing was started.
        EngineDead: no engine could be started, or none survived.
    """
    config, out = with_model(config, model), Path(out).resolve()
    read = read_solutions(items, (reading or Reading()).writing_to(out))
    with told_to(on_progress):
        return _draw(_batches(read.items, settings, config, out), config, out, order, stop)


def _batches(items: list[ExpertSolution], settings: Sequence[Synthesis], config: SynthConfig, out: Path) -> list[Batch]:
    model = identify(config.engine.model, student=config.student, privileged=config.privileged_adapter)
    batches = [make_batch(items, checked(one, config, model), model, out) for one in settings]
    if config.strategy == "lazy" and (inexact := [one for one in settings if not _is_lazy_exact(one)]):
        raise UsageError(
            f"worker.strategy is lazy, which is not exact for acceptance={inexact[0].acceptance} with "
            f"tau={inexact[0].tau:g}; set worker.strategy=auto, which takes lockstep there"
        )
    if len({batch.batch_id for batch in batches}) < len(batches):
        raise UsageError("two of the batches have the same settings; name each once")
    return batches


def _is_lazy_exact(synthesis: Synthesis) -> bool:
    return synthesis.method != "mixed" or lazy_is_exact(acceptance(synthesis))


def _draw(batches: list[Batch], config: SynthConfig, out: Path, order: Order, stop: Stop | None) -> Several:
    with ledger_in(out) as ledger:
        sources = {batch.batch_id: LocalSource(batch, ledger, out) for batch in batches}
        source = SeveralSources(sources, order)
        interrupted = draw_missing(source, batches, config, out, stop)
        drawn = [
            _drawn(sources[batch.batch_id], batch, out, interrupted and not sources[batch.batch_id].finished())
            for batch in batches
        ]
        write_card(out)
        return Several(tuple(drawn), interrupted, source.tokens, source.seconds)


def _drawn(source: LocalSource, batch: Batch, out: Path, interrupted: bool) -> Drawn:
    result = conclude(source, batch, out, interrupted)
    known = [(rows, shard.tokens) for rows, shard in zip(source.rows, source.shards, strict=True) if rows]
    return Drawn(
        batch, result, tuple(source.shards), sum(rows for rows, _ in known), sum(tokens for _, tokens in known)
    )
