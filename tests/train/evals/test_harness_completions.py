"""The completions that are judged beside other harnesses: ours says of each what is right by reading it."""

from __future__ import annotations

from fractions import Fraction
from math import comb

from dail.train.evals.passk import pass_at_k
from tests.bench.harness import NUM_SAMPLES, largest_gap, our_verdicts, read_cases


def test_our_verdict_of_each_completion_is_what_is_right_by_reading() -> None:
    cases = list(read_cases())
    wrong = [
        (case.answer, case.completion)
        for case, said in zip(cases, our_verdicts(cases, "math"), strict=True)
        if said != case.right
    ]
    assert len(cases) >= 200 and not wrong


def test_pass_at_k_of_128_is_the_exact_one_for_every_k() -> None:
    exact = [
        [float(1 - Fraction(comb(NUM_SAMPLES - right, k), comb(NUM_SAMPLES, k))) for k in range(1, NUM_SAMPLES + 1)]
        for right in range(NUM_SAMPLES + 1)
    ]
    assert largest_gap(exact) < 1e-12 and pass_at_k(128, 1, 128) == 1.0
