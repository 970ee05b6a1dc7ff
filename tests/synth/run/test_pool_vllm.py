"""The pool around real vLLM: an engine that is killed, dies in a step, or stalls costs little and doubles nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.data.reader import load_items
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.pair import READ_EVERY, Pair
from dail.synth.run import pool as pool_module
from dail.synth.run.pool import RolloutPool, rollout_pool
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS
from tests.synth.run.faulty_pair import faulty_pair

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400), pytest.mark.usefixtures("cluster")]

FAULTS = ("die", "stall", "sigkill")
TOKENS, MOST_LOST = 700, 1024


@pytest.fixture(scope="module")
def requests() -> list[RolloutRequest]:
    """Traces of many tokens: nothing ends them but their length."""
    prompts, items = Prompts(DEMO_MODEL), load_items(EXPERT_SOLUTIONS)
    made = []
    for number, item in enumerate(items[:12]):
        contexts = prompts.contexts(item, Synthesis(thinking=False))
        synthesis = Synthesis(max_tokens=TOKENS, temperature=1.0, tau=0.8)
        made.append(
            RolloutRequest(f"u{number}", contexts.student_ids, contexts.privileged_ids, synthesis, number, frozenset())
        )
    return made


def fault(pool: RolloutPool, kind: str, folder: Path) -> None:
    if kind == "sigkill":
        health = pool._slots[0].health
        assert health, "the actor never told its process id"
        os.kill(health.pid, signal.SIGKILL)
    else:
        (folder / "fault").write_text(kind)


def run(requests: list[RolloutRequest], strategy: str, folder: Path) -> tuple[list[Rollout], list[int], list[float]]:
    """All traces, after one fault of each kind in the middle. Also by lost unit, how many tokens it lost; and how long
    each fault went unseen, in seconds."""
    config = SynthConfig(engine=EngineConfig(model=DEMO_MODEL, dtype="float32", rows=32), strategy=strategy, restarts=5)
    by_name = {request.unit_id: request for request in requests}
    finished: list[Rollout] = []
    lost: list[int] = []
    unseen: list[float] = []
    prefixes = dict.fromkeys(by_name, 0)

    async def go() -> None:
        faults = list(FAULTS)
        async with rollout_pool(config, partial(faulty_pair, folder=folder)) as pool:
            await pool.ready()
            pool.submit(requests)
            made = 0.0
            while len(finished) < len(requests):
                results = asyncio.ensure_future(pool.next_results())
                while not results.done():
                    inside = pool._slots[0].units
                    new = [len(pool.written[name].tokens) - prefixes[name] for name in inside]
                    is_trying = pool._slots[0].trial or pool._untried
                    if faults and not made and new and not is_trying and min(new) >= 50:
                        fault(pool, faults.pop(0), folder)
                        made = time.monotonic()
                    if pool.num_restarts > len(unseen):
                        unseen.append(time.monotonic() - made)
                        made = 0.0
                        written = json.loads((folder / "written.json").read_text())
                        for name in written:
                            prefixes[name] = len(pool.written[name].tokens)
                            lost.append(written[name] + READ_EVERY - prefixes[name])
                    await asyncio.sleep(0.05)
                finished.extend(results.result().finished)
                assert not results.result().failed
            assert pool.num_restarts == len(FAULTS) and not faults

    asyncio.run(go())
    return finished, lost, unseen


@pytest.mark.parametrize("strategy", ["lazy", pytest.param("lockstep", marks=pytest.mark.soak)])
def test_every_unit_ends_once_with_the_unbroken_trace(strategy, requests, demo_engine, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "HANG_S", 4.0)
    monkeypatch.setattr(pool_module, "HEALTH_EVERY_S", 0.5)
    finished, lost, unseen = run(requests, strategy, tmp_path)
    assert Counter(rollout.unit_id for rollout in finished) == Counter(request.unit_id for request in requests)
    assert len(lost) >= len(requests) + len(FAULTS) - 1, "the first fault met all of them"
    assert 0 < max(lost) < MOST_LOST
    assert max(unseen) < 4.0 + 6.0
    pair = Pair(demo_engine, strategy)
    for request in requests:
        pair.add(request)
    unbroken: dict[str, Rollout] = {}
    while pair.pending():
        unbroken |= {rollout.unit_id: rollout for rollout in pair.step()}
    for rollout in finished:
        assert rollout.tokens.ids == unbroken[rollout.unit_id].tokens.ids
        assert rollout.tokens.rejected == unbroken[rollout.unit_id].tokens.rejected
        assert len(rollout.tokens) == TOKENS
