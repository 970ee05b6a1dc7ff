"""In place of the processes of `dail loop` and `dail paper`: what was asked of each verb, and one that dies."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from dail.synth.core.errors import DailError


class Recorded:
    """Each verb leaves what the next one reads (`left`). `dies_at`: the verb that fails, once."""

    asked: ClassVar[list[tuple[str, ...]]] = []
    dies_at: ClassVar[str | None] = None

    def __init__(self, logs: Path, **env: str) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def result(self, name: str, *args: object, allowed: Any = (0,)) -> str:
        kind, said = type(self), tuple(map(str, args))
        kind.asked.append(said)
        if name == kind.dies_at:
            kind.dies_at = None
            raise DailError(f"`dail {name}` ended with exit code 1")
        return self.left(name, said, allowed)

    def left(self, name: str, said: tuple[str, ...], allowed: Any) -> str:
        raise NotImplementedError
