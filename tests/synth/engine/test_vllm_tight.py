"""Real vLLM with too little of everything: prompts that no step can prefill whole, a KV cache that few traces fill,
rows thrown back, no prefix cache, traces of all lengths, units that come and go. The traces are those of an engine
with plenty. The KV cache's blocks are small, as on a GPU, so that most prompts lie in it in part."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import Sampled, SequenceKey
from dail.synth.engine.vllm import VllmEngine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS, OLYMPIAD

pytestmark = pytest.mark.vllm

BLOCK = 32  # tokens; the least on a CPU
TOKEN_BYTES = 4096  # of the demo model's KV cache
TIGHT = {"model": DEMO_MODEL, "dtype": "float32", "rows": 12, "kv_cache_gib": 3840 * TOKEN_BYTES / 2**30}


@pytest.fixture(scope="module", params=["small-steps", "no-prefix-cache"])
def tight_engine(request: pytest.FixtureRequest) -> VllmEngine:
    if request.param == "small-steps":
        engine = VllmEngine(EngineConfig(step_tokens=320, **TIGHT), block_size=BLOCK)
    else:
        engine = VllmEngine(EngineConfig(step_tokens=1100, **TIGHT), block_size=BLOCK, enable_prefix_caching=False)
    return engine  # not closed: with one engine of a process vLLM ends the groups of all, and others run on


@pytest.fixture(scope="module")
def requests() -> list[RolloutRequest]:
    """30 traces of 3 to 150 tokens behind prompts of 50 to 530, each with settings of its own."""
    prompts, chance = Prompts(DEMO_MODEL), random.Random(5)
    made = []
    for number, item in enumerate([*load_items(OLYMPIAD)[:14], *load_items(EXPERT_SOLUTIONS)[:16]]):
        contexts = prompts.contexts(item, Synthesis(thinking=False))
        synthesis = Synthesis(
            tau=chance.choice([0.5, 0.6, 0.8, 0.95]),
            temperature=chance.choice([0.0, 0.6, 1.0]),
            top_p=chance.choice([1.0, 0.9]),
            max_tokens=chance.randint(3, 150),
        )
        stop_ids = prompts.stop_ids if number % 2 else frozenset()
        made.append(
            RolloutRequest(f"u{number}", contexts.student_ids, contexts.privileged_ids, synthesis, number, stop_ids)
        )
    chance.shuffle(made)
    return made


def drain(pair: Pair) -> dict[str, Rollout]:
    done: dict[str, Rollout] = {}
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    return done


@pytest.mark.parametrize("strategy", ["lockstep", "lazy"])
def test_traces_are_those_of_an_engine_with_plenty(strategy, tight_engine, demo_engine, requests):
    plenty = Pair(demo_engine, strategy)
    for request in requests:
        plenty.add(request)
    wanted = drain(plenty)
    pair, done, waiting = Pair(tight_engine, strategy), {}, list(requests)
    left = {request.unit_id for request in requests[3:30:7]}
    num_steps = most_rows = 0
    while waiting or pair.pending():
        if waiting and num_steps % 3 == 0:  # they join one by one, while others run
            pair.add(waiting.pop(0))
        if num_steps == 60:  # and some leave, running or waiting
            for unit_id in left - done.keys():
                pair.cancel(unit_id)
            waiting = [request for request in waiting if request.unit_id not in left]
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
        most_rows = max(most_rows, pair._entries[0].admission._rows)
        num_steps += 1
    assert done.keys() >= wanted.keys() - left
    assert len(done) < len(requests), "none left"
    assert {name: rollout.tokens.ids for name, rollout in done.items()} == {
        name: wanted[name].tokens.ids for name in done
    }
    assert [rollout.reason for name, rollout in sorted(done.items())] == [wanted[name].reason for name in sorted(done)]
    assert pair.num_desynchronised == 0
    assert most_rows >= 4, "they hardly ran side by side"
    assert not pair._entries[0].admission._held, "room was not given back"
    assert not tight_engine._engine.has_unfinished_requests()


class Unaware(Admission):
    """Lets pairs in that the engine must split, and more of them than its KV cache holds."""

    def is_long(self, prompts: list[int]) -> bool:
        return False

    def take(self, key: SequenceKey, prompts: list[int], *_: object, **__: object) -> bool:
        return super().take(key, [1 for _ in prompts], 1)


def test_pairs_that_vllm_desynchronises_are_put_together_again_and_counted(tight_engine, demo_engine, requests):
    plenty, pair = Pair(demo_engine, "lockstep"), Pair(tight_engine, "lockstep")
    entry = pair._entries[0]
    entry = entry._replace(admission=Unaware(entry.engine.limits))
    pair._entries[0] = pair._strategies["lockstep"]._entry = entry
    for request in requests:
        plenty.add(request)
        pair.add(request)
    wanted, done = drain(plenty), drain(pair)
    assert {name: rollout.tokens.ids for name, rollout in done.items()} == {
        name: rollout.tokens.ids for name, rollout in wanted.items()
    }
    assert pair.num_desynchronised > 0


class ThrowingBack:
    """An engine whose scheduler throws half of its rows back every few steps, as vLLM does with one after the other
    when its KV cache is full: a row gives its blocks up, waits, and is computed anew, in parts, with all that it has
    written."""

    def __init__(self, engine: VllmEngine, every: int) -> None:
        self._engine, self._every, self._chance = engine, every, random.Random(2)
        self._scheduler = engine._engine.engine_core.engine_core.scheduler
        self.num_steps = self.num_written = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def step(self) -> list[Sampled]:
        self.num_steps += 1
        running = self._scheduler.running
        for _ in range((len(running) + 1) // 2 if self.num_steps % self._every == 0 else 0):
            row = running.pop(self._chance.randrange(len(running)))
            self.num_written += row.num_output_tokens > 0
            self._scheduler._preempt_request(row, 0.0)
        return self._engine.step()


@pytest.mark.parametrize("strategy", ["lockstep", "lazy", "draft_verify", "direct"])
def test_rows_that_vllm_throws_back_and_computes_anew_draw_the_same_traces(
    strategy, tight_engine, demo_engine, requests
):
    requests = requests[: 4 if strategy == "draft_verify" else 12]
    if strategy == "direct":
        settings = (request.synthesis.model_copy(update={"method": "direct"}) for request in requests)
        requests = [replace(one, synthesis=changed) for one, changed in zip(requests, settings, strict=True)]
    how, throwing = "auto" if strategy == "direct" else strategy, ThrowingBack(tight_engine, every=8)
    plenty, tight = Pair(demo_engine, how), Pair(throwing, how)
    for request in requests:
        plenty.add(request)
        tight.add(request)
    wanted, done = drain(plenty), drain(tight)
    assert throwing.num_written > 3, "hardly any row was thrown back with something written"
    for name, rollout in wanted.items():
        one, other = done[name].tokens, rollout.tokens
        assert one.ids == other.ids and one.rejected == other.rejected
        for column in ("student_prob", "student_logprob", "privileged_logprob"):
            assert getattr(one, column) == pytest.approx(getattr(other, column), abs=2e-3), (name, column)
