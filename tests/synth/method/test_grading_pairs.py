r"""A table of answers and keys, equal or not, against the whole grader. A line is GIVEN == KEY or GIVEN != KEY.

math-verify alone, with whole numbers compared before it, judges 74 of the first 262 wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dail.synth.method.grading import Grader

TABLE = r"""
# whole numbers and punctuation
24. == 24
24 == 24.
$24$. == 24
\(24\) == 24
24, == 24
\boxed{24} == 24
{24} == 24
**24** == 24
\text{24} == 24
\mathbf{24} == 24
+24 == 24
024 == 24
24.0 == 24
−24 == -24
\displaystyle 24 == 24
\left(24\right) == 24
The answer is 24 == 24
\text{The answer is } 24 == 24
24 != 24.5
-24 != 24
24! != 24
240 != 24
2 4 != 24
\text{twenty} == 20
5! == 120
# separators of thousands
1,000 == 1000
1\,000 == 1000
1{,}000 == 1,000
1\ 000 == 1000
1,\!000 == 1000
1 000 == 1000
12{,}345{,}678 == 12345678
1,234.5 == 1234.5
$1,000,000$ == 10^6
2.5 million == 2500000
1,000 != 1
1{,}000 != 100
1,000 != 10,000
(1,000) != 1000
(1,234) == (1, 234)
0{,}5 == \frac{1}{2}
# fractions, decimals, powers
\frac12 == 0.5
\dfrac{3}{4} == 3/4
\tfrac{-3}{4} == -\frac{3}{4}
\frac{3}{-4} == -0.75
\frac{6}{8} == \frac{3}{4}
.5 == 0.50
2\frac{1}{2} == 5/2
2\frac12 == 2.5
0.\overline{3} == \frac13
0.1\overline{6} == 1/6
0.333 != \frac{1}{3}
0.3333333333 != \frac{1}{3}
3.14 != 3.1
\frac{3}{4} != \frac{4}{3}
-\frac{3}{4} != \frac{3}{4}
1.5 \times 10^{3} == 1500
1.5\cdot10^{-3} == 0.0015
1.5e3 == 1500
2^{10} == 1024
2^10 == 1024
2^{-70} == \frac{1}{2^{70}}
2^{-70} != 2^{-71}
\frac{1}{2^{70}} != \frac{1}{2^{71}}
2^{-70} != 0
10^{-20} != 10^{-21}
1-2^{-60} != 1
\frac{2^{100}+1}{2^{100}} != 1
-2^2 != 4
(-2)^2 == 4
\sqrt{16} == 4
1/3 + 1/6 == 1/2
2^{70}\pi != 2^{71}\pi
2^{-70}\pi != 2^{-71}\pi
# degrees
60° == 60
60^\circ == 60
60^{\circ} == 60
60 degrees == 60
60 \text{ degrees} == 60^\circ
60\degree == 60
60^\circ != 61
60° != 60 \text{ radians}
25^\circ\text{C} == 25
25^\circ\text{C} != 25^\circ\text{F}
# units
12 km/h == 12
12\text{ km/h} == 12 \text{ kilometers per hour}
12\,\mathrm{km/h} == 12
12 \frac{\text{km}}{\text{h}} == 12
12 km/h != 12 m/s
\text{12 km/h} == 12
36 km/h == 10 m/s
5 cm == 5
5cm == 5 \text{ cm}
5 \text{ cm} == 50 \text{ mm}
100 \text{ cm} == 1 \text{ m}
5 \text{ cm} != 5 \text{ m}
5 \text{ cm} != 5 \text{ s}
5 \text{ cm} != 5 \text{ cm}^2
9 \text{ cm}^2 == 9
9 \text{ square inches} == 9 \text{ in}^2
9 square units == 9 \text{ cm}^2
9.8 m/s^2 == 9.8 \text{ meters per second}^2
2 \text{ hours} == 120 \text{ minutes}
2 \text{ hours} != 2 \text{ minutes}
7 apples == 7
7 \text{ apples} == 7 \text{ apple}
7 \text{ apples} != 7 \text{ pears}
7 \text{ apples} != 8
\frac{3}{2} \text{ miles} == 1.5
3 \text{ kg} == 3000 \text{ g}
2\sqrt{3} \text{ cm} == 2\sqrt{3}
2\sqrt{3}\text{ cm} != 2\sqrt{3}\text{ m}
25\pi \text{ cm}^2 == 25\pi
25\pi \text{ cm}^2 != 25\pi \text{ m}^2
# money and percent
\$5 == 5
\$5.00 == 5
\$1,250 == 1250
5 dollars == \$5
€5 == 5
500 cents == \$5
€5 != \$5
\$5 != 500
50\% == 0.5
50\% == 50
50\% == \frac{1}{2}
50 percent == 50\%
50\% != 5
50\% != 500\%
# names
x = 5 == 5
x=\frac{1}{2} == 0.5
f(x) = 7 == 7
n_0 = 7 == 7
\angle ABC = 60^\circ == 60
\text{Area} = 12 == 12
2^{10} = 1024 == 1024
x = 2 + 3 = 5 == 5
y = 2x+1 == 2x+1
x = 5 != 6
n = 3k != 3
# a letter at the end is a variable, not a unit
2(1-m) == 2-2m
2-2s == 2(1-s)
3-3h == 3(1-h)
n-2m == -(2m-n)
a^2+2ab+b^2 == (a+b)^2
0 != 2-2m
3 != 5-2s
n-2 != n-2m
2m != 2
7c != 7
2t != 2
2ab != 2
2-2s != 2-2h
x+2c != x+2
2\sqrt{3} cm == 2\sqrt{3}
2\pi cm == 2\pi
\sqrt{12} cm == 2\sqrt{3} cm
2\sqrt{3} cm != 2\sqrt{3} km
2\sqrt{3} units == \sqrt{12}
5m == 5\text{ m}
5m != 5\text{ s}
# lists with dots
1, 2, \ldots, 5 == 1,2,\ldots,5
\{1, 2, \dots, n\} == 1,2,\ldots,n
1, 2, ..., 2025 == 1,2,\ldots,2025
(1,2,\dots,n) == (1, 2, \ldots, n)
1,2,\ldots,6 != 1,2,\ldots,5
1,2,\ldots,n != 1,2,\ldots,n-1
# numbers in words
fifty-five == 55
\text{twenty one} == 21
\text{ninety} == 90
fifty-five != 56
# choices
\text{(B) } 42 == B
\text{(B) } 42 == 42
\textbf{(B)}\ 42 == B
\textbf{(B)}\ 42 == 42
\textbf{(B) } \frac{1}{2} == 0.5
(B) 42 == B
B) 42 == 42
B. 42 == B
B: 42 == 42
\text{B} == B
(B) == B
\mathrm{(B)} == B
B. == B
\text{Option B} == B
B == \textbf{(B)}\ 42
42 == \textbf{(B)}\ 42
\text{(B)}\ \sqrt{8} == 2\sqrt{2}
\text{(B) } 42 != C
\text{(B) } 42 != 43
\text{(B) } 42 != \text{(C) } 42
B != C
B != 42
\text{(C) } 42 != B
\text{Answer: B} == B
\text{The answer is B} == B
\text{The correct option is (B)} == B
\text{letter B} == B
\textbf{B.} 42 == B
\text{choice (b)} == B
{B} == B
\text{B. It increases} == B
\text{(B)}\,42 == B
b == B
(b) == B
\text{Bob} != B
AB != B
A, B != B
\text{B or C} != B
\text{The answer is C} != B
\text{Answer: 42} == 42
# intervals and inequalities
2\le x<3 == [2,3)
2 \leq x < 3 == \left[2, 3\right)
3 > x \ge 2 == [2,3)
x \in [2,3) == [2,3)
\{x \mid 2 \le x < 3\} == [2,3)
2<x<3 == (2,3)
x > 2 == (2,\infty)
2 < x == x > 2
x \le \frac12 == (-\infty, 0.5]
x<1 \text{ or } x>3 == (-\infty,1)\cup(3,\infty)
x<1, x>3 == (-\infty,1)\cup(3,+\infty)
(3,\infty)\cup(-\infty,1) == (-\infty,1)\cup(3,\infty)
[1,2]\cup[2,3] == [1,3]
x \ne 2 == (-\infty,2)\cup(2,\infty)
(-\infty,\infty) == \mathbb{R}
1 \le x \le \sqrt{2} == [1,\sqrt{2}]
x > \sqrt{2} == (\sqrt{2}, \infty)
1 \le x \le \sqrt{2} != (1,\sqrt{2})
2\le x<3 != (2,3)
2\le x<3 != [2,3]
2\le x<3 != [2,4)
2<x<3 != 2<x<4
x > 2 != x \ge 2
x > 2 != x < 2
x > 2 != 2
[0,1) != [0,1]
(1,2)\cup(2,3) != (1,3)
# tuples, sets, lists
(1,2) == (1, 2)
(1,2) == \left(1,\frac{4}{2}\right)
1, 2 == (1,2)
\{1,2\} == \{2,1\}
\{1,2\} == 2, 1
2 \text{ or } 3 == 3, 2
x = 2 \text{ or } x = 3 == \{2,3\}
2 and 3 == 2, 3
\text{2 or 3} == 2, 3
1; 2 == 1, 2
\{1,1,2\} == \{1,2\}
\{5\} == 5
x=1, y=2 == (1,2)
x=1, y=2 == y=2, x=1
(1,\sqrt{2}) == (1,2^{1/2})
\{1,\sqrt{8}\} == \{2\sqrt{2},1\}
(1,2) != (2,1)
(1,2) != \{1,2\}
(1,2) != [1,2]
(1,2) != (1,2,3)
\{1,2\} != \{1,3\}
\{1,2\} != \{1,2,3\}
\{1,2\} != 1
(1,\sqrt{2}) != (\sqrt{2},1)
x=1, y=2 != x=2, y=1
2, 3 != 2
# plus or minus
\pm 3 == \{3,-3\}
\pm 3 == 3, -3
x = \pm 3 == \pm 3
1 \pm 2 == -1, 3
±3 == \pm 3
\pm\sqrt{2} == \sqrt{2}, -\sqrt{2}
1\pm\sqrt{2} == 1+\sqrt{2}, 1-\sqrt{2}
\pm 3 != 3
\pm 3 != \pm 4
1\pm\sqrt{2} != 1\pm\sqrt{3}
# radicals, pi, expressions
2\sqrt{2} == \sqrt{8}
2\sqrt2 == \sqrt{8}
\frac{1}{\sqrt{2}} == \frac{\sqrt{2}}{2}
\sqrt[3]{8} == 2
\frac{\pi}{2} == 0.5\pi
4\pi == \pi \cdot 4
(x+1)^2 == x^2+2x+1
x(x-1) == x^2 - x
\frac{n(n+1)}{2} == \frac{n^2+n}{2}
\binom{5}{2} == 10
\sin^2 x + \cos^2 x == 1
2\sqrt{2} != 2\sqrt{3}
\sqrt{2} != 1.41
\pi != 3.14
4\pi != 4
2n+1 != 2m+1
a^b != b^a
x^2+1 != x^2-1
2^n != n^2
# words
\text{Yes} == yes
\text{no} == No
\text{no solution} == \text{No solutions}
\text{The circle} == \text{circle}
\text{red and blue} == \text{Red and Blue}
\text{Tuesday} == Tuesday
\emptyset == \varnothing
\text{seven} == 7
\text{Yes} != \text{No}
\text{Tuesday} != \text{Monday}
\text{none} != 7
# matrices and bases
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} == \begin{bmatrix}1&2\\3&4\end{bmatrix}
\begin{pmatrix} 1/2 \\ 3 \end{pmatrix} == \begin{pmatrix} 0.5 \\ 3 \end{pmatrix}
\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix} != \begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}
\begin{pmatrix} 1 & 2 \end{pmatrix} != \begin{pmatrix} 1 \\ 2 \end{pmatrix}
1011_2 == 1011_{2}
1011_2 == 1011
1011_2 != 1011_3
1011_{\text{two}} == 1011_2
1011_{\text{three}} != 1011_2
# angles in radians
60^\circ == \frac{\pi}{3}
\frac{\pi}{2} == 90^\circ
45^\circ != \frac{\pi}{3}
\cos 60^\circ == \frac12
\sin 30^\circ != \frac{\sqrt{3}}{2}
20^\circ\text{C} == 20^\circ
20^\circ\text{C} != 20^\circ\text{F}
# equations as a whole
y=2x+3 == 2x-y+3=0
2x+3y=6 == 4x+6y=12
x^2+y^2=1 == x^2+y^2-1=0
f(x)=2x == y=2x
x+y=5 == 5
2x+3y=6 != 2x+3y=7
x+y=5 != x-y=5
x^2+y^2=1 != x^2+y^2=4
y=2x+3 != x=2y+3
# residues and times
x\equiv 3\pmod 7 == 3\pmod{7}
3 \pmod 7 == 3
x \equiv -4 \pmod 7 == 3 \pmod 7
3 \pmod{7} != 4 \pmod{7}
x\equiv3\pmod7 != x\equiv3\pmod8
3:30 \text{ PM} == 3:30 \text{ p.m.}
15:30 == 3:30 \text{ PM}
3:30 == 3:30 \text{ PM}
12:05 \text{ AM} != 12:05 \text{ PM}
3:30 \text{ AM} != 3:30 \text{ PM}
3:31 != 3:30 \text{ PM}
# complex numbers
i^2 == -1
e^{i\pi} == -1
2e^{i\pi/3} == 1+i\sqrt{3}
-\frac{3}{4}i == \frac{-3i}{4}
(1+i)^2 == 2i
i != -i
e^{i\pi/3} != e^{-i\pi/3}
# as readers write it
√2 == \sqrt{2}
2√3 == 2\sqrt{3}
sqrt 2 == \sqrt{2}
sqrt(2) == \sqrt{2}
pi/2 == \frac{\pi}{2}
{10\choose 3} == 120
\infty == \text{infinity}
-\infty != \text{infinity}
0.333\ldots == \frac13
0.1666... == \frac16
0.333\ldots != 0.333
1 \text{ to } 2 == 1:2
2.5 \text{ million} == 2500000
2.5 \text{ million dollars} == \$2{,}500{,}000
10 \Omega == 10 \text{ ohms}
5\% \text{ increase} == 5\%
5\% \text{ increase} != 5\% \text{ decrease}
\text{all } n\ge 5 == n\ge 5
x=1 \text{ or } x>3 == \{1\}\cup(3,\infty)
x=2 \text{ or } x>3 != \{1\}\cup(3,\infty)
1,2,\dots,10 == 1,2,\ldots,10
\text{A, B, C} == A,B,C
\text{Alice and Bob} == Bob and Alice
\text{Alice and Bob} != \text{Alice and Carol}
\text{does not exist} == DNE
# residues in all their dress
n \equiv 3 \pmod 4 != n \equiv 1 \pmod 4
n \equiv 1 \pmod 4 != n \equiv 3 \pmod 4
n \equiv 3 \pmod{4} == n\equiv3\pmod4
x \equiv 5 \pmod{12} != x \equiv 7 \pmod{12}
n \equiv 3 \bmod 4 != n \equiv 1 \bmod 4
n \equiv 3 \mod 4 != n \equiv 1 \mod 4
n \equiv 3 \mod 4 == n \equiv 3 \pmod 4
n \equiv 3 \bmod 4 == n \equiv 3 \pmod{4}
n \equiv 3 (\text{mod } 4) != n \equiv 1 (\text{mod } 4)
n \equiv 3 (\text{mod } 4) == n \equiv 3 \pmod 4
n \equiv 3 (\bmod 4) == n \equiv 3 \pmod 4
n ≡ 3 (mod 4) == n \equiv 3 \pmod 4
n ≡ 3 (mod 4) != n \equiv 1 \pmod 4
n = 3 \pmod 4 == n \equiv 3 \pmod 4
n = 3 \pmod 4 != n \equiv 1 \pmod 4
n \equiv 3 \text{ mod } 4 == n \equiv 3 \pmod 4
n \equiv 3 \text{ mod } 4 != n \equiv 1 \pmod 4
n \equiv 3 \pmod 4 != n \equiv 3 \pmod 8
n \equiv 7 \pmod 4 == n \equiv 3 \pmod 4
n \equiv -1 \pmod 4 == n \equiv 3 \pmod 4
n \equiv -1 \pmod 4 != n \equiv 1 \pmod 4
n \equiv 1, 3 \pmod 8 == n \equiv 3, 1 \pmod 8
n \equiv 1, 3 \pmod 8 != n \equiv 1, 5 \pmod 8
n \equiv 1 \text{ or } 3 \pmod 8 == n \equiv 1, 3 \pmod 8
n \equiv 1 \text{ or } 3 \pmod 8 != n \equiv 1, 5 \pmod 8
n \equiv \pm 1 \pmod 8 == n \equiv 1, 7 \pmod 8
n \equiv \pm 1 \pmod 8 != n \equiv \pm 3 \pmod 8
n \equiv 0 \pmod 3 != n \equiv 1 \pmod 3
p \equiv 3 \pmod 4 != p \equiv 1 \pmod 4
n = 4k+3 == n \equiv 3 \pmod 4
n = 4k+1 != n \equiv 3 \pmod 4
n = 4k+3 != n = 4k+1
n \equiv 3 \pmod 4 == n = 4k+3
4k+3 == n \equiv 3 \pmod 4
4k+1 != n \equiv 3 \pmod 4
n = 4k-1 == n \equiv 3 \pmod 4
2k == n \equiv 0 \pmod 2
n \equiv 3 \pmod{m} != n \equiv 1 \pmod{m}
n \equiv a \pmod{p} != n \equiv b \pmod{p}
n \equiv 2^{k} \pmod{7} != n \equiv 3^{k} \pmod{7}
n \equiv 2^{10} \pmod{7} == n \equiv 2 \pmod{7}
2^n \equiv 1 \pmod 7 != 2^n \equiv 2 \pmod 7
3 \bmod 4 != 1 \bmod 4
n\equiv 3\ (\mathrm{mod}\ 4) != n\equiv 1\ (\mathrm{mod}\ 4)
n\equiv 3\ (\mathrm{mod}\ 4) == n\equiv 3\pmod 4
n \equiv 3 \pmod 4, n > 3 != n \equiv 1 \pmod 4, n > 3
x \equiv 1 \pmod 3 \text{ and } x \equiv 2 \pmod 5 != x \equiv 2 \pmod 3 \text{ and } x \equiv 1 \pmod 5
x \equiv 1 \pmod 3, x \equiv 2 \pmod 5 == x \equiv 2 \pmod 5, x \equiv 1 \pmod 3
\{n : n \equiv 3 \pmod 4\} != \{n : n \equiv 1 \pmod 4\}
n \not\equiv 3 \pmod 4 != n \equiv 3 \pmod 4
n \equiv 3 \pmod 4 != n \not\equiv 3 \pmod 4
n \not\equiv 0 \pmod 3 == n \not\equiv 0 \pmod 3
n \equiv 3 != n \equiv 1
a \equiv b \pmod n == a \equiv b \pmod n
3 != n \equiv 1 \pmod 4
3 == n \equiv 3 \pmod 4
\overline{3} != \overline{1}
# decimals that only come near
0.33333333 != \frac13
0.33333333 != 1/3
0.3333333333333333 != \frac{1}{3}
0.66666667 != 2/3
0.142857142857 != \frac17
0.\overline{3} == 1/3
0.\overline{142857} == 1/7
0.1666666666666 != \frac{1}{6}
0.25 == 1/4
0.125 == \frac18
33.3333333\% != \frac13
33.\overline{3}\% == \frac13
33\frac13\% == \frac13
25\% == \frac14
x = 0.33333333 != x = 1/3
-0.33333333 != -\frac13
(0.33333333, 2) != (\frac13, 2)
\{0.33333333, 2\} != \{\frac13, 2\}
0.33333333\pi != \frac{\pi}{3}
0.33333333\sqrt{2} != \frac{\sqrt2}{3}
0.33333333x != \frac{x}{3}
\frac{x}{3}+1 != 0.33333333x+1
x^{0.33333333} != x^{1/3}
3.14 != \pi
3.1416 != \pi
3.14159265 != \pi
3.14159265358979 != \pi
1.414 != \sqrt2
1.41421356 != \sqrt{2}
1.4142135623730951 != \sqrt{2}
2.718 != e
2.718281828 != e
0.693147 != \ln 2
1.618 != \frac{1+\sqrt5}{2}
1.6180339887 != \frac{1+\sqrt5}{2}
6.283185307 != 2\pi
\frac{22}{7} != \pi
3.14 == 3.14
\pi != 3.15
\frac13 != 0.34
\frac13 != 0.3334
\frac23 != 0.66
\sqrt2 != 1.42
1.41 != 1.4142
1.4 != 1.41
0.12 != 0.125
1.5 \times 10^{3} != 1501
1.2345\times 10^8 == 123450000
6.02 \times 10^{23} != 6.03\times 10^{23}
1.000001 != 1
0.999999 != 1
0.9999999999 != 1
0.\overline{9} == 1
1000000.0001 != 1000000
0.0000001 != 0
10^{-9} != 0
1.0001\pi != \pi
e^{10} != 22026.4658
22026.5 != e^{10}
2\sqrt{3} != 3.46
0.5\pi == \frac{\pi}{2}
1.57079632679 != \frac{\pi}{2}
0.1 + 0.2 == 0.3
12.3\% == 12.3\%
12.34\% != 12.3\%
0.123 == 12.3\%
\frac{1}{8} == 0.125
\frac{1}{8} == 12.5\%
\frac{1}{16} != 0.06
3.14\text{ cm} != \pi \text{ cm}
\sqrt{2}+10^{-9} != \sqrt{2}
\sqrt{2}\cdot 1.0000001 != \sqrt{2}
[0.33333333, 1) != [\frac13, 1)
x > 0.33333333 != x > \frac13
x \le 1.41421356 != x \le \sqrt{2}
y = 0.33333333x + 1 != y = \frac13 x + 1
(1.41421356, 1) != (\sqrt2, 1)
\{1.41421356, 1\} != \{\sqrt2, 1\}
\begin{pmatrix} 0.33333333 \\ 1 \end{pmatrix} != \begin{pmatrix} \frac13 \\ 1 \end{pmatrix}
1.41421356+i != \sqrt2+i
2^{10} \bmod 7 == 2
17 \mod 5 == 2
17 \mod 5 != 3
1024 \bmod 7 = 2 == 2
n \equiv 1 \pmod{2} == n \equiv 1, 3 \pmod 4
n \not\equiv 0 \pmod 2 == n \equiv 1 \pmod 2
k \equiv 2 \pmod 5 == k = 5m+2
n=4k+3, k \in \mathbb{Z} == n \equiv 3 \pmod 4
n = 4k+3 \text{ for some integer } k == n \equiv 3 \pmod 4
x^2 \equiv 1 \pmod 8 != x^3 \equiv 1 \pmod 8
a^{p-1} \equiv 1 \pmod p == a^{p-1} \equiv 1 \pmod{p}
0.1\pi == \frac{\pi}{10}
0.5(1+\sqrt5) == \frac{1+\sqrt{5}}{2}
2^{0.5} == \sqrt{2}
e^{0.5} == \sqrt e
e^{0.4999999} != \sqrt e
0.3\bar{3} == \frac13
0.\dot{3} == \frac13
0.\dot{1}4285\dot{7} == \frac17
0.\dot{3} != 0.3
2.4999999\pi != 2.5\pi
\frac{5\pi}{2} == 2.5\pi
2.50\pi == 2.5\pi
0.50000001x != 0.5x
\frac{x}{2} == 0.5x
1.2\sqrt{2} == \frac{6\sqrt2}{5}
\frac{6\sqrt2}{5} == 1.2\sqrt2
1.2000001\sqrt2 != 1.2\sqrt2
\sqrt{5} == 2.236067977
(\sqrt2, 1) == (1.41421356, 1)
\{\sqrt2, 1\} == \{1.41421356, 1\}
e^{0.5} == e^{0.5}
\sqrt{e} == e^{0.5}
0.3+0.4i == \frac{3}{10}+\frac{2i}{5}
y = \frac{x}{2}+\frac{3}{10} == y=0.5x+0.3
0.5\ln 3 == \ln\sqrt{3}
y = 0.5x + 1 == y = \frac{x}{2}+1
(0.5\pi, 1) == (\frac{\pi}{2}, 1)
\{0.1, \sqrt{2}\} == \{\sqrt2, \frac1{10}\}
\cos\frac{\pi}{5} == \frac{1+\sqrt5}{4}
57.2957795^\circ != 1
1.0471975512 != \frac{\pi}{3}
2.0000001\sqrt2 != 2\sqrt2
"""


def pairs() -> Iterator[tuple[str, str, bool]]:
    for line in TABLE.strip().splitlines():
        if not line.startswith("# "):
            equal = " == " in line
            given, wanted = line.split(" == " if equal else " != ")
            yield given, wanted, equal


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(timeout_s=20.0) as grader:
        yield grader


@pytest.mark.parametrize(("given", "wanted", "equal"), pairs())
def test_the_grader_agrees_with_the_table(grader: Grader, given: str, wanted: str, equal: bool) -> None:
    assert grader.grade(rf"So it is $\boxed{{{given}}}$.", wanted).correct == equal


def test_the_table_is_long_and_holds_no_pair_twice() -> None:
    found = list(pairs())
    assert len(found) == len(set(found)) >= 200
    assert sum(not equal for _, _, equal in found) >= 80
