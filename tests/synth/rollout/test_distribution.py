"""Every strategy draws from one distribution: exhaustively, on a table of probabilities (paper §2.1).

A trace follows from the uniform numbers of its places, and at each place only the cell of the numbers counts: which
token the first one picks for the student, and the second one for the privileged student. So all traces there are can be
drawn, one per choice of cells, and each weighs the product of its cells' probabilities. Summed up, that is a strategy's
distribution to the last digit, with nothing left to chance. It is held against the rule written out in float64.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dail.synth.config import EngineConfig
from dail.synth.engine import sampling as draws
from dail.synth.engine.fake import FakeEngine
from dail.synth.rollout import reference as reference_module
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.reference import Reference
from dail.synth.rollout.select import acceptance, lazy_is_exact
from dail.synth.schema.synthesis import Synthesis

VOCABULARY, LENGTH = 3, 3
STOP = 2  # ends a trace early, so that traces of several lengths are among them
STUDENT, PRIVILEGED = [7], [8]  # the two prompts
TAUS = (0.0, 0.05, 0.3, 0.5, 0.8, 0.99, 1.01)
OWN = f"{Path(__file__).parent / 'own_rules.py'}:typical"
RULES = [
    *({"acceptance": kind, "tau": tau} for kind in ("absolute", "relative") for tau in TAUS),
    *({"acceptance": "topk", "acceptance_k": k} for k in (1, 2, 3)),
    *({"acceptance": OWN, "tau": tau} for tau in (0.3, 0.8, 1.01)),
]


def probabilities(context) -> np.ndarray:
    """Of the next token, fixed for each context: peaked for the privileged student, whose top tokens vary in height."""
    role, *trace = context
    numbers = np.random.default_rng([role, *(token + 1 for token in trace)])
    weights = numbers.random(VOCABULARY) ** (6 if role == PRIVILEGED[0] else 2)
    return weights / weights.sum()


def logits(context) -> torch.Tensor:
    return torch.from_numpy(np.log(probabilities(context))).float()


def is_accepted(rule: dict, privileged: np.ndarray, token: int) -> bool:
    """The rules, written out."""
    if rule["acceptance"] == OWN:
        return privileged[token] >= rule["tau"] * math.exp((privileged * np.log(privileged)).sum())
    if rule["acceptance"] == "absolute":
        return privileged[token] >= rule["tau"]
    if rule["acceptance"] == "relative":
        return privileged[token] >= rule["tau"] * privileged.max()
    return sum(privileged >= privileged[token]) <= rule["acceptance_k"]


def literal(rule: dict) -> dict[tuple[int, ...], float]:
    """The distribution over traces, by the rule itself: propose, keep or replace, one place after the other."""
    whole: dict[tuple[int, ...], float] = {}
    open_traces: dict[tuple[int, ...], float] = {(): 1.0}
    while open_traces:
        trace, weight = open_traces.popitem()
        if len(trace) == LENGTH or STOP in trace:
            whole[trace] = whole.get(trace, 0.0) + weight
            continue
        student, privileged = probabilities([*STUDENT, *trace]), probabilities([*PRIVILEGED, *trace])
        for proposal in range(VOCABULARY):
            if is_accepted(rule, privileged, proposal):
                grown = (*trace, proposal)
                open_traces[grown] = open_traces.get(grown, 0.0) + weight * student[proposal]
            else:
                for own in range(VOCABULARY):
                    grown = (*trace, own)
                    open_traces[grown] = open_traces.get(grown, 0.0) + weight * student[proposal] * privileged[own]
    return whole


class Cells:
    """For every choice of cells: the numbers that make it, and what it weighs."""

    def __init__(self, rule: dict) -> None:
        self.numbers = np.zeros((VOCABULARY ** (2 * LENGTH), LENGTH, 2))
        self.weights = np.ones(len(self.numbers))
        pairs = list(itertools.product(range(VOCABULARY), repeat=2))
        for seed, cells in enumerate(itertools.product(pairs, repeat=LENGTH)):
            trace: list[int] = []
            for place, (proposal, own) in enumerate(cells):
                student, privileged = probabilities([*STUDENT, *trace]), probabilities([*PRIVILEGED, *trace])
                for role, (token, chances) in enumerate(((proposal, student), (own, privileged))):
                    self.numbers[seed, place, role] = chances[:token].sum() + chances[token] / 2
                    self.weights[seed] *= chances[token]
                trace.append(proposal if is_accepted(rule, privileged, proposal) else own)

    def uniforms(self, seed_P: torch.Tensor, place_P: torch.Tensor, draws: int = 2) -> torch.Tensor:
        return torch.from_numpy(self.numbers)[seed_P, place_P]


class Table(Reference):
    def __init__(self) -> None:
        pass

    def logits(self, context):
        return logits(context)


def requests(rule: dict, number: int) -> list[RolloutRequest]:
    tau = rule.get("tau", 0.8)
    settings = Synthesis(temperature=1.0, max_tokens=LENGTH, **{**rule, "tau": 0.8}).model_copy(update={"tau": tau})
    one = RolloutRequest("", STUDENT, PRIVILEGED, settings, 0, frozenset([STOP]))
    return [replace(one, unit_id=str(seed), seed=seed) for seed in range(number)]


def distance(cells: Cells, traces: dict[str, list[int]], rule: dict) -> float:
    """Total variation between what was drawn and the rule."""
    drawn: dict[tuple[int, ...], float] = {}
    for unit_id, trace in traces.items():
        drawn[tuple(trace)] = drawn.get(tuple(trace), 0.0) + cells.weights[int(unit_id)]
    expected = literal(rule)
    assert math.fsum(drawn.values()) == pytest.approx(1, abs=1e-12)
    return math.fsum(abs(drawn.get(trace, 0.0) - expected.get(trace, 0.0)) for trace in drawn | expected) / 2


def is_defined(strategy: str, rule: dict) -> bool:
    settings = requests(rule, 1)[0].synthesis
    if strategy == "draft_verify":
        return settings.acceptance != OWN
    return strategy != "lazy" or lazy_is_exact(acceptance(settings))


CASES = [
    (strategy, rule)
    for strategy in ("reference", "lockstep", "lazy", "draft_verify")
    for rule in RULES
    if is_defined(strategy, rule)
]


@pytest.mark.parametrize(("strategy", "rule"), CASES, ids=lambda value: value if isinstance(value, str) else str(value))
def test_a_strategy_draws_from_the_rules_distribution_exactly(strategy, rule, monkeypatch):
    cells = Cells(rule)
    monkeypatch.setattr(draws, "uniforms", cells.uniforms)
    monkeypatch.setattr(reference_module, "uniforms", cells.uniforms)
    assert distance(cells, draw(strategy, rule, len(cells.weights)), rule) < 1e-9


def draw(strategy: str, rule: dict, number: int) -> dict[str, list[int]]:
    if strategy == "reference":
        return {one.unit_id: Table().rollout(one).tokens.ids for one in requests(rule, number)}
    config = EngineConfig(model=Path("."), model_tokens=16, rows=512)
    student = FakeEngine(config, logits) if strategy == "draft_verify" else None
    pair = Pair(FakeEngine(config, logits), strategy, student, with_scores=False)
    for one in requests(rule, number):
        pair.add(one)
    traces: dict[str, list[int]] = {}
    while pair.pending():
        traces |= {rollout.unit_id: rollout.tokens.ids for rollout in pair.step()}
    return traces


@pytest.mark.parametrize("strategy", ["lockstep", "lazy", "draft_verify"])
def test_a_strategy_that_used_another_tau_would_be_seen(strategy, monkeypatch):
    right, wrong = ({"acceptance": "absolute", "tau": tau} for tau in (0.5, 0.99))
    cells = Cells(right)
    monkeypatch.setattr(draws, "uniforms", cells.uniforms)
    assert distance(cells, draw(strategy, wrong, len(cells.weights)), right) > 0.01


def test_every_acceptance_rule_is_covered_for_lazy_where_it_is_defined():
    covered = [rule for strategy, rule in CASES if strategy == "lazy"]
    assert [rule["tau"] for rule in covered if rule["acceptance"] == "absolute"] == [0.5, 0.8, 0.99, 1.01]
    assert [rule["acceptance_k"] for rule in covered if rule["acceptance"] == "topk"] == [1, 2]
