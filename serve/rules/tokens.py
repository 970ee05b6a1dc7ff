"""Who may ask, and for what: tokens are made, listed and revoked in the store, and known by their hashes in memory.

No request reads the store to find out who asks: the tokens are read anew every second, so that a revoked one is refused
within two. A secret that may be a new token's has them read at once, or after a pause if that was done within the last
second, so that a new token works and guesses cost the store little. From the first token on a server wants one, also
when all of them are revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, get_args

from dail.serve.rules.errors import NotFound
from dail.serve.store.tokens import TokenRecord
from dail.serve.store.transaction import Store

Scope = Literal["submit", "read", "admin", "worker"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_SECRET_BYTES = 32
_FORM = re.compile(r"dail_sk_[\w-]{43}", re.ASCII)
_LOOK_EVERY_S = 1.0
_USE_IS_TOLD_S = 60.0
_OF_SETTINGS = ("DAIL_TOKEN", "DAIL_WORKER_TOKEN")


@dataclass(frozen=True)
class Caller:
    """Who asks. `id` names a token and is no secret."""

    id: str
    scopes: frozenset[Scope]
    tenant: str = ""
    expires_at: float | None = None

    @property
    def sees_all(self) -> bool:
        return "admin" in self.scopes

    def may(self, scope: Scope) -> bool:
        """An admin may do all that people may; only a worker may do what workers do."""
        return scope in self.scopes or (self.sees_all and scope != "worker")


class Tokens:
    """Those of the store, and those that the settings give."""

    def __init__(self, store: Store, people: str | None = None, workers: str | None = None) -> None:
        self._store = store
        self._given = _given(people, workers)
        self._anybody = Caller("", frozenset(SCOPES if workers is None else set(SCOPES) - {"worker"}))
        self._is_open = people is None
        self._callers: dict[str, tuple[str, Caller]] = {}  # by the beginning of their hash
        self._mark: tuple[int, int] | None = None
        self._in_use: set[str] = set()
        self._told: dict[str, float] = {}  # when the store may hear again that one is in use
        self._revoked: set[str] = set()
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._looked_at = time.monotonic() - _LOOK_EVERY_S
        self.read()

    @property
    def are_wanted(self) -> bool:
        """False where whoever reaches the server may ask."""
        return not self._is_open

    @property
    def let_people_in(self) -> bool:
        """Whether there is a token that would be taken of people now."""
        return any(caller.scopes - {"worker"} and not _is_over(caller) for _, caller in self._callers.values())

    def known(self, secret: str) -> Caller | None:
        """Who has this secret, without a look into the store."""
        hashed = _hash(secret)
        whole, caller = self._callers.get(_begin(hashed), ("", self._anybody))
        if not hmac.compare_digest(whole, hashed) or _is_over(caller):
            return None if self.are_wanted else self._anybody
        if caller.id not in _OF_SETTINGS:
            self._in_use.add(caller.id)
        return caller

    def may_be_new(self, secret: str) -> bool:
        """Whether it has the form of a token's, and is none that was revoked or is over."""
        begin = _begin(_hash(secret))
        return bool(_FORM.fullmatch(secret)) and begin not in self._callers and begin not in self._revoked

    def pause_s(self) -> float:
        """How long to wait before `look_again`."""
        return max(0.0, self._looked_at + _LOOK_EVERY_S - time.monotonic())

    def look_again(self, since: float) -> None:
        """Reads the tokens, unless somebody began to do so after this time; returns when they are read."""
        with self._looking:
            if self._looked_at <= since:
                self._looked_at = time.monotonic()
                self.read()

    def read(self) -> None:
        """What a server does every second."""
        with self._lock:  # one after the other, so that what is kept is the newest
            with self._store.read() as tx:
                mark = tx.tokens.mark()
                if mark == self._mark:
                    return
                records = tx.tokens.all()
            there = [(one.hash, _caller(one)) for one in records if one.revoked_at is None]
            self._revoked = {_begin(one.hash) for one in records if one.revoked_at is not None}
            self._callers = {_begin(hashed): (hashed, caller) for hashed, caller in (*there, *self._given)}
            self._is_open = self._is_open and not records
            self._mark = mark

    def note_used(self) -> None:
        """Tells the store which tokens were in use, each once a minute."""
        now = time.monotonic()
        told = {one for one in tuple(self._in_use) if now >= self._told.get(one, now)}
        if told:
            with self._store.write() as tx:
                tx.tokens.note_used(told)
            self._told |= dict.fromkeys(told, now + _USE_IS_TOLD_S)
            self._in_use -= told


def new_token(
    store: Store, name: str, scopes: Collection[Scope], tenant: str = "", life_s: float | None = None
) -> tuple[TokenRecord, str]:
    """A token and its secret, which is nowhere kept."""
    token_id, secret = f"tok_{secrets.token_hex(6)}", f"dail_sk_{secrets.token_urlsafe(_SECRET_BYTES)}"
    with store.write() as tx:
        tx.tokens.add(token_id, _hash(secret), name, scopes, tenant, life_s)
        return next(one for one in tx.tokens.all() if one.id == token_id), secret


def all_tokens(store: Store) -> list[TokenRecord]:
    with store.read() as tx:
        return tx.tokens.all()


def revoke(store: Store, token_id: str) -> None:
    """Raises NotFound. A token that is revoked already stays so."""
    with store.write() as tx:
        if not tx.tokens.revoke(token_id):
            raise NotFound(f"there is no token {token_id}; `dail token list` shows them")


def _given(people: str | None, workers: str | None) -> list[tuple[str, Caller]]:
    """DAIL_TOKEN, which opens everything, and DAIL_WORKER_TOKEN; with the second the first is no worker's."""
    if people is not None and people == workers:
        workers = None
    of_people: frozenset[Scope] = frozenset({"admin"} if workers else {"admin", "worker"})
    found = zip(_OF_SETTINGS, (people, workers), (of_people, frozenset[Scope]({"worker"})), strict=True)
    return [(_hash(secret), Caller(name, scopes)) for name, secret, scopes in found if secret is not None]


def _caller(record: TokenRecord) -> Caller:
    scopes = frozenset(one for one in SCOPES if one in record.scopes)
    return Caller(record.id, scopes, record.tenant, record.expires_at)


def _is_over(caller: Caller) -> bool:
    return caller.expires_at is not None and time.time() >= caller.expires_at


def _begin(hashed: str) -> str:
    return hashed[:16]


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()
