"""The experiment: every claim of the paper that this world can test, over several seeds, from one command.

    python deploy/world/experiment.py --model deploy/world/model --out runs/world/experiment --seeds 0 1 2 3 4 5

Reads top to bottom: which problems are trained on, which traces are drawn, which adapters are trained, how all are
judged; `figures.py` makes the tables. A seed is of the draws and of training; problems and model are the same in all.
Arms of one seed share its traces, so they are compared in pairs. An adapter is merged into the weights before it is
judged: on a CPU a LoRA beside them makes each completion about four times as dear. A rerun goes on where it was
stopped. Two seeds run at a time, each on one core.
"""

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import demo_path  # noqa: F401
from make_sets import CANDIDATES, HOTTER, JUDGED, judged_rows, solution_rows

from dail.synth import EngineConfig, SynthConfig, Synthesis, select, synthesise
from dail.synth.core.files import replace_text
from dail.synth.run.ray_cluster import ray_cluster
from dail.synth.schema.controls import CONTROLS
from dail.train import TrainConfig, train
from dail.train.evals import EvalConfig, evaluate
from dail.train.evals.arms import BASE
from dail.train.merging import MERGED_FILE, Merged, merge

SAMPLES_PER_ITEM = 4  # of which the first right one is trained on
SETTINGS = {"temperature": 0.6, "max_tokens": 256, "thinking": False, "samples_per_item": SAMPLES_PER_ITEM}
TRAINING = {"lr": 1e-3, "epochs": 2, "trackers": (), "checkpoint_every": 1000}  # the preset cpu-tiny's, never tuned
CURATION_SEED = 1_000_000  # no seed of the arms, whose base model would fail these by selection
JUMPS = Path(__file__).with_name("jumps.py")


class Size(NamedTuple):
    """`problems` and `samples`: of each group, and of each problem, that arms are judged by."""

    attempts: int  # the paper's: a problem is trained on if the base model never solves it in so many
    candidates: int
    trained_on: int
    problems: int
    samples: int


SIZES = {
    "cpu": Size(attempts=32, candidates=CANDIDATES.count, trained_on=96, problems=JUDGED["same"].count, samples=8),
    "gpu": Size(attempts=32, candidates=8 * CANDIDATES.count, trained_on=768, problems=256, samples=32),
}

TRACES: Mapping[str, Mapping[str, Any]] = {
    "direct": {"method": "direct"},
    "mixed": {"method": "mixed", "tau": 0.8},
    "mixed, tau 0.3": {"method": "mixed", "tau": 0.3},
    "mixed, tau 0.1": {"method": "mixed", "tau": 0.1},
    "expert": {"method": "expert"},
    "answer as hint": {"method": "direct"},
    **{name: {"method": "direct", **control.synthesis} for name, control in CONTROLS.items()},
}
"""How each set of traces is drawn. `answer as hint` shows the privileged student the answer alone (STaR)."""
ALL_OF_THEM = {"expert", "self"}
"""Traces that are not chosen by correctness: solutions are right, and a base model that fails has no right samples."""


@dataclass(frozen=True)
class Arm:
    """An adapter: what it is trained on, and how."""

    name: str
    traces: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def _contrastive(traces: str, gamma: float = 0.1, temperature: float = 1.0) -> Arm:
    name = f"DAIL, {traces}" + (f", gamma {gamma}" if gamma != 0.1 else "")
    name += f", references at {temperature}" if temperature != 1 else ""
    return Arm(name, traces, {"gamma": gamma, "reference_temperature": temperature})


