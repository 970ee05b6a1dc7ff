"""Student engine and privileged-student engine with one life (paper §2.1).

Both roles are the same frozen weights under two prompts, so as a rule one engine serves both and the weights are held
once; the literal way of two engines is kept beside it. Whoever owns a pair sees requests go in and traces come out;
which strategy draws them stays in here.

    from pathlib import Path
    from dail.synth.config import EngineConfig, SynthConfig
    from dail.synth.rollout.base import RolloutRequest
    from dail.synth.rollout.pair import start_pair
    from dail.synth.schema.synthesis import Synthesis
    pair = start_pair(SynthConfig(engine=EngineConfig(model=Path("deploy/demo/model"), kind="fake")))
    pair.add(RolloutRequest("unit-1", [3, 5], [3, 5, 9], Synthesis(max_tokens=8), seed=1, stop_ids=frozenset([0])))
    while pair.pending():
        print(*pair.step())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import ExtensionError, ItemError
from dail.synth.engine.admission import Admission
from dail.synth.engine.base import Engine, Limits
from dail.synth.engine.start import start_engine
from dail.synth.method.acceptance import kind_number
from dail.synth.method.prompts import decoder
from dail.synth.rollout.base import Rollout, RolloutRequest
from dail.synth.rollout.direct import Single
from dail.synth.rollout.draft_verify import DraftVerify
from dail.synth.rollout.lazy import Lazy
from dail.synth.rollout.lockstep import Lockstep
from dail.synth.rollout.scheduler import Entry, Staged
from dail.synth.rollout.select import Wanted, choose
from dail.synth.rollout.stop_strings import Decode, Stops
from dail.synth.schema.adapters import adapter_rank
from dail.synth.schema.synthesis import Role
from dail.synth.schema.trace_tokens import Tokens

# Steps after which all that was written is read, and handed on as progress. In between only sequences that ended are,
# since reading makes the host wait for the device and costs Python for every token.
READ_EVERY = 32


class Pair:
    """Draws traces for many requests at once. Single-threaded, driven by `step`.

    Args:
        engine: of the privileged student, and of the student unless it has its own.
        adapters: folders of the LoRA adapters that the rows of a role have.
        with_scores: let the student read the traces of strategy lazy, which says who wrote what.
        decode: the tokenizer's; needed only by requests with stop strings.
    """

    def __init__(
        self,
        engine: Engine,
        strategy: Wanted = "auto",
        student_engine: Engine | None = None,
        adapters: Mapping[Role, str] | None = None,
        with_scores: bool = True,
        decode: Decode | None = None,
    ) -> None:
        privileged, stops = Entry(engine, Admission(engine.limits)), Stops(decode)
        student = Entry(student_engine, Admission(student_engine.limits)) if student_engine else privileged
        self._entries = [privileged] if student is privileged else [privileged, student]
        self._wanted, self._adapters = strategy, dict(adapters or {})
        self._strategies: dict[str, Staged[Any]] = {
            "lockstep": Lockstep(privileged, stops),
            "lazy": Lazy(privileged, with_scores, stops),
            "draft_verify": DraftVerify(privileged, student, stops),
            "single": Single(privileged, student, stops),
        }
        self._steps = 0

    @property
    def engine_name(self) -> str:
        return self._entries[0].engine.name

    @property
    def limits(self) -> Limits:
        return self._entries[0].engine.limits

    @property
    def num_desynchronised(self) -> int:
        """How often the two sequences of a pair were no longer at one position, and the pair was begun anew."""
        return sum(strategy.num_desynchronised for strategy in self._strategies.values())

    def add(self, request: RolloutRequest) -> None:
        """Queues a request. Raises ItemError if it can never run."""
        try:  # before it is in a batch, whose step would end with the error
            kind_number(request.synthesis.acceptance)
        except ExtensionError as error:
            raise ItemError(error.code, str(error), retryable=True) from error
        if self._adapters:
            request = replace(request, adapters=self._adapters)
        self._strategies[choose(request.synthesis, self._wanted)].add(request)

    def cancel(self, unit_id: str) -> None:
        for strategy in self._strategies.values():
            strategy.cancel(unit_id)

    def step(self) -> list[Rollout]:
        """One step of the engines; returns the traces that ended in it. Raises EngineDead."""
        strategies = [strategy for strategy in self._strategies.values() if strategy.pending()]
        for entry in self._entries:
            entry.admission.begin_step()
        for strategy in strategies:
            strategy.admit()
        sampled = [one for entry in self._entries for one in entry.engine.step()]
        self._steps += 1
        if self._steps % READ_EVERY == 0:
            sampled += [one for entry in self._entries for one in entry.engine.written()]
        return [rollout for strategy in strategies for rollout in strategy.take(sampled)]

    def pending(self) -> int:
        """Requests added and not finished."""
        return sum(strategy.pending() for strategy in self._strategies.values())

    def progress(self) -> dict[str, Tokens]:
        """By unit, the trace so far, its prefix included: what another attempt could go on from."""
        return {unit: tokens for strategy in self._strategies.values() for unit, tokens in strategy.progress().items()}

    def close(self) -> None:
        for entry in self._entries:
            entry.engine.close()


def start_pair(config: SynthConfig) -> Pair:
    """Starts what a config asks for: one engine, or two in turn.

    Raises:
        UsageError: an engine refused the model folder or the settings.
    """
    rank = max(map(adapter_rank, config.adapters), default=None)
    roles: dict[Role, Path | None] = {"student": config.student_adapter, "privileged": config.privileged_adapter}
    adapters: dict[Role, str] = {role: str(folder) for role, folder in roles.items() if folder}
    decode = decoder(config.engine.model)
    if config.strategy == "draft_verify":
        engine = start_engine(config.engine, num_engines=2)
        student = start_engine(_student_config(config), rank, num_engines=2)  # every row of it has the adapter
        return Pair(engine, config.strategy, student, adapters, decode=decode)
    # vLLM cannot read a prompt while it holds adapters (0.32, CPU: the shapes of its output layer disagree)
    with_scores = config.score_student and not adapters
    engine = start_engine(config.engine, rank, mixes_adapters=True)
    return Pair(engine, config.strategy, None, adapters, with_scores, decode)


def _student_config(config: SynthConfig) -> EngineConfig:
    return config.engine.model_copy(update={"model": config.student_model or config.engine.model})
