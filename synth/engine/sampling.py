"""The sampler of one batch: every sequence that has a `Draw` gets its token here, alone or as one half of a pair.

Knows logits and rows of a batch, not the engine around them: each engine says which row holds what, hands over the
batch's logits once a step, and takes the largest logit of each row for its token.

Nothing here may make the host wait for the device, or the device for the host. So what is said of the rows is sent in
one piece and only when the batch changed, positions and random numbers are computed where the logits lie, and what was
sampled stays there until somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dail.synth.engine.base import Proposal, Sampled, SequenceKey, TokenSequence, VerifyPoint
from dail.synth.engine.ledger import Taken
from dail.synth.method.acceptance import (
    Mixed,
    OwnDraw,
    Rule,
    Sampling,
    draw_own,
    kind_number,
    kind_of,
    mix,
    token_table,
    trace_uniforms,
)
from dail.synth.schema.trace_tokens import Tokens

_OF_BATCH = ("position", "at", "partner")  # what the batch decides of a row
# What the device is told of a row: eight bytes a field, so that all of them travel as one table of int64.
_TOLD = np.dtype(
    [(name, "f8") for name in ("temperature", "top_p", "tau")]
    + [
        (name, "i8")
        for name in (
            "top_k",
            "kind",
            "k",
            "tempered",
            "proposals",
            "greedy",
            "column",
            "placeholder",
            "seed",
            *_OF_BATCH,
        )
    ]
)
_NO_RULE = _NO_TOKEN = -1


@dataclass(frozen=True)
class Slot:
    """A sequence in the batch. `output_ids` is the engine's own growing list of its tokens."""

    sequence: TokenSequence
    output_ids: Sequence[int]

    @property
    def position(self) -> int:
        """In the trace, of the token that is sampled next."""
        return self.sequence.start + len(self.output_ids)

    @cached_property
    def told(self) -> tuple[float | int, ...]:
        """As `_TOLD` without what the batch decides."""
        one, draw = self.sequence, self.sequence.draw
        assert draw is not None, f"{one.key} is sampled by the engine"
        rule = draw.acceptance
        kind = kind_number(rule.kind) if rule else _NO_RULE
        tau, k, tempered = (rule.tau, rule.k, rule.tempered) if rule else (0.0, 0, False)
        column = 0 if draw.role == draw.proposer else 1
        how = one.temperature, one.top_p, tau, one.top_k, kind, k, tempered, draw.proposals, draw.greedy
        return (*how, column, placeholder(one), one.seed)


def placeholder(sequence: TokenSequence) -> int:
    """The token that ends a sequence at a verify point: one that stops it anyway, else any."""
    return min(sequence.stop_ids, default=0)


def engine_stop_ids(sequence: TokenSequence) -> frozenset[int]:
    """The tokens at which an engine ends it."""
    draw = sequence.draw
    may_verify = draw is not None and draw.acceptance is not None and not draw.is_paired
    return sequence.stop_ids | {placeholder(sequence)} if may_verify else sequence.stop_ids


