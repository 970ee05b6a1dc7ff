from __future__ import annotations

import json
import socket
import subprocess
import threading
import time

import httpx
import pytest

from dail.serve import commands
from dail.serve.app import create_app
from dail.synth.core.http import Client
from tests.serve.conftest import DAIL, clean_environment, items, start_api
from tests.serve.worker import FakeWorker

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def solutions(tmp_path):
    path = tmp_path / "solutions.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items(2)))
    return path


def test_submit_watch_and_results_follow_a_batch_to_its_end(dail, live, http, model, solutions, tmp_path):
    submitted = dail("submit", solutions, "--api", live.url, "--set", "samples_per_item=2", "--run-label", tmp_path)
    batch = submitted.stdout.strip()
    assert submitted.returncode == 0, submitted.stderr

    worker = FakeWorker(http, model)
    working = threading.Timer(0.5, worker.run)
    working.start()
    watched = dail("watch", batch, "--api", live.url, "--json")
    working.join()
    last = json.loads(watched.stdout.splitlines()[-1])
    assert (watched.returncode, last["status"], last["shards"]) == (0, "completed", 4)
    assert last["manifest"]["path"] in watched.stderr

    out = tmp_path / "results.jsonl"
    found = dail("results", batch, "--api", live.url, "--out", out)
    assert found.returncode == 0, found.stderr
    assert last["manifest"]["path"] in found.stdout and "4 shards in " in found.stdout
    judged = "no item has an answer to judge by; the student wrote 67 %; none cut; none cites the solution"
    assert (
        judged in found.stdout
        and f"next: dail train --model FOLDER --manifest {last['manifest']['path']}" in found.stdout
    )
    assert f"read them: dail inspect {last['manifest']['path']}" in found.stdout
    assert judged in dail("watch", batch, "--api", live.url).stderr
    assert len(dail("results", batch, "--api", live.url, "--shards").stdout.splitlines()) == 4
    assert [json.loads(line)["status"] for line in out.read_text().splitlines()] == ["succeeded"] * 4


def test_submit_says_what_contradicts_in_a_file(dail, live, http, tmp_path):
    path = tmp_path / "solutions.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "1+1?", "solution": r"As 1 is odd, \boxed{2}", "answer": "3"}))
    problems = tmp_path / "problems.jsonl"
    problems.write_text(json.dumps({"id": "e", "problem": "1 + 1?", "answer": 2}))
    submitted = dail("submit", path, "--api", live.url, "--run-label", tmp_path, "--against", problems)
    assert submitted.returncode == 0 and submitted.stdout.strip().startswith("batch_")
    found = "1 answer contradicts the box (a); 1 problem of the evaluation set (a)"
    assert f"data check: {found}; `dail doctor {path}` lists" in submitted.stderr
    http.post(f"/v1/batches/{submitted.stdout.strip()}/cancel")  # the next test leases what is queued


def test_failed_items_are_named_and_the_exit_code_is_3(dail, live, http, model, solutions, tmp_path):
    batch = dail("submit", solutions, "--api", live.url, "--run-label", tmp_path).stdout.strip()
    worker = FakeWorker(http, model)
    bad, good = worker.lease(2)
    worker.fail(bad, "context_length_exceeded")
    worker.commit(good)
    found = dail("results", batch, "--api", live.url)
    assert found.returncode == 3
    assert f"1 failed with context_length_exceeded, such as {bad.item_id}: it broke" in found.stdout
    assert f"dail retry {batch}" in found.stdout
    assert dail("retry", batch, "nobody", "--api", live.url).returncode == 1
    again = dail("retry", batch, bad.item_id, "--api", live.url, "--json")
    assert (again.returncode, json.loads(again.stdout)["generation"]) == (0, 2)
    assert worker.run() == 1
    assert dail("results", batch, "--api", live.url).returncode == 0
    assert dail("retry", batch, "--api", live.url).returncode == 1
    assert dail("delete", batch, "--api", live.url).returncode == 0
    assert dail("watch", batch, "--api", live.url).returncode == 1


