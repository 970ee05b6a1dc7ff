"""The trainer on a Ray cluster, through Ray Train: it places the ranks, and starts all again when one is lost."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from dail.synth.core.console import silent_unless, speaking
from dail.synth.core.errors import DailError, GateStopped
from dail.synth.run.ray_cluster import ray_cluster
from dail.train import adapter
from dail.train.checkpoint import steps_done
from dail.train.config import TrainConfig
from dail.train.distributed import Ranks, joined
from dail.train.loop import Result, checked, result_of, run
from dail.train.record import RUN_FILE, Given, RunRecord

_RESTARTS = 3


class _OwnRay(TorchTrainer):
    """On a Ray that ends with this process, where nothing is left to be cleaned up behind it.

    Ray Train's cleaner asks the dashboard's API whether the run lives. A Ray that is started here has no dashboard, so
    the cleaner would say every second of the run that it cannot ask.
    """

    def _create_default_callbacks(self) -> list[Any]:
        ours: list[Any] = super()._create_default_callbacks()
        return [one for one in ours if type(one).__name__ != "PlacementGroupCleanerCallback"]


def run_on_ray(
    model_folder: Path,
    manifest: Path,
    out: Path,
    config: TrainConfig,
    references: Path | None,
    workers: int,
    given: Given,
) -> Result:
    """As `dail.train.loop.run` on so many ranks, a GPU each where the cluster has any. All nodes must see the paths.

    Raises:
        DailError: also what a rank met, after it was tried again.
    """
    config = checked(config, Ranks(0, workers))
    model_folder, manifest, out = (path.absolute() for path in (model_folder, manifest, out))
    references = references.absolute() if references else None
    given = Given(*(folder.absolute() if folder else None for folder in given))
    before, done = adapter.finished(out), steps_done(out)

    def rank() -> None:
        # a process of its own, whose output Ray shows where this was called
        # what the gate stops is no fault, and Ray would start all again
        with suppress(GateStopped), speaking(), joined() as ranks, silent_unless(ranks.is_first):
            run(model_folder, manifest, out, config, references, ranks, given=given)

    make = TorchTrainer if ray.is_initialized() or os.environ.get("RAY_ADDRESS") else _OwnRay
    with ray_cluster(log_to_driver=True):
        trainer = make(
            rank,
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=ray.cluster_resources().get("GPU", 0) > 0),
            run_config=RunConfig(
                name="ray",
                storage_path=str(out),
                failure_config=FailureConfig(max_failures=_RESTARTS),
                worker_runtime_env={"env_vars": {"RAY_TRAIN_ENABLE_PRINT_PATCH": "0"}},  # or each line comes twice
            ),
        )
        try:
            trainer.fit()
        except TrainingFailedError as error:
            raise DailError(f"the ranks on Ray stopped: {error}; rerun to go on from the last checkpoint") from error
    provenance = adapter.finished(out)
    seen = RunRecord.model_validate_json((out / RUN_FILE).read_bytes()).gate
    if provenance is None and seen and seen.stops:
        raise seen.stopped(f"the state behind step {steps_done(out)} is kept in {out}")
    assert provenance, f"{out} holds no adapter though all ranks ended"
    return result_of(out, provenance.run, provenance.steps, before.steps if before else done)
