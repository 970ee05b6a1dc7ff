"""The evaluation's side of an engine: stop strings, prompts that no step can prefill whole, and adapters in turn."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dail.synth.config import EngineConfig
from dail.synth.core.errors import ItemError
from dail.synth.engine.base import SequenceKey, TokenSequence
from dail.synth.engine.fake import FakeEngine, made_up
from dail.synth.rollout.stop_strings import Stops
from dail.train.evals.completer import Completer, Drawn, Request

LETTERS = "abcdefgh"


def spelled(ids: Sequence[int]) -> str:
    return "".join(LETTERS[token] for token in ids)


class Watched(FakeEngine):
    """Keeps what it was given, and how much it had to prefill in one step."""

    def __init__(self, **sizes: int) -> None:
        super().__init__(EngineConfig(model=Path("/nowhere"), kind="fake", **sizes), made_up(8))
        self.given: list[TokenSequence] = []
        self.aborted: list[SequenceKey] = []
        self.inside_at_once: list[set[str | None]] = []
        self.num_steps = 0

    def add(self, sequence: TokenSequence) -> None:
        self.given.append(sequence)
        super().add(sequence)
        inside = {one.adapter for one in self._waiting} | {one.sequence.adapter for one in self._running.values()}
        self.inside_at_once.append(inside)

    def abort(self, keys: Sequence[SequenceKey]) -> None:
        self.aborted += keys
        super().abort(keys)

    def step(self) -> list[object]:  # type: ignore[override]
        self.num_steps += 1
        return super().step()  # type: ignore[return-value]


def request(name: str, prompt: int = 3, most: int = 100, stop: tuple[str, ...] = (), **more: object) -> Request:
    sequence = TokenSequence(SequenceKey(name), [1] * prompt, most, 1.0, zlib.crc32(name.encode()), frozenset(), **more)  # type: ignore[arg-type]
    return Request(sequence, stop)


def drain(completer: Completer, requests: Sequence[Request]) -> dict[str, Drawn]:
    for one in requests:
        completer.add(one)
    drawn = list[Drawn]()
    while completer.pending():
        drawn += completer.step()
    assert len({one.unit_id for one in drawn}) == len(drawn) == len(requests)
    return {one.unit_id: one for one in drawn}


@pytest.mark.parametrize("stop", [("ab",), ("ba", "hh"), ("cdc",), ("abcdefg",)])
def test_a_stop_string_cuts_where_a_trace_would_be_cut_and_ends_the_sequence(stop: tuple[str, ...]) -> None:
    names = [f"n{number}" for number in range(8)]
    whole = drain(Completer(Watched()), [request(name) for name in names])
    engine = Watched()
    cut = drain(Completer(engine, spelled), [request(name, stop=stop) for name in names])
    for name in names:
        end = Stops(spelled).find(whole[name].ids, stop, 0)
        assert cut[name].ids == whole[name].ids[:end]
        assert cut[name].reason == ("length" if end is None else "stop")
    if all(one.reason == "stop" for one in cut.values()):
        assert len(engine.aborted) == 8 and engine.num_steps < 100, "it was drawn to its end"


def test_a_prompt_that_no_step_prefills_whole_goes_through_the_prefix_cache() -> None:
    engine = Watched(step_tokens=64, rows=4, model_tokens=500)
    drawn = drain(Completer(engine), [request("long", prompt=200, most=5), request("short", prompt=9, most=5)])
    assert [len(one.ids) for one in drawn.values()] == [5, 5]
    first, *_ = [one for one in engine.given if one.key.unit_id == "long"]
    assert (first.max_tokens, first.temperature, len(first.prompt_ids)) == (1, 0.0, 200)
    assert drawn["long"] == drain(Completer(Watched()), [request("long", prompt=200, most=5)])["long"]


def test_the_bare_model_and_adapters_take_turns() -> None:
    engine = Watched(rows=4)
    adapters = [None, "a", None, "b", "a", None, "b"]
    requests = [request(f"n{n}", most=5 + n, adapter=one) for n, one in enumerate(adapters)]
    drain(Completer(engine), requests)
    assert {len(inside) for inside in engine.inside_at_once} == {1}
    assert [one.adapter for one in engine.given] == [None, None, None, "a", "a", "b", "b"]


def test_what_never_fits_is_refused_and_the_rest_goes_on() -> None:
    completer = Completer(Watched(model_tokens=100))
    with pytest.raises(ItemError, match="the prompt has 60 tokens, which leaves 40"):
        completer.add(request("far", prompt=60, most=41))
    assert len(drain(completer, [request("near", prompt=60, most=40)])["near"].ids) == 40


def test_nothing_comes_of_a_cancelled_request() -> None:
    completer = Completer(Watched(rows=2))
    for name in ("goes", "stays", "waits", "never"):
        completer.add(request(name, most=10))
    completer.step()
    completer.cancel("goes")
    completer.cancel("never")
    drawn = list[Drawn]()
    while completer.pending():
        drawn += completer.step()
    assert {one.unit_id for one in drawn} == {"stays", "waits"}


def test_a_stop_string_at_the_last_token_is_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(context: Sequence[int]) -> Tensor:
        return torch.tensor([0.0 if token == len(context) - 3 else -torch.inf for token in range(8)])

    engine = FakeEngine(EngineConfig(model=Path("/nowhere"), kind="fake"), always)
    drawn = drain(Completer(engine, spelled), [request("n", most=4, stop=("cd",))])
    assert drawn["n"] == Drawn("n", [0, 1, 2, 3], "stop")
