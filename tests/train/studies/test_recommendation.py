"""The paper's rule, made explicit: what is left out, what is best, what is tied, and when nothing can be told."""

from __future__ import annotations

import numpy as np
import pytest

from dail.train.evals.passk import Interval, bootstrap
from dail.train.studies.recommendation import Candidate, Recommendation, recommend

ITEMS = [f"i{n:03d}" for n in range(100)]


def candidate(
    tau: float,
    correct: int,
    leak: float = 0.0,
    share: float | None = 0.5,
    low: float | None = None,
    start: int = 0,
) -> Candidate:
    """So many of 100 items are correct, from the one with this number on."""
    verdicts = {item: float(start <= number < start + correct) for number, item in enumerate(ITEMS)}
    return Candidate(tau, verdicts, Interval(leak, leak / 2 if low is None else low, 2 * leak), share)


def chosen(*candidates: Candidate, max_leak: float = 0.02) -> Recommendation:
    return recommend(candidates, max_leak, seed=0)


def test_the_best_outside_the_region_that_cites_is_taken():
    found = chosen(candidate(0.5, 40), candidate(0.8, 60), candidate(0.99, 80, leak=0.3))
    assert (found.tau, found.decided, found.best) == (0.8, True, 0.8)
    assert [one.tau for one in found.excluded] == [0.99]
    assert found.excluded[0].why.startswith("30.0 % of its traces cite the solution or a hint (95 % interval 15.0 % to")
    assert "clearly more than calibrate.max_leak, 2.0 %" in found.excluded[0].why
    assert found.reason == (
        "0.8 is the most correct of the values that do not cite too much: 60.0 %.",
        "Clearly less correct than it, paired by item: 0.5.",
    )


def test_of_values_within_one_standard_error_the_one_where_the_student_wrote_most_is_taken():
    found = chosen(
        candidate(0.1, 30, share=0.9), candidate(0.6, 79, share=0.7, start=9), candidate(0.8, 80, share=0.6),
        candidate(0.9, 80, share=0.5),
    )  # fmt: skip
    assert (found.tau, found.best, found.tied) == (0.6, 0.8, (0.6, 0.8, 0.9))
    assert found.reason[1] == (
        "Within one standard error of it lie 0.6, 0.9; of these and it, 0.6 is taken, where the student wrote most "
        "(70.0 % of the tokens)."
    )


def test_a_value_that_is_not_clearly_worse_is_not_tied_for_that():
    some = candidate(0.6, 78, share=0.9)  # two items less: 2 points, with a standard error of 1.4
    found = chosen(candidate(0.1, 30), some, candidate(0.8, 80))
    assert found.tau == 0.8 and not next(one for one in found.shortfalls if one.tau == 0.6).is_clear


def test_where_nobody_knows_who_wrote_what_the_smaller_tau_is_taken():
    found = chosen(candidate(0.2, 10, share=None), candidate(0.7, 80, share=None), candidate(0.9, 80, share=None))
    assert found.tau == 0.7 and found.reason[1].endswith(
        "0.7 is taken, the smallest, as it is not known who wrote what."
    )


def test_where_it_is_known_of_some_alone_the_smaller_tau_is_taken():
    found = chosen(candidate(0.2, 10), candidate(0.7, 80, share=None), candidate(0.9, 80, share=0.9))
    assert found.tau == 0.7 and "it is not known who wrote what" in found.reason[1]


@pytest.mark.parametrize("order", [1, -1])
def test_where_no_difference_is_clear_the_paper_s_value_is_named_whatever_came_first(order: int):
    found = chosen(*[candidate(0.5, 80), candidate(0.8, 79), candidate(0.9, 80)][::order])
    assert (found.tau, found.decided) == (0.8, False)
    assert found.reason[0].startswith("Nothing can be told: no value is clearly less correct than the best, 0.5")