def test_samples_that_were_not_needed_are_told_of(dail, live, http, model, tmp_path):
    path = tmp_path / "solutions.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "1+1?", "solution": "2.", "answer": "2"}))
    early = ("--set", "samples_per_item=5", "--set", "enough=first_correct")
    batch = dail("submit", path, "--api", live.url, "--run-label", tmp_path, *early).stdout.strip()
    worker = FakeWorker(http, model)
    for correct in (False, True):
        (unit,) = worker.lease(9)
        worker.commit(unit, correct=correct)
    watched = dail("watch", batch, "--api", live.url)
    assert watched.returncode == 0 and "3 of 5 samples were not needed" in watched.stderr
    out = tmp_path / "results.jsonl"
    assert dail("results", batch, "--api", live.url, "--out", out).returncode == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["succeeded"] * 2 + ["skipped"] * 3
    samples = http.get(f"/v1/batches/{batch}/items").json()["data"][0]["samples"]
    assert [(one["status"], one["correct"]) for one in samples[:3]] == [
        ("committed", False), ("committed", True), ("skipped", None)
    ]  # fmt: skip


def test_a_cancelled_batch_ends_the_watch_with_5(dail, live, http, solutions, tmp_path):
    batch = dail("submit", solutions, "--api", live.url, "--run-label", tmp_path).stdout.strip()
    listed = dail("list", "--status", "in_progress", "--api", live.url)
    assert f"{batch}  " in listed.stdout and "2 queued" in listed.stdout
    assert dail("cancel", batch, "--api", live.url).returncode == 0
    assert json.loads(dail("list", "--api", live.url, "--json").stdout.splitlines()[0])["status"] == "cancelled"
    assert dail("watch", batch, "--api", live.url).returncode == 5


@pytest.fixture
def lonely(model_folder, tmp_path):
    """A server that no worker has asked."""
    server = start_api(tmp_path / "lonely", model_folder)
    yield server
    server.kill()


def test_a_watch_by_events_says_when_nobody_works(dail, lonely, model, solutions, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "NOBODY_S", 0)
    live, http = lonely, httpx.Client(base_url=lonely.url, timeout=30, trust_env=False)
    batch = dail("submit", solutions, "--api", live.url, "--run-label", tmp_path).stdout.strip()
    streamed = []
    events = Client.events
    monkeypatch.setattr(Client, "events", lambda *of: streamed.append(of) or events(*of))

    def work_once_it_listens():
        while not streamed:
            time.sleep(0.05)
        FakeWorker(http, model).run()

    working = threading.Thread(target=work_once_it_listens)
    working.start()
    watched = dail("watch", batch, "--api", live.url)
    working.join()
    assert watched.returncode == 0 and streamed
    assert f"start one: dail worker --api {live.url} --model FOLDER" in watched.stderr


def test_a_trace_with_an_answer_is_judged_from_the_results_of_the_batch(dail, live, http, model, tmp_path):
    path = tmp_path / "solutions.jsonl"
    path.write_text(json.dumps({"id": "a", "problem": "1+1?", "solution": "2.", "answer": "2"}))
    batch = dail("submit", path, "--api", live.url, "--run-label", tmp_path).stdout.strip()
    FakeWorker(http, model).run()
    found = dail("results", batch, "--api", live.url)
    assert r"  a #0  wrong: it has no \boxed{} answer, the answer is 2" in found.stdout
    assert "0 of 1 verifiable traces right" in found.stdout
    assert "verifiable" not in dail("results", batch, "--api", live.url, "--json").stderr


