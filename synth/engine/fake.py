"""An engine with known distributions: no weights, no GPU, every probability a pure function of the context.

For tests that must know what follows, for load and faults without a model, and for trying the service on a laptop.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dail.synth.config import EngineConfig
from dail.synth.engine.base import SCORE_TOP, FinishReason, Limits, Sampled, Score, SequenceKey, TokenSequence
from dail.synth.engine.ledger import Ledger
from dail.synth.engine.sampling import BatchSampler, Slot, engine_stop_ids
from dail.synth.method.acceptance import Sampling, draw, uniforms
from dail.synth.schema.shards import FAKE_ENGINE

ROWS, STEP_TOKENS = 256, 8192
Logits = Callable[[Sequence[int]], Tensor]  # context ids → logits [V]


def made_up(vocab_size: int) -> Logits:
    """Logits that depend on the last two tokens, and a little on the whole context, so that roles nearly agree."""

    def logits(context: Sequence[int]) -> Tensor:
        shared = _noise(zlib.crc32(np.asarray(context[-2:], np.int64).tobytes()), vocab_size)
        own = _noise(zlib.crc32(np.asarray(context, np.int64).tobytes()), vocab_size)
        return 3.0 * shared + 0.5 * own

    return logits


def _without_marks(logits: Logits, model: Path) -> Logits:
    """Never a control token that ends no turn, as a model that was trained on turns: a trace with one is none."""
    file, ends = model / "tokenizer.json", model / "generation_config.json"
    known = json.loads(file.read_text("utf-8")).get("added_tokens", []) if file.is_file() else []
    stops = json.loads(ends.read_text("utf-8")).get("eos_token_id") if ends.is_file() else None
    special = {one["id"] for one in known if one["special"]} - set(stops if isinstance(stops, list) else [stops])
    never = torch.tensor(sorted(special), dtype=torch.long)

    def masked(context: Sequence[int]) -> Tensor:
        given = logits(context)
        return given.index_fill(0, never[never < len(given)], -torch.inf)

    return masked


def _noise(seed: int, size: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(size, dtype=np.float32))


@dataclass
class Running:
    sequence: TokenSequence
    token_ids: list[int] = field(default_factory=list)

    num_told: int = 0  # of a sequence that is followed

    def untold(self) -> list[int]:
        """What is new of a sequence that is followed; else all."""
        new = self.token_ids[self.num_told :]
        if self.sequence.is_followed:
            self.num_told = len(self.token_ids)
        return new

    @cached_property
    def slot(self) -> Slot:
        return Slot(self.sequence, self.token_ids)


class FakeEngine:
    """Steps every running sequence by one token a step, under the same admission limits as a real engine."""

    name = FAKE_ENGINE

    def __init__(self, config: EngineConfig, logits: Logits | None = None, vocab_size: int | None = None) -> None:
        model = json.loads((config.model / "config.json").read_text("utf-8")) if logits is None else {}
        self._logits = logits or _without_marks(made_up(vocab_size or int(model["vocab_size"])), config.model)
        self.limits = Limits(
            model_tokens=config.model_tokens or int(model.get("max_position_embeddings", 4096)),
            rows=config.rows or ROWS,
            step_tokens=config.step_tokens or STEP_TOKENS,
            kv_tokens=1 << 30,
            kv_block=16,
        )
        self._waiting: list[TokenSequence] = []
        self._running: dict[SequenceKey, Running] = {}
        self._sampler = BatchSampler(torch.device("cpu"))
        self._ledger = Ledger(lambda ended, running: self._sampler.take(ended, running))

    def add(self, sequence: TokenSequence) -> None:
        self._ledger.add(sequence)
        self._waiting.append(sequence)

    def abort(self, keys: Sequence[SequenceKey]) -> None:
        self._ledger.drop(keys)
        self._waiting = [sequence for sequence in self._waiting if sequence.key not in keys]
        for key in keys:
            self._running.pop(key, None)

    def step(self) -> list[Sampled]:
        while self._waiting and len(self._running) < self.limits.rows:
            sequence = self._waiting.pop(0)
            self._running[sequence.key] = Running(sequence)
        running = list(self._running.values())
        late = self.late(running)
        if running:
            logits_BV = torch.stack([self._logits([*one.sequence.prompt_ids, *one.token_ids]) for one in running])
            self._sample_plainly(running, logits_BV)
            self._sampler.index({at: one.slot for at, one in enumerate(running) if one.sequence.draw})
            for one, token in zip(running, self._sampler.apply(logits_BV).argmax(-1).tolist(), strict=True):
                if one.sequence.key not in late:
                    one.token_ids.append(token)
        whole = [one for one in running if one.sequence.key not in late]
        return self._end([(one, reason) for one in whole if (reason := _reason(one))])

    def late(self, running: list[Running]) -> set[SequenceKey]:
        """Sequences whose prompts need another step to be prefilled, so that what they sample is thrown away: none."""
        return set()

    def written(self) -> list[Sampled]:
        for key, one in self._running.items():
            self._ledger.follow(key, one.untold())
        return self._ledger.written()

    def close(self) -> None:
        self._running.clear()

    def _sample_plainly(self, running: list[Running], logits_BV: Tensor) -> None:
        for at, one in enumerate(running):
            sequence = one.sequence
            if not sequence.draw:
                number = uniforms(torch.tensor([sequence.seed]), torch.tensor([len(one.token_ids)]), 1)[:, 0]
                settings = [(sequence.temperature, sequence.top_p, sequence.top_k)]
                sampling = Sampling.of(settings, logits_BV.device)
                penalised_1V = logits_BV[at : at + 1].clone()
                penalised_1V[0, list(set(one.token_ids))] -= sequence.presence_penalty
                logits_BV[at, int(draw(penalised_1V, sampling, number))] = torch.inf

    def _end(self, ended: list[tuple[Running, FinishReason]]) -> list[Sampled]:
        for one, _ in ended:
            del self._running[one.sequence.key]
        scores = {one.sequence.key: self._scores(one.sequence) for one, _ in ended}
        given = self._ledger.end([(one.sequence, one.untold(), reason) for one, reason in ended])
        return [replace(one, scores=scores.get(one.key)) for one in given]

    def _scores(self, sequence: TokenSequence) -> list[Score] | None:
        if sequence.score_from is None:
            return None
        scores = []
        for place in range(sequence.score_from, len(sequence.prompt_ids)):
            logprobs_V = self._logits(sequence.prompt_ids[:place]).float().log_softmax(-1)
            own = logprobs_V[sequence.prompt_ids[place]]
            top = logprobs_V.topk(min(SCORE_TOP, len(logprobs_V)))
            named = tuple(top.values.tolist()), tuple(top.indices.tolist())
            scores.append(Score(float(own), int((logprobs_V >= own).sum()), *named))
        return scores


def _reason(running: Running) -> FinishReason | None:
    sequence = running.sequence
    if running.token_ids[-1] in engine_stop_ids(sequence):
        return "stop"
    return "length" if len(running.token_ids) >= sequence.max_tokens else None
