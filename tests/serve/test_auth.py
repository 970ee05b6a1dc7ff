from __future__ import annotations

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from dail.serve.app import create_app

PEOPLE, WORKERS = "p" * 20, "w" * 20


@pytest.fixture
def guarded(settings):
    tokens = {"token": SecretStr(PEOPLE), "worker_token": SecretStr(WORKERS)}
    with TestClient(create_app(settings.model_copy(update=tokens))) as client:
        yield client


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def test_the_right_token_opens_its_own_door_only(guarded):
    assert guarded.get("/v1/batches", headers=bearer(PEOPLE)).status_code == 200
    assert guarded.get("/v1/batches", headers=bearer(WORKERS)).status_code == 403
    assert guarded.post("/internal/v1/leases", json={}, headers=bearer(WORKERS)).status_code == 422
    assert guarded.post("/internal/v1/leases", json={}, headers=bearer(PEOPLE)).status_code == 403


def test_a_token_that_is_not_ascii_is_a_wrong_token(guarded):
    assert guarded.get("/v1/batches", headers={"Authorization": "Bearer \xff".encode("latin-1")}).status_code == 401


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "evil.example"}, "foreign_host"),
        ({"Host": "evil.example:8765", "Origin": "http://evil.example"}, "foreign_host"),
        ({"Host": "127.0.0.1.evil.example"}, "foreign_host"),
        ({"Host": "127.0.0.1@evil.example"}, "foreign_host"),
        ({"Host": ""}, "foreign_host"),
        ({"Host": "[::"}, "foreign_host"),
        ({"Origin": "http://evil.example"}, "foreign_origin"),
        ({"Origin": "null"}, "foreign_origin"),
        ({"Origin": "http://localhost.evil.example:8765"}, "foreign_origin"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/batches", "/openapi.json", "/docs", "/nothing", "/livez"])
def test_a_server_without_a_token_answers_to_its_own_names_alone(api, path, headers, code):
    answer = api.get(path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, code)
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Host": "localhost:8765"}, {"Host": "[::1]:8765"}, {"Host": "127.8.0.1"}, {"Origin": "http://LOCALHOST:1"}],
)
def test_names_of_this_machine_are_its_own(api, headers):
    assert api.get("/v1/batches", headers=headers).status_code == 200


def test_a_server_with_a_token_may_have_any_name_and_one_with_names_only_these(settings):
    guarded = settings.model_copy(update={"token": SecretStr(PEOPLE)})
    with TestClient(create_app(guarded), "http://dail.team.example") as client:
        assert client.get("/v1/batches", headers=bearer(PEOPLE)).status_code == 200
    named = settings.model_copy(update={"hosts": ("dail.team.example",)})
    with TestClient(create_app(named), "http://dail.team.example") as client:
        assert client.get("/v1/batches").status_code == 200
        assert client.get("/v1/batches", headers={"Host": "other.example"}).status_code == 403
