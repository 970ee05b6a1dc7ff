"""The training run, step by step (paper §2.2, App. B.3): shards in, adapter out.

The same call again goes on with a run that was stopped:

    from dail.train import TrainConfig, train
    manifest = "runs/shards/manifests/BATCH/v1.json"  # `dail synth` says which
    result = train("deploy/demo/model", manifest, "runs/train", TrainConfig(lr=1e-3, epochs=2))
    print(result.adapter, result.steps)
"""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from dail.synth.core.errors import DailError, UsageError
from dail.synth.core.extensions import label
from dail.synth.core.progress import OnProgress, progress, told_to
from dail.synth.core.running import Stop
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.mirror import local_manifest
from dail.synth.schema.models import identify
from dail.train import adapter, checkpoint, memory, objective
from dail.train.comparison import leaning, reference_names
from dail.train.config import TrainConfig
from dail.train.consistency import check_rollout
from dail.train.data import Example, TrainingSet, load_examples, reads_alike
from dail.train.distributed import Ranks
from dail.train.gate import look_at_traces
from dail.train.given_adapters import check_start, read_given, take_given
from dail.train.metrics import METRICS_FILE, Metrics, check_trackers, metrics
from dail.train.model import check_roles, device_and_dtype, load_roles, read_limits
from dail.train.optimizers import check_optimizer, make_optimizer
from dail.train.packing import choose_packing
from dail.train.positions import read_positions
from dail.train.quantising import check_quantise
from dail.train.record import RUN_FILE, Given, RunRecord
from dail.train.references import ReferenceCache, fill, made_with, own_folder
from dail.train.step import GradientStep, has_kls, learning_rate, update
from dail.train.targets import check_gradients
from dail.train.whole import as_one, check_whole, cost

_log = logging.getLogger(__name__)

ROUNDING = 1e-5  # nats: roles that agree are further apart by less
GIB = 2**30
_ALONE, _NOTHING = Ranks(), Given()
REFERENCES = "references"


@dataclass(frozen=True)
class Result:
    """Where everything lies. `resumed_at` steps were already done when this call started.

    `adapter`: its folder; with tune=full that of the trained model.

    `stopped_at`: the run was asked to stop and has so many steps; there is no adapter yet, the same call goes on.
    """

    adapter: Path
    metrics: Path
    steps: int
    resumed_at: int
    stopped_at: int | None = None


def train(
    model: str | Path,
    manifest: str | Path,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    references: str | Path | None = None,
    init_adapter: str | Path | None = None,
    reference_adapter: str | Path | None = None,
    on_progress: OnProgress | None = None,
    stop: Stop | None = None,
) -> Result:
    """Trains an adapter on the traces that a manifest lists, in this process; the same call again goes on.

    Blocks; works in a script, a thread and a notebook. Prints nothing: messages go to the loggers under `dail`.

    Args:
        model: folder of the model that the traces were drawn with.
        out: run folder, which receives metrics.jsonl, curves.svg and adapter/.
        config: the paper's settings if left out.
        references: folder of the reference cache, which several runs may share; OUT/references if left out.
        init_adapter: folder of an adapter to start from, of the same model, rank, alpha and layers; fresh LoRA layers
            if left out.
        reference_adapter: folder of a frozen adapter that the references have on; they are the bare model if left
            out.
        on_progress: called in the thread that does the work; what it raises ends the run.
        stop: `set()` from another thread, it ends the run behind the step that is being done, which is kept.

    Raises:
        DailError: of the kind that fits; a rerun goes on from the last checkpoint.
    """
    cache, start, frozen = (Path(one) if one else None for one in (references, init_adapter, reference_adapter))
    given = Given(start, frozen)
    with told_to(on_progress):
        return run(
            Path(model), local_manifest(manifest), Path(out), config or TrainConfig(), cache, stop=stop, given=given
        )


