"""Who may do what, over every route there is: a route that is added is asked here, or fails here."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import settings as settled
from hypothesis import strategies as st
from starlette.routing import Mount
from starlette.testclient import TestClient

from dail.serve import events
from dail.serve.app import create_app
from dail.serve.rules.tokens import new_token, revoke
from dail.serve.settings import Settings
from dail.serve.store.transaction import Store
from tests.conftest import ROOT
from tests.serve.conftest import items, start_api
from tests.serve.worker import FakeWorker

# What a route is asked with, so that nothing but its door can refuse it. A new route with a body needs its line.
BODIES: dict[str, Any] = {
    "/v1/batches": {"items": items(1)},
    "/v1/batches/{batch_id}/retry": {"items": "failed"},
}
OPEN = {"/livez", "/readyz", "/", "/page/{name}"}
SEEN_BY_ADMINS = {"/v1/workers", "/v1/orphans"}
WORD = "w" * 16


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


@dataclass
class Doors:
    """A server with a batch of each of two tenants, and a token of every kind."""

    client: TestClient
    ours: str
    secrets: dict[str, str]

    def ask(self, method: str, path: str, secret: str | None, batch: str = "batch_none", **more: Any) -> Any:
        known = {"batch_id": batch, "item_id": "i0", "unit": "u", "n": "0", "name": "page.js"}
        url = re.sub(r"{(\w+)[^}]*}", lambda found: known.get(found[1], "x"), path)
        headers = {} if secret is None else bearer(self.secrets.get(secret, secret))
        body = BODIES.get(path) if method == "POST" else None
        return self.client.request(method, url, headers=headers, json=body, **more)

    def routes(self) -> list[tuple[str, str]]:
        """Every method and path that the app answers, the framework's own too."""
        found = []
        for route in self.client.app.routes:
            if isinstance(route, Mount):
                found.append(("GET", f"{route.path}/swagger-ui.css"))
            else:
                found += [(method, route.path) for method in sorted(route.methods)]
        return found


@pytest.fixture(scope="module")
def doors(tmp_path_factory, model_folder, model):
    folder = tmp_path_factory.mktemp("doors")
    settings = Settings(data_dir=folder, models={"tiny": model_folder}, requests_per_s=1e6, token=None)
    store = Store(settings.store_place)
    secrets = {}
    for name, scopes, tenant in (
        ("ours", ["submit", "read"], "ours"),
        ("other", ["submit", "read"], "other"),
        ("nobody's", ["submit", "read"], ""),
        ("submit", ["submit"], "ours"),
        ("read", ["read"], "ours"),
        ("admin", ["admin"], "office"),
        ("worker", ["worker"], ""),
        ("revoked", ["submit", "read", "admin", "worker"], "ours"),
        ("over", ["submit", "read", "admin", "worker"], "ours"),
    ):
        made, secrets[name] = new_token(store, name.strip("'"), scopes, tenant, 1e-3 if name == "over" else None)
        if name == "revoked":
            revoke(store, made.id)
    store.close()
    with TestClient(create_app(settings), "http://127.0.0.1", raise_server_exceptions=False) as client:
        posted = client.post("/v1/batches", json={"items": items(2)}, headers=bearer(secrets["ours"]))
        assert posted.status_code == 201, posted.text
        yield Doors(client, posted.json()["id"], secrets)


@pytest.mark.parametrize("secret", [None, "", "wrong", "revoked", "over", "\x7f"])
def test_no_route_but_probes_answers_without_a_token_that_works(doors, secret):
    routes = doors.routes()
    assert len(routes) > 20
    for method, path in [
        *routes,
        ("GET", "/nothing"),
        ("OPTIONS", "/v1/batches"),
        ("PUT", "/livez/"),
        ("GET", "http://127.0.0.1//livez"),
    ]:
        answer = doors.ask(method, path, secret, doors.ours)
        if path in OPEN:
            assert answer.status_code == 200
        else:
            assert (method, path, answer.status_code) == (method, path, 401)
            assert method == "HEAD" or answer.json()["code"] == "unauthorized"
            assert answer.headers["www-authenticate"] == "Bearer"


def test_a_probe_without_a_token_hears_whether_and_who_may_read_also_why(doors):
    for secret, sees in ((None, False), ("wrong", False), ("revoked", False), ("worker", False), ("read", True)):
        ready = doors.ask("GET", "/readyz", secret).json()
        assert ready["ok"] and bool(ready["checks"]) is sees, secret


@settled(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=80).filter(lambda it: not set(it) & set(b"\r\n\x00")), min_size=1, max_size=3))
def test_no_bytes_of_a_header_are_more_than_a_wrong_token(doors, values):
    raw = [(b"host", b"127.0.0.1"), *((b"authorization", value) for value in values)]
    assert asyncio.run(status_of(doors.client.app, raw)) == 401
    assert asyncio.run(status_of(doors.client.app, [(key, b"Bearer " + value) for key, value in raw[1:]])) == 401


