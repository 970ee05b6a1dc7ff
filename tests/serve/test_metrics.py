from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from dail.serve import metrics as ours
from dail.serve.app import create_app
from dail.serve.store.counts import UNIT_STATES
from tests.conftest import ROOT
from tests.serve.conftest import items, lapse
from tests.serve.worker import FakeWorker

Figures = dict[str, float]


def figures(api: TestClient) -> Figures:
    """By name and labels, as read now and not up to five seconds ago."""
    api.app.state.metrics._read_at = float("-inf")  # type: ignore[attr-defined]
    text = api.get("/metrics").text
    return {
        sample.name + "".join(f" {value}" for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def commit(api: TestClient, worker: FakeWorker) -> None:
    (unit,) = worker.lease()
    assert worker.commit(unit).status_code == 204


def fail(api: TestClient, worker: FakeWorker) -> None:
    worker.fail(worker.lease()[0], code="engine_dead")


def fail_with_a_code_of_its_own(api: TestClient, worker: FakeWorker) -> None:
    worker.fail(worker.lease()[0], code="It is 2.")


def hand_back(api: TestClient, worker: FakeWorker) -> None:
    worker.fail(worker.lease()[0], code="worker_stopped", retryable=True)


def come_too_late(api: TestClient, worker: FakeWorker) -> None:
    (unit,) = worker.lease()
    lapse(api.app.state.service.store)  # type: ignore[attr-defined]
    assert FakeWorker(api, worker.model, "w2").lease()
    assert worker.commit(unit).status_code == 409


def fall_silent(api: TestClient, worker: FakeWorker) -> None:
    worker.lease()
    lapse(api.app.state.service.store)  # type: ignore[attr-defined]
    api.app.state.service.ending.sweep()  # type: ignore[attr-defined]


def cancel(api: TestClient, worker: FakeWorker) -> None:
    (unit,) = worker.lease()
    api.post(f"/v1/batches/{unit.batch_id}/cancel")
    worker.fail(unit, code="cancelled")


def end_with_its_batch(api: TestClient, worker: FakeWorker) -> None:
    """The worker never hears of the cancel."""
    (unit,) = worker.lease()
    with api.app.state.service.store.write() as tx:  # type: ignore[attr-defined]
        tx.units.end_all(unit.batch_id, "cancelled")


def outlive_its_batch(api: TestClient, worker: FakeWorker) -> None:
    (unit,) = worker.lease()
    with api.app.state.service.store.write() as tx:  # type: ignore[attr-defined]
        tx.units.end_all(unit.batch_id, "expired")


def find_a_damaged_shard(api: TestClient, worker: FakeWorker) -> None:
    (unit,) = worker.lease()
    shard = worker.write(unit)
    worker.commit(unit, shard)
    api.app.state.service.objects.path(shard.key).write_bytes(b"x" * shard.size_bytes)  # type: ignore[attr-defined]
    api.get(f"/v1/batches/{unit.batch_id}/results")


def be_refused_by_the_store(api: TestClient, worker: FakeWorker) -> None:
    from dail.synth.core.errors import StorageError

    with pytest.raises(StorageError), api.app.state.service.store.write():  # type: ignore[attr-defined]
        raise StorageError("full")


MOVED: list[tuple[str, float, Callable[[TestClient, FakeWorker], None]]] = [
    ("dail_http_requests_total POST /internal/v1/leases 200", 1, commit),
    ("dail_http_request_duration_seconds_count POST /internal/v1/leases 200", 1, commit),
    ("dail_unit_attempts_total committed", 1, commit),
    ("dail_shard_commits_total committed", 1, commit),
    ("dail_items_total completed none", 1, commit),
    ("dail_unit_duration_seconds_count", 1, commit),
    ("dail_queue_wait_seconds_count", 1, commit),
    ("dail_units committed", 1, commit),
    ("dail_unit_attempts_total failed", 1, fail),
    ("dail_items_total failed engine_dead", 1, fail),
    ("dail_items_total failed other", 1, fail_with_a_code_of_its_own),
    ("dail_unit_attempts_total handed_back", 1, hand_back),
    ("dail_unit_attempts_total fenced", 1, come_too_late),
    ("dail_fenced_commits_total", 1, come_too_late),
    ("dail_shard_commits_total fenced", 1, come_too_late),
    ("dail_workers", 1, come_too_late),
    ("dail_unit_attempts_total expired", 1, come_too_late),
    ("dail_leases_expired_total", 1, fall_silent),
    ("dail_unit_attempts_total expired", 1, fall_silent),
    ("dail_unit_attempts_total cancelled", 1, cancel),
    ("dail_unit_attempts_total cancelled", 1, end_with_its_batch),
    ("dail_unit_attempts_total expired", 1, outlive_its_batch),
    ("dail_items_total cancelled none", 2, cancel),
    ("dail_batches cancelled", 1, cancel),
    ("dail_checksum_failures_total", 1, find_a_damaged_shard),
    ("dail_store_errors_total write", 1, be_refused_by_the_store),
]


@pytest.mark.parametrize(("name", "by", "does"), MOVED, ids=[f"{name} by {does.__name__}" for name, _, does in MOVED])
def test_each_metric_moves_with_what_it_counts(api, post, worker, name, by, does):
    post(2)
    before = figures(api)
    does(api, worker)
    assert figures(api).get(name, 0.0) - before.get(name, 0.0) == by


def test_what_grows_by_more_than_one(api, post, worker):
    post(2)
    commit(api, worker)
    found = figures(api)
    assert found["dail_shard_bytes_total"] > 1000
    assert found["dail_store_transaction_duration_seconds_count write"] >= 3
    assert found["dail_disk_free_bytes"] > 0
    assert found["dail_oldest_queued_unit_age_seconds"] > 0
    assert found["dail_units queued"] == 1


def test_labels_come_from_closed_sets(api, post, worker):
    batch = post(2, metadata={"canary": "canary"})
    commit(api, worker)
    fail_with_a_code_of_its_own(api, worker)
    for path in (f"/v1/batches/{batch['id']}", "/v1/batches/canary", "/canary", "/v1/batches?status=canary"):
        api.get(path, headers={"X-Request-Id": "canary"})
    api.request("CANARY", "/v1/batches")
    closed: dict[str, set[str]] = {
        "method": {*ours.METHODS, "other"},
        "route": {route.path for route in _routes(api.app)} | {"other"},
        "status": {*map(str, range(100, 600)), *ours.STATUSES},
        "state": set(UNIT_STATES),
        "outcome": set(ours.OUTCOMES),
        "reason": set(ours.REASONS),
        "result": {*ours.RESULTS, "refused"},
        "op": {"read", "write"},
    }
    text = api.get("/metrics").text
    assert "canary" not in text
    assert batch["id"] not in text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert label in ("le", "version") or value in closed[label], (sample.name, label, value)


def _routes(app: Any) -> list[Any]:
    from starlette.routing import Route

    found, waiting = [], list(app.routes)
    while waiting:
        route = waiting.pop()
        if isinstance(route, Route):
            found.append(route)
        waiting += getattr(getattr(route, "original_router", route), "routes", [])
    return found


def test_apps_in_one_process_do_not_mix(api, post, settings, tmp_path):
    post()
    with TestClient(create_app(settings.model_copy(update={"data_dir": tmp_path / "b"})), "http://127.0.0.1") as other:
        assert not [name for name in figures(other) if name.startswith("dail_http_requests_total POST")]


def test_leases_that_outlive_a_restart_are_counted(api, post, worker, settings):
    post(3)
    worker.lease(2)
    assert figures(api)["dail_restart_grace_total"] == 0
    with TestClient(create_app(settings), "http://127.0.0.1") as again:
        assert figures(again)["dail_restart_grace_total"] == 2


def test_a_store_that_does_not_answer_takes_only_its_own_figures_along(api, post, monkeypatch):
    from dail.synth.core.errors import StoreBusy

    post()
    before = figures(api)

    def busy() -> Any:
        raise StoreBusy("held")

    monkeypatch.setattr(api.app.state.metrics, "_read", busy)
    after = figures(api)
    assert after["dail_units queued"] == before["dail_units queued"] == 1


def test_a_hundred_looks_read_the_store_once(api, monkeypatch):
    calls = []
    read = api.app.state.metrics._read
    monkeypatch.setattr(api.app.state.metrics, "_read", lambda: calls.append(1) or read())
    for _ in range(100):
        api.get("/metrics")
    assert len(calls) == 1


def test_the_readme_has_every_metric_and_no_other(api):
    named = set(re.findall(r"`(dail_\w+)`", (ROOT / "serve/README.md").read_text("utf-8")))
    every = {name for name in re.findall(r"# TYPE (dail_\w+) ", api.get("/metrics").text) if "_created" not in name}
    assert named == every


def test_a_batch_that_is_refused_counts_as_a_request_alone(api):
    api.post("/v1/batches", json={"items": [{**items(1)[0], "solution": ""}]})
    found = figures(api)
    assert found["dail_http_requests_total POST /v1/batches 422"] == 1
    assert not [name for name in found if name.startswith("dail_items_total ")]
