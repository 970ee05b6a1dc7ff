"""The strategies on real vLLM against the literal transformers loop and against each other, on the demo model."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import stats

from dail.synth.data.reader import load_items
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import SequenceKey, TokenSequence
from dail.synth.method.acceptance import mixed_distribution
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.reference import Reference
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS

pytestmark = pytest.mark.vllm

PAIRS, TOKENS = 16, 100
SAMPLES = 2000
SUPPRESSED = 22  # the digit 7, which nearly every demo trace has


def drive(engine, sequences):
    """Steps the engine until every sequence has ended; they enter as admission lets them."""
    admission, waiting, inside = Admission(engine.limits), deque(sequences), 0
    while waiting or inside:
        admission.begin_step()
        while waiting and admission.take(waiting[0].key, [len(waiting[0].prompt_ids)], waiting[0].max_tokens):
            engine.add(waiting.popleft())
            inside += 1
        for sampled in engine.step():
            inside -= 1
            admission.release(sampled.key)
            yield sampled


@pytest.fixture(scope="module")
def reference():
    return Remembering(DEMO_MODEL)


class Remembering(Reference):
    """Computes each distribution once: a call takes milliseconds, and thousands of traces begin alike."""

    def __init__(self, model):
        super().__init__(model)
        self.known = {}

    def logits(self, context):
        if (key := tuple(context)) not in self.known:
            self.known[key] = super().logits(context)
        return self.known[key]


@pytest.fixture(scope="module")
def contexts():
    prompts = Prompts(DEMO_MODEL)
    return [prompts.contexts(item, Synthesis(thinking=False)) for item in load_items(EXPERT_SOLUTIONS)[:PAIRS]]


@pytest.fixture
def draw(demo_engine, request):
    """Runs requests through a strategy."""

    def run(requests, strategy="lockstep", **settings):
        if strategy == "draft_verify":
            settings["student_engine"] = request.getfixturevalue("student_engine")
        pair = Pair(demo_engine, strategy, **settings)
        for one in requests:
            pair.add(one)
        done = {}
        while pair.pending():
            done |= {rollout.unit_id: rollout for rollout in pair.step()}
        assert pair.num_desynchronised == 0
        return done

    return run


def requests(contexts, stop_ids=frozenset(), first_seed=1, **synthesis):
    settings = Synthesis(**synthesis)
    names = (f"{first_seed + n}" for n in range(len(contexts)))
    without = frozenset(settings.suppress)
    return [
        RolloutRequest(
            name, context.student_ids, context.privileged_ids, settings, int(name), stop_ids, suppressed_ids=without
        )
        for name, context in zip(names, contexts, strict=True)
    ]


def ids(rollouts):
    return {name: rollout.tokens.ids for name, rollout in rollouts.items()}


STRATEGIES = [(0.8, "lockstep"), (0.3, "lockstep"), (0.8, "lazy"), (0.8, "draft_verify"), (0.3, "draft_verify")]


@pytest.mark.parametrize(("tau", "strategy"), STRATEGIES)
def test_greedy_rollouts_are_the_tokens_of_the_literal_loop(draw, reference, contexts, tau, strategy):
    """No stop token, so that all pairs run for all tokens, over the trace's end and into the rare."""
    wanted = requests(contexts, tau=tau, temperature=0.0, max_tokens=TOKENS)
    rollouts = draw(wanted, strategy)
    sources = []
    for request in wanted:
        expected, got = reference.rollout(request).tokens, rollouts[request.unit_id].tokens
        assert got.ids == expected.ids
        assert got.student_prob == expected.student_prob
        for one, other in ((got.rejected, expected.rejected), (got.student_logprob, expected.student_logprob)):
            assert all(a is None or a == pytest.approx(b, abs=1e-3) for a, b in zip(one, other, strict=True))
        assert np.allclose(got.privileged_logprob, expected.privileged_logprob, atol=1e-3)
        sources += got.student_prob
    assert len(sources) == PAIRS * TOKENS
    assert 0 < sum(sources) < len(sources), "both branches must be taken"


