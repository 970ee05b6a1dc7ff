"""A store of an older release, made by its own tables, is opened by this one and goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa

from dail.serve.store.migrations import _STEPS
from dail.serve.store.tables import SHARDS, STORE_VERSION
from dail.serve.store.transaction import Store
from dail.synth.core.errors import StorageError
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef

TABLES_OF_5 = (Path(__file__).parent / "version_5.sql").read_text("utf-8")


def store_of_5(path, model):
    """One batch of two units, one of them leased by the wall clock of that version."""
    with sqlite3.connect(path) as sql:
        sql.executescript(TABLES_OF_5)
        batch = (model.model_dump_json(), Synthesis().model_dump_json())
        sql.execute(
            "INSERT INTO batches (id, idempotency_key, body_hash, status, model, model_key, synthesis, kinds, metadata,"
            " generation, created_at) VALUES ('b1', 'key', 'hash', 'in_progress', ?, 'model', ?, '{}', '{}', 1, 1e9)",
            batch,
        )
        item = ExpertSolution(id="i0", problem="1?", solution="1.").model_dump_json()
        sql.execute("INSERT INTO items VALUES ('b1', 'i0', 0, ?)", (item,))
        for sample, state, until in ((0, "leased", 1.8e9), (1, "queued", None)):
            sql.execute(
                "INSERT INTO units (unit_id, batch_id, item_id, sample, state, owner, epoch, lease_until, leases,"
                " failures, tokens, attributed_tokens, student_tokens) VALUES (?,'b1','i0',?,?,'w',?,?,0,0,0,0,0)",
                (f"u{sample}", sample, state, 1 - sample, until),
            )
    sql.close()


def shape(path):
    with sqlite3.connect(path) as sql:
        names = sql.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
        columns = {
            name: {column[1] for column in sql.execute(f"PRAGMA table_info({name})")}
            for kind, name in names
            if kind == "table"
        }
        return sorted(names), columns, sql.execute("PRAGMA user_version").fetchone()


def test_a_store_of_version_5_goes_on_with_its_leases(tmp_path, model):
    store_of_5(tmp_path / "old.sqlite", model)
    store = Store(tmp_path / "old.sqlite")
    Store(tmp_path / "new.sqlite").close()
    assert shape(tmp_path / "old.sqlite") == shape(tmp_path / "new.sqlite")
    with store.write() as tx:
        tx.units.extend_leases(60)
        assert tx.batches.get("b1").status == "in_progress"
        assert +tx.counts._kept("b1") == +tx.counts.count("b1")
        assert tx.units.held("u0", "w", 1)
        (unit,) = tx.units.claim("model", "w2", 2, 60)
        assert (unit.unit_id, unit.epoch) == ("u1", 1)
    store.close()
    Store(tmp_path / "old.sqlite").close()


def test_shards_of_an_older_store_stay_and_those_to_come_may_hold_several_traces(tmp_path, model):
    store_of_5(tmp_path / "old.sqlite", model)
    old = ShardRef(
        key="shards/b1/u1/e1-00.parquet", rows=1, size_bytes=9, sha256="00", unit_id="u1", item_id="i0", tokens=4,
        attributed_tokens=3, student_tokens=2,
    )  # fmt: skip
    with sqlite3.connect(tmp_path / "old.sqlite") as sql:
        (unit,) = sql.execute("SELECT n FROM units WHERE unit_id = 'u1'").fetchone()
        row = {"unit": unit, "batch_id": "b1", **old.model_dump()}
        names = ", ".join(row)
        sql.execute(f"INSERT INTO shards ({names}) VALUES ({', '.join('?' * len(row))})", tuple(row.values()))
    sql.close()
    store = Store(tmp_path / "old.sqlite")
    with store.write() as tx:
        assert tx.shards.of_batch("b1") == [old]
        tx.shards.add(unit - 1, "b1", old.model_copy(update={"unit_id": "u0", "row": 1}))
        assert [ref.row for ref in tx.shards.of_batch("b1")] == [1, 0]
    with pytest.raises(sa.exc.IntegrityError), store.write() as tx:
        tx._sql.execute(SHARDS.update().values(row=0))  # two units with one row
    store.close()


def test_a_migration_that_stops_leaves_the_old_version_whole(tmp_path, model, monkeypatch):
    store_of_5(tmp_path / "old.sqlite", model)
    before = shape(tmp_path / "old.sqlite")

    def half(sql, step=_STEPS[5]):
        step(sql)
        raise StorageError("stopped")

    monkeypatch.setitem(_STEPS, 5, half)
    with pytest.raises(StorageError, match="stopped"):
        Store(tmp_path / "old.sqlite")
    assert shape(tmp_path / "old.sqlite") == before
    assert STORE_VERSION not in _STEPS