def test_no_server_is_said_with_the_command_that_starts_one(dail, solutions, monkeypatch):
    monkeypatch.setattr(commands, "_STARTING_S", 0)
    for arguments in (("submit", solutions), ("watch", "batch_x"), ("results", "batch_x")):
        ended = dail(*arguments, "--api", NOBODY)
        assert ended.returncode == 1
        assert f"no API at {NOBODY}; start one with `dail serve`" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_submit_waits_for_a_server_that_is_just_starting(tmp_path, model_folder, solutions):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = (*DAIL, "submit", str(solutions), "--api", f"http://127.0.0.1:{port}")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    submitting = subprocess.Popen(command, env=clean_environment(), **pipes)
    assert "own columns: 2 items from " in submitting.stderr.readline()
    assert "still trying" in submitting.stderr.readline()
    api = start_api(tmp_path / "api", model_folder, port=port)
    try:
        batch, said = submitting.communicate(timeout=30)
        assert submitting.returncode == 0, said
        assert batch.startswith("batch_")
    finally:
        api.kill()


def test_what_the_user_gets_wrong_exits_2_with_a_sentence(dail, tmp_path, solutions, live):
    (tmp_path / "bad.jsonl").write_text('{"problem": "1+1?"}\n')
    wrong = {
        ("submit", tmp_path / "none.jsonl"): "does not exist",
        ("submit", tmp_path / "bad.jsonl"): "no column gives the solution",
        ("submit", solutions, "--set", "tau=7"): "synthesis.tau",
        ("serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", tmp_path / "open"): "DAIL_TOKEN",
        ("serve", "--port", "0", "--model", "tiny"): "NAME=FOLDER",
        ("serve", "--port", "0", "--data-dir", tmp_path / "d", "--model", f"tiny={tmp_path}"): "no model folder",
    }
    for arguments, said in wrong.items():
        ended = dail(*arguments)
        assert (ended.returncode, said in ended.stderr) == (2, True), ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_refusal_of_the_api_is_told_with_its_reason(dail, live, solutions):
    ended = dail("submit", solutions, "--api", live.url, "--model", "gpt")
    assert ended.returncode == 1
    assert "tiny" in ended.stderr
    assert "/model" in ended.stderr


def test_a_port_in_use_is_a_clear_error(dail):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = dail("serve", "--port", taken.getsockname()[1])
    assert ended.returncode == 1
    assert "in use" in ended.stderr
    assert "--port 0" in ended.stderr


def test_an_acknowledged_batch_outlives_a_killed_server_and_the_watch_does_too(tmp_path, model_folder, model):
    api = start_api(tmp_path / "api", model_folder)
    batch = httpx.post(f"{api.url}/v1/batches", json={"items": items(2)}, trust_env=False).json()["id"]
    api.kill()
    api = start_api(tmp_path / "api", model_folder)
    command = (*DAIL, "watch", batch, "--api", api.url, "--json")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    watching = subprocess.Popen(command, env=clean_environment(), **pipes)
    assert json.loads(watching.stdout.readline())["id"] == batch
    api.kill()
    assert "no worker with the model tiny" in watching.stderr.readline()
    assert "still trying" in watching.stderr.readline()
    api = start_api(tmp_path / "api", model_folder, port=int(api.url.rsplit(":", 1)[1]))
    try:
        with httpx.Client(base_url=api.url, trust_env=False) as http:
            again = http.post("/v1/batches", json={"items": items(2)})
            assert (again.status_code, again.json()["id"]) == (200, batch)
            assert FakeWorker(http, model).run() == 2
        _, said = watching.communicate(timeout=30)
        assert watching.returncode == 0, said
    finally:
        api.kill()


def test_a_server_without_models_starts_and_says_what_is_missing(settings):
    app = create_app(settings.model_copy(update={"models": {}}))
    assert app.state.service.models == {}


def test_a_data_folder_that_cannot_be_made_is_a_clear_error(dail, solutions):
    ended = dail("serve", "--port", "0", "--data-dir", solutions / "below-a-file")
    assert ended.returncode == 1
    assert "choose another data folder" in ended.stderr
