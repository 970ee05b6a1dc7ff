"""A way over which a server is reached, on which the network does what networks do.

    with Way(server.url) as way:
        way.next += ["lost"]     # what befalls the next message, of whatever connection
        way.cut()                # all connections that are open now end at once

"torn": half of a request arrives; "lost": it arrives and its reply does not; "silent": neither, and the connection
stays open, as when a cable is pulled.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from contextlib import suppress
from typing import Literal, Self

import httpx

Fault = Literal["torn", "lost", "silent"]
FAULTS: tuple[Fault, ...] = ("torn", "lost", "silent")
_BYTES = 1 << 16


class Way:
    def __init__(self, to: str) -> None:
        url = httpx.URL(to)
        self._to = (url.host, url.port)
        self._door = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._door.getsockname()[1]}"
        self.next: deque[Fault] = deque()
        self.befell: list[Fault] = []
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()
        self.cut()

    def cut(self) -> None:
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            _reset(end)

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._door.accept()
                try:
                    far = socket.create_connection(self._to, 5)
                except OSError:
                    _reset(near)
                    continue
                far.settimeout(None)
                with self._lock:
                    self._open += [near, far]
                for ends in ((near, far, True), (far, near, False)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_BYTES):
                fault = self._fault(("torn", "silent") if is_request else ("lost",))
                if fault == "silent":
                    while source.recv(_BYTES):
                        pass
                elif fault == "torn":
                    sink.sendall(data[: len(data) // 2])
                if fault:
                    break
                sink.sendall(data)
        _reset(source)
        _reset(sink)

    def _fault(self, kinds: tuple[Fault, ...]) -> Fault | None:
        with self._lock:
            if not self.next or self.next[0] not in kinds:
                return None
            self.befell.append(self.next.popleft())
            return self.befell[-1]


def _reset(end: socket.socket) -> None:
    """Ends a connection as a crash would, so that nobody waits for its rest."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()
