"""How many samples `synthesis.enough` saves, and what it does to the length of a run.

    OMP_NUM_THREADS=1 python -m tests.bench.selection

417 items of 32 samples whose traces are right at scripted rates go through the real source of `dail synth`, with 256
rows that take as long as exponential lengths say; no model is run. "One at a time" is what is drawn if no sample starts
before the one before it has ended: the least that can be drawn, and the longest way.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from dail.synth.run.local import LocalSource, make_batch, open_ledger
from dail.synth.schema.items import ExpertSolution
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef, Unit

ITEMS, SAMPLES, ROWS = 417, 32, 256
MODEL = ModelIdentity(name="m", revision="r", tokenizer_hash="t", template_hash="p")
# Shares of items by the chance that a trace of theirs is right.
WORLDS = {
    "easy: half at 0.9, the others at 0.5": [0.9, 0.5],
    "mixed: a fifth each at 0.9, 0.5, 0.2, 0.05, 0": [0.9, 0.5, 0.2, 0.05, 0.0],
    "hard: half at 0.05, half at 0": [0.05, 0.0],
}


def outcome(unit: Unit, rates: list[float]) -> tuple[bool, float]:
    """Whether it is right, and how long it takes, in mean lengths: the same whenever it is drawn."""
    chance = random.Random(unit.unit_id)
    rate = rates[int(unit.item_id) % len(rates)]
    return chance.random() < rate, chance.expovariate(1.0)


def run(rates: list[float], enough: str) -> tuple[int, float]:
    """Traces that were begun, and the length of the run."""
    items = [ExpertSolution(id=f"{n}", problem=f"{n}?", solution="1.", answer="1") for n in range(ITEMS)]
    batch = make_batch(items, Synthesis.model_validate({"samples_per_item": SAMPLES, "enough": enough}), MODEL)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, open_ledger(Path(folder) / "ledger.jsonl") as ledger:
        source = LocalSource(batch, ledger, Path(folder))
        now, begun, running = 0.0, 0, list[tuple[float, int, Unit]]()
        while not source.finished():
            for unit in lease(source, ROWS - len(running)):
                begun += 1
                heapq.heappush(running, (now + outcome(unit, rates)[1], begun, unit))
            now, _, unit = heapq.heappop(running)
            asyncio.run(
                source.commit(unit, shard(unit), outcome(unit, rates)[0] if batch.synthesis.stops_by_verdict else None)
            )
        return begun, now


def lease(source: LocalSource, room: int) -> Iterator[Unit]:
    return iter(asyncio.run(source.lease(room)).units if room else ())


def shard(unit: Unit) -> ShardRef:
    return ShardRef(
        key=unit.unit_id, rows=1, size_bytes=1, sha256="", unit_id=unit.unit_id, item_id=unit.item_id, tokens=1,
        attributed_tokens=1, student_tokens=1,
    )  # fmt: skip


def least(rates: list[float]) -> int:
    items = [ExpertSolution(id=f"{n}", problem=f"{n}?", solution="1.", answer="1") for n in range(ITEMS)]
    batch = make_batch(items, Synthesis(samples_per_item=SAMPLES), MODEL)
    total, solved = 0, set[str]()
    for unit in batch.units.values():
        if unit.item_id not in solved:
            total += 1
            solved |= {unit.item_id} if outcome(unit, rates)[0] else set()
    return total


def main() -> None:
    for world, rates in WORLDS.items():
        all_of, whole = run(rates, "all")
        drawn, length = run(rates, "first_correct")
        print(
            f"{world}: {drawn} of {all_of} traces begun ({drawn / all_of:.3f}), one at a time {least(rates)}; "
            f"length of the run {length / whole:.3f} of that of all ({length:.1f} and {whole:.1f} mean traces)"
        )
    drawn, length = run([0.5], "random")
    print(f"random: {drawn} of {ITEMS * SAMPLES} traces begun ({drawn / ITEMS / SAMPLES:.3f})")


if __name__ == "__main__":
    main()
