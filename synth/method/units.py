r"""Units of measurement behind an answer: `cm`, `km/h`, `°`, dollars, `square inches`, `apples`.

A unit is a factor and powers of dimensions, so 1 m is 100 cm and neither is a second. A word that is no known unit is
a dimension of its own: apples are no pears. Percent is told apart by its dimension `%`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Unit:
    """`factor` times the dimensions' own units: km/h is 5/18 of length^1 time^-1."""

    factor: Fraction
    powers: tuple[tuple[str, int], ...]


PERCENT = Unit(Fraction(1), (("%", 1),))
DEGREE = Unit(Fraction(1), (("angle", 1),))
NO_UNIT = Unit(Fraction(1), ())

_TABLE = """
length m meter meters metre metres 1
length km kilometer kilometers kilometre kilometres 1000
length dm decimeter decimeters 1/10
length cm centimeter centimeters centimetre centimetres 1/100
length mm millimeter millimeters millimetre millimetres 1/1000
length in inch inches 127/5000
length ft foot feet 381/1250
length yd yard yards 1143/1250
length mi mile miles 201168/125
time s sec secs second seconds 1
time ms millisecond milliseconds 1/1000
time min mins minute minutes 60
time h hr hrs hour hours 3600
time day days 86400
time week weeks 604800
years year years yr yrs 1
years month months 1/12
mass g gram grams 1
mass kg kilogram kilograms 1000
mass mg milligram milligrams 1/1000
mass t ton tons tonne tonnes 1000000
weight lb lbs pound pounds 1
weight oz ounce ounces 1/16
volume L l liter liters litre litres 1
volume mL ml milliliter milliliters millilitre millilitres 1/1000
volume gal gallon gallons 473176473/125000000
money ¤ $ dollar dollars USD usd buck bucks 1
money ¢ cent cents 1/100
euro € euro euros EUR 1
sterling £ GBP 1
yen ¥ yen JPY 1
rupee ₹ rupee rupees Rs INR 1
angle ° deg degs degree degrees 1
radian rad rads radian radians 1
celsius °C 1
fahrenheit °F 1
temperature K kelvin 1
force N newton newtons 1
energy J joule joules 1
energy kJ kilojoule kilojoules 1000
power W watt watts 1
power kW kilowatt kilowatts 1000
pressure Pa pascal pascals 1
frequency Hz hertz 1
voltage V volt volts 1
current A amp amps ampere amperes 1
resistance Ω ohm ohms 1
charge C coulomb coulombs 1
amount mol mole moles 1
% % percent 1
"""


def _table() -> dict[str, Unit]:
    units = dict[str, Unit]()
    for line in _TABLE.strip().splitlines():
        dimension, *names, factor = line.split()
        units |= {name: Unit(Fraction(factor), ((dimension, 1),)) for name in names}
    return units


_UNITS = _table() | {
    **dict.fromkeys(("unit", "units"), NO_UNIT),  # of which kind is not said, so they fit any
    "mph": Unit(Fraction(201168, 125) / 3600, (("length", 1), ("time", -1))),
    "kph": Unit(Fraction(5, 18), (("length", 1), ("time", -1))),
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_OTHER_WORDS = """
and or not if is are for the none no yes true false all real solution solutions sin cos tan cot log ln exp max gcd lcm
mod where when with either infinity infinite undefined pi sqrt frac times cdot even odd to from
"""
_NO_UNITS = frozenset(_OTHER_WORDS.split())
_PART = re.compile(
    r"(?P<word>°[CF](?![A-Za-z])|[A-Za-zΩ]++|[¤$°%¢€£¥₹])\s*+(?:\^\s*+\{?\s*+(?P<power>-?[1-4])\s*+\}?)?+"
)
_JOIN = re.compile(r"\s*+(?P<over>/|per(?![A-Za-z])|an?(?![A-Za-z])(?=\s))?+[\s*·]*+")


def unit(text: str) -> Unit | None:
    """The unit that a whole text means, or none: `km/h`, `m/s^2`, `square inches`, `°`, `miles per hour`, `apples`."""
    place, power_sign, factor = 0, 1, Fraction(1)
    powers: dict[str, int] = {}
    raised = 1
    num_words = 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            return None
        word = part["word"].rstrip()
        place = part.end()
        num_words += 1
        if num_words > 6:
            return None
        if word in _POWERS and part["power"] is None:
            raised = _POWERS[word]
        else:
            one = _UNITS.get(word) or _UNITS.get(word.lower() if len(word) > 2 else word) or _counted(word)
            if one is None:
                return None
            power = power_sign * raised * int(part["power"] or 1)
            factor *= one.factor**power
            for dimension, its_power in one.powers:
                powers[dimension] = powers.get(dimension, 0) + power * its_power
            raised = 1
        join = _JOIN.match(text, place)
        assert join is not None, "the pattern matches nothing too"
        place = join.end()
        if join["over"]:
            power_sign = -1
            if place >= len(text):
                return None
    if not num_words or raised != 1:
        return None
    return Unit(factor, tuple(sorted((name, power) for name, power in powers.items() if power)))


def _counted(word: str) -> Unit | None:
    """What is counted, in singular: apple and apples are one."""
    lower = word.lower()
    if len(lower) < 3 or lower in _NO_UNITS:
        return None
    return Unit(Fraction(1), ((f"of {lower.removesuffix('s')}", 1),))


def is_known(text: str) -> bool:
    """Whether the text begins with a unit of the table, and not with any word."""
    part = _PART.match(text)
    return part is not None and (part["word"] in _UNITS or part["word"] in _POWERS)
