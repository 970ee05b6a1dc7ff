"""Measured before any training: who leans toward the shortcut, and how far. The world is tuned on these figures alone.

    python deploy/world/leaning.py runs/world/model

At the beginning of every block of a trace in which each block is jumped or worked by a coin, what the next token of a
jump (` ABC=`) and of work (` A+`) get from the three roles; then how well each role knows the digits that follow. All
at temperature 1, and the share of jumps at the temperature of the draws beside it. What follows for a student that
reaches its optimum is predicted from these figures. 95 % intervals over problems. No problem here is in a set of
make_sets.py. Prints one JSON object.
"""

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

import demo_path  # noqa: F401
import numpy as np
import torch
from gauge import Gauge
from make_model import TEMPERATURE, Role, chat_prompt, count_jumps, role_prompt, sample_answers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM
from world import BLOCK_TURNS, Lock, conclusion, random_jumps, random_lock, trace

from dail.synth.schema.boxes import final_answer
from dail.train.evals.passk import LEVEL, resampled

SEED, NUM_LOCKS = 5_000_001, 96
PREDICTED = [(gamma, heat) for heat in (1.0, 0.6) for gamma in (0.0, 0.1, 0.3, 0.5, 0.8)]
LENGTHS = {"as trained on, 9 to 12 turns": (9, 12), "harder, 13 to 18": (13, 18)}
ROLES: tuple[Role, ...] = ("student", "privileged_student", "negative_reference")
Figures = dict[str, list[float]]  # a figure's values, of one problem


class Start(NamedTuple):
    """The beginning of a block: how many characters of the trace are before it, and the two ways on."""

    position: int
    jump: str
    work: str
    is_jumped: bool


def starts(lock: Lock, written: str, jumps: tuple[int, ...]) -> Iterator[Start]:
    position = len(lock.start)
    for block in range(lock.num_blocks):
        labels = ascii_uppercase[block * BLOCK_TURNS : min((block + 1) * BLOCK_TURNS, len(lock.turns))]
        jump, work = f" {labels}=", f" {labels[0]}+"
        yield Start(position, jump, work, block in jumps)
        tokens = 1 if block in jumps else len(labels)
        width = len(lock.start)
        position += len(jump) + width if block in jumps else tokens * (len(work) + 1 + 2 * width)
    assert written[position] == "\n", written


@torch.no_grad()
def log_probs(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, written: str) -> Tensor:
    """Of every token after each token of the trace, the prompt's end first: T + 1 by vocabulary."""
    ids = tokenizer(prompt)["input_ids"]
    both = torch.tensor([ids + tokenizer(written)["input_ids"]])
    return network(both).logits[0, len(ids) - 1 :].log_softmax(dim=-1)


def of_one(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, lock: Lock, rng: random.Random) -> Figures:
    """The figures of one problem, by role, each block a value."""
    jumps = random_jumps(rng, lock, 0.5)
    written = trace(lock, jumps)
    encoded = tokenizer(written, return_offsets_mapping=True)
    ids, begins = encoded["input_ids"], [begin for begin, _ in encoded["offset_mapping"]]
    found: Figures = defaultdict(list)
    odds: dict[str, list[float]] = defaultdict(list)
    for role in ROLES:
        logs = log_probs(network, tokenizer, chat_prompt(tokenizer, role_prompt(role, lock)), written)
        for start in starts(lock, written, jumps):
            at = begins.index(start.position)
            jump, work = (float(logs[at, _only(tokenizer, text)]) for text in (start.jump, start.work))
            odds[role].append(jump - work)
            found[f"{role}: jump"].append(np.exp(jump))
            found[f"{role}: work"].append(np.exp(work))
            found[f"{role}: jump, first block" if at == len(lock.start) else f"{role}: jump, later"].append(
                np.exp(jump)
            )
            tempered = 1 / (1 + np.exp((work - jump) / TEMPERATURE))
            found[f"{role}: jump, drawn"].append(float(tempered))
            digits = range(at + 1, at + 1 + len(lock.start)) if start.is_jumped else range(at + 5, at + 8)
            known = "a jump's digits" if start.is_jumped else "a sum's digits"
            found[f"{role}: log p of {known}"] += [float(logs[i, ids[i]]) for i in digits]
    for gamma, heat in PREDICTED:
        found[f"predicted: gamma {gamma}, references at {heat}"] = [
            predicted(*both, gamma, heat)
            for both in zip(odds["privileged_student"], odds["negative_reference"], strict=True)
        ]
    return found


