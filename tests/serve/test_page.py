"""The page at `/` in a real browser, over a real server on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from dail.serve.app import create_app
from dail.serve.page import _FILES
from dail.serve.rules.tokens import new_token
from dail.serve.store.transaction import Store
from dail.synth.core.files import Objects, sha256
from dail.synth.schema.shards import TraceRow, encode_shard
from dail.synth.schema.units import ShardRef, Unit, shard_key
from tests.browser import Watched, chromium
from tests.conftest import ROOT
from tests.hostile_texts import HOSTILE, NAMES
from tests.serve.conftest import items, start_api
from tests.serve.worker import FakeWorker, trace_row


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def look(browser: Any) -> Iterator[Any]:
    """Opens an address, and holds against the page at the end what must never happen."""
    pages: list[tuple[Watched, str]] = []

    def open_(url: str, **options: Any) -> Watched:
        pages.append((Watched(browser, **options), urlsplit(url).netloc))
        pages[-1][0].page.goto(url)
        return pages[-1][0]

    yield open_
    for watched, host in pages:
        assert watched.breaches() == []
        assert watched.hosts() == {host}
        assert not [url for url in watched.requests if "secret" in url or "token=" in url]
        watched.context.close()


def commit(worker: FakeWorker, unit: Unit, texts: list[str], **changes: Any) -> None:
    """A trace of these tokens."""
    count = len(texts)
    made = {
        "trace_ids": tuple(range(count)), "token_texts": tuple(texts), "trace_text": "".join(texts),
        "student_prob": (1.0,) * count, "student_logprob": (-0.1,) * count, "privileged_logprob": (-0.1,) * count,
        "rejected_ids": (None,) * count, "rejected_texts": (None,) * count,
    }  # fmt: skip
    row = TraceRow.model_validate({**trace_row(unit).model_dump(), **made, **changes})
    data = encode_shard([row])
    key = shard_key(unit.batch_id, sha256(data))
    assert isinstance(worker.objects, Objects)
    worker.objects.put(key, data)
    shard = ShardRef(key=key, row=0, rows=1, size_bytes=len(data), sha256=sha256(data), unit_id=unit.unit_id,
                     item_id=unit.item_id, tokens=count, attributed_tokens=count, student_tokens=count)  # fmt: skip
    assert worker.commit(unit, shard).status_code == 204


def posted(http: httpx.Client, what: list[dict[str, Any]], **more: Any) -> str:
    answer = http.post("/v1/batches", json={"items": what, **more})
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


def leased(worker: FakeWorker, batch: str, count: int) -> list[Unit]:
    """Units of one batch; those of others' tests that come first are failed."""
    found: list[Unit] = []
    while len(found) < count and (units := worker.lease(8)):
        found += [unit for unit in units if unit.batch_id == batch]
        for unit in units:
            if unit.batch_id != batch:
                worker.fail(unit)
    return found


def test_a_batch_is_followed_to_its_end_and_its_traces_are_read(look, live, http, model):
    batch = posted(http, items(3), run_label="followed")
    worker = FakeWorker(http, model)
    watched = look(f"{live.url}/")
    page = watched.page
    page.get_by_role("link", name="followed").click()
    page.wait_for_selector("text=0 / 3")
    first, second, third = leased(worker, batch, 3)
    commit(worker, first, ["It ", "is ", "1."], rejected_ids=(None, 7, None), rejected_texts=(None, "was ", None))
    page.wait_for_selector("text=1 / 3")  # no reload: the server's events
    page.wait_for_selector(".dv-tokens [data-t='1']")
    page.keyboard.press("n")
    assert "“was ”" in page.locator(".dv-about").inner_text()
    worker.fail(second, code="boom", detail="it <i>broke</i>")
    page.wait_for_selector("text=boom: it <i>broke</i>")
    commit(worker, third, ["so"], truncated=True)
    page.wait_for_selector("text=3 / 3")
    page.wait_for_selector("dd:text-is('completed')")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").first.click()
    assert download.value.suggested_filename.endswith(".parquet")
    assert "dail train --manifest" in page.locator("#main").inner_text()
    page.get_by_role("link", name="sample 0").first.click()
    assert "trace=" in page.url
    page.reload()
    page.wait_for_selector(".dv-tokens")
    assert "i0, sample 0" in page.locator(".dv-trace").inner_text()


def test_workers_are_listed_with_what_each_holds(look, live, http, model):
    batch = posted(http, items(1))
    worker = FakeWorker(http, model)
    (unit,) = leased(worker, batch, 1)
    page = look(f"{live.url}/#workers").page
    page.wait_for_selector(f"tr:has-text('{worker.name}') >> text={unit.item_id}")
    worker.fail(unit)


