"""The rule's arithmetic against its own definition (paper §2.1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dail.synth.method.acceptance import (
    Rule,
    Sampling,
    draw,
    draw_own,
    mix,
    mixed_distribution,
    trace_uniforms,
    uniforms,
)
from dail.synth.schema.synthesis import Acceptance

DRAWS = 40_000
VOCABULARY = 6
CPU = torch.device("cpu")


def sampling(temperature: float = 1.0, top_p: float = 1.0, top_k: int = 0, rows: int = 1) -> Sampling:
    return Sampling.of([(temperature, top_p, top_k)] * rows, CPU)


def rule(tau: float, kind: str = "absolute", k: int = 1, tempered: bool = False, rows: int = 1) -> Rule:
    return Rule.of([Acceptance(kind, tau, k, tempered)] * rows, CPU)


def probabilities(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet([0.5] * VOCABULARY))


def drawn_tokens(student_V, privileged_V, tau: float, temperature: float = 1.0, **settings) -> np.ndarray:
    """Counts of tokens that `mix` draws for DRAWS independent pairs with these probabilities at temperature 1."""
    cuts = {name: settings.pop(name) for name in ("top_p", "top_k") if name in settings}
    how, when = sampling(temperature, rows=DRAWS, **cuts), rule(tau, rows=DRAWS, **settings)
    uniform = uniforms(torch.arange(DRAWS), torch.zeros(DRAWS, dtype=torch.int64))
    mixed = mix(student_V.log().expand(DRAWS, -1), privileged_V.log().expand(DRAWS, -1), how, when, uniform)
    return np.bincount(mixed.token_P.numpy(), minlength=VOCABULARY)


def p_value(counts: np.ndarray, expected_V: torch.Tensor) -> float:
    """Of a chi-square test; tokens expected fewer than 5 times are counted as one."""
    expected = expected_V.numpy() * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert counts[~keep].sum() == 0, "a token of probability 0 was drawn"
    return float(stats.chisquare(counts[keep], expected[keep]).pvalue) if keep.sum() > 1 else 1.0


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drawn_tokens_follow_the_mixed_distribution(tau, seed):
    student, privileged = probabilities(seed), probabilities(seed + 100)
    assert (
        p_value(drawn_tokens(student, privileged, tau), mixed_distribution(student, privileged, privileged >= tau))
        > 1e-4
    )


def test_a_wrong_tau_is_noticed():
    student, privileged = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.35, 0.45]).double()
    counts = drawn_tokens(student, privileged, tau=0.4)[:3]
    assert p_value(counts, mixed_distribution(student, privileged, privileged >= 0.4)) > 1e-4
    assert p_value(counts, mixed_distribution(student, privileged, privileged >= 0.3)) < 1e-9


@pytest.mark.parametrize("tempered", [False, True])
def test_temperature_shapes_both_draws_and_tau_is_held_against_the_named_space(tempered):
    student, privileged, heat, tau = probabilities(7), probabilities(8), 0.6, 0.45
    hot_student, hot_privileged = (p ** (1 / heat) / (p ** (1 / heat)).sum() for p in (student, privileged))
    verdict = hot_privileged if tempered else privileged
    expected = mixed_distribution(hot_student, hot_privileged, verdict >= tau)
    assert p_value(drawn_tokens(student, privileged, tau, heat, tempered=tempered), expected) > 1e-4


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_mixed_distribution_is_the_literal_procedure_summed_over_proposals(seed, tau):
    student, privileged = probabilities(seed), probabilities(seed + 1)
    literal = torch.zeros(VOCABULARY, dtype=torch.float64)
    for proposal in range(VOCABULARY):
        if privileged[proposal] >= tau:
            literal[proposal] += student[proposal]
        else:
            literal += student[proposal] * privileged
    mixed = mixed_distribution(student, privileged, privileged >= tau)
    assert torch.allclose(mixed, literal, atol=1e-12)
    assert mixed.sum() == pytest.approx(1)


@pytest.mark.parametrize("tau", [0.05, 0.3])
@pytest.mark.parametrize("proposals", [2, 5])
def test_several_proposals_follow_their_distribution(tau, proposals):
    student, privileged = probabilities(1), probabilities(101)
    how, when = sampling(rows=DRAWS), Rule.of([Acceptance("absolute", tau, 1, False)] * DRAWS, CPU, [proposals] * DRAWS)
    numbers = trace_uniforms(torch.arange(DRAWS), torch.zeros(DRAWS, dtype=torch.int64), 5)
    mixed = mix(student.log().expand(DRAWS, -1), privileged.log().expand(DRAWS, -1), how, when, numbers)
    counts = np.bincount(mixed.token_P.numpy(), minlength=VOCABULARY)
    expected = mixed_distribution(student, privileged, privileged >= tau, proposals)
    assert p_value(counts, expected) > 1e-4 and expected.sum() == pytest.approx(1)
    assert p_value(counts, mixed_distribution(student, privileged, privileged >= tau)) < 1e-9, (
        "one proposal is another rule"
    )


def test_one_token_that_can_be_accepted_is_written_by_the_student_with_one_minus_the_chance_that_all_tries_miss():
    student, privileged = torch.tensor([0.3, 0.7]).double(), torch.tensor([0.9, 0.1]).double()
    written = mixed_distribution(student, torch.zeros(2).double(), privileged >= 0.5, proposals=5)
    assert float(written[0]) == pytest.approx(1 - 0.7**5) and float(written[1]) == 0


def test_tau_zero_is_the_student_and_tau_above_one_is_direct_sampling():
    student, privileged = probabilities(1), probabilities(2)
    assert torch.equal(mixed_distribution(student, privileged, privileged >= 0.0), student)
    assert torch.allclose(mixed_distribution(student, privileged, privileged >= 1.01), privileged)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.501, 1))
def test_from_tau_one_half_an_accepted_token_is_the_privileged_students_first_choice(seed, tau):
    student, privileged = probabilities(seed), probabilities(seed + 1)
    numbers = uniforms(torch.tensor([seed]), torch.tensor([0]))
    mixed = mix(student.log()[None], privileged.log()[None], sampling(), rule(tau), numbers)
    assert not mixed.accepted_P or int(mixed.token_P) == int(privileged.argmax())


def test_a_proposal_at_exactly_tau_is_accepted():
    logits = torch.tensor([[0.0, 0.0]])
    mixed = mix(logits, logits, sampling(), rule(0.5), torch.tensor([[0.9, 0.1]]).double())
    assert bool(mixed.accepted_P) and int(mixed.token_P) == 1


def test_greedy_takes_the_largest_logit_of_the_role_that_writes():
    student, privileged = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.1, 0.2]])
    mixed = mix(student, privileged, sampling(0.0), rule(0.5), torch.zeros(1, 2))
    assert int(mixed.proposal_P) == 0 and not bool(mixed.accepted_P) and int(mixed.token_P) == 2


def test_greedy_in_tempered_space_accepts_only_the_privileged_students_first_choice():
    student, privileged = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.01], [0.0, 0.01]])
    mixed = mix(student, privileged, sampling(0.0, rows=2), rule(0.9, tempered=True, rows=2), torch.zeros(2, 2))
    assert mixed.accepted_P.tolist() == [True, False]


def test_log_probabilities_are_of_the_drawn_token_at_temperature_one():
    student, privileged = probabilities(3), probabilities(4)
    numbers = torch.tensor([[0.2, 0.7]]).double()
    mixed = mix(student.log()[None], privileged.log()[None], sampling(0.5), rule(0.8), numbers)
    token = int(mixed.token_P)
    assert float(mixed.proposer_logprob_P) == pytest.approx(float(student[token].log()), abs=1e-5)
    assert float(mixed.verifier_logprob_P) == pytest.approx(float(privileged[token].log()), abs=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53, 1.0])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert int(draw(logits, sampling(), torch.tensor([uniform], dtype=torch.float64))) in (1, 3)


def test_a_suppressed_token_is_never_drawn_and_a_neighbour_keeps_its_bits():
    """Row 0 suppresses its likeliest token, row 1 nothing, beside one whose ids are no tokens here."""
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(1))
    logits[0, 7] = 50.0
    plain = sampling(rows=3)
    without = Sampling.of([(1.0, 1.0, 0)] * 3, CPU, [{7, 299, 300}, (), {300, 2**40}])
    numbers = uniforms(torch.arange(3), torch.zeros(3, dtype=torch.int64))[:, :1]
    when = rule(0.5, rows=3)
    one, other = draw_own(logits, plain, when, numbers), draw_own(logits, without, when, numbers)
    assert int(one.token_P[0]) == 7 and int(other.token_P[0]) not in (7, 299)
    assert not bool(other.accepted_PK[0].any()), "raw: the model itself gives nearly all to what is suppressed"
    assert 7 not in other.best_PK[0].tolist()
    expected = logits[0].log_softmax(-1)[other.token_P[0]]
    assert float(other.logprob_P[0]) == pytest.approx(float(expected), abs=1e-4)
    for before, after in zip(one, other, strict=True):
        assert torch.equal(before[1:], after[1:])


def test_uniform_numbers_are_uniform_and_independent_between_draws():
    numbers = uniforms(torch.arange(50_000), torch.full((50_000,), 17)).numpy()
    assert stats.kstest(numbers[:, 0], "uniform").pvalue > 1e-4
    assert stats.kstest(numbers[:, 1], "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.02
    assert numbers.min() >= 0 and numbers.max() < 1


def test_uniform_numbers_depend_on_seed_and_position_alone():
    one = uniforms(torch.tensor([5]), torch.tensor([9]))
    many = uniforms(torch.tensor([4, 5, 6]), torch.tensor([9, 9, 9]))
    assert torch.equal(one[0], many[1])
    assert len(uniforms(torch.tensor([1, 2]).repeat_interleave(100), torch.arange(100).repeat(2)).unique()) == 400


def splitmix64(seed: int, index: int) -> float:
    """The generator's definition, in whole numbers without end."""
    z = (seed + (index + 1) * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_uniform_numbers_are_those_of_splitmix64(seed, place):
    numbers = uniforms(torch.tensor([seed]), torch.tensor([place]))
    assert numbers.tolist() == [[splitmix64(seed, 2 * place), splitmix64(seed, 2 * place + 1)]]


def middles(probability_V: torch.Tensor) -> torch.Tensor:
    """For each token a uniform number that draws it."""
    return probability_V.cumsum(0) - probability_V / 2


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.5, 0.8, 0.99, 1.01])
@pytest.mark.parametrize("seed", range(5))
def test_mix_summed_over_all_draws_is_the_mixed_distribution_exactly(tau, seed):
    student, privileged = probabilities(seed), probabilities(seed + 50)
    got = torch.zeros(VOCABULARY, dtype=torch.float64)
    for proposal, by_student in enumerate(middles(student)):
        for own, by_privileged in enumerate(middles(privileged)):
            numbers = torch.stack([by_student, by_privileged])[None]
            token = int(mix(student.log()[None], privileged.log()[None], sampling(), rule(tau), numbers).token_P)
            got[token] += student[proposal] * privileged[own]
    assert float((got - mixed_distribution(student, privileged, privileged >= tau)).abs().sum()) < 2e-9


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.8, 0.99, 1.01])
@pytest.mark.parametrize("seed", range(5))
def test_watch_with_the_student_asked_at_pauses_is_the_mixed_distribution_exactly(tau, seed):
    student, privileged = probabilities(seed), probabilities(seed + 50) ** 3
    privileged = privileged / privileged.sum()  # peaked, so that some token often reaches tau
    got = torch.zeros(VOCABULARY, dtype=torch.float64)
    for own, by_privileged in enumerate(middles(privileged)):
        drawn = draw_own(privileged.log()[None], sampling(), rule(tau), by_privileged[None, None])
        standing = drawn.best_PK[drawn.accepted_PK].tolist()
        for proposal in range(VOCABULARY):
            token = proposal if bool(drawn.verify_P) and proposal in standing else own
            got[token] += student[proposal] * privileged[own]
    assert float((got - mixed_distribution(student, privileged, privileged >= tau)).abs().sum()) < 2e-9


