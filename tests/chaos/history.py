"""What clients were told, and whether the service kept its word: a history of calls, against what it says at the end.

    history = History()
    with history.call("post", "b7", items=4) as call:      # unknown, unless …
        call.ok(batch="batch_…")                           # … the reply came

A call whose reply was lost may have happened or not; it may have happened once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

TERMINAL = frozenset({"completed", "failed", "cancelled", "expired"})


@dataclass
class Call:
    """`key`: what it is about: the label of a batch that was posted, the unit of a commit."""

    verb: str
    key: str
    told: dict[str, Any]
    outcome: Literal["unknown", "ok", "refused"] = "unknown"

    def ok(self, **told: Any) -> None:
        self.outcome = "ok"
        self.told |= told

    def refused(self, **told: Any) -> None:
        self.outcome = "refused"
        self.told |= told


class History:
    """Of all clients, in the order in which they began."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: list[Call] = []

    @contextmanager
    def call(self, verb: str, key: str, **told: Any) -> Iterator[Call]:
        call = Call(verb, key, told)
        with self._lock:
            self.calls.append(call)
        yield call

    def of(self, verb: str, outcome: str = "ok") -> list[Call]:
        return [call for call in self.calls if call.verb == verb and call.outcome == outcome]


@dataclass(frozen=True)
class Row:
    """One row of a manifest's shard, as read from its bytes."""

    item: str
    sample: int
    key: str  # it names the attempt: another attempt's bytes may be the same
    sha256: str  # of the whole shard as it is; `wanted` as the manifest says
    wanted: str


@dataclass
class Batch:
    """What the service says of one batch when all is over."""

    label: str
    items: dict[str, list[str]]  # id → every state that it is listed with
    rows: list[Row] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)


def violations(history: History, found: dict[str, Batch]) -> list[str]:
    """Every promise that was broken, in words; `found` by the batches' ids."""
    return [
        *_acknowledged(history, found),
        *_doubled(found),
        *_phantoms(found),
        *_counts(found),
        *_lost(history, found),
    ]


def _acknowledged(history: History, found: dict[str, Batch]) -> Iterator[str]:
    posted = {call.key: call for call in history.calls if call.verb == "post"}
    for call in history.of("post"):
        batch = found.get(call.told["batch"])
        if batch is None:
            yield f"{call.key}: acknowledged as {call.told['batch']}, which is gone"
        elif missing := set(call.told["items"]) - set(batch.items):
            yield f"{call.key}: acknowledged items are gone: {', '.join(sorted(missing))}"
    for label, many in Counter(batch.label for batch in found.values()).items():
        if label not in posted:
            yield f"{label}: a batch that nobody posted"
        elif many > 1:
            yield f"{label}: one body is {many} batches"
    for batch in found.values():
        for item, states in batch.items.items():
            if len(states) != 1 or states[0] not in TERMINAL:
                yield f"{batch.label}/{item}: not in one terminal state but in {' and '.join(states) or 'none'}"


def _doubled(found: dict[str, Batch]) -> Iterator[str]:
    for batch in found.values():
        for (item, sample), many in Counter((row.item, row.sample) for row in batch.rows).items():
            if many > 1:
                yield f"{batch.label}/{item}: sample {sample} is {many} rows"


def _phantoms(found: dict[str, Batch]) -> Iterator[str]:
    for batch in found.values():
        for row in batch.rows:
            if row.item not in batch.items:
                yield f"{batch.label}/{row.item}: a row of an item that was never taken"
            if row.sha256 != row.wanted:
                yield f"{batch.label}/{row.item}: its shard is not what the manifest says"


def _counts(found: dict[str, Batch]) -> Iterator[str]:
    for batch in found.values():
        for n, event in enumerate(batch.events):
            for name in ("request_counts", "units"):
                counts = dict(event[name])
                total = counts.pop("total")
                if sum(counts.values()) != total:
                    yield f"{batch.label}: event {n}'s {name} do not add up: {counts} of {total}"


def _lost(history: History, found: dict[str, Batch]) -> Iterator[str]:
    kept = {(batch_id, row.item, row.sample): row.key for batch_id, batch in found.items() for row in batch.rows}
    for call in history.of("commit"):
        if kept.get((call.told["batch"], call.told["item"], call.told["sample"])) != call.told["shard"]:
            yield f"{call.key}: its commit was acknowledged and is in no manifest"
