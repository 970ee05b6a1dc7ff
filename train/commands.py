"""`dail train`."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path

import click

from synth.schema.base import UsageError
from synth.schema.console import emit, say
from train.config import TrainConfig


@click.command()
@click.option("--model", "model_folder", type=click.Path(path_type=Path), required=True, help="Model folder.")
@click.option("--manifest", type=click.Path(path_type=Path), required=True, help="Manifest of the shards to train on.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; a stopped run goes on in it.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file; its [train] table is read.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One setting, for example gamma=0.2.")
@click.option("--references", type=click.Path(path_type=Path), help="Folder of the reference cache; OUT/references.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def train(
    model_folder: Path,
    manifest: Path,
    out: Path,
    config_file: Path | None,
    overrides: tuple[str, ...],
    references: Path | None,
    as_json: bool,
) -> None:
    """Train a LoRA adapter on the shards that a manifest lists.

    The run folder receives run.json (resolved settings), metrics.jsonl, tensorboard/, references/ (what the two
    references give for every trace token, computed once), checkpoint.safetensors and, at the end, adapter/. The same
    command goes on with a run that was stopped. With --references several runs share one cache. On several GPUs:
    torchrun --nproc-per-node 4 $(which dail) train …
    """
    config = TrainConfig.load(config_file, "train", overrides)
    # Read when torch is imported. By default its idle threads spin, which on a busy machine costs more than it gives.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from train.loop import run  # torch takes seconds to import, which --help need not wait for
        from train.ranks import joined
    except ModuleNotFoundError as error:
        raise UsageError(f"`dail train` needs the package {error.name}; run: pip install 'dail[train]'") from None
    with joined() as ranks:
        result = run(model_folder, manifest, out, config, references, ranks)
        if result.resumed_at == result.steps:
            say(f"this run is finished: all {result.steps} steps were done before")
        say(f"adapter: {result.adapter}")
        say(f"metrics: {result.metrics}")
        if as_json and ranks.is_first:
            emit(asdict(result))
