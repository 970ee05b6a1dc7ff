r"""The demo's world: a lock with three dials, small enough that a model of one million weights can learn it.

A problem gives what the lock shows and a list of turns A, B, C, …; a turn moves each dial forward by
its own digit, without a carry. One turn is easy, three turns in the head are not, and there are 1000
possible answers, so guessing does not pay. The expert's solution names every third state only: that is
the didactic gap which DAIL closes.

    >>> lock = Lock(start="417", turns=("293", "118", "846", "501"))
    >>> lock.states[-1]
    '055'
    >>> trace(lock, jumps=())
    '417 A+293=600 B+118=718 C+846=554 D+501=055\nThe lock shows \\boxed{055}.'
    >>> trace(lock, jumps=(0,))
    '417 ABC=554 D+501=055\nThe lock shows \\boxed{055}.'
    >>> expert_solution(lock)
    'After C: 554. The lock shows \\boxed{055}.'
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from itertools import accumulate
from string import ascii_uppercase
from typing import ClassVar

NUM_DIALS = 3
BLOCK_TURNS = 3
"""The expert names every third state, and a jump covers the turns between two named states."""


@dataclass(frozen=True)
class Lock:
    """One problem: the state at the start and the turns, each a string of three digits."""

    question: ClassVar[str] = (
        "A lock with three dials shows {start}. It is turned like this: {turns}. "
        "Each turn moves every dial forward by its own digit, past 9 to 0. What does the lock show in the end?"
    )
    ending: ClassVar[str] = "The lock shows \\boxed{{{answer}}}."

    start: str
    turns: tuple[str, ...]

    @property
    def states(self) -> tuple[str, ...]:
        """What the lock shows after each turn."""
        return tuple(accumulate(self.turns, turned, initial=self.start))[1:]

    @property
    def answer(self) -> str:
        return self.states[-1]

    @property
    def num_blocks(self) -> int:
        return -(-len(self.turns) // BLOCK_TURNS)


def turned(state: str, turn: str) -> str:
    """The state after one turn: each dial moves by its digit, past 9 to 0."""
    return "".join(str((int(dial) + int(digit)) % 10) for dial, digit in zip(state, turn, strict=True))


def random_lock(rng: random.Random, num_turns: int, largest_digit: int = 9, kind: type[Lock] = Lock) -> Lock:
    """A lock drawn evenly from those whose turns have no larger digit; labels are letters, so 26 turns are the most."""
    assert 1 <= num_turns <= len(ascii_uppercase), f"num_turns is {num_turns}, the labels reach 26"
    start, *turns = ("".join(rng.choices("0123456789", k=NUM_DIALS)) for _ in range(num_turns + 1))
    if largest_digit < 9:
        turns = ["".join(str(int(digit) % (largest_digit + 1)) for digit in turn) for turn in turns]
    return kind(start=start, turns=tuple(turns))


def problem(lock: Lock) -> str:
    turns = ", ".join(f"{label} {turn}" for label, turn in zip(ascii_uppercase, lock.turns, strict=False))
    return lock.question.format(start=lock.start, turns=turns)


def trace(lock: Lock, jumps: Collection[int]) -> str:
    """A worked answer that computes turn by turn, except that the blocks in `jumps` show their result only."""
    parts = [lock.start]
    for block in range(lock.num_blocks):
        turns = range(block * BLOCK_TURNS, min((block + 1) * BLOCK_TURNS, len(lock.turns)))
        if block in jumps:
            parts.append(f"{ascii_uppercase[turns.start : turns.stop]}={lock.states[turns[-1]]}")
        else:
            parts += [f"{ascii_uppercase[i]}+{lock.turns[i]}={lock.states[i]}" for i in turns]
    return " ".join(parts) + f"\n{conclusion(lock)}"


def random_jumps(rng: random.Random, lock: Lock, probability: float) -> tuple[int, ...]:
    """Each block is jumped with this probability, independently."""
    return tuple(block for block in range(lock.num_blocks) if rng.random() < probability)


def expert_solution(lock: Lock) -> str:
    """Didactic and terse: the state after every third turn, then the result."""
    named = range(BLOCK_TURNS - 1, len(lock.turns) - 1, BLOCK_TURNS)
    return "".join(f"After {ascii_uppercase[i]}: {lock.states[i]}. " for i in named) + conclusion(lock)


def conclusion(lock: Lock) -> str:
    return lock.ending.format(answer=lock.answer)
