"""DAIL beside its controls: names, gains, the part that is explained, and what cannot be compared."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.synth.config import EngineConfig
from dail.synth.core.errors import UsageError
from dail.synth.schema.controls import CONTROLS
from dail.synth.schema.models import ModelIdentity
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.evals.commands import compare
from dail.train.evals.config import EvalConfig
from dail.train.evals.controls import Comparison, compare_runs, findings
from dail.train.evals.results import AdapterRef, Evaluation, Judgement, ProblemResult, SubjectRef, by_group, summarise
from dail.train.record import Provenance, RunRecord
from tests.conftest import DEMO_MODEL
from tests.train.evals.conftest import HOSTILE, NOW, arm_refs

SAMPLES = 4
Write = Callable[..., Path]


def problem(number: int, chances: dict[str, float]) -> ProblemResult:
    """Base and adapter, each right so often; base draws the same in every run."""
    right = {
        who: sum(random.Random(f"{who} {chance} {number} {n}").random() < chance for n in range(SAMPLES))
        for who, chance in chances.items()
    }
    judgements = {
        who: tuple(
            Judgement(sample=n, correct=n < count, method="exact", extracted="1", num_tokens=9, finish_reason="stop")
            for n in range(SAMPLES)
        )
        for who, count in right.items()
    }
    return ProblemResult(id=f"p{number}", group=None, answer="1", num_correct=right, judgements=judgements)


@pytest.fixture
def write(tmp_path: Path, model: ModelIdentity) -> Write:
    """Writes the eval.json of an adapter that is right with a chance, trained on traces of these settings."""

    def make(
        name: str,
        adapter: float | None,
        *,
        train: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        changes: dict[str, Any] | None = None,
        **synthesis: Any,
    ) -> Path:
        record = RunRecord(
            config=TrainConfig(**(train or {})), model=model, model_folder="m", manifest="m",
            manifest_digest="sha256:0",
            batch_id="b", synthesis=Synthesis(**synthesis), started_at=NOW,
        )  # fmt: skip
        trained = Provenance(run=record, fingerprint="f", steps=1, metrics="m", finished_at=NOW)
        chances = {"base": 0.3} | ({"adapter": adapter} if adapter is not None else {})
        problems = tuple(problem(n, chances) for n in range(60))
        config = EvalConfig(engine=EngineConfig(model=DEMO_MODEL), samples=SAMPLES, **(settings or {}))
        ref = AdapterRef(folder=name, rank=4, digest="sha256:1", provenance=trained)
        subjects = (SubjectRef(name="base", model=model), SubjectRef(name="adapter", model=model, adapter=ref))
        arms = arm_refs(*chances, temperature=config.temperature)
        evaluation = Evaluation(
            settings=config,
            subjects=subjects[: len(chances)], arms=arms, problems_file=None, problems_digest="sha256:0",
            engines=("table",), versions={},
            started_at=NOW, finished_at=NOW, groups=by_group(problems, arms, config),
            summary=summarise(problems, "math"), num_same_text={}, problems=problems,
        )  # fmt: skip
        (tmp_path / name).mkdir()
        text = evaluation.model_copy(update=changes or {}).model_dump_json()
        (tmp_path / name / "eval.json").write_text(text)
        return tmp_path / name

    return make


def dail_compare(*arguments: object) -> Result:
    return CliRunner().invoke(compare, [str(one) for one in arguments], catch_exceptions=False)


def test_each_control_has_its_name_and_the_part_that_it_explains(write: Write):
    dail = write("dail", 0.8)
    found = compare_runs(
        dail,
        [
            write("a", 0.3, shown="nothing"),
            write("b", 0.55, shown="other_solution"),
            write("c", 0.8, waypoints_from="other"),
            write("d", 0.3, method="student", train={"objective": "nll"}),
        ],
    )
    assert [one.name for one in found.controls] == list(CONTROLS)
    assert not any(one.differs for one in found.controls)
    nothing, half, all_, _ = found.controls
    assert nothing.explained is not None and abs(nothing.explained) < 0.2
    assert half.explained is not None and 0.3 < half.explained < 0.7 and half.low and half.high
    assert half.low < 0.5 < half.high and half.high - half.low < 0.5
    assert (all_.explained, all_.low, all_.high) == (1, 1, 1)  # these draws are DAIL's own
    assert "which is 100 % (100 to 100 %) of DAIL's gain" in findings(found)[3]


def test_the_interval_of_the_part_holds_the_true_one_in_most_of_many_worlds(tmp_path: Path, model: ModelIdentity):
    """Control and DAIL gain on the same problems: one half of the other's gain."""
    from dail.train.evals.controls import RunGain, _explained

    blank = RunGain(name="", folder="", base=0, adapter=0, gain=0, gain_low=0, gain_high=0)
    held = 0
    for world in range(200):
        draw = random.Random(world)
        own = [draw.choice((0.0, 0.25, 0.5, 1.0)) for _ in range(60)]
        its = [gain / 2 + draw.gauss(0, 0.1) for gain in own]
        part = _explained(blank, own, its)
        held += part.low is not None and part.high is not None and part.low < 0.5 < part.high
    assert 180 <= held < 200