def predicted(privileged: float, negative: float, gamma: float, heat: float) -> float:
    """How often a student jumps, drawn at TEMPERATURE, that has reached the contrastive objective's minimum there.

    That is softmax((privileged - gamma negative) / (1 - gamma)) of the references' logits (train/loss.py), each divided
    by `heat`. The arguments are log-odds of jump against work.

        >>> round(predicted(0.0, 0.0, gamma=0.1, heat=1.0), 2), round(predicted(0.0, 3.0, gamma=0.5, heat=1.0), 3)
        (0.5, 0.007)
    """
    return float(1 / (1 + np.exp(-(privileged - gamma * negative) / (1 - gamma) / heat / TEMPERATURE)))


def _only(tokenizer: PreTrainedTokenizerFast, text: str) -> int:
    (number,) = tokenizer(text)["input_ids"]
    return number


def interval(per_problem: list[list[float]]) -> dict[str, float]:
    """Mean over problems of a problem's mean, with a percentile bootstrap over problems."""
    means = np.array([np.mean(values) for values in per_problem if values])
    low, high = np.quantile(resampled(means, 0) / len(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"mean": round(float(means.mean()), 4), "low": round(float(low), 4), "high": round(float(high), 4)}


def leanings(network: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[str, dict[str, dict[str, float]]]:
    """By length of the problems, by figure."""
    result = {}
    for name, turns in LENGTHS.items():
        rng = random.Random(SEED)
        each = [of_one(network, tokenizer, random_lock(rng, rng.randint(*turns)), rng) for _ in range(NUM_LOCKS)]
        result[name] = {figure: interval([one[figure] for one in each if figure in one]) for figure in sorted(each[0])}
    return result


def drawn(
    network: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    role: Role,
    turns: tuple[int, int],
    kind: type[Lock] = Lock,
    answer_only: bool = False,
    count: int = 64,
) -> dict[str, float]:
    """One sample of each of so many problems: right, jumped blocks, and of the right ones how many have a jump."""
    rng = random.Random(SEED + 1)
    locks = [random_lock(rng, rng.randint(*turns), kind=kind) for _ in range(count)]
    shown = [role_prompt(role, lock, conclusion(lock) if answer_only else None) for lock in locks]
    answers = sample_answers(network, tokenizer, [chat_prompt(tokenizer, content) for content in shown])
    right = [answer for answer, lock in zip(answers, locks, strict=True) if final_answer(answer) == lock.answer]
    return {
        "right": round(len(right) / count, 3),
        "blocks jumped": round(sum(map(count_jumps, answers)) / sum(lock.num_blocks for lock in locks), 3),
        "right ones with a jump": round(sum(count_jumps(one) > 0 for one in right) / max(1, len(right)), 3),
        "right ones' blocks jumped per trace": round(sum(map(count_jumps, right)) / max(1, len(right)), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    network = Qwen3ForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    samples = {
        f"{role}, {turns[0]} to {turns[1]} turns": drawn(network, tokenizer, role, turns)
        for role in ROLES
        for turns in ((3, 6), (9, 12), (13, 18))
    }
    samples["told the answer alone, 9 to 12 turns"] = drawn(
        network, tokenizer, "privileged_student", (9, 12), answer_only=True
    )
    for turns in ((2, 5), (6, 12)):
        samples[f"student, gauge, {turns[0]} to {turns[1]} steps"] = drawn(
            network, tokenizer, "student", turns, kind=Gauge
        )
    print(json.dumps({"leaning": leanings(network, tokenizer), "drawn": samples}, indent=1))


if __name__ == "__main__":
    main()
