"""The rules: what may become what. No SQL, no HTTP.

    batch   in_progress ──every unit ended──▶ finalizing ──manifest written──▶ completed
                 ├─cancel─▶ cancelling ──every unit ended or 60 s, manifest written──▶ cancelled
                 └─time over─▶ finalizing ──manifest written──▶ expired
            completed | cancelled | expired ──retry──▶ in_progress, the next generation
    unit    queued ⇄ leased ─▶ committed | failed | cancelled | expired
            failed | cancelled | expired ─▶ queued | waiting: a retry
            waiting ─▶ queued | skipped, queued | leased ─▶ skipped: where samples are drawn until there are enough

A batch is checked and stored in one step, so it starts as in_progress. `completed` means that every unit has ended,
failures included: also a batch without a single trace is completed, its counts say what happened, and it has no
manifest, since there is nothing to train on.
"""

from __future__ import annotations

from copy import copy
from typing import Self

from dail.serve.rules.batches import Batches
from dail.serve.rules.ending import Ending
from dail.serve.rules.items import Items
from dail.serve.rules.leases import Leases
from dail.serve.rules.outputs import Outputs
from dail.serve.rules.traces import Traces
from dail.serve.rules.workers import Workers
from dail.serve.store.transaction import Store
from dail.synth.core.files import Objects
from dail.synth.schema.models import ModelIdentity


class Service:
    """All rules over one store. People ask for batches, items and outputs, workers for leases."""

    def __init__(
        self, store: Store, objects: Objects, models: dict[str, ModelIdentity], lease_s: float, open_batches: int = 20
    ) -> None:
        self.store = store
        self.objects = objects
        self.models = models
        self.lease_s = lease_s
        self.open_batches = open_batches
        self.ending = Ending(store, objects)
        self.batches = Batches(store, objects, models, self.ending, open_batches)
        self.items = Items(store)
        self.outputs = Outputs(store, objects)
        self.traces = Traces(store, objects)
        self.workers = Workers(store, objects, models, lease_s)
        self.leases = Leases(store, objects, models, lease_s, self.ending, self.workers)

    def for_caller(self, tenant: str, sees_all: bool) -> Self:
        """The same service as somebody sees it who posts for a tenant: other tenants' batches are not there."""
        if sees_all and not tenant:
            return self
        view = copy(self)
        store = self.store if sees_all else self.store.seen_by(tenant)
        view.batches = Batches(store, self.objects, self.models, self.ending, self.open_batches, tenant)
        view.items, view.outputs, view.traces = Items(store), Outputs(store, self.objects), Traces(store, self.objects)
        return view

    def start(self) -> None:
        """Takes up where a stopped or killed server left off."""
        with self.store.write() as tx:
            tx.units.extend_leases(self.lease_s)
        self.ending.sweep()
        self.ending.card_is_due = True  # the server before may have stopped between a manifest and the card
