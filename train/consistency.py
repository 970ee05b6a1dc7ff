"""The rollout checks the trainer: do its weights give the traces the log-probabilities that the engine gave them?

Shards hold the log-probability of each trace token under both roles. Before the first step the trainer computes some of
them again, by the way it will compute the loss. A weight that is damaged or missing, another RoPE, attention that drops
what an architecture asks of it, sequences that see into each other, a prompt that was rendered otherwise, an adapter
that was merged: each of them moves these numbers far more than rounding does.

Where the engine gave a token the probability p, an error e in the logits moves its log-probability by about (1 - p) e.
Most tokens of a trace are near certain, so a mean over tokens hides an error behind them. Hence what is compared with
the tolerance is

    sum over tokens of |log q - log p|  ÷  sum over tokens of (1 - p)

which is how far the logits are off, in nats, whether the trace is certain of itself or not.

Axes: R trace tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.schema.manifest import read_rows
from dail.synth.schema.shards import FAKE_ENGINE, TraceRow
from dail.train.config import TrainConfig
from dail.train.data import Example, TrainingSet, microbatches, pack, pad, student_tokens
from dail.train.model import Roles
from dail.train.quantising import NF4_TOLERANCE
from dail.train.rope import chosen, rope_choices

_log = logging.getLogger(__name__)

NUM_TRACES = 6
# Nats, by the coarser type of engine and trainer. On a small model rounding alone gave 7e-6, and 0.09 in bfloat16
# (tests/bench/RESULTS.md); more layers, and experts whose routing flips, give several times as much.
TOLERANCE = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.4}
_CERTAIN = 1e-3  # least that a token counts: log-probabilities near 0 are rounded too
_NAMES = {"student": "student", "privileged": "privileged student"}


@dataclass(frozen=True)
class Consistency:
    """Of one role over some traces, in nats. `error`: of the logits. `quarters`: the same for the tokens in each
    quarter of the longest sequence, nan where there are none. `mean` and `worst`: of log-probabilities."""

    role: str
    error: float
    quarters: tuple[float, ...]
    mean: float
    worst: float
    worst_at: str
    num_tokens: int
    num_traces: int


def check_rollout(roles: Roles, data: TrainingSet, manifest_path: Path, config: TrainConfig) -> list[Consistency]:
    """Compares the model, with the adapter that the rollout had on, with what the shards hold, for a few traces, the
    longest among them.

    Args:
        roles: with attention and packing as they will be used; its LongRoPE is set to what the engine had.

    Returns:
        For each role of which the shards hold log-probabilities; empty if they hold none, which is said.

    Raises:
        UsageError: they differ by more than rounding does.
        IntegrityError: a trace has not one place for each token.
    """
    examples = some_examples(data.examples)
    rows = {row.unit_id: row for row in read_rows(manifest_path, {example.unit_id for example in examples})}
    _tell_unread(roles, rows)
    found = _compared(roles, examples, rows, config)
    if not found:
        _log.warning(
            "the shards hold no log-probabilities that this model could give again, so nothing shows that it computes "
            "what the engine did"
        )
        return []
    rounding = max(TOLERANCE[kind] for kind in (_precision(rows), config.dtype))
    allowed = config.rollout_tolerance or (rounding if config.quantise == "none" else NF4_TOLERANCE)
    if not _all_within(found, allowed):
        other = _by_another_rope(roles, examples, rows, config, allowed)
        if other is None:
            raise UsageError(_refusal(found, allowed, rows, config))
        found = other
    told = (
        f"the model gives the rollout's log-probabilities again: logits are off by {_errors(found)} nats "
        f"({sum(one.num_tokens for one in found)} tokens of {found[0].num_traces} traces; {allowed:g} is allowed)"
    )
    if any(one.error > allowed / 2 for one in found):
        _log.warning(f"{told}, which is more than rounding mostly does; see that nothing is wrong before a long run")
    else:
        _log.info(told)
    return found


def _tell_unread(roles: Roles, rows: Mapping[str, TraceRow]) -> None:
    for role, name in _NAMES.items():
        revisions = {_revision(row, role) for row in rows.values()}
        if unread := sorted(one for one in revisions if one is not None and not _can_be_read(roles, one)):
            _log.info(
                f"the {name} of the traces had {', '.join(one[:19] for one in unread)} on, which this run was not "
                "given (--init-adapter, --reference-adapter), so its log-probabilities are not held against the trainer"
            )


def some_examples(examples: Sequence[Example]) -> list[Example]:
    """A few, the same ones each time: the longest of both roles, since errors of positions grow with them, and others
    from all over the set."""
    longest = [
        max(examples, key=lambda example: len(example.trace_ids) + len(example.privileged_prompt_ids)),
        max(examples, key=lambda example: example.student_tokens),
    ]
    step = max(1, len(examples) // (NUM_TRACES - 1))
    unique = {example.unit_id: example for example in [*longest, *examples[::step]]}
    return list(unique.values())[:NUM_TRACES]


def _by_another_rope(
    roles: Roles, examples: Sequence[Example], rows: Mapping[str, TraceRow], config: TrainConfig, allowed: float
) -> list[Consistency] | None:
    """With LongRoPE an engine has long or short factors for every sequence, whatever its length, and no shard says
    which: those that give the rollout's numbers are kept. None if none do."""
    if roles.rope is None:
        return None
    for choice in rope_choices(roles.rope)[1:]:
        with chosen(roles.rope, choice):
            found = _compared(roles, examples, rows, config)
        if _all_within(found, allowed):
            roles.rope.choice = choice
            _log.info(f"LongRoPE: all sequences get the {choice} factors, as the engine's did")
            return found
    return None


