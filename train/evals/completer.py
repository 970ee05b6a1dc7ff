"""Requests in, what a model writes behind their prompts out: the evaluation's side of an engine.

The same object runs in this process and in every actor of a pool (`dail.synth.run.actor.Drawer`). vLLM's own sampler
samples, with a seed a request. A model without an adapter and its adapters are never in an engine at once: vLLM's CPU
kernels (0.32) read "no adapter" as slot -1, the last one, so a base row in a step with an adapter's row is decoded with
the adapter.

    from dail.synth.config import EngineConfig, SynthConfig
    from dail.synth.engine.base import SequenceKey, TokenSequence
    from dail.train.evals.completer import Request, start_completer
    completer = start_completer(SynthConfig(engine=EngineConfig(model=Path("deploy/demo/model"), kind="fake")))
    completer.add(Request(TokenSequence(SequenceKey("one"), [1, 2, 3], 16, 0.6, 0, frozenset())))
    while completer.pending():
        print(*completer.step())
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import ItemError
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import Engine, FinishReason, Limits, Sampled, SequenceKey, TokenSequence
from dail.synth.engine.start import start_engine
from dail.synth.method.prompts import decoder
from dail.synth.rollout.stop_strings import Decode, Stops
from dail.synth.schema.trace_tokens import Tokens

MakeEngine = Callable[[EngineConfig, int | None], Engine]  # and the largest rank of an adapter

_READ_EVERY = 32  # steps after which a text is searched for its stop strings
_WARMING = 1  # stage of the sequence that brings a long prompt into the prefix cache


@dataclass(frozen=True)
class Request:
    """One sequence to draw. `stop`: where its text first holds one of these, it ends, with the token that completes it
    (`dail.synth.rollout.stop_strings`)."""

    sequence: TokenSequence
    stop: tuple[str, ...] = ()

    @property
    def unit_id(self) -> str:
        return self.sequence.key.unit_id

    @property
    def prefix(self) -> Tokens:
        """Nothing: what an engine took with it is drawn again from its beginning."""
        return Tokens()


@dataclass(frozen=True)
class Drawn:
    """What came of a request. The last of `ids` is the token that ended it, if one did."""

    unit_id: str
    ids: list[int]
    reason: FinishReason


def rows(request: Request) -> tuple[list[int], int]:
    """What a request takes of an engine: its prompt's length, and how many tokens may follow."""
    return [len(request.sequence.prompt_ids)], request.sequence.max_tokens


@dataclass
class _Inside:
    """A request in the engine."""

    request: Request
    ids: list[int] = field(default_factory=list)
    is_warm: bool = False  # its prompt lies in the prefix cache
    num_searched: int = 0


