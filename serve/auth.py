"""Which scope a route wants. Who asks is known before any route is reached: `guard.py`.

GET of people's routes     read
POST, DELETE of theirs     submit
what shows every tenant    admin, who may all of the above too
/internal                  worker
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from dail.serve.errors import RequestError
from dail.serve.guard import caller_by, not_known
from dail.serve.rules.tokens import Caller, Scope

# for the OpenAPI page alone: the header is read by the guard
_bearer = HTTPBearer(
    auto_error=False, description="DAIL_TOKEN or one of `dail token new`; none where a server has none"
)
Documented = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]


def caller_of(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


async def people_only(request: Request, _: Documented) -> None:
    _want("read" if request.method in ("GET", "HEAD") else "submit", request)


async def may_read(request: Request, _: Documented) -> bool:
    """Of an open route: whether somebody asks who may look at batches."""
    try:
        return (await caller_by(request.app.state.tokens, request.headers)).may("read")
    except RequestError:
        return False


async def admin_only(request: Request, _: Documented) -> None:
    _want("admin", request)


async def workers_only(request: Request, _: Documented) -> None:
    _want("worker", request)


def _want(scope: Scope, request: Request) -> None:
    caller = caller_of(request)
    if caller.may(scope):
        return
    if not caller.id:  # anybody, where people need no token and workers do
        raise not_known()
    has = ", ".join(sorted(caller.scopes)) or "none"
    raise RequestError(
        403,
        "wrong_scope",
        f"this wants a token with the scope {scope}, and {caller.id} has {has}; `dail token new --scope {scope}` makes "
        f"one (DAIL_TOKEN is for people, DAIL_WORKER_TOKEN for workers)",
    )