def test_a_batch_is_cancelled_by_hand_if_it_is_confirmed(look, live, http, model):
    batch = posted(http, items(2))
    page = look(f"{live.url}/#batch={batch}").page
    page.evaluate("globalThis.confirm = () => true")
    page.get_by_role("button", name="Cancel").click()
    page.wait_for_selector("dd:text-is('cancelled')")
    assert http.get(f"/v1/batches/{batch}").json()["status"] == "cancelled"


def test_a_server_that_dies_and_comes_back_is_followed_further(look, tmp_path, model_folder, model):
    first = start_api(tmp_path / "api", model_folder)
    again = None
    try:
        with httpx.Client(base_url=first.url, timeout=30, trust_env=False) as http:
            batch = posted(http, items(2))
            page = look(f"{first.url}/#batch={batch}").page
            page.wait_for_selector("text=0 / 2")
            page.wait_for_selector("dt:text-is('waits for')")  # nobody has asked this server for work
            first.kill()
            page.wait_for_selector("#told.bad")
            again = start_api(tmp_path / "api", model_folder, port=urlsplit(first.url).port or 0)
            worker = FakeWorker(http, model)
            for unit in leased(worker, batch, 2):
                commit(worker, unit, ["so"])
            page.wait_for_selector("text=2 / 2")
            page.wait_for_selector("#told:not(.bad)", state="attached")
    finally:
        for one in filter(None, (first, again)):
            one.kill()


def test_a_batch_that_has_ended_is_retried_and_deleted_by_hand_if_it_is_confirmed(look, live, http, model):
    batch = posted(http, items(1), run_label="by hand")
    (unit,) = leased(FakeWorker(http, model), batch, 1)
    FakeWorker(http, model).fail(unit)
    watched = look(f"{live.url}/#batch={batch}")
    watched.page.wait_for_selector("dd:text-is('completed')")
    watched.page.get_by_role("button", name="Delete").click()  # the dialog is dismissed
    assert [one for one in watched.errors if "Delete this batch" in one]
    watched.errors.clear()
    assert http.get(f"/v1/batches/{batch}").status_code == 200
    watched.page.evaluate("globalThis.confirm = () => true")
    watched.page.get_by_role("button", name="Retry").click()
    watched.page.wait_for_selector("dd:text-is('in_progress')")


def test_no_hostile_text_of_a_batch_is_obeyed(look, live, http, model):
    texts = [one for one in HOSTILE if "\x00" not in one and "\x1b" not in one]
    what = [{"id": f"{n}", "problem": text, "solution": text} for n, text in enumerate(texts)]
    batch = posted(http, what, run_label=HOSTILE[2][:60], metadata={"__proto__": HOSTILE[0]})
    worker = FakeWorker(http, model)
    for number, unit in enumerate(leased(worker, batch, len(texts))):
        text = texts[int(unit.item_id)]
        if number % 10 == 9:
            worker.fail(unit, code="boom", detail=text)
        else:
            commit(worker, unit, [text, " a ", text], waypoints=(text,), engine=text, model_name=text)
    watched = look(f"{live.url}/")
    page = watched.page
    page.wait_for_selector("table")
    page.goto(f"{live.url}/#batch={batch}")
    page.wait_for_selector(".dv-tokens")
    page.get_by_role("button", name="More items").click()
    page.wait_for_function("document.querySelectorAll('#main tbody tr').length > 25")
    for _ in texts:
        page.keyboard.press("r")
        page.keyboard.press("n")
        page.keyboard.press("j")
    foreign = "document.querySelectorAll('#main :is(script, img, iframe, svg, style, meta, object, form)').length"
    assert page.evaluate(foreign) == 0
    links = page.evaluate("[...document.querySelectorAll('a')].map((one) => one.getAttribute('href'))")
    assert {one[0] for one in links} <= {"#", "/"}
    for name in [*NAMES, "<img src=x onerror=hacked(1)>"]:  # as parts of an address
        page.goto(f"{live.url}/#batch={name}&trace={name}")
        page.wait_for_selector("#told.bad")