async def status_of(app, headers) -> int:
    """Of a POST whose body must not be read."""
    told = []

    async def receive():
        raise AssertionError("the body was read")

    async def send(message):
        told.append(message)

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
             "path": "/v1/batches", "raw_path": b"/v1/batches", "query_string": b"", "headers": headers,
             "server": ("127.0.0.1", 80), "client": ("127.0.0.1", 1)}  # fmt: skip
    await app(scope, receive, send)
    return told[0]["status"]


def test_a_token_in_the_address_is_not_read(doors):
    for method, path in doors.routes():
        if path not in OPEN:
            for name in ("token", "access_token", "key"):
                answer = doors.ask(method, path, None, doors.ours, params={name: doors.secrets["admin"]})
                assert (path, answer.status_code) == (path, 401)


def allowed(method: str, path: str) -> set[str]:
    """Which of the narrow tokens a route takes."""
    if path.startswith("/internal"):
        return {"worker"}
    if path in SEEN_BY_ADMINS:
        return {"admin"}
    if path.startswith("/v1") or path == "/metrics":
        return {"admin", "read" if method in ("GET", "HEAD") else "submit"}
    return {"admin", "read", "submit", "worker"}  # the pages about the API itself, and what probes ask


def test_every_route_takes_the_scopes_that_it_wants_and_no_others(doors):
    for method, path in doors.routes():
        for name in ("admin", "read", "submit", "worker"):
            answer = doors.ask(method, path, name)  # of no batch, so nothing is changed
            is_refused = answer.status_code == 403
            assert (method, path, name, is_refused) == (method, path, name, name not in allowed(method, path))
            assert answer.status_code != 401
            if is_refused and method != "HEAD":
                problem = answer.json()
                assert problem["code"] == "wrong_scope"
                wanted = allowed(method, path) - {"admin"} or {"admin"}
                assert all(f"scope {one}" in problem["detail"] and name in problem["detail"] for one in wanted)


def told(answer: Any) -> Any:
    return {key: value for key, value in answer.json().items() if key != "request_id"}


@pytest.mark.parametrize("secret", ["other", "nobody's"])
def test_another_tenants_batch_is_answered_as_one_that_is_not_there(doors, secret):
    of_batches = [(method, path) for method, path in doors.routes() if "{batch_id}" in path and method != "HEAD"]
    assert len(of_batches) >= 10
    for method, path in of_batches:
        foreign = doors.ask(method, path, secret, doors.ours)
        unknown = doors.ask(method, path, secret, "batch_none")
        assert (method, path, foreign.status_code) == (method, path, 404)
        assert told(foreign) == told(unknown)
        assert set(foreign.headers) == set(unknown.headers)
    mine = doors.ask("GET", "/v1/batches/{batch_id}", "ours", doors.ours).json()
    assert mine["status"] == "in_progress"


@pytest.mark.parametrize("secret", ["ours", "admin"])
def test_its_own_tenant_and_an_admin_find_it(doors, secret):
    answers = {
        path: doors.ask("GET", path, secret, doors.ours).status_code
        for method, path in doors.routes()
        if "{batch_id}" in path and method == "GET" and "events" not in path
    }
    assert {path for path, status in answers.items() if status == 404} <= {
        "/v1/batches/{batch_id}/shards/{n}",
        "/v1/batches/{batch_id}/traces/{unit_id}",
    }


def test_lists_show_a_tenants_own_batches(doors):
    def ids(secret: str, **query: str) -> list[str] | int:
        answer = doors.ask("GET", "/v1/batches", secret, params=query)
        return [one["id"] for one in answer.json()["data"]] if answer.status_code == 200 else answer.status_code

    assert doors.ours in ids("ours") and doors.ours in ids("admin")
    assert ids("other") == ids("nobody's") == []
    assert ids("other", after=doors.ours) == ids("other", after="batch_none") == 404


def test_another_tenants_batch_costs_the_store_as_much_as_one_that_is_not_there(doors):
    engine, said = doors.client.app.state.service.store.database._engine, []
    sa.event.listen(engine, "before_cursor_execute", lambda *of: said.append(of[2]))

    def statements(batch: str) -> list[str]:
        said.clear()
        assert doors.ask("GET", "/v1/batches/{batch_id}/items", "other", batch).status_code == 404
        return [one for one in said if "FROM batches" in one]

    assert statements(doors.ours) == statements("batch_none") != []


