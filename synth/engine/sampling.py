"""The draws of one batch: every row of a pair, and every row drawn alone, gets its token here.

Knows logits and rows, not the engine around them: each engine says which row of its batch holds what, hands over the
batch's logits once a step, and takes the largest logit of each row for its token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dail.synth.engine.base import AloneRecord, PairRecord, Pause, Records, Row
from dail.synth.method.acceptance import Mixed, Rule, Sampling, Watched, mix, uniforms, watch

T = TypeVar("T")


@dataclass(frozen=True)
class Slot:
    """A row in the batch. `output_ids` is the engine's own growing list of the row's tokens."""

    row: Row
    output_ids: Sequence[int]

    @property
    def place(self) -> int:
        """In the trace, of the token that is drawn next."""
        return self.row.start + len(self.output_ids)


def pause_id(row: Row) -> int:
    """The token that ends a row in place of a pause: one that stops the row anyway, else any."""
    return min(row.stop_ids, default=0)


class Draws:
    """Not thread-safe; `index` after every change of the batch, `apply` once a step, `take` whenever."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pairs = _Pairs({}, device)
        self._alone = _Alone({}, device)
        self._parted: set[str] = set()
        self._records = Records()
        self._mixed: list[tuple[list[str], list[int], Mixed]] = []
        self._watched: list[tuple[list[str], list[int], Watched]] = []

    def index(self, slots: dict[int, Slot]) -> None:
        """`slots`: row of the batch → what it holds, for the rows that are drawn here."""
        halves: dict[str, dict[str, int]] = {}
        for at, slot in slots.items():
            if slot.row.pair:
                halves.setdefault(slot.row.pair.pair, {})[slot.row.pair.role] = at
        self._parted &= halves.keys()
        self._parted |= {name for name, half in halves.items() if len(half) < 2}
        self._pairs = _Pairs(
            {
                name: (half["student"], slots[half["student"]], half["privileged"], slots[half["privileged"]])
                for name, half in halves.items()
                if name not in self._parted
            },
            self._device,
        )
        self._alone = _Alone({at: slot for at, slot in slots.items() if slot.row.alone}, self._device)

    def apply(self, logits: Tensor) -> Tensor:
        """Draws, and forces each drawn token: it keeps logit 0 in its row, all others -inf."""
        if parted := self._pairs.parted():
            self._parted |= parted
            self._pairs = self._pairs.without(parted)
        if self._pairs.names:
            self._mixed.append(self._pairs.apply(logits))
        if self._alone.names:
            self._watched.append(self._alone.apply(logits))
        return logits

    def take(self, names: Iterable[str] | None = None) -> Records:
        """What was drawn and not yet taken: all of it, or of these rows and pairs, and of pairs that parted.

        Copies off the device here and not in every step.
        """
        self._collect()
        if names is None:
            taken, self._records = self._records, Records()
        else:
            wanted = {*names, *self._parted}
            taken = Records(_taken(self._records.pairs, wanted), _taken(self._records.alone, wanted))
        taken.parted = set(self._parted)
        return taken

    def _collect(self) -> None:
        records = self._records
        for names, places, mixed in self._mixed:
            for name, place, *values in zip(names, places, *(column.tolist() for column in mixed), strict=True):
                _add_mixed(records.pairs.setdefault(name, PairRecord(place)), place, *values)
        for names, places, watched in self._watched:
            for name, place, *values in zip(names, places, *(column.tolist() for column in watched), strict=True):
                _add_watched(records.alone.setdefault(name, AloneRecord(place)), place, *values)
        self._mixed, self._watched = [], []


