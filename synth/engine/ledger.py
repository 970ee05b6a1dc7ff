"""What was sampled of every sequence that runs, held against the ids that the engine says it was given.

The sampler's records and the engine's outputs are two accounts of one thing. They meet here and nowhere else, so a
strategy gets every id once, and a disagreement cannot become a trace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from dail.synth.engine.base import FinishReason, Sampled, SequenceKey, TokenSequence
from dail.synth.schema.trace_tokens import Tokens


class Taken(NamedTuple):
    """What a sampler gives: what is new of the sequences that were asked for, by key, and pairs that are
    desynchronised, by the privileged student's key."""

    sampled: dict[SequenceKey, Sampled]
    desynchronised: set[SequenceKey]


# keys of sequences that ended, and of those that run, if they are asked for as well
Take = Callable[[list[SequenceKey], list[SequenceKey] | None], Taken]


class Ledger:
    """Args:
    take: asks the sampler, which may live in another process.
    """

    def __init__(self, take: Take) -> None:
        self._take = take
        self._ids: dict[SequenceKey, list[int]] = {}  # what was handed out of each sequence that has records
        self._followed: dict[SequenceKey, list[int]] = {}  # of each that is followed, what was not handed out yet

    def add(self, sequence: TokenSequence) -> None:
        if _has_records(sequence):
            self._ids[sequence.key] = []
        elif sequence.is_followed:
            self._followed[sequence.key] = []

    def follow(self, key: SequenceKey, new: Sequence[int]) -> None:
        """Takes down new ids of a sequence that goes on, if it is one that is followed."""
        if key in self._followed:
            self._followed[key] += new

    def drop(self, keys: Iterable[SequenceKey]) -> None:
        for key in keys:
            self._ids.pop(key, None)
            self._followed.pop(key, None)

    def end(self, ended: Sequence[tuple[TokenSequence, list[int], FinishReason]]) -> list[Sampled]:
        """Of sequences that the engine ended, with all ids that it gave them, or for those that are followed the ids
        that were not taken down: what is new, and why they ended."""
        keys = [sequence.key for sequence, _, _ in ended if _has_records(sequence)]
        if not any(sequence.draw for sequence, _, _ in ended):
            return [self._end_plain(sequence.key, ids, reason) for sequence, ids, reason in ended]
        taken = self._take(keys, None)
        given, ids_of = self._desynchronised(taken), {sequence.key: ids for sequence, ids, _ in ended}
        for sequence, ids, reason in ended:
            key = sequence.key
            if sequence.draw is None:
                given.append(self._end_plain(key, ids, reason))
            elif sequence.draw.is_paired and _privileged(key) in taken.desynchronised:
                pass  # whatever it was given last is not of the pair
            elif _has_records(sequence):
                given.append(self._end(taken.sampled.get(key, Sampled(key)), ids, reason))
            else:
                assert ids == ids_of[_privileged(key)], f"{key}: the two sequences of a pair hold different tokens"
                given.append(Sampled(key, reason=reason))
        return given

    def written(self) -> list[Sampled]:
        """What is new of the sequences that run, and pairs that are desynchronised."""
        taken = self._take([], list(self._ids))
        apart = self._desynchronised(taken)
        new = [one for key, one in taken.sampled.items() if key in self._ids and one.tokens.ids]
        for one in new:
            self._ids[one.key] += one.tokens.ids
        return [*apart, *new, *self._followed_on()]

    def _followed_on(self) -> list[Sampled]:
        new = {key: ids for key, ids in self._followed.items() if ids}
        self._followed |= {key: [] for key in new}
        return [Sampled(key, Tokens.of(ids)) for key, ids in new.items()]

    def _end_plain(self, key: SequenceKey, ids: list[int], reason: FinishReason) -> Sampled:
        return Sampled(key, Tokens.of(self._followed.pop(key, []) + ids), reason)

    def _desynchronised(self, taken: Taken) -> list[Sampled]:
        """Told once: a pair that is told is forgotten."""
        keys = [key for key in taken.desynchronised if self._ids.pop(key, None) is not None]
        return [Sampled(key, taken.sampled.get(key, Sampled(key)).tokens, "desynchronised") for key in keys]

    def _end(self, new: Sampled, ids: list[int], reason: FinishReason) -> Sampled:
        """An engine that schedules ahead samples a token behind a sequence's end, which nobody is given. At a verify
        point the engine gave a placeholder, unless that too lies behind the end."""
        before = self._ids.pop(new.key)
        length = len(ids) - len(before)
        verify = new.verify if length == len(new.tokens) + 1 else None
        new.tokens.cut(length - 1 if verify else length)
        del new.further[length:]
        wanted = ids[:-1] if verify else ids
        assert before + new.tokens.ids == wanted, f"{new.key}: other tokens were recorded than the engine was given"
        return replace(new, reason=reason, verify=verify)


def _has_records(sequence: TokenSequence) -> bool:
    """A pair has them once, under the privileged student's key."""
    draw = sequence.draw
    return draw is not None and not (draw.is_paired and draw.role == "student")


def _privileged(key: SequenceKey) -> SequenceKey:
    return key._replace(part="privileged")
