"""The experiment's figures as `dail paper` keeps results, for the column "ours" of its table of contents."""

from collections.abc import Iterable, Mapping
from typing import Any

import demo_path  # noqa: F401

from dail.serve.paper.contents import JudgedOn
from dail.serve.paper.results import Judged, Results

MODEL = "deploy/world/model"
RUNS = {
    "base": "base",
    "direct": "DAIL, direct",
    "mixed": "DAIL, mixed",
    "sft": "SFT",
    "star": "STaR",
    "direct-nll": "NLL, direct",
    "mixed-nll": "NLL, mixed",
    "privileged-kl": "privileged KL, mixed",
    "negative-kl": "negative KL, mixed",
}
"""A run of deploy/paper → the experiment's arm that does the same at this scale."""
PLACES: tuple[tuple[JudgedOn, str], ...] = (("test", "harder"), ("test", "other"), ("test", "same"), ("train", "train"))
"""What `dail paper` judges on, and the groups that stand for it; the first is shown where an exhibit names none."""
TEMPERATURE = 0.6
_REPORT = "deploy/world/README.md"


def as_results(figures: Mapping[str, Any], num_problems: int, hotter: Iterable[float]) -> Results:
    """Args: of figures.json; of each group; the base model's other temperatures."""
    heats = {TEMPERATURE: "base", **{heat: f"base, temperature {heat:g}" for heat in hotter}}

    def judged(run: str, arm: str, place: JudgedOn, group: str, heat: float = TEMPERATURE) -> Iterable[Judged]:
        for k in (1, 8):
            mean, low, high = (value / 100 for value in figures[arm][group][f"pass@{k}"])
            yield Judged(run=run, judged_on=place, group=group, num_problems=num_problems, temperature=heat,
                         budget=None, k=k, mean=mean, low=low, high=high, report=_REPORT)  # fmt: skip

    found = [one for run, arm in RUNS.items() for place, group in PLACES for one in judged(run, arm, place, group)]
    found += [one for heat, arm in heats.items() for one in judged("base", arm, "temperatures", "harder", heat)]
    found += judged("direct", RUNS["direct"], "temperatures", "harder")
    return Results(study="verifiable", model=MODEL, judged=tuple(found))
