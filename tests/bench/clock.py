"""Where a program's time goes, by clocks around some of its functions."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any


class Clock:
    """Seconds by label, of whatever it was put around."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = ["rest of the process"]
        self._since = time.perf_counter()

    def put(self, owner: Any, name: str, label: str) -> None:
        original = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._turn()
            self._inside.append(label)
            try:
                return original(*args, **kwargs)
            finally:
                self._turn()
                self._inside.pop()

        setattr(owner, name, timed)

    def _turn(self) -> None:
        now = time.perf_counter()
        self.seconds[self._inside[-1]] += now - self._since
        self._since = now
