"""`dail export`: each form's columns, what is left out and told, and an export that is whole or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from datasets import load_dataset

from dail.serve.cli import dail
from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.export.export import export
from dail.synth.export.forms import FORMS
from dail.synth.export.rebuild import CUT, PROMPT, SAME
from dail.synth.schema.manifest import manifest_key, read_rows
from tests.conftest import Told
from tests.synth.export.conftest import Draw, Shape, model_folder


@pytest.fixture
def shape(tmp_path: Path) -> Shape:
    return Shape(model_folder(tmp_path / "model", "demo"), None)


def load(folder: Path) -> list[dict[str, Any]]:
    data = load_dataset(str(folder), split="train", cache_dir=str(folder.parent / "cache"))
    return [dict(row) for row in data]


def run(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(dail, ["export", *map(str, arguments)], standalone_mode=False)
    if isinstance(done.exception, UsageError | IntegrityError):
        return done.exception.exit_code, "", str(done.exception)
    return done.return_value or 0, done.stdout, done.stderr


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("format", ["parquet", "jsonl"])
def test_every_form_is_read_by_datasets_in_each_of_its_formats(
    draw: Draw, shape: Shape, form: str, format: str, tmp_path: Path
):
    root = draw(shape)
    if format not in FORMS[form].formats:
        with pytest.raises(UsageError, match=f"{form} is not read from {format}; wanted parquet"):
            export(root, form, tmp_path / "it", format=format)
        return
    exported = export(root, form, tmp_path / "it", format=format)
    rows = load(tmp_path / "it")
    assert len(rows) == exported.rows and set(rows[0]) == set(FORMS[form].schema.names)
    assert (tmp_path / "it" / exported.file).is_file() and exported.file.endswith(format)


def test_verl_gets_problems_with_their_answers_and_no_proof(draw: Draw, shape: Shape, tmp_path: Path, told: Told):
    root = draw(shape, samples_per_item=2)
    exported = export(root, "verl", tmp_path / "verl", model=shape.folder)
    (row,) = load(tmp_path / "verl")
    assert row["reward_model"] == {"style": "rule", "ground_truth": "7"}
    assert row["data_source"] == "locks" and row["prompt"][-1]["role"] == "user"
    assert row["extra_info"]["item_id"] == "lock" and row["extra_info"]["index"] == 0
    assert sum(exported.left_out.values()) == 1 and "without an answer" in told()
    assert exported.rebuilt == {SAME: 1}
    assert "1 expert solutions without an answer" in (tmp_path / "verl" / "README.md").read_text()


def test_where_messages_do_not_give_the_prompts_texts_do(draw: Draw, tmp_path: Path):
    """A template that counts renderings stands for one that prints what the other trainer does not know, as a date."""
    folder = model_folder(tmp_path / "model", "llama3")
    shape = Shape(folder, None, "answer")
    root = draw(shape)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("{{- bos_token }}", "{{- bos_token }}Tomorrow. "))
    exported = export(root, "trl-sdft", tmp_path / "sdft", model=folder)
    assert exported.rebuilt == {SAME: 2}
    first = {row.item_id: row for row in read_rows(root / manifest_key("b", 1))}
    for row in load(tmp_path / "sdft"):
        wanted = first[row["item_id"]]
        for name, ids in (("prompt", wanted.student_prompt_ids), ("privileged_context", wanted.privileged_prompt_ids)):
            assert shape.tokenizer(text=row[name])["input_ids"] == list(ids)
    assert "Prompts are rendered texts" in (tmp_path / "sdft" / "README.md").read_text()
    assert export(root, "verl", tmp_path / "verl", model=folder).rebuilt == {PROMPT: 1}
    assert export(root, "openai", tmp_path / "openai", model=folder).rebuilt == {PROMPT: 2}


def test_what_neither_messages_nor_texts_give_back_is_refused(draw: Draw, shape: Shape, tmp_path: Path):
    root = draw(shape)
    other = model_folder(tmp_path / "other", "demo")
    file = json.loads((other / "tokenizer.json").read_text())
    file["model"]["merges"] = []
    (other / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(UsageError, match=r"0 of 2 rows give the same ids.*export --for trl-sft"):
        export(root, "trl-sdft", tmp_path / "sdft", model=other)
    assert not (tmp_path / "sdft").exists() and not list(tmp_path.glob(".*.new"))


def test_cut_traces_are_told_of_and_left_out_on_demand(draw: Draw, shape: Shape, tmp_path: Path, told: Told):
    root = draw(shape, cut=True)
    assert export(root, "openai", tmp_path / "all", model=shape.folder).rebuilt == {CUT: 2}
    assert "0 of 2 rows give the same ids" in told()
    with pytest.raises(UsageError, match=r"no trace of .* is left to write: 2 are traces that were cut"):
        export(root, "openai", tmp_path / "whole", finished=True)
    assert not (tmp_path / "whole").exists()
    assert export(root, "verl", tmp_path / "verl", finished=True).rows == 1  # which holds no trace


def test_what_was_not_tried_is_said(draw: Draw, shape: Shape, tmp_path: Path, told: Told):
    root = draw(shape)
    assert export(root, "openai", tmp_path / "openai").rebuilt is None
    assert "not tried" in told() and "not tried" in (tmp_path / "openai" / "README.md").read_text()
    assert export(root, "trl-sft", tmp_path / "sft").rebuilt is None
    assert "not tried" not in told()


def test_the_card_says_where_the_traces_come_from_and_how_to_train(draw: Draw, shape: Shape, tmp_path: Path):
    root = draw(shape)
    exported = export(root, "trl-sft", tmp_path / "sft")
    card = (tmp_path / "sft" / "README.md").read_text()
    assert "| locks | MIT | 1 |" in card and "| not said | not said | 1 |" in card
    assert "max_length=None" in card and exported.manifest_digest in card
    assert f"the longest of {exported.longest} tokens" in card
    assert str(tmp_path) not in card + (tmp_path / "sft" / "export.json").read_text()


def test_a_manifest_and_the_folder_of_its_only_batch_mean_the_same(draw: Draw, shape: Shape, tmp_path: Path):
    root = draw(shape)
    a, b = (
        export(source, "trl-sft", tmp_path / str(n)) for n, source in enumerate((root, root / manifest_key("b", 1)))
    )
    assert a == b
    other = root / manifest_key("c", 1)
    other.parent.mkdir()
    other.write_bytes((root / manifest_key("b", 1)).read_bytes())
    code, _, said = run(root, "--for", "openai", "--out", tmp_path / "several")
    assert code == 2 and "holds 2 batches" in said and str(other) in said


def test_wrong_sources_and_targets_are_refused(draw: Draw, shape: Shape, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    code, _, said = run(tmp_path / "empty", "--for", "openai", "--out", tmp_path / "x")
    assert code == 2 and "no batch in it has ended" in said
    root = draw(shape)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    code, _, said = run(root, "--for", "openai", "--out", tmp_path / "mine")
    assert code == 2 and "is there already" in said and (tmp_path / "mine" / "thesis.tex").exists()
    code, _, said = run(root, "--for", "openai", "--out", tmp_path / "x", "--model", tmp_path / "empty")
    assert code == 2 and "tokenizer" in said and not (tmp_path / "x").exists()
    next((root / "shards").rglob("*.parquet")).write_bytes(b"torn")
    code, _, said = run(root, "--for", "openai", "--out", tmp_path / "x")
    assert code == 1 and "damaged" in said and not (tmp_path / "x").exists() and not list(tmp_path.glob(".x*"))


def test_an_empty_folder_is_filled_and_figures_come_as_json(draw: Draw, shape: Shape, tmp_path: Path):
    root = draw(shape)
    (tmp_path / "sft").mkdir()
    code, out, said = run(root, "--for", "trl-sft", "--out", tmp_path / "sft", "--json")
    assert code == 0, said
    figures = json.loads(out)
    assert (figures["rows"], figures["file"], figures["rebuilt"]) == (2, "data/train.parquet", None)
    assert figures == {"out": str(tmp_path / "sft"), **json.loads((tmp_path / "sft" / "export.json").read_text())}
