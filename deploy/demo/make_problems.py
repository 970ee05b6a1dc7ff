"""Writes the demo's two files beside itself: expert solutions to learn from, and problems to be judged by.

    python deploy/demo/make_problems.py

Seeds are the files' own, apart from those of pre-training, so no problem is in two of the three.
"""

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from world import Lock, expert_solution, problem, random_lock

HERE = Path(__file__).parent
EXPERT_SEED, EVAL_SEED = 1_000_001, 1_000_002
EXPERT_ITEMS, SHORT_PROBLEMS, LONG_PROBLEMS = 128, 16, 24
SHORT_TURNS, LONG_TURNS = (3, 6), (9, 12)
LICENSE = "CC0-1.0"


def expert_rows() -> list[dict[str, Any]]:
    """Problems the base model fails, with the terse solution of an expert."""
    return [
        {
            "id": f"lock-{number:03d}",
            "problem": problem(lock),
            "solution": expert_solution(lock),
            "answer": lock.answer,
            "kind": "verifiable",
            "source": "deploy/demo/make_problems.py",
            "license": LICENSE,
            "metadata": {"turns": len(lock.turns)},
        }
        for number, lock in enumerate(random_locks(random.Random(EXPERT_SEED), EXPERT_ITEMS, LONG_TURNS))
    ]


def eval_rows() -> list[dict[str, Any]]:
    """Short problems, which the base model masters and must not forget, then long ones, which it fails."""
    rng = random.Random(EVAL_SEED)
    groups = {"short": (SHORT_PROBLEMS, SHORT_TURNS), "long": (LONG_PROBLEMS, LONG_TURNS)}
    return [
        {
            "id": f"lock-{group}-{number:02d}",
            "problem": problem(lock),
            "answer": lock.answer,
            "metadata": {"group": group, "turns": len(lock.turns)},
        }
        for group, (count, turns) in groups.items()
        for number, lock in enumerate(random_locks(rng, count, turns))
    ]


def random_locks(rng: random.Random, count: int, turns: tuple[int, int], kind: type[Lock] = Lock) -> list[Lock]:
    """Lengths go round, so that each is met equally often."""
    shortest, longest = turns
    return [random_lock(rng, shortest + number % (longest - shortest + 1), kind=kind) for number in range(count)]


def to_jsonl(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the two files")
    out = parser.parse_args().out
    (out / "expert_solutions.jsonl").write_text(to_jsonl(expert_rows()), "utf-8")
    (out / "eval_problems.jsonl").write_text(to_jsonl(eval_rows()), "utf-8")


if __name__ == "__main__":
    main()