class _Pairs:
    """The pairs of a batch: by name, index and slot of the student's row, then of the privileged student's."""

    def __init__(self, pairs: dict[str, tuple[int, Slot, int, Slot]], device: torch.device) -> None:
        self._by_name, self._device = pairs, device
        self.names = list(pairs)
        self._slots = [student for _, student, _, _ in pairs.values()]
        self._partners = [privileged for _, _, _, privileged in pairs.values()]
        self._student_P = torch.tensor([at for at, _, _, _ in pairs.values()], device=device, dtype=torch.long)
        self._privileged_P = torch.tensor([at for _, _, at, _ in pairs.values()], device=device, dtype=torch.long)
        self._sampling = _sampling(self._slots, device)
        self._rule = Rule.of([slot.row.pair.acceptance for slot in self._slots if slot.row.pair], device)

    def parted(self) -> set[str]:
        """Pairs whose rows are not at the same place: one was held up or thrown back without the other."""
        both = zip(self.names, self._slots, self._partners, strict=True)
        return {name for name, one, other in both if one.place != other.place}

    def without(self, names: set[str]) -> _Pairs:
        return _Pairs({name: pair for name, pair in self._by_name.items() if name not in names}, self._device)

    def apply(self, logits: Tensor) -> tuple[list[str], list[int], Mixed]:
        places = [slot.place for slot in self._slots]
        numbers_P2 = _uniforms(self._slots, places, self._device)
        mixed = mix(logits[self._student_P], logits[self._privileged_P], self._sampling, self._rule, numbers_P2)
        for rows_P in (self._student_P, self._privileged_P):
            _force(logits, rows_P, mixed.token_P)
        return self.names, places, mixed


class _Alone:
    """The rows of a batch that one role draws by itself: index → slot."""

    def __init__(self, slots: dict[int, Slot], device: torch.device) -> None:
        self._slots, self._device = list(slots.values()), device
        alone = [slot.row.alone for slot in self._slots if slot.row.alone]
        self.names = [slot.row.row_id for slot in self._slots]
        self._at_P = torch.tensor(list(slots), device=device, dtype=torch.long)
        self._sampling = _sampling(self._slots, device)
        self._rule = Rule.of([row.acceptance for row in alone], device)
        self._column_P = torch.tensor([row.column for row in alone], device=device, dtype=torch.long)
        self._pause_P = torch.tensor([pause_id(slot.row) for slot in self._slots], device=device, dtype=torch.long)

    def apply(self, logits: Tensor) -> tuple[list[str], list[int], Watched]:
        places = [slot.place for slot in self._slots]
        numbers_P2 = _uniforms(self._slots, places, self._device)
        own_P = numbers_P2.gather(1, self._column_P[:, None])[:, 0]
        watched = watch(logits[self._at_P], self._sampling, self._rule, own_P)
        _force(logits, self._at_P, torch.where(watched.pause_P, self._pause_P, watched.token_P))
        return self.names, places, watched


def _taken(records: dict[str, T], names: set[str]) -> dict[str, T]:
    return {name: records.pop(name) for name in names & records.keys()}


def _sampling(slots: Sequence[Slot], device: torch.device) -> Sampling:
    return Sampling.of([(slot.row.temperature, slot.row.top_p, slot.row.top_k) for slot in slots], device)


def _uniforms(slots: Sequence[Slot], places: list[int], device: torch.device) -> Tensor:
    seed_P = np.array([slot.row.seed for slot in slots], dtype=np.uint64)
    return torch.from_numpy(uniforms(seed_P, np.array(places, dtype=np.uint64))).to(device)


def _force(logits: Tensor, rows_P: Tensor, token_P: Tensor) -> None:
    logits[rows_P] = float("-inf")
    logits[rows_P, token_P] = 0.0


def _add_mixed(
    record: PairRecord, place: int, token: int, accepted: bool, proposal: int, student: float, privileged: float
) -> None:
    columns = (record.token_ids, record.accepted, record.proposal, record.student_logprob, record.privileged_logprob)
    for column, value in zip(columns, (token, accepted, proposal, student, privileged), strict=True):
        column[place - record.start :] = [value]  # type: ignore[index]


def _add_watched(
    record: AloneRecord,
    place: int,
    token: int,
    logprob: float,
    confident: bool,
    pause: bool,
    best: list[int],
    best_logprob: list[float],
    stands: list[bool],
) -> None:
    if record.pause and place > record.start + len(record.token_ids):
        return  # an engine that schedules ahead runs a row once more after it ended
    record.pause = None
    if pause:
        standing = {one: value for one, value, stand in zip(best, best_logprob, stands, strict=True) if stand}
        record.pause = Pause(token, logprob, standing)
    columns = (record.token_ids, record.logprob, record.confident)
    for column, value in zip(columns, (token, logprob, confident), strict=True):
        column[place - record.start :] = [] if pause else [value]  # type: ignore[index]
