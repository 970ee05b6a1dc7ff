"""`dail calibrate` from items to figures, recommendation and page; killed, resumed, repeated; and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import DailError, UsageError
from dail.synth.core.running import Stop
from dail.synth.run import local
from dail.synth.schema.manifest import read_manifest
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import Unit
from dail.train.studies.calibrate_commands import calibrate as verb
from dail.train.studies.calibration import calibrate
from dail.train.studies.calibration_page import marked, place
from dail.train.studies.calibration_record import Arm, Calibration
from dail.train.studies.taus import CalibrateConfig
from tests.conftest import DEMO_MODEL
from tests.synth.run.scripted import Scripted, Write

HOSTILE = "<script>alert(1)</script>"
LEAK = "As the reference solution says: "


def items(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "id": f"i{n:02d}",
            "problem": f"Turn A {n}. {HOSTILE}",
            "solution": f"It shows {n}.",
            "answer": str(n),
            **fields,
        }
        for n in range(count)
    ]


def wrote(unit: Unit) -> str | None:
    """At 0.2 every second item is right, at 0.8 all but the first two, at 0.99 and direct all, with a citation."""
    number, tau, method = int(unit.item_id[1:]), unit.synthesis.tau, unit.synthesis.method
    if method != "mixed" or tau > 0.9:
        return rf"{LEAK}wait, it is \boxed{{{number}}}. {HOSTILE}"
    right = number % 2 == 0 if tau < 0.5 else number > 1
    return rf"It is \boxed{{{number if right else 999}}}."


Run = Callable[..., Calibration]


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(write: Write = wrote, count: int = 24, grid: Any = (0.2, 0.8, 0.99), **settings: Any) -> Calibration:
        monkeypatch.setattr(local, "run_worker", Scripted(write))
        config = CalibrateConfig.model_validate({"grid": grid, **settings})
        found = calibrate(items(count), tmp_path / "out", config, Synthesis(max_tokens=256), model=DEMO_MODEL)
        assert found is not None
        return found

    return run


def arms(found: Calibration) -> dict[str, Arm]:
    return {arm.name: arm for arm in found.arms}


def test_the_figures_of_each_value_and_what_is_recommended(calibrated: Run, tmp_path: Path):
    found = calibrated()
    by_name = arms(found)
    assert list(by_name) == ["tau 0.2", "tau 0.8", "tau 0.99", "direct"]
    figures = {name: arm.figures for name, arm in by_name.items() if arm.figures}
    correct = {name: one.correct.value for name, one in figures.items() if one.correct}
    assert correct == pytest.approx({"tau 0.2": 0.5, "tau 0.8": 22 / 24, "tau 0.99": 1.0, "direct": 1.0})
    assert {name: one.leak.value for name, one in figures.items()} == {
        "tau 0.2": 0, "tau 0.8": 0, "tau 0.99": 1, "direct": 1
    }  # fmt: skip
    share = figures["tau 0.2"].student_share
    assert share and share.value == pytest.approx(0.8)
    assert figures["direct"].student_share and figures["direct"].student_share.value == 0
    assert figures["tau 0.8"].markers.value == 0 < (figures["tau 0.8"].markers.high or 0)
    direct = figures["direct"]
    assert direct.markers.value == pytest.approx(1000 * 24 / direct.tokens) and direct.length.value > 1
    assert (by_name["tau 0.8"].rows_per_token, by_name["tau 0.8"].failed) == (2, 0)
    assert sum(arm.share_of_rows or 0 for arm in found.arms) == pytest.approx(1)
    assert (found.recommendation.tau, found.recommendation.decided) == (0.8, True)
    assert [one.tau for one in found.recommendation.excluded] == [0.99]
    assert (found.items.all, found.items.drawn, found.items.verifiable, found.engines) == (24, 24, 24, ("scripted 1",))
    written = (tmp_path / "out" / "calibration.json").read_text("utf-8")
    assert Calibration.model_validate_json(written) == found
    manifest = read_manifest(tmp_path / "out" / (by_name["tau 0.8"].manifest or ""))
    assert (manifest.synthesis.tau, manifest.rows) == (0.8, 24)


def test_a_run_that_was_killed_goes_on_and_one_that_is_whole_is_not_drawn_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def run(worker: Scripted) -> Calibration | None:
        monkeypatch.setattr(local, "run_worker", worker)
        config = CalibrateConfig(grid=(0.2, 0.8))
        return calibrate(items(4), tmp_path, config, Synthesis(max_tokens=256), model=DEMO_MODEL)

    killed, rest, nothing = Scripted(wrote, most=5), Scripted(wrote), Scripted(wrote, most=0)
    with pytest.raises(KeyboardInterrupt):
        run(killed)
    assert not (tmp_path / "calibration.json").exists()
    with (tmp_path / "ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"batch_id": "half a li')
    after, again = run(rest), run(nothing)
    assert len(killed.done) + len(rest.done) == 12 and not nothing.done
    assert {unit.unit_id for unit in killed.done}.isdisjoint(unit.unit_id for unit in rest.done)
    assert after and again and after.arms == again.arms and after.recommendation == again.recommendation
    assert after.drawing is None  # two calls drew it


def test_more_values_later_draw_those_alone(calibrated: Run, monkeypatch: pytest.MonkeyPatch):
    first = calibrated(grid=(0.8,), count=3)
    assert first.drawing and first.drawing.tokens > 0
    worker = Scripted(wrote)
    assert calibrated(worker.write, grid=(0.8,), count=3).drawing == first.drawing
    both = calibrated(grid=(0.2, 0.8), count=3)
    assert arms(both)["tau 0.8"] == arms(first)["tau 0.8"].model_copy(
        update={"share_of_rows": arms(both)["tau 0.8"].share_of_rows}
    )


def test_a_run_that_is_stopped_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "run_worker", Scripted(wrote))
    stop = Stop()
    stop.set()
    assert calibrate(items(2), tmp_path, model=DEMO_MODEL, stop=stop) is None


def test_items_are_drawn_by_lot_and_the_same_at_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "run_worker", worker := Scripted(wrote))
    config = CalibrateConfig(grid=(0.2, 0.8), items=5, samples=2)
    for seed in (0, 1):
        calibrate(items(16), tmp_path, config, Synthesis(max_tokens=256, seed=seed), model=DEMO_MODEL)
    drawn = [
        {unit.item_id for unit in worker.done if (unit.synthesis.seed, unit.synthesis.tau) == (seed, tau)}
        for seed in (0, 1)
        for tau in (0.2, 0.8)
    ]
    assert len(drawn[0]) == 5 and drawn[0] == drawn[1] != drawn[2] == drawn[3]
    assert drawn[0] != {f"i{n:02d}" for n in range(5)}
    assert len(worker.done) == 2 * 3 * 5 * 2


def test_proofs_are_measured_and_not_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "run_worker", Scripted(wrote))
    proofs = [{**one, "id": f"i{n + 50}", "kind": "proof"} for n, one in enumerate(items(3))]
    mixed = [*items(2), *({**one, "problem": f"Prove {one['id']}."} for one in proofs)]
    found = calibrate(mixed, tmp_path, CalibrateConfig(grid=(0.99,)), Synthesis(max_tokens=256), model=DEMO_MODEL)
    assert found is not None
    figures = found.arms[0].figures
    assert (found.items.verifiable, found.items.drawn) == (2, 5)
    assert figures and (figures.traces, figures.judged, figures.leak.value) == (5, 2, 1)


def test_cut_traces_and_those_that_failed_are_told(calibrated: Run):
    found = calibrated(lambda unit: None if unit.item_id == "i00" else rf"\boxed{{{int(unit.item_id[1:])}}} …", count=3)
    assert all(arm.failed == 1 and arm.figures and arm.figures.cut.value == 1 for arm in found.arms)
    assert not found.recommendation.decided
    assert found.recommendation.reason[0] == "Nothing can be told: no trace of any value is correct."
    told = " ".join(found.notes)
    assert "More than a tenth of the traces were cut" in told and "4 traces could not be drawn" in told
    assert "Only 3 items can be judged" in told


def test_a_value_whose_traces_all_failed_is_none(calibrated: Run):
    found = calibrated(lambda unit: None if unit.synthesis.tau == 0.2 else wrote(unit), count=3)
    assert (arms(found)["tau 0.2"].figures, arms(found)["tau 0.2"].manifest) == (None, None)


def test_no_trace_at_all_is_an_error_that_says_why(calibrated: Run):
    with pytest.raises(DailError, match="no trace could be drawn at any value; the first failure: it cannot be drawn"):
        calibrated(lambda _: None, count=2)


def test_the_page_is_whole_and_runs_nothing(calibrated: Run, tmp_path: Path):
    calibrated(beside=("direct", "student"), count=6)
    page = (tmp_path / "out" / "calibration.html").read_text("utf-8")
    tags: list[str] = []

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs)

    Parser().feed(page)
    assert "script" not in tags and "img" not in tags and "link" not in tags
    assert tags.count("svg") == 4 and tags.count("mark") >= 2
    assert "As <mark>the reference solution</mark> says: wait, it is" in page and HOSTILE not in page
    assert "&lt;script&gt;" in page and "default-src &#39;none&#39;" in page


@pytest.mark.parametrize(
    ("text", "phrases", "marks"),
    [
        ("nothing", [], []),
        ("By the HINT it is 1", ["by the hint"], ["By the HINT"]),
        ("the\n**solution** says", ["the solution says"], ["the\n**solution** says"]),
        ("a (b] c", ["a (b]"], ["a (b]"]),
        ("per the hint, by the hint", ["the hint", "per the hint"], ["per the hint", "the hint"]),
    ],
)
def test_what_cites_is_marked_where_it_stands(text: str, phrases: list[str], marks: list[str]):
    pieces = marked(text, phrases)
    assert "".join(piece for piece, _ in pieces) == text
    assert [piece for piece, is_marked in pieces if is_marked] == marks


def test_the_axis_keeps_high_values_apart():
    taus = [0.05, 0.4, 0.5, 0.55, 0.9, 0.99, 0.999, 0.9995, 0.9999, 1.0]
    places = [place(tau) for tau in taus]
    assert places == sorted(places) and min(b - a for a, b in pairwise(places)) > 0.01
    assert place(0.9999) - place(0.99) > 0.5


@pytest.mark.parametrize(
    ("synthesis", "why"),
    [
        ({"method": "direct"}, "synthesis.method is direct, and tau plays a part in mixed rollouts alone"),
        ({"method": "expert"}, "synthesis.method is expert"),
        ({"acceptance": "topk"}, "synthesis.acceptance is topk"),
        ({"enough": "first_correct", "samples_per_item": 4}, "synthesis.enough is first_correct"),
    ],
)
def test_settings_under_which_tau_tells_nothing_are_refused(synthesis: dict[str, Any], why: str, tmp_path: Path):
    with pytest.raises(UsageError, match=why):
        calibrate(items(1), tmp_path / "out", synthesis=Synthesis.model_validate(synthesis), model=DEMO_MODEL)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fields", [{"answer": None}, {"answer": "none"}, {"kind": "proof"}])
def test_items_of_which_none_can_be_judged_are_refused(fields: dict[str, Any], tmp_path: Path):
    with pytest.raises(UsageError, match="no item of the 2 drawn on has an answer that a trace could be held against"):
        calibrate(items(2, **fields), tmp_path / "out", model=DEMO_MODEL)
    assert not (tmp_path / "out").exists()


def dail(folder: Path, *more: str) -> Result:
    path = folder / "items.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in items(3)))
    fixed = [str(path), "--out", str(folder / "out"), "--model", str(DEMO_MODEL), "--config", "cpu-tiny"]
    return CliRunner().invoke(verb, [*fixed, *more], standalone_mode=False)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--grid", "0"], "calibrate.grid: tau 0 is outside 0 to 1"),
        (["--grid", ""], "calibrate.grid: '' is no value of tau"),
        (["--grid", "0.5,0.5"], "0.5 is named twice"),
        (["--set", "grid=[]"], "it is empty"),
        (["--samples", "0"], "calibrate.samples"),
        (["--items", "0"], "calibrate.items"),
        (["--set", "tau=0.9"], "--set synthesis.tau plays no part in `dail calibrate`; say --grid instead"),
        (["--set", "samples_per_item=4"], "say --samples instead"),
        (["--set", "synthesis.method=direct"], "synthesis.method is direct"),
    ],
)
def test_the_verb_refuses_before_it_reads_anything(arguments: list[str], why: str, tmp_path: Path):
    result = dail(tmp_path, *arguments)
    assert isinstance(result.exception, UsageError) and why in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_the_verb_prints_a_table_or_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "run_worker", Scripted(wrote))
    table = dail(tmp_path, "--grid", "0.2,0.8")
    assert (table.return_value, table.exception) == (0, None)
    assert re.search(r"0\.8 +33\.3 +0\.0 +20\.0 +0\.00", table.stdout)
    record = dail(tmp_path, "--grid", "0.2,0.8", "--json")
    assert Calibration.model_validate_json(record.stdout).settings.grid == (0.2, 0.8)
    assert "Nothing can be told" in record.stderr and "calibration.html shows it all" in record.stderr


def test_the_verb_tells_by_its_exit_code_that_some_traces_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "run_worker", Scripted(lambda unit: None if unit.item_id == "i00" else wrote(unit)))
    assert dail(tmp_path, "--grid", "0.8").return_value == 3


def test_the_engine_s_settings_are_kept(calibrated: Run):
    found = calibrated(count=2, grid=(0.8,))
    assert found.worker == SynthConfig(engine=EngineConfig(model=DEMO_MODEL))
