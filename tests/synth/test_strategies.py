"""Strategies on the fake engine, whose every probability is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from synth.config import EngineConfig
from synth.engine.base import Limits
from synth.engine.fake import FakeEngine, made_up
from synth.pair import Pair
from synth.rollout import Rule, mix, uniforms
from synth.schema.base import ItemError
from synth.schema.items import Synthesis
from synth.strategies.admission import Admission
from synth.strategies.base import Rollout, RolloutRequest

VOCABULARY = 20
STOP = frozenset([0])
LOGITS = made_up(VOCABULARY)


def request(name: str, seed: int = 1, **synthesis) -> RolloutRequest:
    settings = Synthesis(**{"max_tokens": 30, "temperature": 1.0, **synthesis})
    return RolloutRequest(name, [3, seed % 7, 5], [3, seed % 7, 5, 9, 9], settings, seed, STOP)


def run(requests: list[RolloutRequest], strategy="lockstep", logits=LOGITS, **config) -> dict[str, Rollout]:
    engine = FakeEngine(EngineConfig(model=Path("."), model_tokens=64, **config), logits)
    pair = Pair(engine, strategy)
    for one in requests:
        pair.add(one)
    done = {}
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    return done


def literal(one: RolloutRequest) -> tuple[list[int], list[bool]]:
    """The paper's loop in a dozen lines."""
    trace: list[int] = []
    accepted: list[bool] = []
    rule = Rule(torch.tensor([one.synthesis.tau]), torch.tensor([one.synthesis.temperature]), torch.tensor([False]))
    while len(trace) < one.synthesis.max_tokens and (not trace or trace[-1] not in one.stop_ids):
        uniform = torch.from_numpy(uniforms(np.array([one.seed]), np.array([len(trace)])))
        student, privileged = LOGITS([*one.student_ids, *trace]), LOGITS([*one.privileged_ids, *trace])
        mixed = mix(student[None], privileged[None], rule, uniform)
        trace.append(int(mixed.token_P))
        accepted.append(bool(mixed.accepted_P))
    return trace, accepted


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.8])
def test_lockstep_draws_what_the_literal_loop_draws(tau):
    requests = [request(f"u{n}", seed=n, tau=tau) for n in range(20)]
    rollouts = run(requests)
    for one in requests:
        trace, accepted = literal(one)
        assert rollouts[one.unit_id].trace_ids == trace
        assert rollouts[one.unit_id].source == [float(by_student) for by_student in accepted]
    written = [source for rollout in rollouts.values() for source in rollout.source]
    assert 0 < sum(written) < len(written), "both roles must have written something"


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("space", ["raw", "tempered"])
def test_lazy_draws_the_same_traces_as_lockstep(tau, space):
    requests = [request(f"u{n}", seed=n, tau=tau, probability_space=space, temperature=0.9) for n in range(60)]
    lockstep, lazy = run(requests), run(requests, "lazy")
    assert {name: rollout.trace_ids for name, rollout in lazy.items()} == {
        name: rollout.trace_ids for name, rollout in lockstep.items()
    }
    assert {name: rollout.reason for name, rollout in lazy.items()} == {
        name: rollout.reason for name, rollout in lockstep.items()
    }


def test_what_lazy_knows_of_a_token_is_what_lockstep_knows():
    requests = [request(f"u{n}", seed=n, tau=0.6) for n in range(60)]
    lockstep, lazy = run(requests), run(requests, "lazy")
    known = asked = 0
    for name, rollout in lazy.items():
        full = lockstep[name]
        assert rollout.privileged_logprob == pytest.approx(full.privileged_logprob, abs=1e-5)
        for column in ("source", "student_logprob"):
            for value, expected in zip(getattr(rollout, column), getattr(full, column), strict=True):
                assert value is None or value == pytest.approx(expected, abs=1e-5)
        known += sum(source is not None for source in rollout.source)
        asked += sum(logprob is not None for logprob in rollout.student_logprob)
    assert 0 < asked < known < sum(len(rollout.trace_ids) for rollout in lazy.values())


def test_lazy_follows_the_literal_rule_where_two_tokens_tie_at_tau():
    """Both have exactly one half, so either stands if proposed, also where the other one was drawn."""

    def logits(context):
        favourite = 1.0 if context[0] == 7 else 0.0  # the student prefers one of the two
        return torch.tensor([-torch.inf, favourite, 0.0, -torch.inf])

    requests = [
        RolloutRequest(f"u{n}", [7], [3], Synthesis(tau=0.5, temperature=1.0, max_tokens=20), n, STOP)
        for n in range(40)
    ]
    lockstep, lazy = run(requests, logits=logits), run(requests, "lazy", logits=logits)
    assert all(lazy[name].trace_ids == lockstep[name].trace_ids for name in lockstep)
    assert all(set(rollout.source) == {1.0} for rollout in lockstep.values()), "the tie must be exact"


def test_lazy_refuses_a_tau_it_is_not_exact_for():
    pair = Pair(FakeEngine(EngineConfig(model=Path("."), model_tokens=64), LOGITS), "lazy")
    with pytest.raises(ItemError, match=r"tau is 0\.3; the lazy strategy wants 0\.5") as error:
        pair.add(request("u", tau=0.3))
    assert error.value.code == "tau_too_low"


