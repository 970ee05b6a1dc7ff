"""Every strategy draws from one distribution: exhaustively, on a table of probabilities (paper §2.1).

A trace follows from the uniform numbers of its places, and at each place only the cell of the numbers counts: which
token each one picks for the role that proposes, and the last one for the role that verifies. So all traces there are
can be drawn, one per choice of cells, and each weighs the product of its cells' probabilities. Summed up, that is a
strategy's distribution to the last digit, with nothing left to chance. It is held against the rule written out in
float64.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from dail.synth.config import EngineConfig
from dail.synth.engine.fake import FakeEngine
from dail.synth.method import acceptance as arithmetic
from dail.synth.rollout.base import RolloutRequest
from dail.synth.rollout.pair import Pair
from dail.synth.rollout.reference import Reference
from dail.synth.rollout.select import acceptance, lazy_is_exact
from dail.synth.schema.synthesis import Synthesis

VOCABULARY = 3
LENGTHS = {
    1: 3,
    2: 2,
    5: 1,
}  # of a trace, by the number of proposals: there are 3 ** ((proposals + 1) * length) choices
STOP = 2  # ends a trace early, so that traces of several lengths are among them
STUDENT, PRIVILEGED = [7], [15]  # the two prompts
TAUS = (0.0, 0.05, 0.3, 0.5, 0.8, 0.99, 1.01)
OWN = f"{Path(__file__).parent / 'own_rules.py'}:typical"
RULES = [
    *({"acceptance": kind, "tau": tau} for kind in ("absolute", "relative") for tau in TAUS),
    *({"acceptance": "topk", "acceptance_k": k} for k in (1, 2, 3)),
    *({"acceptance": OWN, "tau": tau} for tau in (0.3, 0.8, 1.01)),
]
SEVERAL = [
    *({"acceptance": "absolute", "tau": tau, "proposals": 5} for tau in (0.3, 0.5)),
    {"acceptance": "absolute", "tau": 0.8, "proposals": 2},
    {"acceptance": "relative", "tau": 0.3, "proposals": 5},
    {"acceptance": "topk", "acceptance_k": 2, "proposals": 2},
    {"acceptance": OWN, "tau": 0.8, "proposals": 5},
]
TURNED = [  # the privileged student proposes
    *({"acceptance": "absolute", "tau": tau, "proposer": "privileged"} for tau in (0.3, 0.5)),
    {"acceptance": "topk", "acceptance_k": 2, "proposer": "privileged", "proposals": 2},
]
GREEDY = [  # the proposer walks its likeliest tokens
    *({"acceptance": "absolute", "tau": tau, "greedy_proposals": True} for tau in TAUS),
    *({"acceptance": "absolute", "tau": tau, "proposals": 2, "greedy_proposals": True} for tau in (0.3, 0.5)),
    {"acceptance": "relative", "tau": 0.3, "proposals": 5, "greedy_proposals": True},
    {"acceptance": "topk", "acceptance_k": 2, "proposals": 2, "greedy_proposals": True, "proposer": "privileged"},
    {"acceptance": "absolute", "tau": 0.5, "proposals": 2, "greedy_proposals": True, "suppress": (1,)},
    {"acceptance": OWN, "tau": 0.8, "proposals": 2, "greedy_proposals": True},
]
SUPPRESSED = 1
WITHOUT = [{**rule, "suppress": (SUPPRESSED,)} for rule in RULES] + [
    {"acceptance": "absolute", "tau": 0.5, "suppress": (SUPPRESSED,), "proposals": 2}
]


def probabilities(context) -> np.ndarray:
    return _fixed(tuple(context)).copy()


@cache
def _fixed(context: tuple[int, ...]) -> np.ndarray:
    """Of the next token, fixed for each context: peaked for the privileged student, whose top tokens vary in height."""
    role, *trace = context
    numbers = np.random.default_rng([role, *(token + 1 for token in trace)])
    weights = numbers.random(VOCABULARY) ** (6 if role == PRIVILEGED[0] else 2)
    return weights / weights.sum()


def logits(context) -> torch.Tensor:
    return _logits(tuple(context))


@cache
def _logits(context: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.log(_fixed(context))).float()


def drawn(rule: dict, context) -> np.ndarray:
    """What a role draws from: its probabilities without what is suppressed."""
    weights = probabilities(context)
    weights[list(rule.get("suppress", ()))] = 0
    return weights / weights.sum()


def roles(rule: dict) -> tuple[list[int], list[int]]:
    """The prompts of who proposes and who verifies."""
    return (PRIVILEGED, STUDENT) if rule.get("proposer") == "privileged" else (STUDENT, PRIVILEGED)


def is_accepted(rule: dict, privileged: np.ndarray, token: int) -> bool:
    """The rules, written out. `privileged` is what the model gives, and a suppressed token is nobody's match."""
    privileged = privileged.copy()
    privileged[list(rule.get("suppress", ()))] = 0
    if rule["acceptance"] == OWN:
        return privileged[token] >= rule["tau"] * math.exp((privileged * np.log(np.maximum(privileged, 1e-99))).sum())
    if rule["acceptance"] == "absolute":
        return privileged[token] >= rule["tau"]
    if rule["acceptance"] == "relative":
        return privileged[token] >= rule["tau"] * privileged.max()
    return sum(privileged >= privileged[token]) <= rule["acceptance_k"]