def test_an_admin_sees_whose_a_batch_is(doors):
    assert doors.ask("GET", "/v1/batches/{batch_id}", "admin", doors.ours).json()["tenant"] == "ours"


def test_the_same_body_and_key_of_two_tenants_are_two_batches(doors):
    def post(secret: str, **headers: str) -> Any:
        answer = doors.client.post(
            "/v1/batches",
            json={"items": items(3), "run_label": "twice"},
            headers=bearer(doors.secrets[secret]) | headers,
        )
        return answer.status_code, answer.json().get("id")

    first = {secret: post(secret) for secret in ("ours", "other", "nobody's", "admin")}
    assert {status for status, _ in first.values()} == {201}
    assert len({batch for _, batch in first.values()}) == 4
    assert {secret: post(secret) for secret in first} == {secret: (200, batch) for secret, (_, batch) in first.items()}
    keyed = {secret: post(secret, **{"Idempotency-Key": "of other key k"}) for secret in first}
    assert {status for status, _ in keyed.values()} == {201}
    assert post("nobody's", **{"Idempotency-Key": "of other key k"}) == (200, keyed["nobody's"][1])


def test_a_tenant_that_has_too_many_open_batches_leaves_the_others_theirs(settings):
    store = Store(settings.store_place)
    secrets = {tenant: new_token(store, tenant, ["submit"], tenant)[1] for tenant in ("a", "b")}
    store.close()
    with TestClient(create_app(settings.model_copy(update={"open_batches": 2})), "http://127.0.0.1") as client:

        def post(tenant: str, label: str) -> int:
            body = {"items": items(1), "run_label": label}
            return client.post("/v1/batches", json=body, headers=bearer(secrets[tenant])).status_code

        assert [post("a", str(n)) for n in range(3)] == [201, 201, 429]
        assert [post("b", str(n)) for n in range(3)] == [201, 201, 429]


def test_a_tenant_with_a_thousand_items_waiting_keeps_nobody_waiting(settings, model):
    store = Store(settings.store_place)
    secrets = {tenant: new_token(store, tenant, ["submit", "read"], tenant)[1] for tenant in ("a", "b")}
    _, workers = new_token(store, "w", ["worker"])
    store.close()
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        for tenant, what in (("a", items(1000)), ("b", [{"problem": "What is 6 × 7?", "solution": "42."}])):
            body = {"items": what, "synthesis": {"samples_per_item": 4}}
            assert client.post("/v1/batches", json=body, headers=bearer(secrets[tenant])).status_code == 201
        mine = client.get("/v1/batches", headers=bearer(secrets["b"])).json()["data"][0]["id"]
        client.headers.update(bearer(workers))
        leased = FakeWorker(client, model).lease(8)
        assert [unit.batch_id for unit in leased].count(mine) == 4


def test_a_worker_leases_of_every_tenant_and_each_gets_its_own_traces(doors, model):
    doors.client.headers.update(bearer(doors.secrets["worker"]))
    try:
        assert FakeWorker(doors.client, model).run() >= 2
    finally:
        del doors.client.headers["Authorization"]
    results = doors.ask("GET", "/v1/batches/{batch_id}/results", "ours", doors.ours)
    assert results.text.count('"succeeded"') == 2
    assert doors.ask("GET", "/v1/batches/{batch_id}/manifest", "ours", doors.ours).status_code == 200
    for path in ("results", "manifest", "shards", "items/i0"):
        assert doors.ask("GET", f"/v1/batches/{{batch_id}}/{path}", "other", doors.ours).status_code == 404
    deleted = doors.ask("DELETE", "/v1/batches/{batch_id}", "other", doors.ours)
    assert (deleted.status_code, deleted.json()["code"]) == (404, "not_found")
    assert doors.ask("GET", "/v1/batches/{batch_id}", "ours", doors.ours).status_code == 200


def test_a_watch_ends_when_its_token_is_revoked(settings, monkeypatch):
    monkeypatch.setattr(events, "_CHECK_S", 0.1)
    store = Store(settings.store_place)
    made, secret = new_token(store, "ana", ["read", "submit"])
    with TestClient(create_app(settings), "http://127.0.0.1", headers=bearer(secret)) as client:
        batch = client.post("/v1/batches", json={"items": items(1)}).json()["id"]
        revoke(store, made.id)
        began = time.monotonic()
        said = client.get(f"/v1/batches/{batch}/events")  # comes back when the stream ends
        assert said.status_code in (200, 401) and "event: done" not in said.text
        assert time.monotonic() - began < 60
    store.close()