def test_a_token_is_asked_for_kept_by_the_tab_and_never_part_of_an_address(look, tmp_path, model_folder):
    folder = tmp_path / "api"
    store = Store(folder / "dail.sqlite")
    _, secret = new_token(store, "ana", ["read", "submit"])
    store.close()
    api = start_api(folder, model_folder)
    try:
        watched = look(f"{api.url}/")
        page = watched.page
        page.wait_for_selector("#token")
        page.fill("#token", "wrong" * 5)
        page.keyboard.press("Enter")
        page.wait_for_selector("#told.bad")
        page.fill("#token", secret)
        page.keyboard.press("Enter")
        page.wait_for_selector("text=No batch has been posted")
        assert page.locator("code").first.inner_text() == f"dail submit FILE --api {api.url}"
        assert secret not in page.content() and not [url for url in watched.requests if secret in url]
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.get_by_role("link", name="Workers").click()
        page.wait_for_selector("text=wants a token with the scope admin")
        page.get_by_role("button", name="Forget the token").click()
        page.wait_for_selector("#token")
        assert page.evaluate("sessionStorage.length") == 0
    finally:
        api.process.terminate()
        api.process.wait(30)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_a_phone_or_a_desk(look, live, http, model, scheme):
    batch = posted(http, items(2), run_label=f"axe {scheme}")
    worker = FakeWorker(http, model)
    one, two = leased(worker, batch, 2)
    commit(worker, one, ["a ", "b"], waypoints=("b",))
    worker.fail(two)
    watched = look(f"{live.url}/", color_scheme=scheme, viewport={"width": 320, "height": 700})
    for hash_, there in (("", "table"), (f"#batch={batch}", ".dv-tokens"), ("#workers", "section p, section table")):
        watched.page.goto(f"{live.url}/{hash_}")
        watched.page.wait_for_selector(there)
        assert watched.axe() == []
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= 320


def test_the_page_holds_no_data_and_says_what_a_browser_may_do(settings):
    guarded = settings.model_copy(update={"token": SecretStr("p" * 20)})
    with TestClient(create_app(guarded), "http://127.0.0.1") as client:
        for path in ("/", *(f"/page/{name}" for name in _FILES)):
            answer = client.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
            assert "unsafe" not in policy and "frame-ancestors 'none'" in policy
            assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == (
                "nosniff",
                "no-referrer",
            )
        for path in ("/page/", "/page/%2e%2e/app.py", "/page/app.py", "/page/page.html", "/page/a/b"):
            assert client.get(path).status_code in (401, 404), path
        assert client.get("/v1/batches").status_code == 401
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 200  # a token is asked for, not a name


def test_a_server_without_a_token_shows_its_page_under_its_own_names_alone(api):
    assert api.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert api.get("/page/page.js", headers={"Origin": "http://evil.example"}).status_code == 403


def test_traces_come_in_pages_and_by_kind(api, post, worker):
    batch = post(5)["id"]
    units = worker.lease(8)
    commit(worker, units[0], ["a"])
    commit(worker, units[1], ["As the reference solution says, it is 3."])
    commit(worker, units[2], ["a"], truncated=True)
    worker.fail(units[3])
    path = f"/v1/batches/{batch}/traces"
    seen, after = [], ""
    while True:
        page = api.get(f"{path}?limit=1{after}").json()
        seen += [one["unit_id"] for one in page["data"]]
        after = f"&after={page['last_id']}"
        if not page["has_more"]:
            break
    assert seen == [unit.unit_id for unit in units[:4]]  # the fifth goes on
    for kind, number in (("leaky", 1), ("cut", 2), ("failed", 3)):
        assert [one["unit_id"] for one in api.get(f"{path}?filter={kind}").json()["data"]] == [units[number].unit_id]
    assert api.get(f"{path}?filter=wrong").json()["data"] == []
    answered = post(3, items=items(3, answer="1"))["id"]
    for unit, text in zip(leased(worker, answered, 3), ("no box", "\\boxed{1}", "no box"), strict=True):
        commit(worker, unit, [text], answer="1")
    verdicts = [one["verdict"] for one in api.get(f"/v1/batches/{answered}/traces").json()["data"]]
    assert verdicts == ["wrong", None, "wrong"]  # what has a box is judged by a grader, which the API has not
    assert api.get(f"{path}?filter=odd").status_code == 422
    assert api.get(f"{path}?after=none").status_code == 404
    view = api.get(f"{path}/{units[1].unit_id}").json()
    assert view["texts"] == ["As the reference solution says, it is 3."] and view["cited"]
    assert api.get(f"{path}/{units[3].unit_id}").json()["code"] == "not_found"


def test_a_damaged_shard_is_a_failure_in_the_list_and_a_problem_by_itself(api, post, worker, settings):
    batch = post(1)["id"]
    (unit,) = worker.lease(1)
    shard = worker.write(unit)
    assert worker.commit(unit, shard).status_code == 204
    file = settings.data_dir / "objects" / shard.key
    file.chmod(0o644)
    file.write_bytes(b"rot")
    (one,) = api.get(f"/v1/batches/{batch}/traces").json()["data"]
    assert one["error"]["code"] == "damaged_shard"
    assert api.get(f"/v1/batches/{batch}/traces/{unit.unit_id}").json()["code"] == "damaged_shard"


def test_our_script_never_interprets_a_text():
    text = (ROOT / "serve/static/page.js").read_text("utf-8")
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|localStorage|cookie", text)
        == []
    )
