"""vLLM's second model runner, which no CPU has, stood in for: the fake engine hands its logits to our processor in that
runner's way. And an engine that schedules ahead, as vLLM does on a GPU, which runs rows once more after their end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dail.synth.config import EngineConfig
from dail.synth.engine.base import Draw, FinishReason, Sampled, SequenceKey, TokenSequence
from dail.synth.engine.fake import FakeEngine, Running
from dail.synth.engine.ledger import Taken
from dail.synth.engine.sampling import Slot
from dail.synth.rollout.pair import Pair
from tests.synth.rollout.test_proposals import wanted as wanted_traces
from tests.synth.rollout.test_strategies import LOGITS, STRATEGIES, ids, run

MINDS = {"proposals": 3, "proposer": "privileged", "suppress": (4, 11)}

interface = pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor", reason="this vLLM has no second runner")


class SecondRunner:
    """Between the fake engine and our processor: requests get numbers that are used again, rows are reordered in every
    step, and the processor learns of a row's progress from the length of what it sees alone."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine, self._chance = engine, random.Random(3)
        self._processor, self._whole = _processor()
        self._numbers: dict[SequenceKey, int] = {}
        self._slots: dict[int, Slot] = {}

    def index(self, slots: dict[int, Slot]) -> None:
        from dail.synth.engine.vllm import _sampling

        self._slots = slots
        rows = {slot.sequence.key: slot.sequence for slot in slots.values()}
        self._numbers = {name: number for name, number in self._numbers.items() if name in rows}
        for name, row in rows.items():
            if name not in self._numbers:
                self._numbers[name] = min(set(range(len(rows) + 1)) - set(self._numbers.values()))
                self._whole[self._numbers[name]] = len(row.prompt_ids)
                assert self._processor.add_request(self._numbers[name], _sampling(row, False))

    def apply(self, logits_BV: Tensor) -> Tensor:
        order = list(range(len(logits_BV)))
        self._chance.shuffle(order)
        numbers = [self._numbers[self._slots[at].sequence.key] if at in self._slots else 99 for at in order]
        lengths = np.array([self._seen(self._slots[at]) if at in self._slots else 7 for at in order])
        context = _context(np.array(numbers), lengths)
        drawn_BV = self._processor.apply(logits_BV[order], context)
        restored_BV = torch.empty_like(drawn_BV)
        restored_BV[order] = drawn_BV
        return restored_BV

    def _seen(self, slot: Slot) -> int:
        """Tokens that the token to be sampled sees; of a prompt that is not whole yet, a part."""
        late = slot.sequence.key in self._engine.now_late  # type: ignore[attr-defined]
        return len(slot.sequence.prompt_ids) - 1 if late else len(slot.sequence.prompt_ids) + len(slot.output_ids)

    def take(self, ended: Sequence[SequenceKey], running: Sequence[SequenceKey] | None = None) -> Taken:
        return self._processor.sampler.take(ended, running)


def _processor() -> tuple[Any, np.ndarray]:
    """Ours, as the second runner makes it; and how many tokens of each request must be computed before one is drawn."""
    from dail.synth.engine.vllm import Drawing

    whole = np.zeros(100, np.int32)
    states = SimpleNamespace(device=torch.device("cpu"), prefill_len=SimpleNamespace(np=whole))
    return Drawing(None, states), whole


def _context(numbers: np.ndarray, lengths: np.ndarray) -> Any:
    rows = torch.from_numpy(numbers)
    return interface.LogitsContext(
        expanded_idx_mapping=rows,
        idx_mapping=rows,
        idx_mapping_np=numbers,
        expanded_local_pos=torch.zeros_like(rows),
        input_ids=torch.zeros_like(rows),
        pos=torch.from_numpy(lengths) - 1,
        seq_lens_upper_bound_np=lengths,
    )