class BatchSampler:
    """Not thread-safe; `index` after every change of the batch, `apply` once a step, `take` whenever."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pairs = _Pairs({}, device)
        self._own_draws = _OwnDraws({}, device)
        self._desynchronised: set[SequenceKey] = set()
        self._log = _Log()

    def index(self, slots: dict[int, Slot]) -> None:
        """`slots`: row of the batch → what it holds, for the sequences that are sampled here."""
        halves: dict[SequenceKey, dict[str, tuple[int, Slot]]] = {}
        own: dict[SequenceKey, tuple[int, Slot]] = {}
        for at, slot in slots.items():
            key, draw = slot.sequence.key, slot.sequence.draw
            if draw and draw.is_paired:
                halves.setdefault(key._replace(part="privileged"), {})[draw.role] = at, slot
            else:
                own[key] = at, slot
        # For good: a half that was stepped without the other got a token that nobody sampled, and both may be at one
        # position again once the other was, too.
        self._desynchronised |= {key for key, half in halves.items() if len(half) < 2}
        pairs = {
            key: (*half["student"], *half["privileged"])
            for key, half in halves.items()
            if key not in self._desynchronised
        }
        self._pairs, self._own_draws = _Pairs(pairs, self._device), _OwnDraws(own, self._device)

    def apply(self, logits: Tensor) -> Tensor:
        """Samples, and forces each token: it keeps logit 0 in its row, all others -inf."""
        if apart := self._pairs.desynchronised():
            self._desynchronised |= apart
            self._pairs = self._pairs.without(apart)
        for group in (self._pairs, self._own_draws):
            if group.keys:
                self._log.steps.append(group.apply(logits))
        return logits

    def take(self, ended: Sequence[SequenceKey], running: Sequence[SequenceKey] | None = None) -> Taken:
        """What is new of sequences that ended, and of those that run if they are named; whatever else was recorded is
        then forgotten. Of what runs or is desynchronised the last token stays, since it may be sampled again.

        Here alone the host waits for the device, once.
        """
        self._log.fetch()
        # each once, since what is taken is kept back in part: a second time, what was kept back before would be gone
        going_on = self._desynchronised | set(running or ())
        taken = self._log.take(ended) | self._log.take_all_but_last(going_on)
        apart = set(self._desynchronised)
        if running is not None:
            self._log.forget(running)
            self._desynchronised &= set(running)
        return Taken(taken, apart)


class _Told(NamedTuple):
    """What lies on the device of P rows."""

    sampling: Sampling
    rule: Rule
    column_P: Tensor
    placeholder_P: Tensor
    seed_P: Tensor
    position_P: Tensor
    at_P: Tensor
    partner_P: Tensor


class _Group:
    """Sequences that are sampled together, by key, and what the device knows of them."""

    def __init__(
        self, keys: Iterable[SequenceKey], slots: list[Slot], at: list[tuple[int, int]], device: torch.device
    ) -> None:
        self.keys, self._slots, self._device = list(keys), slots, device
        self._row_of = {key: number for number, key in enumerate(self.keys)}
        told = [(*slot.told, 0, *rows) for slot, rows in zip(slots, at, strict=True)]
        self._told_P = np.array(told, dtype=_TOLD)
        self._suppressed_PS = token_table([slot.sequence.suppressed_ids for slot in slots])
        self._proposals = int(self._told_P["proposals"].max(initial=1))  # as many as some row makes
        self._on_device: _Told | None = None

    def _tell(self) -> _Told:
        """What is known on the device, every position included. Sends nothing while all go on by one token: only the
        host knows when one did not (its prompt was not whole yet, or it was thrown back), and the device can count."""
        positions_P = _positions(self._slots)
        goes_on = np.array_equal(self._told_P["position"] + 1, positions_P)
        self._told_P["position"] = positions_P
        if self._on_device and goes_on:
            self._on_device.position_P.add_(1)
        else:
            self._on_device = _send(self._told_P, self._suppressed_PS, self._device)
        return self._on_device

    def _step(self, sampled: _Written | OwnDraw) -> _Step:
        columns = [column[:, None] if column.dim() == 1 else column.flatten(1) for column in sampled]
        values = torch.cat([column.to(torch.float64) for column in columns], 1)
        return _Step(self._row_of, self._told_P["position"].copy(), values)


class _Pairs(_Group):
    """By the privileged student's key: row and slot of the student's sequence, then of the privileged student's."""

    def __init__(self, pairs: dict[SequenceKey, tuple[int, Slot, int, Slot]], device: torch.device) -> None:
        self._by_key = pairs
        # of the proposer first, so that the arithmetic need not know who that is
        at = [(one, other) if _proposes(half) else (other, one) for one, half, other, _ in pairs.values()]
        super().__init__(pairs, [student for _, student, _, _ in pairs.values()], at, device)
        self._partners = [privileged for _, _, _, privileged in pairs.values()]

    def desynchronised(self) -> set[SequenceKey]:
        """Pairs whose sequences are not at one position: one was held up or thrown back without the other."""
        differ_P = _positions(self._slots) != _positions(self._partners)
        return {self.keys[number] for number in np.flatnonzero(differ_P)}

    def without(self, keys: set[SequenceKey]) -> _Pairs:
        return _Pairs({key: pair for key, pair in self._by_key.items() if key not in keys}, self._device)

    def apply(self, logits: Tensor) -> _Step:
        told = self._tell()
        numbers_PU = trace_uniforms(told.seed_P, told.position_P, self._proposals)
        mixed = mix(logits[told.at_P], logits[told.partner_P], told.sampling, told.rule, numbers_PU)
        for rows_P in (told.at_P, told.partner_P):
            _force(logits, rows_P, mixed.token_P)
        return self._step(_by_role(mixed, told.column_P == 0))


def _proposes(slot: Slot) -> bool:
    draw = slot.sequence.draw
    return draw is not None and draw.role == draw.proposer


class _Written(NamedTuple):
    """A step of P pairs as a trace needs it: who wrote the token, and the proposal that was rejected, else -1."""

    token_P: Tensor
    by_student_P: Tensor
    rejected_P: Tensor
    student_logprob_P: Tensor
    privileged_logprob_P: Tensor


