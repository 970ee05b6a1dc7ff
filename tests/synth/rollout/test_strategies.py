"""Strategies on the fake engine, whose every probability is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dail.synth.config import EngineConfig
from dail.synth.core.errors import ItemError
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import Limits
from dail.synth.engine.fake import FakeEngine, made_up
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.reference import Reference
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens

VOCABULARY = 20
STOP = frozenset([0])
LOGITS = made_up(VOCABULARY)


def request(name: str, seed: int = 1, **synthesis) -> RolloutRequest:
    settings = Synthesis(**{"max_tokens": 30, "temperature": 1.0, **synthesis})
    return RolloutRequest(name, [3, seed % 7, 5], [3, seed % 7, 5, 9, 9], settings, seed, STOP)


def run(requests: list[RolloutRequest], strategy="lockstep", logits=LOGITS, pair=None, **config) -> dict[str, Rollout]:
    pair = pair or Pair(engine(logits, **config), strategy)
    for one in requests:
        pair.add(one)
    done = {}
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    return done


def engine(logits=LOGITS, **config) -> FakeEngine:
    return FakeEngine(EngineConfig(**{"model": Path("."), "model_tokens": 64, **config}), logits)


class Literal(Reference):
    """The oracle on the fake engine's distributions."""

    def __init__(self) -> None:
        pass

    def logits(self, context):
        return LOGITS(context)


def ids(rollouts: dict[str, Rollout]) -> dict[str, list[int]]:
    return {name: rollout.tokens.ids for name, rollout in rollouts.items()}


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.8])
def test_lockstep_draws_what_the_literal_loop_draws(tau):
    requests = [request(f"u{n}", seed=n, tau=tau) for n in range(20)]
    rollouts = run(requests)
    for one in requests:
        expected, got = Literal().rollout(one), rollouts[one.unit_id]
        for column in ("ids", "student_prob", "rejected"):
            assert getattr(got.tokens, column) == getattr(expected.tokens, column)
        assert got.reason == expected.reason
    written = [source for rollout in rollouts.values() for source in rollout.tokens.student_prob]
    assert 0 < sum(written) < len(written), "both roles must have written something"


RULES = [
    {"acceptance": "absolute", "tau": 0.05},
    {"acceptance": "absolute", "tau": 0.3},
    {"acceptance": "absolute", "tau": 0.6},
    {"acceptance": "relative", "tau": 0.4},
    {"acceptance": "relative", "tau": 0.8, "probability_space": "tempered"},
    {"acceptance": "topk", "acceptance_k": 3},
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
@pytest.mark.parametrize("cut", [{}, {"top_p": 0.8, "top_k": 9, "temperature": 0.7}], ids=["whole", "cut"])
def test_draft_verify_draws_the_same_traces_as_lockstep(rule, cut):
    requests = [request(f"u{n}", seed=n, **rule, **cut) for n in range(30)]
    lockstep = run(requests)
    drafted = run(requests, pair=Pair(engine(), "draft_verify", student_engine=engine()))
    assert ids(drafted) == ids(lockstep)
    for name, rollout in drafted.items():
        assert rollout.tokens.student_prob == lockstep[name].tokens.student_prob
        assert rollout.tokens.rejected == lockstep[name].tokens.rejected
        assert rollout.tokens.privileged_logprob == pytest.approx(lockstep[name].tokens.privileged_logprob, abs=1e-5)


def test_one_engine_may_serve_both_roles_of_draft_verify():
    requests = [request(f"u{n}", seed=n, tau=0.3) for n in range(10)]
    assert ids(run(requests, "draft_verify")) == ids(run(requests))


def test_drafts_grow_where_they_are_accepted_and_shrink_where_they_are_not():
    lengths = {}
    for tau in (0.001, 1.0):
        pair = Pair(engine(), "draft_verify")
        run([request(f"u{n}", seed=n, tau=tau) for n in range(60)], pair=pair)
        lengths[tau] = pair._strategies["draft_verify"].draft_length
    assert lengths[0.001] > 8 and lengths[1.0] <= 2


def test_draft_verify_refuses_what_a_reading_cannot_tell():
    with pytest.raises(ItemError, match="raw probabilities only") as error:
        Pair(engine(), "draft_verify").add(request("u", probability_space="tempered"))
    assert error.value.code == "not_exact"


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.8, 1.0])
@pytest.mark.parametrize("space", ["raw", "tempered"])
def test_lazy_draws_the_same_traces_as_lockstep(tau, space):
    requests = [request(f"u{n}", seed=n, tau=tau, probability_space=space, temperature=0.9) for n in range(60)]
    lockstep, lazy = run(requests), run(requests, "lazy")
    assert ids(lazy) == ids(lockstep)
    assert {name: rollout.reason for name, rollout in lazy.items()} == {
        name: rollout.reason for name, rollout in lockstep.items()
    }


