"""Which tau to take: the paper's rule (App. B.2) made explicit, with its reason in words.

The paper takes the value with the best correctness on the training set outside the region in which traces are like
those of direct sampling and cite the reference solution. Here, step by step:

1. A value whose traces cite more often than `max_leak` is out.
2. Of the others the one with the best correctness is the best.
3. If no other is clearly worse, nothing can be told: the paper's 0.8. Clearly: the 95 % interval of the difference,
   paired by item, lies above zero. The intervals hold for all pairs of values together (by bootstrap, after Tukey): of
   twenty values that are alike the best one looks better than some others by chance alone.
4. Else, of those within one standard error of the best, the one where the student wrote most: a trace that is nearer to
   what the student would write is nearer to what it can learn, which is what mixed rollouts are for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dail.synth.core.config import Frozen
from dail.train.evals.passk import LEVEL, Interval, bootstrap, resampled
from dail.train.studies.taus import PAPERS


@dataclass(frozen=True)
class Candidate:
    """A value of tau. `correct`: by item, the share of its traces that are correct; `leak`: of all traces, the share
    that cites. `student_share`: none where nobody knows who wrote what."""

    tau: float
    correct: Mapping[str, float]
    leak: Interval
    student_share: float | None


class Excluded(Frozen):
    tau: float
    why: str


class Shortfall(Frozen):
    """By how much a value's correctness is below the best one's, paired by item; `error`: its standard error.

    The 95 % intervals hold for all pairs of values together.
    """

    tau: float
    mean: float
    low: float
    high: float
    error: float

    @property
    def is_clear(self) -> bool:
        return self.low > 0


class Recommendation(Frozen):
    """`tau` is none where no value can be recommended; `decided` says whether these traces decided it.

    `reason`: sentences. `tied`: the values within one standard error of the best, itself included.
    """

    tau: float | None
    decided: bool
    reason: tuple[str, ...]
    best: float | None = None
    tied: tuple[float, ...] = ()
    shortfalls: tuple[Shortfall, ...] = ()
    excluded: tuple[Excluded, ...] = ()


def recommend(candidates: Sequence[Candidate], max_leak: float, seed: int) -> Recommendation:
    """Of values that were drawn on the same items.

    Args:
        max_leak: the largest share of traces that may cite.
        seed: of the bootstrap over items.
    """
    most = max((len(one.correct) for one in candidates), default=0)
    excluded = tuple(Excluded(tau=one.tau, why=why) for one in candidates if (why := _why_out(one, max_leak, most)))
    out = {one.tau for one in excluded}
    left = [one for one in candidates if one.tau not in out]
    if not left:
        why = "No value is left to recommend: each was left out. Read the traces that cite before taking any."
        return Recommendation(tau=None, decided=False, reason=(why,), excluded=excluded)
    best = max(left, key=lambda one: (_mean(one), _by_student(one)))
    shortfalls = _shortfalls(left, best, seed)
    known = {"best": best.tau, "shortfalls": shortfalls, "excluded": excluded}
    if not any(one.is_clear for one in shortfalls):
        return _undecided(left, best, excluded, known)
    tied = [best, *(one for one in left for short in shortfalls if short.tau == one.tau and _is_tied(short))]
    is_known = all(one.student_share is not None for one in tied)
    chosen = max(tied, key=_by_student) if is_known else min(tied, key=lambda one: one.tau)
    return Recommendation(
        tau=chosen.tau, decided=True, tied=tuple(sorted(one.tau for one in tied)),
        reason=tuple(_decided(chosen, best, tied, shortfalls, excluded)), **known,
    )  # fmt: skip


def _why_out(one: Candidate, max_leak: float, num_items: int) -> str | None:
    if not one.correct:
        return "it has no trace whose answer could be judged"
    if 2 * len(one.correct) < num_items:
        return f"it has judged traces of {len(one.correct)} of {num_items} items, too few to compare"
    if one.leak.mean <= max_leak:
        return None
    sure = "clearly" if one.leak.low > max_leak else "by its estimate, if not clear of chance,"
    return (
        f"{_share(one.leak.mean)} of its traces cite the solution or a hint (95 % interval {_share(one.leak.low)} to "
        f"{_share(one.leak.high)}), {sure} more than calibrate.max_leak, {_share(max_leak)}"
    )


def _shortfalls(left: Sequence[Candidate], best: Candidate, seed: int) -> tuple[Shortfall, ...]:
    """Of all but the best, on the items that all have."""
    items = sorted(set[str].intersection(*(set(one.correct) for one in left)))
    others = [one for one in left if one is not best]
    if len(items) < 2:
        return tuple(Shortfall(tau=one.tau, mean=0.0, low=-1.0, high=1.0, error=1.0) for one in others)
    widest, found = _widest(left, items, seed), []
    for one in others:
        lost = [best.correct[item] - one.correct[item] for item in items]
        alone = bootstrap(lost, seed, least=-1.0)
        # as if there were no difference: around the mean it would be too small just where chance made the mean large
        error = math.sqrt(sum(value**2 for value in lost)) / len(items)
        found.append(
            Shortfall(
                tau=one.tau,
                mean=alone.mean,
                low=max(-1.0, min(alone.low, alone.mean - widest * error)),
                high=min(1.0, max(alone.high, alone.mean + widest * error)),
                error=error,
            )
        )
    return tuple(found)


def _widest(left: Sequence[Candidate], items: Sequence[str], seed: int) -> float:
    """How many standard errors the difference of some pair is from its mean, at most, in 95 of 100 resamples."""
    import numpy as np

    means_KB = np.stack([resampled([one.correct[item] for item in items], seed) for one in left])
    means_KB = means_KB - means_KB.mean(1, keepdims=True)
    most_B = np.zeros(means_KB.shape[1])
    for one_B, other_B in itertools.combinations(means_KB, 2):
        if (error := (one_B - other_B).std()) > 0:
            most_B = np.maximum(most_B, np.abs(one_B - other_B) / error)
    return float(np.quantile(most_B, LEVEL))


def _is_tied(short: Shortfall) -> bool:
    return not short.is_clear and short.mean <= short.error


def _by_student(one: Candidate) -> tuple[float, float]:
    """The more the student wrote the larger; where nobody knows, the smaller tau."""
    return one.student_share or 0.0, -one.tau


def _undecided(
    left: Sequence[Candidate], best: Candidate, excluded: Sequence[Excluded], known: Mapping[str, object]
) -> Recommendation:
    if len(left) == 1:
        said = f"{best.tau:g} is the only value left, so that nothing was compared."
        return Recommendation.model_validate({**known, "tau": best.tau, "decided": False, "reason": (said,)})
    said = (
        f"Nothing can be told: no value is clearly less correct than the best, {best.tau:g} with "
        f"{_share(_mean(best))}; the 95 % intervals of all differences, paired by item, hold zero."
    )
    if not any(_mean(one) for one in left):
        said = "Nothing can be told: no trace of any value is correct."
    if any(one.tau == PAPERS for one in excluded):
        more = f"The paper's {PAPERS:g} is left out as well, so that no value is recommended. Draw more items."
        return Recommendation.model_validate({**known, "tau": None, "decided": False, "reason": (said, more)})
    beside = "" if any(one.tau == PAPERS for one in left) else ", though it was not among the values"
    more = (
        f"So {PAPERS:g}, the paper's value for all its models, is named{beside}. More items or samples would tell more."
    )
    return Recommendation.model_validate({**known, "tau": PAPERS, "decided": False, "reason": (said, more)})


def _decided(
    chosen: Candidate,
    best: Candidate,
    tied: Sequence[Candidate],
    shortfalls: Sequence[Shortfall],
    excluded: Sequence[Excluded],
) -> list[str]:
    outside = "of the values that do not cite too much" if excluded else "of all values"
    said = [f"{best.tau:g} is the most correct {outside}: {_share(_mean(best))}."]
    if len(tied) > 1:
        others = sorted(one.tau for one in tied if one is not best)
        share = chosen.student_share
        why = "the smallest, as it is not known who wrote what"
        if share is not None and all(one.student_share is not None for one in tied):
            why = f"where the student wrote most ({_share(share)} of the tokens)"
        said.append(
            f"Within one standard error of it {'lies' if len(others) == 1 else 'lie'} "
            f"{', '.join(f'{tau:g}' for tau in others)}; of these and it, {chosen.tau:g} is taken, {why}."
        )
    clear = [one.tau for one in shortfalls if one.is_clear]
    said.append(f"Clearly less correct than it, paired by item: {', '.join(f'{tau:g}' for tau in clear)}.")
    return said


def _mean(one: Candidate) -> float:
    return sum(one.correct.values()) / len(one.correct)


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"
