"""From manifest to batches: what is refused, and what a batch is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from dail.synth.core.errors import DailError, IntegrityError, UsageError
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.models import ModelIdentity, identify
from dail.train.data import (
    Example,
    ModelLimits,
    TrainingSet,
    load_examples,
    microbatches,
    pad,
    reference_input,
    student_tokens,
)
from tests.conftest import Told
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest, trace_row, write_manifest, write_together

LIMITS = ModelLimits(CONTEXT, VOCABULARY)
CPU = torch.device("cpu")


@pytest.fixture
def model(tiny_model: Path) -> ModelIdentity:
    return identify(tiny_model)


def read(manifest: Path, model: ModelIdentity) -> TrainingSet:
    return load_examples(manifest, model, LIMITS)


def test_rows_become_examples_in_the_manifest_s_order(make_manifest: MakeManifest, model: ModelIdentity):
    data = read(make_manifest(5), model)
    rows = [trace_row(f"{i:032x}", model, seed=i) for i in range(5)]
    assert [e.unit_id for e in data.examples] == [row.unit_id for row in rows]
    assert data.examples[3].negative_prompt_ids == rows[3].negative_prompt_ids
    assert data.mean_trace_tokens == sum(len(row.trace_ids) for row in rows) / 5


@pytest.mark.parametrize(
    ("changes", "kind", "says"),
    [
        ({"tokenizer_hash": "sha256:beef"}, UsageError, "tokenizer sha256:beef"),
        ({"model_revision": "sha256:cafe"}, UsageError, "model revision sha256:cafe"),
        ({"trace_ids": ()}, IntegrityError, "trace_ids is empty"),
        ({"student_prompt_ids": ()}, IntegrityError, "student_prompt_ids is empty"),
        ({"trace_ids": (3, VOCABULARY)}, IntegrityError, f"trace_ids has id {VOCABULARY}"),
        ({"negative_prompt_ids": (3, -1)}, IntegrityError, "negative_prompt_ids has id -1"),
        (
            {"privileged_prompt_ids": (1,) * (CONTEXT - 1), "trace_ids": (1, 2)},
            UsageError,
            f"privileged_prompt_ids and trace have {CONTEXT + 1} tokens, the model reads {CONTEXT}",
        ),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_refused_by_shard(
    make_manifest: MakeManifest,
    model: ModelIdentity,
    changes: dict[str, object],
    kind: type[DailError],
    says: str,
):
    manifest = make_manifest(3, **changes)
    with pytest.raises(kind, match=says) as refusal:
        read(manifest, model)
    key = read_manifest(manifest).shards[2].key
    assert f"shard {key}, unit {2:032x}" in str(refusal.value)


def test_what_a_step_trains_on_does_not_depend_on_how_the_traces_lie_in_shards(tmp_path: Path, model: ModelIdentity):
    rows = [trace_row(f"{i:032x}", model, seed=i) for i in (3, 0, 2, 1)]
    alone = read(write_manifest(tmp_path / "alone", model, rows), model)
    together = read(write_together(tmp_path / "together", model, rows), model)
    assert together.examples == alone.examples and len(together.examples) == 4


def test_a_row_that_no_manifest_names_is_never_trained_on(tmp_path: Path, model: ModelIdentity):
    rows = [trace_row(f"{i:032x}", model, seed=i) for i in range(3)]
    fenced = trace_row(f"{1:032x}", model, seed=7)  # another attempt at the same unit: in the same shard, not named
    manifest = write_together(tmp_path, model, [rows[0], fenced, *rows[1:]], without={1})
    examples = read(manifest, model).examples
    assert [example.trace_ids for example in examples] == [row.trace_ids for row in rows]
    assert fenced.trace_ids not in {example.trace_ids for example in examples}


def test_another_chat_template_is_no_reason_to_refuse(make_manifest: MakeManifest, model: ModelIdentity):
    assert len(read(make_manifest(3, template_hash="sha256:0"), model).examples) == 3


def test_a_sequence_of_exactly_the_context_is_taken(make_manifest: MakeManifest, model: ModelIdentity):
    manifest = make_manifest(1, privileged_prompt_ids=(1,) * (CONTEXT - 2), trace_ids=(1, 2))
    assert read(manifest, model).examples[0].trace_ids == (1, 2)


def test_a_damaged_shard_is_refused(make_manifest: MakeManifest, model: ModelIdentity):
    manifest = make_manifest(2)
    shard = next(manifest.parents[2].glob("shards/**/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\0")
    with pytest.raises(IntegrityError, match="damaged"):
        read(manifest, model)


def test_a_changed_manifest_is_refused(make_manifest: MakeManifest, model: ModelIdentity):
    manifest = make_manifest(2)
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "rows": 1}))
    with pytest.raises(IntegrityError, match="was changed"):
        read(manifest, model)


def test_a_manifest_without_shards_is_refused(tmp_path: Path, model: ModelIdentity):
    with pytest.raises(UsageError, match="lists no traces"):
        read(write_manifest(tmp_path, model, []), model)


def test_a_missing_manifest_is_refused(tmp_path: Path, model: ModelIdentity):
    with pytest.raises(UsageError, match="does not exist"):
        read(tmp_path / "v1.json", model)


def test_each_epoch_visits_every_trace_once_in_another_order(make_manifest: MakeManifest, model: ModelIdentity):
    data = read(make_manifest(10), model)
    epochs = [[e.unit_id for step in range(3 * n, 3 * n + 3) for e in data.batch(0, step, 4)] for n in range(3)]
    assert all(sorted(epoch) == sorted(e.unit_id for e in data.examples) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [len(data.batch(0, step, 4)) for step in range(4)] == [4, 4, 2, 4]


def test_a_batch_depends_on_seed_and_step_alone(make_manifest: MakeManifest, model: ModelIdentity):
    data = read(make_manifest(10), model)
    late = data.batch(0, 7, 4)
    data.batch(1, 2, 4)
    assert data.batch(0, 7, 4) == late != data.batch(1, 7, 4)


def example(prompt: int, trace: int) -> Example:
    return Example("u", (1,) * prompt, (2,) * (prompt + 3), (3,) * (prompt + 1), (4,) * trace)


def test_microbatches_keep_the_order_and_the_token_limit():
    batch = [example(2, 3), example(2, 8), example(1, 4), example(5, 95)]
    parts = microbatches(batch, 20, student_tokens)
    assert [e for part in parts for e in part] == batch
    assert [len(part) for part in parts] == [2, 1, 1]  # 2 × 10 fits, 3 × 10 does not; one trace always goes
    assert [len(part) for part in microbatches(batch, 400, student_tokens)] == [4]


def test_padding_is_on_the_right_and_spans_predict_the_trace():
    padded = pad([[5, 6], [7]], [[1, 2, 3], [4]], CPU)
    assert padded.ids_BT.tolist() == [[5, 6, 1, 2, 3], [7, 4, 0, 0, 0]]
    positions = torch.arange(10).reshape(2, 5, 1)
    assert padded.trace_positions(positions)[:, 0].tolist() == [1, 2, 3, 5]


def test_reference_input_holds_the_contexts_of_one_reference_after_the_other():
    padded = reference_input([example(1, 2), example(2, 1)], ("privileged", "negative"), CPU)
    assert padded.ids_BT.tolist() == [
        [2, 2, 2, 2, 4, 4],
        [2, 2, 2, 2, 2, 4],
        [3, 3, 4, 4, 0, 0],
        [3, 3, 3, 4, 0, 0],
    ]


@pytest.mark.parametrize("context", ["student_prompt_ids", "privileged_prompt_ids", "negative_prompt_ids"])
def test_a_trace_that_is_too_long_is_left_out_where_that_is_allowed(
    make_manifest: MakeManifest, model: ModelIdentity, told: Told, context: str
):
    manifest = make_manifest(4, **{context: (1,) * (CONTEXT - 1), "trace_ids": (1, 2)})
    with pytest.raises(UsageError, match=rf"{context} and trace have .* set train\.too_long=drop to leave such"):
        read(manifest, model)
    data = load_examples(manifest, model, LIMITS, "drop")
    assert [e.unit_id for e in data.examples] == [f"{i:032x}" for i in range(3)] and data.num_dropped == 1
    said = f"1 of 4 traces are left out.* than the {CONTEXT} tokens that the model reads; the longest has {CONTEXT + 1}"
    assert re.search(said, told())


def test_where_nothing_is_too_long_nothing_is_left_out_or_said(
    make_manifest: MakeManifest, model: ModelIdentity, told: Told
):
    manifest = make_manifest(3, privileged_prompt_ids=(1,) * (CONTEXT - 2), trace_ids=(1, 2))
    data = load_examples(manifest, model, LIMITS, "drop")
    assert len(data.examples) == 3 and data.num_dropped == 0 and "left out" not in told()


def test_leaving_out_does_not_excuse_other_faults(make_manifest: MakeManifest, model: ModelIdentity):
    manifest = make_manifest(3, privileged_prompt_ids=(VOCABULARY,) * CONTEXT)
    with pytest.raises(IntegrityError, match=f"has id {VOCABULARY}"):
        load_examples(manifest, model, LIMITS, "drop")


def test_a_manifest_of_which_every_trace_is_left_out_is_refused(make_manifest: MakeManifest, model: ModelIdentity):
    with pytest.raises(UsageError, match=r"trained on: of 3, 3 are longer than the model reads"):
        load_examples(make_manifest(3), model, ModelLimits(5, VOCABULARY), "drop")


def test_a_context_of_the_shards_is_a_reference_by_its_name(make_manifest: MakeManifest, model: ModelIdentity):
    named = ({"name": "wrong_hint", "ids": (7, 8)}, {"name": "answer_only", "ids": (9,)})
    manifest = make_manifest(1, contexts=named)
    (found,) = load_examples(manifest, model, LIMITS, references=("privileged", "wrong_hint")).examples
    assert found.context("wrong_hint") == (7, 8) and found.contexts.keys() == {"wrong_hint"}
    read = reference_input([found], ("wrong_hint", "student"), CPU).ids_BT.tolist()
    assert read[0][: 2 + len(found.trace_ids)] == [7, 8, *found.trace_ids]
    assert read[1][: len(found.student_prompt_ids)] == list(found.student_prompt_ids)


def test_a_reference_that_a_shard_lacks_is_refused_with_those_that_it_has(
    make_manifest: MakeManifest, model: ModelIdentity
):
    manifest = make_manifest(2, contexts=({"name": "wrong_hint", "ids": (7, 8)},))
    with pytest.raises(
        UsageError,
        match=r"shard .* has no context wrong_hint, which references names; it has privileged, negative, student; take",
    ):
        load_examples(manifest, model, LIMITS, references=("privileged", "wrong_hint"))


@pytest.mark.parametrize(
    ("ids", "kind", "says"),
    [
        ((), IntegrityError, "context wrong_hint is empty"),
        ((VOCABULARY,), IntegrityError, f"context wrong_hint has id {VOCABULARY}"),
        ((1,) * CONTEXT, UsageError, "context wrong_hint and trace have"),
    ],
)
def test_a_named_context_is_checked_where_it_is_used_alone(
    make_manifest: MakeManifest, model: ModelIdentity, ids: tuple[int, ...], kind: type[DailError], says: str
):
    manifest = make_manifest(1, contexts=({"name": "wrong_hint", "ids": ids},))
    assert read(manifest, model).examples
    with pytest.raises(kind, match=says):
        load_examples(manifest, model, LIMITS, references=("wrong_hint",))


def test_a_context_that_is_no_reference_makes_no_trace_too_long(make_manifest: MakeManifest, model: ModelIdentity):
    manifest = make_manifest(1, negative_prompt_ids=(1,) * CONTEXT)
    with pytest.raises(UsageError, match="negative_prompt_ids and trace have"):
        read(manifest, model)
    assert load_examples(manifest, model, LIMITS, references=("privileged",)).examples