@pytest.mark.parametrize("k", [1, 2])
def test_lazy_draws_the_same_traces_where_topk_lets_one_or_two_stand(k):
    requests = [request(f"u{n}", seed=n, acceptance="topk", acceptance_k=k) for n in range(40)]
    assert ids(run(requests, "lazy")) == ids(run(requests))


def lazily(requests, with_scores):
    return run(requests, pair=Pair(engine(), "lazy", with_scores=with_scores))


def test_what_lazy_knows_of_a_token_is_what_lockstep_knows():
    requests = [request(f"u{n}", seed=n, tau=0.6) for n in range(60)]
    lockstep, lazy = run(requests), lazily(requests, with_scores=False)
    known = asked = 0
    for name, rollout in lazy.items():
        full, tokens = lockstep[name].tokens, rollout.tokens
        assert tokens.privileged_logprob == pytest.approx(full.privileged_logprob, abs=1e-5)
        for column in ("student_prob", "student_logprob", "rejected"):
            for value, expected in zip(getattr(tokens, column), getattr(full, column), strict=True):
                assert value is None or value == pytest.approx(expected, abs=1e-5)
        known += sum(source is not None for source in tokens.student_prob)
        asked += sum(logprob is not None for logprob in tokens.student_logprob)
    assert 0 < asked < known < sum(len(rollout.tokens) for rollout in lazy.values())


@pytest.mark.parametrize("cut", [{}, {"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}], ids=str)
def test_a_reading_tells_who_wrote_a_token_as_a_probability_that_lockstep_bears_out(cut):
    requests = [request(f"u{n}", seed=n, tau=0.5, **cut) for n in range(400)]
    lockstep, lazy = run(requests), lazily(requests, with_scores=True)
    expected, variance, happened, doubtful = 0.0, 0.0, 0.0, 0
    for name, rollout in lazy.items():
        full, tokens = lockstep[name].tokens, rollout.tokens
        assert None not in tokens.student_prob
        assert tokens.student_logprob == pytest.approx(full.student_logprob, abs=1e-4)
        for source, wrote in zip(tokens.student_prob, full.student_prob, strict=True):
            if source in (0.0, 1.0):
                assert source == wrote
            else:
                expected, happened, doubtful = expected + source, happened + wrote, doubtful + 1
                variance += source * (1 - source)
    assert doubtful > 300
    assert abs(expected - happened) < 4 * variance**0.5, "lockstep's proposals are draws from these probabilities"


def test_lazy_follows_the_literal_rule_where_two_tokens_tie_at_tau():
    """Both have exactly one half, so either is accepted if proposed, also where the other one was drawn."""

    def logits(context):
        favourite = 1.0 if context[0] == 7 else 0.0  # the student prefers one of the two
        return torch.tensor([-torch.inf, favourite, 0.0, -torch.inf])

    requests = [
        RolloutRequest(f"u{n}", [7], [3], Synthesis(tau=0.5, temperature=1.0, max_tokens=20), n, STOP)
        for n in range(40)
    ]
    lockstep, lazy = run(requests, logits=logits), run(requests, "lazy", logits=logits)
    assert ids(lazy) == ids(lockstep)
    assert all(set(rollout.tokens.student_prob) == {1.0} for rollout in lockstep.values()), "the tie must be exact"


def test_lazy_refuses_a_tau_it_is_not_exact_for():
    pair = Pair(FakeEngine(EngineConfig(model=Path("."), model_tokens=64), LOGITS), "lazy")
    for rule in ({"tau": 0.3}, {"acceptance": "relative"}, {"acceptance": "topk", "acceptance_k": 3}):
        with pytest.raises(ItemError, match="at most two tokens can be accepted") as error:
            pair.add(request("u", **rule))
        assert error.value.code == "not_exact"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"tau": 0.5}, "lazy"),
        ({"tau": 0.49}, "lockstep"),
        ({"acceptance": "topk", "acceptance_k": 2}, "lazy"),
        ({"acceptance": "topk", "acceptance_k": 25}, "lockstep"),
        ({"acceptance": "relative", "tau": 0.9}, "lockstep"),
        ({"method": "direct"}, "direct"),
    ],
    ids=str,
)
def test_auto_takes_lazy_exactly_where_it_is_exact(rule, expected):
    assert run([request("u", **rule)], "auto")["u"].strategy == expected


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
    assert all(r.tokens.ids[-1] in STOP and not set(r.tokens.ids[:-1]) & STOP for r in rollouts)


