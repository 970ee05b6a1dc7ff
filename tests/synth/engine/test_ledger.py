"""What the sampler recorded and what the engine was given are one thing, or nobody gets a trace."""

from __future__ import annotations

import pytest

from dail.synth.engine.base import Draw, Sampled, SequenceKey, TokenSequence, VerifyPoint
from dail.synth.engine.ledger import Ledger, Taken
from dail.synth.schema.synthesis import Acceptance
from dail.synth.schema.trace_tokens import Tokens

RULE = Acceptance("absolute", 0.5, 0, False)
PRIVILEGED, STUDENT = SequenceKey("u", part="privileged"), SequenceKey("u", part="student")
ALONE = TokenSequence(PRIVILEGED, [1], 9, 1.0, 0, frozenset(), draw=Draw("privileged", RULE))
PAIR = [
    TokenSequence(key, [1], 9, 1.0, 0, frozenset(), draw=Draw(key.part, RULE, is_paired=True))
    for key in (STUDENT, PRIVILEGED)
]
VERIFY = VerifyPoint(5, -0.1, {6: -0.2})


class Sampler:
    """Gives what it was told to give, and forgets it."""

    def __init__(self) -> None:
        self.new: dict[SequenceKey, Sampled] = {}
        self.apart: set[SequenceKey] = set()

    def put(self, ids: list[int], verify: VerifyPoint | None = None) -> None:
        self.new[PRIVILEGED] = Sampled(PRIVILEGED, Tokens.of(ids), verify=verify)

    def take(self, ended: list[SequenceKey], running: list[SequenceKey] | None) -> Taken:
        new, self.new = self.new, {}
        return Taken(new, self.apart)


@pytest.fixture
def sampler() -> Sampler:
    return Sampler()


@pytest.fixture
def ledger(sampler: Sampler) -> Ledger:
    return Ledger(sampler.take)


def test_every_id_is_given_once(sampler, ledger):
    ledger.add(ALONE)
    sampler.put([7, 8])
    assert [one.tokens.ids for one in ledger.written()] == [[7, 8]]
    sampler.put([9, 4])
    (last,) = ledger.end([(ALONE, [7, 8, 9, 4], "length")])
    assert (last.tokens.ids, last.reason, last.verify) == ([9, 4], "length", None)


def test_what_the_engine_was_not_given_was_sampled_in_vain(sampler, ledger):
    ledger.add(ALONE)
    sampler.put([7, 8, 9])
    (last,) = ledger.end([(ALONE, [7, 8], "stop")])
    assert last.tokens.ids == [7, 8]


def test_a_verify_point_stands_where_the_engine_was_given_a_placeholder(sampler, ledger):
    ledger.add(ALONE)
    sampler.put([7], VERIFY)
    (last,) = ledger.end([(ALONE, [7, 0], "stop")])
    assert (last.tokens.ids, last.verify) == ([7], VERIFY)


def test_a_verify_point_behind_the_end_is_none(sampler, ledger):
    ledger.add(ALONE)
    sampler.put([7, 8], VERIFY)
    (last,) = ledger.end([(ALONE, [7, 8], "length")])
    assert (last.tokens.ids, last.verify) == ([7, 8], None)


def test_other_tokens_than_the_engine_was_given_are_no_trace(sampler, ledger):
    ledger.add(ALONE)
    sampler.put([7, 8])
    with pytest.raises(AssertionError, match="other tokens were recorded"):
        ledger.end([(ALONE, [7, 9], "length")])


def test_a_pair_has_its_tokens_once_and_must_hold_the_same(sampler, ledger):
    for one in PAIR:
        ledger.add(one)
    sampler.put([7, 8])
    ended = ledger.end([(one, [7, 8], "length") for one in PAIR])
    assert {one.key: one.tokens.ids for one in ended} == {STUDENT: [], PRIVILEGED: [7, 8]}
    for one in PAIR:
        ledger.add(one)
    sampler.put([7, 8])
    with pytest.raises(AssertionError, match="different tokens"):
        ledger.end([(PAIR[0], [7, 9], "length"), (PAIR[1], [7, 8], "length")])


def test_a_desynchronised_pair_is_told_once_and_what_it_was_given_last_is_not_its_own(sampler, ledger):
    for one in PAIR:
        ledger.add(one)
    sampler.put([7])
    sampler.apart = {PRIVILEGED}
    told = ledger.end([(one, [7, 1 + at], "length") for at, one in enumerate(PAIR)])
    assert [(one.key, one.tokens.ids, one.reason) for one in told] == [(PRIVILEGED, [7], "desynchronised")]
    assert ledger.written() == []


def test_what_the_engine_samples_by_itself_is_passed_on_and_asks_nobody(ledger):
    plain = TokenSequence(STUDENT, [1], 9, 1.0, 0, frozenset())
    ledger.add(plain)
    (one,) = ledger.end([(plain, [3, 4], "stop")])
    assert (one.tokens.ids, one.reason) == ([3, 4], "stop")