def test_no_answer_sets_a_cookie_or_lets_another_site_read_and_all_say_nosniff(doors):
    foreign = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    asked = [*doors.routes(), ("OPTIONS", "/v1/batches"), ("GET", "/nothing"), ("POST", "/livez")]
    for method, path in asked:
        for secret in ("ours", None):
            doors.client.cookies.clear()
            headers = (bearer(doors.secrets["ours"]) if secret else {}) | foreign
            url = re.sub(r"{\w+}", "x", path)
            answer = doors.client.request(method, url, headers=headers)
            assert not [name for name in answer.headers if name.startswith("access-control-")], path
            assert "set-cookie" not in answer.headers, path
            assert (path, answer.headers.get("x-content-type-options")) == (path, "nosniff")


def test_a_mistake_of_ours_says_nosniff_too(settings, monkeypatch):
    app = create_app(settings)
    monkeypatch.setattr(app.state.service, "for_caller", None)
    with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
        answer = client.get("/v1/batches")
    assert (answer.status_code, answer.headers.get("x-content-type-options")) == (500, "nosniff")


def test_what_models_wrote_is_served_as_a_file_to_keep(doors):
    answer = doors.ask("GET", "/v1/batches/{batch_id}/results", "ours", doors.ours)
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"].startswith("application/x-ndjson")


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_what_somebody_posted_steers_no_terminal(dail, live, http, model, as_json, tmp_path):
    steering = "\x9b31m\u202e\u2028red\u200b"  # what JSON carries and a terminal obeys; API and worker let it through
    body = {"items": items(2), "run_label": f"{steering}{tmp_path}", "metadata": {"k": steering}}
    posted = http.post("/v1/batches", json=body)
    assert posted.status_code == 201, posted.text
    worker = FakeWorker(http, model)
    while units := worker.lease(8):  # of other tests' batches too
        for unit in units:
            worker.fail(unit, detail=steering)
    batch = posted.json()["id"]
    for command in (("list",), ("watch", batch), ("results", batch), ("results", batch, "--shards"), ("retry", batch)):
        ended = dail(*command, "--api", live.url, *as_json)
        assert ended.returncode in (0, 3), ended.stderr
        said = ended.stdout + ended.stderr
        assert batch in said or "--shards" in command
        assert [one for one in said if not one.isprintable() and one != "\n"] == []


def test_a_servers_log_has_no_secret_and_no_text_of_a_problem(tmp_path, model_folder, model):
    people, workers, guess = "canary-people-0123456789", "canary-workers-0123456789", "canary-guess-0123456789"
    folder, text = tmp_path / "api", "canary-problem \x1b[31m"
    secret = new_token(Store(folder / "dail.sqlite"), "ana", ["submit", "read"], "topology")[1]
    log = tmp_path / "log"
    with open(log, "wb") as told:
        api = start_api(folder, model_folder, stderr=told, DAIL_TOKEN=people, DAIL_WORKER_TOKEN=workers)
    try:
        with httpx.Client(base_url=api.url, trust_env=False) as http:
            for one in (people, workers, secret, guess):
                headers = bearer(one)
                good = {"items": [{"problem": text.replace("\x1b", "ESC"), "solution": f"{text[:14]} is solved"}]}
                for body in (good, {"items": [{"problem": text, "solution": 1}]}, {text: 1}):
                    http.post("/v1/batches", json=body, headers=headers)
                http.post("/v1/batches", content=text.encode(), headers=headers)
                http.get(f"/v1/batches/{text[:14]}?token={one}", headers=headers)
                http.post("/internal/v1/leases", json={"worker": text}, headers=headers)
            http.headers.update(bearer(workers))
            worker = FakeWorker(http, model)
            first, *others = worker.lease(8)
            shard = worker.write(first)
            (folder / "objects" / shard.key).write_bytes(text.encode())
            worker.commit(first, shard)
            worker.fail(first, detail=text)
            for unit in others:
                worker.commit(unit)
            batch = http.get("/v1/batches", headers=bearer(people)).json()["data"][0]["id"]
            http.get(f"/v1/batches/{batch}/results", headers=bearer(people))
    finally:
        api.process.terminate()
        api.process.wait(30)
    said = log.read_text()
    assert "API at" in said
    assert "canary" not in said and secret not in said and "\x1b" not in said
    with sqlite3.connect(folder / "dail.sqlite") as connection:
        stored = "\n".join(connection.iterdump())
    connection.close()
    assert "canary-problem" in stored and not [one for one in (people, workers, guess, secret) if one in stored]


def test_every_test_that_the_readme_names_is_there():
    table = (ROOT / "serve/README.md").read_text("utf-8").partition("which test says so")[2].partition("\n## ")[0]
    named = re.findall(r"`(tests/[\w/]+\.py)`|`(test_\w+)`", table)
    assert len(named) > 25
    source = ""
    for file, name in named:
        if file:
            source = (ROOT / file).read_text("utf-8")
        else:
            assert f"def {name}(" in source, name