def test_a_cut_trace_has_exactly_max_tokens_and_nothing_appended():
    rollouts = run([request(f"u{n}", seed=n, max_tokens=5) for n in range(40)]).values()
    cut = [r for r in rollouts if r.reason == "length"]
    assert cut
    assert all(len(r.tokens.ids) == 5 and r.tokens.ids[-1] not in STOP for r in cut)


def test_a_trace_is_cut_where_the_model_ends():
    rollout = run([RolloutRequest("u", [1] * 10, [2] * 60, Synthesis(max_tokens=100), 1, frozenset())])["u"]
    assert len(rollout.tokens.ids) == 4 and rollout.reason == "length"


def test_every_token_has_a_source_and_both_log_probabilities():
    rollout = run([request("u")])["u"]
    assert {len(column) for column in vars(rollout.tokens).values()} == {len(rollout.tokens)}
    student = LOGITS([3, 1, 5]).log_softmax(-1)[rollout.tokens.ids[0]]
    assert rollout.tokens.student_logprob[0] == pytest.approx(float(student), abs=1e-5)


def test_direct_sampling_is_the_privileged_student_alone_and_student_is_the_student_alone():
    direct, student = (run([request("u", method=method)])["u"] for method in ("direct", "student"))
    assert set(direct.tokens.student_prob) == {0.0} and set(direct.tokens.student_logprob) == {None}
    assert set(student.tokens.student_prob) == {1.0} and set(student.tokens.privileged_logprob) == {None}
    first = LOGITS([3, 1, 5, 9, 9]).log_softmax(-1)[direct.tokens.ids[0]]
    assert direct.tokens.privileged_logprob[0] == pytest.approx(float(first), abs=1e-5)


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
    limits = Limits(model_tokens=100, rows=4, step_tokens=60, kv_tokens=64, kv_block=16, caches_prompts=False)
    with pytest.raises(ItemError) as too_wide:
        Admission(limits).check([40, 40])
    assert too_wide.value.code == "step_tokens_exceeded"
    assert Admission(limits).check([10, 10]) == 22, "two rows of 32 fill the cache"
    with pytest.raises(ItemError, match="need 32 tokens in one step, less what the engine caches"):
        Admission(replace(limits, step_tokens=31, caches_prompts=True)).check([40, 40])
    with pytest.raises(ItemError) as too_large:
        Admission(replace(limits, caches_prompts=True)).check([40, 40])
    assert too_large.value.code == "kv_cache_exceeded"


