"""What is known of workers: whether one may work here at all, and for whom batches wait."""

from __future__ import annotations

import threading
import time

from dail.serve.bodies import WaitingFor
from dail.serve.rules.errors import Conflict
from dail.serve.rules.models import check_registered, model_key
from dail.serve.store.batches import BatchRecord
from dail.serve.store.transaction import Store, Transaction
from dail.synth.core.config import TOOL_VERSION
from dail.synth.core.files import Objects
from dail.synth.core.objects import mark
from dail.synth.schema.models import ModelIdentity, differences
from dail.synth.schema.shards import SCHEMA_VERSION
from dail.synth.schema.units import WIRE_VERSION, Hello, HelloReply

SILENT_S = 60.0  # a worker of whom nothing was heard for so long is not counted on
_TELL_EVERY_S = 5.0  # a worker's row is written at most so often for its asking


class Workers:
    def __init__(self, store: Store, objects: Objects, models: dict[str, ModelIdentity], lease_s: float) -> None:
        self._store, self._objects, self._models, self._lease_s = store, objects, models, lease_s
        self._told: dict[tuple[str, str], float] = {}  # when a worker's row was last written for this model
        self._lock = threading.Lock()

    def hello(self, hello: Hello) -> HelloReply:
        """Before a worker starts an engine. Raises Conflict or InputError for one that could not work here."""
        check_wire(hello.wire, hello.tool_version)
        if hello.schema_version != SCHEMA_VERSION:
            raise Conflict(
                "schema_version",
                f"this worker writes shards of version {hello.schema_version}, and this API reads {SCHEMA_VERSION}; "
                f"install dail {TOOL_VERSION} where the worker runs, or the worker's {hello.tool_version} here",
            )
        with self._store.write() as tx:
            if not tx.batches.wants(model_key(hello.model)):  # of an open batch of files that were registered before
                check_registered(self._models, hello.model)
            tx.workers.saw(hello.worker, model_key(hello.model), hello.model, hello.host, hello.versions)
            now = tx.now()
        return HelloReply(
            wire=WIRE_VERSION,
            tool_version=TOOL_VERSION,
            lease_s=self._lease_s,
            time=now,
            output_root=self._objects.url,
            mark=mark(self._objects),
        )

    def asks(self, tx: Transaction, worker: str, model: ModelIdentity) -> None:
        """A worker asked for units of this model."""
        if self._is_due(worker, key := model_key(model)):
            tx.workers.saw(worker, key, model)

    def beats(self, tx: Transaction, worker: str) -> None:
        """Something was heard of a worker."""
        if self._is_due(worker, ""):
            tx.workers.heard(worker)

    def _is_due(self, worker: str, key: str) -> bool:
        now = time.monotonic()
        with self._lock:
            if now - self._told.get((worker, key), -_TELL_EVERY_S) < _TELL_EVERY_S:
                return False
            if len(self._told) > 10_000:
                self._told.clear()
            self._told[worker, key] = now
        return True


def check_wire(wire: int, version: str) -> None:
    """Raises Conflict where the two would not understand each other."""
    if wire != WIRE_VERSION:
        raise Conflict(
            "wire_version",
            f"this worker speaks version {wire} of the lease protocol (dail {version}), this API version "
            f"{WIRE_VERSION} (dail {TOOL_VERSION}); install one release of dail on both",
        )


def waiting_for(tx: Transaction, batch: BatchRecord, num_queued: int, num_leased: int) -> WaitingFor | None:
    """None while somebody works on the batch, or could."""
    if batch.status != "in_progress" or not num_queued or num_leased:
        return None
    recent = tx.workers.recent(SILENT_S)
    wanted = model_key(batch.model)
    if any(worker.model_key == wanted for worker in recent):
        return None
    name, revision = batch.model.name, batch.model.revision[:20]
    namesakes = [worker for worker in recent if worker.model.name == name]
    if namesakes:
        parts = sorted({part for worker in namesakes for part in differences(worker.model, batch.model)})
        return WaitingFor(
            reason="other_model",
            detail=f"{len(namesakes)} workers ask for a model {name} whose {', '.join(parts)} are not those of this "
            f"batch (revision {revision}); start one with the files it was posted for, or cancel it and post it again",
        )
    return WaitingFor(
        reason="no_worker",
        detail=f"no worker with the model {name} (revision {revision}) was heard of in the last {SILENT_S:.0f} s; "
        f"start one: dail worker --api URL --model FOLDER",
    )


def work_that_nobody_can_do(store: Store) -> str:
    """For a readiness check: how many batches wait for a worker that is not there."""
    with store.read() as tx:
        asked = {worker.model_key for worker in tx.workers.recent(SILENT_S)}
        waiting = [name for key, name in tx.batches.models_wanted() if key not in asked]
    if not waiting:
        return "every open batch has a worker that could draw it"
    return f"{len(waiting)} open batches wait for a worker with their model: {', '.join(sorted(set(waiting)))}"