def _compared(
    roles: Roles, examples: Sequence[Example], rows: Mapping[str, TraceRow], config: TrainConfig
) -> list[Consistency]:
    return [one for role in _NAMES if (one := _compare(roles, examples, rows, role, config)) is not None]


def _all_within(found: Sequence[Consistency], allowed: float) -> bool:
    return all(one.error <= allowed for one in found)


def _compare(
    roles: Roles, examples: Sequence[Example], rows: Mapping[str, TraceRow], role: str, config: TrainConfig
) -> Consistency | None:
    """None if no row has a number of this role that this model could give."""
    given = {
        example.unit_id: _given(rows[example.unit_id], role, roles)[: len(example.trace_ids)] for example in examples
    }
    examples = [example for example in examples if not given[example.unit_id].isnan().all()]
    if not examples:
        return None
    parts, names, width = [], [], max(len(_prompt(example, role)) + len(example.trace_ids) for example in examples)
    groups = (
        (revision, group)
        for revision in dict.fromkeys(_revision(rows[example.unit_id], role) for example in examples)
        for group in microbatches(
            [example for example in examples if _revision(rows[example.unit_id], role) == revision],
            max(width, config.microbatch_tokens),
            student_tokens,
            roles.packs,
        )
    )
    for revision, group in groups:
        prompts = [_prompt(example, role) for example in group]
        ours_R = _logprobs(roles, group, prompts, revision, config.token_chunk)
        for example, ours in zip(group, ours_R.split([len(e.trace_ids) for e in group]), strict=True):
            places = torch.arange(len(ours)) + len(_prompt(example, role))
            parts.append(torch.stack([ours, given[example.unit_id], places / width]))
            names += [f"token {place} of trace {example.unit_id}" for place in range(len(ours))]
    ours_R, given_R, place_R = torch.cat(parts, 1)
    known = (~given_R.isnan()).nonzero()[:, 0]
    difference_K = (ours_R - given_R)[known].abs().nan_to_num(nan=math.inf)
    doubt_K = (-given_R[known].expm1()).clamp(min=_CERTAIN)
    quarter_K = (4 * place_R[known]).long().clamp(max=3)
    of_quarters = (quarter_K == quarter for quarter in range(4))
    worst = int(difference_K.argmax())
    return Consistency(
        role=role,
        error=float(difference_K.sum() / doubt_K.sum()),
        quarters=tuple(float(difference_K[those].sum() / doubt_K[those].sum()) for those in of_quarters),
        mean=float(difference_K.mean()),
        worst=float(difference_K[worst]),
        worst_at=names[int(known[worst])],
        num_tokens=len(known),
        num_traces=len(examples),
    )


def _revision(row: TraceRow, role: str) -> str | None:
    """What the role had on while the trace was drawn: the digest of an adapter, none for the bare model."""
    return row.student_revision if role == "student" else row.privileged_revision


