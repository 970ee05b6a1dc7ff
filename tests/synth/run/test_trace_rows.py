"""From a leased unit to the row in the shard."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from pydantic import ValidationError

from dail.synth.config import EngineConfig
from dail.synth.core.errors import ItemError, UsageError
from dail.synth.engine.fake import FakeEngine
from dail.synth.method.prompts import Prompts
from dail.synth.rollout.base import Rollout
from dail.synth.rollout.pair import Pair
from dail.synth.run.trace_rows import Prepared, prepare, shard_of, trace_row
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import decode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.trace_tokens import Tokens
from dail.synth.schema.units import Unit
from tests.conftest import DEMO_MODEL


def unit(model: ModelIdentity, solution: str = "After A: 12. The lock shows \\boxed{12}.", **synthesis: Any) -> Unit:
    item = ExpertSolution(problem="Turn A.", solution=solution, answer="12", metadata={"level": 3})
    settings = Synthesis(**{"max_tokens": 50, **synthesis})
    return Unit(unit_id="u1", batch_id="b", item_id="i", sample=2, epoch=4, item=item, synthesis=settings, model=model)


def rollout(trace_ids: list[int]) -> Rollout:
    size = len(trace_ids)
    nothing = [None] * size
    tokens = Tokens(trace_ids, [1.0, *[0.25] * (size - 1)], [None, *[9] * (size - 1)], [-0.5] * size, nothing)
    return Rollout("u1", tokens, "stop", "lockstep")


def test_a_prompt_that_leaves_no_room_is_refused_with_both_numbers(prompts: Prompts, model: ModelIdentity) -> None:
    with pytest.raises(ItemError, match=r"needs \d+ tokens and the trace at least 1; the model holds 20") as caught:
        prepare(unit(model), prompts, 20)
    assert (caught.value.code, caught.value.retryable) == ("context_length_exceeded", False)


def test_a_trace_gets_what_the_longest_context_leaves(prompts: Prompts, model: ModelIdentity) -> None:
    prepared = prepare(unit(model, max_tokens=5000), prompts, 300)
    contexts = prepared.contexts
    longest = max(map(len, (contexts.student_ids, contexts.privileged_ids, contexts.negative_ids)))
    assert prepared.request.synthesis.max_tokens == 300 - longest


TWO = "Solution 1:\nIt shows 7, so \\boxed{12}.\n\nSolution 2:\n" + "After that 9. " * 80


def test_a_solution_that_is_too_long_fails_unless_it_may_lose_something(prompts: Prompts, model: ModelIdentity) -> None:
    with pytest.raises(ItemError, match=r"may have 200; the model holds 2000; .* or set too_long=drop_later_solutions"):
        prepare(unit(model, TWO, prompt_tokens=200), prompts, 2000)
    prepared = prepare(unit(model, TWO, prompt_tokens=200, too_long="drop_later_solutions"), prompts, 2000)
    row = trace_row(prepared, rollout([5, 6]), prompts, "fake")
    assert row.solution == "Solution 1:\nIt shows 7, so \\boxed{12}."
    assert row.dropped == (TWO.removeprefix(row.solution).lstrip(),)
    assert (row.kind, row.answer, row.answer_found) == ("verifiable", "12", "answer")
    assert row.waypoints == ("7",)  # of what was shown


def test_several_solutions_are_dropped_one_by_one_and_kept_in_their_order(
    prompts: Prompts, model: ModelIdentity
) -> None:
    asked = unit(model, too_long="drop_later_solutions", prompt_tokens=100)
    solutions = ("It shows 7.", "Turn. " * 40, "Turn again. " * 40)
    asked = asked.model_copy(update={"item": asked.item.model_copy(update={"solution": solutions, "answer": None})})
    prepared = prepare(asked, prompts, 2000)
    assert (prepared.item.solution, prepared.dropped) == ("It shows 7.", solutions[1:])


def test_one_long_solution_is_halved_only_by_the_policy_that_says_so(prompts: Prompts, model: ModelIdentity) -> None:
    long = "Turn A and it shows 7. " * 60 + "\\boxed{12}"
    with pytest.raises(ItemError, match="may have 150"):
        prepare(unit(model, long, prompt_tokens=150, too_long="drop_later_solutions"), prompts, 2000)
    prepared = prepare(unit(model, long, prompt_tokens=150, too_long="drop_then_halve"), prompts, 2000)
    assert prepared.contexts.longest[1] <= 150 and len(prepared.dropped) > 1
    assert prepared.item.solution_text + "".join(prepared.dropped) == long
    assert prepared.contexts.told.answer == "12"  # of the whole


def test_what_is_dropped_does_not_depend_on_what_an_engine_holds(prompts: Prompts, model: ModelIdentity) -> None:
    asked = unit(model, TWO, prompt_tokens=200, too_long="drop_later_solutions")
    assert prepare(asked, prompts, 400).dropped == prepare(asked, prompts, 4000).dropped != ()
    with pytest.raises(ItemError, match="the model holds 30"):
        prepare(asked, prompts, 30)
    with pytest.raises(ValidationError, match="too_long=drop_then_halve needs prompt_tokens"):
        unit(model, TWO, too_long="drop_then_halve")


def test_a_row_says_what_the_chat_template_was_told(prompts: Prompts, model: ModelIdentity) -> None:
    told = {"thinking": False, "opening": "So ", "drop_empty_thought": True}
    prepared = prepare(unit(model, **told, date="2026-11-26", template_args={}), prompts, 2000)
    row = trace_row(prepared, rollout([5, 6]), prompts, "fake")
    assert (row.thinking, row.opening, row.drop_empty_thought, row.date) == (False, "So ", True, "2026-11-26")
    other = trace_row(prepare(unit(model), prompts, 2000), rollout([5, 6]), prompts, "fake")
    assert row.probe_hash != other.probe_hash  # rendered otherwise


def test_the_negative_reference_must_have_room_too(
    prompts: Prompts, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = prompts.contexts(unit(model).item)
    longer = dataclasses.replace(contexts, negative_ids=[5] * 500)
    monkeypatch.setattr(prompts, "contexts", lambda *_: longer)
    assert prepare(unit(model), prompts, 501).request.synthesis.max_tokens == 1
    with pytest.raises(ItemError, match="the negative prompt needs 500 tokens"):
        prepare(unit(model), prompts, 500)


def test_a_row_says_which_tokens_could_not_be_drawn_and_how_often_the_student_proposed(
    prompts: Prompts, model: ModelIdentity
) -> None:
    (comma,) = prompts.tokenizer.encode(",", add_special_tokens=False)
    prepared = prepare(unit(model, suppress=(",", 5), proposals=5), prompts, 2000)
    assert prepared.request.suppressed_ids == {comma, 5}
    row = trace_row(prepared, rollout([6, 7]), prompts, "fake")
    assert (row.suppressed_ids, row.proposals) == (tuple(sorted([comma, 5])), 5)
    assert decode_shard(shard_of(row)[0], "s") == [row]
    with pytest.raises(UsageError, match="not one token"):
        prepare(unit(model, suppress=("The lock shows",)), prompts, 2000)
    expert = prepare(unit(model, suppress=("The lock shows",), method="expert"), prompts, 2000)
    assert expert.request.suppressed_ids == frozenset(), "nobody draws it"


def test_a_turn_that_ends_at_once_is_no_trace(prompts: Prompts, model: ModelIdentity) -> None:
    prepared = prepare(unit(model), prompts, 4096)
    with pytest.raises(ItemError) as caught:
        trace_row(prepared, rollout([next(iter(prompts.stop_ids))]), prompts, "fake")
    assert caught.value.code == "empty_trace"


def test_a_shard_reads_back_with_what_made_it(prompts: Prompts, model: ModelIdentity) -> None:
    prepared = prepare(
        unit(model, tau=0.5, seed=7, acceptance="relative", top_p=0.9, top_k=20, stop=("QED",)), prompts, 4096
    )
    ids = prompts.tokenizer.encode("The lock shows 12")
    row = trace_row(prepared, rollout(ids), prompts, "vllm 0.32.0")
    data, shard = shard_of(row)
    (read,) = decode_shard(data, shard.key)
    assert read == row
    assert read.student_prompt_ids == tuple(prepared.contexts.student_ids)
    assert read.rejected_ids == (None, *[9] * (len(ids) - 1)) and read.student_revision is None
    assert (read.acceptance, read.top_p, read.top_k, read.stop) == ("relative", 0.9, 20, ("QED",))
    assert (read.sample_index, read.tau, read.seed, read.engine) == (2, 0.5, 7, "vllm 0.32.0")
    assert (read.model_revision, read.template_hash) == (model.revision, model.template_hash)
    assert read.trace_text == "".join(read.token_texts) == "The lock shows 12"
    refused = prompts.decode([9])
    assert len(read.token_texts) == len(ids) and read.rejected_texts == (None, *[refused] * (len(ids) - 1))
    assert shard.tokens == len(ids)
    assert shard.student_tokens == pytest.approx(1 + 0.25 * (len(ids) - 1))
    assert shard.key == f"shards/b/{shard.sha256[:16]}.parquet"


def test_a_long_trace_with_control_characters_still_reads_back(prompts: Prompts, model: ModelIdentity) -> None:
    prepared: Prepared = prepare(unit(model), prompts, 4096)
    row = trace_row(prepared, rollout([5, 6, 7]), prompts, "fake")
    text = "\x1b[31m" + "x" * 100_000
    odd = row.model_copy(update={"completion": (row.completion[0].model_copy(update={"content": text}),)})
    data, shard = shard_of(odd)
    assert decode_shard(data, shard.key)[0].completion[0].content == text


def test_what_is_recorded_as_the_limit_is_what_was_asked_for(prompts: Prompts, model: ModelIdentity) -> None:
    prepared = prepare(unit(model, max_tokens=5000), prompts, 300)
    cut = dataclasses.replace(rollout([5, 6]), reason="length")
    row = trace_row(prepared, cut, prompts, "fake")
    assert (row.max_tokens, row.finish_reason, row.truncated) == (5000, "length", True)


def test_an_expert_solution_is_a_trace_that_needs_no_engine(prompts: Prompts, model: ModelIdentity) -> None:
    solution = "After A: 12. The lock shows \\boxed{12}."
    prepared = prepare(unit(model, method="expert"), prompts, 4096)
    engine = FakeEngine(EngineConfig(model=DEMO_MODEL))
    pair = Pair(engine)
    pair.add(prepared.request)
    (done,) = pair.step()
    row = trace_row(prepared, done, prompts, engine.name)
    assert row.trace_ids[-1] in prompts.stop_ids and not set(row.trace_ids[:-1]) & prompts.stop_ids
    assert prompts.tokenizer.decode(row.trace_ids[:-1]) == row.trace_text == solution
    assert (row.method, row.strategy, row.finish_reason, row.truncated) == ("expert", "none", "stop", False)
    assert set(row.student_prob) == {None}


def test_an_expert_solution_is_never_cut(prompts: Prompts, model: ModelIdentity) -> None:
    with pytest.raises(ItemError, match=r"the solution has \d+ tokens as a trace, and 5 have room"):
        prepare(unit(model, method="expert", max_tokens=5), prompts, 4096)
