"""A batch ends once, also if the disk refuses its manifest or the server is killed over it."""

from __future__ import annotations

from dail.serve.batch_in import BatchIn
from dail.serve.rules.service import Service
from dail.serve.store.transaction import Store
from dail.synth.core.files import Objects
from dail.synth.schema.units import Commit, LeaseRequest
from tests.serve.conftest import items
from tests.serve.worker import write_shard


def test_an_end_that_the_disk_refused_is_made_up_for_by_the_next_sweep(tmp_path, model):
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": model}, 60)
    batch, _ = service.batches.create(BatchIn.parse({"items": items(1)}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    shard = write_shard(service.objects.root, unit)
    manifests = service.objects.root / "manifests"
    manifests.write_text("in the way")
    service.leases.commit(unit.unit_id, Commit(worker="w", epoch=unit.epoch, shard=shard))
    assert service.batches.get(batch.id).status == "finalizing"
    manifests.unlink()
    service.ending.sweep()
    assert service.batches.get(batch.id).status == "completed"


def test_a_batch_killed_between_manifest_and_end_is_ended_by_the_next_start(tmp_path, model):
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": model}, 60)
    batch, _ = service.batches.create(BatchIn.parse({"items": items(1)}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    shard = write_shard(service.objects.root, unit)
    with service.store.write() as tx:
        tx.units.commit(tx.units.held(unit.unit_id, "w", unit.epoch), shard)
        tx.batches.settle(batch.id)
    service.ending.finish(batch.id)
    first = service.batches.get(batch.id).manifest
    with service.store.write() as tx:  # as if the last write had not happened
        tx._sql.exec_driver_sql("UPDATE batches SET status = 'finalizing', ended_at = NULL")
        tx._sql.exec_driver_sql("DELETE FROM manifests")
    service.start()
    assert (service.batches.get(batch.id).status, service.batches.get(batch.id).manifest) == ("completed", first)


def test_a_sweep_after_the_end_writes_the_data_set_card_of_the_output_root(tmp_path, model):
    service = Service(Store(tmp_path / "dail.sqlite"), Objects(tmp_path / "o"), {"tiny": model}, 60)
    service.start()
    assert not (tmp_path / "o" / "README.md").exists()
    batch, _ = service.batches.create(BatchIn.parse({"items": items(1)}), None)
    (unit,) = service.leases.lease(LeaseRequest(worker="w", count=1, model=model)).units
    shard = write_shard(service.objects.root, unit)
    service.leases.commit(unit.unit_id, Commit(worker="w", epoch=unit.epoch, shard=shard))
    service.ending.sweep()
    assert f'- config_name: "{batch.id}"' in (tmp_path / "o" / "README.md").read_text()
