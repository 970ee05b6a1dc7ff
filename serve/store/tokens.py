"""Tokens: of a secret only its hash is kept, so that who reads the store cannot use it. Rows are never dropped."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sa

from dail.serve.store.tables import NOW, TOKENS


@dataclass(frozen=True)
class TokenRecord:
    """One row. Times are Unix seconds; `used_at` is coarse."""

    id: str
    hash: str
    name: str
    scopes: tuple[str, ...]
    tenant: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    used_at: float | None


class Tokens:
    """Part of a transaction."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection

    def add(
        self, token_id: str, hashed: str, name: str, scopes: Collection[str], tenant: str, life_s: float | None
    ) -> None:
        self._sql.execute(
            TOKENS.insert().values(
                id=token_id,
                hash=hashed,
                name=name,
                scopes=sorted(scopes),
                tenant=tenant,
                expires_at=None if life_s is None else NOW + life_s,
            )
        )

    def mark(self) -> tuple[int, int]:
        """Another one whenever a token was made or revoked: neither is ever undone."""
        row = self._sql.execute(sa.select(sa.func.count(), sa.func.count(TOKENS.c.revoked_at))).one()
        return row[0], row[1]

    def all(self) -> list[TokenRecord]:
        """Oldest first, revoked and expired ones too."""
        return [
            TokenRecord(
                id=row.id,
                hash=row.hash,
                name=row.name,
                scopes=tuple(row.scopes),
                tenant=row.tenant,
                created_at=row.created_at,
                expires_at=row.expires_at,
                revoked_at=row.revoked_at,
                used_at=row.used_at,
            )
            for row in self._sql.execute(sa.select(TOKENS).order_by(TOKENS.c.created_at, TOKENS.c.id))
        ]

    def revoke(self, token_id: str) -> int:
        """0 if there is no such token; one that is revoked already keeps its time."""
        revoked_at = sa.func.coalesce(TOKENS.c.revoked_at, NOW)
        return self._sql.execute(TOKENS.update().where(TOKENS.c.id == token_id).values(revoked_at=revoked_at)).rowcount

    def note_used(self, token_ids: Collection[str]) -> None:
        self._sql.execute(TOKENS.update().where(TOKENS.c.id.in_(token_ids)).values(used_at=NOW))
