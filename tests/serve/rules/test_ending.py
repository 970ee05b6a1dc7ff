"""A batch ends once, also if the disk refuses its manifest or the server is killed over it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dail.serve.batch_in import BatchIn
from dail.serve.rules.ending import manifest_of
from dail.serve.rules.errors import Damaged
from dail.serve.rules.service import Service
from dail.serve.store.transaction import Store
from dail.synth.core.files import Objects
from dail.synth.schema.manifest import encode_manifest, read_manifest
from dail.synth.schema.units import Commit, LeaseRequest
from tests.serve.conftest import items
from tests.serve.worker import write_shard


def test_an_end_that_the_disk_refused_is_made_up_for_by_the_next_sweep(tmp_path, model):
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": model}, 60)
    batch, _ = service.batches.create(BatchIn.parse({"items": items(1)}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    shard = write_shard(service.objects, unit)
    manifests = service.objects.root / "manifests"
    manifests.write_text("in the way")
    service.leases.commit(unit.unit_id, Commit(worker="w", epoch=unit.epoch, shard=shard))
    assert service.batches.get(batch.id).status == "finalizing"
    manifests.unlink()
    service.ending.sweep()
    assert service.batches.get(batch.id).status == "completed"


def test_two_that_end_a_batch_at_once_tell_it_once(tmp_path, model, caplog, monkeypatch):
    service, batch = _finished(tmp_path, model)
    write = service.ending._write_manifest

    def after_the_other(record, shards):
        monkeypatch.setattr(service.ending, "_write_manifest", write)
        service.ending.finish(batch)
        return write(record, shards)

    monkeypatch.setattr(service.ending, "_write_manifest", after_the_other)
    with caplog.at_level(logging.INFO):
        service.ending.finish(batch)
    assert [record.getMessage() for record in caplog.records].count("batch_ended") == 1


def test_a_batch_killed_between_manifest_and_end_is_ended_by_the_next_start(tmp_path, model):
    service, batch = _finished(tmp_path, model)
    service.ending.finish(batch)
    first = service.batches.get(batch).manifest
    with service.store.write() as tx:  # as if the last write had not happened
        tx._sql.exec_driver_sql("UPDATE batches SET status = 'finalizing', ended_at = NULL")
        tx._sql.exec_driver_sql("DELETE FROM manifests")
    service.start()
    assert (service.batches.get(batch).status, service.batches.get(batch).manifest) == ("completed", first)


def test_a_sweep_after_the_end_writes_the_data_set_card_of_the_output_root(tmp_path, model):
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": model}, 60)
    service.start()
    assert not (tmp_path / "o" / "README.md").exists()
    batch, _ = service.batches.create(BatchIn.parse({"items": items(1)}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    shard = write_shard(service.objects, unit)
    service.leases.commit(unit.unit_id, Commit(worker="w", epoch=unit.epoch, shard=shard))
    service.ending.sweep()
    assert f'- config_name: "{batch.id}"' in (tmp_path / "o" / "README.md").read_text()


def _finished(tmp_path, model):
    """A service whose only batch has its one unit committed, and is not ended: its manifest's key is free."""
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": model}, 60)
    batch, _ = service.batches.create(BatchIn.parse({"items": items(1)}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    shard = write_shard(service.objects, unit)
    with service.store.write() as tx:
        tx.units.commit(tx.units.held(unit.unit_id, "w", unit.epoch), shard)
        tx.batches.settle(batch.id)
    return service, batch.id


def _manifest_bytes(service, batch):
    with service.store.read() as tx:
        return encode_manifest(manifest_of(tx.batches.get(batch), tx.shards.of_batch(batch)))


def test_a_manifest_begun_by_one_release_is_ended_by_the_next(tmp_path, model, monkeypatch):
    service, batch = _finished(tmp_path, model)
    service.objects.put(f"manifests/{batch}/v1.json", _manifest_bytes(service, batch))
    monkeypatch.setattr("dail.synth.schema.manifest.TOOL_VERSION", "99.0")
    monkeypatch.setattr("dail.serve.rules.ending.TOOL_VERSION", "99.0")
    service.ending.sweep()
    found = service.batches.get(batch)
    assert (found.status, found.generation) == ("completed", 1)


def test_a_key_that_holds_something_else_gives_the_next_manifest(tmp_path, model):
    service, batch = _finished(tmp_path, model)
    service.objects.put(f"manifests/{batch}/v1.json", b"a stray file")
    service.ending.sweep()
    service.ending.sweep()
    found = service.batches.get(batch)
    assert (found.status, found.generation, found.ending_error) == ("completed", 2, None)
    assert read_manifest(Path(found.manifest.path)).rows == 1


def test_an_end_that_is_refused_is_told_on_the_batch(tmp_path, model):
    service, batch = _finished(tmp_path, model)
    (service.objects.root / "manifests").write_text("in the way")
    service.ending.sweep()
    assert "cannot write" in service.batches.get(batch).ending_error
    (service.objects.root / "manifests").unlink()
    service.ending.sweep()
    found = service.batches.get(batch)
    assert (found.status, found.ending_error) == ("completed", None)


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:99])])
def test_a_manifest_that_is_gone_or_cut_is_given_by_the_store(tmp_path, model, harm):
    service, batch = _finished(tmp_path, model)
    service.ending.sweep()
    path = Path(service.batches.get(batch).manifest.path)
    before = read_manifest(path)
    harm(path)
    assert service.outputs.manifest(batch) == before


def test_a_manifest_that_nobody_can_make_again_is_refused_and_not_guessed(tmp_path, model):
    service, batch = _finished(tmp_path, model)
    service.ending.sweep()
    Path(service.batches.get(batch).manifest.path).unlink()
    with service.store.write() as tx:
        tx._sql.exec_driver_sql("UPDATE batches SET settled_by = 'a release that is not said'")
    with pytest.raises(Damaged, match="restore it from a copy"):
        service.outputs.manifest(batch)


def test_shards_that_rot_are_counted_on_the_batch_until_they_are_restored(tmp_path, model):
    service, batch = _finished(tmp_path, model)
    service.ending.sweep()
    (shard,) = service.outputs.shards(batch).data
    path = service.objects.path(shard.key)
    kept = path.read_bytes()
    path.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert [one.status for one in service.outputs.results(batch)] == ["failed"]
    assert service.batches.get(batch).damaged_shards == 1
    path.write_bytes(kept)
    assert [one.status for one in service.outputs.results(batch)] == ["succeeded"]
    assert service.batches.get(batch).damaged_shards == 0