def test_the_paper_s_value_is_named_though_it_was_not_drawn():
    found = chosen(candidate(0.5, 80), candidate(0.7, 80))
    assert found.tau == 0.8 and "though it was not among the values" in found.reason[1]


def test_the_paper_s_value_is_not_named_where_it_cites():
    found = chosen(candidate(0.5, 80), candidate(0.7, 80), candidate(0.8, 80, leak=0.2))
    assert (found.tau, found.decided) == (None, False) and "left out as well" in found.reason[1]


def test_nothing_is_recommended_where_all_cite():
    found = chosen(candidate(0.5, 80, leak=0.3), candidate(0.8, 90, leak=0.03, low=0.01))
    assert found.tau is None and found.reason[0].startswith("No value is left")
    assert "by its estimate, if not clear of chance, more than" in found.excluded[1].why


def test_a_larger_limit_lets_more_values_in():
    found = chosen(candidate(0.5, 40), candidate(0.99, 80, leak=0.3), max_leak=0.3)
    assert (found.tau, found.excluded) == (0.99, ())


def test_no_correct_trace_anywhere_is_said():
    found = chosen(candidate(0.5, 0), candidate(0.8, 0))
    assert found.reason[0] == "Nothing can be told: no trace of any value is correct." and not found.decided


def test_a_value_alone_is_compared_with_nothing():
    found = chosen(candidate(0.3, 50))
    assert (found.tau, found.decided) == (0.3, False) and "nothing was compared" in found.reason[0]


def test_one_item_tells_nothing():
    one = {"i": 1.0}
    found = chosen(*(Candidate(tau, one if tau == 0.9 else {"i": 0.0}, Interval(0, 0, 1), 0.5) for tau in (0.5, 0.9)))
    assert (found.tau, found.decided) == (0.8, False)


def test_items_are_compared_that_all_have():
    most = Candidate(0.5, dict.fromkeys(ITEMS[:60], 0.0), Interval(0, 0, 0), 0.9)
    found = chosen(most, candidate(0.8, 60))
    assert (found.shortfalls[0].mean, found.tau) == (1.0, 0.8)
    apart = chosen(Candidate(0.5, dict.fromkeys("abcdef" * 20, 0.0) | dict.fromkeys(map(str, range(60)), 0.0),
                             Interval(0, 0, 0), 0.9), candidate(0.8, 50))  # fmt: skip
    assert not apart.decided


def test_a_value_with_few_traces_does_not_narrow_the_others_items():
    few = Candidate(0.5, dict.fromkeys(ITEMS[:3], 1.0), Interval(0, 0, 0), 0.9)
    found = chosen(few, candidate(0.7, 20), candidate(0.8, 80))
    assert (found.tau, found.decided) == (0.8, True)
    assert found.excluded[0].why == "it has judged traces of 3 of 100 items, too few to compare"


def test_of_values_that_are_alike_none_is_clearly_worse_though_some_pair_alone_would_be():
    """With intervals for each pair alone, most such draws would have a value that is clearly worse than the best."""
    decided, alone = 0, 0
    for draw in range(20):
        values = np.random.default_rng(draw).random((20, 60)) < 0.9
        alike = [
            Candidate(0.05 * (1 + n), dict(zip(ITEMS, map(float, row), strict=False)), Interval(0, 0, 0), 0.5)
            for n, row in enumerate(values)
        ]
        found = recommend(alike, 0.02, seed=0)
        decided += found.decided
        best = values[np.argmax(values.mean(1))]
        alone += any(bootstrap((best.astype(float) - row).tolist(), 0, -1.0).low > 0 for row in values)
    assert alone > 10 and decided <= 4  # of 20: 5 % are 1


def test_a_value_without_a_judged_trace_is_left_out():
    found = chosen(Candidate(0.5, {}, Interval(0, 0, 0), 0.9), candidate(0.8, 50))
    assert found.excluded[0].why == "it has no trace whose answer could be judged"
