"""pass@k: the chance that at least one of k completions is right (paper §3.1), with intervals.

Of a problem's n completions c were right; the unbiased estimate is 1 - C(n-c, k) / C(n, k). A set's pass@k is the
mean over its problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """A mean over problems and where it would lie in 95 of 100 other draws of as many problems."""

    mean: float
    low: float
    high: float


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k) as a product of ratios, so no large number arises.

    >>> pass_at_k(num_samples=4, num_correct=1, k=2)
    0.5
    """
    if not (0 <= num_correct <= num_samples and 1 <= k <= num_samples):
        raise ValueError(f"pass@{k} of {num_correct} correct in {num_samples}: wanted 0 <= c <= n and 1 <= k <= n")
    if num_samples - num_correct < k:
        return 1.0
    import numpy as np

    ratios = 1.0 - k / np.arange(num_samples - num_correct + 1, num_samples + 1)
    return float(1.0 - np.prod(ratios))


def ks(num_samples: int) -> list[int]:
    """1, 2, 4, … up to n, the k that are reported."""
    return [1 << power for power in range(num_samples.bit_length())]


def bootstrap(values: Sequence[float], seed: int, least: float = 0.0) -> Interval:
    """The mean over problems, with a percentile bootstrap over problems, which is never without width.

    Problems are drawn with replacement, so the interval holds both sources of doubt: which problems are in the set,
    and how the n completions of each happened to fall. Differences of two models per problem may be given too; that
    is the paired comparison.

    The bootstrap knows no other problems than these: of 24 that all failed it makes an interval from 0 to 0. But if a
    share u of all problems were unlike those seen, then n draws would have missed them with probability (1 - u)^n; so
    u is at most 1 - 0.025^(1/n), Clopper and Pearson's bound, 14 % for 24. They may lie anywhere on the scale. A level
    near an end of the scale is widened by that; a difference only where all problems have the same, since a gain that
    most of them share would drown in it. A single problem tells nothing about others: the whole scale.

    Args:
        least: the smallest value possible, -1 for differences; the largest is 1.
    """
    import numpy as np  # here, so that `dail eval --help` needs none

    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, least, 1.0)
    if max(values) == min(values):
        mean = values[0]  # a mean of equal numbers may be off in its last digit
    drawn = np.random.default_rng(seed).integers(0, len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(np.asarray(values, float)[drawn].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if least == 0 or max(values) == min(values):
        unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(values))
        low, high = min(low, mean - unseen * (mean - least)), max(high, mean + unseen * (1 - mean))
    return Interval(mean, float(low), float(high))
