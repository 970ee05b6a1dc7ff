from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import openai
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from dail.serve import guard
from dail.serve.app import create_app
from dail.serve.errors import RequestError
from dail.serve.rules import tokens as rules
from dail.serve.rules.tokens import Caller, Tokens, all_tokens, new_token, revoke
from dail.serve.settings import Settings
from dail.serve.store.tokens import Tokens as StoredTokens
from dail.serve.store.transaction import Store
from dail.synth.core.errors import ApiError, StoreBusy, UsageError
from dail.synth.core.http import Client, PatientClient, worker_http
from dail.synth.schema.units import LeaseReply, LeaseRequest
from tests.conftest import ROOT
from tests.serve.conftest import clean_environment, items, start_api

WORD = "a-token-of-16-or-more"


@pytest.fixture
def store(settings):
    store = Store(settings.store_place)
    yield store
    store.close()


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def with_tokens(settings, people=None, workers=None):
    given = {"token": people and SecretStr(people), "worker_token": workers and SecretStr(workers)}
    return settings.model_copy(update=given)


def test_a_secret_is_kept_nowhere(store, settings):
    made, secret = new_token(store, "ana", ["read"])
    assert secret.startswith("dail_sk_") and len(secret) >= 8 + 43  # 32 bytes
    with sqlite3.connect(settings.store_place) as connection:
        dump = "\n".join(connection.iterdump())
    connection.close()
    assert made.hash in dump and secret not in dump and secret.removeprefix("dail_sk_") not in dump
    assert secret not in repr(Tokens(store))


def test_a_caller_is_known_without_a_look_into_the_store(store, monkeypatch):
    made, secret = new_token(store, "ana", ["read"], "topology")
    tokens = Tokens(store)
    monkeypatch.setattr(store, "read", None)
    monkeypatch.setattr(store, "write", None)
    caller = tokens.known(secret)
    assert (caller.id, caller.tenant, caller.scopes) == (made.id, "topology", {"read"})
    assert [tokens.known(other) for other in ("", secret[:-1], secret + "a", made.id, made.hash)] == [None] * 5


def test_a_new_token_works_at_once_and_guesses_read_the_store_once_a_second(store, monkeypatch):
    now, read = [100.0], []
    monkeypatch.setattr(rules.time, "monotonic", lambda: now[0])
    tokens = Tokens(store)
    monkeypatch.setattr(tokens, "read", lambda whole=tokens.read: read.append(now[0]) or whole())
    assert not tokens.are_wanted
    _, secret = new_token(store, "ana", ["read"])
    assert (tokens.may_be_new(secret), tokens.pause_s()) == (True, 0)
    tokens.look_again(now[0])
    assert tokens.known(secret) and tokens.are_wanted and not tokens.may_be_new(secret)
    now[0] += 0.25
    assert tokens.pause_s() == 0.75
    tokens.look_again(since=99.0)  # who asked before has what was read then
    assert read == [100.0]
    now[0] += 0.75
    for _ in range(3):  # who waited together
        tokens.look_again(since=100.25)
    assert read == [100.0, 101.0]


def test_only_what_may_be_a_new_token_has_the_store_read(store):
    made, secret = new_token(store, "ana", ["read"])
    _, short = new_token(store, "bo", ["read"], life_s=1e-3)
    revoke(store, made.id)
    tokens = Tokens(store)
    for wrong in ("", "wrong", secret, short, secret[:-1], f"{secret}a", secret.replace("_sk_", "_pk_"), f" {secret}"):
        assert tokens.known(wrong) is None and not tokens.may_be_new(wrong), wrong
    assert tokens.may_be_new("dail_sk_" + "a" * 43)


def test_a_new_token_works_while_others_guess(settings, store):
    new_token(store, "ana", ["read"])
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        for letter in "ab":
            guess = bearer("dail_sk_" + letter * 43)
            assert client.get("/v1/limits", headers=guess).status_code == 401
            _, secret = new_token(store, "bo", ["read"])
            assert client.get("/v1/limits", headers=bearer(secret)).status_code == 200


def test_revoked_and_ended_tokens_are_not_known_and_open_nothing(store, monkeypatch):
    made, secret = new_token(store, "ana", ["admin"])
    _, short = new_token(store, "bo", ["admin"], life_s=60)
    tokens = Tokens(store)
    assert tokens.known(secret) and tokens.known(short) and tokens.let_people_in
    revoke(store, made.id)
    tokens.read()
    assert tokens.known(secret) is None
    then = time.time() + 61
    monkeypatch.setattr(rules.time, "time", lambda: then)
    assert tokens.known(short) is None  # by the clock, whatever was read when
    assert (tokens.are_wanted, tokens.let_people_in) == (True, False)


