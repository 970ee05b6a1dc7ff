"""Can this server do its work: the store takes a write, and the disk has room."""

from __future__ import annotations

import shutil
from pathlib import Path

from dail.serve.store.transaction import Store
from dail.synth.core.config import Frozen
from dail.synth.core.errors import StorageError
from dail.synth.core.files import Objects
from dail.synth.core.objects import Bucket, check_mark, mark

HEADROOM_BYTES = 256 << 20  # below it no new work is taken; what is accepted can still be finished


class Check(Frozen):
    ok: bool
    detail: str


class Ready(Frozen):
    ok: bool
    checks: dict[str, Check]


def readiness(store: Store, objects: Objects) -> Ready:
    checks = {"store": _store_check(store), store.database.kind: Check(ok=True, detail=store.database.about)}
    if folder := _folder(store, objects):
        free = _free_bytes(folder)
        checks["disk"] = Check(ok=free >= HEADROOM_BYTES, detail=f"{free} bytes free; {HEADROOM_BYTES} are kept")
    if isinstance(objects, Bucket):
        checks["objects"] = _objects_check(objects)
    return Ready(ok=all(check.ok for check in checks.values()), checks=checks)


def check_headroom(store: Store, objects: Objects) -> None:
    """Raises StorageError if new work would take the room of what is accepted."""
    folder = _folder(store, objects)
    if folder and (free := _free_bytes(folder)) < HEADROOM_BYTES:
        raise StorageError(f"{folder} has {free} bytes left; {HEADROOM_BYTES} are kept for accepted work; free some")


def _folder(store: Store, objects: Objects) -> Path | None:
    """Whose disk fills with the work; a bucket and a database server have none here."""
    if not isinstance(objects, Bucket):
        return objects.root
    return Path(store.name).parent if store.database.kind == "sqlite" else None


def _objects_check(objects: Objects) -> Check:
    try:
        check_mark(objects, mark(objects))
    except StorageError as error:
        return Check(ok=False, detail=str(error))
    return Check(ok=True, detail="a read and a write reached the bucket")


def _store_check(store: Store) -> Check:
    try:
        store.check_write()
    except StorageError as error:
        return Check(ok=False, detail=str(error))
    return Check(ok=True, detail="a write reached the disk")


def _free_bytes(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(folder).free
