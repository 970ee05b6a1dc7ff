"""The live app against its own OpenAPI page, and what HTTP expects of every path."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.errors import MEDIA_TYPE
from tests.serve.openapi import FILE, described
from tests.serve.worker import FakeWorker

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
HEADERS = {"Host": "127.0.0.1"}


def paths(app) -> dict[str, dict]:
    return app.openapi()["paths"]


def test_what_is_answered_is_on_the_page(api):
    described = paths(api.app)
    assert {"200", "201", "4XX", "5XX"} <= described["/v1/batches"]["post"]["responses"].keys()
    for path, verbs in described.items():
        if path not in ("/livez", "/readyz", "/metrics"):
            for verb, what in verbs.items():
                assert {"4XX", "5XX"} <= what["responses"].keys(), (verb, path)


def test_the_contract_is_the_one_that_is_written_down():
    assert described() == FILE.read_text("utf-8"), "if that is meant, run: python -m tests.serve.openapi"


def filled(path: str, batch: str) -> str:
    names = {"batch_id": batch, "item_id": "i0", "unit": "0" * 32, "number": "0", "n": "0", "key": "a/b"}
    return re.sub(r"\{(\w+)(:path)?\}", lambda found: names.get(found[1], "0"), path)


def test_every_path_says_what_may_be_asked_of_it(api, post):
    batch = post()["id"]
    for path, verbs in paths(api.app).items():
        wanted = {verb.upper() for verb in verbs}
        wanted |= {"HEAD"} if "GET" in wanted else set()
        refused = api.request("PATCH", filled(path, batch))
        assert refused.status_code == 405, path
        assert set(refused.headers["Allow"].split(", ")) == wanted, path
        assert refused.headers["content-type"] == MEDIA_TYPE


def test_head_is_get_without_the_body(api, post, model):
    batch = post()["id"]
    FakeWorker(api, model).run()
    for path, verbs in paths(api.app).items():
        if "get" not in verbs:
            continue
        place = filled(path, batch)
        head = api.head(place)
        assert head.content == b"", path
        if not path.endswith("/events"):
            assert head.status_code == api.get(place).status_code, path
    assert api.head(f"/v1/batches/{batch}").headers["ETag"] == api.get(f"/v1/batches/{batch}").headers["ETag"]
    assert api.head("/v1/batches/unknown").status_code == 404


def fuzz(app, num_examples: int) -> int:
    """Sends what the page allows and what it does not; the number of requests."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HEADERS)
    sent = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/events"):
            continue  # streams, which end with their batch
        for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE):
            sent += fuzz_one(operation, mode, num_examples)
    return sent


def fuzz_one(operation, mode, num_examples: int) -> int:
    sent = 0

    @hypothesis_settings(
        max_examples=num_examples,
        deadline=None,
        database=None,
        derandomize=num_examples < 50,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case):
        nonlocal sent
        sent += 1
        response = case.call(headers=HEADERS)
        case.validate_response(response, checks=CHECKS)
        if response.status_code >= 400:
            assert response.headers["content-type"] == [MEDIA_TYPE]
            problem = response.json()
            assert problem["code"] and problem["detail"] and problem["request_id"]

    with suppress(Unsatisfiable):  # there is nothing wrong that could be sent
        send()
    return sent


@pytest.mark.timeout(600)
def test_the_app_holds_to_its_page(settings):
    with TestClient(create_app(settings), "http://127.0.0.1") as api:
        assert fuzz(api.app, 4) > 60


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_the_app_holds_to_its_page_for_twenty_thousand_requests(settings):
    with TestClient(create_app(settings.model_copy(update={"open_batches": 10_000})), "http://127.0.0.1") as api:
        sent = 0
        while sent < 20_000:
            sent += fuzz(api.app, 200)
