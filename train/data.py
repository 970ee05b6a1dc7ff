"""Manifest → rows → batches of traces, each with the three contexts it is scored under. Token ids only, no text.

Axes: B traces of a microbatch, T tokens of its longest sequence, R trace tokens of all its traces joined.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from dail.synth.core.config import canonical
from dail.synth.core.errors import DailError, IntegrityError, UsageError
from dail.synth.core.progress import progress
from dail.synth.schema.manifest import Manifest, read_manifest, read_rows
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.shards import TraceRow
from dail.synth.schema.synthesis import COLUMNS
from dail.train.comparison import NEGATIVE, PRIVILEGED, STUDENT
from dail.train.config import TooLong, TrainConfig
from dail.train.positions import Positions

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

ALL_TOKENS = Positions()
Ids = Sequence[int]


class ModelLimits(NamedTuple):
    """What sequences a model can read: context + trace, and ids from 0 up to `vocabulary`."""

    context_tokens: int
    vocabulary: int


@dataclass(frozen=True)
class Example:
    """One trace and its contexts: the three that every trace has, and by name further ones that are references.

    `skip_first` and `after_last` say which predictions count (`positions.py`): `positions`, counted from that of the
    trace's first token.
    """

    unit_id: str
    student_prompt_ids: tuple[int, ...]
    privileged_prompt_ids: tuple[int, ...]
    negative_prompt_ids: tuple[int, ...]
    trace_ids: tuple[int, ...]
    contexts: Mapping[str, tuple[int, ...]] = field(default_factory=dict, hash=False)
    skip_first: int = 0
    after_last: bool = False

    def context(self, name: str) -> tuple[int, ...]:
        """The ids that this role reads before the trace."""
        return getattr(self, _column(name)) if name in COLUMNS else self.contexts[name]

    @property
    def positions(self) -> slice:
        length = len(self.trace_ids)
        return slice(min(self.skip_first, length), length + self.after_last)

    @property
    def num_positions(self) -> int:
        return self.positions.stop - self.positions.start

    @property
    def student_tokens(self) -> int:
        return len(self.student_prompt_ids) + len(self.trace_ids)

    @property
    def filtered_by(self) -> int:
        """Tokens of the longer of the student's and the privileged student's conversation."""
        return max(len(self.student_prompt_ids), len(self.privileged_prompt_ids)) + len(self.trace_ids)

    def longest(self, names: Sequence[str]) -> tuple[str, int]:
        """Which of these contexts makes the longest sequence with the trace, and the tokens of both."""
        name = max(names, key=lambda name: len(self.context(name)))
        return name, len(self.context(name)) + len(self.trace_ids)

    @cached_property
    def readings(self) -> dict[str, Reading]:
        """What each reference would read, by name."""
        positions, length = self.positions, len(self.trace_ids)
        trace = _digest(self.trace_ids)
        if positions != slice(0, length):
            trace += f"-{positions.start}-{positions.stop}"
        contexts = {name: self.context(name) for name in (*COLUMNS, *self.contexts)}
        return {
            name: Reading(f"{trace}-{_digest(ids)}", ids, self.trace_ids, positions) for name, ids in contexts.items()
        }


class Reading(NamedTuple):
    """A context and a trace behind it. `key` names what a frozen model makes of them: hashes of both, and which
    positions count if not all.
    """

    key: str
    context_ids: tuple[int, ...]
    trace_ids: tuple[int, ...]
    positions: slice

    @property
    def num_positions(self) -> int:
        return self.positions.stop - self.positions.start

    @property
    def num_tokens(self) -> int:
        return len(self.context_ids) + len(self.trace_ids)


def _column(name: str) -> str:
    """Of a shard, and of `Example`."""
    return f"{name}_prompt_ids"


def _digest(ids: tuple[int, ...]) -> str:
    return hashlib.sha256(canonical(ids)).hexdigest()[:32]


def reads_alike(examples: Sequence[Example], names: Sequence[str]) -> bool:
    """Whether each reference of these names reads what the student does: the model is distilled onto itself."""
    return all(example.context(name) == example.student_prompt_ids for example in examples for name in names)


@dataclass(frozen=True)
class TrainingSet:
    """The examples of a manifest, in its order, but those that were left out: `num_dropped` longer than the model
    reads, `num_filtered` not shorter than `longest`, `num_empty` without a position that counts."""

    manifest: Manifest
    examples: tuple[Example, ...]
    num_dropped: int = 0
    num_filtered: int = 0
    num_empty: int = 0

    @property
    def mean_trace_tokens(self) -> float:
        """Of the positions that count, which are a trace's tokens unless settings say otherwise."""
        return sum(example.num_positions for example in self.examples) / len(self.examples)

    def steps_per_epoch(self, batch_size: int) -> int:
        """The last batch of an epoch may be smaller."""
        return -(-len(self.examples) // batch_size)

    def num_steps(self, config: TrainConfig) -> int:
        return self.steps_per_epoch(config.batch_size) * config.epochs

    def batch(self, seed: int, step: int, batch_size: int) -> list[Example]:
        """The traces of a step. No state: a resumed run sees what an unbroken one would have seen."""
        epoch, index = divmod(step, self.steps_per_epoch(batch_size))
        order = _order(len(self.examples), seed, epoch)
        return [self.examples[i] for i in order[index * batch_size : (index + 1) * batch_size]]


@lru_cache(maxsize=1)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    """Positions 0..count-1, shuffled. By hash, so that no library's generator can change it between versions."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{seed}/{epoch}/{i}".encode()).digest())


def load_examples(
    manifest_path: Path,
    model: ModelIdentity,
    limits: ModelLimits,
    too_long: TooLong = "fail",
    references: Sequence[str] = (PRIVILEGED, NEGATIVE),
    positions: Positions = ALL_TOKENS,
    longest: int | None = None,
) -> TrainingSet:
    """Reads and checks every row; nothing is ever truncated, and what is left out is told and counted.

    Args:
        too_long: what to do about a trace that is longer, with one of its contexts, than the model reads.
        positions: which predictions count; a trace without any is left out.
        references: names of the contexts that will be read beside the student's and the privileged student's.
        longest: traces with so many tokens or more, with the student's or the privileged prompt, are left out first.

    Raises:
        UsageError: no manifest, a shard another model made or without one of the contexts, or a sequence longer than
            the model can read that may not be left out; or all would be.
        IntegrityError: a damaged manifest or shard, an empty sequence, or ids outside the vocabulary.
    """
    manifest = read_manifest(manifest_path)
    shard_of = {shard.unit_id: f"{shard.key}, unit {shard.unit_id}" for shard in manifest.shards}
    examples: list[Example] = []
    dropped: list[tuple[int, str]] = []
    names = tuple(dict.fromkeys((STUDENT, PRIVILEGED, *references)))  # the first two are held against the rollout
    num_filtered = num_empty = 0
    with progress("reading traces", manifest.rows) as bar:
        for row in read_rows(manifest_path):
            shard = shard_of[row.unit_id]
            _refuse_foreign(row, shard, model)
            example = _example(row, shard, limits, positions, names)
            name, length = example.longest(names)
            if not example.trace_ids or example.num_positions == 0:
                num_empty += 1
            elif longest is not None and example.filtered_by >= longest:
                num_filtered += 1
            elif length <= limits.context_tokens:
                examples.append(example)
            elif too_long == "drop":
                dropped.append((length, row.unit_id))
            else:
                raise _too_long(shard, name, length, limits)
            bar.update(len(examples) + len(dropped) + num_filtered + num_empty)
    if dropped:
        _tell_dropped(dropped, manifest.rows, limits)
    examples.sort(key=lambda example: example.unit_id)  # in which shards they lie must not change what a step sees
    found = TrainingSet(manifest, tuple(examples), len(dropped), num_filtered, num_empty)
    _tell_left_out(found, longest, positions)
    if not examples:
        raise _nothing_left(manifest_path, found, longest, positions)
    return found


def _tell_left_out(data: TrainingSet, longest: int | None, positions: Positions) -> None:
    rows = data.manifest.rows
    if longest is not None:
        stayed = rows - data.num_filtered
        _log.info(
            f"longest={longest}: {stayed} of {rows} traces stay ({stayed / max(rows, 1):.1%}); the others have so many "
            "tokens or more with the student's or the privileged student's prompt"
        )
    if data.num_empty:
        _log.warning(
            f"{data.num_empty} of {rows} traces are left out, of which no prediction counts: they have at most "
            f"{positions.skip_first} tokens (skip_first), or nothing but the end of a turn"
        )


def _nothing_left(manifest_path: Path, data: TrainingSet, longest: int | None, positions: Positions) -> UsageError:
    """Says which of the reasons took how many."""
    lost = {
        f"{data.num_dropped} are longer than the model reads": data.num_dropped,
        f"{data.num_filtered} have {longest} tokens or more (longest)": data.num_filtered,
        f"{data.num_empty} have no prediction that counts (skip_first={positions.skip_first})": data.num_empty,
    }
    reasons = [reason for reason, count in lost.items() if count]
    if not reasons:
        return UsageError(f"manifest {manifest_path} lists no traces; wanted at least one; synthesise some first")
    return UsageError(
        f"manifest {manifest_path} lists no trace that could be trained on: of {data.manifest.rows}, "
        f"{' and '.join(reasons)}; wanted at least one; change these settings, or synthesise others"
    )


def _too_long(shard: str, name: str, length: int, limits: ModelLimits) -> UsageError:
    return UsageError(
        f"shard {shard}: {_shown(name)} and trace have {length} tokens, the model reads {limits.context_tokens}; "
        "traces are never truncated; set train.too_long=drop to leave such traces out, or synthesise again with a "
        "smaller max_tokens or a shorter solution"
    )


def _tell_dropped(dropped: Sequence[tuple[int, str]], rows: int, limits: ModelLimits) -> None:
    length, unit = max(dropped)
    _log.warning(
        f"too_long=drop: {len(dropped)} of {rows} traces are left out, which are longer, with one of their contexts, "
        f"than the {limits.context_tokens} tokens that the model reads; the longest has {length} (unit {unit})"
    )


def _refuse_foreign(row: TraceRow, shard: str, model: ModelIdentity) -> None:
    """Another tokenizer gives other ids, other weights another rollout; the chat template no longer matters here."""
    for what, got, wanted in (
        ("tokenizer", row.tokenizer_hash, model.tokenizer_hash),
        ("model revision", row.model_revision, model.revision),
    ):
        if got != wanted:
            raise UsageError(
                f"shard {shard} was made with {what} {got[:19]} ({row.model_name}), the model folder has "
                f"{wanted[:19]}; give the folder of the model that made it, or synthesise again with this one"
            )


def _example(row: TraceRow, shard: str, limits: ModelLimits, positions: Positions, names: Sequence[str]) -> Example:
    contexts = _contexts(row)
    for name in names:
        if name not in contexts:
            raise UsageError(
                f"shard {shard} has no context {name}, which references names; it has {', '.join(contexts)}; take one "
                "of these, or synthesise again with synthesis.contexts"
            )
    for what, ids in (*((_shown(name), contexts[name]) for name in names), ("trace_ids", row.trace_ids)):
        if not ids:
            raise IntegrityError(f"shard {shard}: {what} is empty; wanted at least one token; synthesise it again")
        if min(ids) < 0 or max(ids) >= limits.vocabulary:
            wrong = min(ids) if min(ids) < 0 else max(ids)
            raise IntegrityError(
                f"shard {shard}: {what} has id {wrong}, the model's vocabulary is 0 to {limits.vocabulary - 1}; "
                "synthesise it again with this model"
            )
    return Example(
        row.unit_id,
        row.student_prompt_ids,
        row.privileged_prompt_ids,
        row.negative_prompt_ids,
        positions.trace(row.trace_ids),
        {name: contexts[name] for name in names if name not in COLUMNS},
        positions.skip_first,
        positions.after_last,
    )


def _contexts(row: TraceRow) -> dict[str, tuple[int, ...]]:
    """All that the row has, by name."""
    return {one.name: one.ids for one in row.contexts} | {name: getattr(row, _column(name)) for name in COLUMNS}


def _shown(name: str) -> str:
    """Of a context, as the shard has it."""
    return _column(name) if name in COLUMNS else f"context {name}"


def microbatches(batch: Sequence[_T], tokens: int, width: Callable[[_T], int], packed: bool = False) -> list[list[_T]]:
    """Splits a batch, in order, so that each part has at most `tokens`: as it is, or padded to its widest sequence.

    Args:
        width: tokens of a sequence.
    """
    parts: list[list[_T]] = []
    for example in batch:
        widths = [width(e) for e in (*parts[-1], example)] if parts else []
        if parts and (sum(widths) if packed else len(widths) * max(widths)) <= tokens:
            parts[-1].append(example)
        else:
            parts.append([example])
    return parts


def student_tokens(example: Example) -> int:
    return example.student_tokens


class Sequences(NamedTuple):
    """Sequences one below the other, padded on the right; or one after the other in one row, if `is_packed`.

    `spans`: by sequence, its row and the positions in it whose hidden states make the predictions that count.
    `lengths`: of each sequence, without pads.
    """

    ids_BT: Tensor
    spans: tuple[tuple[int, slice], ...]
    lengths: tuple[int, ...]
    is_packed: bool = False

    @property
    def positions_BT(self) -> Tensor | None:
        """Of each token in its own sequence; none where counting from the row's beginning is right."""
        if not self.is_packed:
            return None
        return on_device(torch.cat([torch.arange(length) for length in self.lengths])[None], self.ids_BT.device)

    @property
    def ends(self) -> Tensor | None:
        """Where the first sequence begins and where each ends, int32, as attention over a pack wants it."""
        if not self.is_packed:
            return None
        return on_device(torch.tensor([0, *self.lengths]).cumsum(0).to(torch.int32), self.ids_BT.device)

    def each(self) -> list[Sequences]:
        """The rows one by one, without pads; not of a pack."""
        assert not self.is_packed, "sequences of a pack are not rows"
        return [
            Sequences(self.ids_BT[row : row + 1, :length], ((0, span),), (length,))
            for (row, span), length in zip(self.spans, self.lengths, strict=True)
        ]

    def trace_positions(self, hidden_BTD: Tensor) -> Tensor:
        """Joins the positions that count of all sequences to [R, D]; prompts and padding are left behind."""
        return torch.cat([hidden_BTD[row, span] for row, span in self.spans])


def pad(
    prompts: Sequence[Ids], traces: Sequence[Ids], device: torch.device, positions: Sequence[slice] | None = None
) -> Sequences:
    """Each prompt followed by its trace. Padding may be any id: a causal model's real tokens never look right.

    Args:
        positions: of each trace, which predictions count, 0 being that of its first token; all its tokens if left out.
    """
    rows = [[*prompt, *trace] for prompt, trace in zip(prompts, traces, strict=True)]
    width = max(map(len, rows))
    ids_BT = on_device(torch.tensor([row + [0] * (width - len(row)) for row in rows]), device)
    spans = tuple(enumerate(_spans([0] * len(rows), prompts, traces, positions)))
    return Sequences(ids_BT, spans, tuple(map(len, rows)))


def pack(
    prompts: Sequence[Ids], traces: Sequence[Ids], device: torch.device, positions: Sequence[slice] | None = None
) -> Sequences:
    """Each prompt followed by its trace, all in one row. Only attention that knows the lengths keeps them apart."""
    rows = [[*prompt, *trace] for prompt, trace in zip(prompts, traces, strict=True)]
    begins = list(accumulate(map(len, rows[:-1]), initial=0))
    spans = tuple((0, span) for span in _spans(begins, prompts, traces, positions))
    ids_1T = on_device(torch.tensor([[token for row in rows for token in row]]), device)
    return Sequences(ids_1T, spans, tuple(map(len, rows)), is_packed=True)


def _spans(
    begins: Sequence[int], prompts: Sequence[Ids], traces: Sequence[Ids], positions: Sequence[slice] | None
) -> list[slice]:
    """The prediction of a trace's first token is made by the prompt's last one, and so on."""
    chosen = positions or [slice(0, len(trace)) for trace in traces]
    firsts = (begin + len(prompt) - 1 for begin, prompt in zip(begins, prompts, strict=True))
    return [slice(first + one.start, first + one.stop) for first, one in zip(firsts, chosen, strict=True)]


def student_input(examples: Sequence[Example], device: torch.device, packed: bool = False) -> Sequences:
    traces, positions = [e.trace_ids for e in examples], [e.positions for e in examples]
    return (pack if packed else pad)([e.student_prompt_ids for e in examples], traces, device, positions)


def reference_input(
    examples: Sequence[Example], names: Sequence[str], device: torch.device, packed: bool = False
) -> Sequences:
    """All references in one pass: the first one's contexts, then the next one's, over the same traces."""
    prompts = [example.context(name) for name in names for example in examples]
    traces, positions = [e.trace_ids for e in examples], [e.positions for e in examples]
    return (pack if packed else pad)(prompts, traces * len(names), device, positions * len(names))


def joined_traces(examples: Sequence[Example], device: torch.device) -> Tensor:
    """The ids that should be predicted at the positions that count, of all examples [R]."""
    assert not any(example.after_last for example in examples), "behind a trace there is no token to predict"
    return on_device(torch.tensor([token for e in examples for token in e.trace_ids[e.positions]]), device)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Sent to a GPU without waiting for it: it fetches pinned memory by itself, when it gets there."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def out_of_memory(lengths: Sequence[int], config: TrainConfig) -> DailError:
    """What to tell where a pass over traces of so many tokens, with their contexts, did not fit on the GPU."""
    return DailError(
        f"out of GPU memory on {len(lengths)} traces of up to {max(lengths)} tokens; lower "
        f"microbatch_tokens (now {config.microbatch_tokens}) or token_chunk (now {config.token_chunk}), or set "
        "recompute=on, and rerun to go on from where it stopped"
    )
