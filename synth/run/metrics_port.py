"""The port of a worker's figures and health, on loopback: /metrics, /livez and /readyz.

    curl http://127.0.0.1:9100/readyz

A thread of its own answers, so that a worker whose loop stands still is seen to be so.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import urlsplit

from prometheus_client import CONTENT_TYPE_LATEST

from dail.synth.core.errors import UsageError
from dail.synth.core.http import is_loopback
from dail.synth.run.metrics import Metrics

_log = logging.getLogger(__name__)

_HOST = "127.0.0.1"
_SILENCE_S = 10.0  # of a client


@contextmanager
def metrics_port(metrics: Metrics, port: int | None) -> Iterator[str | None]:
    """While it is open: its URL. Port 0 takes a free one, none no port at all.

    Raises:
        UsageError: the port cannot be had.
    """

    if port is None:
        yield None
        return

    class Handler(_Handler):
        shown = metrics

    try:
        server = _Server((_HOST, port), Handler)
    except OSError as error:
        why = f"--metrics-port {port} cannot be listened on at {_HOST}: {error.strerror}"
        raise UsageError(f"{why}; choose another one, or 0 for a free one") from None
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, name="dail-metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{_HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """As a line of the log, and none of a client that left."""
        if not isinstance(sys.exception(), OSError):
            _log.exception("the metrics port failed")


def _is_loopback(host: str) -> bool:
    try:
        return is_loopback(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


class _Handler(BaseHTTPRequestHandler):
    shown: Metrics
    timeout = _SILENCE_S
    server_version, sys_version = "dail", ""

    def do_GET(self) -> None:
        if not _is_loopback(self.headers.get("Host", "")):  # a web page that gave its own name this address
            self._answer(421, {"detail": "this port answers to loopback's names alone"})
        elif self.path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, self.shown.text())
        elif self.path == "/livez":
            self._answer(200 if self.shown.is_live() else 503, {"ok": self.shown.is_live()})
        elif self.path == "/readyz":
            checks = self.shown.readiness()
            ok = all(check.ok for check in checks.values())
            told = {name: check._asdict() for name, check in checks.items()}
            self._answer(200 if ok else 503, {"ok": ok, "checks": told})
        else:
            self._answer(404, {"detail": "there are /metrics, /livez and /readyz"})

    do_HEAD = do_GET

    def _answer(self, status: int, body: dict[str, object]) -> None:
        self._send(status, "application/json", json.dumps(body).encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a probe every second is no event."""
