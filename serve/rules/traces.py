"""Traces of a batch for people who read them: a list of what has ended, and one trace as `synth/view` shows it."""

from __future__ import annotations

from dail.serve.bodies import TracePage
from dail.serve.rules.errors import Damaged, NotFound, existing
from dail.serve.store.transaction import Store, Transaction
from dail.serve.store.units import UnitRecord
from dail.synth.core.errors import IntegrityError
from dail.synth.core.files import Objects
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.selection import MATH, OFFICIAL
from dail.synth.schema.shard_reader import ShardReader
from dail.synth.schema.units import Failure, ShardRef
from dail.synth.view.traces import (
    FILTERS,
    SUMMARY_COLUMNS,
    Filter,
    Outcome,
    TraceSummary,
    TraceView,
    summarised,
    viewed,
)

MOST_LOOKED_AT = 200  # of one request that filters, since texts are read for it


class Traces:
    def __init__(self, store: Store, objects: Objects) -> None:
        self._store, self._objects = store, objects

    def page(self, batch_id: str, only: Filter | None, after: str | None, limit: int) -> TracePage:
        """In the order of drawing. With a filter a page may have few or none, and more may come behind it."""
        most = limit if only is None else MOST_LOOKED_AT
        with self._store.read() as tx:
            grader = existing(tx, batch_id).synthesis.grader
            last = 0 if after is None else _unit(tx, batch_id, after)[0].n
            ended = tx.units.ended(batch_id, last, most + 1)
        reader, found, last_id, num_read = ShardReader(self._objects), list[TraceSummary](), after, 0
        for unit, shard in ended[:most]:
            if len(found) == limit:
                break
            num_read, last_id = num_read + 1, unit.unit_id
            summary = _summary(reader, unit, shard, grader)
            if summary is not None and (only is None or FILTERS[only](summary)):
                found.append(summary)
        return TracePage(data=tuple(found), last_id=last_id, has_more=num_read < len(ended))

    def get(self, batch_id: str, unit_id: str) -> TraceView:
        """Raises NotFound (no such unit, or without a trace) or Damaged."""
        with self._store.read() as tx:
            grader = existing(tx, batch_id).synthesis.grader
            unit, shard = _unit(tx, batch_id, unit_id)
        if shard is None:
            raise NotFound(f"that unit is {unit.state} and has no trace; GET /v1/batches/{batch_id}/items says why")
        try:
            (row,) = ShardReader(self._objects).rows(shard)
        except IntegrityError as error:
            raise Damaged("damaged_shard", str(error)) from None
        return viewed(row, _verdict(unit, grader, row.answer, row.truncated, row.trace_text))


def _unit(tx: Transaction, batch_id: str, unit_id: str) -> tuple[UnitRecord, ShardRef | None]:
    found = tx.units.of_unit(batch_id, unit_id)
    if found is None:
        raise NotFound(f"{batch_id} has no such unit; GET /v1/batches/{batch_id}/traces lists those that ended")
    return found


def _summary(reader: ShardReader, unit: UnitRecord, shard: ShardRef | None, grader: str) -> TraceSummary | None:
    """None of what nobody wants to read: samples that were not needed, or that somebody cancelled."""
    if shard is None:
        if unit.error is None:
            return None
        return TraceSummary(unit_id=unit.unit_id, item_id=unit.item_id, sample=unit.sample, error=unit.error)
    try:
        (row,) = reader.columns(shard, (*SUMMARY_COLUMNS, "answer"))
    except IntegrityError as error:
        damage = Failure(code="damaged_shard", detail=str(error))
        return TraceSummary(unit_id=unit.unit_id, item_id=unit.item_id, sample=unit.sample, error=damage)
    return summarised(row, _verdict(unit, grader, row["answer"], row["truncated"], row["trace_text"]))


def _verdict(unit: UnitRecord, grader: str, answer: str | None, is_cut: bool, text: str) -> Outcome | None:
    """As its worker judged it, where the batch asked for verdicts. Else the API grades nothing, but sees what ended
    without an answer: cut, or without the box that our graders look for."""
    if answer is None:
        return "no_answer"
    if is_cut:
        return "cut"
    if unit.correct is not None:
        return "correct" if unit.correct else "wrong"
    return "wrong" if grader in (MATH, OFFICIAL) and final_answer(text) is None else None