def test_to_revoke_again_keeps_the_time(store):
    made, _ = new_token(store, "ana", ["read"])
    revoke(store, made.id)
    first = all_tokens(store)[0].revoked_at
    revoke(store, made.id)
    assert all_tokens(store)[0].revoked_at == first


def test_when_a_token_was_used_is_kept_coarsely(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(rules.time, "monotonic", lambda: now[0])
    made, secret = new_token(store, "ana", ["read"])
    new_token(store, "bo", ["read"])
    tokens = Tokens(store)
    tokens.known(secret)
    tokens.note_used()
    used = {one.id: one.used_at for one in all_tokens(store)}
    assert abs(used.pop(made.id) - time.time()) < 60 and set(used.values()) == {None}
    told = []
    monkeypatch.setattr(StoredTokens, "note_used", lambda _, ids: told.append(set(ids)))
    now[0] += 1
    tokens.known(secret)
    tokens.note_used()
    assert told == []
    now[0] += 59
    tokens.note_used()
    tokens.note_used()
    assert told == [{made.id}]


def test_one_word_for_both_doors_opens_both(store):
    assert Tokens(store, WORD, WORD).known(WORD).scopes == {"admin", "worker"}
    assert Tokens(store, WORD, None).known(WORD).scopes == {"admin", "worker"}
    assert Tokens(store, WORD, "w" * 16).known(WORD).scopes == {"admin"}


@pytest.mark.parametrize(
    ("people", "workers", "rows", "starts"),
    [
        (None, None, [], False),
        (None, "w" * 16, [], False),  # nobody but workers has one: people would need none
        (WORD, None, [], True),
        (None, None, [("submit", False)], True),
        (None, None, [("worker", False)], False),
        (None, None, [("admin", True)], False),
        (None, None, [("admin", True), ("read", False)], True),
    ],
)
def test_an_address_open_to_the_network_needs_a_token_that_works(settings, store, people, workers, rows, starts):
    for scope, is_revoked in rows:
        made, _ = new_token(store, "ana", [scope])
        if is_revoked:
            revoke(store, made.id)
    given = with_tokens(settings, people, workers).model_copy(update={"host": "0.0.0.0"})
    if starts:
        create_app(given)
    else:
        with pytest.raises(UsageError, match="DAIL_TOKEN"):
            create_app(given)


def test_a_server_that_may_not_listen_there_leaves_no_store(tmp_path):
    with pytest.raises(UsageError, match="DAIL_TOKEN"):
        create_app(Settings(data_dir=tmp_path / "api", host="0.0.0.0"))
    assert not (tmp_path / "api").exists()


def test_a_token_is_read_from_the_header_alone(settings, store):
    _, secret = new_token(store, "ana", ["read"])
    with TestClient(create_app(settings), "http://127.0.0.1") as client:
        for name in ("token", "access_token", "api_key", "authorization"):
            assert client.get("/v1/batches", params={name: secret}, cookies={name: secret}).status_code == 401
            client.cookies.clear()
        assert client.get("/v1/batches", headers={"Authorization": f"Basic {secret}"}).status_code == 401
        assert client.get("/v1/batches", headers={"Authorization": secret}).status_code == 401
        assert client.get("/v1/batches", headers={"Authorization": f"bearer {secret}"}).status_code == 200


def test_a_token_in_a_store_that_cannot_be_read_is_not_called_wrong(settings, store, monkeypatch):
    new_token(store, "ana", ["read"])
    app = create_app(settings)
    with TestClient(app, "http://127.0.0.1") as client:
        _, secret = new_token(store, "bo", ["read"])
        monkeypatch.setattr(app.state.tokens, "_callers", {})
        monkeypatch.setattr(app.state.tokens, "read", lambda: (_ for _ in ()).throw(StoreBusy("held")))
        answer = client.get("/v1/batches", headers=bearer(secret))
    assert (answer.status_code, answer.json()["code"]) == (503, "store_busy")


def test_a_token_has_a_pace_and_workers_have_none(settings, store):
    _, fast = new_token(store, "ana", ["read", "worker"])
    _, other = new_token(store, "bo", ["read"])
    slow = settings.model_copy(update={"requests_per_s": 2})
    with TestClient(create_app(slow), "http://127.0.0.1") as client:
        answers = [client.get("/v1/limits", headers=bearer(fast)) for _ in range(12)]
        assert {one.status_code for one in answers[:4]} == {200}  # twice as many at once
        refused = next(one for one in answers if one.status_code != 200)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert refused.headers["retry-after"] == "1"
        assert client.get("/v1/limits", headers=bearer(other)).json()["requests_per_s"] == 2
        leases = [client.post("/internal/v1/leases", json={}, headers=bearer(fast)) for _ in range(12)]
        assert {one.status_code for one in leases} == {422}


def test_a_revoked_token_is_refused_although_the_sweep_is_held_up(settings, store, monkeypatch):
    made, secret = new_token(store, "ana", ["read"])
    app, held, is_held = create_app(settings), threading.Event(), threading.Event()
    with TestClient(app, "http://127.0.0.1", headers=bearer(secret)) as client:
        monkeypatch.setattr(app.state.service.ending, "sweep", lambda: is_held.set() or held.wait(60))
        try:
            assert is_held.wait(60)
            revoke(store, made.id)
            until = time.monotonic() + 60
            while client.get("/v1/limits").status_code != 401:
                assert time.monotonic() < until
                time.sleep(0.05)
        finally:
            held.set()


def test_where_workers_alone_have_a_token_they_are_asked_for_it_and_people_are_not(settings):
    with TestClient(create_app(with_tokens(settings, workers="w" * 16)), "http://127.0.0.1") as client:
        assert client.get("/v1/batches").status_code == 200
        assert client.get("/v1/batches", headers=bearer("w" * 16)).status_code == 403
        for headers, status in (({}, 401), (bearer("wrong"), 401), (bearer("w" * 16), 422)):
            assert client.post("/internal/v1/leases", json={}, headers=headers).status_code == status


def test_a_pace_is_kept_whatever_the_rhythm(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(guard.time, "monotonic", lambda: now[0])
    pace, one, other = guard.Pace(10), Caller("a", frozenset()), Caller("b", frozenset())

    def taken(caller, seconds, step_s):
        count = 0
        for _ in range(round(seconds / step_s)):
            now[0] += step_s
            with contextlib.suppress(RequestError):
                pace.check(caller)
                count += 1
        return count

    assert taken(one, 0.01, 0.0001) == 20  # twice as many at once
    assert taken(other, 0.01, 0.0001) == 20
    assert 99 <= taken(one, 10, 0.001) <= 101
    assert taken(one, 10, 0.2) == 50  # who sends fewer is never refused
    now[0] += 1000
    assert 29 <= taken(one, 1, 0.001) <= 31  # a long silence saves up no more


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, model_folder):
    """A server as a process, with tokens: its URL, and the secrets by name."""
    folder = tmp_path_factory.mktemp("guarded")
    store = Store(folder / "dail.sqlite")
    of = {"submit": ["submit", "read"], "read": ["read"], "worker": ["worker"]}
    secrets = {name: new_token(store, name, scopes)[1] for name, scopes in of.items()}
    secrets["foreign"] = new_token(store, "foreign", of["submit"], "elsewhere")[1]
    store.close()
    api = start_api(folder, model_folder, DAIL_REQUESTS_PER_S="5")
    yield api.url, secrets
    api.kill()


def test_the_openai_sdk_hears_what_is_wrong_with_its_key_and_keeps_the_pace(guarded):
    url, secrets = guarded

    def sdk(key, **more):
        return openai.OpenAI(base_url=f"{url}/v1", api_key=key, http_client=httpx.Client(trust_env=False, **more))

    body = {"items": items(1)}
    with sdk(secrets["submit"]) as mine, sdk(secrets["read"]) as reader, sdk(secrets["foreign"]) as foreign:
        batch = mine.post("/batches", cast_to=httpx.Response, body=body).json()["id"]
        assert reader.batches.retrieve(batch).status == "in_progress"
        with pytest.raises(openai.PermissionDeniedError) as refused:
            reader.batches.cancel(batch)
        assert "scope submit" in refused.value.body["detail"]
        with pytest.raises(openai.NotFoundError):
            foreign.batches.cancel(batch)
        assert foreign.batches.list().data == []
    with sdk("dail_sk_none") as nobody, pytest.raises(openai.AuthenticationError):
        nobody.batches.list()
    statuses = []
    with sdk(secrets["read"], event_hooks={"response": [lambda it: statuses.append(it.status_code)]}) as hasty:
        for _ in range(16):
            assert hasty.batches.retrieve(batch).id == batch
    assert 429 in statuses and statuses.count(200) == 16


def test_a_workers_own_client_needs_a_workers_token(guarded, model):
    url, secrets = guarded
    request = LeaseRequest(worker="w", count=1, model=model).model_dump(mode="json")

    async def lease(secret):
        async with worker_http(url, secret) as http:
            return await PatientClient(http).post("leases", request)

    assert LeaseReply.model_validate_json(asyncio.run(lease(secrets["worker"])))
    with pytest.raises(ApiError, match=r"403.*scope worker.*read, submit.*set DAIL_TOKEN to a worker token"):
        asyncio.run(lease(secrets["submit"]))
    with pytest.raises(ApiError, match="401"):
        asyncio.run(lease(None))


def test_a_verb_waits_where_it_is_told_to(monkeypatch):
    answers = [httpx.Response(429, headers={"Retry-After": "1"}), httpx.Response(200, json={"ok": True})]
    slept = []
    client = Client("http://127.0.0.1:9")
    monkeypatch.setattr(client._http, "request", lambda *_, **__: answers.pop(0))
    monkeypatch.setattr(time, "sleep", slept.append)
    assert (client.get("/v1/limits"), slept) == ({"ok": True}, [1])


def test_the_verbs_make_list_and_revoke_tokens_of_a_running_server(dail, tmp_path, model_folder, monkeypatch):
    folder = ("--data-dir", tmp_path / "api")
    ended = dail("token", "new", "--name", "ana", "--tenant", "topology", *folder)
    assert (ended.returncode, ended.stdout.count("\n")) == (0, 1), ended.stderr  # the secret alone, for $(…)
    secret = ended.stdout.strip()
    api = start_api(tmp_path / "api", model_folder, DAIL_HOST="0.0.0.0")
    try:
        monkeypatch.setenv("DAIL_TOKEN", secret)
        assert dail("list", "--api", api.url).returncode == 0
        with httpx.Client(base_url=api.url, headers=bearer(secret), trust_env=False) as http:
            assert http.post("/v1/batches", json={"items": items(1)}).status_code == 201
        made = json.loads(dail("token", "new", "--name", "w", "--scope", "worker", "--json", *folder).stdout)
        lease = f"{api.url}/internal/v1/leases"
        assert httpx.post(lease, headers=bearer(made["secret"]), json={}, trust_env=False).status_code == 422  # at once

        listed = dail("token", "list", "--json", *folder)
        rows = [json.loads(line) for line in listed.stdout.splitlines()]
        assert [(one["name"], one["scopes"], one["tenant"], one["status"]) for one in rows] == [
            ("ana", ["read", "submit"], "topology", "active"),
            ("w", ["worker"], "", "active"),
        ]
        assert secret not in listed.stdout and rows[0]["created_at"] > 0 and "hash" not in rows[0]

        assert dail("token", "revoke", rows[0]["id"], *folder).returncode == 0
        until = time.monotonic() + 30
        began = time.monotonic()
        while httpx.get(f"{api.url}/v1/batches", headers=bearer(secret), trust_env=False).status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.05)
        print(f"a revoked token was refused after {time.monotonic() - began:.1f} s")
        assert "revoked" in dail("token", "list", *folder).stdout
    finally:
        api.kill()