@pytest.mark.parametrize("tau", [0.05, 0.5, 0.9])
def test_the_relative_rule_holds_tau_against_the_largest_probability(tau):
    student, privileged = probabilities(11), probabilities(12)
    expected = mixed_distribution(student, privileged, privileged >= tau * privileged.max())
    assert p_value(drawn_tokens(student, privileged, tau, kind="relative"), expected) > 1e-4


@pytest.mark.parametrize("k", [1, 2, 4])
def test_the_topk_rule_lets_the_k_likeliest_tokens_stand(k):
    student, privileged = probabilities(13), probabilities(14)
    stands = privileged >= privileged.sort(descending=True).values[k - 1]
    counts = drawn_tokens(student, privileged, 0.9, kind="topk", k=k)
    assert p_value(counts, mixed_distribution(student, privileged, stands)) > 1e-4
    assert p_value(counts, mixed_distribution(student, privileged, privileged >= 0.9)) < 1e-9, "tau plays no part"


def test_rules_of_every_kind_stand_side_by_side_in_one_batch():
    student, privileged = probabilities(15).log(), probabilities(16).log()
    rules = [Acceptance(kind, 0.4, 2, False) for kind in ("absolute", "relative", "topk")]
    numbers = uniforms(torch.arange(300), torch.zeros(300, dtype=torch.int64))
    together = mix(
        student.expand(300, -1), privileged.expand(300, -1), sampling(rows=300), Rule.of(rules * 100, CPU), numbers
    )
    for at, kind in enumerate(rules):
        alone = mix(
            student.expand(100, -1), privileged.expand(100, -1), sampling(rows=100), Rule.of([kind] * 100, CPU),
            numbers[at::3],
        )  # fmt: skip
        assert torch.equal(together.token_P[at::3], alone.token_P)
        assert torch.equal(together.accepted_P[at::3], alone.accepted_P)


