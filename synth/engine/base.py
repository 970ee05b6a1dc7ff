"""What a rollout strategy asks of an engine: token ids in, token ids out, one step at a time.

The engine knows nothing of text. A strategy makes `TokenSequence`s and adds them; the engine batches whatever it is
given and hands back `Sampled`s, which the strategy adds to its traces. No id is given twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from dail.synth.schema.synthesis import Acceptance, Role
from dail.synth.schema.trace_tokens import Tokens

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


class SequenceKey(NamedTuple):
    """Names a sequence: of which unit, in which stage of its trace, and what it does there.

    Unique in an engine's life if it has a `Draw`: records go by it, and some come late.
    """

    unit_id: str
    stage: int = 0
    part: Literal["student", "privileged", "scoring"] = "student"


@dataclass(frozen=True)
class Draw:
    """How a sequence's tokens are sampled from the trace's own random numbers (paper §2.1).

    Every position has two: the proposer proposes with the first, the verifier samples with the second; and one for each
    further proposal. So whichever strategy draws a trace, and after whatever interruption, it samples the same tokens.

    Args:
        role: whose context the sequence is.
        acceptance: when a proposal is accepted; none where one role samples alone.
        is_paired: the sequences of both roles stand in the batch, and always receive the same token. Both must be added
            before the same step. If not, and there is a rule, the sequence ends at the first `VerifyPoint`.
        proposals: how many tokens the proposer proposes at a position, until one is accepted. A sequence of the
            proposer alone takes the first, and tells of the others in `Sampled.further`.
        proposer: the role that proposes; the other one verifies.
        greedy: the proposer proposes its likeliest tokens in their order.
    """

    role: Role
    acceptance: Acceptance | None = None
    is_paired: bool = False
    proposals: int = 1
    proposer: Role = "student"
    greedy: bool = False


@dataclass(frozen=True)
class TokenSequence:
    """One sequence to decode: made by a strategy, carried by the engine until it ends.

    With `draw`, the token is sampled from `trace_uniforms(seed, position in the trace)` and never one of
    `suppressed_ids`; `start` is the position of the sequence's first token, and the trace tokens before it are the end
    of `prompt_ids`. Without, the engine's own sampler samples, of all tokens. `score_from`: give the log-probabilities
    of the prompt's own tokens from this index on (`Sampled.scores`).

    Two things are for sequences without `draw` alone. `presence_penalty` is taken from the logit of every token that
    this sequence has sampled already, however often, before the temperature; tokens of the prompt count for nothing
    (vLLM's meaning). `is_followed`: `Engine.written` tells of it, as it does of sequences with a `draw`.
    """

    key: SequenceKey
    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int
    stop_ids: frozenset[int]
    top_p: float = 1.0
    top_k: int = 0  # 0: all tokens
    draw: Draw | None = None
    suppressed_ids: frozenset[int] = frozenset()
    start: int = 0
    adapter: str | None = None  # folder of a PEFT adapter; the base model without
    score_from: int | None = None
    presence_penalty: float = 0.0
    is_followed: bool = False

    def warming(self, key: SequenceKey) -> TokenSequence:
        """One that brings this one's prompt into the prefix cache; the one token that it samples is nobody's."""
        return TokenSequence(key, self.prompt_ids, 1, 0.0, 0, frozenset(), adapter=self.adapter)

    def __post_init__(self) -> None:
        assert not (self.draw and (self.presence_penalty or self.is_followed)), f"{self.key} is sampled by its draw"


SCORE_TOP = 20  # how many of the likeliest tokens a score names


@dataclass(frozen=True)
class Score:
    """What a role gives one token that is already there, at temperature 1.

    `rank` is the number of tokens at least as likely as it, itself included; `top_logprobs` are the log-probabilities
    of the SCORE_TOP likeliest tokens (fewer in a smaller vocabulary), largest first, and `top_ids` which these are.
    Suppressed tokens are among them: a score is the model's as it is.
    """

    logprob: float
    rank: int
    top_logprobs: tuple[float, ...]
    top_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class VerifyPoint:
    """Where the verifier sampled one token and another would be accepted, so that the proposer must be asked.

    `sampled`: what the verifier sampled, with its log-probability; `accepted`: token → log-probability of those that
    are accepted if they are proposed. At temperature 1.
    """

    sampled: int
    logprob: float
    accepted: dict[int, float]


class Proposal(NamedTuple):
    """A token that is proposed, with its log-probability at temperature 1."""

    token: int
    logprob: float


@dataclass
class Sampled:
    """What is new of one sequence: made by the engine, read by the strategy whose trace it belongs to.

    Args:
        tokens: with what is known of each. Of a pair they come with the privileged student's sequence, and the
            student's has none. The last token of a sequence that was stopped by one is that stop token. Of a sequence
            that goes on the last token is kept back, since it may be sampled again.
        reason: why the sequence ended; none while it goes on. `desynchronised`: the two sequences of a pair are no
            longer at one position; nothing more is sampled for them, and both should be aborted.
        verify: where it ended, if it ended at one.
        scores: of prompt_ids[score_from:].
        further: what a role that proposes several times proposed at each of `tokens` after that token, in order;
            empty if it proposes once.
    """

    key: SequenceKey
    tokens: Tokens = field(default_factory=Tokens)
    reason: FinishReason | Literal["desynchronised"] | None = None
    verify: VerifyPoint | None = None
    scores: list[Score] | None = None
    further: list[tuple[Proposal, ...]] = field(default_factory=list)


class Engine(Protocol):
    """A single-threaded engine, driven by `step`.

    Raises (from any method):
        EngineDead: it cannot go on; the process around it should end.
    """

    name: str  # for example "vllm 0.32.0 bfloat16"
    limits: Limits

    def add(self, sequence: TokenSequence) -> None:
        """Queues a sequence. Raises ItemError if the engine can never run it."""
        ...

    def abort(self, keys: Sequence[SequenceKey]) -> None: ...

    def step(self) -> list[Sampled]:
        """Runs one step of all sequences that fit; returns those that ended in it, and pairs that are
        desynchronised."""
        ...

    def written(self) -> list[Sampled]:
        """What is new of the sequences that go on, and have a `Draw` or are followed."""
        ...

    def close(self) -> None: ...
