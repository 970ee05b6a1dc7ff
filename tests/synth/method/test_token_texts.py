"""The text of each token, for every tokenizer."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Metaspace as MetaspaceDecoder
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel

from dail.synth.method.token_texts import rejected_texts, token_texts


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
    assert token_texts(BYTES.encode("a€b").ids, decode_bytes) == ["a", "", "", "€", "b"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 255), max_size=40))
def test_joined_pieces_are_the_decoded_text_for_any_bytes(ids: list[int]) -> None:
    pieces = token_texts(ids, decode_bytes)
    assert (len(pieces), "".join(pieces)) == (len(ids), decode_bytes(ids))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=20))
def test_each_character_is_whole_in_one_piece(text: str) -> None:
    pieces = token_texts(BYTES.encode(text).ids, decode_bytes)
    assert [piece for piece in pieces if piece] == list(text)


def test_a_tokenizer_that_drops_its_first_space_loses_no_other() -> None:
    words = Tokenizer(WordLevel({"▁one": 0, "▁two": 1, "s": 2}, unk_token="s"))
    words.decoder = MetaspaceDecoder()
    assert token_texts([0, 1, 2, 0], words.decode) == ["one", " two", "s", " one"]


def test_a_refused_token_says_what_it_would_have_said_there() -> None:
    words = Tokenizer(WordLevel({"▁one": 0, "▁two": 1, "s": 2}, unk_token="s"))
    words.decoder = MetaspaceDecoder()
    assert rejected_texts([0, 1, 2], [1, 1, 1], words.decode) == ["two", " two", " two"]
    assert rejected_texts([0, 1, 2], [None, 2, None], words.decode) == [None, "s", None]
