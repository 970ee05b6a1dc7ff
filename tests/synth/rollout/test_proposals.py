"""Several proposals a position, and tokens that nobody may draw: the same in every strategy, on known probabilities."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from dail.synth.core.errors import ItemError
from dail.synth.engine.base import Score
from dail.synth.method.acceptance import trace_uniforms
from dail.synth.rollout.draft_verify import is_accepted
from dail.synth.rollout.lazy import draw_probabilities
from dail.synth.rollout.pair import Pair
from dail.synth.schema.synthesis import Acceptance
from tests.synth.rollout.test_strategies import LOGITS, STOP, VOCABULARY, Literal, engine, ids, lazily, request, run

MINDS = [  # what a run may set beside the rule
    {"proposals": 5},
    {"proposals": 3, "suppress": (4, 11)},
    {"suppress": (4, 11), "temperature": 0.7},
    {"proposals": 5, "suppress": (4,), "top_k": 6, "top_p": 0.9, "temperature": 0.6},
    {"proposer": "privileged"},
    {"proposer": "privileged", "proposals": 3, "suppress": (4, 11)},
]
RULES = [
    ("lockstep", {"tau": 0.05}),
    ("lockstep", {"tau": 0.5, "probability_space": "tempered"}),
    ("lockstep", {"acceptance": "relative", "tau": 0.4}),
    ("lockstep", {"acceptance": "topk", "acceptance_k": 3}),
    ("lazy", {"tau": 0.5}),
    ("lazy", {"tau": 0.6, "probability_space": "tempered"}),
    ("lazy", {"acceptance": "topk", "acceptance_k": 2}),
    ("draft_verify", {"tau": 0.1}),
    ("draft_verify", {"acceptance": "relative", "tau": 0.4, "probability_space": "tempered"}),
    ("draft_verify", {"acceptance": "topk", "acceptance_k": 3}),
]


def wanted(number: int, **settings):
    """Requests whose suppressed ids are resolved, as for a model whose tokens are their ids."""
    suppressed = frozenset(settings.get("suppress", ()))
    return [replace(request(f"u{n}", seed=n, **settings), suppressed_ids=suppressed) for n in range(number)]


@pytest.mark.parametrize("minds", MINDS, ids=str)
@pytest.mark.parametrize(("strategy", "rule"), RULES, ids=str)
def test_every_strategy_writes_the_trace_of_the_literal_loop(strategy, rule, minds):
    requests = wanted(8, **{**minds, **rule})
    for name, rollout in run(requests, pair=Pair(engine(), strategy, with_scores=False)).items():
        expected, got = Literal().rollout(next(one for one in requests if one.unit_id == name)).tokens, rollout.tokens
        assert got.ids == expected.ids
        for column in ("student_prob", "rejected", "student_logprob", "privileged_logprob"):
            for known, value in zip(getattr(got, column), getattr(expected, column), strict=True):
                assert known is None or known == pytest.approx(value, abs=1e-5), column


def test_one_proposal_and_nothing_suppressed_write_the_traces_that_were_always_written():
    """Their ids as this build's predecessors wrote them, so that whoever goes on with a run goes on with its traces."""
    known = {
        ("lockstep", 0.3): "53763fbe93f16af6",
        ("lazy", 0.6): "895d80dc26fc82ce",
        ("draft_verify", 0.3): "53763fbe93f16af6",
    }
    for (strategy, tau), digest in known.items():
        done = run(wanted(40, tau=tau), strategy)
        text = repr([rollout.tokens.ids for _, rollout in sorted(done.items())])
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == digest


def test_more_proposals_change_no_number_of_the_first():
    seeds, places = torch.arange(50), torch.arange(50) * 7
    once, often = trace_uniforms(seeds, places), trace_uniforms(seeds, places, 5)
    assert torch.equal(often[:, :2], once) and often.shape == (50, 6)
    assert len(often.unique()) == 300 and often.min() >= 0 and often.max() < 1
    assert torch.equal(trace_uniforms(seeds, places, 3), often[:, :4])


