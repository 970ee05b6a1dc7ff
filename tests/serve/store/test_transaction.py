from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dail.serve.store import units
from dail.serve.store.batches import NewBatch
from dail.serve.store.one_writer import OneWriter
from dail.serve.store.tables import STORE_VERSION
from dail.serve.store.transaction import Store
from dail.synth.core.errors import StorageError, StoreBusy, UsageError
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.kinds import ItemKinds
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Failure, unit_id


@pytest.fixture
def store(place):
    store = Store(place)
    yield store
    store.close()


@pytest.fixture
def file_store(tmp_path):
    store = Store(tmp_path / "dail.sqlite")
    yield store
    store.close()


def new_batch(model, name="b1", num_items=1, num_samples=1):
    solutions = [ExpertSolution(id=f"i{n}", problem=f"{n}?", solution=f"{n}.") for n in range(num_items)]
    synthesis = Synthesis(samples_per_item=num_samples)
    samples = [
        (unit_id(item, synthesis, model, sample), item.id, sample, "queued")
        for item in solutions
        for sample in range(num_samples)
    ]
    return NewBatch(
        id=name,
        idempotency_key=f"key {name}",
        body_hash="hash",
        model=model,
        model_key="model",
        synthesis=synthesis,
        kinds=ItemKinds(),
        run_label=None,
        metadata={},
        window_s=None,
        items=solutions,
        units=samples,
        positions=range(num_items),
        skipped=(),
    )


@pytest.mark.parametrize(
    ("version", "way_out"),
    [(1, "serve it with the release"), (4, "serve it with the release"), (STORE_VERSION + 1, "upgrade dail")],
)
def test_a_store_of_another_version_is_refused_with_what_to_do(tmp_path, version, way_out):
    path = tmp_path / "dail.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    with pytest.raises(StorageError, match=f"has version {version}, this build reads {STORE_VERSION}; {way_out}"):
        Store(path)


def test_a_file_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "dail.sqlite").write_bytes(b"not a database, but long enough to be read as one" * 20)
    with pytest.raises(StorageError, match="refused"):
        Store(tmp_path / "dail.sqlite")


def test_what_is_acknowledged_is_synced_to_the_disk(file_store):
    with file_store.read() as tx:
        assert tx._sql.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert tx._sql.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert tx._sql.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_network_disk_is_refused_and_a_disk_that_may_be_one_shares_no_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("dail.serve.store.databases.remote_file_system", lambda path: "nfs4")
    with pytest.raises(UsageError, match=r"network disk \(nfs4\).*DAIL_STORE=postgresql"):
        Store(tmp_path / "dail.sqlite")
    monkeypatch.setattr("dail.serve.store.databases.remote_file_system", lambda path: "fuse.s3fs")
    store = Store(tmp_path / "dail.sqlite")
    with store.read() as tx:
        assert tx._sql.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
    store.close()
    assert "network disk (fuse.s3fs)" in caplog.text


def test_a_transaction_that_fails_leaves_nothing(store, model):
    with pytest.raises(RuntimeError), store.write() as tx:
        tx.batches.add(new_batch(model))
        raise RuntimeError
    with store.read() as tx:
        assert tx.batches.get("b1") is None


def test_reads_of_one_transaction_see_one_moment(store, model):
    with store.read() as before:
        assert before.batches.page(None, None, 10) == []
        writer = threading.Thread(target=_write, args=(store, model))
        writer.start()
        assert before.batches.page(None, None, 10) == []
    writer.join()
    with store.read() as after:
        assert len(after.batches.page(None, None, 10)) == 1


def _write(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model))


def test_no_update_is_lost_under_four_threads(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        (leased,) = tx.units.claim("model", "w", 1, 60)

    def count_up(_):
        for _ in range(10):
            with store.write() as tx:
                unit = tx.units.held(leased.unit_id, "w", leased.epoch)
                tx.units.renew(unit, 60, unit.tokens + 1, 0, 0)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count_up, range(4)))
    with store.read() as tx:
        assert tx.batches.tally("b1").tokens == 40


