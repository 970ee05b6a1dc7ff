"""Traces from a manifest, token by token."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from dail.synth.core.errors import IntegrityError
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.traces import NUM_TRACES, Token, some_traces
from tests.train.evals.conftest import trace_row, write_manifest


def test_traces_come_from_all_over_the_manifest(trained: Path, prompts: Prompts) -> None:
    path = trained.parent.parent / "out" / "manifests" / "batch-1" / "v1.json"
    manifest, traces = some_traces(path, prompts.tokenizer.decode)
    assert (manifest.rows, len(traces)) == (20, NUM_TRACES)
    assert traces[0].row.item_id == "lock-0" and traces[-1].row.item_id == "lock-18"
    assert "".join(token.text for token in traces[0].tokens) == traces[0].row.trace_text


def test_a_damaged_shard_is_refused(tmp_path: Path, prompts: Prompts, model: ModelIdentity) -> None:
    path = write_manifest(tmp_path, [trace_row(prompts, model, 1, (1.0,))], model)
    (shard,) = tmp_path.glob("shards/*/*.parquet")
    shard.write_bytes(b"PAR1")
    with pytest.raises(IntegrityError, match="is damaged"):
        some_traces(path, prompts.tokenizer.decode)


def test_unknown_writers_do_not_count_in_the_student_s_share(
    tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    rows = [trace_row(prompts, model, 1, (None,)), trace_row(prompts, model, 2, (1.0, None))]
    _, (unknown, known) = some_traces(write_manifest(tmp_path, rows, model), prompts.tokenizer.decode)
    assert (unknown.row.student_share, known.row.student_share) == (None, 1.0)
    assert unknown.tokens[0].shade == "unknown" and "writer unknown" in unknown.tokens[0].about


@pytest.mark.parametrize(
    ("logprob", "wanted"),
    [
        (0.0, "0 (100 %)"),
        (-0.0, "0 (100 %)"),
        (-0.0004, "−0.0004 (99.96 %)"),
        (-1.1920929e-07, "−0.000000119 (99.999988 %)"),
        (-1e-15, "−1e−15 (> 99.99999999999 %)"),
        (-1e-12, "−1e−12 (99.9999999999 %)"),
        (-0.105, "−0.105 (90 %)"),
        (-2.0, "−2 (13.5 %)"),
        (-12.5, "−12.5 (0.000373 %)"),
        (-30.0, "−30 (9.36e−12 %)"),
        (-1234.5, "−1234 (< 1e−300 %)"),
        (-math.inf, "−∞ (0 %)"),
        (math.nan, "not a number"),
        (None, "not computed"),
    ],
)
def test_a_log_probability_is_told_from_none_and_from_all(logprob: float | None, wanted: str) -> None:
    said = Token("x", 1.0, logprob, None).about
    assert said.split(" · ")[1] == f"student {wanted}"


def test_a_probability_that_is_not_1_is_never_shown_as_100_percent() -> None:
    for power in range(1, 15):
        said = Token("x", 1.0, -(10.0**-power), None).about
        assert "(100" not in said and "-" not in said and "−0 " not in said


def test_a_refused_proposal_is_shown_with_what_has_no_ink() -> None:
    assert "the student proposed “␣”, which was refused" in Token("a", 1.0, None, None, " ").about
    assert "the student proposed “↵”, which was refused" in Token("a", 1.0, None, None, "\n").about
