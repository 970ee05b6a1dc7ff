"""A server whose disk is full, or whose files may not grow: it says so, answers who reads, and goes on after it."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import pytest

from tests.chaos.history import violations
from tests.chaos.killing import Servers, run

_ROOM = 300 << 20  # above the headroom that the API keeps
_TIGHT = 64 << 10


class SmallDisk:
    """A disk of its own, in memory, which can shrink to what is on it. It takes a right to mount."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    @contextmanager
    def there(self):
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_ROOM}", "tests", self.folder], capture_output=True, text=True
        )
        if mounted.returncode:
            pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}; the other kind of full is tried")
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", self.folder], check=True)

    def fill(self, server, left):
        seen = os.statvfs(self.folder)
        self._resize((seen.f_blocks - seen.f_bfree) * seen.f_frsize + left)

    def make_room(self, server):
        self._resize(_ROOM)

    def _resize(self, size):
        # pages come and go meanwhile, and a disk is not made smaller than what is on it
        for _ in range(50):
            done = subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], capture_output=True)
            if done.returncode == 0:
                return
            size += _TIGHT
        raise AssertionError(done.stderr)


class FileLimit:
    """No file of the server's may grow further: the disk looks empty, and a write fails all the same."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    @contextmanager
    def there(self):
        yield

    def fill(self, server, left):
        sizes = [path.stat().st_size for path in (self.folder / "api").glob("dail.sqlite*")]
        self._limit(server, max(sizes) + left)

    def make_room(self, server):
        if server is not None:
            self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server, size):
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.mark.parametrize("kind", [SmallDisk, FileLimit])
@pytest.mark.parametrize(("times", "seed"), [(2, 7), pytest.param(50, 34, marks=pytest.mark.soak)])
def test_a_full_disk_loses_nothing_and_work_goes_on_when_there_is_room(
    tmp_path, model_folder, model, kind, times, seed
):
    disk, for_now = kind(tmp_path / "disk"), Counter({503: 0, 507: 0})

    def fill_up(dice):
        with httpx.Client(base_url=servers.urls[0], timeout=30, trust_env=False) as http:
            for n in range(times):
                time.sleep(dice.uniform(0.3, 0.8))
                disk.fill(servers.live[0], dice.randrange(_TIGHT))
                _wait_until_refused(for_now)
                assert http.get("/livez").status_code == 200
                page = http.get("/v1/batches")
                assert page.status_code == 200 and page.json()["data"]
                assert http.get(f"/v1/batches/{page.json()['data'][0]['id']}/items").status_code == 200
                time.sleep(dice.uniform(0.2, 1.0))
                if n % 2:
                    servers.live[0].kill()
                    disk.make_room(None)  # a server that starts writes
                    servers.again(0)
                disk.make_room(servers.live[0])

    with disk.there(), Servers(disk.folder / "api", model_folder) as servers:
        history, found = run(servers.urls, model, seed, fill_up, for_now=for_now)
    assert history.of("post") and history.of("commit")
    assert violations(history, found) == []


def _wait_until_refused(for_now):
    """Whoever asks next is told; who asked last may have been in time."""
    until, seen = time.monotonic() + 300, for_now[507]
    while for_now[507] == seen:
        assert time.monotonic() < until, "nothing was refused"
        time.sleep(0.02)
