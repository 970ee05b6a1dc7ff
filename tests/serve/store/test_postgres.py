"""What PostgreSQL has of its own: how it is named, how it fails, and two servers on one database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.settings import Settings
from dail.serve.store import databases
from dail.serve.store.tables import STORE_VERSION
from dail.serve.store.transaction import Store
from dail.synth.core.errors import StorageError, StoreAway, StoreBusy, UsageError
from tests.serve.conftest import items, start_api
from tests.serve.store.test_transaction import new_batch
from tests.serve.worker import FakeWorker

SECRET = "hunter2-is-no-password"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        (f"mysql://dail:{SECRET}@db/dail", "begins with mysql:"),
        (f"sqlite:///{SECRET}", "begins with sqlite:"),
        (f"postgresql+asyncpg://dail:{SECRET}@db/dail", r"begins with postgresql\+asyncpg:"),
        (SECRET, "no URL that can be read"),
        (f"postgresql://dail:{SECRET}@db:port/dail", "no URL that can be read"),
        (
            f"postgresql://dail:{SECRET}@127.0.0.1:1/dail",
            r"postgresql://dail:\*\*\*@127\.0\.0\.1:1/dail does not answer",
        ),
    ],
)
def test_what_is_no_store_is_refused_without_its_password(url, why):
    with pytest.raises((UsageError, StorageError), match=why) as refused:
        Store(url)
    assert SECRET not in str(refused.value)


def test_a_database_that_is_not_there_is_said(postgres):
    with pytest.raises(UsageError, match=r'database "nowhere" does not exist.*check DAIL_STORE'):
        Store(str(sa.make_url(postgres()).set(database="nowhere").render_as_string(hide_password=False)))


def test_a_database_of_another_encoding_is_refused(postgres):
    url = sa.make_url(postgres())
    engine = sa.create_engine(url.set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as sql:
        sql.exec_driver_sql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    engine.dispose()
    with pytest.raises(UsageError, match="has encoding LATIN1; wanted UTF8"):
        Store(url.set(database="latin").render_as_string(hide_password=False))


def test_the_url_as_hosts_spell_it(postgres):
    Store(postgres().replace("postgresql://", "postgres://")).close()


def test_a_newer_store_is_refused_and_what_an_older_one_lacks_is_added(postgres):
    url = postgres()
    store = Store(url)
    with store.database.writing() as sql:
        store.database.stamp(sql, STORE_VERSION + 1)
    with pytest.raises(StorageError, match=f"has version {STORE_VERSION + 1}.*upgrade dail"):
        Store(url)
    with store.database.writing() as sql:
        store.database.stamp(sql, STORE_VERSION - 1)
        sql.exec_driver_sql("ALTER TABLE batches DROP COLUMN num_events")
        sql.exec_driver_sql("DROP TABLE tokens")
    store.close()
    store = Store(url)
    with store.database.reading() as sql:
        assert store.database.version(sql) == STORE_VERSION
        assert {"num_events"} <= {column["name"] for column in sa.inspect(sql).get_columns("batches")}
    store.close()


def test_a_lock_that_somebody_holds_is_busy(postgres, monkeypatch):
    monkeypatch.setitem(databases._CONNECT, "options", "-c lock_timeout=200ms")
    url = postgres()
    store, other = Store(url), Store(url)
    with other.write(), pytest.raises(StoreBusy, match="held by another writer"), store.write():
        pass
    with store.write():
        pass
    store.close()
    other.close()


def test_a_connection_that_is_cut_loses_nothing_and_the_next_one_works(postgres, model):
    store = Store(postgres())
    with pytest.raises(StoreAway, match="nothing was changed"), store.write() as tx:
        tx.batches.add(new_batch(model))
        _end_all_others(store)
    with store.read() as tx:
        assert tx.batches.get("b1") is None
    _end_all_others(store)  # those that wait in the pool
    with store.write() as tx:
        tx.batches.add(new_batch(model))
    store.close()


def _end_all_others(store: Store) -> None:
    engine = sa.create_engine(store.database._engine.url)
    with engine.connect() as sql:
        sql.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    engine.dispose()


def test_no_two_claims_have_one_unit(postgres, model):
    """Of many threads of two servers, which claim until nothing is left."""
    url = postgres()
    stores = [Store(url), Store(url)]
    with stores[0].write() as tx:
        tx.batches.add(new_batch(model, num_items=60))
    start = threading.Barrier(8)

    def claim(number: int) -> list[str]:
        start.wait()
        got: list[str] = []
        while True:
            with stores[number % 2].write() as tx:
                units = tx.units.claim("model", f"w{number}", 2, 60)
            if not units:
                return got
            got += [unit.unit_id for unit in units]

    with ThreadPoolExecutor(8) as threads:
        claimed = [unit for got in threads.map(claim, range(8)) for unit in got]
    assert len(claimed) == len(set(claimed)) == 60
    for store in stores:
        store.close()


@pytest.fixture
def shared(settings: Settings, postgres) -> Settings:
    return settings.model_copy(update={"store": SecretStr(postgres())})


def test_the_api_on_postgresql(shared, model):
    with TestClient(create_app(shared), "http://127.0.0.1") as api:
        worker = FakeWorker(api, model)
        batch = api.post("/v1/batches", json={"items": items(3), "synthesis": {"samples_per_item": 2}}).json()["id"]
        assert (
            api.post("/v1/batches", json={"items": items(3), "synthesis": {"samples_per_item": 2}}).status_code == 200
        )
        worker.fail(worker.lease()[0])
        (unit,) = worker.lease()
        assert worker.heartbeat(unit, tokens=3).status_code == 200
        assert worker.commit(unit).status_code == 204
        worker.run()
        found = api.get(f"/v1/batches/{batch}").json()
        assert (found["status"], found["units"]["committed"], found["units"]["failed"]) == ("completed", 5, 1)
        events = api.get(f"/v1/batches/{batch}/events").text
        assert events.count("event: progress") and events.rstrip().split("event: ")[-1].startswith("done")
        assert len(api.get(f"/v1/batches/{batch}/results").text.splitlines()) == 6
        assert api.post(f"/v1/batches/{batch}/retry", json={"items": "failed"}).status_code == 202
        assert api.post(f"/v1/batches/{batch}/cancel").status_code == 202
        ready = api.get("/readyz").json()
        assert ready["ok"] and "postgresql" in ready["checks"]
        assert [one["id"] for one in api.get("/v1/batches").json()["data"]] == [batch]


def test_two_servers_on_one_database_make_one_batch_and_end_it_once(postgres, tmp_path, model_folder, model):
    url = postgres()
    servers = [start_api(tmp_path / "api", model_folder, DAIL_STORE=url) for _ in range(2)]
    try:
        start, replies = threading.Barrier(16), []

        def post(number: int) -> None:
            start.wait()
            where = f"{servers[number % 2].url}/v1/batches"
            replies.append(httpx.post(where, json={"items": items(12)}, timeout=120, trust_env=False))

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(post, range(16)))
        assert sorted(reply.status_code for reply in replies) == [200] * 15 + [201]
        (batch,) = {reply.json()["id"] for reply in replies}
        clients = [httpx.Client(base_url=server.url, timeout=120, trust_env=False) for server in servers]
        workers = [FakeWorker(clients[number % 2], model, f"w{number}") for number in range(4)]
        with ThreadPoolExecutor(4) as threads:
            done = list(threads.map(lambda worker: worker.run(), workers))
        assert sum(done) == 12
        found = [client.get(f"/v1/batches/{batch}").json() for client in clients]
        assert found[0] == found[1] and found[0]["status"] == "completed" and found[0]["generation"] == 1
        events = clients[1].get(f"/v1/batches/{batch}/events").text
        assert events.count("event: completed") == 1
    finally:
        for server in servers:
            server.kill()
