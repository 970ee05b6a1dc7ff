"""Copies of a store in a file: made while servers run, checked, and put back so that no worker of before can commit."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from dail.serve.store.counts import Counts
from dail.serve.store.tables import BATCHES, STORE_VERSION, UNITS
from dail.serve.store.transaction import Store
from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.core.files import replace

EPOCHS_ON = 1_000_000  # more leases than a unit had between a copy and the day it is put back


def back_up(source: Path, target: Path) -> int:
    """Copies the store as of one moment; servers go on meanwhile. Returns its bytes.

    Raises:
        UsageError: there is no store, or the target is there already.
        IntegrityError: the copy is damaged, so the store is.
    """
    if not source.is_file():
        raise UsageError(f"there is no store {source}; give the --data-dir of `dail serve`")
    if target.exists():
        raise UsageError(f"{target} is there already; give a name that is not")
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, lambda staged: _copy(source, staged))
    return target.stat().st_size


def restore(copy: Path, target: Path) -> None:
    """Makes `target` of a copy. Units that were leased wait again, under epochs that no worker of before can hold.

    Raises:
        UsageError: the copy is no store of this release or an older one, or there is a store already.
    """
    version = _version(copy)
    if not 0 < version <= STORE_VERSION:
        raise UsageError(f"{copy} is a store of version {version}, this build reads {STORE_VERSION}; upgrade dail")
    if target.exists():
        raise UsageError(f"{target} is there already; stop its server and move it away, or give another --data-dir")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.restored")
    staged.unlink(missing_ok=True)
    _copy(copy, staged)
    store = Store(staged)  # brought to this version
    _void_leases(store)
    store.close()
    replace(target, lambda whole: _copy(staged, whole))
    for name in (staged.name, f"{staged.name}.lock", f"{staged.name}-wal", f"{staged.name}-shm"):
        target.with_name(name).unlink(missing_ok=True)


def _void_leases(store: Store) -> None:
    with store.database.writing() as sql:
        idle = {"state": "queued", "owner": None, "lease_until": None, "tokens": 0, "attributed_tokens": 0}
        sql.execute(UNITS.update().where(UNITS.c.state == "leased").values(**idle, student_tokens=0.0))
        sql.execute(UNITS.update().values(epoch=UNITS.c.epoch + EPOCHS_ON))
        sql.execute(BATCHES.update().values(counts=None))
        Counts(sql).fill()


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old, closing(sqlite3.connect(target)) as new:
        try:
            old.backup(new)
            # a copy is one file: no log lies beside it
            new.execute("PRAGMA journal_mode=DELETE")
            found = new.execute("PRAGMA integrity_check").fetchone()[0]
        except sqlite3.DatabaseError as error:
            raise IntegrityError(f"{source} cannot be copied: {error}; restore an earlier copy") from None
    if found != "ok":
        raise IntegrityError(f"{source} is damaged: {found}; restore an earlier copy")


def _version(copy: Path) -> int:
    if not copy.is_file():
        raise UsageError(f"there is no file {copy}")
    try:
        with closing(sqlite3.connect(f"file:{copy}?mode=ro", uri=True)) as connection:
            version = int(connection.execute("PRAGMA user_version").fetchone()[0])
            connection.execute("SELECT count(*) FROM batches").fetchone()
    except sqlite3.DatabaseError:
        raise UsageError(f"{copy} is no store; give what `dail store backup` made") from None
    return version
