"""What a rollout strategy asks of an engine: token ids in, token ids out, one step at a time.

The engine knows nothing of text. It batches whatever rows it is given; two rows that carry the same pair name are
stepped under the mixed-policy rule and always receive the same token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Limits:
    """What an engine can hold. `step_tokens` is the number of tokens one step can process, prefill included."""

    model_tokens: int
    rows: int
    step_tokens: int
    kv_tokens: int
    kv_block: int


@dataclass(frozen=True)
class PairRow:
    """Makes a row one half of a pair. Both halves must be added before the same step."""

    pair: str
    role: Literal["student", "privileged"]
    tau: float
    tempered: bool


@dataclass(frozen=True)
class AloneRow:
    """Makes a row that one role draws by itself from the trace's own random numbers.

    It ends, with a pause in place of a token, where another token than the drawn one has at least `tau`: there the
    rule needs the student's word. `tau` above 1 never pauses.

    Args:
        column: which of a position's `uniforms` draws: 0 as the student proposes, 1 as the privileged student draws.
    """

    column: Literal[0, 1]
    tau: float
    tempered: bool


@dataclass(frozen=True)
class Row:
    """One sequence to decode.

    With `pair` or `alone`, the token is drawn from `uniforms(seed, place in the trace)`; `start` is the place of the
    row's first token, and the trace tokens before it are the end of `prompt_ids`.
    """

    row_id: str
    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int
    stop_ids: frozenset[int]
    pair: PairRow | None = None
    alone: AloneRow | None = None
    start: int = 0
    adapter: str | None = None  # folder of a PEFT adapter; the base model without
    with_logprobs: bool = False  # of a plain row's tokens; a pair's are always recorded


@dataclass(frozen=True)
class Finished:
    """A row that ended. `token_ids` includes the stop token, if one ended it; of a pause, a placeholder."""

    row_id: str
    token_ids: list[int]
    reason: FinishReason
    logprobs: list[float] | None = None  # at temperature 1, where asked for


@dataclass(frozen=True)
class Pause:
    """Where an alone row stopped: what it drew there, and the tokens that stand if the student proposes them.

    `standing`: token → its log-probability, like `logprob` of the drawn one at temperature 1.
    """

    drawn: int
    logprob: float
    standing: dict[int, float]


@dataclass
class AloneRecord:
    """Per token of one alone row: its log-probability (temperature 1), and whether some token had `tau` there."""

    token_ids: list[int] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)
    confident: list[bool] = field(default_factory=list)
    pause: Pause | None = None

    def extend(self, later: AloneRecord) -> None:
        self.token_ids += later.token_ids
        self.logprob += later.logprob
        self.confident += later.confident
        self.pause = later.pause


@dataclass
class PairRecord:
    """Per trace token of one pair: who wrote it and what both roles gave it (natural logs, temperature 1)."""

    token_ids: list[int] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    student_logprob: list[float] = field(default_factory=list)
    privileged_logprob: list[float] = field(default_factory=list)

    def extend(self, later: PairRecord) -> None:
        self.token_ids += later.token_ids
        self.accepted += later.accepted
        self.student_logprob += later.student_logprob
        self.privileged_logprob += later.privileged_logprob


@dataclass
class Records:
    """What was recorded: of pairs by pair name, of alone rows by row id."""

    pairs: dict[str, PairRecord] = field(default_factory=dict)
    alone: dict[str, AloneRecord] = field(default_factory=dict)


class Engine(Protocol):
    """A single-threaded engine, driven by `step`.

    Raises (from any method):
        EngineDead: it cannot go on; the process around it should end.
    """

    name: str  # for example "vllm 0.32.0"
    limits: Limits

    def add(self, row: Row) -> None:
        """Queues a row. Raises ItemError if the engine can never run it."""
        ...

    def abort(self, row_ids: Sequence[str]) -> None: ...

    def step(self) -> list[Finished]:
        """Runs one step of all rows that fit; returns the rows that ended in it."""
        ...

    def records(self) -> Records:
        """Takes what was recorded since the last call."""
        ...

    def close(self) -> None: ...