@pytest.mark.parametrize(("adapter", "says"), [(0.32, "within noise"), (0.05, "DAIL itself lost")])
def test_without_a_clear_gain_no_part_is_told(write: Write, adapter: float, says: str):
    found = compare_runs(write("dail", adapter), [write("a", 0.5, shown="nothing")])
    (control,) = found.controls
    assert control.explained is None and control.low is None and says in control.note
    assert says in findings(found)[1] and "%" not in findings(found)[1]


def test_what_differs_beside_the_control_is_named(write: Write):
    other = write("a", 0.5, shown="nothing", tau=0.5, train={"lr": 1e-3})
    (control,) = compare_runs(write("dail", 0.8), [other]).controls
    assert control.differs == ("synthesis.tau 0.5 instead of 0.8", "train.lr 0.001 instead of 0.0002")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"settings": {"temperature": 1.0}}, "temperature 1.0 there, 0.6 here"),
        ({"settings": {"seed": 1}}, "seed 1 there, 0 here"),
        ({"settings": {"grader": "official"}}, "grader official there, math here"),
        ({"changes": {"problems_digest": "sha256:1"}}, "problems sha256:1 there, sha256:0 here"),
    ],
)
def test_what_was_judged_otherwise_is_refused_by_name(write: Write, more: dict[str, Any], says: str):
    with pytest.raises(UsageError, match=rf"cannot be compared .*{says}"):
        compare_runs(write("dail", 0.8), [write("a", 0.5, shown="nothing", **more)])


def test_runs_in_the_wrong_place_or_without_an_adapter_are_refused(write: Write, tmp_path: Path):
    dail, control, bare = write("dail", 0.8), write("a", 0.5, shown="nothing"), write("bare", None)
    strange = write("strange", 0.5)
    told = json.loads((strange / "eval.json").read_text())
    told["subjects"][1]["adapter"]["provenance"] = None
    (strange / "eval.json").write_text(json.dumps(told))
    (tmp_path / "torn").write_text("{")
    for runs, says in [
        ((control, [dail]), r"is a control \(no_solution\)"),
        ((dail, [write("again", 0.8)]), "is no control"),
        ((dail, [bare]), "judges no adapter"),
        ((dail, [strange]), "nobody knows which control"),
        ((dail, [tmp_path / "torn"]), "is no eval.json"),
        ((dail, [tmp_path / "none"]), "cannot be read"),
        ((dail, []), "one evaluation alone"),
    ]:
        with pytest.raises(UsageError, match=says):
            compare_runs(*runs)


def test_the_verb_prints_a_table_or_json_and_writes_a_page(write: Write, tmp_path: Path):
    runs = write("dail", 0.8), write(f"a {HOSTILE.replace('/', '')}", 0.55, shown="other_solution", tau=0.5)
    shown = dail_compare(*runs, "--out", tmp_path / "controls.html")
    assert "other_solution" in shown.stdout and "part of DAIL's" in shown.stdout
    assert "differs from DAIL in more than the control: synthesis.tau" in shown.stderr
    page = (tmp_path / "controls.html").read_text("utf-8")
    assert "<script" not in page and "&lt;script" in page and "the solution of another problem is shown" in page
    said = dail_compare(*runs, "--json")
    assert Comparison.model_validate_json(said.stdout).controls[0].name == "other_solution"
