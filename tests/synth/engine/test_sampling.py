"""What was sampled is kept until it is asked for, sequence by sequence, and nobody waits for the device in between."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dail.synth.engine.base import Draw, SequenceKey, TokenSequence
from dail.synth.engine.sampling import BatchSampler, Slot
from dail.synth.schema.synthesis import Acceptance

A, B = (SequenceKey(unit, part="privileged") for unit in "ab")


def sampled(steps: int) -> tuple[BatchSampler, dict[SequenceKey, list[int]]]:
    """Two sequences alone for so many steps; their tokens."""
    sampler, tokens = BatchSampler(torch.device("cpu")), {A: [], B: []}
    alone = [
        TokenSequence(key, [1], 9, 1.0, seed, frozenset(), draw=Draw("privileged")) for seed, key in enumerate(tokens)
    ]
    sampler.index({at: Slot(one, tokens[one.key]) for at, one in enumerate(alone)})
    for _ in range(steps):
        step(sampler, tokens)
    return sampler, tokens


def step(sampler: BatchSampler, tokens: dict[SequenceKey, list[int]]) -> None:
    picked = sampler.apply(torch.zeros(2, 7)).argmax(-1).tolist()
    for written, token in zip(tokens.values(), picked, strict=True):
        written.append(token)


def test_what_ended_is_given_whole_and_of_what_runs_all_but_the_last_token_once():
    sampler, tokens = sampled(3)
    first = sampler.take([A], [B]).sampled
    assert (first[A].tokens.ids, first[B].tokens.ids) == (tokens[A], tokens[B][:2])
    step(sampler, tokens)
    second = sampler.take([], [B]).sampled
    assert second.keys() == {B} and second[B].tokens.ids == tokens[B][2:3]
    step(sampler, tokens)
    assert sampler.take([B]).sampled[B].tokens.ids == tokens[B][3:]


def test_what_is_asked_for_alone_leaves_the_others_whole():
    sampler, tokens = sampled(2)
    nobody = SequenceKey("nobody")
    assert sampler.take([A, nobody]).sampled.keys() == {A}
    step(sampler, tokens)
    assert sampler.take([B]).sampled[B].tokens.ids == tokens[B]


def pair_of(key: SequenceKey, written: list[list[int]]) -> list[Slot]:
    rule = Acceptance("absolute", 0.5, 0, False)
    halves = [
        TokenSequence(key._replace(part=role), [1], 9, 1.0, 0, frozenset(), draw=Draw(role, rule, is_paired=True))
        for role in ("student", "privileged")
    ]
    return [Slot(one, tokens) for one, tokens in zip(halves, written, strict=True)]


def both(sampler: BatchSampler, written: list[list[int]], steps: int) -> None:
    for _ in range(steps):
        token, other = sampler.apply(torch.zeros(2, 7)).argmax(-1).tolist()
        assert token == other
        written[0].append(token)
        written[1].append(token)


def test_desynchronised_pairs_are_told_of_with_what_both_wrote():
    sampler, written, key = BatchSampler(torch.device("cpu")), [[], []], SequenceKey("u", part="privileged")
    sampler.index(dict(enumerate(pair_of(key, written))))
    both(sampler, written, steps=2)
    written[0].append(3)  # the privileged student's sequence was held up
    sampler.apply(torch.zeros(2, 7))
    taken = sampler.take([SequenceKey("someone else")])
    assert taken.desynchronised == {key}
    assert taken.sampled[key].tokens.ids == written[1][:1], "the last one may be sampled again"


def test_a_pair_whose_sequences_were_held_up_one_after_the_other_is_desynchronised_though_both_are_far_as_each_other():
    """Each was stepped once without the other, so they hold different tokens at one position."""
    sampler, written, key = BatchSampler(torch.device("cpu")), [[], []], SequenceKey("u", part="privileged")
    pair = pair_of(key, written)
    sampler.index(dict(enumerate(pair)))
    both(sampler, written, steps=3)
    for half, token in ((0, 5), (1, 6)):
        sampler.index({0: pair[half]})
        sampler.apply(torch.zeros(1, 7))
        written[half].append(token)
        sampler.index({})
        sampler.apply(torch.zeros(0, 7))
    sampler.index(dict(enumerate(pair)))
    sampler.apply(torch.zeros(2, 7))
    taken = sampler.take([], [key])
    assert taken.desynchronised == {key} and taken.sampled[key].tokens.ids == written[0][:2]
    sampler.take([], [])
    assert sampler.take([], []).desynchronised == set(), "forgotten once it does not run"


def test_what_runs_and_is_desynchronised_gives_every_token_once():
    """It is asked for on both accounts, after a token of it was kept back before."""
    sampler, written, key = BatchSampler(torch.device("cpu")), [[], []], SequenceKey("u", part="privileged")
    sampler.index(dict(enumerate(pair_of(key, written))))
    both(sampler, written, steps=3)
    first = sampler.take([], [key]).sampled[key].tokens.ids
    both(sampler, written, steps=3)
    written[0].append(3)  # one of them was held up
    sampler.apply(torch.zeros(2, 7))
    taken = sampler.take([], [key])
    assert taken.desynchronised == {key}
    assert [*first, *taken.sampled[key].tokens.ids] == written[1][:5]


class Crossings(TorchDispatchMode):
    """Counts what goes to a device and comes from it. The device is `meta`, whose tensors hold nothing: whatever would
    make the host wait for a value (`item`, `bool`, a mask as an index, `nonzero`) raises."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = self.fetched = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        where = {one.device.type for one in (*args, *(kwargs or {}).values()) if isinstance(one, torch.Tensor)}
        if (
            function is torch.ops.aten._to_copy.default
            and where == {"meta"}
            and kwargs.get("device") == torch.device("cpu")
        ):
            self.fetched += 1
            return torch.zeros(args[0].shape, dtype=args[0].dtype)
        given = function(*args, **(kwargs or {}))
        self.sent += "cpu" in where and isinstance(given, torch.Tensor) and given.device.type == "meta"
        return given


