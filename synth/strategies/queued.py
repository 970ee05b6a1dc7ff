"""What strategies on one engine share: requests wait until admission lets their rows in, then live until they end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from synth.engine.base import Engine, Finished, PairRecord, Records, Row
from synth.strategies.admission import Admission
from synth.strategies.base import Rollout, RolloutRequest


@dataclass
class Live:
    """A request whose rows are in the engine."""

    request: RolloutRequest
    row_ids: list[str]
    record: PairRecord = field(default_factory=PairRecord)
    ended: list[Finished] = field(default_factory=list)


class Queued(ABC):
    """A strategy that turns each request into a fixed set of rows which are admitted and end together."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission
        self._waiting: deque[tuple[RolloutRequest, int]] = deque()
        self._live: dict[str, Live] = {}

    @abstractmethod
    def contexts(self, request: RolloutRequest) -> list[Sequence[int]]:
        """The prompts that are decoded side by side, one per row."""

    @abstractmethod
    def rows(self, request: RolloutRequest, max_tokens: int) -> list[Row]:
        """The request's rows. A row's id is the unit id, a slash and the row's role."""

    @abstractmethod
    def rollout(self, live: Live) -> Rollout:
        """The trace of a request whose rows all ended."""

    def add(self, request: RolloutRequest) -> None:
        room = self._admission.check([len(ids) for ids in self.contexts(request)])
        self._waiting.append((request, min(room, request.synthesis.max_tokens)))

    def cancel(self, unit_id: str) -> None:
        self._waiting = deque(entry for entry in self._waiting if entry[0].unit_id != unit_id)
        if live := self._live.pop(unit_id, None):
            self._engine.abort(live.row_ids)
            self._admission.release(unit_id)

    def admit(self) -> None:
        while self._waiting:
            request, max_tokens = self._waiting[0]
            prompts = [len(ids) for ids in self.contexts(request)]
            if not self._admission.take(request.unit_id, prompts, max_tokens):
                return
            self._waiting.popleft()
            rows = self.rows(request, max_tokens)
            self._live[request.unit_id] = Live(request, [row.row_id for row in rows])
            for row in rows:
                self._engine.add(row)

    def take(self, finished: Sequence[Finished], records: Records) -> list[Rollout]:
        for unit_id in records.pairs.keys() & self._live.keys():
            self._live[unit_id].record.extend(records.pairs[unit_id])
        done = []
        for row in finished:
            unit_id = row.row_id.rpartition("/")[0]
            if live := self._live.get(unit_id):
                live.ended.append(row)
                if len(live.ended) == len(live.row_ids):
                    del self._live[unit_id]
                    self._admission.release(unit_id)
                    done.append(self.rollout(live))
        return done

    def pending(self) -> int:
        return len(self._waiting) + len(self._live)

    def progress(self) -> dict[str, tuple[int, int]]:
        return {
            unit_id: (len(live.record.token_ids), sum(live.record.accepted)) for unit_id, live in self._live.items()
        }
