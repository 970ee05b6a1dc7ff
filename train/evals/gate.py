"""The gate of an evaluation: an arm's completions beside those of the arm it is held against, an adapter's beside the
base model's, sign by sign, paired by problem.

A sign trips if it is beyond its threshold and the 95 % interval of the change, by bootstrap over problems, is clear of
no change at all. Of a single problem nothing can be told.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dail.train.evals.arms import BASE
from dail.train.evals.passk import LEVEL, ks, pass_at_k, resampled
from dail.train.evals.problems import EvalProblem
from dail.train.evals.results import ArmRef, ProblemResult
from dail.train.evals.run import Judged
from dail.train.gate import GateConfig, GateRecord, Signal, judged
from dail.train.signals import Counts, count_text

if TYPE_CHECKING:
    import numpy as np

Names = tuple[str, str]  # of the arm that is held against, and of the one that is judged

_FEWEST_MARKERS = 20  # of the base model: of fewer, half may be chance
_LEAST_RISE = 0.05  # of the base model's pass@k from k = 1 to the largest: where there is less, none can be lost


def compare(
    problems: Sequence[EvalProblem],
    results: Sequence[ProblemResult],
    completions: Sequence[Judged],
    arms: Sequence[ArmRef],
    config: GateConfig,
    seed: int,
) -> dict[str, GateRecord]:
    """What the gate sees, by arm. The first subject's own arms have none, since nothing tells what is healthy then."""
    pairs = [(arm.name, arm.against) for arm in arms if arm.against is not None]
    if not pairs or config.action == "off":
        return {name: GateRecord(action="off") for name, _ in pairs}
    totals = _count(problems, completions)
    return {name: _record(problems, results, totals, (against, name), config, seed) for name, against in pairs}


def _record(
    problems: Sequence[EvalProblem],
    results: Sequence[ProblemResult],
    totals: Mapping[tuple[str, str], Counts],
    names: Names,
    config: GateConfig,
    seed: int,
) -> GateRecord:
    base, adapter = ([totals[name, one.id] for one in problems] for name in names)
    both = _Both(base, adapter, names, seed)
    few = sum(one.markers for one in both.base)
    doubt = f"{_the(names[0])} has {few} of them, and {_FEWEST_MARKERS} are needed" if few < _FEWEST_MARKERS else ""
    signals: tuple[Signal, ...] = (
        both.quotient("tokens of a completion", "tokens", "texts", config.length_floor, ceiling=config.length_ceiling),
        both.quotient("share of distinct 4-grams", "distinct", "ngrams", config.distinct_floor),
        both.quotient(
            "words of self-correction per 1,000 tokens", "markers", "tokens", config.markers_floor, per=1000, note=doubt
        ),
        both.rise("share of completions that cite a solution or hint", "mentioning", config.max_mentions),
        both.rise("share of completions that go round in a loop", "looping", config.max_looping),
        both.rise("share of completions that were cut", "cut", config.max_cut_rise),
        _slope(results, names, config, seed),
    )
    if len(problems) == 1:
        alone = {"verdict": "not judged", "note": "one problem tells nothing of others"}
        signals = tuple(one.model_copy(update=alone) for one in signals)
    return GateRecord(action=config.action, signals=signals)


def _count(problems: Sequence[EvalProblem], completions: Sequence[Judged]) -> dict[tuple[str, str], Counts]:
    asked = {problem.id: problem.problem for problem in problems}
    totals: dict[tuple[str, str], Counts] = defaultdict(Counts)
    for said in (one.completion for one in completions):
        totals[said.arm, said.problem_id] += count_text(
            said.text, said.num_tokens, problem=asked[said.problem_id], is_cut=said.finish_reason == "length"
        )
    return totals


