"""What was drawn is kept until it is asked for, row by row."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dail.synth.engine.base import AloneRow, PairRow, Row
from dail.synth.engine.sampling import Draws, Slot
from dail.synth.schema.synthesis import Acceptance


def drawn(steps: int) -> tuple[Draws, dict[str, list[int]]]:
    """Two rows drawn alone for so many steps; their tokens."""
    draws, tokens = Draws(torch.device("cpu")), {"a/alone": [], "b/alone": []}
    rows = [Row(name, [1], 9, 1.0, seed, frozenset(), alone=AloneRow(1)) for seed, name in enumerate(tokens)]
    draws.index({at: Slot(row, tokens[row.row_id]) for at, row in enumerate(rows)})
    for _ in range(steps):
        step(draws, tokens)
    return draws, tokens


def step(draws: Draws, tokens: dict[str, list[int]]) -> None:
    picked = draws.apply(torch.zeros(2, 7)).argmax(-1).tolist()
    for written, token in zip(tokens.values(), picked, strict=True):
        written.append(token)


def test_the_named_rows_are_taken_and_the_others_kept_whole():
    draws, tokens = drawn(3)
    first = draws.take(["a/alone", "nobody"])
    assert first.alone.keys() == {"a/alone"} and first.alone["a/alone"].token_ids == tokens["a/alone"]
    step(draws, tokens)
    rest = draws.take()
    assert rest.alone["b/alone"].token_ids == tokens["b/alone"] and rest.alone["b/alone"].start == 0
    assert rest.alone["a/alone"].token_ids == tokens["a/alone"][3:] and rest.alone["a/alone"].start == 3
    assert not draws.take().alone


def test_pairs_that_parted_are_told_of_with_what_they_wrote():
    draws, written = Draws(torch.device("cpu")), [[], []]
    rule = Acceptance("absolute", 0.5, 0, False)
    rows = [
        Row(f"u/{role}", [1], 9, 1.0, 0, frozenset(), pair=PairRow("u", role, rule))
        for role in ("student", "privileged")
    ]
    draws.index({at: Slot(row, written[at]) for at, row in enumerate(rows)})
    token = int(draws.apply(torch.zeros(2, 7)).argmax(-1)[0])
    written[0].append(token)  # the other row was held up
    draws.apply(torch.zeros(2, 7))
    taken = draws.take(["someone else"])
    assert taken.parted == {"u"} and taken.pairs["u"].token_ids == [token]


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
    """Rows of all kinds of draws, so that every branch of the arithmetic is taken."""
    device, tokens = torch.device("meta"), [[] for _ in range(18)]
    rules = [Acceptance(kind, 0.5, 2, tempered) for kind in ("absolute", "relative", "topk") for tempered in (0, 1)]
    rows = [
        Row(f"u{n}/{role}", [1], 9, temperature, n, frozenset(), 0.9, n, pair=PairRow(f"u{n}", role, rule))
        for n, (rule, temperature) in enumerate(zip(rules, (0.0, 0.6, 1.0) * 2, strict=True))
        for role in ("student", "privileged")
    ]
    rows += [Row(f"a{n}", [1], 9, 0.7, n, frozenset(), alone=AloneRow(n % 2, rule)) for n, rule in enumerate(rules)]
    draws, seen = Draws(device), []

    def step() -> None:
        draws.apply(torch.empty(len(rows), 300, device=device))
        for written in tokens:
            written.append(0)
        seen.append(crossings.sent)

    with Crossings() as crossings:
        draws.index({at: Slot(row, tokens[at]) for at, row in enumerate(rows)})
        for _ in range(3):
            step()
        draws.index({at: Slot(row, tokens[at]) for at, row in enumerate(rows) if at not in (0, 1, 15)})
        for _ in range(3):
            step()
        assert seen == [2, 2, 2, 4, 4, 4], "a table of the pairs and one of the rows alone"
        assert crossings.fetched == 0
        taken = draws.take(["u1", "a2"])
        assert crossings.fetched == 1
        assert taken.pairs.keys() == {"u1"} and taken.alone.keys() == {"a2"}
        draws.take()
        assert crossings.fetched == 1, "what was fetched once is not fetched again"


def test_a_row_that_does_not_go_on_by_one_token_is_told_of_anew():
    """A prompt that is not whole yet draws its first place again."""
    draws, tokens = drawn(2)
    again = draws.apply(torch.zeros(2, 7)).argmax(-1).tolist()
    step(draws, tokens)
    assert [written[-1] for written in tokens.values()] == again
    assert {name: record.token_ids for name, record in draws.take().alone.items()} == tokens
