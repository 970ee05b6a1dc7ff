"""Bad bodies against a real server: each gets its documented status, a problem with a pointer, and harms nothing."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from dail.serve.app import create_app
from dail.serve.bounded_json import read_batch
from dail.serve.errors import MEDIA_TYPE
from dail.serve.request_body import BODY_BYTES
from dail.synth.core.config import fingerprint
from tests.serve.conftest import items, start_api

CANARY = "canary-7f3a"
ITEM = {"problem": "1+1?", "solution": "2."}


def _batch(**body):
    return json.dumps({"items": [ITEM], **body}).encode()


def _item(**changes):
    return json.dumps({"items": [{**ITEM, **changes}]}).encode()


BODIES = {
    # name: (body, status, pointer)
    "empty batch": (b'{"items": []}', 422, "/items"),
    "no items": (b"{}", 422, "/items"),
    "items of the wrong type": (b'{"items": {}}', 422, "/items"),
    "an item that is no object": (b'{"items": [3]}', 422, "/items/0"),
    "unknown field": (_batch(frobnicate=1), 422, "/frobnicate"),
    "unknown field of an item": (_item(note=CANARY), 422, "/items/0/note"),
    "unknown setting": (_batch(synthesis={"thau": 1}), 422, "/synthesis/thau"),
    "setting out of bounds": (_batch(synthesis={"tau": 1.5}), 422, "/synthesis/tau"),
    "setting of the wrong type": (_batch(synthesis={"seed": CANARY}), 422, "/synthesis/seed"),
    "too many samples": (_batch(synthesis={"samples_per_item": 257}), 422, "/synthesis/samples_per_item"),
    "too many units": (
        json.dumps(
            {"items": [{**ITEM, "problem": f"{n}?"} for n in range(157)], "synthesis": {"samples_per_item": 256}}
        ).encode(),
        422,
        "/synthesis/samples_per_item",
    ),
    "a grader that is a file": (_batch(synthesis={"grader": "/etc/own.py:grade"}), 422, "/synthesis"),
    "a way of stopping that is none": (_batch(synthesis={"enough": "best"}), 422, "/synthesis/enough"),
    "problem of the wrong type": (_item(problem=5), 422, "/items/0/problem"),
    "duplicate id": (json.dumps({"items": [{**ITEM, "id": "a"}] * 2}).encode(), 422, "/items/1/id"),
    "duplicate item": (json.dumps({"items": [ITEM, {**ITEM, "id": "b"}]}).encode(), 422, "/items/1"),
    "id that is a path": (_item(id="../../etc/passwd"), 422, "/items/0/id"),
    "blank problem": (_item(problem=" \n"), 422, "/items/0/problem"),
    "blank solution": (_item(solution=""), 422, "/items/0/solution"),
    "no solution": (b'{"items": [{"problem": "1+1?"}]}', 422, "/items/0/solution"),
    "control character": (_item(problem=f"{CANARY}\x00"), 422, "/items/0/problem"),
    "eaten backslash": (rb'{"items": [{"problem": "1+1?", "solution": "So \boxed{2}."}]}', 422, "/items/0/solution"),
    "page break": (_item(solution="Page 1.\fPage 2"), 422, "/items/0/solution"),
    "backslash that JSON does not know": (rb'{"items": [{"problem": "\sqrt 4?", "solution": "2"}]}', 400, ""),
    "solution of 10 MB": (_item(solution="x" * 10_000_000), 422, "/items/0/solution"),
    "too many items": (json.dumps({"items": [0] * 10_001}).encode(), 422, "/items"),
    "too much metadata": (_batch(metadata={str(n): "x" for n in range(17)}), 422, "/metadata"),
    "model that is a path": (_batch(model="/etc/passwd"), 422, "/model"),
    "model that is a URL": (_batch(model="http://127.0.0.1/x"), 422, "/model"),
    "array": (b"[1, 2]", 422, ""),
    "null": (b"null", 422, ""),
    "lone surrogate": (b'{"items": [{"problem": "\\ud800", "solution": "2."}]}', 400, "/items/0/problem"),
    "lone surrogate in metadata": (_batch(metadata={"a": "\ud800"}), 400, "/metadata/a"),
    "lone surrogate in a key": (_item(metadata={"\udfff": 1}), 400, "/items/0/metadata"),
    "NaN": (b'{"items": [], "synthesis": {"tau": NaN}}', 400, ""),
    "Infinity": (b'{"items": [], "synthesis": {"tau": -Infinity}}', 400, ""),
    "number beyond a float": (b'{"items": [], "synthesis": {"tau": 1e999}}', 400, "/synthesis/tau"),
    "integer of 5000 digits": (b'{"seed": ' + b"9" * 5000 + b"}", 400, ""),
    "duplicate key": (b'{"items": [], "items": []}', 400, ""),
    "not UTF-8": (b'{"items": "\xff"}', 400, ""),
    "UTF-16": (json.dumps({"items": [ITEM]}).encode("utf-16"), 400, ""),
    "cut off": (b'{"items": [', 400, ""),
    "empty": (b"", 400, ""),
    "nested too deeply": (_item(metadata={"a": json.loads("[" * 40 + "]" * 40)}), 400, None),
    "nesting that breaks parsers": (b"[" * 100_000, 400, ""),
    "60,000 names, the last one twice": (
        b"{" + b"".join(b'"k%d":1,' % n for n in range(60_000)) + b'"k59999":1}',
        400,
        "",
    ),
    "a solution of ones": (_item(solution=[1] * 500_000), 400, ""),
    "a solution of ten thousand ones": (_item(solution=[1] * 10_000), 422, "/items/0"),
    "nothing but empty lists": (b"[" + b"[]," * 600_000 + b"[]]", 400, ""),
    "names of an item without end": (_item(metadata={f"{n}": 1 for n in range(10_000)}), 422, "/items/0"),
    "a long name": (_item(metadata={"k" * 600: 1}), 400, ""),
    "a number of many digits": (b'{"items": [], "synthesis": {"tau": 0.' + b"1" * 500 + b"}}", 400, ""),
    "a text that never ends": (b'{"items": ["' + b"x" * 1_000_000, 400, ""),
    "a list that never ends": (b'{"items": [{}, ', 400, ""),
    "an item that is missing": (b'{"items": [{},,{}]}', 400, ""),
    "a comma too many": (b'{"items": [{},]}', 400, ""),
    "two values for one": (b'{"items": [1 2]}', 400, ""),
    "items twice, once spelled otherwise": (b'{"items": [], "\\u0069tems": []}', 400, ""),
    "items within a list": (b'["items": [1]]', 400, ""),
    "metadata of an item of 100 kB": (_item(metadata={"a": "x" * 100_000}), 422, "/items/0/metadata"),
    "an item of 3 MB": (_item(waypoints=["é" * 512] * 3000), 422, "/items/0"),
    "true for a number": (_batch(synthesis={"seed": True}), 422, "/synthesis/seed"),
    "a text for a number": (_batch(synthesis={"tau": "0.5"}), 422, "/synthesis/tau"),
    "a number for a flag": (_batch(synthesis={"proof_answers": 1}), 422, "/synthesis/proof_answers"),
}


@pytest.mark.parametrize("name", BODIES)
def test_bad_body(http, name):
    body, status, pointer = BODIES[name]
    response = http.post("/v1/batches", content=body, headers={"Content-Type": "application/json"})
    problem = response.json()
    assert (response.status_code, response.headers["content-type"]) == (status, MEDIA_TYPE), response.text
    assert problem["status"] == status
    assert problem["errors"], problem
    if pointer is not None:
        assert problem["errors"][0]["pointer"] == pointer
    assert CANARY not in response.text
    assert http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "br"},
        {},
    ],
)
def test_a_body_of_another_type_is_refused_with_415(http, headers):
    response = http.post("/v1/batches", content=_batch(), headers=headers)
    assert (response.status_code, response.headers["content-type"]) == (415, MEDIA_TYPE)


def test_a_charset_after_the_type_is_fine(http):
    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert http.post("/v1/batches", content=_batch(), headers=headers).status_code in (200, 201)


def test_a_body_over_the_limit_is_refused_with_413(http):
    def chunks():
        for _ in range(BODY_BYTES // (1 << 20) + 2):
            yield b" " * (1 << 20)

    response = http.post("/v1/batches", content=chunks(), headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (413, "body_too_large")


def test_a_declared_length_over_the_limit_is_refused_unread(api):
    headers = {"Content-Type": "application/json", "Content-Length": str(BODY_BYTES + 1)}
    response = api.post("/v1/batches", content=b"{}", headers=headers)
    assert response.status_code == 413


def test_every_fault_of_a_batch_is_told_at_once(api):
    body = {"items": [{"problem": "", "solution": "2."}, {"problem": "1+1?"}], "synthesis": {"tau": 0}}
    pointers = {fault["pointer"] for fault in api.post("/v1/batches", json=body).json()["errors"]}
    assert pointers == {"/items/0/problem", "/items/1/solution", "/synthesis/tau"}


@pytest.mark.parametrize(
    ("solution", "cure"),
    [(rb"So \boxed{2}", r'write "\\boxed" in JSON'), (rb"Page.\fPage", "replace it by a"), (rb"\sqrt 4", r"\\sqrt")],
)
def test_damaged_latex_is_refused_with_the_cure(api, solution, cure):
    body = b'{"items": [{"problem": "1+1?", "solution": "' + solution + b'"}]}'
    response = api.post("/v1/batches", content=body, headers={"Content-Type": "application/json"})
    assert cure in response.json()["errors"][0]["detail"]


def test_nothing_of_a_refused_batch_is_stored(api):
    api.post("/v1/batches", json={"items": [*items(3), {"problem": "", "solution": ""}]})
    assert api.get("/v1/batches").json()["data"] == []


def test_an_integer_may_be_written_as_a_float(api):
    body = {"items": items(1), "synthesis": {"seed": 7.0, "tau": 1}}
    assert api.post("/v1/batches", json=body).json()["synthesis"]["seed"] == 7


def test_faults_are_told_up_to_a_hundred_with_their_number(api):
    problem = api.post("/v1/batches", json={"items": [{"a": 1, "b": 2}] * 1000}).json()
    assert len(problem["errors"]) == 100
    assert "4000 faults" in problem["detail"]


def test_items_are_read_as_the_whole_would_be(api):
    """The list may stand anywhere, and hold brackets, commas, quotes and names of every kind in its texts."""
    tricky = {"problem": '[1, {"items": ["]"]}] \\"x\\"?', "solution": "\\\\", "metadata": {"items": [[], {}, ","]}}
    body = {"metadata": {"items": "[]"}, "items": [*items(2), tricky], "run_label": "\u2028"}
    for text in (
        json.dumps(body),
        json.dumps(body, ensure_ascii=False, indent=2),
        json.dumps(dict(reversed(body.items()))),
    ):
        value = read_batch(bytearray(text.encode()), 10)
        assert value == body


def test_the_same_body_has_the_hash_it_always_had(api, post, model):
    batch = post(2, metadata={"items": "x"}, run_label="l")
    asked = {"items": items(2), "metadata": {"items": "x"}, "run_label": "l"}
    known = fingerprint([asked, model.model_dump(mode="json")])
    with api.app.state.service.store.read() as tx:
        assert tx.batches.get(batch["id"]).body_hash == known


def test_the_server_answers_others_while_it_reads_a_large_body(live, http):
    body = json.dumps({"items": [{"problem": f"{n}?", "solution": "x" * 1500, "bad": 1} for n in range(10_000)]})
    pauses = []
    with ThreadPoolExecutor(1) as other:
        posted = other.submit(http.post, "/v1/batches", content=body, headers={"Content-Type": "application/json"})
        with httpx.Client(base_url=live.url, trust_env=False) as client:
            while not posted.done():
                began = time.monotonic()
                client.get("/livez")
                pauses.append(time.monotonic() - began)
    assert posted.result().status_code == 422
    assert max(pauses) < 1, sorted(pauses)[-3:]


def _peak(process, body, http):
    """By how many times the body's size the server's memory grows at most while it answers."""
    with open(f"/proc/{process.pid}/clear_refs", "w") as file:
        file.write("5")
    before = _high_water(process)
    response = http.post("/v1/batches", content=body, headers={"Content-Type": "application/json"}, timeout=300)
    return response.status_code, (_high_water(process) - before) / len(body)


def _high_water(process):
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    ("size", "solution", "more", "status"),
    [
        (8 << 20, "x", {"bad": 1}, 422),
        pytest.param(63 << 20, "x", {}, 201, marks=pytest.mark.soak),
        pytest.param(63 << 20, "x", {"bad": 1}, 422, marks=pytest.mark.soak),
        pytest.param(63 << 20, "\U0001f600", {}, 201, marks=pytest.mark.soak),
    ],
)
def test_memory_stays_below_six_times_the_body(tmp_path, model_folder, size, solution, more, status):
    num_items = 10_000
    text = solution * ((size // num_items - 50) // len(solution.encode()))
    body = json.dumps(
        {"items": [{"problem": f"{n}?", "solution": text, **more} for n in range(num_items)]}, ensure_ascii=False
    ).encode()
    live = start_api(tmp_path / "api", model_folder)
    try:
        with httpx.Client(base_url=live.url, trust_env=False) as http:
            http.post("/v1/batches", json={"items": items(3)})
            answered, times = _peak(live.process, body, http)
    finally:
        live.kill()
    assert (answered, times < 6) == (status, True), times


def test_a_workers_bad_body_is_a_problem_too(api):
    response = api.post("/internal/v1/leases", json={"worker": "w", "count": 0})
    assert response.status_code == 422
    assert {fault["pointer"] for fault in response.json()["errors"]} == {"/count", "/model"}


def test_unknown_paths_methods_and_parameters_are_problems(api):
    answers = [
        api.get("/nope"),
        api.put("/v1/batches"),
        api.get("/v1/batches", params={"limit": 0}),
        api.get("/v1/batches/", follow_redirects=False),
        api.get("/v1/batches/%00%ff%2e%2e"),
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 422, 404, 404]
    assert all(answer.headers["content-type"] == MEDIA_TYPE for answer in answers)
    assert answers[1].headers["allow"]
    assert answers[2].json()["errors"][0]["pointer"] == "/query/limit"


def test_a_mistake_of_ours_is_a_problem_without_a_word_of_its_cause(api, monkeypatch):
    def broken(*_):
        raise RuntimeError(CANARY)

    monkeypatch.setattr(api.app.state.service.batches, "get", broken)
    response = api.get("/v1/batches/b")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert CANARY not in response.text


def test_the_app_can_be_made_twice_over_one_store(settings):
    create_app(settings)
    create_app(settings)
