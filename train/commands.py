"""`dail train`, `dail cache`, `dail grpo`, `dail average` and `dail merge`.

A run computes by itself what a cache lacks; `dail cache` does it beforehand, for several runs.

    MANIFEST=runs/shards/manifests/BATCH/v1.json  # `dail synth` says which
    dail cache --model deploy/demo/model --manifest $MANIFEST --references runs/references --config cpu-tiny
    dail train --model deploy/demo/model --manifest $MANIFEST --references runs/references --out runs/train
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from dail.synth.core.console import all_on_stderr, emit, exit_on_sigterm, say, silent_unless, stop_on_signals
from dail.synth.core.errors import EXIT_OK, UsageError
from dail.synth.core.options import Numbers, verb
from dail.synth.core.settings import Chosen
from dail.synth.data import options
from dail.synth.data.options import ManifestPath, control_option
from dail.synth.data.reader import Reading
from dail.synth.schema.controls import check_drawn, controlled, told
from dail.synth.schema.manifest import read_manifest
from dail.train.config import TrainConfig
from dail.train.gate import GateConfig
from dail.train.grpo_config import GrpoConfig
from dail.train.record import Given


def _of_a_run(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that both verbs have."""
    for option in (
        click.option("--reference-adapter", type=click.Path(path_type=Path), help="Frozen adapter of the references."),
        click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object."),
        click.option("--manifest", type=ManifestPath(), required=True, help="Manifest of the shards: a path or a URL."),
        click.option("--model", "model_folder", type=click.Path(path_type=Path), required=True, help="Model folder."),
    ):
        command = option(command)
    return command


@verb("train")
@_of_a_run
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; a stopped run goes on in it.")
@click.option("--references", type=click.Path(path_type=Path), help="Folder of the reference cache; OUT/references.")
@click.option("--init-adapter", type=click.Path(path_type=Path), help="Adapter to start from; fresh LoRA layers.")
@control_option()
@click.option("--ray-workers", type=click.IntRange(1), help="Train on so many workers of a Ray cluster, a GPU each.")
def train(
    chosen: Chosen,
    model_folder: Path,
    manifest: Path,
    out: Path,
    references: Path | None,
    init_adapter: Path | None,
    reference_adapter: Path | None,
    control: str | None,
    ray_workers: int | None,
    as_json: bool,
) -> int:
    """Train a LoRA adapter on the shards that a manifest lists.

    The run folder receives run.json (resolved settings), metrics.jsonl, curves.svg, tensorboard/, references/ (what the
    references give for every trace token, computed once), checkpoint.safetensors and, at the end, adapter/, or
    model/ with tune=full. The same command goes on with a run that was stopped; Ctrl-C and SIGTERM stop it behind a
    step, which is kept, with the exit codes 130 and 143, and a second one at once. With --references several runs share
    one cache. With --init-adapter training goes on from an adapter of the same rank, alpha and layers; with
    --reference-adapter the references have one on, which stays as it is (rounds); else they are the bare model, as in
    the paper. On several GPUs of one machine: torchrun --nproc-per-node 4 $(which dail) train …; on a Ray cluster: ray
    job submit -- dail train --ray-workers 4 …, with paths that every node sees.
    """
    if control is not None:
        check_drawn(control, read_manifest(manifest).synthesis)
    config = controlled(chosen, "train", control).load(TrainConfig, "train", gate=chosen.load(GateConfig, "gate"))
    given = Given(init_adapter, reference_adapter)
    if ray_workers:
        with exit_on_sigterm():
            _say_control(control)
            result = _room("ray_train").run_on_ray(model_folder, manifest, out, config, references, ray_workers, given)
        _tell(result, as_json)
        return EXIT_OK
    loop, distributed = _room("loop"), _room("distributed")
    with stop_on_signals(second_ends=True) as stop, distributed.joined() as ranks, silent_unless(ranks.is_first):
        _say_control(control)
        result = loop.run(model_folder, manifest, out, config, references, ranks, stop, given)
        _tell(result, as_json and ranks.is_first)
    return EXIT_OK if result.stopped_at is None else 128 + (stop.signal or signal.SIGINT)


@verb("cache")
@_of_a_run
@click.option("--references", type=click.Path(path_type=Path), required=True, help="Folder of the cache.")
def cache(
    chosen: Chosen,
    model_folder: Path,
    manifest: Path,
    references: Path,
    reference_adapter: Path | None,
    as_json: bool,
) -> None:
    """Compute what the references give for every trace token, for runs to come.

    `dail train --references FOLDER` does it by itself where something is missing. Beforehand it saves a sweep's first
    run the wait: gamma, temperatures, divergence, learning rate, rank and epochs are free. A stopped pass goes on with
    the same command.
    """
    config = chosen.load(TrainConfig, "train")
    with _room("distributed").joined() as ranks, silent_unless(ranks.is_first):
        given = Given(reference_adapter=reference_adapter)
        held = _room("loop").compute_references(model_folder, manifest, references, config, ranks, given)
        say(f"references: {held.num_traces} traces, {held.size_bytes / 2**30:.3g} GiB in {references}")
        if as_json and ranks.is_first:
            emit({"references": references, "traces": held.num_traces, "size_bytes": held.size_bytes})