@pytest.mark.parametrize("token", ["canary\n", "can ary", "canary\u00e4", "canary\x00"])
def test_a_token_that_no_header_can_carry_is_not_shown(dail, monkeypatch, token):
    monkeypatch.setattr(os, "environ", {**os.environ, "DAIL_TOKEN": token})  # NUL cannot be set
    ended = dail("list", "--api", "http://127.0.0.1:9")
    assert (ended.returncode, "DAIL_TOKEN holds" in ended.stderr) == (2, True)
    assert "can" not in ended.stderr.replace("cannot", "") + ended.stdout
    with pytest.raises(UsageError, match="DAIL_TOKEN holds"):
        worker_http("http://127.0.0.1:9", token)


@pytest.mark.parametrize("user", ["canary:canary", "canary", ":canary"])
def test_a_password_in_the_address_is_refused_and_not_shown(dail, user):
    url = f"http://{user}@127.0.0.1:9"
    ended = dail("list", "--api", url)
    assert (ended.returncode, "set DAIL_TOKEN" in ended.stderr, "canary" in ended.stderr) == (2, True, False)
    with pytest.raises(UsageError, match="set DAIL_TOKEN"):
        worker_http(url, None)


def test_the_sweep_reads_what_changed_alone(store, monkeypatch):
    _, secret = new_token(store, "ana", ["read"])
    tokens = Tokens(store)
    read = []
    monkeypatch.setattr(StoredTokens, "all", lambda self, whole=StoredTokens.all: read.append(1) or whole(self))
    tokens.read()
    assert read == []
    made, other = new_token(store, "bo", ["read"])
    read.clear()
    tokens.read()
    assert read == [1] and tokens.known(other) and tokens.known(secret)
    revoke(store, made.id)
    tokens.read()
    assert read == [1, 1] and tokens.known(other) is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["new"], 2, "--name"),
        (["new", "--name", "a b"], 2, "letters"),
        (["new", "--name", "\x1b[31m"], 2, "letters"),
        (["new", "--name", "a", "--tenant", "../b"], 2, "letters"),
        (["new", "--name", "a", "--tenant", "of b"], 2, "letters"),
        (["new", "--name", "a", "--scope", "root"], 2, "submit"),
        (["new", "--name", "a", "--scope", "worker", "--tenant", "t"], 2, "every tenant"),
        (["new", "--name", "a", "--days", "nan"], 2, "finite"),
        (["new", "--name", "a", "--days", "0"], 2, "range"),
        (["revoke", "tok_none"], 2, "no store"),
        (["list"], 2, "no store"),
    ],
)
def test_a_wrong_call_says_what_is_wanted_and_makes_no_store(dail, tmp_path, arguments, code, said):
    ended = dail("token", *arguments, "--data-dir", tmp_path / "none")
    assert (ended.returncode, said in ended.stderr) == (code, True), ended.stderr
    assert not (tmp_path / "none").exists()


