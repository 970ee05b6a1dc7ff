"""What settings of training do in the demo's world: pass@1 of base and adapters, by group of problems.

    OMP_NUM_THREADS=1 python -m tests.bench.world reference_temperature=0.6 [--seeds 0 1] [--samples 16]

The demo's traces are drawn once, by the preset cpu-tiny. For each seed of training an adapter is trained as the preset
says, and one with each of the given settings; all are evaluated on the demo's problems. Each step is a `dail` verb in a
process of its own. Prints one JSON line. The world is made so that the paper's situation arises; it says nothing of
real models.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.shapes import DEMO, machine

MODEL = ("--model", DEMO / "model")


def dail(verb: str, *arguments: object) -> Any:
    """The object that a verb writes with `--json`."""
    command = [Path(sys.executable).with_name("dail"), verb, *arguments, "--json"]
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measured(folder: Path, manifest: str, setting: str | None, seed: int, samples: int) -> dict[str, list[float]]:
    """pass@1 by group in percent: of the base model, of the adapter, and the ends of its 95 % interval."""
    run = folder / f"{setting or 'as it is'}, seed {seed}"
    settings = [word for one in (setting, f"train.seed={seed}") if one for word in ("--set", one)]
    adapter = dail(
        "train", *MODEL, "--manifest", manifest, "--out", run, "--config", "cpu-tiny", "--references",
        folder / "references", *settings,
    )["adapter"]  # fmt: skip
    found = dail(
        "eval", *MODEL, "--adapter", adapter, "--problems", DEMO / "eval_problems.jsonl", "--out", run / "eval",
        "--no-thinking", "--set", "engine.dtype=float32", "--set", f"eval.samples={samples}",
    )  # fmt: skip
    groups = json.loads(Path(found["eval"]).read_text("utf-8"))["groups"]
    return {one["group"]: _percent(one["passes"]) for one in groups}


def _percent(passes: dict[str, list[dict[str, float]]]) -> list[float]:
    base, adapter = (passes[subject][0] for subject in ("base", "adapter"))
    assert base["k"] == adapter["k"] == 1, "the first of each is pass@1"
    return [round(100 * value, 1) for value in (base["mean"], adapter["mean"], adapter["low"], adapter["high"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="of [train]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn = dail(
            "synth", DEMO / "expert_solutions.jsonl", "--out", folder / "shards", *MODEL, "--config", "cpu-tiny"
        )
        found = {
            f"{setting or 'as it is'}, seed {seed}": measured(folder, drawn["manifest"], setting, seed, options.samples)
            for seed in options.seeds
            for setting in (None, *options.settings)
        }
    columns = "pass@1 in %: base, adapter, its 95 % interval"
    print(json.dumps({"bench": "world", **vars(options), columns: found, "machine": machine()}, ensure_ascii=False))


if __name__ == "__main__":
    main()