NLL = {"objective": "nll"}
ARMS = (
    Arm("SFT", "expert", NLL),
    Arm("STaR", "answer as hint", NLL),
    Arm("NLL, direct", "direct", NLL),
    Arm("NLL, mixed", "mixed", NLL),
    Arm("privileged KL, direct", "direct", {"objective": "privileged_kl"}),
    Arm("privileged KL, mixed", "mixed", {"objective": "privileged_kl"}),
    Arm(
        "privileged KL, direct, references at 0.6",
        "direct",
        {"objective": "privileged_kl", "reference_temperature": 0.6},
    ),
    Arm("negative KL, direct", "direct", {"objective": "negative_kl"}),
    Arm("negative KL, mixed", "mixed", {"objective": "negative_kl"}),
    *(_contrastive("direct", gamma, heat) for heat in (1.0, 0.6) for gamma in (0.1, 0.3, 0.5, 0.8)),
    _contrastive("mixed"),
    _contrastive("mixed, tau 0.3"),
    _contrastive("mixed, tau 0.1"),
    *(Arm(f"control: {name}", name, control.train) for name, control in CONTROLS.items()),
)


def engine(model: Path) -> EngineConfig:
    return EngineConfig(model=model, rows=128, step_tokens=16384, dtype="float32")


def curated(model: Path, out: Path, size: Size) -> list[str]:
    """The ids of the first candidates that the base model never solves."""
    problems = [asked(row) for row in candidates_by_id(size).values()]
    config = EvalConfig(engine=engine(model), samples=size.attempts, max_tokens=256, thinking=False, seed=CURATION_SEED)
    found = evaluate(problems, out, config=config)
    failed = [one.id for one in found.problems if not one.num_correct["base"]]
    print(f"{len(failed)} of {len(problems)} candidates are never solved in {size.attempts} attempts", flush=True)
    assert len(failed) >= size.trained_on, f"got {len(failed)} problems, wanted {size.trained_on}; raise --candidates"
    return failed[: size.trained_on]


def drawn(model: Path, out: Path, items: list[dict[str, Any]], name: str, seed: int) -> Path:
    """The manifest of the traces that are trained on."""
    config = SynthConfig(engine=engine(model), actors=1)
    traces = synthesise(items, out / name, config, Synthesis(**SETTINGS, **TRACES[name], seed=seed))
    assert traces.manifest is not None and not traces.failed, f"{name}: {traces}"
    if name in ALL_OF_THEM:
        return select(traces.manifest, "random", seed=seed).manifest
    return select(traces.manifest, "first_correct").manifest


def run_seed(model: Path, out: Path, size: Size, trained_on: list[str], seed: int, arms: tuple[Arm, ...]) -> None:
    """Everything of one seed; writes counts.json: right answers, jumps and tokens by arm, problem and sample."""
    done = out / "counts.json"
    if done.exists() and {arm.name for arm in arms} <= set(json.loads(done.read_text("utf-8"))["counts"]):
        return
    clock = _Clock()
    manifests = {}
    with ray_cluster():  # one for all kinds of traces
        for name in dict.fromkeys(arm.traces for arm in arms):
            rows = candidates_by_id(size, answer_only=name == "answer as hint")
            manifests[name] = drawn(model, out / "traces", [rows[one] for one in trained_on], name, seed)
            clock.note(f"traces: {name}")
    adapters = {}
    for arm in arms:
        config = TrainConfig(**TRAINING, **arm.settings, seed=seed)
        cache = out / "references" / arm.traces
        adapters[arm.name] = train(model, manifests[arm.traces], out / "adapters" / arm.name, config, references=cache)
        clock.note(f"training: {arm.name}")
    judged_as, rounding = {BASE: model}, {}
    for name, one in adapters.items():
        judged_as[name] = out / "merged" / name
        rounding[name] = merged_into(model, one.adapter, judged_as[name]).rounding_kl
    clock.note("merging")
    counts = judged(model, out / "judged", size, judged_as, trained_on, seed)
    clock.note("judging")
    found = {"seed": seed, "seconds": clock.seconds, "rounding_kl": rounding, "counts": counts}
    replace_text(done, json.dumps(found))


def merged_into(model: Path, adapter: Path, out: Path) -> Merged:
    """A model with the adapter in its weights; of an earlier call, if it is there."""
    if out.exists():
        return Merged.model_validate_json((out / MERGED_FILE).read_bytes())
    return merge(adapter, model, out)


