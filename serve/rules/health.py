"""Can this server do its work: the store takes a write, and the disk has room."""

from __future__ import annotations

import shutil
from pathlib import Path

from dail.serve.store.transaction import Store
from dail.synth.core.config import Frozen
from dail.synth.core.errors import StorageError
from dail.synth.core.files import Objects

HEADROOM_BYTES = 256 << 20  # below it no new work is taken; what is accepted can still be finished


class Check(Frozen):
    ok: bool
    detail: str


class Ready(Frozen):
    ok: bool
    checks: dict[str, Check]


def readiness(store: Store, objects: Objects) -> Ready:
    free = _free_bytes(objects.root)
    checks = {
        "store": _store_check(store),
        "disk": Check(ok=free >= HEADROOM_BYTES, detail=f"{free} bytes free; {HEADROOM_BYTES} are kept"),
        store.database.kind: Check(ok=True, detail=store.database.about),
    }
    return Ready(ok=all(check.ok for check in checks.values()), checks=checks)


def check_headroom(objects: Objects) -> None:
    """Raises StorageError if new work would take the room of what is accepted."""
    free = _free_bytes(objects.root)
    if free < HEADROOM_BYTES:
        raise StorageError(
            f"{objects.root} has {free} bytes left; {HEADROOM_BYTES} are kept for accepted work; free some"
        )


def _store_check(store: Store) -> Check:
    try:
        store.check_write()
    except StorageError as error:
        return Check(ok=False, detail=str(error))
    return Check(ok=True, detail="a write reached the disk")


def _free_bytes(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free