def test_more_proposals_leave_more_to_the_student():
    shares = []
    for proposals in (1, 2, 5):
        done = run(wanted(50, tau=0.5, proposals=proposals))
        wrote = [one for rollout in done.values() for one in rollout.tokens.student_prob]
        shares.append(sum(wrote) / len(wrote))
    assert shares[0] + 0.03 < shares[1] and shares[1] + 0.03 < shares[2]


@pytest.mark.parametrize("strategy", ["lockstep", "lazy", "draft_verify"])
def test_how_often_a_neighbour_proposes_or_what_it_suppresses_changes_no_trace(strategy):
    kinds = [{}, {"proposals": 5}, {"proposals": 2, "suppress": (4, 11)}, {"suppress": (3,), "proposer": "privileged"}]
    requests = [
        replace(one, unit_id=f"{n}-{one.unit_id}") for n, kind in enumerate(kinds) for one in wanted(4, tau=0.5, **kind)
    ]
    together = run(requests, strategy)
    alone = {one.unit_id: run([one], strategy)[one.unit_id] for one in requests}
    assert ids(together) == ids(alone)
    for name, rollout in together.items():
        assert rollout.tokens.rejected == alone[name].tokens.rejected


@pytest.mark.parametrize(("strategy", "tau"), [("lockstep", 0.1), ("lazy", 0.5), ("draft_verify", 0.1)])
def test_a_resumed_trace_of_several_proposals_is_the_unbroken_one(strategy, tau):
    requests = wanted(12, tau=tau, proposals=4, suppress=(4,))
    unbroken = run(requests, strategy)
    cut = [replace(one, prefix=unbroken[one.unit_id].tokens[:7]) for one in requests]
    assert {name: one.tokens for name, one in run(cut, strategy).items()} == {
        name: one.tokens for name, one in unbroken.items()
    }


@pytest.mark.parametrize("minds", [{}, {"suppress": (4, 11)}, {"proposer": "privileged"}], ids=str)
def test_a_reading_says_with_which_probability_one_of_several_proposals_was_the_token(minds):
    requests = wanted(150, tau=0.5, proposals=3, **minds)
    proposer = requests[0].synthesis.proposer
    lockstep, lazy = run(requests), lazily(requests, with_scores=True)
    expected = variance = happened = doubtful = 0.0
    for name, rollout in lazy.items():
        full, tokens = lockstep[name].tokens, rollout.tokens
        assert tokens.ids == full.ids and None not in tokens.student_prob
        column = f"{proposer}_logprob"
        assert getattr(tokens, column) == pytest.approx(getattr(full, column), abs=1e-4)
        for place, (probability, wrote) in enumerate(zip(tokens.student_prob, full.student_prob, strict=True)):
            if probability in (0.0, 1.0):
                assert probability == wrote
                continue
            context = [*requests[int(name[1:])].prompt_ids(proposer), *tokens.ids[:place]]
            weights_V = LOGITS(context).double().softmax(-1)
            weights_V[list(minds.get("suppress", ()))] = 0
            own = float(weights_V[tokens.ids[place]] / weights_V.sum())
            by_proposer = 1 - (1 - own) ** 3
            assert probability == pytest.approx(by_proposer if proposer == "student" else 1 - by_proposer, abs=1e-5)
            expected, happened, doubtful = expected + probability, happened + wrote, doubtful + 1
            variance += probability * (1 - probability)
    assert doubtful > 100
    assert abs(expected - happened) < 4 * variance**0.5, "lockstep's proposals are draws from these probabilities"


@pytest.mark.parametrize("method", ["mixed", "direct", "student"])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.0])
def test_a_suppressed_token_is_never_written_and_the_log_probabilities_are_those_of_the_bare_model(method, temperature):
    free = run(wanted(30, method=method, temperature=temperature, tau=0.5))
    written = [token for rollout in free.values() for token in rollout.tokens.ids if token not in STOP]
    often = max(set(written), key=written.count)
    requests = wanted(30, method=method, temperature=temperature, tau=0.5, suppress=(often,))
    done = run(requests)
    assert all(often not in rollout.tokens.ids and often not in rollout.tokens.rejected for rollout in done.values())
    for one in requests:
        tokens = done[one.unit_id].tokens
        for prompt, column in (
            (one.student_ids, tokens.student_logprob),
            (one.privileged_ids, tokens.privileged_logprob),
        ):
            for place, logprob in enumerate(column):
                if logprob is not None:
                    bare_V = LOGITS([*prompt, *tokens.ids[:place]]).log_softmax(-1)
                    assert logprob == pytest.approx(float(bare_V[tokens.ids[place]]), abs=1e-5)


