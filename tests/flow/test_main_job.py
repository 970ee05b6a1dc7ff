"""The main job on real parts: HTTP, Ray, vLLM, Parquet, PEFT. A worker is killed on the way."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

from dail.synth.data.reader import load_items
from dail.synth.engine.base import Draw, SequenceKey, TokenSequence
from dail.synth.schema.manifest import read_manifest, read_rows
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS, ROOT
from tests.flow.conftest import BIN, dail, running, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

ITEMS, SAMPLES = 12, 6
WORKER = (BIN / "dail", "worker", "--model", DEMO_MODEL, "--set", "engine.rows=8", "--set", "engine.dtype=float32")


@pytest.fixture(scope="module")
def batch(api):
    items = [json.loads(line) for line in EXPERT_SOLUTIONS.read_text().splitlines()[:ITEMS]]
    synthesis = {"samples_per_item": SAMPLES, "max_tokens": 200, "thinking": False, "temperature": 1.0}
    reply = api.post("/v1/batches", json={"model": "demo", "items": items, "synthesis": synthesis})
    assert reply.status_code == 201, reply.text
    return reply.json()


@pytest.fixture(scope="module")
def finished(api, batch):
    """The batch after one worker was killed in the middle and a second one did the rest."""

    def state():
        return api.get(f"/v1/batches/{batch['id']}").json()

    with running(*WORKER, "--api", api.base_url) as first:
        wait_for(lambda: state()["units"]["committed"] >= 5)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    half = state()["units"]["committed"]
    assert 5 <= half < ITEMS * SAMPLES, "the kill must come in the middle"
    with running(*WORKER, "--api", api.base_url):
        return wait_for(lambda: (now := state())["status"] == "completed" and now)


@pytest.fixture(scope="module")
def adapter(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("train")
    done = dail("train", "--model", DEMO_MODEL, "--manifest", finished["manifest"]["path"], "--out", out,
                "--set", "epochs=1", "--set", "lr=1e-3", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gives the rollout's log-probabilities again" in done.stderr
    return Path(json.loads(done.stdout)["adapter"])


def test_every_unit_is_there_exactly_once_after_a_kill(api, finished):
    rows = list(read_rows(Path(finished["manifest"]["path"])))
    counted = Counter((row.item_id, row.sample_index) for row in rows)
    ids = [item.id for item in load_items(EXPERT_SOLUTIONS)[:ITEMS]]
    assert counted == Counter((item, sample) for item in ids for sample in range(SAMPLES))
    shards = api.get(f"/v1/batches/{finished['id']}/shards").json()["data"]
    assert len({shard["unit_id"] for shard in shards}) == len(shards) == ITEMS * SAMPLES
    assert finished["request_counts"]["completed"] == ITEMS


def test_rows_hold_what_the_trainer_and_a_reader_need(finished):
    row = next(read_rows(Path(finished["manifest"]["path"])))
    assert len(row.trace_ids) == len(row.student_prob) == len(row.student_logprob) == len(row.privileged_logprob)
    assert all(0.0 <= source <= 1.0 for source in row.student_prob)
    assert row.prompt[-1].content.startswith(row.problem)
    # with thinking off the chat template writes an empty thought itself, which is a part of the turn
    assert row.completion[0].content == f"<think>\n\n</think>\n\n{row.trace_text}"
    assert row.waypoints and row.answer not in row.waypoints
    assert len({len(ids) for ids in (row.student_prompt_ids, row.privileged_prompt_ids, row.negative_prompt_ids)}) == 3
    assert (
        row.engine.startswith("vllm ")
        and row.engine.endswith(("float32", "bfloat16"))
        and row.strategy == "lazy"
        and row.tau == 0.8
    )


def test_results_are_json_lines_with_text_and_ids(api, finished):
    lines = [json.loads(line) for line in api.get(f"/v1/batches/{finished['id']}/results").text.splitlines()]
    assert len(lines) == ITEMS * SAMPLES
    manifest = api.get(f"/v1/batches/{finished['id']}/manifest").json()
    assert manifest["digest"] == read_manifest(Path(finished["manifest"]["path"])).digest


def test_the_adapter_gives_the_same_tokens_and_log_probabilities_in_peft_and_in_vllm(adapter, finished, adapter_engine):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    ids = list(next(read_rows(Path(finished["manifest"]["path"]))).student_prompt_ids)
    base = AutoModelForCausalLM.from_pretrained(DEMO_MODEL, dtype=torch.float32).eval()
    model = PeftModel.from_pretrained(base, adapter).eval()
    whole = model.generate(torch.tensor([ids]), max_new_tokens=40, do_sample=False, eos_token_id=None)[0]
    with torch.no_grad():
        logprobs = model(whole[None]).logits[0].log_softmax(-1)
    expected = logprobs[len(ids) - 1 : -1].gather(-1, whole[len(ids) :, None])[:, 0]
    key = SequenceKey("adapter")
    greedy = TokenSequence(key, ids, 40, 0.0, 1, frozenset(), draw=Draw("student"), adapter=str(adapter))
    adapter_engine.add(greedy)
    done = []
    while not done:
        done = adapter_engine.step()
    assert done[0].tokens.ids == whole[len(ids) :].tolist()
    assert done[0].tokens.student_logprob == pytest.approx(expected.tolist(), abs=1e-3)


def test_eval_loads_base_and_adapter_and_writes_the_report(adapter, tmp_path):
    problems = tmp_path / "problems.jsonl"
    lines = (ROOT / "deploy" / "demo" / "eval_problems.jsonl").read_text().splitlines()
    problems.write_text("\n".join([lines[0], lines[-1]]))  # a short and a long one
    done = dail("eval", "--model", DEMO_MODEL, "--adapter", adapter, "--problems", problems, "--out", tmp_path / "eval",
                "--samples", 4, "--no-thinking", "--json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {row["group"] for row in json.loads(done.stdout)["groups"]} >= {"short", "long"}
    page = (tmp_path / "eval" / "report.html").read_text()
    assert "pass@k" in page and "<svg" in page
