"""Token pieces for every tokenizer, and traces from a manifest."""

from __future__ import annotations

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
from dail.train.evals.traces import NUM_TRACES, some_traces, token_pieces
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
    (shard,) = tmp_path.glob("shards/*/*/*.parquet")
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