@pytest.mark.parametrize(("tau", "temperature"), [(0.8, 1.0), (0.3, 1.0), (0.3, 0.6)])
def test_sampled_tokens_follow_the_mixed_distribution(draw, reference, contexts, tau, temperature):
    """Chi-square of one token drawn many times where the roles disagree: the first choice after the start state.

    That a wrong tau fails the same test shows that it has power.
    """
    context = contexts[0]
    start = reference.rollout(requests([context], tau=0.8, temperature=0.0, max_tokens=4)[0]).tokens.ids
    student_ids, privileged_ids = [*context.student_ids, *start[:3]], [*context.privileged_ids, *start[:3]]
    settings = Synthesis(tau=tau, temperature=temperature, max_tokens=1)
    drawn = draw(
        [
            RolloutRequest(f"{tau}-{temperature}-{n}", student_ids, privileged_ids, settings, n, frozenset())
            for n in range(SAMPLES)
        ],
    )
    counts = np.bincount([rollout.tokens.ids[0] for rollout in drawn.values()], minlength=0)
    student, privileged = (reference.logits(ids).double() for ids in (student_ids, privileged_ids))
    verdict = privileged.softmax(-1)

    def p_value(tau):
        expected = mixed_distribution(
            (student / temperature).softmax(-1), (privileged / temperature).softmax(-1), verdict >= tau
        ).numpy()
        observed = np.pad(counts, (0, len(expected) - len(counts)))
        common = expected * SAMPLES >= 5
        table = [np.append(values[common], values[~common].sum()) for values in (observed, expected * SAMPLES)]
        return stats.chisquare(table[0], table[1] * SAMPLES / table[1].sum()).pvalue

    assert p_value(tau) > 1e-4
    assert p_value(1.01) < 1e-9 or p_value(0.0) < 1e-9, "the roles agree here; choose another place"


def test_the_same_seeds_give_the_same_traces_and_both_rows_end_together(draw, contexts):
    stop_ids = Prompts(DEMO_MODEL).stop_ids
    wanted = requests(contexts, stop_ids=stop_ids, tau=0.8, temperature=1.0, max_tokens=300)
    first, second = draw(wanted), draw(wanted[::-1])
    assert first == second
    assert {rollout.reason for rollout in first.values()} == {"stop"}
    assert all(rollout.tokens.ids[-1] in stop_ids for rollout in first.values())


@pytest.mark.parametrize(
    ("strategy", "rule"),
    [
        ("lazy", {"tau": 0.5}),
        ("lazy", {"tau": 0.8}),
        ("lazy", {"acceptance": "topk", "acceptance_k": 2, "top_p": 0.9}),
        ("draft_verify", {"tau": 0.8}),
        ("draft_verify", {"tau": 0.3, "top_k": 5}),
        ("draft_verify", {"acceptance": "relative", "tau": 0.5}),
        ("draft_verify", {"acceptance": "topk", "acceptance_k": 3}),
        ("lazy", {"tau": 0.5, "proposals": 5, "suppress": (SUPPRESSED,)}),
        ("lazy", {"tau": 0.5, "proposer": "privileged"}),
        ("lazy", {"tau": 0.5, "greedy_proposals": True}),
        ("draft_verify", {"tau": 0.8, "proposals": 2, "greedy_proposals": True}),
        ("draft_verify", {"tau": 0.3, "proposals": 5, "suppress": (SUPPRESSED,)}),
        ("draft_verify", {"acceptance": "relative", "tau": 0.5, "suppress": (SUPPRESSED,)}),
    ],
    ids=str,
)
def test_every_strategy_gives_the_traces_of_lockstep(draw, contexts, strategy, rule):
    stop_ids = Prompts(DEMO_MODEL).stop_ids
    wanted = requests(contexts * 3, stop_ids=stop_ids, temperature=1.0, max_tokens=300, **rule)
    lockstep, other = draw(wanted), draw(wanted, strategy)
    assert ids(other) == ids(lockstep)
    refused = sum(token is not None for rollout in other.values() for token in rollout.tokens.rejected)
    assert refused > 0, "no proposal was refused, so little was compared"
    if "suppress" in rule:
        assert not any(SUPPRESSED in rollout.tokens.ids for rollout in other.values())
        free = [replace(one, suppressed_ids=frozenset()) for one in wanted]
        assert any(SUPPRESSED in rollout.tokens.ids for rollout in draw(free).values()), "it is never drawn anyway"


