"""Who may ask: one bearer token for people, one for workers, none on a loopback address if none is set."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import SecretStr

from dail.serve.errors import RequestError
from dail.serve.settings import Settings

_bearer = HTTPBearer(auto_error=False, description="DAIL_TOKEN; not needed where the server has none")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def people_only(request: Request, credentials: Credentials) -> None:
    settings: Settings = request.app.state.settings
    _check(settings.token, settings.worker_token, credentials)


async def workers_only(request: Request, credentials: Credentials) -> None:
    settings: Settings = request.app.state.settings
    _check(settings.worker_token or settings.token, settings.token, credentials)


def _check(wanted: SecretStr | None, other: SecretStr | None, got: HTTPAuthorizationCredentials | None) -> None:
    if wanted is None:
        return
    given = got.credentials if got else ""
    if not _is(given, wanted):
        if other is not None and _is(given, other):
            detail = "this token opens other routes: people use DAIL_TOKEN, workers DAIL_WORKER_TOKEN"
            raise RequestError(403, "wrong_scope", detail)
        raise RequestError(
            401,
            "unauthorized",
            "this server wants its token; set DAIL_TOKEN or send Authorization: Bearer …",
            WWW_Authenticate="Bearer",
        )


def _is(given: str, token: SecretStr) -> bool:
    return hmac.compare_digest(given.encode(), token.get_secret_value().encode())
