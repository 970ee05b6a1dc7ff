"""A program: an engine on two ranks draws traces, prints them as one JSON line, and waits to be killed."""

from __future__ import annotations

import json
import sys
import time

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.start import start_engine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS


def requests() -> list[RolloutRequest]:
    prompts, synthesis = Prompts(DEMO_MODEL), Synthesis(temperature=1.0, max_tokens=60)
    made = []
    for number, item in enumerate(load_items(EXPERT_SOLUTIONS)[:8]):
        contexts = prompts.contexts(item, Synthesis(thinking=False))
        made.append(
            RolloutRequest(
                f"u{number}", contexts.student_ids, contexts.privileged_ids, synthesis, number, prompts.stop_ids
            )
        )
    return made


def draw(pair: Pair) -> dict[str, Rollout]:
    for request in requests():
        pair.add(request)
    done: dict[str, Rollout] = {}
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    return done


if __name__ == "__main__":
    engine = start_engine(EngineConfig(model=DEMO_MODEL, dtype="float32", rows=16, step_tokens=4096, tensor_parallel=2))
    traces = {
        strategy: {
            name: [rollout.tokens.ids, rollout.tokens.rejected, rollout.tokens.privileged_logprob]
            for name, rollout in draw(Pair(engine, strategy)).items()
        }
        for strategy in ("lockstep", "lazy")
    }
    print(json.dumps(traces), flush=True)
    time.sleep(600)
    sys.exit("nobody killed this program")
