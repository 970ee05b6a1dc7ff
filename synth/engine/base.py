"""What a rollout strategy asks of an engine: token ids in, token ids out, one step at a time.

The engine knows nothing of text. It batches whatever rows it is given; two rows that carry the same pair name are
stepped under the mixed-policy rule and always receive the same token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from dail.synth.schema.synthesis import Acceptance

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Limits:
    """What an engine can hold. `step_tokens` is the number of tokens one step can process, prefill included.

    `caches_prompts`: a prompt that was prefilled lately is not prefilled again, but for the last, unfinished block.
    """

    model_tokens: int
    rows: int
    step_tokens: int
    kv_tokens: int
    kv_block: int
    caches_prompts: bool = True


@dataclass(frozen=True)
class PairRow:
    """Makes a row one half of a pair. Both halves must be added before the same step."""

    pair: str
    role: Literal["student", "privileged"]
    acceptance: Acceptance


@dataclass(frozen=True)
class AloneRow:
    """Makes a row that one role draws by itself from the trace's own random numbers.

    With `acceptance` it ends, with a pause in place of a token, where another token than the drawn one would stand:
    there the rule needs the student's word.

    Args:
        column: which of a position's `uniforms` draws: 0 as the student proposes, 1 as the privileged student draws.
    """

    column: Literal[0, 1]
    acceptance: Acceptance | None = None


@dataclass(frozen=True)
class Row:
    """One sequence to decode.

    With `pair` or `alone`, the token is drawn from `uniforms(seed, place in the trace)`; `start` is the place of the
    row's first token, and the trace tokens before it are the end of `prompt_ids`. Otherwise the engine's own sampler
    draws. `score_from`: give the log-probabilities of the prompt's own tokens from this index on (`Finished.scores`).
    """

    row_id: str
    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int
    stop_ids: frozenset[int]
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    pair: PairRow | None = None
    alone: AloneRow | None = None
    start: int = 0
    adapter: str | None = None  # folder of a PEFT adapter; the base model without
    score_from: int | None = None


SCORE_TOP = 20  # how many of the likeliest tokens a score names


@dataclass(frozen=True)
class Score:
    """What a role gives one token that is already there, at temperature 1.

    `rank` is the number of tokens at least as likely as it, itself included; `top_logprobs` are the log-probabilities
    of the SCORE_TOP likeliest tokens (fewer in a smaller vocabulary), largest first.
    """

    logprob: float
    rank: int
    top_logprobs: tuple[float, ...]


@dataclass(frozen=True)
class Finished:
    """A row that ended. `token_ids` includes the stop token, if one ended it; of a pause, a placeholder."""

    row_id: str
    token_ids: list[int]
    reason: FinishReason
    scores: list[Score] | None = None  # of prompt_ids[score_from:]


@dataclass(frozen=True)
class Pause:
    """Where an alone row stopped: what it drew there, and the tokens that stand if the student proposes them.

    `standing`: token → its log-probability, like `logprob` of the drawn one at temperature 1.
    """

    drawn: int
    logprob: float
    standing: dict[int, float]


@dataclass
class PairRecord:
    """Of one pair, per trace token from place `start` on (natural logs, temperature 1)."""

    start: int
    token_ids: list[int] = field(default_factory=list)
    accepted: list[bool] = field(default_factory=list)
    proposal: list[int] = field(default_factory=list)
    student_logprob: list[float] = field(default_factory=list)
    privileged_logprob: list[float] = field(default_factory=list)


@dataclass
class AloneRecord:
    """Of one alone row, per token from place `start` on: its log-probability at temperature 1, and whether some token
    would have stood there."""

    start: int
    token_ids: list[int] = field(default_factory=list)
    logprob: list[float] = field(default_factory=list)
    confident: list[bool] = field(default_factory=list)
    pause: Pause | None = None

    def put(self, later: AloneRecord) -> None:
        """Goes on with what was recorded later, which may draw the last place again."""
        at = later.start - self.start
        self.token_ids[at:], self.logprob[at:], self.confident[at:] = later.token_ids, later.logprob, later.confident
        self.pause = later.pause

    def cut(self, length: int) -> None:
        for column in (self.token_ids, self.logprob, self.confident):
            del column[length:]


@dataclass
class Records:
    """What was recorded: of pairs by pair name, of alone rows by row id.

    The last place of a record may be drawn again, and recorded again: a row whose prefill is split draws in vain until
    its prompt is whole. `parted`: pairs whose rows are no longer at one place; nothing more is drawn for them.
    """

    pairs: dict[str, PairRecord] = field(default_factory=dict)
    alone: dict[str, AloneRecord] = field(default_factory=dict)
    parted: set[str] = field(default_factory=set)


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

    def records(self, names: Iterable[str] | None = None) -> Records:
        """Takes what was recorded and not yet taken: all of it, or of these pairs and rows and of what parted."""
        ...

    def close(self) -> None: ...
