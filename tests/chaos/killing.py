"""Real servers over one store that are killed while clients post and workers commit, by a seed; what they said is kept.

Clients and workers are threads here that know nothing but HTTP: a call whose server died is asked again.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx

from dail.synth.core.errors import StorageError
from dail.synth.core.files import sha256
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import decode_shard
from dail.synth.schema.units import ShardRef, Unit
from tests.chaos.history import TERMINAL, Batch, History, Row
from tests.chaos.serving import Server
from tests.serve.test_events import events
from tests.serve.worker import FakeWorker

_PATIENCE_S = 120.0
_AGAIN_S = 0.05
_OPEN = 10  # batches of a client
LEASE_S = 2
ENV = {"DAIL_REQUESTS_PER_S": "100000", "DAIL_OPEN_BATCHES": "10000", "DAIL_LEASE_S": str(LEASE_S)}


class Servers:
    """`count` processes over one folder, each always on its own port; stopped when the context is left."""

    def __init__(self, data_dir: Path, model_folder: Path, count: int = 1, **env: str) -> None:
        self._start = lambda port: Server(data_dir, model_folder, port, **(ENV | env))
        self.live = [self._start(0) for _ in range(count)]
        self.urls = [one.url for one in self.live]
        self.down_s: list[float] = []

    def kill(self, n: int) -> None:
        """SIGKILL, and up again at once; how long until it answers is kept."""
        self.live[n].kill()
        self.again(n)

    def die_at(self, n: int, point: str, nth: int) -> str:
        """The same at the nth time that it gets to a point; what it was doing there."""
        doing = self.live[n].die_at(point, nth)
        self.again(n)
        return doing

    def again(self, n: int) -> None:
        began = time.monotonic()
        self.live[n] = self._start(int(self.urls[n].rpartition(":")[2]))
        self.down_s.append(time.monotonic() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.live:
            one.stop()


class Patient:
    """A client that asks again, another server each time, until it is answered.

    `for_now`: statuses that are no answer yet, and how often each was seen.
    """

    def __init__(self, urls: list[str], seed: int, timeout_s: float, for_now: Counter[int]) -> None:
        self._for_now = for_now
        self._http = [httpx.Client(base_url=url, timeout=timeout_s, trust_env=False) for url in urls]
        self._dice = random.Random(seed)

    def post(self, path: str, json: Any) -> httpx.Response:
        return self.ask(lambda http: http.post(path, json=json))

    def ask(self, call: Callable[[httpx.Client], httpx.Response]) -> httpx.Response:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                response = call(self._dice.choice(self._http))
                if response.status_code not in self._for_now:
                    return response
                self._for_now[response.status_code] += 1
                problem = f"{response.status_code} {response.text}"
            except httpx.TransportError as error:
                problem = repr(error)
            assert time.monotonic() < until, problem
            time.sleep(_AGAIN_S)


def random_kills(servers: Servers, kills: int, dice: random.Random) -> None:
    for _ in range(kills):
        time.sleep(dice.uniform(0.05, 0.6))
        servers.kill(dice.randrange(len(servers.live)))


def run(
    urls: list[str],
    model: ModelIdentity | None,
    seed: int,
    trouble: Callable[[random.Random], object],
    timeout_s: float = 30,
    for_now: Counter[int] | None = None,
    synthesis: dict[str, Any] | None = None,
    pause_s: float = 0.3,
) -> tuple[History, dict[str, Batch]]:
    """Two clients and three workers, until `trouble` is over and every batch has ended.

    Without a model the workers are somebody else's. A client posts four items every `pause_s`.
    """
    history = History()
    for_now = Counter({503: 0}) if for_now is None else for_now
    stopped, finished = threading.Event(), threading.Event()
    problems: list[BaseException] = []

    def guarded(body: Callable[..., None], *arguments: Any) -> threading.Thread:
        def whole() -> None:
            try:
                body(*arguments)
            except BaseException as error:
                problems.append(error)

        thread = threading.Thread(target=whole)
        thread.start()
        return thread

    def patient(n: int) -> Patient:
        return Patient(urls, seed + n, timeout_s, for_now)

    clients = [
        guarded(_client, history, patient(n), f"s{seed}c{n}", synthesis or {}, pause_s, stopped) for n in range(2)
    ]
    names = (1, 2, 3) if model else ()
    workers = [guarded(_worker, history, patient(-n), model, f"w{n}", finished) for n in names]
    try:
        trouble(random.Random(seed))
        stopped.set()
        for thread in clients:
            thread.join()
        reader = patient(0)
        _wait(reader)
        found = _found(reader)
    finally:
        stopped.set()
        finished.set()
        for thread in workers:
            thread.join()
    if problems:
        raise problems[0]
    return history, found


def _client(
    history: History, http: Patient, name: str, synthesis: dict[str, Any], pause_s: float, stopped: threading.Event
) -> None:
    ids: list[str] = []
    while not stopped.wait(pause_s):
        if len(ids) >= _OPEN and not _has_ended(http, ids[-_OPEN]):
            continue  # more than can be worked off would only be waited for in the end
        label = f"{name}b{len(ids)}"
        items = [{"id": f"i{k}", "problem": f"{label}: {k}+1?", "solution": f"It is {k + 1}."} for k in range(4)]
        body = {"items": items, "run_label": label, "synthesis": synthesis}
        with history.call("post", label, items=[one["id"] for one in items]) as call:
            response = http.post("/v1/batches", body)
            assert response.status_code in (200, 201), response.text
            call.ok(batch=response.json()["id"])
        ids.append(response.json()["id"])


def _has_ended(http: Patient, batch_id: str) -> bool:
    return bool(http.ask(lambda http: http.get(f"/v1/batches/{batch_id}")).json()["status"] in TERMINAL)


def _worker(history: History, http: Patient, model: ModelIdentity, name: str, finished: threading.Event) -> None:
    worker = FakeWorker(http, model, name)
    while not finished.is_set():
        for unit in worker.lease(3):
            _commit(history, worker, unit)
        finished.wait(_AGAIN_S)


def _commit(history: History, worker: FakeWorker, unit: Unit) -> None:
    shard = _written(worker, unit)
    told = {"batch": unit.batch_id, "item": unit.item_id, "sample": unit.sample, "shard": shard.key}
    with history.call("commit", unit.unit_id, **told) as call:
        response = worker.commit(unit, shard)
        if response.status_code == 204:
            call.ok()
        else:
            assert response.status_code == 409, response.text
            call.refused(status=409)


def _written(worker: FakeWorker, unit: Unit) -> ShardRef:
    """As a worker does, which waits for a disk that is full."""
    until = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return worker.write(unit)
        except StorageError:
            assert time.monotonic() < until
            time.sleep(_AGAIN_S)


def _pages(http: Patient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    query = "limit=100"
    while True:
        page = http.ask(lambda one, query=query: one.get(f"{path}?{query}")).json()  # type: ignore[misc]
        found += page["data"]
        if not page["has_more"]:
            return found
        query = f"limit=100&after={page['data'][-1]['id']}"


def _wait(http: Patient) -> None:
    until = time.monotonic() + _PATIENCE_S
    while open_ones := [one for one in _pages(http, "/v1/batches") if one["status"] in ("in_progress", "finalizing")]:
        assert time.monotonic() < until, f"not ended: {open_ones[0]}"
        time.sleep(0.2)


def _found(http: Patient) -> dict[str, Batch]:
    found = {}
    for one in _pages(http, "/v1/batches"):
        path = f"/v1/batches/{one['id']}"
        batch = Batch(one["run_label"], {})
        for item in _pages(http, f"{path}/items"):
            batch.items.setdefault(item["id"], []).append(item["status"])
        shards = http.ask(lambda http, path=path: http.get(f"{path}/manifest")).json()["shards"]
        rows = {}
        for n, key in enumerate(dict.fromkeys(shard["key"] for shard in shards)):
            data = http.ask(lambda http, url=f"{path}/shards/{n}": http.get(url)).content
            rows[key] = (sha256(data), decode_shard(data, key))
        for shard in shards:
            digest, of_shard = rows[shard["key"]]
            row = of_shard[shard.get("row", 0)]  # the others are not this entry's
            batch.rows.append(Row(row.item_id, row.sample_index, shard["key"], digest, shard["sha256"]))
        batch.events = [data for *_, data in events(http._http[0], one["id"])]
        found[one["id"]] = batch
    return found
