"""The draws of one batch: every row of a pair, and every row drawn alone, gets its token here.

Knows logits and rows, not the engine around them: each engine says which row of its batch holds what, hands over the
batch's logits once a step, and takes the largest logit of each row for its token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from synth.engine.base import AloneRecord, AloneRow, PairRecord, PairRow, Pause, Records, Row
from synth.rollout import Mixed, Rule, Watched, mix, uniforms, watch


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
        self._pairs: list[str] = []
        self._alone: list[str] = []
        self._mixed: list[tuple[list[str], Mixed]] = []
        self._watched: list[tuple[list[str], Watched]] = []

    def index(self, slots: dict[int, Slot]) -> None:
        """`slots`: row of the batch → what it holds, for the rows that are drawn here."""
        paired = [(at, slot.row.pair) for at, slot in slots.items() if slot.row.pair]
        student = {pair.pair: at for at, pair in paired if pair.role == "student"}
        privileged = {pair.pair: at for at, pair in paired if pair.role == "privileged"}
        assert student.keys() == privileged.keys(), f"rows without their partner: {student.keys() ^ privileged.keys()}"
        self._pairs = list(student)
        self._student_P = self._longs([student[name] for name in self._pairs])
        self._privileged_P = self._longs([privileged[name] for name in self._pairs])
        self._pair_slots = [slots[student[name]] for name in self._pairs]
        self._pair_rule = self._rule([(slot.row, slot.row.pair) for slot in self._pair_slots if slot.row.pair])
        alone = {at: slot for at, slot in slots.items() if slot.row.alone}
        self._alone = [slot.row.row_id for slot in alone.values()]
        self._alone_P = self._longs(list(alone))
        self._alone_slots = list(alone.values())
        self._alone_rule = self._rule([(slot.row, slot.row.alone) for slot in self._alone_slots if slot.row.alone])
        self._column_P = self._longs([slot.row.alone.column for slot in self._alone_slots if slot.row.alone])
        self._pause_P = self._longs([pause_id(slot.row) for slot in self._alone_slots])

    def apply(self, logits: Tensor) -> Tensor:
        """Draws, and forces each drawn token: it keeps logit 0 in its row, all others -inf."""
        if self._pairs:
            numbers_P2 = self._uniforms(self._pair_slots)
            mixed = mix(logits[self._student_P], logits[self._privileged_P], self._pair_rule, numbers_P2)
            self._mixed.append((self._pairs, mixed))
            for rows_P in (self._student_P, self._privileged_P):
                _force(logits, rows_P, mixed.token_P)
        if self._alone:
            numbers_P2 = self._uniforms(self._alone_slots)
            own_P = numbers_P2.gather(1, self._column_P[:, None])[:, 0]
            watched = watch(logits[self._alone_P], self._alone_rule, own_P)
            self._watched.append((self._alone, watched))
            _force(logits, self._alone_P, torch.where(watched.pause_P, self._pause_P, watched.token_P))
        return logits

    def take(self) -> Records:
        """What was drawn since the last call. Copies off the device here and not in every step."""
        records = Records()
        for names, mixed in self._mixed:
            columns = (mixed.token_P, mixed.accepted_P, mixed.student_logprob_P, mixed.privileged_logprob_P)
            for name, *values in zip(names, *(column.tolist() for column in columns), strict=True):
                _add_mixed(records.pairs.setdefault(name, PairRecord()), *values)
        for names, watched in self._watched:
            for name, *values in zip(names, *(column.tolist() for column in watched), strict=True):
                _add_watched(records.alone.setdefault(name, AloneRecord()), *values)
        self._mixed, self._watched = [], []
        return records

    def _longs(self, values: list[int]) -> Tensor:
        return torch.tensor(values, device=self._device, dtype=torch.long)

    def _rule(self, settings: list[tuple[Row, PairRow | AloneRow]]) -> Rule:
        return Rule(
            torch.tensor([setting.tau for _, setting in settings], device=self._device, dtype=torch.float32),
            torch.tensor([row.temperature for row, _ in settings], device=self._device, dtype=torch.float32),
            torch.tensor([setting.tempered for _, setting in settings], device=self._device, dtype=torch.bool),
        )

    def _uniforms(self, slots: list[Slot]) -> Tensor:
        seed_P = np.array([slot.row.seed for slot in slots], dtype=np.uint64)
        place_P = np.array([slot.place for slot in slots], dtype=np.uint64)
        return torch.from_numpy(uniforms(seed_P, place_P)).to(self._device)


def _force(logits: Tensor, rows_P: Tensor, token_P: Tensor) -> None:
    logits[rows_P] = float("-inf")
    logits[rows_P, token_P] = 0.0


def _add_mixed(record: PairRecord, token: int, accepted: bool, student: float, privileged: float) -> None:
    record.token_ids.append(token)
    record.accepted.append(accepted)
    record.student_logprob.append(student)
    record.privileged_logprob.append(privileged)


def _add_watched(
    record: AloneRecord,
    token: int,
    logprob: float,
    confident: bool,
    pause: bool,
    best: list[int],
    best_logprob: list[float],
    stands: list[bool],
) -> None:
    if pause:
        standing = {token: value for token, value, stand in zip(best, best_logprob, stands, strict=True) if stand}
        record.pause = Pause(token, logprob, standing)
        return
    record.token_ids.append(token)
    record.logprob.append(logprob)
    record.confident.append(confident)
