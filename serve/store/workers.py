"""Workers: who asked for units, with which model, and when something was last heard of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from dail.serve.store.tables import NOW, WORKERS
from dail.synth.schema.models import ModelIdentity

_FORGOTTEN_S = 7 * 86_400.0


@dataclass(frozen=True)
class WorkerRecord:
    """Times are Unix seconds by the store's clock. `versions`: of what runs there, by package."""

    id: str
    model_key: str
    model: ModelIdentity
    host: str
    versions: Mapping[str, str]
    first_seen: float
    heard_at: float


class Workers:
    """Part of a transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection

    def saw(
        self,
        worker: str,
        model_key: str,
        model: ModelIdentity,
        host: str = "",
        versions: Mapping[str, str] | None = None,
    ) -> None:
        """A worker that asks; what it does not tell stays as it told it before."""
        told = {"host": host} | ({"versions": dict(versions)} if versions is not None else {}) if host else {}
        values = {"model_key": model_key, "model": model.model_dump_json(), "heard_at": NOW, **told}
        if not self._sql.execute(WORKERS.update().where(WORKERS.c.id == worker).values(values)).rowcount:
            self._sql.execute(WORKERS.delete().where(WORKERS.c.heard_at < NOW - _FORGOTTEN_S))
            self._sql.execute(WORKERS.insert().values(id=worker, **values))

    def heard(self, worker: str) -> None:
        """A worker that is busy and asks for nothing."""
        self._sql.execute(WORKERS.update().where(WORKERS.c.id == worker).values(heard_at=NOW))

    def recent(self, within_s: float) -> list[WorkerRecord]:
        """Those that something was heard of in that time, by name."""
        query = sa.select(WORKERS).where(WORKERS.c.heard_at >= NOW - within_s).order_by(WORKERS.c.id)
        return [
            WorkerRecord(
                id=row.id,
                model_key=row.model_key,
                model=ModelIdentity.model_validate_json(row.model),
                host=row.host,
                versions=row.versions,
                first_seen=row.first_seen,
                heard_at=row.heard_at,
            )
            for row in self._sql.execute(query)
        ]
