"""The page at `/`: a person's view of the API, in a browser.

It is the same for everybody and holds no data, so it needs no token; what it shows it asks the routes for, with the
token that somebody types. Its policy (CSP) lets it run its own scripts and ask this server, and nothing else.

    http://127.0.0.1:8765/                        the batches
    http://127.0.0.1:8765/#batch=ID&trace=UNIT    one trace
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from dail.serve.rules.errors import NotFound

PREFIX = "/page/"
_FILES = {  # by name, the package whose folder `static` it lies in, and its type
    "katex.min.js": ("dail.synth.view", "text/javascript"),
    "viewer.js": ("dail.synth.view", "text/javascript"),
    "viewer.css": ("dail.synth.view", "text/css"),
    "page.js": ("dail.serve", "text/javascript"),
    "page.css": ("dail.serve", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def page() -> Response:
    return Response(_read("dail.serve", "page.html"), media_type="text/html; charset=utf-8", headers=_HEADERS)


@router.get(PREFIX + "{name}")
def part(name: str) -> Response:
    if name not in _FILES:
        raise NotFound(f"the page has no such part; it has {', '.join(_FILES)}")
    package, kind = _FILES[name]
    return Response(_read(package, name), media_type=f"{kind}; charset=utf-8", headers=_HEADERS)


@cache
def _read(package: str, name: str) -> bytes:
    return (files(package) / "static" / name).read_bytes()
