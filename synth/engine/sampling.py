"""The draws of one batch: every row of a pair, and every row drawn alone, gets its token here.

Knows logits and rows, not the engine around them: each engine says which row of its batch holds what, hands over the
batch's logits once a step, and takes the largest logit of each row for its token.

Nothing here may make the host wait for the device, or the device for the host. So what is said of the rows is sent in
one piece and only when the batch changed, places and random numbers are computed where the logits lie, and what was
drawn stays there until somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dail.synth.engine.base import AloneRecord, PairRecord, Pause, Records, Row
from dail.synth.method.acceptance import KINDS, Mixed, Rule, Sampling, Watched, mix, uniforms, watch

# What the device is told of a row: eight bytes a field, so that all of them travel as one table of int64.
_TOLD = np.dtype(
    [(name, "f8") for name in ("temperature", "top_p", "tau")]
    + [(name, "i8") for name in ("top_k", "kind", "k", "tempered", "column", "pause", "seed", "place", "at", "partner")]
)
_NO_RULE = -1


@dataclass(frozen=True)
class Slot:
    """A row in the batch. `output_ids` is the engine's own growing list of the row's tokens."""

    row: Row
    output_ids: Sequence[int]

    @property
    def place(self) -> int:
        """In the trace, of the token that is drawn next."""
        return self.row.start + len(self.output_ids)

    @cached_property
    def told(self) -> tuple[float | int, ...]:
        """As `_TOLD` without its last three, which the batch decides."""
        row = self.row
        rule = row.pair.acceptance if row.pair else row.alone and row.alone.acceptance
        kind = KINDS.index(rule.kind) if rule else _NO_RULE
        tau, k, tempered = (rule.tau, rule.k, rule.tempered) if rule else (0.0, 0, False)
        column = row.alone.column if row.alone else 0
        return (row.temperature, row.top_p, tau, row.top_k, kind, k, tempered, column, pause_id(row), row.seed)


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
        self._mixed = _Log()
        self._watched = _Log()

    def index(self, slots: dict[int, Slot]) -> None:
        """`slots`: row of the batch → what it holds, for the rows that are drawn here."""
        halves: dict[str, dict[str, int]] = {}
        alone: dict[str, tuple[int, Slot]] = {}
        for at, slot in slots.items():
            if slot.row.pair:
                halves.setdefault(slot.row.pair.pair, {})[slot.row.pair.role] = at
            else:
                alone[slot.row.row_id] = at, slot
        self._parted &= halves.keys()
        self._parted |= {name for name, half in halves.items() if len(half) < 2}
        pairs = {
            name: (half["student"], slots[half["student"]], half["privileged"], slots[half["privileged"]])
            for name, half in halves.items()
            if name not in self._parted
        }
        self._pairs, self._alone = _Pairs(pairs, self._device), _Alone(alone, self._device)

    def apply(self, logits: Tensor) -> Tensor:
        """Draws, and forces each drawn token: it keeps logit 0 in its row, all others -inf."""
        if parted := self._pairs.parted():
            self._parted |= parted
            self._pairs = self._pairs.without(parted)
        for drawn, log in ((self._pairs, self._mixed), (self._alone, self._watched)):
            if drawn.names:
                log.add(drawn.apply(logits))
        return logits

    def take(self, names: Iterable[str] | None = None) -> Records:
        """What was drawn and not yet taken: all of it, or of these rows and pairs, and of pairs that parted.

        Here alone the host waits for the device, once.
        """
        _fetch([*self._mixed.steps, *self._watched.steps])
        wanted = None if names is None else {*names, *self._parted}
        pairs = {name: _mixed_record(*drawn) for name, drawn in self._mixed.take(wanted)}
        alone = {name: _watched_record(*drawn) for name, drawn in self._watched.take(wanted)}
        return Records(pairs, alone, set(self._parted))


class _Told(NamedTuple):
    """What lies on the device of P rows."""

    sampling: Sampling
    rule: Rule
    column_P: Tensor
    pause_P: Tensor
    seed_P: Tensor
    place_P: Tensor
    at_P: Tensor
    partner_P: Tensor


class _Group:
    """Rows that are drawn together, by name, and what the device knows of them."""

    def __init__(self, names: list[str], slots: list[Slot], at: list[tuple[int, int]], device: torch.device) -> None:
        self.names, self._slots, self._device = names, slots, device
        self._row_of = {name: number for number, name in enumerate(names)}
        told = [(*slot.told, 0, *rows) for slot, rows in zip(slots, at, strict=True)]
        self._told_P = np.array(told, dtype=_TOLD)
        self._on_device: _Told | None = None

    def _tell(self) -> _Told:
        """What is known on the device, every row's place included. Sends nothing while all rows go on by one token."""
        places_P = _places(self._slots)
        if self._on_device and np.array_equal(self._told_P["place"] + 1, places_P):
            self._told_P["place"] = places_P
            self._on_device.place_P.add_(1)
            return self._on_device
        self._told_P["place"] = places_P
        self._on_device = _send(self._told_P, self._device)
        return self._on_device

    def _step(self, drawn: Mixed | Watched) -> _Step:
        columns = [column.reshape(len(self.names), -1) for column in drawn]
        values = torch.cat([column.to(torch.float64) for column in columns], 1)
        return _Step(self._row_of, self._told_P["place"].copy(), values)