def test_a_prefill_that_no_step_holds_goes_before_everything_new():
    admission = Admission(Limits(model_tokens=200, rows=4, step_tokens=50, kv_tokens=1024, kv_block=16))
    assert admission.take("long", [120], 5, split=True)
    admission.begin_step()
    assert not admission.take("pair", [10, 10], 5), "71 tokens of the long prompt are left for this step"
    admission.begin_step()
    assert admission.take("pair", [10, 10], 5), "22 are left, and 27 have room beside them and the row itself"


STRATEGIES = [("lockstep", 0.3), ("lazy", 0.6), ("draft_verify", 0.3)]


@pytest.mark.parametrize(("strategy", "tau"), STRATEGIES)
@pytest.mark.parametrize("length", [1, 7, 29])
def test_a_resumed_trace_is_the_unbroken_one(strategy, tau, length):
    requests = [request(f"u{n}", seed=n, tau=tau) for n in range(20)]
    unbroken = run(requests, strategy)
    cut = [replace(one, prefix=unbroken[one.unit_id].tokens[:length]) for one in requests]
    assert {name: rollout.tokens for name, rollout in run(cut, strategy).items()} == {
        name: rollout.tokens for name, rollout in unbroken.items()
    }


@pytest.mark.parametrize("method", ["direct", "student"])
def test_a_resumed_trace_of_one_role_is_the_unbroken_one(method):
    whole = run([request("u", method=method)])["u"]
    assert run([request("u", method=method)], pair=None)["u"] == whole
    assert run([replace(request("u", method=method), prefix=whole.tokens[:3])])["u"] == whole


def test_a_prefix_that_is_whole_already_is_the_trace():
    whole = run([request("u")])["u"]
    assert run([replace(request("u"), prefix=whole.tokens)])["u"] == whole


@pytest.mark.parametrize(("strategy", "tau"), STRATEGIES)
def test_what_is_told_on_the_way_is_a_prefix_of_the_trace(strategy, tau):
    requests = [request(f"u{n}", seed=n, tau=tau) for n in range(12)]
    whole = run(requests, strategy)
    pair = Pair(engine(rows=8), strategy)
    for one in requests:
        pair.add(one)
    told = 0
    while pair.pending():
        pair.step()
        for name, tokens in pair.progress().items():
            assert tokens.ids == whole[name].tokens.ids[: len(tokens)]
            told = max(told, len(tokens))
    assert told > 5


def test_a_direct_trace_is_what_the_rule_gives_when_nothing_is_accepted():
    never = request("u").synthesis.model_copy(update={"tau": 1.01})
    assert (
        run([replace(request("u"), synthesis=never)])["u"].tokens.ids
        == run([request("u", method="direct")])["u"].tokens.ids
    )


def test_a_students_trace_is_what_the_rule_gives_when_everything_is_accepted():
    always = request("u").synthesis.model_copy(update={"tau": 0.0})
    assert (
        run([replace(request("u"), synthesis=always)])["u"].tokens.ids
        == run([request("u", method="student")])["u"].tokens.ids
    )


LETTERS = "·abcdefghijklmnopqrs"


def spell(token_ids) -> str:
    return "".join(LETTERS[token] for token in token_ids)


@pytest.mark.parametrize(("strategy", "tau"), STRATEGIES)
def test_a_stop_string_ends_a_trace_with_the_token_that_completes_it(strategy, tau):
    free = run([request(f"u{n}", seed=n, tau=tau) for n in range(30)], strategy)
    text = max((spell(rollout.tokens.ids) for rollout in free.values()), key=len)
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    requests = [request(f"u{n}", seed=n, tau=tau, stop=(stop, "never said")) for n in range(30)]
    stopped = run(requests, pair=Pair(engine(), strategy, decode=spell))
    num_cut = 0
    for name, rollout in stopped.items():
        whole = spell(free[name].tokens.ids)
        end = whole.find(stop) + len(stop) if stop in whole else len(whole)
        assert spell(rollout.tokens.ids) == whole[:end]
        num_cut += stop in whole
        assert stop not in whole or rollout.reason == "stop"
    assert num_cut >= 1