def test_raw_probabilities_stay_the_models_and_tempered_ones_are_shares_of_what_may_be_drawn():
    """The privileged student gives 0.6 to what is suppressed and 0.3 to token 1, which is 0.75 of the rest."""

    def logits(context):
        return torch.tensor([0.05, 0.3, 0.6, 0.05]).log() if context[0] == 7 else torch.tensor([0.0, 50.0, 0.0, 0.0])

    accepted = {}
    for space in ("raw", "tempered"):
        one = replace(wanted(1, tau=0.5, probability_space=space, suppress=(2,), max_tokens=8)[0], privileged_ids=[7])
        accepted[space] = set(run([replace(one, stop_ids=frozenset())], logits=logits)["u0"].tokens.student_prob)
    assert accepted == {"raw": {0.0}, "tempered": {1.0}}


def official(student_V, privileged_V, tau, uniforms, suppressed):
    """The authors' loop as it is described: twenty likeliest tokens of each role at temperature 1, the proposer's
    renormalised, the verifier's not, up to five proposals, then one draw of the verifier's twenty renormalised."""
    shown = [index for index in range(len(student_V)) if index not in suppressed]

    def likeliest(probability_V):
        kept = sorted(sorted(shown, key=lambda token: -float(probability_V[token]))[:20])
        weights = np.array([float(probability_V[token]) for token in kept])
        return lambda number: kept[int(np.searchsorted((weights / weights.sum()).cumsum(), number, side="right"))]

    first, own, *further = uniforms
    for number in (first, *further):
        if float(privileged_V[token := likeliest(student_V)(number)]) >= tau:
            return token
    return likeliest(privileged_V)(own)


def test_the_authors_rollout_is_top_k_of_twenty_with_raw_probabilities_and_five_proposals():
    """Of a vocabulary of 60, so that twenty are a third, and with their suppressed token among the likeliest."""
    generator = torch.Generator().manual_seed(5)
    table = 2.5 * torch.randn(50, 60, generator=generator)

    def logits(context):
        return table[(sum(context) * 7 + len(context)) % 50] + (context[0] == 7) * torch.linspace(0, 1, 60)

    requests = [
        replace(
            request(f"u{n}", seed=n, tau=0.2, proposals=5, top_k=20, suppress=(17,), max_tokens=20),
            student_ids=[3], privileged_ids=[7], stop_ids=frozenset(), suppressed_ids=frozenset([17]),
        )
        for n in range(20)
    ]  # fmt: skip
    done = run(requests, logits=logits)
    for one in requests:
        trace: list[int] = []
        while len(trace) < 20:
            numbers = trace_uniforms(torch.tensor([one.seed]), torch.tensor([len(trace)]), 5)[0].tolist()
            student_V, privileged_V = (logits([role, *trace]).double().softmax(-1) for role in (3, 7))
            trace.append(official(student_V, privileged_V, 0.2, numbers, {17}))
        assert done[one.unit_id].tokens.ids == trace
    assert 0 < sum(rollout.tokens.student_tokens for rollout in done.values()) < 400, "both branches must be taken"