class _Pairs(_Group):
    """The pairs of a batch: by name, index and slot of the student's row, then of the privileged student's."""

    def __init__(self, pairs: dict[str, tuple[int, Slot, int, Slot]], device: torch.device) -> None:
        self._by_name = pairs
        at = [(one, other) for one, _, other, _ in pairs.values()]
        super().__init__(list(pairs), [student for _, student, _, _ in pairs.values()], at, device)
        self._partners = [privileged for _, _, _, privileged in pairs.values()]

    def parted(self) -> set[str]:
        """Pairs whose rows are not at the same place: one was held up or thrown back without the other."""
        differ_P = _places(self._slots) != _places(self._partners)
        return {self.names[number] for number in np.flatnonzero(differ_P)}

    def without(self, names: set[str]) -> _Pairs:
        return _Pairs({name: pair for name, pair in self._by_name.items() if name not in names}, self._device)

    def apply(self, logits: Tensor) -> _Step:
        told = self._tell()
        numbers_P2 = uniforms(told.seed_P, told.place_P)
        mixed = mix(logits[told.at_P], logits[told.partner_P], told.sampling, told.rule, numbers_P2)
        for rows_P in (told.at_P, told.partner_P):
            _force(logits, rows_P, mixed.token_P)
        return self._step(mixed)


class _Alone(_Group):
    """The rows of a batch that one role draws by itself: by name, index and slot."""

    def __init__(self, rows: dict[str, tuple[int, Slot]], device: torch.device) -> None:
        super().__init__(list(rows), [slot for _, slot in rows.values()], [(at, at) for at, _ in rows.values()], device)

    def apply(self, logits: Tensor) -> _Step:
        told = self._tell()
        own_P = uniforms(told.seed_P, told.place_P).gather(1, told.column_P[:, None])[:, 0]
        watched = watch(logits[told.at_P], told.sampling, told.rule, own_P)
        _force(logits, told.at_P, torch.where(watched.pause_P, told.pause_P, watched.token_P))
        return self._step(watched)


def _places(slots: Sequence[Slot]) -> np.ndarray:
    return np.fromiter((slot.place for slot in slots), np.int64, len(slots))


def _send(told_P: np.ndarray, device: torch.device) -> _Told:
    """In one copy, which the host does not wait for: memory that is not pinned would be copied only once the device has
    done all that it was asked before."""
    host_NP = torch.from_numpy(told_P.view(np.int64).reshape(len(told_P), -1).T.copy())  # never shared with the host's
    if device.type == "cuda":
        host_NP = host_NP.pin_memory()
    rows = dict(zip(_TOLD.names or (), host_NP.to(device, non_blocking=True), strict=True))
    temperature, top_p, tau = (rows.pop(name).view(torch.float64).float() for name in ("temperature", "top_p", "tau"))
    kinds = frozenset(KINDS[kind] for kind in set(told_P["kind"].tolist()) - {_NO_RULE})
    is_heated = bool((told_P["temperature"] != 1).any())
    is_cut = bool((told_P["top_p"] != 1).any() or told_P["top_k"].any())
    return _Told(
        Sampling(temperature, top_p, rows["top_k"], is_heated, is_cut),
        Rule(rows["kind"], tau, rows["k"], rows["tempered"].bool(), kinds),
        *(rows[name] for name in ("column", "pause", "seed", "place", "at", "partner")),
    )


