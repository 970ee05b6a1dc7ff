"""`dail inspect`: what is read, chosen and written of a folder, a manifest or a shard."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path

import pytest

from dail.serve.cli import main
from dail.synth.core.errors import UsageError
from dail.synth.core.files import Objects, sha256
from dail.synth.method.prompts import decoder
from dail.synth.run.inspecting import inspect, write_page
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow, encode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef
from tests.conftest import DEMO_MODEL
from tests.synth.view.conftest import a_row


def a_batch(root: Path, rows: list[TraceRow]) -> Path:
    """A folder as `dail synth` leaves it: a shard, a manifest, and a ledger with one failure."""
    objects, data = Objects(root), encode_shard(rows)
    objects.put("shards/b/s.parquet", data)
    refs = [
        ShardRef(key="shards/b/s.parquet", row=n, rows=1, size_bytes=len(data), sha256=sha256(data),
                 unit_id=row.unit_id, item_id=row.item_id, tokens=len(row.trace_ids), attributed_tokens=0,
                 student_tokens=0)
        for n, row in enumerate(rows)
    ]  # fmt: skip
    model = ModelIdentity(name="m", revision="r", tokenizer_hash="t", template_hash="c")
    manifest = build_manifest("b", 1, model, Synthesis(), refs, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    objects.put(manifest_key("b", 1), encode_manifest(manifest))
    failed = {
        "batch_id": "b",
        "unit_id": "9" * 32,
        "item_id": "broken",
        "failure": {"code": "boom", "detail": "\x1b[31m"},
    }
    (root / "ledger.jsonl").write_text(json.dumps(failed) + "\n" + '{"torn')
    return root


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    known = {"answer": "6", "answer_found": "answer", "kind": "verifiable"}
    return a_batch(tmp_path / "out", [
        a_row(["It is ", "\\boxed{6}"], unit_id="0" * 32, item_id="a", student_prob=(1.0, 0.0), **known),
        a_row(["It is ", "\\boxed{7}\x1b[2J"], unit_id="1" * 32, item_id="a", sample_index=1, **known),
        a_row(["It"], unit_id="2" * 32, item_id="b", truncated=True, **known),
    ])  # fmt: skip


def test_traces_are_judged_and_failures_are_those_of_the_ledger(batch):
    seen = inspect(batch)
    assert [one.verdict for one in seen.all] == ["correct", "wrong", "cut", None]
    assert seen.counts == {"failed": 1, "cut": 1, "leaky": 0, "wrong": 1, "low-student": 0}
    assert "3 traces, 5 tokens; 1 failed; 1 of 3 verifiable traces right; the student wrote" in seen.said
    assert len(seen.views) == 3 and seen.num_left_out == 0


def test_items_samples_filters_and_limits_choose(batch):
    assert [one.sample for one in inspect(batch, item="a", sample=1).summaries] == [1]
    assert [one.item_id for one in inspect(batch, only="cut").summaries] == ["b"]
    assert inspect(batch, limit=1).num_left_out == 2
    with pytest.raises(UsageError, match="no item 'c'"):
        inspect(batch, item="c")
    with pytest.raises(UsageError, match="no sample 7"):
        inspect(batch, item="a", sample=7)


def test_a_shard_a_manifest_and_the_folder_show_the_same_traces(batch):
    manifest = batch / manifest_key("b", 1)
    views = [inspect(one).views for one in (batch, manifest, batch / "shards/b/s.parquet")]
    assert [[view.summary.unit_id for view in one] for one in views] == [["0" * 32, "1" * 32, "2" * 32]] * 3


def test_an_older_shard_is_read_with_its_model_and_else_as_text(tmp_path):
    decode = decoder(DEMO_MODEL)
    row = a_row(["", ""], trace_ids=(40, 41), trace_text=decode([40, 41]), token_texts=(), rejected_texts=(),
                rejected_ids=(None, 42), unit_id="0" * 32)  # fmt: skip
    batch = a_batch(tmp_path, [row])
    (plain,), (read,) = inspect(batch).views, inspect(batch, decode=decode).views
    assert plain.texts == () and plain.text == row.trace_text and plain.no_tokens
    assert "".join(read.texts) == row.trace_text and read.rejected[1] == decode([42])


def test_a_file_replaces_its_own_kind_alone(batch, tmp_path):
    seen, out = inspect(batch), tmp_path / "traces.html"
    write_page(seen, out)
    first = out.read_bytes()
    write_page(seen, out)
    assert out.read_bytes() == first
    out.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        write_page(seen, out)
    assert out.read_text() == "mine"
    write_page(seen, out, force=True)
    assert out.read_bytes() == first
    for wrong in (tmp_path, tmp_path / "no" / "where.html"):
        with pytest.raises(UsageError):
            write_page(seen, wrong)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dail", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_terminal_gets_a_table_a_verdict_on_the_run_and_the_next_command(batch, monkeypatch, capsys):
    code, out, told = run(monkeypatch, capsys, batch)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["item", "a", "a", "b", "broken"]
    assert "right" in out and "wrong" in out and "boom" in out
    assert "1 of 3 verifiable traces right" in told
    assert f"next: dail inspect {batch} --item a" in told


def test_one_trace_is_shown_by_its_writers_and_steers_no_terminal(batch, monkeypatch, capsys):
    code, out, told = run(monkeypatch, capsys, batch, "--item", "a")
    assert code == 0 and "It is ⟦\\boxed{6}⟧" in out and "2  “\\boxed{6}”" in out
    code, out, told = run(monkeypatch, capsys, batch, "--item", "a", "--sample", 1)
    assert "⟨U+001B⟩[2J" in out and "\x1b" not in out + told


def test_programs_get_an_object_and_wrong_calls_an_exit_code(batch, monkeypatch, capsys, tmp_path):
    code, out, _ = run(monkeypatch, capsys, batch, "--json", "--only", "wrong", "--out", tmp_path / "t.html")
    facts = json.loads(out)
    assert (code, facts["traces"], facts["found"], facts["counts"]["cut"]) == (0, 4, 1, 1)
    assert [one["verdict"] for one in facts["data"]] == ["wrong"] and (tmp_path / "t.html").is_file()
    for wrong in (["nowhere"], [batch / "no.parquet"], [batch, "--only", "odd"], [batch, "--item", "none"]):
        code, out, told = run(monkeypatch, capsys, *wrong)
        assert code == 2 and "rror: " in told
