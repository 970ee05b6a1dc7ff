"""Counts of single texts: words of self-correction, distinct n-grams, loops, and sums."""

from __future__ import annotations

import random

import pytest

from dail.train.signals import Counts, count_text, markers

CORRECTS_ITSELF = """
Wait, that gives 12.
So x = 3. Wait. The sign is wrong.
But wait, n could be 0.
Hmm, let me think.
Hmmm... this looks odd.
Hold on, the dial has ten digits.
Hang on.
Let me check this.
Let me double-check the sum.
Let's verify: 3 + 4 = 7.
I should double check that.
Let me recompute it.
I need to re-read the problem.
Let me just quickly verify the result.
Let me start over.
Let's try another way.
Actually, that is 5.
The sum is, actually, 9.
On second thought, use n = 2.
Scratch that.
Oops, a sign is missing.
I made a mistake above.
I misread the question.
That's not right.
This can't be right.
That doesn't make sense.
Something is wrong here.
As a sanity check, take n = 1.
Is that right?
Am I missing a case?
I'm not sure about the last step.
Alternatively, use symmetry.
Maybe I should use induction.
Perhaps there is a shorter way.
等等，这里有问题。
让我再检查一下。
嗯，不一样。
重新计算得到 5。
""".strip().splitlines()

GOES_STRAIGHT_ON = """
The passengers wait 5 minutes.
A waiter brings 3 plates.
Wait times are exponential with mean 2.
The waiting time is 12 minutes.
Check the box.
A check of 40 dollars is paid.
The checkerboard has 64 squares.
One can verify that f is continuous.
It is an actual number.
The number that is actually drawn is 7.
He holds on to the rope.
They hold 3 cards.
The alternating sum is 4.
An alternative is n = 2.
The right triangle is isosceles.
This is correct.
That is the right answer.
Let me define f(x) = x + 1.
Let us write n = 2k.
It may be that n is even.
She tries again after 3 days.
The clock is off by 5 minutes.
所以答案是 12。
苹果、梨等等都是水果。
""".strip().splitlines()


@pytest.mark.parametrize("line", CORRECTS_ITSELF)
def test_self_correction_is_counted(line: str):
    assert markers(f"{line}\nSo n = 2.") and markers(f"First n = 2.\n{line}"), line


@pytest.mark.parametrize("line", GOES_STRAIGHT_ON)
def test_what_goes_straight_on_is_not(line: str):
    assert not markers(f"We have n = 2. {line} So n = 2."), line


def test_each_is_counted_once():
    text = "Wait, let me check. Hmm, is that right? So n = 2; actually, 3."
    assert markers(text) == ["wait", "let me check", "hmm", "is that right?", "; actually"]


def test_distinct_ngrams_are_counted_within_windows_so_that_length_alone_changes_nothing():
    draw = random.Random(0)
    words = [f"w{draw.randrange(40)}" for _ in range(20_000)]
    short, long = count_text(" ".join(words[:1024]), 1024), count_text(" ".join(words), 20_000)
    assert abs(short.distinct / short.ngrams - long.distinct / long.ngrams) < 0.01 and not long.looping


def test_a_loop_is_seen_wherever_it_is_and_a_table_is_none():
    draw = random.Random(1)
    prose = " ".join(f"w{draw.randrange(500)}" for _ in range(1000))
    assert count_text(f"{prose} {'so x is 3 and ' * 80} {prose}", 1).looping == 1
    assert count_text(prose, 1).looping == 0
    assert count_text(" ".join(f"row {i} has {i * i} ;" for i in range(200)), 1).looping == 0


def test_signs_of_chinese_are_words():
    counts = count_text("我们先计算余数再检查结果", 1)
    assert counts.ngrams == counts.distinct == 9


def test_texts_without_words_have_no_ngrams_and_counts_add_up():
    assert count_text("", 0) == Counts(texts=1) and count_text("a b c", 3).ngrams == 0
    one = count_text("Wait, as the hint says, n = 2.", 9, is_cut=True)
    assert one + one == Counts(2, 18, 2 * one.ngrams, 2 * one.distinct, 2, 0, 2, 2)
