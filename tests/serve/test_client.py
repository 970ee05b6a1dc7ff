from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dail.synth.core.errors import ApiError
from dail.synth.core.http import Client


@pytest.fixture
def web_server():
    """Something that is no dail API."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(404 if self.path == "/missing" else 200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("path", ["/", "/missing"])
def test_another_kind_of_server_is_told_from_an_api(web_server, path):
    with Client(web_server) as client, pytest.raises(ApiError, match="not like a dail API"):
        client.get(path)


@pytest.mark.parametrize("url", ["not-a-url", "ftp://127.0.0.1", "http://a:b:c", ""])
def test_what_is_no_url_is_said(url):
    with pytest.raises(ApiError, match="is no URL"), Client(url) as client:
        client.get("/livez")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(live, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with Client(live.url) as client:
        assert client.get("/livez") == {"status": "ok"}


def test_a_refusal_carries_its_status_and_the_faults(live):
    with Client(live.url) as client, pytest.raises(ApiError, match="/items: ") as caught:
        client.post("/v1/batches", {"items": []})
    assert caught.value.status == 422


def test_a_download_of_what_is_not_there_is_refused(live):
    with Client(live.url) as client, pytest.raises(ApiError) as caught:
        list(client.download("/v1/batches/none/results"))
    assert caught.value.status == 404