@verb("grpo")
@options.files()
@options.reading("OUT/invalid.jsonl")
@click.option("--model", "model_folder", type=click.Path(path_type=Path), required=True, help="Model folder.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; a stopped run goes on in it.")
@click.option("--after", type=click.Path(path_type=Path), help="Run folder of `dail grpo` to go on from, with hints.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def grpo(
    chosen: Chosen,
    files: tuple[str, ...],
    reading: Reading,
    model_folder: Path,
    out: Path,
    after: Path | None,
    as_json: bool,
) -> None:
    """Train by rewards for right answers: GRPO, the paper's baseline, on the problems in FILEs, by TRL.

    The prompts are those of `dail eval`, and its grader rewards. OUT receives grpo.json (settings), metrics.jsonl,
    rollouts-0.jsonl (how many of a problem were right, step by step), checkpoints, and at the end adapter/, or model/
    with tune=full. With --after RUN it goes on from another run, and with grpo.hints=waypoints problems that this
    one's last rollouts did not solve are asked with a hint (NuRL-style). On several GPUs: torchrun --nproc-per-node 4
    $(which dail) grpo ….
    """
    config = chosen.load(GrpoConfig, "grpo")
    with exit_on_sigterm(), all_on_stderr():
        result = _room("grpo").run(files, model_folder, out, config, after=after, reading=reading)
    if as_json:
        emit(asdict(result))
    say(f"{result.solved} of {result.problems} problems were solved in their last rollouts; {result.hinted} had a hint")
    say(f"{result.folder.name}: {result.folder}")


@click.command("average")
@click.argument("adapter", metavar="RUN|ADAPTER", type=click.Path(path_type=Path))
@click.option("--before", type=click.Path(path_type=Path), help="The mean so far; the bare model if left out.")
@click.option("--decay", type=Numbers(0, 1, max_open=True), default=0.9, show_default=True,
              help="What is kept of the mean so far.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder of the new mean.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def average(adapter: Path, before: Path | None, decay: float, out: Path, as_json: bool) -> None:
    """Write the running mean of an adapter and those before it: decay · mean before + (1 - decay) · adapter.

    Of the two matrices of each layer by themselves. `dail loop` does it between rounds with loop.reference=mean; by
    hand, the folder is for --reference-adapter and worker.privileged_adapter.
    """
    mean = _room("average").average(adapter, before, decay, out)
    if as_json:
        emit({"mean": mean})
    say(f"mean: {mean}")


@click.command("merge")
@click.argument("adapter", metavar="RUN|ADAPTER", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), required=True, help="The adapter's base model.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The merged model; must not exist yet.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def merge(adapter: Path, model: Path, out: Path, as_json: bool) -> None:
    """Put an adapter into its base model's weights: a model folder that needs no adapter.

    The sum is made in float32 and stored in the base's own type, and every other file is copied as it is. Its logits
    are held against those of base and adapter before anything is written; how far rounding moves them is said, and
    stands in dail-merged.json with the adapter's lineage. Takes the model's size as float32 in main memory.
    """
    with exit_on_sigterm(), all_on_stderr():
        merged = _room("merging").merge(adapter, model, out)
    if as_json:
        emit({"out": str(out), **merged.model_dump(mode="json")})
    say(
        f"merged {merged.merged_layers} layers: as float32 the logits are off by {merged.float32_error:.1g} of the "
        f"largest; rounded to the base's type by {merged.rounding_error:.2g}, KL {merged.rounding_kl:.2g} nats a "
        f"token, and {merged.unmoved:.0%} of the changes are smaller than the type can hold"
    )
    if merged.not_copied:
        say(f"not copied, since they hold the base's weights: {', '.join(merged.not_copied)}")
    say(f"model: {out}")


def _room(name: str) -> Any:
    """A module of the trainer. torch takes seconds to import, which --help need not wait for."""
    # Read when torch is imported. By default its idle threads spin, which on a busy machine costs more than it gives.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return import_module(f"dail.train.{name}")
    except ModuleNotFoundError as error:
        extra = {"ray_train": "cluster", "grpo": "rl"}.get(name, "train")
        raise UsageError(f"the trainer needs the package {error.name}; run: pip install 'dail[{extra}]'") from None
    except ImportError as error:  # Ray says so of its own extras
        raise UsageError(f"{error}; run: pip install 'dail[cluster]'") from None


def _say_control(control: str | None) -> None:
    if control is not None:
        say(told(control, "train"))


def _tell(result: Any, as_json: bool) -> None:
    if as_json:
        emit(asdict(result))
    if result.stopped_at is not None:
        return
    if result.resumed_at == result.steps:
        say(f"this run is finished: all {result.steps} steps were done before")
    say(f"{result.adapter.name}: {result.adapter}")
    say(f"metrics: {result.metrics}")
