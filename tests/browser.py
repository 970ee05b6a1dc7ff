"""A real Chromium without a head, and what a test holds against it: no foreign request, no breach of the policy, no
script but ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = Path("/usr/bin/chromium")
_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
# Before anything of a page runs: what breaks its policy is kept, and what a hostile text would call.
_WATCH = """
globalThis.breaches = [];
globalThis.hacked = (what) => globalThis.breaches.push(`ran: ${what}`);
globalThis.alert = globalThis.hacked;
document.addEventListener("securitypolicyviolation", (event) =>
  globalThis.breaches.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Not for the whole session: while it is open, this thread has a running event loop."""
    if not CHROMIUM.exists():
        why = f"there is no {CHROMIUM}; `apt-get install chromium` brings it"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=_FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page of a browser; `ask` waits for generous times, since the machine may be busy."""

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(60_000)
        self.context.add_init_script(_WATCH)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.errors.append(dialog.message), dialog.dismiss()))

    def hosts(self) -> set[str]:
        return {urlsplit(url).netloc for url in self.requests}

    def breaches(self) -> list[str]:
        found: list[str] = self.page.evaluate("globalThis.breaches")
        return found + self.errors

    def axe(self) -> list[str]:
        """What axe-core finds wrong, by WCAG 2.2 AA, contrast included."""
        from axe_playwright_python.sync_playwright import Axe

        rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
        found = Axe().run(self.page, options={"runOnly": {"type": "tag", "values": rules}})
        return [f"{one['id']}: {node['html'][:200]}" for one in found.response["violations"] for node in one["nodes"]]