def test_lazy_traces_can_be_cancelled_while_asking_waiting_or_running():
    requests = [request(f"u{n}", seed=n, tau=0.6, max_tokens=30) for n in range(12)]
    pair = Pair(FakeEngine(EngineConfig(model=Path("."), model_tokens=64, rows=4), LOGITS), "lazy")
    for one in requests:
        pair.add(one)
    done = {}
    for step in range(2000):
        if step < 11:
            pair.cancel(f"u{step}")
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    assert pair.pending() == 0 and done["u11"] == run(requests, "lazy")["u11"]


def test_a_rollout_does_not_depend_on_its_neighbours():
    alone = run([request("u", seed=11)])["u"]
    among = run([request(f"n{n}", seed=n) for n in range(30, 50)] + [request("u", seed=11)], rows=8)["u"]
    assert alone == among


def test_a_stop_token_ends_a_trace_and_stays_in_it():
    rollouts = [r for r in run([request(f"u{n}", seed=n) for n in range(40)]).values() if r.reason == "stop"]
    assert rollouts
    assert all(r.trace_ids[-1] in STOP and not set(r.trace_ids[:-1]) & STOP for r in rollouts)


def test_a_cut_trace_has_exactly_max_tokens_and_nothing_appended():
    rollouts = run([request(f"u{n}", seed=n, max_tokens=5) for n in range(40)]).values()
    cut = [r for r in rollouts if r.reason == "length"]
    assert cut
    assert all(len(r.trace_ids) == 5 and r.trace_ids[-1] not in STOP for r in cut)


def test_a_trace_is_cut_where_the_model_ends():
    rollout = run([RolloutRequest("u", [1] * 10, [2] * 60, Synthesis(max_tokens=100), 1, frozenset())])["u"]
    assert len(rollout.trace_ids) == 4 and rollout.reason == "length"


def test_every_token_has_a_source_and_both_log_probabilities():
    rollout = run([request("u")])["u"]
    lengths = {len(c) for c in (rollout.trace_ids, rollout.source, rollout.student_logprob, rollout.privileged_logprob)}
    assert len(lengths) == 1
    student = LOGITS([3, 1, 5]).log_softmax(-1)[rollout.trace_ids[0]]
    assert rollout.student_logprob[0] == pytest.approx(float(student), abs=1e-5)


def test_direct_sampling_is_the_privileged_student_alone_and_student_is_the_student_alone():
    direct, student = (run([request("u", method=method)])["u"] for method in ("direct", "student"))
    assert set(direct.source) == {0.0} and set(direct.student_logprob) == {None}
    assert set(student.source) == {1.0} and set(student.privileged_logprob) == {None}
    first = LOGITS([3, 1, 5, 9, 9]).log_softmax(-1)[direct.trace_ids[0]]
    assert direct.privileged_logprob[0] == pytest.approx(float(first), abs=1e-5)


def test_methods_mix_in_one_engine():
    requests = [request(f"{method}{n}", seed=n, method=method) for n in range(5) for method in ("mixed", "direct")]
    together = run(requests, rows=3)
    assert together == {one.unit_id: run([one])[one.unit_id] for one in requests}


def test_a_prompt_longer_than_the_model_is_refused_with_both_numbers():
    pair = Pair(FakeEngine(EngineConfig(model=Path("."), model_tokens=64), LOGITS))
    with pytest.raises(ItemError, match=r"needs 64 tokens .* holds 64") as error:
        pair.add(RolloutRequest("u", [1] * 10, [2] * 64, Synthesis(), 1, STOP))
    assert error.value.code == "context_length_exceeded"
    assert pair.pending() == 0


def test_a_cancelled_unit_leaves_room_for_others():
    pair = Pair(FakeEngine(EngineConfig(model=Path("."), model_tokens=64, rows=2), LOGITS))
    pair.add(request("a", max_tokens=50))
    pair.add(request("b", max_tokens=3))
    pair.step()
    pair.cancel("a")
    done = [rollout.unit_id for _ in range(4) for rollout in pair.step()]
    assert done == ["b"] and pair.pending() == 0


def test_admission_keeps_rows_prefill_and_cache_within_limits():
    admission = Admission(Limits(model_tokens=100, rows=4, step_tokens=60, kv_tokens=128, kv_block=16))
    assert admission.take("a", [20, 20], 10)  # 2 blocks a row: 64 tokens of cache
    assert not admission.take("b", [10, 10], 5), "42 of 60 step tokens are gone"
    admission.begin_step()
    assert admission.take("b", [10, 10], 5)
    admission.begin_step()
    assert not admission.take("c", [1], 1), "no row is free"
    admission.release("a")
    assert admission.take("c", [1], 1)


def test_admission_refuses_what_can_never_enter():
    admission = Admission(Limits(model_tokens=100, rows=4, step_tokens=60, kv_tokens=64, kv_block=16))
    with pytest.raises(ItemError) as too_wide:
        admission.check([40, 40])
    assert too_wide.value.code == "step_tokens_exceeded"
    assert admission.check([10, 10]) == 22, "two rows of 32 fill the cache"