def _by_role(mixed: Mixed, student_proposes_P: Tensor) -> _Written:
    proposer_P, verifier_P = mixed.proposer_logprob_P, mixed.verifier_logprob_P
    return _Written(
        mixed.token_P,
        mixed.accepted_P == student_proposes_P,
        torch.where(mixed.accepted_P, _NO_TOKEN, mixed.proposal_P),
        torch.where(student_proposes_P, proposer_P, verifier_P),
        torch.where(student_proposes_P, verifier_P, proposer_P),
    )


class _OwnDraws(_Group):
    """Sequences that one role samples by itself, by key: row and slot."""

    def __init__(self, rows: dict[SequenceKey, tuple[int, Slot]], device: torch.device) -> None:
        super().__init__(rows, [slot for _, slot in rows.values()], [(at, at) for at, _ in rows.values()], device)

    def apply(self, logits: Tensor) -> _Step:
        told = self._tell()
        numbers_PU = trace_uniforms(told.seed_P, told.position_P, self._proposals)
        own_PN = torch.cat([numbers_PU.gather(1, told.column_P[:, None]), numbers_PU[:, 2:]], 1)
        drawn = draw_own(logits[told.at_P], told.sampling, told.rule, own_PN)
        _force(logits, told.at_P, torch.where(drawn.verify_P, told.placeholder_P, drawn.token_P))
        return self._step(drawn)


def _positions(slots: Sequence[Slot]) -> np.ndarray:
    return np.fromiter((slot.position for slot in slots), np.int64, len(slots))


def _send(told_P: np.ndarray, suppressed_PS: np.ndarray, device: torch.device) -> _Told:
    """In one copy, which the host does not wait for: memory that is not pinned would be copied only once the device has
    done all that it was asked before."""
    table_PN = np.concatenate([told_P.view(np.int64).reshape(len(told_P), -1), suppressed_PS], 1)
    host_NP = torch.from_numpy(table_PN.T.copy())  # never shared with the host's
    if device.type == "cuda":
        host_NP = host_NP.pin_memory()
    names, there_NP = _TOLD.names or (), host_NP.to(device, non_blocking=True)
    rows = dict(zip(names, there_NP[: len(names)], strict=True))
    temperature, top_p, tau = (rows.pop(name).view(torch.float64).float() for name in ("temperature", "top_p", "tau"))
    kinds = frozenset(kind_of(kind) for kind in set(told_P["kind"].tolist()) - {_NO_RULE})
    is_heated = bool((told_P["temperature"] != 1).any())
    is_cut = bool((told_P["top_p"] != 1).any() or told_P["top_k"].any())
    greedy = rows["greedy"].bool() if told_P["greedy"].any() else None
    suppressed = there_NP[len(names) :].T if suppressed_PS.shape[1] else None
    return _Told(
        Sampling(temperature, top_p, rows["top_k"], is_heated, is_cut, suppressed),
        Rule(rows["kind"], tau, rows["k"], rows["tempered"].bool(), kinds, rows["proposals"], greedy),
        *(rows[name] for name in ("column", "placeholder", "seed", "position", "at", "partner")),
    )


def _force(logits: Tensor, rows_P: Tensor, token_P: Tensor) -> None:
    logits.index_fill_(0, rows_P, float("-inf"))
    logits[rows_P, token_P] = 0.0


@dataclass
class _Step:
    """What P sequences sampled in one step: the columns of `_Written` or `OwnDraw`, side by side in float64, which
    holds token ids and float32 exactly. `row_of` is shared by the steps of one batch."""

    row_of: dict[SequenceKey, int]
    position_P: np.ndarray
    sampled_PC: Tensor | np.ndarray