class SecondRunnerEngine(FakeEngine):
    """Prefills every prompt in one step, or `slowly` in two."""

    def __init__(self, slowly: bool = False) -> None:
        super().__init__(EngineConfig(model=Path("."), model_tokens=64, rows=12), LOGITS)
        self._sampler, self._slowly = SecondRunner(self), slowly  # type: ignore[assignment]
        self._begun: set[SequenceKey] = set()
        self.now_late: set[SequenceKey] = set()

    def late(self, running: list[Any]) -> set[SequenceKey]:
        names = {one.sequence.key for one in running}
        self.now_late = names - self._begun if self._slowly else set()
        self._begun = names
        return self.now_late


@pytest.mark.parametrize(("strategy", "tau"), STRATEGIES)
@pytest.mark.parametrize(("slowly", "minds"), [(False, {}), (True, {}), (True, MINDS)], ids=str)
def test_the_second_runner_draws_the_same_traces(
    strategy: str, tau: float, slowly: bool, minds: dict[str, Any]
) -> None:
    requests = wanted_traces(25, tau=tau, **minds)
    pair = Pair(SecondRunnerEngine(slowly), strategy, SecondRunnerEngine(slowly))
    done, wanted = run(requests, pair=pair), run(requests, strategy)
    assert {name: rollout.tokens for name, rollout in done.items()} == {
        name: rollout.tokens for name, rollout in wanted.items()
    }


def test_a_number_that_is_used_again_forgets_its_first_row() -> None:
    from dail.synth.engine.vllm import _sampling

    processor, whole = _processor()
    whole[4] = 3
    row = TokenSequence(SequenceKey("plain"), [1, 2, 3], 5, 0.7, 1, frozenset())
    one = replace(row, key=SequenceKey("drawn"), draw=Draw("student"))
    assert processor.add_request(4, _sampling(one, False))
    assert not processor.add_request(4, _sampling(row, False))
    logits = torch.randn(1, 9)
    assert torch.equal(processor.apply(logits.clone(), _context(np.array([4]), np.array([3]))), logits)


class Ahead(FakeEngine):
    """Learns a step late that a sequence ended, as an engine that schedules ahead: it is sampled once more in vain."""

    def __init__(self) -> None:
        super().__init__(EngineConfig(model=Path("."), model_tokens=64, rows=12), LOGITS)
        self._over: dict[SequenceKey, tuple[Running, list[int], FinishReason]] = {}
        self.num_vain = 0

    def step(self) -> list[Sampled]:
        over, self._over = self._over, {}
        self._running |= {key: one for key, (one, _, _) in over.items()}
        self.num_vain += len(over)
        super().step()
        for key, (one, _, _) in over.items():
            self._over.pop(key, None)
            self._running[key] = one
        return super()._end([(replace(one, token_ids=ids), reason) for one, ids, reason in over.values()])

    def _end(self, ended: list[tuple[Running, FinishReason]]) -> list[Sampled]:
        for one, reason in ended:
            self._over[one.sequence.key] = one, list(one.token_ids), reason
            del self._running[one.sequence.key]
        return []

    def abort(self, keys: Sequence[SequenceKey]) -> None:
        super().abort(keys)
        for key in keys:
            self._over.pop(key, None)


@pytest.mark.parametrize(("strategy", "tau"), STRATEGIES)
@pytest.mark.parametrize("minds", [{}, MINDS], ids=str)
def test_an_engine_that_schedules_ahead_draws_the_same_traces(strategy: str, tau: float, minds: dict[str, Any]) -> None:
    requests = wanted_traces(25, tau=tau, **minds)
    ahead = Ahead()
    done, wanted = run(requests, pair=Pair(ahead, strategy, Ahead())), run(requests, strategy)
    assert ahead.num_vain > 25
    assert ids(done) == ids(wanted)
    assert {name: rollout.tokens.rejected for name, rollout in done.items()} == {
        name: rollout.tokens.rejected for name, rollout in wanted.items()
    }
