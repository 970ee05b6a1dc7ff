"""Many values of tau through one pool: tokens a second with an item's units of all values together, and one value's
of all items.

    OMP_NUM_THREADS=1 python -m tests.bench.taus [--items 24] [--repeats 3]

Both draw the same traces in the same engines, in turn; the engines' start does not count. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from dail.synth import EngineConfig, SynthConfig, Synthesis
from dail.synth.data.reader import load_items
from dail.synth.run.several import Order, synthesise_several
from dail.train.studies.taus import CalibrateConfig
from tests.bench.shapes import DEMO, machine

ORDERS: tuple[Order, ...] = ("by_item", "by_batch")


def rate(order: Order, items: int) -> float:
    """Trace tokens a second of a whole run in an empty folder."""
    engine = EngineConfig(model=DEMO / "model", dtype="float32", rows=128, step_tokens=16384)
    settings = [Synthesis(tau=tau, max_tokens=256, thinking=False) for tau in CalibrateConfig().taus]
    solutions = load_items(DEMO / "expert_solutions.jsonl")[:items]
    with tempfile.TemporaryDirectory() as folder:
        drawn = synthesise_several(solutions, Path(folder), settings, SynthConfig(engine=engine), order=order)
    return drawn.tokens / drawn.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rates = [{order: rate(order, options.items) for order in ORDERS} for _ in range(options.repeats)]
    ratios = [one["by_item"] / one["by_batch"] for one in rates]
    print(json.dumps({
        "tokens_per_s": {order: round(statistics.median(one[order] for one in rates)) for order in ORDERS},
        "by_item ÷ by_batch": [round(one, 3) for one in (statistics.median(ratios), min(ratios), max(ratios))],
        "machine": machine(),
    }, ensure_ascii=False))  # fmt: skip


if __name__ == "__main__":
    main()
