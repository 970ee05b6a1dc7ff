"""`dail calibrate` for real: values on both sides of 0.5 and direct in one engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dail.synth.schema.manifest import read_rows
from dail.train.studies import Calibration
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS
from tests.flow.conftest import dail

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


def test_values_on_both_sides_of_one_half_are_drawn_by_one_engine(tmp_path: Path):
    done = dail(
        "calibrate", EXPERT_SOLUTIONS, "--model", DEMO_MODEL, "--config", "cpu-tiny", "--out", tmp_path, "--grid",
        "0.2,0.8", "--items", 3, "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = Calibration.model_validate(json.loads(done.stdout))
    lockstep, lazy, direct = found.arms
    assert [arm.figures and arm.figures.traces for arm in found.arms] == [3, 3, 3]
    strategies = [{row.strategy for row in read_rows(tmp_path / (arm.manifest or ""))} for arm in found.arms]
    assert strategies == [{"lockstep"}, {"lazy"}, {"direct"}]
    # a step that prefills a part of a prompt takes a row too
    assert 2 <= (lockstep.rows_per_token or 0) < 2.2
    assert 1 <= (direct.rows_per_token or 0) <= (lazy.rows_per_token or 0) < 1.5
    assert found.drawing and found.drawing.tokens_per_s > 0 and found.engines[0].startswith("vllm ")
    assert lazy.figures and lazy.figures.attributed == 1
    assert (tmp_path / "calibration.html").read_text("utf-8").count("<svg") == 4