def asked(row: dict[str, Any]) -> dict[str, Any]:
    """A candidate without its solution."""
    return {key: row[key] for key in ("id", "problem", "answer")}


def candidates_by_id(size: Size, answer_only: bool = False) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in solution_rows(CANDIDATES._replace(count=size.candidates), answer_only)}


def judged(
    model: Path, out: Path, size: Size, arms: Mapping[str, Path], trained_on: list[str], seed: int
) -> dict[str, dict[str, list[list[int]]]]:
    """By arm and problem, of each sample: whether it is right, jumped blocks, tokens. All arms have the same draws."""
    rows = candidates_by_id(size)
    train_rows = [{**asked(rows[one]), "metadata": {"group": "train"}} for one in trained_on[: size.problems]]
    problems = [*train_rows, *judged_rows(size.problems)]
    config = EvalConfig(
        engine=engine(model), samples=size.samples, max_tokens=256, thinking=False, seed=seed, marks=f"{JUMPS}:jumps"
    )
    # a model at a time in this process: its engine starts in 3 s, an actor's in 10
    found = {name: evaluate(problems, out / name, config=config, model=folder) for name, folder in arms.items()}
    hotter = evaluate(problems, out / "base, hotter", config=config.model_copy(update={"temperatures": HOTTER}))
    judgements = [(name, one.id, one.judgements[BASE]) for name, of_it in found.items() for one in of_it.problems]
    judgements += [(name, one.id, samples) for one in hotter.problems for name, samples in one.judgements.items()]
    counts: dict[str, dict[str, list[list[int]]]] = defaultdict(dict)
    for name, problem_id, samples in judgements:
        counts[name][problem_id] = [[int(one.correct), one.num_marks or 0, one.num_tokens] for one in samples]
    return counts


class _Clock:
    """Seconds since the last note, by what was done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def note(self, what: str) -> None:
        now = time.monotonic()
        self.seconds[what], self._last = round(now - self._last, 1), now
        print(f"{what}: {self.seconds[what]} s", flush=True)


def end_with(parent: int) -> None:
    """Ends this process as soon as its parent has ended, or a killed run's seeds would go on beside the next run's."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the world's model")
    parser.add_argument("--out", type=Path, required=True, help="folder of all that is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4, 5])
    parser.add_argument("--arms", nargs="+", choices=[arm.name for arm in ARMS], metavar="ARM", help="all if left out")
    parser.add_argument("--size", choices=SIZES, default="cpu", help="how many problems and samples")
    parser.add_argument("--attempts", type=int, help="less is another curation than the paper's")
    parser.add_argument("--candidates", type=int, help="for less attempts less will do")
    parser.add_argument("--processes", type=int, help="seeds at a time: on a CPU two, each on one core; on a GPU one")
    args = parser.parse_args()
    arms = tuple(arm for arm in ARMS if args.arms is None or arm.name in args.arms)
    given = {name: getattr(args, name) for name in ("attempts", "candidates") if getattr(args, name) is not None}
    size, processes = SIZES[args.size]._replace(**given), args.processes or (1 if args.size == "gpu" else 2)
    model, out = args.model.resolve(), args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    begun = out / "size.json"
    if begun.exists() and (was := json.loads(begun.read_text("utf-8"))) != size._asdict():
        parser.error(f"{out} was begun with {was}, this is {size._asdict()}; give another --out")
    begun.write_text(json.dumps(size._asdict()), "utf-8")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes below and of their engines
    with ProcessPoolExecutor(
        processes,
        multiprocessing.get_context("spawn"),
        initializer=end_with,
        initargs=(os.getpid(),),
        max_tasks_per_child=1,
    ) as pool:
        trained_on = pool.submit(curated, model, out / "curated", size).result()
        (out / "trained_on.json").write_text(json.dumps(trained_on), "utf-8")
        running = [
            pool.submit(run_seed, model, out / f"seed-{seed}", size, trained_on, seed, arms) for seed in args.seeds
        ]
        for one in running:
            one.result()


if __name__ == "__main__":
    main()