def test_the_student_reads_a_lazy_trace_and_says_who_wrote_what(draw, contexts):
    stop_ids = Prompts(DEMO_MODEL).stop_ids
    wanted = requests(contexts * 4, stop_ids=stop_ids, tau=0.8, temperature=0.6, max_tokens=300)
    lockstep, lazy = draw(wanted), draw(wanted, "lazy")
    wrote = expected = variance = 0.0
    for name, rollout in lazy.items():
        full, tokens = lockstep[name].tokens, rollout.tokens
        assert tokens.student_logprob == pytest.approx(full.student_logprob, abs=2e-3)
        assert tokens.privileged_logprob == pytest.approx(full.privileged_logprob, abs=2e-3)
        wrote, expected = wrote + full.student_tokens, expected + tokens.student_tokens
        variance += sum(source * (1 - source) for source in tokens.student_prob)
    assert abs(wrote - expected) < 4 * variance**0.5 + 1


def categories(rollouts) -> dict[str, int]:
    """How many traces of each kind: the first sixteen tokens, by what was asked."""
    counts: dict[str, int] = {}
    for name, rollout in rollouts.items():
        kind = f"{int(name) % len(KINDS)} {rollout.tokens.ids}"
        counts[kind] = counts.get(kind, 0) + 1
    return counts


KINDS = range(4)  # problems


def p_value_of_one_source(one: dict[str, int], other: dict[str, int]) -> float:
    """Two-sample chi-square; kinds seen fewer than ten times are counted as one."""
    kinds = sorted(one.keys() | other.keys())
    table = np.array([[counts.get(kind, 0) for kind in kinds] for counts in (one, other)])
    common = table.sum(0) >= 10
    table = np.column_stack([table[:, common], table[:, ~common].sum(1)])
    return float(stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue)


def many(contexts, first_seed, tau, proposals=1):
    chosen = [contexts[(first_seed + n) % len(KINDS)] for n in range(SAMPLES)]
    return requests(chosen, first_seed=first_seed, tau=tau, proposals=proposals, temperature=1.0, max_tokens=16)


@pytest.fixture(scope="module")
def literal(reference, contexts):
    """Traces of the literal loop: kinds and counts, by tau."""

    @cache
    def sample(tau, proposals=1):
        return categories({one.unit_id: reference.rollout(one) for one in many(contexts, 10_000, tau, proposals)})

    return sample


@pytest.mark.parametrize(
    ("tau", "strategy", "proposals"),
    [
        (0.8, "lockstep", 1),
        pytest.param(0.3, "lockstep", 1, marks=pytest.mark.soak),
        (0.8, "lazy", 1),
        pytest.param(0.8, "draft_verify", 1, marks=pytest.mark.soak),  # minutes each, in readings of prompts
        pytest.param(0.3, "draft_verify", 1, marks=pytest.mark.soak),
        *(pytest.param(0.8, strategy, 5, marks=pytest.mark.soak) for strategy in ("lockstep", "lazy", "draft_verify")),
    ],
)
def test_two_thousand_traces_have_the_distribution_of_the_literal_loop(
    draw, literal, contexts, tau, strategy, proposals
):
    """Each sample with seeds of its own, so that nothing but the distribution can make them alike."""
    drawn = categories(draw(many(contexts, 20_000, tau, proposals), strategy, with_scores=False))
    assert len(literal(tau, proposals)) > 15, "there must be many kinds of traces to compare"
    assert p_value_of_one_source(literal(tau, proposals), drawn) > 1e-4
    assert p_value_of_one_source(literal(0.001), drawn) < 1e-6, "a wrong tau must be seen, or the test has no power"


