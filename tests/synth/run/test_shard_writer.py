"""When finished traces become files, and what happens to those whose unit is lost meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dail.synth.core.errors import StorageError
from dail.synth.core.files import Objects
from dail.synth.run import shard_writer
from dail.synth.run.shard_writer import Ended, ShardWriter
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shard_reader import ShardReader
from dail.synth.schema.shards import TraceRow
from tests.serve.worker import trace_row
from tests.synth.run.test_worker import units


class Holder:
    """Holds units and takes what is committed."""

    def __init__(self, root: Path, model: ModelIdentity, count: int) -> None:
        self.rows = [trace_row(unit) for unit in units(model, count)]
        self.held = {row.unit_id for row in self.rows}
        self.committed: list[Ended] = []
        self.objects = Objects(root)
        self.writer = ShardWriter(self.held.__contains__, self._put, self._commit)

    async def _put(self, unit_id: str, key: str, data: bytes) -> None:
        assert unit_id in self.held
        await asyncio.to_thread(self.objects.put, key, data)

    async def _commit(self, ended: Ended) -> None:
        await asyncio.sleep(0)
        if ended.ref.unit_id in self.held:
            self.held.discard(ended.ref.unit_id)
            self.committed.append(ended)

    async def add(self, *rows: TraceRow) -> None:
        for row in rows:
            await self.writer.add(row, None, None)

    @property
    def files(self) -> list[int]:
        """How many traces each file has that were committed."""
        keys = [one.ref.key for one in self.committed]
        return [keys.count(key) for key in dict.fromkeys(keys)]


def run(holder: Holder, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def both() -> None:
        writing = asyncio.ensure_future(holder.writer.run())
        try:
            await asyncio.wait_for(what(), 60)
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    asyncio.run(both())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("limit", "value", "files"), [("MOST_TRACES", 3, [3, 3]), ("MOST_BYTES", 1, [1] * 6), ("WAIT_S", 0.0, [6])]
)
def test_a_file_is_written_by_number_bytes_and_time(
    tmp_path: Path, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch, limit: str, value: float, files: list[int]
) -> None:
    monkeypatch.setattr(shard_writer, limit, value)
    holder = Holder(tmp_path, model, 6)

    async def go() -> None:
        for row in holder.rows:
            await holder.add(row)
        await until(lambda: not holder.held)

    run(holder, go)
    assert holder.files == files
    reader = ShardReader(Objects(tmp_path))
    read = [reader.rows(one.ref)[0] for one in holder.committed]
    assert [row.unit_id for row in read] == [row.unit_id for row in holder.rows]


def test_nothing_is_written_before_it_is_due(tmp_path: Path, model: ModelIdentity) -> None:
    holder = Holder(tmp_path, model, 3)

    async def go() -> None:
        await holder.add(*holder.rows)
        await asyncio.sleep(1.5 * shard_writer._CHECK_S)
        assert not holder.committed and len(holder.writer.waiting()) == 3
        holder.writer.hurry()
        await until(lambda: not holder.held)

    run(holder, go)
    assert holder.files == [3] and not holder.writer.waiting()


def test_batches_have_files_of_their_own(tmp_path: Path, model: ModelIdentity) -> None:
    holder = Holder(tmp_path, model, 4)
    rows = [row.model_copy(update={"batch_id": f"b{n % 2}"}) for n, row in enumerate(holder.rows)]

    async def go() -> None:
        await holder.add(*rows)
        await holder.writer.end()

    asyncio.run(go())
    assert holder.files == [2, 2]
    assert {one.ref.key.split("/")[1] for one in holder.committed} == {"b0", "b1"}


def test_a_unit_that_is_lost_meanwhile_leaves_a_row_that_is_not_committed(tmp_path: Path, model: ModelIdentity) -> None:
    holder = Holder(tmp_path, model, 3)

    async def go() -> None:
        await holder.add(*holder.rows)
        holder.held.discard("u1")
        assert sorted(holder.writer.waiting()) == ["u0", "u2"]
        await holder.writer.end()

    asyncio.run(go())
    assert [(one.ref.unit_id, one.ref.row) for one in holder.committed] == [("u0", 0), ("u2", 2)]


def test_a_file_of_lost_units_alone_is_not_written(tmp_path: Path, model: ModelIdentity) -> None:
    holder = Holder(tmp_path, model, 2)

    async def go() -> None:
        await holder.add(*holder.rows)
        holder.held.clear()
        await holder.writer.end()

    asyncio.run(go())
    assert not list(tmp_path.rglob("*.parquet"))


def test_while_the_disk_refuses_no_more_traces_are_taken_than_it_may_wait_for(
    tmp_path: Path, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("MOST_TRACES", 1), ("_DISK_PAUSE_S", 0.01), ("_CHECK_S", 0.01)):
        monkeypatch.setattr(shard_writer, name, value)
    put, is_full = Objects.put, True

    def refuse(self: Objects, key: str, data: bytes) -> None:
        if is_full:
            raise StorageError("cannot write it: No space left on device")
        put(self, key, data)

    monkeypatch.setattr(Objects, "put", refuse)
    holder, taken = Holder(tmp_path, model, 8), []

    async def go() -> None:
        nonlocal is_full

        async def feed() -> None:
            for row in holder.rows:
                await holder.add(row)
                taken.append(row)

        feeding = asyncio.ensure_future(feed())
        await asyncio.sleep(0.3)
        assert len(taken) == shard_writer._MOST_FULL
        is_full = False
        await feeding
        await until(lambda: not holder.held)

    run(holder, go)
    assert holder.files == [1] * 8


def test_a_write_that_is_broken_off_is_done_at_the_end(
    tmp_path: Path, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, begun = Holder(tmp_path, model, 2), asyncio.Event()
    commit = holder.writer._commit

    async def slow(ended: Ended) -> None:
        begun.set()
        await asyncio.sleep(30)

    holder.writer._commit = slow

    async def go() -> None:
        await holder.add(*holder.rows)
        holder.writer.hurry()
        await begun.wait()

    run(holder, go)
    assert not holder.committed
    holder.writer._commit = commit
    asyncio.run(holder.writer.end())
    assert holder.files == [2]
