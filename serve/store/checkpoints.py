"""Checkpoints: what is kept of traces that have not ended, in pieces, for the next attempt."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from pydantic import TypeAdapter

from dail.serve.store.tables import PREFIXES
from dail.synth.schema.trace_tokens import Tokens

_TOKENS: TypeAdapter[Tokens] = TypeAdapter(Tokens)


class Checkpoints:
    """Part of a transaction. Units are named by their number in the store."""

    def __init__(self, connection: sa.Connection) -> None:
        self._sql = connection

    def of(self, unit: int) -> Tokens:
        whole = Tokens()
        query = sa.select(PREFIXES.c.tokens).where(PREFIXES.c.unit == unit).order_by(PREFIXES.c.start)
        for piece in self._sql.scalars(query):
            whole.extend(_TOKENS.validate_json(piece))
        return whole

    def length(self, unit: int) -> int:
        return self._sql.scalar(sa.select(sa.func.sum(PREFIXES.c.number)).where(PREFIXES.c.unit == unit)) or 0

    def add(self, unit: int, start: int, tokens: Tokens) -> None:
        """Puts a piece behind the one that ends at `start`; what was kept from there on goes."""
        self._sql.execute(PREFIXES.delete().where(PREFIXES.c.unit == unit, PREFIXES.c.start >= start))
        if self.length(unit) == start:
            piece = {"unit": unit, "start": start, "number": len(tokens), "tokens": _TOKENS.dump_json(tokens).decode()}
            self._sql.execute(PREFIXES.insert().values(piece))

    def drop(self, units: Any) -> None:
        """Of the units with these numbers, a list or a query."""
        self._sql.execute(PREFIXES.delete().where(PREFIXES.c.unit.in_(units)))
