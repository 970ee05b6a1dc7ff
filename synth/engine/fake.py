"""An engine with known distributions: no weights, no GPU, every probability a pure function of the context.

For tests that must know what follows, for load and faults without a model, and for trying the service on a laptop.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from synth.config import EngineConfig
from synth.engine.base import Finished, FinishReason, Limits, PairRecord, Row
from synth.rollout import Rule, draw, mix, uniforms

Logits = Callable[[Sequence[int]], Tensor]  # context ids → logits [V]


def made_up(vocab_size: int) -> Logits:
    """Logits that depend on the last two tokens, and a little on the whole context, so that roles nearly agree."""

    def logits(context: Sequence[int]) -> Tensor:
        shared = _noise(zlib.crc32(np.asarray(context[-2:], np.int64).tobytes()), vocab_size)
        own = _noise(zlib.crc32(np.asarray(context, np.int64).tobytes()), vocab_size)
        return 3.0 * shared + 0.5 * own

    return logits


def _noise(seed: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size, dtype=np.float32))


@dataclass
class _Running:
    row: Row
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


class FakeEngine:
    """Steps every running row by one token a step, under the same admission limits as a real engine."""

    name = "fake"

    def __init__(self, config: EngineConfig, logits: Logits | None = None, vocab_size: int | None = None) -> None:
        model = json.loads((config.model / "config.json").read_text("utf-8")) if logits is None else {}
        self._logits = logits or made_up(vocab_size or int(model["vocab_size"]))
        self.limits = Limits(
            model_tokens=config.model_tokens or int(model.get("max_position_embeddings", 4096)),
            rows=config.rows,
            step_tokens=config.step_tokens,
            kv_tokens=1 << 30,
            kv_block=16,
        )
        self._waiting: list[Row] = []
        self._running: dict[str, _Running] = {}
        self._records: dict[str, PairRecord] = {}

    def add(self, row: Row) -> None:
        self._waiting.append(row)

    def abort(self, row_ids: Sequence[str]) -> None:
        self._waiting = [row for row in self._waiting if row.row_id not in row_ids]
        for row_id in row_ids:
            self._running.pop(row_id, None)

    def step(self) -> list[Finished]:
        while self._waiting and len(self._running) < self.limits.rows:
            row = self._waiting.pop(0)
            self._running[row.row_id] = _Running(row)
        pairs: dict[str, dict[str, _Running]] = {}
        for running in self._running.values():
            if running.row.pair:
                pairs.setdefault(running.row.pair.pair, {})[running.row.pair.role] = running
            else:
                self._step_alone(running)
        for name, halves in pairs.items():
            self._step_pair(name, halves["student"], halves["privileged"])
        return [self._end(running, reason) for running in [*self._running.values()] if (reason := _reason(running))]

    def _step_alone(self, running: _Running) -> None:
        row = running.row
        logits_PV = self._next_logits(running)[None]
        uniform = uniforms(np.array([row.seed]), np.array([len(running.token_ids)]), 1)
        token = int(draw(logits_PV, torch.tensor([row.temperature]), torch.from_numpy(uniform)[:, 0]))
        running.token_ids.append(token)
        running.logprobs.append(float(logits_PV.log_softmax(-1)[0, token]))

    def _step_pair(self, name: str, student: _Running, privileged: _Running) -> None:
        row, pair = student.row, student.row.pair
        assert pair is not None and student.token_ids == privileged.token_ids, f"pair {name} parted"
        rule = Rule(torch.tensor([pair.tau]), torch.tensor([row.temperature]), torch.tensor([pair.tempered]))
        uniform = torch.from_numpy(uniforms(np.array([row.seed]), np.array([len(student.token_ids)])))
        mixed = mix(self._next_logits(student)[None], self._next_logits(privileged)[None], rule, uniform)
        for running in (student, privileged):
            running.token_ids.append(int(mixed.token_P))
        record = self._records.setdefault(name, PairRecord())
        record.token_ids.append(int(mixed.token_P))
        record.accepted.append(bool(mixed.accepted_P))
        record.student_logprob.append(float(mixed.student_logprob_P))
        record.privileged_logprob.append(float(mixed.privileged_logprob_P))

    def _next_logits(self, running: _Running) -> Tensor:
        return self._logits([*running.row.prompt_ids, *running.token_ids])

    def _end(self, running: _Running, reason: FinishReason) -> Finished:
        del self._running[running.row.row_id]
        logprobs = running.logprobs if running.row.with_logprobs else None
        return Finished(running.row.row_id, running.token_ids, reason, logprobs)

    def records(self) -> dict[str, PairRecord]:
        taken, self._records = self._records, {}
        return taken

    def close(self) -> None:
        self._running.clear()


def _reason(running: _Running) -> FinishReason | None:
    if running.token_ids[-1] in running.row.stop_ids:
        return "stop"
    return "length" if len(running.token_ids) >= running.row.max_tokens else None
