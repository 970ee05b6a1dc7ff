"""Which values of tau a grid names, and which it refuses."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from dail.train.studies.taus import GRIDS, CalibrateConfig


def test_the_paper_s_grid_is_appendix_b_2_s_and_ours_lies_below_it():
    paper = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9995, 0.9999)
    assert GRIDS["paper"] == paper
    assert set(GRIDS["quick"]) < set(paper) and max(GRIDS["ours"]) < 0.5
    assert CalibrateConfig().taus == (*GRIDS["ours"], *paper)


@pytest.mark.parametrize(
    ("grid", "taus"),
    [
        ("0.8", (0.8,)),
        ("0.9, 0.1", (0.1, 0.9)),
        (0.5, (0.5,)),
        (1, (1.0,)),
        ("1e-3", (0.001,)),
        (["quick", 0.2], (0.2, *GRIDS["quick"])),
        ("quick,paper", GRIDS["paper"]),  # the first is part of the second
        ("quick,0.8", GRIDS["quick"]),
    ],
)
def test_a_grid_is_numbers_and_names_in_any_order(grid: object, taus: tuple[float, ...]):
    assert CalibrateConfig.model_validate({"grid": grid}).taus == taus


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        ("0", "tau 0 is outside 0 to 1"),
        ("1.5", "tau 1.5 is outside 0 to 1.*calibrate.beside draws these two"),
        (-0.2, "outside"),
        ("nan", "outside"),
        ("inf", "outside"),
        ("papers", "'papers' is no value of tau; wanted a number above 0, up to 1, or a grid's name"),
        ("0.5,,0.6", "'' is no value of tau"),
        ("", "'' is no value of tau"),
        ([], "it is empty"),
        ([True], "True is no value of tau"),
        ([None], "None is no value of tau"),
        ([[0.5]], "is no value of tau"),
        ("0.5,0.50", "0.5 is named twice"),
        ("paper,paper", "paper is named twice"),
    ],
)
def test_what_is_no_grid_is_refused(grid: object, why: str):
    with pytest.raises(ValidationError, match=why):
        CalibrateConfig.model_validate({"grid": grid})


@pytest.mark.parametrize(
    "settings",
    [{"samples": 0}, {"items": 0}, {"beside": ("direct", "direct")}, {"beside": ("expert",)}, {"max_leak": 2}],
)
def test_other_settings_have_bounds(settings: dict[str, object]):
    with pytest.raises(ValidationError):
        CalibrateConfig.model_validate(settings)