def cut(probability_V: torch.Tensor, top_p: float, top_k: int) -> torch.Tensor:
    """The definition, token by token."""
    order = probability_V.sort(descending=True).indices.tolist()[: top_k or None]
    whole, kept = float(probability_V[order].sum()), []
    for token in order:
        if float(probability_V[kept].sum()) < top_p * whole:
            kept.append(token)
    return torch.zeros_like(probability_V).index_copy(
        0, torch.tensor(kept), probability_V[kept] / probability_V[kept].sum()
    )


@pytest.mark.parametrize(("top_p", "top_k"), [(0.6, 0), (1.0, 2), (0.7, 3), (0.05, 0)])
def test_top_p_and_top_k_cut_both_draws_and_not_what_tau_is_held_against(top_p, top_k):
    student, privileged, tau = probabilities(17), probabilities(18), 0.3
    expected = mixed_distribution(cut(student, top_p, top_k), cut(privileged, top_p, top_k), privileged >= tau)
    assert p_value(drawn_tokens(student, privileged, tau, top_p=top_p, top_k=top_k), expected) > 1e-4


def test_top_p_one_keeps_a_long_flat_tail_whole():
    logits = torch.zeros(1, 150_001)
    last = draw(logits, Sampling.of([(1.0, 1.0, 150_000)], CPU), torch.tensor([1 - 1e-9]).double())
    assert int(last) == 149_999, "ties are cut by the order of the tokens"


