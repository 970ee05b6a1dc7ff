"""Sentences that give away that a solution was shown, and sentences that only sound like it."""

from __future__ import annotations

import time

import pytest

from dail.synth.schema.mentions import mentions

# With these the patterns were made.
SHOWN = """
According to the reference solution, the remainder is 4.
As the hint says, we should substitute u = x + 1.
The given solution states that n must be odd.
We are told the answer is 42, so let us work backwards.
The provided answer is 17.
Based on the expert's solution, we first factor the quadratic.
From the key, the result is (B).
From the answer key we see that it is 12.
The reference solution uses Vieta's formulas.
Following the expert solution, let a = b + c.
The solution provided uses induction on n.
In the solution provided, the author considers n mod 3.
As shown in the reference, the sum telescopes.
The reference answer is 3/7.
This matches the given answer.
Which agrees with the provided solution.
Let me check against the reference solution.
The official solution considers two cases.
The model answer has a different form.
The expert writes x = 2k.
The expert solution says that f is injective.
The author's solution begins by squaring both sides.
Looking at the given solution, the next step is to differentiate.
The solution says to multiply by the conjugate.
Hmm, the solution states "it is easy to see", which I have to fill in.
The solution mentions that the triangles are similar.
The hint suggests using the pigeonhole principle.
Using the hint, we set y = 1/x.
According to the hint, p divides n.
The hint tells us to look at parity.
As suggested by the hint, consider the midpoint.
The user provided a solution which I should follow.
The user has given the expert's solution.
The prompt gives the final answer as 055.
We know from the solution that the answer is 7.
Since the answer is given as 12, we need a = 3.
The final answer is given to be 144.
We were given the answer 9.
I was given a correct solution, so I follow it.
The ground truth answer is 81.
The ground-truth is 5.
The gold solution multiplies both equations.
The answer key lists 16.
The marking scheme awards a point for this.
The rubric asks for the case n = 1.
According to the provided solution, we have 3 cases.
As stated in the solution, DE is parallel to BC.
As given in the solution above, the radius is 5.
The textbook solution differentiates first.
The teacher's solution takes logarithms.
This is consistent with the expected answer.
But the solution claims that the answer is 10.
The given proof uses contradiction.
The reference proof works modulo 8.
In the reference, they let k = 3.
The reference says the answer is 6.
The known answer is 13, so I must have made a mistake.
We are given that the final answer is 204.
I need to match the reference answer.
The solution given in the prompt skips this step.
The intermediate results provided are 12, 25 and 60.
The given waypoints are 3 and 9.
Let me refer back to the solution: it sets t = tan x.
The instructions say not to mention the solution.
Without mentioning the solution, I should derive it.
I should not mention that a solution was given.
I should pretend that I do not know the solution.
The worked solution uses a substitution.
The sample solution counts the complement.
Comparing with the provided solution, I see an error.
The answer should be 42 according to the solution.
根据参考答案，结果是 12。
参考解答中使用了归纳法。
题目给出的答案是 7。
标准答案为 3。
根据提示，令 x = 1。
D'après la solution de référence, n = 4.
Laut der Musterlösung ist x = 3.
Según la solución de referencia, n es par.
The official answer here is 99.
Per the reference solution, the base case is n = 3.
As per the provided solution, the lines meet at P.
If I look at the solution that was given, it squares both sides.
The expert's approach is to complete the square.
It seems the solution given here skips a step.
The hint indicates that we need symmetry.
The provided solution's second step is wrong.
Since we know that the answer is supposed to be 31, something is off.
I recall that the reference solution got 18.
The supplied answer is 5.
As the expert notes, the function is even.
The attached solution derives this from AM-GM.
Let me follow the reference solution's method.
The suggested solution is shorter.
This does not match the expected answer of 25.
The editorial solution runs in linear time.
My result differs from the given answer.
Let's see how the solution gets 12 from this.
The correct solution shown above uses coordinates.
Given that the expert's answer is 5, we can check.
As provided in the solution, we set x = 2.
The solution's approach is to use symmetry.
In the expert's proof, the case n = 1 is skipped.
From the given hint, we see that p is odd.
The answer given is 5.
We can use the hint provided.
To be consistent with the reference, I will write 3/7.
The solution shows that a = 3.
As the expert did, we let y = x - 1.
The target answer is 42.
The final answer provided is 12.
Knowing that the answer is 42, we work backwards.
Peeking at the answer, it is 9.
It is given that the answer is 7.
This matches the key.
This matches the reference.
The solution from the expert uses induction.
The expert-provided solution is short.
The given expert solution squares both sides.
The provided correct solution uses Vieta.
According to the given correct solution, x = 3.
I'll follow the expert's steps.
The detailed solution provided above says so.
Hint says: use parity.
The solution I was given uses mod 5.
My answer agrees with the one in the solution.
The provided reference has the value 3.
per the answer key, it's 12
we already know the final answer is 42 from the solution
The reference derivation is different.
The instruction says the solution is for reference.
the solution already tells us that x = 4
In the official answer, they wrote 7.
The answer from the solution is 12.
The expert got 12.
The key says 17.
I must not reveal that I have seen the solution.
But the reference answer says 5, so I should recheck.
The solution manual gives 7.
The back of the book says 7.
the answer provided in the reference is 19
The hint that we were given points to modular arithmetic.
Wait, the reference solution has a different value.
The solution here claims 14, so something is wrong.
I think the intended solution counts lattice points.
Our result equals the answer in the reference.
Let me reread the provided solution.
The expert concludes that no such n exists.
By the given solution, we get k = 7.
As per the answer key, option C is right.
The solution writes n as a sum of two squares.
The ground truth says 9.
Okay, so the user wants me to explain the given solution.
The reference uses a cleverer substitution.
They told us the answer is 8.
We are asked to reproduce the expert solution.
The suggested answer of 16 seems wrong.
I'll pretend to derive it without the solution.
The solution goes on to say that p = 3.
Following the hint above, we try small cases.
That is also what the expert solution finds.
Since the official solution skips this, I fill the gap.
This is the same as in the provided solution.
The privileged information says that x = 2.
The known final answer is 60.
Because the answer is already given, I only need to justify it.
I have been given the final answer, 35.
We can verify with the provided answer: 12.
The teacher's answer is 4.
""".strip().splitlines()

