"""Errors as application/problem+json (RFC 9457): ours, and those that FastAPI and Starlette make themselves.

A problem never repeats what was sent: only where it is (a JSON pointer), what is wrong and what is wanted.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dail.serve.methods import allowed
from dail.serve.request_log import HEADER, told_as
from dail.serve.rules.errors import Conflict, Damaged, NotFound, TooMany
from dail.synth.core.config import Frozen
from dail.synth.core.errors import (
    DailError,
    InputError,
    InputFault,
    ObjectExists,
    ObjectsAway,
    StorageError,
    StoreBusy,
    plainly,
    pointer,
)

MEDIA_TYPE = "application/problem+json"
_RETRY_AFTER_S = {429: 60, 503: 5, 507: 5}
_FOR_GOOD = ("batch_ended", "nothing_to_retry", "wire_version", "schema_version")
NOT_SNIFFED = {"X-Content-Type-Options": "nosniff"}  # what we call JSON or lines, no browser takes for a page
MAX_FAULTS = 100
_MAX_POINTER = 256
_STATUS: dict[type[DailError], int] = {
    NotFound: 404,
    Damaged: 422,
    Conflict: 409,
    TooMany: 429,
    InputError: 422,
    StoreBusy: 503,
    ObjectsAway: 503,
    ObjectExists: 409,
    StorageError: 507,
}
_HINTS = {404: "there is no such path; /docs lists them", 405: "the path does not take this method; /docs lists them"}

# For the `responses` of a router: every error has this one shape.
_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
RESPONSES: dict[int | str, dict[str, object]] = {
    "4XX": {"description": "Refused: `code` and `errors` say why", "content": _PROBLEM},
    "5XX": {
        "description": "503: ask again after Retry-After; 507: the disk is full; 500: a mistake of ours",
        "content": _PROBLEM,
    },
}

log = logging.getLogger("dail.serve")


class Fault(Frozen):
    pointer: str = Field(description="JSON pointer into the body (RFC 6901); /query/… for a query parameter")
    code: str
    detail: str


class Problem(Frozen):
    """Every error of this API, as application/problem+json (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "type": "urn:dail:problem:invalid_input",
                "title": "Unprocessable Content",
                "status": 422,
                "code": "invalid_input",
                "detail": "the batch was refused; nothing was stored",
                "errors": [{"pointer": "/items/3/solution", "code": "value_error", "detail": "the text is blank"}],
                "request_id": "req_5f0c8e1d2a3b4c5d",
            }
        }
    )

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: tuple[Fault, ...] = ()
    request_id: str


class RequestError(DailError):
    """A request that is refused before any rule looks at it."""

    def __init__(
        self, status: int, code: str, message: str, problems: Sequence[InputFault] = (), **headers: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.problems = tuple(problems)
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def answer_with_problems(app: FastAPI) -> None:
    """Every error of the app leaves it as a problem."""

    @app.exception_handler(DailError)
    def of_ours(request: Request, error: DailError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    def of_parameters(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [InputFault(pointer(fault["loc"]), fault["type"], plainly(fault)) for fault in error.errors()]
        return problem(422, "invalid_parameter", "a parameter was refused", problems)

    @app.exception_handler(HTTPException)
    def of_starlette(request: Request, error: HTTPException) -> JSONResponse:
        status, headers = error.status_code, dict(error.headers or {})
        if status == 405:
            headers["Allow"] = allowed(app, request.scope)  # Starlette's own names one route's methods
        return problem(status, _code_of(status), _HINTS.get(status, "the request was refused"), (), headers)

    @app.exception_handler(ClientDisconnect)
    def of_who_left(request: Request, error: ClientDisconnect) -> Response:
        log.debug("a client left in the middle of its body")
        return Response(status_code=400)  # nobody hears it

    @app.exception_handler(Exception)
    def of_mistakes(request: Request, error: Exception) -> JSONResponse:
        return problem(500, "internal", "a mistake of ours; the server's log tells more under this request_id")


def _code_of(status: int) -> str:
    """Of what the framework refuses by itself.

    >>> _code_of(405)
    'method_not_allowed'
    """
    return HTTPStatus(status).phrase.lower().replace(" ", "_")


def answer(error: DailError) -> JSONResponse:
    """What somebody hears of an error of ours."""
    if isinstance(error, RequestError):
        return problem(error.status, error.code, str(error), error.problems, error.headers)
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    problems = error.problems if isinstance(error, InputError) else ()
    detail = str(error)
    if isinstance(error, InputError) and error.num_problems > MAX_FAULTS:
        detail += f" ({error.num_problems} faults; the first {MAX_FAULTS} are told)"
    headers = {"Retry-After": str(_RETRY_AFTER_S[status])} if status in _RETRY_AFTER_S else {}
    if error.code in _FOR_GOOD:
        headers["x-should-retry"] = "false"  # clients of the OpenAI SDK's kind ask again after every 409
    return problem(status, error.code, detail, problems, headers)


def problem(
    status: int,
    code: str,
    detail: str,
    problems: Sequence[InputFault] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    request_id = told_as(code)
    if status >= 500:
        log.error("%s %s %s: %s", request_id, status, code, detail)
    body = Problem(
        type=f"urn:dail:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        errors=tuple(
            Fault(pointer=where[:_MAX_POINTER], code=kind, detail=what) for where, kind, what in problems[:MAX_FAULTS]
        ),
        request_id=request_id,
    )
    # here too: the answer to a mistake of ours passes by the guard
    return JSONResponse(body.model_dump(), status, {**(headers or {}), **NOT_SNIFFED, HEADER: request_id}, MEDIA_TYPE)
