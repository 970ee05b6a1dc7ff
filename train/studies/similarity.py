"""Which problems of a pool are those of an evaluation, and which of them are nearly each other (paper App. A).

By the cosine of SentenceBERT embeddings, or without an embedder by `dail.synth.data.overlap`: equal but for case,
spacing and empty LaTeX, or 70 % of the runs of eight words. The second finds copies, and no other wording.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np

from dail.synth.data.overlap import Problems
from dail.train.studies.embedder import Embedder, Vectors

Measure = Literal["cosine", "equal", "runs of eight words"]
COSINE: Measure = "cosine"
EQUAL: Measure = "equal"
RUNS: Measure = "runs of eight words"


class Near(NamedTuple):
    """A problem of the pool, one that it is near to, and how near by which measure. `of`: the other one's set."""

    id: str
    of: str
    other: str
    score: float
    measure: Measure


class Similarity(Protocol):
    """How two problems are compared; `told` is its name for people."""

    @property
    def told(self) -> str: ...

    def flagged(self, pool: Mapping[str, str], of: str, others: Mapping[str, str]) -> Iterator[Near]:
        """Every pair of a problem of the pool and one of the others that are near; texts by name."""
        ...

    def repeats(self, pool: Mapping[str, str]) -> Iterator[Near]:
        """Pairs of a problem and an earlier one of the pool that are near; the nearest at least."""
        ...


class ByEmbedding:
    """Cosines from `threshold` on are near, within the pool from `repeat_threshold` on."""

    def __init__(self, embedder: Embedder, threshold: float, repeat_threshold: float, kept: Path | None) -> None:
        self.embedder, self._kept = embedder, kept
        self._known: dict[str, Vectors] = {}
        self._threshold, self._repeat_threshold = threshold, repeat_threshold

    @property
    def told(self) -> str:
        return f"cosine of SentenceBERT embeddings ({self.embedder.ref.name}), from {self._threshold:g} on"

    def flagged(self, pool: Mapping[str, str], of: str, others: Mapping[str, str]) -> Iterator[Near]:
        theirs, names = self._vectors(others), list(others)
        for name, row in zip(pool, self._vectors(pool) @ theirs.T, strict=True):
            for number in np.flatnonzero(row >= self._threshold):
                yield Near(name, of, names[number], round(float(row[number]), 4), COSINE)

    def repeats(self, pool: Mapping[str, str]) -> Iterator[Near]:
        vectors, names = self._vectors(pool), list(pool)
        for number in range(1, len(names)):
            cosines = vectors[:number] @ vectors[number]
            for earlier in np.flatnonzero(cosines >= self._repeat_threshold):
                yield Near(names[number], "", names[earlier], round(float(cosines[earlier]), 4), COSINE)

    def _vectors(self, texts: Mapping[str, str]) -> Vectors:
        fresh = [text for text in dict.fromkeys(texts.values()) if text not in self._known]
        if fresh:
            self._known.update(zip(fresh, self.embedder.embed(fresh, self._kept), strict=True))
        return np.stack([self._known[text] for text in texts.values()])


class ByWording:
    """The fallback: it knows copies by their words."""

    told = "shared wording (equal, or 70 % of the runs of eight words): a fallback, as no embedder is named"

    def flagged(self, pool: Mapping[str, str], of: str, others: Mapping[str, str]) -> Iterator[Near]:
        index = Problems(others)
        for name, text in pool.items():
            if near := _near(index, text):
                yield Near(name, of, *near)

    def repeats(self, pool: Mapping[str, str]) -> Iterator[Near]:
        index, earlier = Problems(pool), set[str]()
        for name, text in pool.items():
            if near := index.near(text, earlier):  # equal ones were joined
                yield Near(name, "", near[0], round(near[1], 4), RUNS)
            earlier.add(name)


def _near(index: Problems, text: str) -> tuple[str, float, Measure] | None:
    if (same := index.equal(text)) is not None:
        return same, 1.0, EQUAL
    near = index.near(text)
    return None if near is None else (near[0], round(near[1], 4), RUNS)
