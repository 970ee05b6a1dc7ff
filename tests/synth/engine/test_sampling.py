"""What was drawn is kept until it is asked for, row by row."""

from __future__ import annotations

import torch

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
