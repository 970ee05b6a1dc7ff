"""An engine with known distributions: no weights, no GPU, every probability a pure function of the context.

For tests that must know what follows, for load and faults without a model, and for trying the service on a laptop.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dail.synth.config import EngineConfig
from dail.synth.engine.base import SCORE_TOP, Finished, FinishReason, Limits, Records, Row, Score
from dail.synth.engine.sampling import Draws, Slot, pause_id
from dail.synth.method.acceptance import Sampling, draw, uniforms

ROWS, STEP_TOKENS = 256, 8192
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
class Running:
    row: Row
    token_ids: list[int] = field(default_factory=list)

    @property
    def is_drawn(self) -> bool:
        return bool(self.row.pair or self.row.alone)

    @cached_property
    def slot(self) -> Slot:
        return Slot(self.row, self.token_ids)


class FakeEngine:
    """Steps every running row by one token a step, under the same admission limits as a real engine."""

    name = "fake"

    def __init__(self, config: EngineConfig, logits: Logits | None = None, vocab_size: int | None = None) -> None:
        model = json.loads((config.model / "config.json").read_text("utf-8")) if logits is None else {}
        self._logits = logits or made_up(vocab_size or int(model["vocab_size"]))
        self.limits = Limits(
            model_tokens=config.model_tokens or int(model.get("max_position_embeddings", 4096)),
            rows=config.rows or ROWS,
            step_tokens=config.step_tokens or STEP_TOKENS,
            kv_tokens=1 << 30,
            kv_block=16,
        )
        self._waiting: list[Row] = []
        self._running: dict[str, Running] = {}
        self._draws = Draws(torch.device("cpu"))

    def add(self, row: Row) -> None:
        self._waiting.append(row)

    def abort(self, row_ids: Sequence[str]) -> None:
        self._waiting = [row for row in self._waiting if row.row_id not in row_ids]
        for row_id in row_ids:
            self._running.pop(row_id, None)

    def step(self) -> list[Finished]:
        while self._waiting and len(self._running) < self.limits.rows:
            row = self._waiting.pop(0)
            self._running[row.row_id] = Running(row)
        running = list(self._running.values())
        late = self.late(running)
        if running:
            logits_BV = torch.stack([self._logits([*one.row.prompt_ids, *one.token_ids]) for one in running])
            self._sample_plain_rows(running, logits_BV)
            self._draws.index({at: one.slot for at, one in enumerate(running) if one.is_drawn})
            for one, token in zip(running, self._draws.apply(logits_BV).argmax(-1).tolist(), strict=True):
                if one.row.row_id not in late:
                    one.token_ids.append(token)
        whole = [one for one in running if one.row.row_id not in late]
        return [self._end(one, reason) for one in whole if (reason := _reason(one))]

    def late(self, running: list[Running]) -> set[str]:
        """Rows whose prompts need another step to be prefilled, so that what is drawn for them is thrown away: none."""
        return set()

    def _sample_plain_rows(self, running: list[Running], logits_BV: Tensor) -> None:
        for at, one in enumerate(running):
            if not one.is_drawn:
                number = uniforms(torch.tensor([one.row.seed]), torch.tensor([len(one.token_ids)]), 1)[:, 0]
                sampling = Sampling.of([(one.row.temperature, one.row.top_p, one.row.top_k)], logits_BV.device)
                logits_BV[at, int(draw(logits_BV[at : at + 1], sampling, number))] = torch.inf

    def _end(self, running: Running, reason: FinishReason) -> Finished:
        del self._running[running.row.row_id]
        return Finished(running.row.row_id, running.token_ids, reason, self._scores(running.row))

    def _scores(self, row: Row) -> list[Score] | None:
        if row.score_from is None:
            return None
        scores = []
        for place in range(row.score_from, len(row.prompt_ids)):
            logprobs_V = self._logits(row.prompt_ids[:place]).float().log_softmax(-1)
            own = logprobs_V[row.prompt_ids[place]]
            top = logprobs_V.topk(min(SCORE_TOP, len(logprobs_V))).values
            scores.append(Score(float(own), int((logprobs_V >= own).sum()), tuple(top.tolist())))
        return scores

    def records(self, names: Iterable[str] | None = None) -> Records:
        return self._draws.take(names)

    def close(self) -> None:
        self._running.clear()


def _reason(running: Running) -> FinishReason | None:
    row = running.row
    if running.token_ids[-1] in row.stop_ids | ({pause_id(row)} if row.alone else set()):
        return "stop"
    return "length" if len(running.token_ids) >= row.max_tokens else None
