"""The rule's arithmetic against its own definition (paper §2.1)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from synth.rollout import Rule, draw, mix, mixed_distribution, uniforms, watch

DRAWS = 200_000
VOCABULARY = 6


def probabilities(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).dirichlet([0.5] * VOCABULARY))


def drawn_tokens(student_V, privileged_V, tau: float, temperature: float = 1.0, tempered: bool = False) -> np.ndarray:
    """Counts of tokens that `mix` draws for DRAWS independent pairs with these probabilities at temperature 1."""
    rule = Rule(
        torch.full((DRAWS,), tau), torch.full((DRAWS,), temperature), torch.full((DRAWS,), tempered, dtype=torch.bool)
    )
    uniform = torch.from_numpy(uniforms(np.arange(DRAWS), np.zeros(DRAWS)))
    mixed = mix(student_V.log().expand(DRAWS, -1), privileged_V.log().expand(DRAWS, -1), rule, uniform)
    return np.bincount(mixed.token_P.numpy(), minlength=VOCABULARY)


def p_value(counts: np.ndarray, expected_V: torch.Tensor) -> float:
    """Of a chi-square test; tokens expected fewer than 5 times are counted as one."""
    expected = expected_V.numpy() * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert counts[~keep].sum() == 0, "a token of probability 0 was drawn"
    return float(stats.chisquare(counts[keep], expected[keep]).pvalue)


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_drawn_tokens_follow_the_mixed_distribution(tau, seed):
    student, privileged = probabilities(seed), probabilities(seed + 100)
    assert p_value(drawn_tokens(student, privileged, tau), mixed_distribution(student, privileged, tau)) > 1e-4


def test_a_wrong_tau_is_noticed():
    student, privileged = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.35, 0.45]).double()
    counts = drawn_tokens(student, privileged, tau=0.4)[:3]
    assert p_value(counts, mixed_distribution(student, privileged, 0.4)) > 1e-4
    assert p_value(counts, mixed_distribution(student, privileged, 0.3)) < 1e-9


@pytest.mark.parametrize("tempered", [False, True])
def test_temperature_shapes_both_draws_and_tau_is_held_against_the_named_space(tempered):
    student, privileged, heat, tau = probabilities(7), probabilities(8), 0.6, 0.45
    hot_student, hot_privileged = (p ** (1 / heat) / (p ** (1 / heat)).sum() for p in (student, privileged))
    verdict = hot_privileged if tempered else privileged
    expected = mixed_distribution(hot_student, hot_privileged, tau, verdict)
    assert p_value(drawn_tokens(student, privileged, tau, heat, tempered), expected) > 1e-4


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_mixed_distribution_is_the_literal_procedure_summed_over_proposals(seed, tau):
    student, privileged = probabilities(seed), probabilities(seed + 1)
    literal = torch.zeros(VOCABULARY, dtype=torch.float64)
    for proposal in range(VOCABULARY):
        if privileged[proposal] >= tau:
            literal[proposal] += student[proposal]
        else:
            literal += student[proposal] * privileged
    mixed = mixed_distribution(student, privileged, tau)
    assert torch.allclose(mixed, literal, atol=1e-12)
    assert mixed.sum() == pytest.approx(1)


def test_tau_zero_is_the_student_and_tau_above_one_is_direct_sampling():
    student, privileged = probabilities(1), probabilities(2)
    assert torch.equal(mixed_distribution(student, privileged, 0.0), student)
    assert torch.allclose(mixed_distribution(student, privileged, 1.01), privileged)


@given(st.integers(0, 10_000), st.floats(0.501, 1))
def test_from_tau_one_half_an_accepted_token_is_the_privileged_students_first_choice(seed, tau):
    student, privileged = probabilities(seed), probabilities(seed + 1)
    rule = Rule(torch.tensor([tau]), torch.tensor([1.0]), torch.tensor([False]))
    mixed = mix(
        student.log()[None], privileged.log()[None], rule, torch.from_numpy(uniforms(np.array([seed]), np.array([0])))
    )
    assert not mixed.accepted_P or int(mixed.token_P) == int(privileged.argmax())


def test_a_proposal_at_exactly_tau_stands():
    logits = torch.tensor([[0.0, 0.0]])
    rule = Rule(torch.tensor([0.5]), torch.tensor([1.0]), torch.tensor([False]))
    mixed = mix(logits, logits, rule, torch.tensor([[0.9, 0.1]]).double())
    assert bool(mixed.accepted_P) and int(mixed.token_P) == 1


def test_greedy_takes_the_largest_logit_of_the_role_that_writes():
    student, privileged = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[0.0, 0.1, 0.2]])
    rule = Rule(torch.tensor([0.5]), torch.tensor([0.0]), torch.tensor([False]))
    mixed = mix(student, privileged, rule, torch.zeros(1, 2))
    assert int(mixed.proposal_P) == 0 and not bool(mixed.accepted_P) and int(mixed.token_P) == 2


def test_greedy_in_tempered_space_accepts_only_the_privileged_students_first_choice():
    student, privileged = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.01], [0.0, 0.01]])
    rule = Rule(torch.full((2,), 0.9), torch.zeros(2), torch.ones(2, dtype=torch.bool))
    assert mix(student, privileged, rule, torch.zeros(2, 2)).accepted_P.tolist() == [True, False]


def test_log_probabilities_are_of_the_drawn_token_at_temperature_one():
    student, privileged = probabilities(3), probabilities(4)
    rule = Rule(torch.tensor([0.8]), torch.tensor([0.5]), torch.tensor([False]))
    mixed = mix(student.log()[None], privileged.log()[None], rule, torch.tensor([[0.2, 0.7]]).double())
    token = int(mixed.token_P)
    assert float(mixed.student_logprob_P) == pytest.approx(float(student[token].log()), abs=1e-5)
    assert float(mixed.privileged_logprob_P) == pytest.approx(float(privileged[token].log()), abs=1e-5)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53, 1.0])
def test_a_token_of_probability_zero_is_never_drawn(uniform):
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    assert int(draw(logits, torch.ones(1), torch.tensor([uniform], dtype=torch.float64))) in (1, 3)


def test_uniform_numbers_are_uniform_and_independent_between_draws():
    numbers = uniforms(np.arange(50_000), np.full(50_000, 17))
    assert stats.kstest(numbers[:, 0], "uniform").pvalue > 1e-4
    assert stats.kstest(numbers[:, 1], "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 0.02
    assert numbers.min() >= 0 and numbers.max() < 1


def test_uniform_numbers_depend_on_seed_and_position_alone():
    one = uniforms(np.array([5]), np.array([9]))
    many = uniforms(np.array([4, 5, 6]), np.array([9, 9, 9]))
    assert np.array_equal(one[0], many[1])
    assert len(np.unique(uniforms(np.repeat([1, 2], 100), np.tile(np.arange(100), 2)))) == 400


def middles(probability_V: torch.Tensor) -> torch.Tensor:
    """For each token a uniform number that draws it."""
    return probability_V.cumsum(0) - probability_V / 2


def exact_rule(tau: float) -> Rule:
    return Rule(torch.tensor([tau]), torch.tensor([1.0]), torch.tensor([False]))


@pytest.mark.parametrize("tau", [0.05, 0.3, 0.5, 0.8, 0.99, 1.01])
@pytest.mark.parametrize("seed", range(5))
def test_mix_summed_over_all_draws_is_the_mixed_distribution_exactly(tau, seed):
    student, privileged = probabilities(seed), probabilities(seed + 50)
    got = torch.zeros(VOCABULARY, dtype=torch.float64)
    for proposal, by_student in enumerate(middles(student)):
        for own, by_privileged in enumerate(middles(privileged)):
            numbers = torch.stack([by_student, by_privileged])[None]
            token = int(mix(student.log()[None], privileged.log()[None], exact_rule(tau), numbers).token_P)
            got[token] += student[proposal] * privileged[own]
    assert float((got - mixed_distribution(student, privileged, tau)).abs().sum()) < 2e-9


@pytest.mark.parametrize("tau", [0.5, 0.6, 0.8, 0.99, 1.01])
@pytest.mark.parametrize("seed", range(5))
def test_watch_with_the_student_asked_at_pauses_is_the_mixed_distribution_exactly(tau, seed):
    student, privileged = probabilities(seed), probabilities(seed + 50) ** 3
    privileged = privileged / privileged.sum()  # peaked, so that some token often reaches tau
    got = torch.zeros(VOCABULARY, dtype=torch.float64)
    for own, by_privileged in enumerate(middles(privileged)):
        watched = watch(privileged.log()[None], exact_rule(tau), by_privileged[None])
        standing = watched.best_PK[watched.stands_PK].tolist()
        for proposal in range(VOCABULARY):
            token = proposal if bool(watched.pause_P) and proposal in standing else own
            got[token] += student[proposal] * privileged[own]
    assert float((got - mixed_distribution(student, privileged, tau)).abs().sum()) < 2e-9