def test_tau_zero_is_the_student_and_tau_above_one_direct_sampling(draw, contexts):
    for tau, method in ((0.0, "student"), (1.01, "direct")):
        alone = requests(contexts, method=method, temperature=1.0, max_tokens=40)
        settings = Synthesis(temperature=1.0, max_tokens=40).model_copy(update={"tau": tau})
        mixed = [replace(one, synthesis=settings) for one in alone]
        assert ids(draw(mixed)) == ids(draw(alone))


def test_a_thinking_rollout_that_is_cut_gets_nothing_appended(draw):
    """The paper's setting for reasoning models (App. B.2): 256 tokens, no end of sequence, no </think>."""
    prompts = Prompts(DEMO_MODEL)
    context = prompts.contexts(load_items(EXPERT_SOLUTIONS)[0], Synthesis(thinking=True))
    wanted = requests([context] * 8, stop_ids=frozenset(), tau=0.8, temperature=0.6, max_tokens=256)
    for strategy in ("lockstep", "lazy", "draft_verify"):
        for rollout in draw(wanted[:3], strategy).values():
            assert len(rollout.tokens) == 256 and rollout.reason == "length"
    stopping = [replace(one, stop_ids=prompts.stop_ids) for one in wanted]
    short = [replace(one, synthesis=one.synthesis.model_copy(update={"max_tokens": 2})) for one in stopping]
    end = set(prompts.tokenizer.encode("</think>", add_special_tokens=False)) | prompts.stop_ids
    cut = [rollout for rollout in draw(short).values() if rollout.reason == "length"]
    assert cut, "all ended by themselves within two tokens"
    assert all(len(rollout.tokens) == 2 and not set(rollout.tokens.ids) & end for rollout in cut)


def test_more_pairs_than_rows_all_finish_in_step(draw, contexts):
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
    rollouts = draw(wanted)
    assert len(rollouts) == 120
    assert all(len(r.tokens) <= 10 + 2 * int(name.removeprefix("crowd-")) for name, r in rollouts.items())


def test_a_trace_resumed_on_vllm_is_the_unbroken_one(draw, contexts):
    whole = draw(requests(contexts, tau=0.8, temperature=1.0, max_tokens=80), "lazy")
    for strategy in ("lockstep", "lazy", "draft_verify"):
        cut = [
            replace(one, prefix=whole[one.unit_id].tokens[:33])
            for one in requests(contexts, tau=0.8, temperature=1.0, max_tokens=80)
        ]
        assert ids(draw(cut, strategy)) == ids(whole)


