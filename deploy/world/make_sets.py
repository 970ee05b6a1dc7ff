"""Writes the world's problems: candidates for training, with expert solutions, and four groups to be judged by.

    python deploy/world/make_sets.py --out runs/world/sets

Seeds are the files' own, apart from those of pre-training. Lengths go round within a file, so that each is met equally
often. Which candidates are trained on follows from the base model's failures (experiment.py).
"""

import argparse
import random
from pathlib import Path
from typing import Any, NamedTuple

import demo_path  # noqa: F401
from gauge import Gauge
from make_problems import random_locks, to_jsonl
from world import Lock, conclusion, expert_solution, problem

LICENSE = "CC0-1.0"


class Group(NamedTuple):
    """Problems of one kind: how many, of how many turns, drawn with which seed."""

    count: int
    turns: tuple[int, int]
    seed: int
    kind: type[Lock] = Lock


CANDIDATES = Group(960, (9, 12), 4_000_001)
JUDGED = {
    "same": Group(48, (9, 12), 4_000_002),
    "harder": Group(48, (13, 18), 4_000_003),
    "other": Group(48, (6, 12), 4_000_004, Gauge),
    "easy": Group(48, (3, 6), 4_000_005),
}
"""same: as trained on, but new; harder: longer; other: the gauge; easy: what the base model masters."""
HOTTER = (0.8, 1.0, 1.2)  # at these the base model is judged too: the paper's baseline of temperatures


def locks(group: Group) -> list[Lock]:
    return random_locks(random.Random(group.seed), group.count, group.turns, group.kind)


def solution_rows(group: Group, answer_only: bool = False) -> list[dict[str, Any]]:
    """Problems with the terse solution of an expert, or with its conclusion alone, which tells the answer."""
    return [
        {
            "id": f"world-{number:03d}",
            "problem": problem(lock),
            "solution": conclusion(lock) if answer_only else expert_solution(lock),
            "answer": lock.answer,
            "kind": "verifiable",
            "source": "deploy/world/make_sets.py",
            "license": LICENSE,
            "metadata": {"turns": len(lock.turns)},
        }
        for number, lock in enumerate(locks(group))
    ]


def judged_rows(count: int | None = None) -> list[dict[str, Any]]:
    """Args: of problems a group, instead of its own."""
    return [
        {
            "id": f"{name}-{number:02d}",
            "problem": problem(lock),
            "answer": lock.answer,
            "metadata": {"group": name, "turns": len(lock.turns)},
        }
        for name, group in JUDGED.items()
        for number, lock in enumerate(locks(group if count is None else group._replace(count=count)))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    (out / "candidates.jsonl").write_text(to_jsonl(solution_rows(CANDIDATES)), "utf-8")
    (out / "judged.jsonl").write_text(to_jsonl(judged_rows()), "utf-8")


if __name__ == "__main__":
    main()
