"""A trace row made by hand; its text is not only ASCII."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest

from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow

ROW: dict[str, Any] = {
    "unit_id": "0" * 32,
    "batch_id": "b",
    "item_id": "i",
    "sample_index": 0,
    "problem": "∑ 1/n²?\r\n",
    "solution": "$\\zeta(2)$",
    "answer": None,
    "answer_found": "nowhere",
    "kind": "proof",
    "waypoints": ("n^{2}", "6"),
    "privileged": None,
    "dropped": (),
    "shown": "solution",
    "shown_share": 1.0,
    "waypoints_from": "own",
    "other_item": None,
    "other_solution": None,
    "wrong_answer": None,
    "source": None,
    "license": "CC0-1.0",
    "metadata": '{"level": 3}',
    "student_prompt_ids": (1, 2),
    "privileged_prompt_ids": (1, 2, 3),
    "negative_prompt_ids": (1, 2**31 - 1),
    "contexts": ({"name": "wrong_hint", "ids": (1, 4)},),
    "trace_ids": (5, 6),
    "student_prob": (1.0, None),
    "rejected_ids": (None, 7),
    "student_logprob": (-0.5, None),
    "privileged_logprob": (None, -1.5),
    "trace_text": "so 𝜋²/6",
    "token_texts": ("so 𝜋", "²/6"),
    "rejected_texts": (None, "³"),
    "prompt": ({"role": "user", "content": "∑?"},),
    "completion": ({"role": "assistant", "content": "so"},),
    "finish_reason": "stop",
    "truncated": False,
    "method": "mixed",
    "strategy": "lockstep",
    "prompts": "paper",
    "extractor": "paper",
    "acceptance": "absolute",
    "tau": 0.8,
    "acceptance_k": 25,
    "temperature": 0.6,
    "probability_space": "raw",
    "top_p": 1.0,
    "top_k": 0,
    "proposer": "student",
    "proposals": 1,
    "greedy_proposals": False,
    "suppressed_ids": (),
    "stop": ("∎",),
    "max_tokens": 256,
    "thinking": None,
    "template_args": "{}",
    "date": None,
    "opening": "",
    "drop_empty_thought": False,
    "probe_hash": "",
    "seed": 2**63 - 1,
    "model_name": "m",
    "model_revision": "r",
    "student_revision": None,
    "tokenizer_hash": "t",
    "template_hash": "c",
    "config_fingerprint": "f",
    "engine": "fake",
    "tool_version": "0",
    "created_at": dt.datetime(2026, 1, 1, 12, 0, 0, 123456, dt.UTC),
}


@pytest.fixture
def row() -> TraceRow:
    return TraceRow.model_validate(ROW)


@pytest.fixture
def model() -> ModelIdentity:
    return ModelIdentity(name="m", revision="r" * 40, tokenizer_hash="sha256:t", template_hash="sha256:c")
