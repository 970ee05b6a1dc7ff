"""What the rules refuse: things that are not there, and requests that do not fit the present state."""

from __future__ import annotations

from dail.serve.store.batches import BatchRecord
from dail.serve.store.transaction import Transaction
from dail.synth.core.errors import DailError


class NotFound(DailError):
    code = "not_found"


class Damaged(DailError):
    """What was stored and is no longer as it was. Asking again does not help."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Conflict(DailError):
    """A request that does not fit the present state. `code` says which way."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TooMany(DailError):
    """More than is taken at once; it passes when some of it has ended."""

    code = "too_many_open_batches"


def existing(tx: Transaction, batch_id: str) -> BatchRecord:
    batch = tx.batches.get(batch_id)
    if batch is None:
        raise NotFound("there is no such batch; GET /v1/batches lists them")
    return batch