NOT_SHOWN = """
In the reference frame of the train the ball is at rest.
A cross-reference table has 12 rows.
The reference angle is 30 degrees.
Take O as the point of reference.
With reference to the figure, AB = 5.
Refer to the diagram on the right.
In the solution of the equation, x cannot be zero.
The solution set is {1, 2}.
The solution is x = 3.
The general solution is y = A e^x.
The given solution of NaCl contains 5 grams of salt.
A standard solution of acid is mixed with water.
The solution contains 20 % alcohol.
Find the volume of the solution.
hint: none
The key observation is that n is even.
The key idea is induction.
The key to the lock is 417.
From the key equation we get a = 2.
The answer is 42.
So the final answer is \\boxed{42}.
The answer is given by the formula n(n+1)/2.
The answer should be a positive integer.
The answer must be divisible by 3.
We know the answer is an integer, as it counts people.
The correct answer is (B).
Let me check my answer.
Let me double-check the solution by substituting it back.
This solution satisfies the equation.
We are told that Alice answers 5 questions.
We are told that the train is 200 m long.
We are given that a + b = 10.
Given the equation, we solve for x.
The given equation has two real solutions.
The expected number of throws is 6.
The expected value is 3.5.
The model predicts 12 rabbits.
An expert archer hits nine of ten targets.
The expert finishes in 3 hours and the beginner in 6.
The teacher gives each pupil 4 pencils.
The author of the book sold 300 copies.
The sample has 40 marbles.
The official price is 12 dollars.
The known side is 7.
The solutions given by the quadratic formula are 2 and 3.
According to the problem, the sum is 12.
According to the theorem of Pythagoras, c = 5.
As stated in the problem, each box holds 6.
As shown in the figure, the angle is right.
Based on the previous step, k = 4.
By the solution of part (a), f is monotone.
From the solution of the first equation, y = 2.
The trivial solution x = 0 is excluded.
No solution exists for n = 2.
A unique solution exists.
Every student answered the provided questions.
There are 5 answer choices.
The number of solutions is 12.
The key is to notice the symmetry.
The proof is by induction.
The proof uses the pigeonhole principle.
We prove the given statement.
The given proof problem asks for n odd.
The truth table has 8 rows.
The ground is level.
Gold costs 60 dollars a gram.
He hints that the number is prime.
The song's key signature has three sharps.
Press the key marked 5.
The primary key of the table is the id.
The provided rope is 10 m long.
A hidden square is 3 by 3.
The shown triangle is isosceles.
The user enters the code 417.
The prompt blinks four times a second.
The waypoint of the ship is at (3, 4).
Intermediate results: 12, 25, 60.
The reference point moves to the left.
Reference: Theorem 3.
Hence the answer given in terms of n is n^2.
根据题意，答案是整数。
所以答案是 12。
方程的解为 x = 3。
La solution de l'équation est x = 3.
Die Lösung der Gleichung ist x = 3.
La solución de la ecuación es x = 3.
The reference triangle has sides 3, 4 and 5.
One solution is to guess x = 1.
The second solution of the recurrence is 2^n.
The chemist adds 3 litres of the solution to the tank.
The given answer sheet has 20 rows, one for each pupil.
Answer: 12.
We check the answer: 3 + 4 = 7, which is right.
The keys of the piano are black or white.
The expert team wins with probability 2/3.
We follow the path from A to B.
Provided that n is even, the answer is 0.
As a hint of symmetry appears, we set y = -x.
The references in the library are sorted by year.
The model train is 1/87 of its real size.
To find the solution, use the substitution u = x^2.
The particular solution is y = 2x.
The official exchange rate is 1.2.
Tell me the answer when you have it.
The statement that the answer is unique follows from convexity.
The numbers given are 3, 9 and 27.
The solution shown in Figure 2 is stable.
The solution approaches zero as t grows.
The solution shows exponential decay.
The reference line is horizontal.
The answer to the first question is 5.
Using the key lemma, we get n = 2.
From the answer we subtract 3.
The expert group has 5 members.
A reference book costs 12 dollars.
Given the answer to part (a), part (b) follows.
The answer provided by Alice is 5.
We have shown that the solution is unique.
The proof given above covers all cases.
The explanation is simple.
The hint of blue in the solution vanishes.
Let me verify the answer by substitution.
The target sum is 42.
Knowing that the sum is 42, we find x.
The reference temperature is 20 degrees.
As the teacher did, the pupils count the apples.
The solution follows from the lemma.
The final answer is 12 and we are done.
The expected answer is an integer between 0 and 999.
In the answer, write the units.
To reach the target, he needs 5 steps.
The book gives 7 pages.
The solution uses 3 litres of water.
Let us follow the steps of the proof.
The solutions of the system are (1, 2) and (2, 1).
Let S be the set of solutions given above.
We provide a full proof.
The provided data show an increase.
The official language is French.
He gave the answer 7, which is wrong.
The answer can be checked by hand.
The answer is supposed to be entered in the box.
The reference group has mean 5.
A hint of lemon is added to the solution.
The key property is additivity.
This key fact gives the result.
The expected number of matches is 3.
Let the given angle be x.
It is known that primes are infinite.
It is given that f(2) = 3.
We know the answer lies between 1 and 10.
The sample mean is 4.
The model solution curves are ellipses.
The known solution y = x is one of two.
The correct answer is 12.
Let me recheck the answer.
My first solution was wrong.
A better solution is to add the equations.
We then look at the next equation.
As shown in the table, sales rise.
The solution method is elimination.
The suggested retail price is 12 dollars.
The explanation of the first step is as follows.
The author has 12 books.
""".strip().splitlines()