def test_more_prompts_than_one_step_can_prefill_are_sampled_with_seeds(demo_engine, contexts):
    """vLLM's CPU build cannot wind back the generator of a row whose prefill was split, so none may be split."""
    ids = contexts[0].privileged_ids
    number = demo_engine.limits.step_tokens // len(ids) + 20
    rows = [TokenSequence(SequenceKey(f"many-{n}"), ids, 2, 1.0, n, frozenset()) for n in range(number)]
    assert len(list(drive(demo_engine, rows))) == number


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter that changes what the model says."""
    return random_adapter(tmp_path_factory.mktemp("adapter"), seed=1)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return random_adapter(tmp_path_factory.mktemp("other"), seed=2)


def random_adapter(folder, seed):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    base = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32)
    settings = LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM"
    )
    get_peft_model(base, settings).save_pretrained(folder)
    return folder


class LaterRound(Reference):
    """The literal loop where a role may have an adapter, and the other another one or none."""

    def __init__(self, adapters, student_prompts):
        super().__init__(DEMO_MODEL)
        self._student_prompts = student_prompts
        self._model_of = {role: self._adapted(adapters.get(role)) for role in ("student", "privileged")}

    def _adapted(self, adapter):
        from peft import PeftModel

        return PeftModel.from_pretrained(Reference(DEMO_MODEL)._model, adapter).eval() if adapter else self._model

    def logits(self, context):
        by_student = any(list(context[: len(prompt)]) == prompt for prompt in self._student_prompts)
        self._model = self._model_of["student" if by_student else "privileged"]
        return super().logits(context)


@pytest.mark.parametrize(
    ("strategy", "own"),
    [
        ("lockstep", ["student"]),
        ("lazy", ["student"]),
        ("draft_verify", ["student"]),
        ("lockstep", ["student", "privileged"]),
        ("lazy", ["student", "privileged"]),
        ("lazy", ["privileged"]),
    ],
)
def test_each_role_may_have_an_adapter_of_its_own(demo_engine, adapter_engine, contexts, adapter, other, strategy, own):
    """A later round of DAIL. On a CPU the rows without adapter stand beside rows with one in every step."""
    adapters = {role: str(folder) for role, folder in (("student", adapter), ("privileged", other)) if role in own}
    contexts, tau = contexts[:6], 0.6 if strategy == "lazy" else 0.01
    wanted = requests(contexts, tau=tau, temperature=0.0, max_tokens=24)
    if strategy == "draft_verify":
        pair = Pair(demo_engine, strategy, adapter_engine, adapters)
    else:
        pair = Pair(adapter_engine, strategy, adapters=adapters, with_scores=False)
    for one in wanted:
        pair.add(one)
    done = {}
    while pair.pending():
        done |= {rollout.unit_id: rollout for rollout in pair.step()}
    literal = LaterRound(adapters, [context.student_ids for context in contexts])
    expected = {one.unit_id: literal.rollout(one) for one in wanted}
    assert ids(done) == ids(expected)
    refused = {name: rollout.tokens.rejected for name, rollout in expected.items()}
    if strategy != "lazy":
        assert {name: rollout.tokens.rejected for name, rollout in done.items()} == refused
    assert any(token is not None for tokens in refused.values() for token in tokens)
    assert any(
        one.tokens.student_prob != requests_alike.tokens.student_prob
        for one, requests_alike in zip(
            expected.values(), (Reference(DEMO_MODEL).rollout(one) for one in wanted), strict=True
        )
    ), "the adapter changes nothing"


def scores_by_transformers(reference, token_ids, start):
    """Of the tokens from `start` on: log-probability, rank, the twenty largest."""
    import torch

    with torch.inference_mode():
        log_TV = reference._model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    found = []
    for place in range(start, len(token_ids)):
        log_V = log_TV[place - 1]
        own = log_V[token_ids[place]]
        found.append((float(own), int((log_V >= own).sum()), log_V.topk(20).values.tolist()))
    return found


@pytest.mark.parametrize("cached", [False, True])
def test_a_prompt_is_read_with_the_scores_that_transformers_gives(demo_engine, reference, contexts, cached):
    """Prompts of many lengths, so that some end a block of the cache, where vLLM would return what the memory held."""
    rows = []
    for n in range(40):
        whole = [*contexts[n % PAIRS].privileged_ids, *contexts[n % PAIRS].student_ids]
        whole = [*whole, *whole][: 250 + 3 * n]
        start = {0: 128, 3: 256, 2: len(whole) - 1}.get(n, 120 + n)
        key = SequenceKey(f"{cached}-{n}", part="scoring")
        rows.append(TokenSequence(key, whole, 1, 0.0, 0, frozenset(), score_from=start))
    if cached:
        list(drive(demo_engine, [replace(row, key=row.key._replace(stage=1), score_from=None) for row in rows]))
    again = demo_engine.num_read_again
    finished = {sampled.key: sampled for sampled in drive(demo_engine, rows)}
    assert demo_engine.num_read_again > again or not cached
    for row in rows:
        expected = scores_by_transformers(reference, row.prompt_ids, row.score_from)
        got = finished[row.key].scores
        assert [score.logprob for score in got] == pytest.approx([one[0] for one in expected], abs=2e-3)
        assert np.allclose([score.top_logprobs for score in got], [one[2] for one in expected], atol=2e-3)
        ranks = sum(score.rank == one[1] for score, one in zip(got, expected, strict=True))
        assert ranks > 0.95 * len(got), "all but near ties"
