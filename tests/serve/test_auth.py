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


def test_every_route_but_livez_wants_a_token(guarded):
    paths = guarded.get("/openapi.json").json()["paths"]
    answers = {
        path: guarded.request(method, path.format(batch_id="b", item_id="i", unit="u"))
        for path, methods in paths.items()
        for method in methods
    }
    is_open = {path for path, answer in answers.items() if answer.status_code != 401}
    assert is_open == {"/livez"}
    assert answers["/v1/batches"].json()["code"] == "unauthorized"
    assert answers["/v1/batches"].headers["www-authenticate"] == "Bearer"


def test_the_right_token_opens_its_own_door_only(guarded):
    assert guarded.get("/v1/batches", headers=bearer(PEOPLE)).status_code == 200
    assert guarded.get("/v1/batches", headers=bearer(WORKERS)).status_code == 401
    assert guarded.post("/internal/v1/leases", json={}, headers=bearer(WORKERS)).status_code == 422
    assert guarded.post("/internal/v1/leases", json={}, headers=bearer(PEOPLE)).status_code == 401


def test_a_token_that_is_not_ascii_is_a_wrong_token(guarded):
    assert guarded.get("/v1/batches", headers={"Authorization": "Bearer \xff".encode("latin-1")}).status_code == 401