def test_a_stop_string_in_a_prefix_ends_the_trace_at_once():
    whole = run([request("u")])["u"].tokens
    prefix = whole[:8]
    stop = spell(prefix.ids[3:5])
    pair = Pair(engine(), "lockstep", decode=spell)
    cut = run([replace(request("u", stop=(stop,)), prefix=prefix)], pair=pair)["u"]
    assert spell(cut.tokens.ids).index(stop) + 2 == len(cut.tokens) and cut.reason == "stop"


class Splitting(FakeEngine):
    """Prefills `step_tokens` a step, in the order of arrival, and keeps what it prefilled: as vLLM does it."""

    def __init__(self, step_tokens: int) -> None:
        super().__init__(EngineConfig(model=Path("."), model_tokens=64, rows=64), LOGITS)
        self.limits = replace(self.limits, step_tokens=step_tokens, kv_block=4)
        self._missing, self._cached = {}, set()

    def late(self, running):
        budget = self.limits.step_tokens
        for one in running:
            name, prompt = one.sequence.key, tuple(one.sequence.prompt_ids)
            blocks = [prompt[:end] for end in range(0, len(prompt), 4)]
            if not one.token_ids:
                known = max((len(block) for block in blocks if block in self._cached), default=0)
                missing = self._missing.setdefault(name, len(prompt) - known)
                self._missing[name] -= min(budget, missing)
                self._cached |= set(blocks) if self._missing[name] == 0 else set()
                budget -= min(budget, missing)
            else:
                budget = max(0, budget - 1)
        return {one.sequence.key for one in running if not one.token_ids and self._missing[one.sequence.key]}


def test_prompts_that_no_step_can_prefill_are_prefilled_first_and_the_pair_stays_in_step():
    requests = [
        RolloutRequest(f"u{n}", [3] * 20, [3, 9] * 12, Synthesis(temperature=1.0, max_tokens=10), n, STOP)
        for n in range(6)
    ]
    pair = Pair(Splitting(96), "lockstep")
    assert ids(run(requests, pair=pair)) == ids(run(requests))
    assert pair.num_desynchronised == 0


class Unaware(Admission):
    """Lets everybody in at once."""

    def take(self, key, prompts, max_tokens, cached=False, split=False):
        self._held[key] = (0, 0)
        return True

    def is_long(self, prompts):
        return False


@pytest.mark.parametrize("step_tokens", [10, 17, 33])
def test_a_pair_that_is_desynchronised_is_put_together_again_and_counted(step_tokens):
    requests = [
        RolloutRequest(f"u{n}", [3] * 20, [3, 9] * 12, Synthesis(temperature=1.0, max_tokens=10), n, STOP)
        for n in range(6)
    ]
    pair = Pair(Splitting(step_tokens), "lockstep")
    for strategy in pair._strategies.values():
        strategy._entry = strategy._entry._replace(admission=Unaware(strategy._entry.engine.limits))
    assert ids(run(requests, pair=pair)) == ids(run(requests))
    assert pair.num_desynchronised > 0


@pytest.mark.parametrize(("strategy", "tau"), [("lazy", 0.6), ("draft_verify", 0.3)])
def test_rows_that_are_prefilled_in_parts_draw_the_same_traces(strategy, tau):
    requests = [
        RolloutRequest(f"u{n}", [3] * 20, [3, 9] * 12, Synthesis(tau=tau, temperature=1.0, max_tokens=20), n, STOP)
        for n in range(6)
    ]
    assert ids(run(requests, pair=Pair(Splitting(12), strategy))) == ids(run(requests))


def test_tokens_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="different lengths"):
        Tokens([1, 2], [1.0], [None], [None], [None])
