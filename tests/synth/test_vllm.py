"""Lockstep on real vLLM against the literal transformers loop, on the demo model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from synth.engine.base import Row
from synth.pair import Pair
from synth.prompts import Prompts
from synth.rollout import mixed_distribution
from synth.schema.items import Synthesis, load_items
from synth.strategies.base import RolloutRequest
from synth.strategies.reference import Reference
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS
from train.evals.run import drive

pytestmark = pytest.mark.vllm

PAIRS, TOKENS = 16, 100
SAMPLES = 2000


@pytest.fixture(scope="module")
def reference():
    return Reference(DEMO_MODEL)


@pytest.fixture(scope="module")
def contexts():
    prompts = Prompts(DEMO_MODEL)
    return [prompts.contexts(item, thinking=False) for item in load_items(EXPERT_SOLUTIONS)[:PAIRS]]


def run(engine, requests, strategy="lockstep"):
    pair = Pair(engine, strategy)
    for request in requests:
        pair.add(request)
    done = {}
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    return done


def requests(contexts, stop_ids=frozenset(), **synthesis):
    settings = Synthesis(**synthesis)
    return [
        RolloutRequest(f"{synthesis}-{n}", context.student_ids, context.privileged_ids, settings, n + 1, stop_ids)
        for n, context in enumerate(contexts)
    ]


@pytest.mark.parametrize("tau", [0.8, 0.3])
def test_greedy_lockstep_gives_the_tokens_of_the_literal_loop(demo_engine, reference, contexts, tau):
    """No stop token, so that all pairs run for all tokens, over the trace's end and into the rare."""
    wanted = requests(contexts, tau=tau, temperature=0.0, max_tokens=TOKENS)
    rollouts = run(demo_engine, wanted)
    sources = []
    for request in wanted:
        expected, got = reference.rollout(request), rollouts[request.unit_id]
        assert got.trace_ids == expected.trace_ids
        assert got.source == expected.source
        assert np.allclose(got.student_logprob, expected.student_logprob, atol=1e-3)
        assert np.allclose(got.privileged_logprob, expected.privileged_logprob, atol=1e-3)
        sources += got.source
    assert len(sources) == PAIRS * TOKENS
    assert 0 < sum(sources) < len(sources), "both branches must be taken"


@pytest.mark.parametrize(("tau", "temperature"), [(0.8, 1.0), (0.3, 1.0), (0.3, 0.6)])
def test_sampled_tokens_follow_the_mixed_distribution(demo_engine, reference, contexts, tau, temperature):
    """Chi-square of one token drawn many times where the roles disagree: the first choice after the start state.

    That a wrong tau fails the same test shows that it has power.
    """
    context = contexts[0]
    start = reference.rollout(requests([context], tau=0.8, temperature=0.0, max_tokens=4)[0]).trace_ids
    student_ids, privileged_ids = [*context.student_ids, *start[:3]], [*context.privileged_ids, *start[:3]]
    settings = Synthesis(tau=tau, temperature=temperature, max_tokens=1)
    drawn = run(
        demo_engine,
        [
            RolloutRequest(f"{tau}-{temperature}-{n}", student_ids, privileged_ids, settings, n, frozenset())
            for n in range(SAMPLES)
        ],
    )
    counts = np.bincount([rollout.trace_ids[0] for rollout in drawn.values()], minlength=0)
    student, privileged = (reference.logits(ids).double() for ids in (student_ids, privileged_ids))
    verdict = privileged.softmax(-1)

    def p_value(tau):
        expected = mixed_distribution(
            (student / temperature).softmax(-1), (privileged / temperature).softmax(-1), tau, verdict
        ).numpy()
        observed = np.pad(counts, (0, len(expected) - len(counts)))
        common = expected * SAMPLES >= 5
        table = [np.append(values[common], values[~common].sum()) for values in (observed, expected * SAMPLES)]
        return stats.chisquare(table[0], table[1] * SAMPLES / table[1].sum()).pvalue

    assert p_value(tau) > 1e-4
    assert p_value(1.01) < 1e-9 or p_value(0.0) < 1e-9, "the roles agree here; choose another place"


def test_the_same_seeds_give_the_same_traces_and_both_rows_end_together(demo_engine, contexts):
    stop_ids = Prompts(DEMO_MODEL).stop_ids
    wanted = requests(contexts, stop_ids=stop_ids, tau=0.8, temperature=1.0, max_tokens=300)
    first, second = run(demo_engine, wanted), run(demo_engine, wanted[::-1])
    assert first == second
    assert {rollout.reason for rollout in first.values()} == {"stop"}
    assert all(rollout.trace_ids[-1] in stop_ids for rollout in first.values())


@pytest.mark.parametrize("tau", [0.5, 0.8])
def test_lazy_gives_the_traces_of_lockstep(demo_engine, contexts, tau):
    stop_ids = Prompts(DEMO_MODEL).stop_ids
    wanted = requests(contexts * 4, stop_ids=stop_ids, tau=tau, temperature=1.0, max_tokens=300)
    lockstep, lazy = run(demo_engine, wanted), run(demo_engine, wanted, "lazy")
    assert {name: rollout.trace_ids for name, rollout in lazy.items()} == {
        name: rollout.trace_ids for name, rollout in lockstep.items()
    }
    asked = sum(logprob is not None for rollout in lazy.values() for logprob in rollout.student_logprob)
    assert asked > 0, "nobody was asked, so nothing was compared"


def test_more_pairs_than_rows_all_finish_in_step(demo_engine, contexts):
    """The demo engine holds 64 rows; 120 pairs of many lengths join and leave while others run."""
    stop_ids = Prompts(DEMO_MODEL).stop_ids
    wanted = [
        RolloutRequest(
            f"crowd-{n}",
            contexts[n % PAIRS].student_ids,
            contexts[n % PAIRS].privileged_ids,
            Synthesis(temperature=1.0, max_tokens=10 + 2 * n),
            n,
            stop_ids,
        )
        for n in range(120)
    ]
    rollouts = run(demo_engine, wanted)
    assert len(rollouts) == 120
    assert all(len(r.trace_ids) == len(r.source) == len(r.student_logprob) for r in rollouts.values())


def test_plain_rows_give_log_probabilities_of_their_tokens(demo_engine, reference, contexts):
    ids = contexts[0].privileged_ids
    demo_engine.add(Row("plain/alone", ids, 3, 0.0, 1, frozenset(), with_logprobs=True))
    finished = []
    while not finished:
        finished = demo_engine.step()
    expected = reference.logits(ids).log_softmax(-1)
    assert finished[0].token_ids[0] == int(expected.argmax())
    assert finished[0].logprobs[0] == pytest.approx(float(expected.max()), abs=1e-3)


def test_more_prompts_than_one_step_can_prefill_are_sampled_with_seeds(demo_engine, contexts):
    """vLLM's CPU build cannot wind back the generator of a row whose prefill was split, so none may be split."""
    ids = contexts[0].privileged_ids
    number = demo_engine.limits.step_tokens // len(ids) + 20
    rows = [Row(f"many-{n}/alone", ids, 2, 1.0, n, frozenset()) for n in range(number)]
    assert len(list(drive(demo_engine, rows))) == number
