"""pass@k: the chance that at least one of k completions is right (paper §3.1), with intervals.

Of a problem's n completions c were right; the unbiased estimate is 1 - C(n-c, k) / C(n, k). A set's pass@k is the
mean over its problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

LEVEL = 0.95
RESAMPLES = 2000
_SAME = 1e-9  # 2/3 - 1/3 is not 1 - 2/3 in floating point


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
    """The mean over problems, with a percentile bootstrap over problems, and never without width.

    Problems are drawn with replacement, so the interval holds both sources of doubt: which problems are in the set,
    and how the n completions of each happened to fall. Differences of two models per problem may be given too; that
    is the paired comparison.

    The bootstrap knows no other problems than these: of 24 that all failed it makes an interval from 0 to 0. So where
    each problem is solved or not, the interval is Clopper and Pearson's exact one, 0 to 14 % there. Where all have
    the same value in between, or the same difference: if a share u of all problems were unlike these, n draws would
    have missed them with probability (1 - u)^n, so u is at most 1 - 0.025^(1/n), 14 % for 24, and these may be anywhere
    on the scale. A single problem tells nothing about others: the whole scale.

    Args:
        least: the smallest value possible, -1 for differences; the largest is 1.
    """
    import numpy as np  # here, so that `dail eval --help` needs none

    mean = float(np.mean(values))
    if len(values) == 1:
        return Interval(mean, least, 1.0)
    if least == 0 and set(values) <= {0.0, 1.0}:
        return Interval(mean, *_share(round(sum(values)), len(values)))
    if max(values) - min(values) < _SAME:
        mean, unseen = values[0], 1 - ((1 - LEVEL) / 2) ** (1 / len(values))
        return Interval(mean, mean - unseen * (mean - least), mean + unseen * (1 - mean))
    low, high = np.quantile(resampled(values, seed) / len(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def resampled(values: Sequence[float], seed: int) -> np.ndarray:
    """Sums over draws with replacement [RESAMPLES]. One seed draws the same problems of every list of one length."""
    import numpy as np

    drawn = np.random.default_rng(seed).integers(0, len(values), size=(RESAMPLES, len(values)))
    sums: np.ndarray = np.asarray(values, float)[drawn].sum(axis=1)
    return sums


def _share(num_solved: int, num_problems: int) -> tuple[float, float]:
    """Clopper and Pearson's interval: the shares under which so many solved problems, or more, or fewer, may happen."""
    import numpy as np

    counts = np.arange(num_problems + 1)
    log_ways = np.array([math.lgamma(num_problems + 1) - math.lgamma(k + 1) - math.lgamma(num_problems - k + 1)
                         for k in range(num_problems + 1)])  # fmt: skip

    def edge(tail: slice, rises: bool) -> float:
        low, high = 0.0, 1.0
        for _ in range(60):  # of bisection, to the last bit
            share = (low + high) / 2
            chances = np.exp(log_ways + counts * math.log(share) + (num_problems - counts) * math.log1p(-share))
            is_below = (chances[tail].sum() < (1 - LEVEL) / 2) == rises
            low, high = (share, high) if is_below else (low, share)
        return (low + high) / 2

    return (
        edge(slice(num_solved, None), rises=True) if num_solved else 0.0,
        edge(slice(None, num_solved + 1), rises=False) if num_solved < num_problems else 1.0,
    )
