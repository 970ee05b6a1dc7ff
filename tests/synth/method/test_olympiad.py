"""All bundled olympiad problems on their whole way: file, contexts, rollouts of a fake engine, rows, shards."""

from __future__ import annotations

import hashlib
import json

import pytest

from dail.synth.config import EngineConfig
from dail.synth.data.reader import load_items
from dail.synth.engine.fake import FakeEngine
from dail.synth.method.prompts import Prompts
from dail.synth.method.waypoints import extract
from dail.synth.rollout.pair import Pair
from dail.synth.run.trace_rows import prepare, trace_row
from dail.synth.schema.boxes import final_answer
from dail.synth.schema.models import identify
from dail.synth.schema.shards import TraceRow, decode_shard, encode_shard
from dail.synth.schema.synthesis import EXTRACTED_BY, EXTRACTORS, Synthesis
from dail.synth.schema.units import Unit, unit_id
from tests.conftest import DEMO_MODEL, OLYMPIAD

TOKENS = 32


@pytest.fixture(scope="module")
def raw() -> list[dict]:
    """The file's objects, with the last message as the problem and several solutions as one text."""
    values = [json.loads(line) for line in OLYMPIAD.read_text("utf-8").splitlines()]
    for value in values:
        if isinstance(value["problem"], list):
            value["problem"] = value["problem"][-1]["content"]
        if isinstance(value["solution"], list):
            value["solution"] = "\n\n".join(value["solution"])
    return values


@pytest.fixture(scope="module")
def rows() -> list[TraceRow]:
    """One mixed rollout for each item, in the file's order."""
    prompts, model, synthesis = Prompts(DEMO_MODEL), identify(DEMO_MODEL), Synthesis(max_tokens=TOKENS, thinking=False)
    pair = Pair(FakeEngine(EngineConfig(model=DEMO_MODEL, kind="fake", model_tokens=8192)))
    prepared = {}
    for item in load_items(OLYMPIAD):
        name = unit_id(item, synthesis, model, 0)
        unit = Unit(
            unit_id=name,
            batch_id="b",
            item_id=str(item.id),
            sample=0,
            epoch=1,
            item=item,
            synthesis=synthesis,
            model=model,
        )
        prepared[name] = prepare(unit, prompts, pair.limits.model_tokens)
        pair.add(prepared[name].request)
    ended = {}
    while pair.pending():
        ended |= {rollout.unit_id: rollout for rollout in pair.step()}
    return [trace_row(prepared[name], ended[name], prompts, pair.engine_name) for name in prepared]


def test_every_problem_has_one_whole_trace(raw: list[dict], rows: list[TraceRow]):
    assert [row.item_id for row in rows] == [value["id"] for value in raw]
    assert len(rows) == len({row.unit_id for row in rows}) == 18
    for row in rows:
        size = len(row.trace_ids)
        assert 0 < size <= TOKENS
        assert (row.finish_reason, row.truncated) == ("length", True) if size == TOKENS else ("stop", False)
        assert size == len(row.student_prob) == len(row.student_logprob) == len(row.privileged_logprob)


def test_all_rows_come_back_from_one_shard(rows: list[TraceRow]):
    assert decode_shard(encode_shard(rows), "s") == rows


def test_latex_and_unicode_survive_byte_for_byte(raw: list[dict], rows: list[TraceRow]):
    texts = [(row.problem.encode(), row.solution.encode()) for row in decode_shard(encode_shard(rows), "s")]
    assert texts == [(value["problem"].encode(), value["solution"].encode()) for value in raw]
    assert any(not value.isascii() for value in OLYMPIAD.read_text("utf-8").splitlines())
    assert any(b"\\begin{align*}" in solution and b"\\\\\n" in solution for _, solution in texts)


def test_the_privileged_student_s_token_ids_hold_the_solution_verbatim(raw: list[dict], rows: list[TraceRow]):
    tokenizer = Prompts(DEMO_MODEL).tokenizer
    for value, row in zip(raw, rows, strict=True):
        assert value["solution"] in tokenizer.decode(row.privileged_prompt_ids)
        assert value["solution"] not in tokenizer.decode(row.student_prompt_ids)


def test_answers_stand_in_the_box_and_never_among_the_waypoints(raw: list[dict], rows: list[TraceRow]):
    for value, row in zip(raw, rows, strict=True):
        assert row.kind == value["kind"]
        assert row.waypoints
        if row.kind == "verifiable":
            assert final_answer(value["solution"]) == value["answer"] == row.answer
            assert row.answer not in row.waypoints
        else:
            assert row.answer is None


def test_who_made_a_problem_stays_with_its_trace(raw: list[dict], rows: list[TraceRow]):
    for value, row in zip(raw, rows, strict=True):
        assert (row.source, row.license, json.loads(row.metadata)) == (
            value["source"],
            value["license"],
            value["metadata"],
        )


def test_other_waypoints_than_before_raise_the_number_in_the_identity(raw: list[dict]):
    """Traces that were drawn with other waypoints are other training data; `EXTRACTED_BY` is what tells them apart."""
    found = [
        extract(name, value["solution"], kind, value.get("answer"))
        for name in EXTRACTORS
        for kind in ("verifiable", "proof")
        for value in raw
    ]
    assert (EXTRACTED_BY, hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]) == (2, "351e5485c2549e2f")
