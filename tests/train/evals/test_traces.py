"""Token pieces for every tokenizer, and traces from a manifest."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel

from dail.synth.core.errors import IntegrityError
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import ModelIdentity
from dail.train.evals.traces import NUM_TRACES, Token, _instead, some_traces, token_pieces
from tests.train.evals.conftest import trace_row, write_manifest


def byte_tokenizer() -> Tokenizer:
    """One token per byte: every character beyond ASCII is split."""
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Tokenizer(BPE({letter: number for number, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    return tokenizer


BYTES = byte_tokenizer()


def decode_bytes(ids: list[int]) -> str:
    return BYTES.decode(ids)


def test_a_split_character_goes_to_the_token_that_completes_it() -> None:
    assert token_pieces(BYTES.encode("a€b").ids, decode_bytes) == ["a", "", "", "€", "b"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40))
def test_joined_pieces_are_the_decoded_text_for_any_bytes(ids: list[int]) -> None:
    pieces = token_pieces(ids, decode_bytes)
    assert (len(pieces), "".join(pieces)) == (len(ids), decode_bytes(ids))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_each_character_is_whole_in_one_piece(text: str) -> None:
    pieces = token_pieces(BYTES.encode(text).ids, decode_bytes)
    assert [piece for piece in pieces if piece] == list(text)


def test_a_tokenizer_that_drops_its_first_space_loses_no_other() -> None:
    words = Tokenizer(WordLevel({"▁one": 0, "▁two": 1, "s": 2}, unk_token="s"))
    words.decoder = MetaspaceDecoder()
    assert token_pieces([0, 1, 2, 0], words.decode) == ["one", " two", "s", " one"]


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


def test_a_refused_proposal_is_shown_as_it_would_have_stood_there() -> None:
    words = Tokenizer(WordLevel({"▁one": 0, "▁two": 1, "s": 2}, unk_token="s"))
    words.decoder = MetaspaceDecoder()
    assert [_instead([0, 1, 2], place, 1, words.decode) for place in (0, 1, 2)] == ["two", " two", " two"]
    assert "the student proposed “␣”, which was refused" in Token("a", 1.0, None, None, " ").about
    assert "the student proposed “↵”, which was refused" in Token("a", 1.0, None, None, "\n").about