def _can_be_read(roles: Roles, revision: str | None) -> bool:
    return revision is None or revision in roles.given


def _given(row: TraceRow, role: str, roles: Roles) -> Tensor:
    """The engine's log-probabilities [R]; nan where there is none, or none that these weights could give: the fake
    engine makes them up, and an adapter that the run was not given is not here."""
    foreign = row.engine == FAKE_ENGINE or not _can_be_read(roles, _revision(row, role))
    values = row.student_logprob if role == "student" else row.privileged_logprob
    if len(values) != len(row.trace_ids):
        raise IntegrityError(
            f"trace {row.unit_id} has {len(row.trace_ids)} tokens and {len(values)} log-probabilities as "
            f"{_NAMES[role]}; wanted one each, or null; synthesise it again"
        )
    return torch.tensor([math.nan if foreign or value is None else value for value in values])


def _prompt(example: Example, role: str) -> tuple[int, ...]:
    return example.student_prompt_ids if role == "student" else example.privileged_prompt_ids


def _logprobs(
    roles: Roles, group: Sequence[Example], prompts: Sequence[Sequence[int]], revision: str | None, chunk: int
) -> Tensor:
    """Of the group's trace tokens behind these prompts, by what the rollout had on [R], float32 on the CPU."""
    join = pack if roles.packs else pad
    batch = join(prompts, [example.trace_ids for example in group], roles.device)
    hidden_RD = roles.given_or_bare(batch, revision)
    trace_R = torch.tensor([token for example in group for token in example.trace_ids], device=roles.device)
    parts = []
    with torch.no_grad():
        for hidden_CD, trace_C in zip(hidden_RD.split(chunk), trace_R.split(chunk), strict=True):
            logits_CV = roles.head.logits(hidden_CD)
            parts.append(logits_CV.gather(-1, trace_C[:, None])[:, 0] - logits_CV.logsumexp(-1))
    return torch.cat(parts).float().cpu()


def _precision(rows: Mapping[str, TraceRow]) -> str:
    """The type that the engine computed in; one that does not say it is taken for the coarsest."""
    named = {row.engine.rpartition(" ")[2] for row in rows.values()}
    return max(named, key=lambda kind: TOLERANCE.get(kind, math.inf)) if named <= TOLERANCE.keys() else "bfloat16"


def _errors(found: Sequence[Consistency]) -> str:
    return " and ".join(f"{one.error:.2g} as {_NAMES[one.role]}" for one in found)


def _refusal(found: Sequence[Consistency], allowed: float, rows: Mapping[str, TraceRow], config: TrainConfig) -> str:
    worst = max(found, key=lambda one: one.error)
    engines = ", ".join(sorted({row.engine for row in rows.values()}))
    return (
        f"this model does not give the log-probabilities that the rollout gave its traces: logits are off by "
        f"{_errors(found)} nats, wanted at most {allowed:g} between {engines} and {config.dtype} here; as "
        f"{_NAMES[worst.role]} {worst.mean:.2g} nats a token on the mean of {worst.num_tokens} tokens, at worst "
        f"{worst.worst:.2g}, at {worst.worst_at}; {_likely(found, allowed)}. Restore what differs or synthesise again "
        "with this folder; if the engine is known to compute otherwise (quantised weights or cache), set "
        "rollout_tolerance"
    )


def _likely(found: Sequence[Consistency], allowed: float) -> str:
    """What the pattern of the errors speaks for."""
    wrong = [one for one in found if not one.error <= allowed]
    quarters = wrong[0].quarters
    shown = ", ".join(f"{error:.2g}" for error in quarters if not math.isnan(error))
    if len(wrong) < len(found):
        return (
            f"{_NAMES[wrong[0].role]}'s contexts alone are affected: their ids were rendered by another template, or "
            "they are so long that only they meet a window, a RoPE factor or the end of the context"
        )
    if quarters[0] <= allowed:
        return (
            f"the error grows along the sequence (by quarters: {shown}): RoPE settings, a sliding window or the "
            "context length differ from the engine's"
        )
    return (
        f"it is there from the first tokens on (by quarters: {shown}): weights that are damaged or of another model, "
        "other RoPE settings, attention that lacks a cap or a scale, or contexts that another template rendered"
    )
