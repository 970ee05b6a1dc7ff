"""What a batch waits for, in words for whoever watches it: nobody is left before a bar that stands still."""

from __future__ import annotations

import os
import time
from typing import Any

from dail.synth.core.console import say

NOBODY_S = 5.0  # a worker that is ready has leased by then


class Waiting:
    """Says what is waited for as soon as that is known, once, and for how long at every look.

    Args:
        url: of the API, for the command that starts a worker.
        starts_worker: who watches starts the worker too, and need not be told to.
    """

    def __init__(self, url: str, starts_worker: bool = False) -> None:
        self._url, self._starts_worker = url, starts_worker
        self._whom, self._since, self._is_said = "", 0.0, False

    def look(self, batch: dict[str, Any]) -> str | None:
        """For the bar, such as "35 s for a worker"; none while somebody works on the batch."""
        whom, why, after_s = self._waited_for(batch)
        if whom != self._whom:
            self._whom, self._since, self._is_said = whom, time.monotonic(), False
        if not whom:
            return None
        waited_s = time.monotonic() - self._since
        if not self._is_said and not self._starts_worker and waited_s >= after_s:
            self._is_said = True
            say(why)
        return f"{waited_s:.0f} s for {whom}"

    def _waited_for(self, batch: dict[str, Any]) -> tuple[str, str, float]:
        """For whom, why, and how long it goes without saying."""
        if found := batch.get("waiting_for"):
            why = str(found["detail"]).replace("--api URL", f"--api {self._url}")
            if os.environ.get("DAIL_TOKEN") and "dail worker" in why:
                why += " (with a token of its own in DAIL_TOKEN: dail token new --name WORKER --scope worker)"
            return "a worker", why, 0.0
        units = batch["units"]
        if batch["status"] != "in_progress" or units["leased"] or not units["queued"]:
            return "", "", 0.0
        return (
            "an engine",
            f"a worker with the model {batch['model']['name']} is there and has taken nothing of this batch yet: its "
            "engine is starting (half a minute for a small model, minutes for a large one), or busy with another batch",
            NOBODY_S,
        )