def test_a_change_of_state_that_comes_too_late_moves_nothing(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        (leased,) = tx.units.claim("model", "w", 1, 60)
        unit = tx.units.held(leased.unit_id, "w", leased.epoch)
        assert tx.units.hand_back(unit) == 1
        assert tx.units.renew(unit, 60, 1, 1, 1) == 0
        assert tx.units.hand_back(unit) == 0


def test_a_batch_is_ended_only_once_it_is_settled(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        assert tx.batches.settle("b1") == 0
        assert tx.batches.end("b1", 1, None) == 0
        tx.batches.start_cancel("b1")
        tx.units.cancel("b1")
        assert [tx.batches.settle("b1"), tx.batches.settle("b1")] == [1, 0]
        assert [tx.batches.end("b1", 1, None), tx.batches.end("b1", 1, None)] == [1, 0]
        assert tx.batches.get("b1").status == "cancelled"


def test_a_worker_gets_units_of_its_own_model_only(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        assert tx.units.claim("another model", "w", 1, 60) == []
        assert len(tx.units.claim("model", "w", 1, 60)) == 1


def test_the_state_of_an_item_follows_from_its_units(store, model):
    with store.write() as tx:
        tx.batches.add(new_batch(model, num_samples=2))
        seen = [tx.batches.item_status("b1", "i0")]
        first, second = (tx.units.held(unit.unit_id, "w", unit.epoch) for unit in tx.units.claim("model", "w", 2, 60))
        seen.append(tx.batches.item_status("b1", "i0"))
        tx.units.hand_back(first)
        tx.units.hand_back(second)
        tx.batches.start_cancel("b1")
        tx.units.cancel("b1")
        seen.append(tx.batches.item_status("b1", "i0"))
    assert seen == ["queued", "running", "cancelled"]


def test_a_store_that_another_process_holds_is_busy_and_not_full(file_store, monkeypatch):
    other = sqlite3.connect(file_store.name, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with file_store.read() as tx:  # SQLite's own wait, of every pooled connection, would be 30 s
        tx._sql.exec_driver_sql("PRAGMA busy_timeout=10")
    with pytest.raises(StoreBusy, match="held by another writer"), file_store.write():
        pass
    other.execute("ROLLBACK")
    other.close()
    with file_store.write():
        pass


def test_leases_run_by_the_machines_clock_and_not_by_the_time_of_day(store, model, monkeypatch):
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        (leased,) = tx.units.claim("model", "w", 1, 60)
    monkeypatch.setattr(units, "NOW", units.NOW + 7200.0)
    with store.write() as tx:
        assert tx.units.claim("model", "w2", 1, 60) == []
        now = units.lease_clock()
        monkeypatch.setattr(units, "lease_clock", lambda: now + 61)
        assert [unit.epoch for unit in tx.units.claim("model", "w2", 1, 60)] == [leased.epoch + 1]


def test_a_lapsed_unit_is_queued_and_its_worker_may_still_bring_it_until_another_has_it(store, model, monkeypatch):
    lost = Failure(code="lease_lost", detail="")
    with store.write() as tx:
        tx.batches.add(new_batch(model))
        (leased,) = tx.units.claim("model", "w", 1, 60)
    now = units.lease_clock()
    monkeypatch.setattr(units, "lease_clock", lambda: now + 61)
    with store.write() as tx:
        assert tx.units.give_back_lapsed(10, lost) == [("b1", "i0", False)]
        assert tx.units.give_back_lapsed(10, lost) == []
        assert tx.batches.item_status("b1", "i0") == "queued"
        late = tx.units.held(leased.unit_id, "w", leased.epoch)
        assert late.state == "queued"
        assert tx.units.renew(late, 60, 5, 5, 5) == 1
        assert tx.batches.item_status("b1", "i0") == "running"
    monkeypatch.setattr(units, "lease_clock", lambda: now + 200)
    with store.write() as tx:
        tx.units.give_back_lapsed(10, lost)
        assert len(tx.units.claim("model", "w2", 1, 60)) == 1
        assert tx.units.held(leased.unit_id, "w", leased.epoch) is None


def test_no_two_stores_of_one_file_write_or_checkpoint_at_once(file_store, model):
    """What SQLite before 3.51.3 needs for its write-ahead log: also a file_store that closes waits."""
    other = Store(Path(file_store.name))
    began, done = threading.Event(), []

    def write():
        began.set()
        _write(other, model)
        done.append("wrote")
        other.close()

    with file_store.write() as tx:
        thread = threading.Thread(target=write)
        thread.start()
        began.wait()
        with OneWriter(Path(file_store.name)).holding(0) as is_held:
            assert not is_held
        assert tx.batches.get("b1") is None
        assert done == []
    thread.join()
    with file_store.read() as tx:
        assert tx.batches.get("b1")