def test_a_step_sends_one_table_if_the_batch_changed_and_else_nothing_and_reads_nothing():
    """Sequences of all kinds, so that every branch of the arithmetic is taken."""
    device, tokens = torch.device("meta"), [[] for _ in range(18)]
    rules = [Acceptance(kind, 0.5, 2, tempered) for kind in ("absolute", "relative", "topk") for tempered in (0, 1)]
    keys = [SequenceKey(f"u{n}", part="privileged") for n in range(len(rules))]
    sequences = [
        TokenSequence(
            key._replace(part=role),
            [1],
            9,
            temperature,
            n,
            frozenset(),
            0.9,
            n,
            draw=Draw(role, rule, is_paired=True, proposals=1 + n % 3, proposer=("student", "privileged")[n % 2]),
            suppressed_ids=frozenset(range(n % 4)),
        )
        for n, (key, rule, temperature) in enumerate(zip(keys, rules, (0.0, 0.6, 1.0) * 2, strict=True))
        for role in ("student", "privileged")
    ]
    alone = [SequenceKey(f"a{n}", part=("student", "privileged")[n % 2]) for n in range(len(rules))]
    sequences += [
        TokenSequence(
            key, [1], 9, 0.7, n, frozenset(), draw=Draw(key.part, rule, proposals=1 + n), suppressed_ids=frozenset([n])
        )
        for n, (key, rule) in enumerate(zip(alone, rules, strict=True))
    ]
    sampler, seen = BatchSampler(device), []

    def step() -> None:
        sampler.apply(torch.empty(len(sequences), 300, device=device))
        for written in tokens:
            written.append(0)
        seen.append(crossings.sent)

    with Crossings() as crossings:
        sampler.index({at: Slot(one, tokens[at]) for at, one in enumerate(sequences)})
        for _ in range(3):
            step()
        sampler.index({at: Slot(one, tokens[at]) for at, one in enumerate(sequences) if at not in (0, 1, 15)})
        for _ in range(3):
            step()
        assert seen == [2, 2, 2, 4, 4, 4], "a table of the pairs and one of the rows alone"
        assert crossings.fetched == 0
        taken = sampler.take([keys[1], alone[2]]).sampled
        assert crossings.fetched == 1
        assert taken.keys() == {keys[1], alone[2]}
        sampler.take([], keys)
        assert crossings.fetched == 1, "what was fetched once is not fetched again"


def test_a_sequence_that_does_not_go_on_by_one_token_is_told_of_anew():
    """A prompt that is not whole yet samples its first position again."""
    sampler, tokens = sampled(2)
    again = sampler.apply(torch.zeros(2, 7)).argmax(-1).tolist()
    step(sampler, tokens)
    assert [written[-1] for written in tokens.values()] == again
    assert {key: one.tokens.ids for key, one in sampler.take([A, B]).sampled.items()} == tokens


def test_what_is_proposed_further_is_told_by_the_rows_that_propose_and_cut_with_their_tokens():
    """A row that proposes once, joined by one that proposes three times: steps are as wide as their widest row."""
    sampler, written = BatchSampler(torch.device("cpu")), {A: [], B: []}
    slots = {
        at: Slot(
            TokenSequence(key, [1], 9, 1.0, at, frozenset(), draw=Draw("privileged", None, False, often, "privileged")),
            written[key],
        )
        for at, (key, often) in enumerate([(A, 1), (B, 3)])
    }
    sampler.index({0: slots[0]})
    written[A].append(int(sampler.apply(torch.zeros(1, 7)).argmax(-1)))
    sampler.index(slots)
    for _ in range(2):
        step(sampler, written)
    taken = sampler.take([A, B]).sampled
    assert taken[A].further == [] and len(taken[A].tokens) == 3
    assert [len(proposed) for proposed in taken[B].further] == [2, 2] and taken[B].tokens.ids == written[B]
    logprobs = {proposal.logprob for proposed in taken[B].further for proposal in proposed}
    assert max(abs(one + 1.9459101) for one in logprobs) < 1e-6, "each of seven tokens has one seventh"