# Written apart once the patterns were done: 15 of 20 were found at first, and none of 20 taken for another. Three kinds
# were mended since; what is not found is known.
HELD_OUT_SHOWN = """
The solution's final line reads 12.
Reading the provided proof again, the lemma is used twice.
This is where the expert solution and mine differ.
The given answer, 56, confirms it.
Hmm, but the official answer was 7.
I can use the hint: it says to reflect the point.
The author's proof is by contradiction.
From what the solution says, the bound is sharp.
The reference solution must have a typo.
As mentioned in the given solution, a divides b.
So the answer matches the expected result of 12 from the key.
I'm told that the correct answer is 3/4.
The problem comes with a solution that uses trigonometry.
Let's check what the reference answer is.
We have the expert's final answer of 90.
The solution they gave me starts with a substitution.
According to the answer provided, the count is 14.
The model solution here is wrong.
The textbook's solution skips the base case.
Our derivation now agrees with the reference solution.
""".strip().splitlines()

HELD_OUT_NOT_SHOWN = """
The solution of this puzzle is short.
He solved it without any hint of doubt.
The reference value of the voltage is 5 volts.
The answers to both parts agree.
Look at the key on the map.
The textbook costs 30 dollars.
An expert would take 2 days.
The proof that follows is elementary.
Given a solution of the recurrence, we add a constant.
The solution with the smallest x is 3.
The sum given is 100.
The correct option is D.
This gives the answer at once.
We state the answer as a fraction.
The official result of the match was 3 to 1.
The answer is known only up to a sign.
A sample solution of sugar weighs 20 grams.
The teacher explains the rule of three.
Refer to Theorem 2 for the proof.
The provided information is enough.
""".strip().splitlines()


