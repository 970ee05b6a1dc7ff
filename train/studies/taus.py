"""`[calibrate]`: which values of tau are tried, on how many items, and from when on a value cites too much.

The paper calibrates tau on its training set (App. B.2); its grid begins at 0.5, where the student can write nothing but
what the privileged student finds likeliest. Ours goes below, where it has more freedom.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from dail.synth.core.config import Config

PAPERS = 0.8  # the paper's choice, for all its models
GRIDS: dict[str, tuple[float, ...]] = {
    "paper": (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999),
    "quick": (0.5, 0.7, 0.8, 0.9, 0.99),
    "ours": (0.05, 0.1, 0.2, 0.3, 0.4),
}
_WANTED = f"a number above 0, up to 1, or a grid's name ({', '.join(GRIDS)})"

Beside = Literal["direct", "student"]


def _parts(value: object) -> object:
    """A text with commas, as on a command line, is a list; what cannot be a tau is refused in our words."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple):
        value = [value]
    return [_part(part) for part in value]


def _part(part: object) -> object:
    if isinstance(part, str) and part in GRIDS:
        return part
    try:
        tau = float(part) if isinstance(part, str | int | float) and not isinstance(part, bool) else None
    except ValueError:
        tau = None
    if tau is None:
        raise ValueError(f"{part!r:.40} is no value of tau; wanted {_WANTED}")
    if not 0 < tau <= 1:
        raise ValueError(
            f"tau {tau:g} is outside 0 to 1; wanted {_WANTED}; at 0 the student writes alone, above 1 the privileged "
            "student: calibrate.beside draws these two"
        )
    return tau


Grid = Annotated[tuple[float | Literal["paper", "quick", "ours"], ...], BeforeValidator(_parts)]


class CalibrateConfig(Config):
    """`[calibrate]` of a config file. How traces are drawn, but for tau, is in `[synthesis]`."""

    grid: Grid = Field(
        ("ours", "paper"),
        description="values of tau: numbers, or the grids paper (15 values from 0.5), quick (five of them), ours "
        "(five below 0.5)",
    )
    beside: tuple[Beside, ...] = Field(
        ("direct",),
        description="what is drawn beside them, to compare with: direct, the privileged student alone (above tau 1); "
        "student, the student alone (tau 0), which shows how often the search for citations is mistaken",
    )
    items: int | None = Field(None, ge=1, description="how many of the expert solutions, by lot; all if left out")
    samples: int = Field(
        1, ge=1, le=256, description="traces of each at each value; synthesis.samples_per_item plays no part"
    )
    max_leak: float = Field(
        0.02,
        ge=0,
        le=1,
        description="largest share of traces that cite the solution or a hint; a value with more is not recommended",
    )

    @field_validator("grid")
    @classmethod
    def _holds_each_once(cls, grid: tuple[float | str, ...]) -> tuple[float | str, ...]:
        if not grid:
            raise ValueError(f"it is empty; give {_WANTED}")
        if twice := [one for one in grid if grid.count(one) > 1]:
            raise ValueError(f"{twice[0]} is named twice; name each value once")
        return grid

    @field_validator("beside")
    @classmethod
    def _is_named_once(cls, beside: tuple[Beside, ...]) -> tuple[Beside, ...]:
        if len(set(beside)) < len(beside):
            raise ValueError(f"{beside[0]} is named twice; name each once")
        return beside

    @property
    def taus(self) -> tuple[float, ...]:
        """The values in their order; one that is in two of the named grids is drawn once.

        >>> CalibrateConfig(grid=("quick", 0.2)).taus
        (0.2, 0.5, 0.7, 0.8, 0.9, 0.99)
        """
        each = [GRIDS[one] if isinstance(one, str) else (one,) for one in self.grid]
        return tuple(sorted({tau for taus in each for tau in taus}))