def test_tokens_of_a_store_that_two_servers_share(dail, settings, place, monkeypatch):
    if isinstance(place, str):
        monkeypatch.setenv("DAIL_STORE", place)
        settings = settings.model_copy(update={"store": SecretStr(place)})
    folder = ("--data-dir", settings.data_dir)
    secret = dail("token", "new", "--name", "ana", *folder).stdout.strip()
    with contextlib.ExitStack() as servers:
        clients = [servers.enter_context(TestClient(create_app(settings), "http://127.0.0.1")) for _ in range(2)]
        later = json.loads(dail("token", "new", "--name", "bo", "--days", "1", "--json", *folder).stdout)
        for client in clients:
            assert client.get("/v1/limits").status_code == 401
            for one in (secret, later["secret"]):
                assert client.get("/v1/limits", headers=bearer(one)).status_code == 200
        assert (
            86_000 < later["expires_at"] - later["created_at"] < 86_800 and abs(later["created_at"] - time.time()) < 60
        )
        until = time.monotonic() + 60
        while json.loads(dail("token", "list", "--json", *folder).stdout.splitlines()[1])["used_at"] is None:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert dail("token", "revoke", later["id"], *folder).returncode == 0
        for client in clients:
            while client.get("/v1/limits", headers=bearer(later["secret"])).status_code == 200:
                assert time.monotonic() < until
                time.sleep(0.05)
            assert client.get("/v1/limits", headers=bearer(secret)).status_code == 200
    statuses = [json.loads(line)["status"] for line in dail("token", "list", "--json", *folder).stdout.splitlines()]
    assert statuses == ["active", "revoked"]


def test_no_such_token_is_an_error_with_its_way_out(dail, tmp_path):
    dail("token", "new", "--name", "a", "--data-dir", tmp_path)
    ended = dail("token", "revoke", "tok_none", "--data-dir", tmp_path, "--json")
    assert (ended.returncode, json.loads(ended.stdout)["error"]) == (1, "not_found")
    assert "dail token list" in ended.stderr


def test_what_the_page_offers_to_paste_makes_two_tokens_and_hides_them(tmp_path):
    text = (ROOT / "serve/tokens.md").read_text("utf-8")
    code = re.search(r"```sh\n(.*?)```", text, re.DOTALL)[1]
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e"], input=code, cwd=tmp_path, env=clean_environment() | path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ana  read,submit  tenant topology" in done.stdout and "cluster  worker" in done.stdout
    for name in ("ana", "cluster"):
        kept = tmp_path / f"{name}.token"
        assert re.fullmatch(r"dail_sk_[\w-]{43}\n", kept.read_text()) and kept.stat().st_mode & 0o077 == 0