class Completer:
    """Single-threaded, driven by `step`.

    Args:
        decode: the tokenizer's; needed only by requests with stop strings.
    """

    def __init__(self, engine: Engine, decode: Decode | None = None) -> None:
        self._engine, self._admission, self._stops = engine, Admission(engine.limits), Stops(decode)
        self._waiting: dict[str | None, deque[_Inside]] = {}  # by adapter
        self._adapter: str | None = None  # of what is inside
        self._inside: dict[SequenceKey, _Inside] = {}
        self._steps = 0

    @property
    def engine_name(self) -> str:
        return self._engine.name

    @property
    def limits(self) -> Limits:
        return self._engine.limits

    def add(self, request: Request) -> None:
        """Queues a request. Raises ItemError: the engine could never draw it to its full length."""
        prompt, most = len(request.sequence.prompt_ids), request.sequence.max_tokens
        if (capacity := self._admission.check([prompt])) < most:
            raise ItemError(
                "context_length_exceeded",
                f"the prompt has {prompt} tokens, which leaves {capacity} of the engine's; wanted {most} more",
            )
        if request.stop:
            request = replace(request, sequence=replace(request.sequence, is_followed=True))
        self._waiting.setdefault(request.sequence.adapter, deque()).append(_Inside(request))

    def cancel(self, unit_id: str) -> None:
        for adapter, queue in self._waiting.items():
            self._waiting[adapter] = deque(one for one in queue if one.request.unit_id != unit_id)
        for key in [key for key in self._inside if key.unit_id == unit_id]:
            self._leave(key, abort=True)

    def step(self) -> list[Drawn]:
        """One step of the engine; returns what ended in it. Raises EngineDead."""
        self._admission.begin_step()
        self._admit()
        sampled = self._engine.step()
        self._steps += 1
        if self._steps % _READ_EVERY == 0 and any(one.request.stop for one in self._inside.values()):
            sampled = sampled + self._engine.written()
        return [drawn for one in sampled if (drawn := self._take(one))]

    def pending(self) -> int:
        """Requests added and not finished."""
        return len(self._inside) + sum(map(len, self._waiting.values()))

    def progress(self) -> dict[str, Tokens]:
        """Nothing, as a request has no prefix."""
        return {}

    def close(self) -> None:
        self._engine.close()

    def _admit(self) -> None:
        """In order within an adapter, and nobody overtakes; the next adapter's turn comes when the engine is empty."""
        if not self._inside and not self._waiting.get(self._adapter):
            self._adapter = next((adapter for adapter, queue in self._waiting.items() if queue), None)
        queue = self._waiting.get(self._adapter, deque())
        while queue and (sequence := self._let_in(queue[0])):
            self._inside[sequence.key] = queue.popleft()
            self._engine.add(sequence)

    def _let_in(self, one: _Inside) -> TokenSequence | None:
        """What enters the engine for it now; none if it must wait.

        A prompt that no step can prefill whole beside the others is brought into the prefix cache first: a seeded
        sequence whose prefill is split has its generator wound back, which torch has for CUDA only.
        """
        sequence = one.request.sequence
        prompt = len(sequence.prompt_ids)
        is_long = self._admission.is_long([prompt])
        may_warm = is_long and not one.is_warm and self.limits.caches_prompts
        if may_warm:
            sequence = sequence.warming(sequence.key._replace(stage=_WARMING))
        split = may_warm or (is_long and not one.is_warm)
        wanted = one.request.sequence.max_tokens
        return sequence if self._admission.take(sequence.key, [prompt], wanted, one.is_warm, split) else None

    def _take(self, sampled: Sampled) -> Drawn | None:
        one = self._inside.get(sampled.key)
        if one is None:  # it ended at a stop string
            return None
        if sampled.key.stage == _WARMING:
            self._leave(sampled.key)
            one.is_warm = True
            self._waiting[one.request.sequence.adapter].appendleft(one)
            return None
        one.ids += sampled.tokens.ids
        end = self._end_of(one)
        if end is None and sampled.reason is None:
            return None
        self._leave(sampled.key, abort=sampled.reason is None)
        if end is not None:
            return Drawn(one.request.unit_id, one.ids[:end], "stop")
        assert sampled.reason in ("stop", "length"), f"{sampled.key} was never one of a pair"
        return Drawn(one.request.unit_id, one.ids, sampled.reason)

    def _end_of(self, one: _Inside) -> int | None:
        """The number of tokens up to a stop string, itself included; none if there is none."""
        since, one.num_searched = one.num_searched, len(one.ids)
        if not one.request.stop or since == len(one.ids):
            return None
        return self._stops.find(one.ids, one.request.stop, since)

    def _leave(self, key: SequenceKey, abort: bool = False) -> None:
        del self._inside[key]
        self._admission.release(key)
        if abort:
            self._engine.abort([key])


def start_completer(
    config: SynthConfig, max_rank: int | None = None, make_engine: MakeEngine = start_engine
) -> Completer:
    """Starts the engine of a config, and what draws on it.

    Args:
        max_rank: largest rank of the adapters that requests name; none: no adapters.

    Raises:
        UsageError: the engine refused the model folder or the settings.
    """
    return Completer(make_engine(config.engine, max_rank), decoder(config.engine.model))