@dataclass(frozen=True)
class _Both:
    """Counts of base and adapter by problem, in one order, and what the two are called."""

    base: Sequence[Counts]
    adapter: Sequence[Counts]
    names: Names
    seed: int

    def quotient(
        self,
        name: str,
        part: str,
        whole: str,
        floor: float,
        *,
        ceiling: float = math.inf,
        per: int = 1,
        note: str = "",
    ) -> Signal:
        """Adapter ÷ base of part ÷ whole, held against the floor where it is below 1, else against the ceiling.

        Args:
            per: base's and adapter's own are told for so many of the whole.
            note: why it is not judged, if it is not.
        """
        name = f"{name}, {self.names[1]} ÷ {self.names[0]}"
        base, adapter = (_Share(counts, part, whole, self.seed) for counts in (self.base, self.adapter))
        if note or not base.value > 0 or not adapter.value >= 0:
            known = {who: per * one.value for who, one in (("base", base), ("adapter", adapter)) if one.value >= 0}
            note = note or f"{_the(self.names[0])} has none"
            return judged(name, None, floor, floor=True, note=note, **known)
        value, draws = adapter.value / base.value, adapter.draws / base.draws
        falls = value < 1 or ceiling == math.inf
        limit = floor if falls else ceiling
        return _sure(name, value, draws, 1.0, limit, falls, self.names, per * base.value, per * adapter.value)

    def rise(self, name: str, part: str, limit: float) -> Signal:
        """Adapter − base of the share of texts."""
        base, adapter = (_Share(counts, part, "texts", self.seed) for counts in (self.base, self.adapter))
        value, draws = adapter.value - base.value, adapter.draws - base.draws
        name = f"{name}, {self.names[1]} − {self.names[0]}"
        return _sure(name, value, draws, 0.0, limit, False, self.names, base.value, adapter.value)


class _Share:
    """Part ÷ whole over all problems (`value`), and over each resample of them (`draws`)."""

    def __init__(self, counts: Sequence[Counts], part: str, whole: str, seed: int) -> None:
        import numpy as np

        parts, wholes = ([getattr(one, name) for one in counts] for name in (part, whole))
        self.value = sum(parts) / sum(wholes) if sum(wholes) else math.nan
        with np.errstate(divide="ignore", invalid="ignore"):
            self.draws: np.ndarray = resampled(parts, seed) / resampled(wholes, seed)


def _sure(
    name: str,
    value: float,
    draws: Any,
    unchanged: float,
    limit: float,
    floor: bool,
    names: Names,
    base: float,
    adapter: float,
) -> Signal:
    """Beyond the limit, and by more than chance."""
    import numpy as np

    finite = draws[np.isfinite(draws)]
    ends = [float(end) for end in np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])] if len(finite) else [0, 0]
    of_both: dict[str, Any] = {"between": names, "base": base, "adapter": adapter, "low": ends[0], "high": ends[1]}
    sign = judged(name, value, limit, floor=floor, **of_both)
    if sign.verdict != "tripped" or (ends[1] < unchanged if floor else ends[0] > unchanged):
        return sign
    note = f"its interval, {ends[0]:.3g} to {ends[1]:.3g}, holds {unchanged:g}, no change"
    return sign.model_copy(update={"verdict": "ok", "note": note})


def _slope(results: Sequence[ProblemResult], names: Names, config: GateConfig, seed: int) -> Signal:
    """pass@k that rises less with k than the base model's, while its largest k gains nothing: variety was lost."""
    name = f"slope of pass@k, {names[1]} ÷ {names[0]}"
    samples = min(len(found) for one in results for found in one.judgements.values())
    most = ks(samples)[-1]
    if most == 1:
        return judged(name, None, config.slope_floor, floor=True, note="it needs 2 completions per problem")
    before, after = (
        [[pass_at_k(len(one.judgements[who]), one.num_correct[who], k) for one in results] for k in (1, most)]
        for who in names
    )
    doublings = math.log2(most)
    rises = [[(b - a) / doublings for a, b in zip(*ends, strict=True)] for ends in (before, after)]
    base, adapter = (sum(one) / len(results) for one in rises)
    if base * doublings < _LEAST_RISE:
        note = f"pass@{most} of {_the(names[0])} is hardly above its pass@1"
        return judged(name, None, config.slope_floor, floor=True, note=note)
    gain = sum(after[1]) - sum(before[1])
    lost = resampled([a - b for b, a in zip(*rises, strict=True)], seed) / len(results)
    # as a quotient of the base's own slope, so that the interval is on the scale of the value
    sign = _sure(name, adapter / base, 1 + lost / base, 1.0, config.slope_floor, True, names, base, adapter)
    if sign.verdict == "tripped" and gain > 0:
        return sign.model_copy(update={"verdict": "ok", "note": f"pass@{most} rose all the same"})
    return sign


def _the(name: str) -> str:
    return "the base model" if name == BASE else name