def at_position(rule: dict, trace: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, list[bool]]:
    """What the proposer draws from, what the verifier does, and which tokens are accepted."""
    proposing, verifying = roles(rule)
    verdicts = [is_accepted(rule, probabilities([*verifying, *trace]), token) for token in range(VOCABULARY)]
    return drawn(rule, [*proposing, *trace]), drawn(rule, [*verifying, *trace]), verdicts


def literal(rule: dict) -> dict[tuple[int, ...], float]:
    """The distribution over traces, by the rule itself: propose, keep or replace, one place after the other."""
    whole: dict[tuple[int, ...], float] = {}
    open_traces: dict[tuple[int, ...], float] = {(): 1.0}
    while open_traces:
        trace, weight = open_traces.popitem()
        if len(trace) == length(rule) or STOP in trace:
            whole[trace] = whole.get(trace, 0.0) + weight
            continue
        proposer, verifier, verdicts = at_position(rule, trace)
        left = weight  # of what came to this position, what has not been written yet
        if rule.get("greedy_proposals"):
            stands = next((token for token in walk(rule, proposer) if verdicts[token]), None)
            if stands is not None:
                open_traces[(*trace, stands)] = open_traces.get((*trace, stands), 0.0) + left
                continue
        for _ in range(0 if rule.get("greedy_proposals") else rule.get("proposals", 1)):
            for token in np.flatnonzero(verdicts).tolist():
                open_traces[(*trace, token)] = open_traces.get((*trace, token), 0.0) + left * proposer[token]
            left *= sum(proposer[token] for token in range(VOCABULARY) if not verdicts[token])
        for own in range(VOCABULARY):
            open_traces[(*trace, own)] = open_traces.get((*trace, own), 0.0) + left * verifier[own]
    return whole


def walk(rule: dict, proposer: np.ndarray) -> list[int]:
    """Its likeliest tokens, in order."""
    return [token for token in np.argsort(-proposer).tolist() if proposer[token] > 0][: rule.get("proposals", 1)]


def length(rule: dict) -> int:
    return LENGTHS[rule.get("proposals", 1)]


