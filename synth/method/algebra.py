"""What math-verify leaves open and its computer algebra can decide: complex numbers, and equations as a whole.

Runs in the grader's child, under its limits, like math-verify.
"""

from __future__ import annotations

from typing import Any

_DIGITS, _NOTHING = 30, 1e-25


def equal_by_algebra(gold: list[Any], prediction: list[Any]) -> bool:
    """Whether both are one complex number, or equations that hold together: y = 2x + 3 and 2x - y + 3 = 0.

    Args:
        gold, prediction: what math-verify has read, an expression first.
    """
    from sympy import Basic, Eq

    if not (gold and prediction and isinstance(gold[0], Basic) and isinstance(prediction[0], Basic)):
        return False
    ours, theirs = prediction[0], gold[0]
    if isinstance(ours, Eq) and isinstance(theirs, Eq):
        return _are_one_equation(ours, theirs)
    return _are_one_number(ours, theirs)


def _are_one_equation(ours: Any, theirs: Any) -> bool:
    from sympy import simplify

    first, second = (simplify((side.lhs - side.rhs).doit()) for side in (ours, theirs))
    if first.is_number or second.is_number:
        return False
    ratio = simplify(first / second)
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


def _are_one_number(ours: Any, theirs: Any) -> bool:
    """`i` is the imaginary unit if no other letter is there."""
    from sympy import I

    letters = ours.free_symbols | theirs.free_symbols
    if {letter.name for letter in letters} != {"i"}:
        return False
    difference = (ours - theirs).doit().subs(dict.fromkeys(letters, I)).evalf(_DIGITS)
    return bool(difference.is_number and abs(complex(difference)) < _NOTHING)
