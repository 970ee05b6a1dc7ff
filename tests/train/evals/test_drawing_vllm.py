"""Penalties, budgets and stop strings on real vLLM with the demo model, against what follows by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dail.synth.config import EngineConfig
from dail.synth.engine.base import Engine, SequenceKey, TokenSequence
from dail.synth.method.prompts import Prompts, decoder
from dail.synth.rollout.reference import Reference
from dail.synth.rollout.stop_strings import Stops
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.completer import Completer, Drawn, Request
from dail.train.evals.config import EvalConfig
from dail.train.evals.problems import EvalProblem, read_problems
from tests.conftest import DEMO_MODEL, ROOT
from tests.train.evals.test_forcing import run

pytestmark = pytest.mark.vllm

TOKENS = 60


@pytest.fixture(scope="module")
def problems() -> list[EvalProblem]:
    return list(read_problems(ROOT / "deploy" / "demo" / "eval_problems.jsonl").items[:3])


@pytest.fixture
def borrowed(demo_engine: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[EngineConfig, int | None], Engine]:
    monkeypatch.setattr(demo_engine, "close", lambda: None)
    return lambda asked, rank: demo_engine


def drawn(engine: Engine, requests: Sequence[Request]) -> dict[str, Drawn]:
    completer = Completer(engine, decoder(DEMO_MODEL))
    for request in requests:
        completer.add(request)
    found = list[Drawn]()
    while completer.pending():
        found += completer.step()
    return {one.unit_id: one for one in found}


def by_hand(reference: Reference, prompt: list[int], penalty: float) -> list[int]:
    """The likeliest token, of all logits less the penalty of those that were written before."""
    ids: list[int] = []
    for _ in range(TOKENS):
        logits = [float(logit) for logit in reference.logits([*prompt, *ids])]
        for token in set(ids):
            logits[token] -= penalty
        ids.append(max(range(len(logits)), key=logits.__getitem__))
    return ids


@pytest.mark.parametrize("penalty", [2.0, -2.0])
def test_a_presence_penalty_does_what_it_does_by_hand(
    demo_engine: Any, prompts: Prompts, problems: list[EvalProblem], penalty: float
) -> None:
    prompt, reference = prompts.student_ids(problems[0].problem), Reference(DEMO_MODEL)
    plain = TokenSequence(SequenceKey("plain"), prompt, TOKENS, 0.0, 0, frozenset())
    asked = [Request(plain), Request(replace(plain, key=SequenceKey("penalised"), presence_penalty=penalty))]
    found = drawn(demo_engine, asked)
    assert found["penalised"].ids == by_hand(reference, prompt, penalty)
    assert found["plain"].ids == by_hand(reference, prompt, 0.0) != found["penalised"].ids


def test_a_stop_string_ends_a_sequence_where_its_text_first_holds_it(
    demo_engine: Any, prompts: Prompts, problems: list[EvalProblem]
) -> None:
    spelled = decoder(DEMO_MODEL)
    plain = TokenSequence(SequenceKey("whole"), prompts.student_ids(problems[0].problem), 120, 1.0, 7, frozenset())
    whole = drawn(demo_engine, [Request(plain)])["whole"].ids
    stop = (spelled(whole[60:63]),)  # what it writes there, which may stand somewhere before
    end = Stops(spelled).find(whole, stop, 0)
    steps, step = [0], demo_engine.step
    demo_engine.step = lambda: (steps.append(0), step())[1]
    cut = drawn(demo_engine, [Request(replace(plain, key=SequenceKey("cut")), stop)])["cut"]
    del demo_engine.step
    assert (cut.ids, cut.reason) == (whole[:end], "stop")
    assert len(steps) < 100, "it was drawn to its end"


def test_budgets_side_by_side_are_what_each_is_alone(
    tmp_path: Path, model: ModelIdentity, borrowed: Any, problems: list[EvalProblem]
) -> None:
    def asked(*budgets: int) -> EvalConfig:
        engine = EngineConfig(model=DEMO_MODEL, dtype="float32")
        return EvalConfig(
            engine=engine, budgets=budgets, samples=2, opening="<think>", presence_penalty=0.5, top_p=0.95, top_k=20,
            answer_tokens=12, announce="\n\nFinal answer: \\boxed{",
        )  # fmt: skip

    together = run(asked(8, 20), tmp_path / "all", model, borrowed, problems)
    for budget in (8, 20):
        alone = run(asked(budget), tmp_path / str(budget), model, borrowed, problems)
        for place, one in alone.items():
            assert one.completion.text == together[place].completion.text
    texts = [one.completion.text for one in together.values()]
    assert all("</think>\n\nFinal answer: \\boxed{" in text for text in texts)
    assert all(one.completion.forced for place, one in together.items() if place[0] == 8)
    assert {one.completion.forced for place, one in together.items() if place[0] == 20} == {True, False}
