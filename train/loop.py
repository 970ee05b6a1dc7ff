"""The training run, step by step (paper §2.2, App. B.3): shards in, adapter out."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import AdamW, Optimizer

from synth.schema.base import DailError, UsageError
from synth.schema.console import progress, say
from synth.schema.manifest import read_manifest
from synth.schema.models import identify
from train import adapter, checkpoint
from train.checkpoint import RunRecord
from train.config import TrainConfig
from train.data import (
    Example,
    TrainingSet,
    joined_traces,
    load_examples,
    microbatches,
    reference_input,
    student_input,
)
from train.loss import Figures, folded_kl_loss, kl_loss, kl_weights, nll_loss
from train.metrics import METRICS_FILE, metrics
from train.model import Roles, check_roles, choose_packing, device_and_dtype, load_roles, read_limits
from train.ranks import Ranks
from train.references import ReferenceCache, fill, made_with

GAMMA_WARNING = 0.5
_ALONE = Ranks()
REFERENCES = "references"


@dataclass(frozen=True)
class Result:
    """Where everything lies. `resumed_at` steps were already done when this call started."""

    adapter: Path
    metrics: Path
    steps: int
    resumed_at: int


def run(
    model_folder: Path,
    manifest_path: Path,
    out: Path,
    config: TrainConfig,
    references: Path | None = None,
    ranks: Ranks = _ALONE,
) -> Result:
    """Trains an adapter, goes on with a run that was stopped, or finds that it is finished.

    Args:
        references: folder of the reference cache; OUT/references if none is named.
        ranks: all of them call this with the same arguments; the first one writes.

    Raises:
        DailError: of the kind that fits; a rerun goes on from the last checkpoint.
    """
    if ranks.size > config.batch_size:
        raise UsageError(
            f"{ranks.size} ranks share batches of {config.batch_size} traces, so some would have nothing to do; start "
            f"{config.batch_size} ranks, or set batch_size={ranks.size} (the paper's is 4)"
        )
    device, config = device_and_dtype(config)
    say(f"checking the weights in {model_folder} against the manifest")
    record = _record(model_folder, manifest_path, config)
    if earlier := checkpoint.find_run(out, record):
        if provenance := adapter.finished(out):
            return _result(out, provenance.steps, provenance.steps)
        record = record.model_copy(update={"started_at": earlier.started_at})
    data = load_examples(manifest_path, record.model, read_limits(model_folder))
    if config.objective == "contrastive" and config.gamma > GAMMA_WARNING:
        say(
            f"warning: gamma {config.gamma} is above {GAMMA_WARNING}; from there on the optimum leans to tokens the "
            "privileged student finds unlikely; the paper uses 0.1"
        )
    if ranks.is_first:
        checkpoint.claim(out, record)
    say(f"loading the weights as {config.dtype} on the {device.type}")
    roles = load_roles(model_folder, config, device)
    check_roles(roles, data.examples[0])
    roles = choose_packing(roles, data.examples[:3])
    optimizer = AdamW(roles.adapter().values(), lr=config.lr, weight_decay=config.weight_decay)
    done = checkpoint.restore(out, roles.adapter(), optimizer, record.fingerprint)
    cache = reference_cache(references or out / REFERENCES, roles, data, record, ranks)
    steps = optimise(roles, optimizer, data, out, record, done, cache, ranks)
    if ranks.is_first:
        adapter.save_adapter(out, roles, record, steps)
    return _result(out, steps, done)


def reference_cache(
    folder: Path, roles: Roles, data: TrainingSet, record: RunRecord, ranks: Ranks
) -> ReferenceCache | None:
    """What the folded loss reads of the references, computed first where it is missing; none where it reads nothing."""
    config = record.config
    if config.objective == "nll" or config.references == "live" or not roles.head.is_plain:
        return None
    cache = ReferenceCache(folder, made_with(record.model, roles, config))
    fill(cache, folder, roles, data.examples, config, ranks)
    return cache


def optimise(
    roles: Roles,
    optimizer: Optimizer,
    data: TrainingSet,
    out: Path,
    record: RunRecord,
    done: int,
    cache: ReferenceCache | None,
    ranks: Ranks,
) -> int:
    """Every step after the first `done`, with checkpoints on the way and at the end; how many there are in all."""
    config = record.config
    total = data.steps_per_epoch(config.batch_size) * config.epochs
    started, tokens = time.monotonic(), 0
    with metrics(out, done) if ranks.is_first else nullcontext() as log, progress("training", total) as bar:
        for step in range(done, total):
            batch = data.batch(config.seed, step, config.batch_size)
            figures = gradients(roles, batch, config, data.mean_trace_tokens, cache, ranks)
            if not math.isfinite(figures["loss"] + figures["grad_norm"]):
                if ranks.is_first:
                    checkpoint.save(out, roles.adapter(), optimizer, step, record.fingerprint)
                raise _not_finite(step, batch, figures, out)
            lr = learning_rate(config, step, total)
            update(optimizer, lr)
            tokens += sum(len(example.trace_ids) for example in batch)
            speed = tokens / (time.monotonic() - started)
            epoch = (step + 1) / total * config.epochs
            if log:
                log.write(step + 1, {"epoch": epoch, "lr": lr, **figures, "tokens_s": speed})
            bar.update(step + 1, loss=figures["loss"], gap=figures["gap"], tokens_per_s=speed)
            is_due = (step + 1) % config.checkpoint_every == 0 or step + 1 == total
            if is_due and ranks.is_first:
                checkpoint.save(out, roles.adapter(), optimizer, step + 1, record.fingerprint)
    return total


def gradients(
    roles: Roles,
    batch: Sequence[Example],
    config: TrainConfig,
    mean_trace_tokens: float,
    cache: ReferenceCache | None = None,
    ranks: Ranks = _ALONE,
) -> dict[str, float]:
    """Adds the batch's gradient to the adapter and clips it; the means of the figures per token that was measured.

    The paper's loss is a sum over a trace's tokens, averaged over traces. It is divided by the mean trace length of
    the data set as well, a constant: batches keep their relative weight, the scale stays near nats per token, and
    clipping does not depend on how long traces are. A smaller last batch is divided by `batch_size` all the same.
    """
    sums, counts = Counter[str](), Counter[str]()
    for examples in microbatches(ranks.share(batch), config.microbatch_tokens, packed=roles.packs):
        try:
            loss_R, figures = score(roles, examples, config, cache)
            (loss_R.sum() / (config.batch_size * mean_trace_tokens)).backward()
        except torch.OutOfMemoryError:
            raise DailError(
                f"out of GPU memory on {len(examples)} traces of up to {max(e.student_tokens for e in examples)} "
                f"tokens; lower microbatch_tokens (now {config.microbatch_tokens}) or token_chunk (now "
                f"{config.token_chunk}) and rerun to go on from the last checkpoint"
            ) from None
        sums.update({name: float(value.sum()) for name, value in figures.items()})
        counts.update({name: len(value) for name, value in figures.items()})
    ranks.add_gradients(roles.adapter().values())
    totals, numbers = Counter[str](), Counter[str]()
    for some_sums, some_counts in ranks.gather((sums, counts)):
        totals.update(some_sums)
        numbers.update(some_counts)
    norm = clip_grad_norm_(roles.adapter().values(), config.max_grad_norm)
    return {**{name: value / numbers[name] for name, value in totals.items()}, "grad_norm": float(norm)}


def score(
    roles: Roles, examples: Sequence[Example], config: TrainConfig, cache: ReferenceCache | None = None
) -> tuple[Tensor, Figures]:
    """The loss of every trace token [R], and its figures. Without a cache both references are computed here."""
    student_RD = roles.student(student_input(examples, roles.device, roles.packs))
    weights = kl_weights(config.objective, config.gamma)
    if weights is None:
        return nll_loss(student_RD, joined_traces(examples, roles.device), roles.head, config.token_chunk)
    if cache is not None:
        privileged, negative = cache.of(examples, roles.device)
        floor_R = cache.floors(examples, roles, weights, config.token_chunk)
        matrix_VD = roles.head.matrix_VD
        return folded_kl_loss(student_RD, privileged, negative, matrix_VD, weights, config.token_chunk, floor_R)
    privileged_RD, negative_RD = roles.reference(reference_input(examples, roles.device, roles.packs)).chunk(2)
    return kl_loss(student_RD, privileged_RD, negative_RD, roles.head, weights, config.token_chunk)


def learning_rate(config: TrainConfig, step: int, total: int) -> float:
    """Linear up over the warm-up, then linear down to 0, which the step after the last would have."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    return config.lr * (total - step) / (total - config.warmup_steps)


def update(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


def _record(model_folder: Path, manifest_path: Path, config: TrainConfig) -> RunRecord:
    manifest = read_manifest(manifest_path)
    return RunRecord(
        config=config,
        model=identify(model_folder, manifest.model.name),
        model_folder=str(model_folder.resolve()),
        manifest=str(manifest_path.resolve()),
        manifest_digest=manifest.digest,
        batch_id=manifest.batch_id,
        started_at=dt.datetime.now(dt.UTC),
    )


def _result(out: Path, steps: int, resumed_at: int) -> Result:
    return Result(out / adapter.ADAPTER_FOLDER, out / METRICS_FILE, steps, resumed_at)


def _not_finite(step: int, batch: Sequence[Example], figures: dict[str, float], out: Path) -> DailError:
    traces = ", ".join(example.unit_id for example in batch)
    return DailError(
        f"step {step + 1}: the loss is {figures['loss']}, its gradient's norm {figures['grad_norm']}; wanted finite "
        f"numbers; traces {traces}; the state before this step is saved in {out / checkpoint.CHECKPOINT_FILE}; "
        "try a smaller lr in another --out"
    )