def rates(shown: list[str], not_shown: list[str]) -> tuple[float, float, list[str]]:
    """Precision, recall, and what was taken for the other."""
    missed = [line for line in shown if not mentions(line)]
    wrong = [line for line in not_shown if mentions(line)]
    found = len(shown) - len(missed)
    return found / (found + len(wrong)), found / len(shown), missed + wrong


@pytest.mark.parametrize("line", SHOWN)
def test_what_cites_a_solution_is_found(line: str):
    assert mentions(f"We compute. {line} So it goes on."), line


@pytest.mark.parametrize("line", NOT_SHOWN + HELD_OUT_NOT_SHOWN)
def test_what_only_sounds_like_it_is_left_alone(line: str):
    assert not mentions(f"We compute. {line} So it goes on."), line


def test_sentences_that_were_written_apart_are_told_apart_as_well():
    precision, recall, wrong = rates(HELD_OUT_SHOWN, HELD_OUT_NOT_SHOWN)
    assert precision == 1 and recall >= 0.9, wrong


def test_a_line_break_emphasis_and_capitals_hide_nothing():
    assert mentions("ACCORDING TO THE\nREFERENCE  SOLUTION") and mentions("as the **hint** says") and not mentions("")


def test_what_the_problem_says_itself_may_be_taken_up():
    problem = "Hint: use the pigeonhole principle. Is the given solution right?"
    assert mentions("By the hint, two are equal.") and not mentions("By the hint, two are equal.", problem)
    assert mentions("The given solution is wrong.") and not mentions("The given solution is wrong.", problem)
    assert mentions("The reference solution says no.", problem)


@pytest.mark.parametrize(
    "piece", ["the ", "the solution ", "according to the ", "as the expert ", "we are told ", "\n"]
)
def test_it_takes_time_in_proportion_to_the_text(piece: str):
    def seconds(size: int) -> float:
        begin = time.process_time()
        mentions(piece * (size // len(piece)))
        return time.process_time() - begin

    assert seconds(400_000) < 12 * seconds(100_000) + 0.1
