"""An evaluation on the actors of a pool, on a real Ray: the same completions as in one process, whatever dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.engine.base import Engine
from dail.synth.run import pool, ray_cluster
from dail.synth.schema.models import ModelIdentity
from dail.train.evals import drawing
from dail.train.evals.drawing import wants_ray
from tests.conftest import ROOT, Told
from tests.train.evals import test_forcing as forcing
from tests.train.evals.test_forcing import HARD, PROBLEMS, config, likely, run

Make = Callable[[EngineConfig, int | None], Engine]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    from dail.synth.run.ray_cluster import ray_cluster

    with ray_cluster():
        ray.cloudpickle.register_pickle_by_value(forcing)  # actors have no tests on their path
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setattr(pool, "EXCHANGE_S", 0.05)
    monkeypatch.setattr(pool, "RESTART_PAUSE_S", 0.05)


def mortal(marker: Path) -> Make:
    """Engines of which the first to make its 15th step is killed with its process."""
    make = likely(2.5)

    def made(asked: EngineConfig, rank: int | None) -> Engine:
        engine, steps = make(asked, rank), [0]
        step = engine.step

        def step_or_die() -> Any:
            steps[0] += 1
            if steps[0] == 15 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return step()

        engine.step = step_or_die  # type: ignore[method-assign]
        return engine

    return made


def test_a_pool_draws_what_one_process_draws_though_an_engine_dies(
    tmp_path: Path, model: ModelIdentity, cluster: None
) -> None:
    settings = {"budgets": (6, 20), **HARD}
    alone = run(config(**settings), tmp_path / "alone", model, likely(2.5), PROBLEMS)
    marker = tmp_path / "done"
    pooled = run(config(actors=2, **settings), tmp_path / "pool", model, mortal(marker), PROBLEMS)
    assert marker.exists(), "no engine died"
    keys = [{place: one.completion for place, one in found.items()} for found in (alone, pooled)]
    assert keys[0] == keys[1]
    drawn = [line["key"] for line in forcing.lines(tmp_path / "pool")]
    assert len(drawn) == len(set(drawn)) == len(pooled) + len(PROBLEMS) * HARD["samples"], "something was drawn twice"


def test_an_engine_that_cannot_start_in_an_actor_says_why(tmp_path: Path, model: ModelIdentity, cluster: None) -> None:
    def refusing(asked: EngineConfig, rank: int | None) -> Engine:
        raise UsageError("the model folder holds a poem; give a model")

    with pytest.raises(UsageError, match="a poem"):
        run(config(actors=1, **HARD), tmp_path, model, refusing)


def test_who_gets_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    real = config().model_copy(update={"engine": EngineConfig(model=Path("m"))})
    assert [wants_ray(real, number) for number in (1, 2)] == [False, True]
    assert not wants_ray(config(), 2), "made-up engines leave no memory behind"
    assert wants_ray(config(actors=1), 1)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    assert wants_ray(config(), 1)


def test_ray_is_started_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []

    @contextmanager
    def started() -> Iterator[None]:
        happened.append("started")
        yield
        happened.append("ended")

    monkeypatch.setattr(ray_cluster, "ray_cluster", started)
    monkeypatch.setattr(drawing, "draw_on_ray", lambda config, work, *_: happened.append(config.engine.model.name))
    works = [
        SimpleNamespace(folder=Path(name), is_done=False, num_done=0, num_missing=1, num_tokens=0) for name in "ab"
    ]
    drawing.draw(config(actors=1), works)  # type: ignore[arg-type]
    assert happened == ["started", "a", "b", "ended"]


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, model: ModelIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "dail.synth.run.pool", raising=False)
    monkeypatch.delitem(sys.modules, "dail.synth.run.actor", raising=False)
    monkeypatch.delitem(sys.modules, "dail.synth.run.ray_cluster", raising=False)
    with pytest.raises(UsageError, match=r"need the package ray; run: pip install 'dail\[worker\]'"):
        run(config(actors=1, **HARD), tmp_path, model, likely(2.5))


INTERRUPTED = """
import sys
from pathlib import Path
from tests.train.evals import test_drawing as here
here.interrupted(Path(sys.argv[1]))
"""


def interrupted(folder: Path) -> None:
    """An evaluation on a Ray of its own that takes long; its actors write their process ids down."""
    import ray

    from dail.synth.schema.models import identify

    ray.cloudpickle.register_pickle_by_value(forcing)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    make = likely(-9.0)

    def slow(asked: EngineConfig, rank: int | None) -> Engine:
        (folder / f"pid-{os.getpid()}").touch()
        engine = make(asked, rank)
        step = engine.step
        engine.step = lambda: (time.sleep(0.05), step())[1]  # type: ignore[method-assign]
        return engine

    run(config(actors=1, budgets=(500,), samples=50), folder, identify(forcing.DEMO_MODEL), slow)


@pytest.mark.soak
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], cwd=ROOT, env=environment)
    while process.poll() is None and not (pids := [int(one.name[4:]) for one in tmp_path.glob("pid-*")]):
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) != 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert pids and not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_run_says_what_it_starts(tmp_path: Path, model: ModelIdentity, told: Told) -> None:
    run(config(**HARD, max_tokens=4), tmp_path, model, likely(2.5))
    assert "starting the engine of model" in told()