def run(
    model_folder: Path,
    manifest_path: Path,
    out: Path,
    config: TrainConfig,
    references: Path | None = None,
    ranks: Ranks = _ALONE,
    stop: Stop | None = None,
    given: Given = _NOTHING,
) -> Result:
    """Trains an adapter, goes on with a run that was stopped, or finds that it is finished.

    Args:
        references: folder of the reference cache; OUT/references if none is named.
        ranks: all of them call this with the same arguments; the first one writes.
        stop: ends the run behind a step, with a checkpoint, once it is set on any rank.
        given: adapters to start from and to compute the references with.

    Raises:
        DailError: of the kind that fits; a rerun goes on from the last checkpoint.
    """
    config = checked(config, ranks)
    check_whole(config, given)
    _log.info(f"checking the weights in {model_folder} against the manifest")
    record = _record(model_folder, manifest_path, config, given)
    if len(set(ranks.gather(record.fingerprint))) > 1:
        raise UsageError("the ranks have different settings, models or sources of the objective; give all the same")
    earlier = checkpoint.find_run(out, record)
    if earlier and (provenance := adapter.finished(out)):
        return result_of(out, record, provenance.steps, provenance.steps)
    if earlier:
        record = record.model_copy(update={"started_at": earlier.started_at})
    data = _examples(model_folder, manifest_path, record)
    _warn_of_start(record)
    if warning := leaning(config):
        _log.warning(warning)
    seen = look_at_traces(manifest_path, config.gate)
    record = record.model_copy(update={**_counts(data), "gate": seen})
    with checkpoint.held(out) if ranks.is_first else nullcontext():
        checkpoint.find_run(out, record)  # another may have been begun since
        if seen.stops:
            if ranks.is_first:
                checkpoint.claim(out, record)
            raise seen.stopped(f"nothing was trained; {out / RUN_FILE} has the figures")
        return _train(model_folder, data, out, record, references, ranks, stop or Stop())


def _train(
    model_folder: Path,
    data: TrainingSet,
    out: Path,
    record: RunRecord,
    references: Path | None,
    ranks: Ranks,
    stop: Stop,
) -> Result:
    config = record.config
    scorer = start_scorer(model_folder, record, data, ranks)
    roles = scorer.roles
    if config.tune == "full":
        _log.info(cost(roles.peft, config, ranks.size))
    memory.fit(scorer, data)
    if config.tune == "full":
        scorer = _with_whole_cache(scorer, references or out / REFERENCES, data, record)
    optimizer = make_optimizer(roles.adapter().values(), config)
    done = checkpoint.restore(out, roles.adapter(), optimizer, record.fingerprint)
    with metrics(out, done, record) if ranks.is_first else nullcontext() as log:
        if ranks.is_first:
            checkpoint.claim(out, record)  # behind all that may be refused
        if config.tune == "lora":
            own = own_folder(out / REFERENCES, made_with(record.model, roles, config))
            scorer = replace(scorer, cache=reference_cache(references or own, scorer, data, record))
        memory.time_left(scorer, data, done, data.num_steps(config))
        with stop.listened_to():
            stops_at_once = any(ranks.gather(log is not None and log.seen.stops))  # of the steps before a restart
            steps = done if stops_at_once else optimise(scorer, optimizer, data, out, record, done, log, stop)
    seen, *_ = [one for one in ranks.gather(log.seen if log else None) if one]
    record = record.model_copy(update={"gate": seen})
    if ranks.is_first:
        checkpoint.claim(out, record)
    if seen.stops:
        raise seen.stopped(f"the state behind step {steps} of {data.num_steps(config)} is kept in {out}")
    if steps < data.num_steps(config):
        _log.info(f"stopped behind step {steps} of {data.num_steps(config)}, which is saved; the same command goes on")
        return replace(result_of(out, record, data.num_steps(config), done), stopped_at=steps)
    if config.tune == "full" and config.shard_weights:
        roles = replace(roles, peft=as_one(roles.peft, model_folder, ranks.is_first))
    if ranks.is_first:
        adapter.save_adapter(out, roles, record, steps)
    return result_of(out, record, steps, done)