def _force(logits: Tensor, rows_P: Tensor, token_P: Tensor) -> None:
    logits.index_fill_(0, rows_P, float("-inf"))
    logits[rows_P, token_P] = 0.0


@dataclass
class _Step:
    """What P rows drew in one step: the columns of `Mixed` or `Watched`, side by side in float64, which holds token ids
    and float32 exactly. `row_of` is shared by the steps of one batch."""

    row_of: dict[str, int]
    place_P: np.ndarray
    drawn_PC: Tensor | np.ndarray


@dataclass
class _Log:
    """The steps that were not all taken. `num_taken`: of a row or pair that was, how many of them it has behind it."""

    steps: list[_Step] = field(default_factory=list)
    num_taken: dict[str, int] = field(default_factory=dict)

    def add(self, step: _Step) -> None:
        self.steps.append(step)

    def take(self, names: set[str] | None) -> Iterator[tuple[str, tuple[np.ndarray, np.ndarray]]]:
        """Of these or of all, by name: places, and what was drawn there. None of it is given a second time."""
        known = {name for step in self.steps for name in step.row_of} if names is None else names
        for name in known:
            steps = [step for step in self.steps[self.num_taken.get(name, 0) :] if name in step.row_of]
            if steps:
                rows = [(step.place_P[step.row_of[name]], step.drawn_PC[step.row_of[name]]) for step in steps]
                yield name, _last_draws(*map(np.array, zip(*rows, strict=True)))
        if names is None:
            self.steps, self.num_taken = [], {}
        else:
            self.num_taken |= dict.fromkeys(names, len(self.steps))


def _fetch(steps: list[_Step]) -> None:
    """Brings what lies on the device over, in one copy."""
    there = [(step, step.drawn_PC) for step in steps if isinstance(step.drawn_PC, Tensor)]
    if there:
        flat = torch.cat([drawn_PC.flatten() for _, drawn_PC in there]).cpu().numpy()
        ends = np.cumsum([drawn_PC.numel() for _, drawn_PC in there])
        for (step, drawn_PC), part in zip(there, np.split(flat, ends[:-1]), strict=True):
            step.drawn_PC = part.reshape(drawn_PC.shape)


def _last_draws(place_S: np.ndarray, drawn_SC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A place may be drawn again (a row whose prefill is split draws in vain until its prompt is whole): of each place
    the last draw, and nothing that was drawn behind a place before that was drawn again."""
    least_after_S = np.minimum.accumulate(np.append(place_S[1:], np.iinfo(np.int64).max)[::-1])[::-1]
    is_last_S = place_S < least_after_S
    return place_S[is_last_S], drawn_SC[is_last_S]


def _mixed_record(place_S: np.ndarray, drawn_SC: np.ndarray) -> PairRecord:
    token, accepted, proposal, student, privileged = drawn_SC.T
    return PairRecord(
        int(place_S[0]),
        token.astype(int).tolist(),
        accepted.astype(bool).tolist(),
        proposal.astype(int).tolist(),
        student.tolist(),
        privileged.tolist(),
    )


def _watched_record(place_S: np.ndarray, drawn_SC: np.ndarray) -> AloneRecord:
    token, logprob, confident, pause = drawn_SC[:, :4].T
    best, best_logprob, stands = np.split(drawn_SC[:, 4:], 3, axis=1)
    # an engine that schedules ahead runs a row once more after its pause, in vain
    number = int(pause.argmax()) if pause.any() else len(pause)
    record = AloneRecord(
        int(place_S[0]),
        token[:number].astype(int).tolist(),
        logprob[:number].tolist(),
        confident[:number].astype(bool).tolist(),
    )
    if number < len(pause):
        candidates = zip(best[number].astype(int).tolist(), best_logprob[number].tolist(), stands[number], strict=True)
        standing = {one: value for one, value, stand in candidates if stand}
        record.pause = Pause(int(token[number]), float(logprob[number]), standing)
    return record