@dataclass
class _Log:
    """The steps that were not all taken. `kept`: of a sequence that runs, the last token of the steps before them."""

    steps: list[_Step] = field(default_factory=list)
    kept: dict[SequenceKey, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    def fetch(self) -> None:
        """Brings what lies on the device over, in one copy."""
        there = [(step, step.sampled_PC) for step in self.steps if isinstance(step.sampled_PC, Tensor)]
        if there:
            flat = torch.cat([sampled_PC.flatten() for _, sampled_PC in there]).cpu().numpy()
            ends = np.cumsum([sampled_PC.numel() for _, sampled_PC in there])
            for (step, sampled_PC), part in zip(there, np.split(flat, ends[:-1]), strict=True):
                step.sampled_PC = part.reshape(sampled_PC.shape)

    def take(self, keys: Iterable[SequenceKey]) -> dict[SequenceKey, Sampled]:
        return {key: _sampled(key, sampled_SC) for key in keys if len(sampled_SC := self._of(key)[1])}

    def take_all_but_last(self, keys: Iterable[SequenceKey]) -> dict[SequenceKey, Sampled]:
        taken = {}
        for key in keys:
            position_S, sampled_SC = self._of(key)
            if len(position_S):
                self.kept[key] = position_S[-1:], sampled_SC[-1:]
                taken[key] = _sampled(key, sampled_SC[:-1])
        return taken

    def forget(self, running: Sequence[SequenceKey]) -> None:
        """All but what was kept of these: the others ended, and what they sampled since then was in vain."""
        self.steps, self.kept = [], {key: self.kept[key] for key in running if key in self.kept}

    def _of(self, key: SequenceKey) -> tuple[np.ndarray, np.ndarray]:
        """Positions and what was sampled there. A position may be sampled again (a sequence whose prefill is split
        samples in vain until its prompt is whole): of each the last time, and nothing that was sampled behind a
        position before that was sampled again."""
        steps = [step for step in self.steps if key in step.row_of]
        rows = [self.kept[key]] if key in self.kept else []
        for step in steps:
            assert isinstance(step.sampled_PC, np.ndarray), "it was not fetched"
            row = slice(step.row_of[key], step.row_of[key] + 1)
            rows.append((step.position_P[row], step.sampled_PC[row]))
        if not rows:
            return np.empty(0, np.int64), np.empty((0, 0))
        # a step has as many proposals as some row of it makes
        width = max(sampled_SC.shape[1] for _, sampled_SC in rows)
        wide = [np.pad(one, ((0, 0), (0, width - one.shape[1])), constant_values=_NO_TOKEN) for _, one in rows]
        position_S, sampled_SC = np.concatenate([position_S for position_S, _ in rows]), np.concatenate(wide)
        least_after_S = np.minimum.accumulate(np.append(position_S[1:], np.iinfo(np.int64).max)[::-1])[::-1]
        is_last_S = position_S < least_after_S
        position_S, sampled_SC = position_S[is_last_S], sampled_SC[is_last_S]
        assert (np.diff(position_S) == 1).all(), f"{key}: a position was passed over: {position_S.tolist()}"
        return position_S, sampled_SC


_MIXED_COLUMNS, _OWN_COLUMNS = 5, 10  # of one's own, the proposals that follow stand behind these


def _sampled(key: SequenceKey, sampled_SC: np.ndarray) -> Sampled:
    if sampled_SC.shape[1] == _MIXED_COLUMNS:
        return Sampled(key, _mixed_tokens(sampled_SC))
    tokens, verify = _own_tokens(sampled_SC[:, :_OWN_COLUMNS], by_student=key.part == "student")
    return Sampled(key, tokens, verify=verify, further=_further(sampled_SC[:, _OWN_COLUMNS:]))


def _further(further_SC: np.ndarray) -> list[tuple[Proposal, ...]]:
    """What was proposed after each token; empty if nothing was."""
    if (further_SC == _NO_TOKEN).all():
        return []
    pairs_SN2 = further_SC.reshape(len(further_SC), further_SC.shape[1] // 2, 2).tolist()
    return [
        tuple(Proposal(int(token), logprob) for token, logprob in pairs if token != _NO_TOKEN) for pairs in pairs_SN2
    ]


def _mixed_tokens(sampled_SC: np.ndarray) -> Tokens:
    token, by_student, rejected, student, privileged = sampled_SC.T
    return Tokens(
        token.astype(int).tolist(),
        by_student.tolist(),
        [None if one == _NO_TOKEN else int(one) for one in rejected.tolist()],
        student.tolist(),
        privileged.tolist(),
    )


def _own_tokens(sampled_SC: np.ndarray, by_student: bool) -> tuple[Tokens, VerifyPoint | None]:
    """Tokens of one role alone: its own, but for those of a verifier that was confident under a rule, which the
    proposer may have proposed; that is not known here."""
    token, logprob, confident, verify = sampled_SC[:, :4].T
    # an engine that schedules ahead runs a sequence once more after its verify point, in vain
    number = int(verify.argmax()) if verify.any() else len(verify)
    unknown = [None] * number
    own = [*logprob[:number].tolist()]
    tokens = Tokens(
        token[:number].astype(int).tolist(),
        [None if one else float(by_student) for one in confident[:number]],
        list(unknown),
        own if by_student else list(unknown),
        list(unknown) if by_student else own,
    )
    if number == len(verify):
        return tokens, None
    best, best_logprob, accepted = np.split(sampled_SC[number, 4:], 3)
    candidates = zip(best.astype(int).tolist(), best_logprob.tolist(), accepted, strict=True)
    return tokens, VerifyPoint(
        int(token[number]),
        float(logprob[number]),
        {one: value for one, value, is_accepted in candidates if is_accepted},
    )