def _with_whole_cache(scorer: GradientStep, folder: Path, data: TrainingSet, record: RunRecord) -> GradientStep:
    """With the references as the untrained model gives them: before a step, and before a checkpoint, changes it."""
    cache = reference_cache(
        own_folder(folder, made_with(record.model, scorer.roles, record.config)), scorer, data, record
    )
    if cache is None and record.config.objective != "nll":
        raise UsageError(
            f"tune=full reads references from a cache, and {scorer.roles.peft.config.model_type} models, which put a "
            "bias, a scale or a cap on their logits, have none; set tune=lora"
        )
    return replace(scorer, cache=cache)


def start_scorer(model_folder: Path, record: RunRecord, data: TrainingSet, ranks: Ranks) -> GradientStep:
    """The model in its three roles, tried out on some traces and held against their rollout; no cache yet."""
    config = record.config
    device, _ = device_and_dtype(config)
    ranks = replace(ranks, share_weights=config.shard_weights)
    _log.info(f"loading the weights as {config.dtype} on the {device.type}")
    try:
        roles = load_roles(model_folder, config, device, ranks)
        check_roles(roles, data.examples[0])
        roles = take_given(roles, record)
        roles = choose_packing(roles, data.examples, config.packing, ranks)
        check_rollout(roles, data, Path(record.manifest), config)
    except torch.OutOfMemoryError:
        raise UsageError(
            f"the weights of {model_folder} do not fit on the {device.type} as {config.dtype}; free it of other "
            "programs, take a larger one, or start several ranks with shard_weights=true"
        ) from None
    return GradientStep(roles, config, data.mean_trace_tokens, ranks=ranks)


def reference_cache(folder: Path, scorer: GradientStep, data: TrainingSet, record: RunRecord) -> ReferenceCache | None:
    """What the loss reads of the references, computed first where it is missing; none where it reads nothing."""
    config, roles = record.config, scorer.roles
    if not scorer.caches:
        return None
    cache = ReferenceCache(folder, made_with(record.model, roles, config), scorer.ranks)
    fill(cache, roles, data.examples, config)
    return cache


def optimise(
    scorer: GradientStep,
    optimizer: Optimizer,
    data: TrainingSet,
    out: Path,
    record: RunRecord,
    done: int,
    log: Metrics | None,
    stop: Stop,
) -> int:
    """Every step after the first `done`, with checkpoints on the way and at the end; how many are done then.

    They are all of them, unless the run was asked to stop.
    """
    config, weights, is_first = scorer.config, scorer.roles.adapter(), scorer.ranks.is_first
    total = data.num_steps(config)
    started, tokens = time.monotonic(), 0
    with progress("training", total) as bar:
        for step in range(done, total):
            batch = data.batch(config.seed, step, config.batch_size)
            figures = scorer.gradients(batch, step, has_kls(config, step, total))
            if not math.isfinite(figures["loss"] + figures["grad_norm"]):
                checkpoint.save(out, weights, optimizer, step, record.fingerprint, is_first)
                raise _not_finite(step, batch, figures, out)
            if step == done:
                alike = abs(figures["loss"]) < ROUNDING and reads_alike(batch, reference_names(config))
                check_gradients(weights, step, reads_alike=alike)
            lr = learning_rate(config, step, total)
            update(optimizer, lr)
            tokens += sum(len(example.trace_ids) for example in batch)
            speed = tokens / (time.monotonic() - started)
            if log:
                log.write(
                    step + 1, {"epoch": (step + 1) / total * config.epochs, "lr": lr, **figures, "tokens_s": speed}
                )
            shown: dict[str, Any] = {name: figures[name] for name in ("loss", "gap") if name in figures}
            bar.update(step + 1, **shown, tokens_per_s=speed)
            ends = step + 1 == total or any(scorer.ranks.gather(stop.is_set() or (log is not None and log.seen.stops)))
            if ends or (step + 1) % config.checkpoint_every == 0:
                checkpoint.save(out, weights, optimizer, step + 1, record.fingerprint, is_first)
            if ends:
                return step + 1
    return total