@given(st.integers(0, 10_000), st.integers(1, 700), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_where_the_running_sum_passes_the_number_whatever_the_vocabulary(seed, vocabulary, number):
    """Against one running sum in float64 over the whole vocabulary; sizes on both sides of a block's."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 4, vocabulary)).float()
    token = int(draw(logits[None], sampling(), torch.tensor([number]).double()))
    ends = logits.softmax(-1).double().cumsum(0)
    before = float(ends[token - 1]) if token else 0.0
    assert before - 1e-12 <= number * float(ends[-1]) < float(ends[token]) + 1e-12


def test_watch_never_pauses_a_row_without_a_rule():
    drawn = draw_own(
        torch.tensor([[0.0, 9.0], [9.0, 0.0]]), sampling(rows=2), Rule.of([None, None], CPU), torch.ones(2, 1) / 2
    )
    assert drawn.verify_P.tolist() == drawn.confident_P.tolist() == [False, False]


def test_watch_pauses_only_the_rows_that_have_a_rule():
    logits = torch.tensor([[2.0, 0.0]]).expand(2, -1)
    rules = Rule.of([None, Acceptance("absolute", 0.5, 1, False)], CPU)
    drawn = draw_own(logits, sampling(rows=2), rules, torch.tensor([[0.99], [0.99]]).double())
    assert drawn.token_P.tolist() == [1, 1] and drawn.verify_P.tolist() == [False, True]