def test_a_score_is_judged_as_if_the_suppressed_tokens_were_not_there():
    score = Score(np.log(0.2), 3, tuple(np.log([0.4, 0.3, 0.2, 0.1])), (7, 5, 1, 0))
    hidden = frozenset([7, 5])
    topk, relative, absolute = (Acceptance(kind, 0.9, 1, False) for kind in ("topk", "relative", "absolute"))
    assert (is_accepted(score, topk, 1.0), is_accepted(score, topk, 1.0, hidden)) == (False, True)
    assert (is_accepted(score, relative, 1.0), is_accepted(score, relative, 1.0, hidden)) == (False, True)
    assert not is_accepted(score, absolute, 1.0, hidden), "raw: what the model gives it"
    assert draw_probabilities([score], 1.0, suppressed=hidden)[0] == pytest.approx(2 / 3)
    assert draw_probabilities([score], 0.5, suppressed=hidden)[0] == pytest.approx(0.04 / 0.05)
    assert draw_probabilities([score], 1.0, top_k=1, suppressed=hidden)[0] == pytest.approx(1)
    assert draw_probabilities([score], 1.0, top_p=0.6, suppressed=hidden)[0] == pytest.approx(1)
    assert draw_probabilities([score], 0.0, suppressed=hidden)[0] == 1


def test_draft_verify_refuses_a_rank_that_it_cannot_tell_beside_suppressed_tokens():
    settings = {"acceptance": "topk", "acceptance_k": 19, "suppress": (4, 11)}
    with pytest.raises(ItemError, match="acceptance_k up to 18") as error:
        Pair(engine(), "draft_verify").add(wanted(1, **settings)[0])
    assert error.value.code == "not_exact"
    Pair(engine(), "draft_verify").add(wanted(1, **{**settings, "acceptance_k": 18})[0])


def test_ids_that_the_vocabulary_does_not_have_suppress_nothing():
    """Some models have fewer rows of logits than their tokenizer has tokens."""
    far = [replace(one, suppressed_ids=frozenset([VOCABULARY, 151_668])) for one in wanted(10, tau=0.3)]
    assert ids(run(far)) == ids(run(wanted(10, tau=0.3)))


def test_draft_verify_counts_a_repeated_proposal_once():
    """A student that is sure of a token that is refused proposes it five times; it is read once."""

    def logits(context):
        return torch.tensor([-50.0, 0.0, -50.0]) if context[0] == 3 else torch.tensor([-50.0, -50.0, 0.0])

    one = replace(wanted(1, tau=0.5, proposals=5, max_tokens=6)[0], privileged_ids=[7], stop_ids=frozenset())
    runs = {}
    for proposals in (1, 5):
        pair, steps = Pair(engine(logits), "draft_verify"), 0
        pair.add(replace(one, synthesis=one.synthesis.model_copy(update={"proposals": proposals})))
        while pair.pending():
            (runs[proposals, "done"], steps) = (pair.step(), steps + 1)
        runs[proposals] = steps
        assert runs[proposals, "done"][0].tokens.rejected == [1] * 6
    assert runs[1] == runs[5]


@pytest.mark.parametrize(("strategy", "tau"), [("lockstep", 0.3), ("lazy", 0.5), ("draft_verify", 0.3)])
def test_where_the_privileged_student_proposes_the_student_writes_what_is_rejected(strategy, tau):
    """Its prompts exchanged, a trace is the one that the student as proposer would write, by the other role."""
    turned = wanted(30, tau=tau, proposer="privileged")
    plain = [
        replace(one, student_ids=one.privileged_ids, privileged_ids=one.student_ids, synthesis=here.synthesis)
        for one, here in zip(turned, wanted(30, tau=tau), strict=True)
    ]
    got, mirrored = run(turned, strategy), run(plain, strategy)
    for name, rollout in got.items():
        other = mirrored[name].tokens
        assert (rollout.tokens.ids, rollout.tokens.rejected) == (other.ids, other.rejected)
        assert rollout.tokens.student_prob == pytest.approx([1 - one for one in other.student_prob], abs=1e-6)
        exchanged = other.privileged_logprob, other.student_logprob
        assert (rollout.tokens.student_logprob, rollout.tokens.privileged_logprob) == exchanged


def test_a_student_with_an_adapter_verifies_in_lockstep_and_lazily_but_reads_no_draft():
    one = replace(wanted(1, tau=0.5, proposer="privileged")[0], adapters={"student": "somewhere"})
    with pytest.raises(ItemError, match="no engine reads a prompt with an adapter"):
        Pair(engine(), "draft_verify").add(one)
    for strategy in ("lockstep", "lazy"):
        Pair(engine(), strategy).add(one)