def _examples(model_folder: Path, manifest_path: Path, record: RunRecord) -> TrainingSet:
    config = record.config
    limits, positions = read_limits(model_folder), read_positions(model_folder, config)
    names = reference_names(config)
    return load_examples(manifest_path, record.model, limits, config.too_long, names, positions, config.longest)


def _counts(data: TrainingSet) -> dict[str, int]:
    """As the record has them."""
    return {
        "num_traces": len(data.examples),
        "dropped_traces": data.num_dropped,
        "filtered_traces": data.num_filtered,
        "empty_traces": data.num_empty,
    }


def _warn_of_start(record: RunRecord) -> None:
    """Training goes on from the student that drew the traces, in the paper and in most rounds."""
    start = record.init_adapter.digest if record.init_adapter else None
    if record.student == start or record.student is None:
        return
    _log.warning(
        f"the traces were drawn by a student of its own ({record.student[:19]}), and training starts from "
        f"{f'another adapter ({start[:19]})' if start else 'the bare model'}, which did not write them; to go on from "
        "that student give its adapter's folder as --init-adapter, or, if it is a model of its own, synthesise with it"
    )


def compute_references(
    model_folder: Path,
    manifest_path: Path,
    folder: Path,
    config: TrainConfig,
    ranks: Ranks = _ALONE,
    given: Given = _NOTHING,
) -> ReferenceCache:
    """Fills a reference cache for runs to come, and trains nothing.

    Raises:
        UsageError: this model or these settings make no use of one.
    """
    config = checked(config, ranks)
    record = _record(model_folder, manifest_path, config, given)
    data = _examples(model_folder, manifest_path, record)
    scorer = start_scorer(model_folder, record, data, ranks)
    cache = reference_cache(folder, scorer, data, record)
    if cache is None:
        raise UsageError(
            f"with objective={label(config.objective)}, reference_states={config.reference_states} and this model no "
            "references are kept; run `dail train` without a cache"
        )
    return cache


def checked(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """The settings with what they refer to pinned. Raises UsageError for settings that cannot work here."""
    check_trackers(config)
    check_optimizer(config)
    check_quantise(config)
    if ranks.size > config.batch_size:
        raise UsageError(
            f"{ranks.size} ranks share batches of {config.batch_size} traces, so some would have nothing to do; start "
            f"{config.batch_size} ranks, or set batch_size={ranks.size} (the paper's is 4)"
        )
    if config.after_last and (config.objective == "nll" or objective.is_own(config.objective)):
        raise UsageError(
            f"after_last=true counts a prediction that has no token it should have been, and objective="
            f"{label(config.objective)} reads one for each; wanted a divergence; set after_last=false"
        )
    return config.model_copy(update={"objective": objective.checked(config.objective)})


def _record(model_folder: Path, manifest_path: Path, config: TrainConfig, given: Given) -> RunRecord:
    manifest = read_manifest(manifest_path)
    _, config = device_and_dtype(config)
    init, reference = (read_given(folder, model_folder) for folder in given)
    check_start(init, config)
    return RunRecord(
        init_adapter=init,
        reference_adapter=reference,
        config=config,
        model=identify(model_folder, manifest.model.name),
        model_folder=str(model_folder.resolve()),
        manifest=str(manifest_path.resolve()),
        manifest_digest=manifest.digest,
        batch_id=manifest.batch_id,
        synthesis=manifest.synthesis,
        selection=manifest.selection,
        student=manifest.model.student,
        started_at=dt.datetime.now(dt.UTC),
    )


def result_of(out: Path, record: RunRecord, steps: int, resumed_at: int) -> Result:
    return Result(out / adapter.result_folder(record), out / METRICS_FILE, steps, resumed_at)


def _not_finite(step: int, batch: Sequence[Example], figures: dict[str, float], out: Path) -> DailError:
    traces = ", ".join(example.unit_id for example in batch)
    return DailError(
        f"step {step + 1}: the loss is {figures['loss']}, its gradient's norm {figures['grad_norm']}; wanted finite "
        f"numbers; traces {traces}; the state before this step is saved in {out / checkpoint.CHECKPOINT_FILE}; "
        "try a smaller lr in another --out"
    )
