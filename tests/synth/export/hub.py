"""A model hub on loopback, as far as the real client asks: repositories, branches, files, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Repository:
    kind: str
    private: bool
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {}})
    commits: list[list[str]] = field(default_factory=list)  # the names in each, in the order they came


@dataclass
class Hub:
    """What was sent, and what is to go wrong: `fails`, the number of the commit that is answered with 500."""

    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    fails: int | None = None
    forbids: bool = False

    def files(self, name: str, branch: str = "main") -> dict[str, bytes]:
        return self.repositories[name].branches[branch]


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._handle()

    def do_POST(self) -> None:
        self._handle()

    def do_PUT(self) -> None:
        self._handle()

    def _handle(self) -> None:
        body = self._body()
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        path = self.path.partition("?")[0]
        for pattern, answer in (
            (r"/api/repos/create", self._create),
            (r"/api/validate-yaml", lambda _: self._answer({"errors": [], "warnings": []})),
            (r"/api/(?:models|datasets)/(\w+/[\w-]+)/preupload/(.+)", self._preupload),
            (r"/api/(?:models|datasets)/(\w+/[\w-]+)/commit/(.+)", self._commit),
            (r"/api/(?:models|datasets)/(\w+/[\w-]+)/branch/(.+)", self._branch),
            (r"/api/(?:models|datasets)/(\w+/[\w-]+)(?:/revision/.+)?", self._info),
            (r"/(?:datasets/)?(\w+/[\w-]+)\.git/info/lfs/objects/batch", self._batch),
            (r"/upload/(\w+)", self._upload),
        ):
            if match := re.fullmatch(pattern, path):
                answer(body, *match.groups())
                return
        self._answer({"error": f"nothing is at {path}"}, 404)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _create(self, body: bytes) -> None:
        asked = json.loads(body)
        if self.hub.forbids:
            self._answer({"error": "this token may not write"}, 403)
            return
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        kind = asked.get("type") or "model"
        url = f"{self.hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if name in self.hub.repositories:
            self._answer({"error": "it is there already", "url": url}, 409)
            return
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(kind, private)
        self._answer({"url": url, "name": name})

    def _info(self, body: bytes, name: str) -> None:
        if (found := self.hub.repositories.get(name)) is None:
            self._answer({"error": "Repository not found"}, 404)
            return
        sha = hashlib.sha1(repr(found.commits).encode()).hexdigest()
        self._answer({"id": name, "private": found.private, "sha": sha, "siblings": [], "tags": [], "downloads": 0})

    def _branch(self, body: bytes, name: str, branch: str) -> None:
        branches = self.hub.repositories[name].branches
        if branch in branches:
            self._answer({"error": "it is there already"}, 409)
            return
        branches[branch] = dict(branches["main"])
        self._answer({})

    def _preupload(self, body: bytes, name: str, branch: str) -> None:
        files = self.hub.files(name, branch)

        def about(path: str) -> dict[str, Any]:
            is_large = path.endswith((".parquet", ".safetensors"))
            data = files.get(path)
            oid = None
            if data is not None:
                oid = hashlib.sha256(data).hexdigest() if is_large else hashlib.sha1(_blob(data)).hexdigest()
            return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False, "oid": oid}

        self._answer({"files": [about(one["path"]) for one in json.loads(body)["files"]]})

    def _batch(self, body: bytes, name: str) -> None:
        def about(one: dict[str, Any]) -> dict[str, Any]:
            there = one["oid"] in self.hub.objects
            actions = {} if there else {"actions": {"upload": {"href": f"{self.hub.url}/upload/{one['oid']}"}}}
            return {"oid": one["oid"], "size": one["size"], **actions}

        self._answer({"transfer": "basic", "objects": [about(one) for one in json.loads(body)["objects"]]})

    def _upload(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.hub.uploads.append(oid)
        self._answer({})

    def _commit(self, body: bytes, name: str, branch: str) -> None:
        found = self.hub.repositories[name]
        if self.hub.fails == len(found.commits):
            self._answer({"error": "it broke"}, 400)
            return
        lines = [json.loads(line) for line in body.splitlines()]
        names = []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                found.branches[branch][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                found.branches[branch][value["path"]] = self.hub.objects[value["oid"]]
            else:
                continue
            names.append(value["path"])
        found.commits.append(names)
        oid = f"{len(found.commits):040x}"
        self._answer({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})


def _blob(data: bytes) -> bytes:
    return b"blob %d\0" % len(data) + data