class Cells:
    """For every choice of cells: the numbers that make it, and what it weighs."""

    def __init__(self, rule: dict) -> None:
        proposals, places = rule.get("proposals", 1), length(rule)
        tokens = sorted(set(range(VOCABULARY)) - set(rule.get("suppress", ())))
        choices = list(itertools.product(tokens, repeat=proposals + 1))
        self.numbers = np.zeros((len(choices) ** places, places, proposals, 2))
        self.weights = np.ones(len(self.numbers))
        position = cache(lambda trace: at_position(rule, trace))
        for seed, cells in enumerate(itertools.product(choices, repeat=places)):
            trace: list[int] = []
            for place, (*proposed, own) in enumerate(cells):
                proposer, verifier, verdicts = position(tuple(trace))
                if rule.get("greedy_proposals"):  # the numbers of proposals play no part: each choice weighs alike
                    self.weights[seed] /= len(tokens) ** proposals
                for number, token in enumerate(proposed):
                    if rule.get("greedy_proposals"):
                        self.numbers[seed, place, number, 0] = (token + 0.5) / VOCABULARY
                        continue
                    self.numbers[seed, place, number, 0] = proposer[:token].sum() + proposer[token] / 2
                    self.weights[seed] *= proposer[token]
                self.numbers[seed, place, 0, 1] = verifier[:own].sum() + verifier[own] / 2
                self.weights[seed] *= verifier[own]
                if rule.get("greedy_proposals"):
                    proposed = walk(rule, proposer)
                trace.append(next((token for token in proposed if verdicts[token]), own))

    def uniforms(self, seed_P: torch.Tensor, place_P: torch.Tensor, draws: int = 2) -> torch.Tensor:
        proposal_P, place_P = place_P // arithmetic._AHEAD, place_P % arithmetic._AHEAD
        return torch.from_numpy(self.numbers)[seed_P, place_P, proposal_P]


class Table(Reference):
    def __init__(self) -> None:
        pass

    def logits(self, context):
        return logits(context)


def requests(rule: dict, number: int) -> list[RolloutRequest]:
    tau = rule.get("tau", 0.8)
    settings = Synthesis(temperature=1.0, **{"max_tokens": length(rule), **rule, "tau": 0.8}).model_copy(
        update={"tau": tau}
    )
    suppressed = frozenset(rule.get("suppress", ()))
    one = RolloutRequest("", STUDENT, PRIVILEGED, settings, 0, frozenset([STOP]), suppressed_ids=suppressed)
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
    for rule in [*RULES, *SEVERAL, *TURNED, *WITHOUT, *GREEDY]
    if is_defined(strategy, rule)
]


@pytest.mark.parametrize(("strategy", "rule"), CASES, ids=lambda value: value if isinstance(value, str) else str(value))
def test_a_strategy_draws_from_the_rules_distribution_exactly(strategy, rule, monkeypatch):
    cells = Cells(rule)
    monkeypatch.setattr(arithmetic, "uniforms", cells.uniforms)
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
    monkeypatch.setattr(arithmetic, "uniforms", cells.uniforms)
    assert distance(cells, draw(strategy, wrong, len(cells.weights)), right) > 0.01


@pytest.mark.parametrize("strategy", ["lockstep", "lazy", "draft_verify"])
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"proposals": 5}, {"proposals": 1, "max_tokens": 1}),
        ({"suppress": (SUPPRESSED,)}, {"suppress": ()}),
        ({"proposer": "privileged"}, {"proposer": "student"}),
        ({"greedy_proposals": True}, {"greedy_proposals": False}),
    ],
)
def test_a_strategy_that_did_another_thing_than_it_was_told_would_be_seen(strategy, right, wrong, monkeypatch):
    rule = {"acceptance": "absolute", "tau": 0.5, **right}
    cells = Cells(rule)
    monkeypatch.setattr(arithmetic, "uniforms", cells.uniforms)
    assert distance(cells, draw(strategy, {**rule, **wrong}, len(cells.weights)), rule) > 0.01


def test_every_acceptance_rule_is_covered_for_lazy_where_it_is_defined():
    covered = [rule for strategy, rule in CASES if strategy == "lazy" and rule in RULES]
    assert [rule["tau"] for rule in covered if rule["acceptance"] == "absolute"] == [0.5, 0.8, 0.99, 1.01]
    assert [rule["acceptance_k"] for rule in covered if rule["acceptance"] == "topk"] == [1, 2]
