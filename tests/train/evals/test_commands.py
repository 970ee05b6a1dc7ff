"""`dail eval` from flags to eval.json, samples.jsonl and report.html."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from dail.synth import EngineConfig, Progress
from dail.synth.core.errors import DailError, UsageError
from dail.synth.engine.base import Engine, TokenSequence
from dail.synth.method.prompts import Prompts
from dail.synth.schema.models import ModelIdentity
from dail.train.evals import EvalConfig, drawing, run
from dail.train.evals import evaluate as evaluate_door
from dail.train.evals.commands import evaluate
from dail.train.evals.results import Evaluation
from tests.conftest import DEMO_MODEL, demo_lora
from tests.train.evals.conftest import HOSTILE, TableEngine, trace_row, write_adapter, write_manifest


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    groups = ("even", f"odd [x] $1 {HOSTILE}")
    lines = [
        {"id": f"p{n}", "problem": f"Say {n}.", "answer": n, "metadata": {"group": groups[n % 2]}} for n in range(6)
    ]
    path = tmp_path / "problems.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(autouse=True)
def table_engine(monkeypatch: pytest.MonkeyPatch, prompts: Prompts) -> None:
    """The base model is right about problem 0 and 1, the adapter half of the time about everything."""
    problem_of = {tuple(prompts.student_ids(f"Say {n}.")): n for n in range(6)}

    def answer(row: TokenSequence) -> list[int]:
        number = problem_of[tuple(row.prompt_ids)]
        right = row.seed % 2 == 0 if row.adapter else number < 2
        return prompts.tokenizer.encode(rf"{HOSTILE} \boxed{{{number if right else 77}}}", add_special_tokens=False)

    def engine(*_: Any) -> Engine:
        return TableEngine(answer)

    monkeypatch.setattr(run, "start_engine", engine)


def dail_eval(problems: Path, out: Path, *more: str, model: Path = DEMO_MODEL) -> Result:
    fixed = ["--model", str(model), "--problems", str(problems), "--out", str(out), "--samples", "4"]
    return CliRunner().invoke(evaluate, [*fixed, *more], catch_exceptions=False)


def test_the_threads_of_torch_are_told_not_to_spin(problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    seen: list[str | None] = []

    def load_tokenizer(*_: Any) -> Any:  # which imports torch
        seen.append(os.environ.get("OMP_WAIT_POLICY"))
        raise UsageError("enough")

    monkeypatch.setattr(run, "Prompts", load_tokenizer)
    with pytest.raises(UsageError, match="enough"):
        dail_eval(problems, tmp_path / "out")
    assert seen == ["PASSIVE"]


class Page(HTMLParser):
    """What a browser would see of the report."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.trace_pieces: list[str] = []
        self._in_token = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_token = "data-about" in dict(attrs)

    def handle_endtag(self, tag: str) -> None:
        self._in_token = False

    def handle_data(self, data: str) -> None:
        if self._in_token:
            self.trace_pieces.append(data)


class WellFormed(HTMLParser):
    """Whether each element that is opened is closed, in order, and which ids there are."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if len({name for name, _ in attrs}) < len(attrs):
            self.faults.append(f"{tag} has an attribute twice")
        if tag not in ("meta", "input", "br", "use", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag in ("path", "use"):
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} at {self.getpos()}")


def test_it_writes_what_it_says(problems: Path, trained: Path, tmp_path: Path) -> None:
    result = dail_eval(problems, tmp_path / "e", "--adapter", str(trained), "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    evaluation = Evaluation.model_validate_json(Path(said["eval"]).read_bytes())
    assert [group.group for group in evaluation.groups] == ["all problems", "even", f"odd [x] $1 {HOSTILE}"]
    assert evaluation.groups[0].passes["base"][0].mean == pytest.approx(2 / 6)
    assert evaluation.problems[0].num_correct["base"] == 4 and evaluation.engines == ("table 1",)
    assert len(Path(said["samples"]).read_text().splitlines()) == 48
    assert {p.name for p in (tmp_path / "e").iterdir()} == {"eval.json", "samples.jsonl", "report.html"}


def test_the_tables_show_base_and_adapter_by_group(problems: Path, trained: Path, tmp_path: Path) -> None:
    said = dail_eval(problems, tmp_path / "e", "--adapter", str(trained)).stdout
    assert "all problems, 6 problems: pass@k in %" in said and "odd [x] $1" in said
    assert "33.3" in said and "adapter − base" in said


def test_the_report_stands_alone_and_runs_nothing(problems: Path, trained: Path, tmp_path: Path) -> None:
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    page = Page(html)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "<style>" in html and html.count("<style") == 1
    assert not re.search(r"@import|url\((?!#)", html)
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("href", "src", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and policy.startswith("default-src 'none'; style-src-elem 'sha256-")


def test_the_report_shows_curves_and_who_wrote_which_token(problems: Path, trained: Path, tmp_path: Path) -> None:
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    page = Page(html)
    assert [a["aria-label"] for tag, a in page.tags if tag == "svg"] == [
        "pass@k of base and adapter, all problems",
        "pass@k of base and adapter, even",
        f"pass@k of base and adapter, odd [x] $1 {HOSTILE}",
        "loss of the training run over its steps",
        "gap of the training run over its steps",
    ]
    tokens = [a for _, a in page.tags if "data-about" in a]
    assert {"s10", "s0", "s3", "unknown"} <= {(a["class"] or "").split()[0] for a in tokens}
    assert "written by the student with probability ≈ 0.30" in (tokens[2]["data-about"] or "")
    assert "the student wrote ≈ " in html and "by the student</dt><dd>≈ " in html
    assert f"{HOSTILE} so \\boxed{{0}}." in "".join(page.trace_pieces)
    for shown in ("gamma", "from tau 0.8, raw probabilities", "2026-11-21 12:00 UTC", "554"):
        assert shown in html


def test_the_report_shows_completions_of_both_right_and_wrong_and_says_how_they_were_chosen(
    problems: Path, trained: Path, tmp_path: Path
) -> None:
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    said = re.findall(r"</i>(base|adapter), sample (\d): <b class=\"(\w+)\">\w+</b>, <code>(\d+)</code>", html)
    assert {(who, outcome) for who, _, outcome, _ in said} == {
        ("base", "right"), ("base", "wrong"), ("adapter", "right"), ("adapter", "wrong")
    }  # fmt: skip
    assert [one for one in said if one[0] == "base"][:2] == [("base", "0", "right", "0"), ("base", "0", "right", "1")]
    assert "Every problem, and of each the first completion" in html and "samples.jsonl has all 48" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; <math>" in html and "as it was written" in html


def test_the_report_shows_a_refused_proposal_at_its_token(
    problems: Path, trained: Path, tmp_path: Path, prompts: Prompts, model: ModelIdentity
) -> None:
    (refused,) = prompts.tokenizer.encode("9", add_special_tokens=False)
    row = trace_row(prompts, model, 1, (1.0, 0.0))
    row = row.model_copy(update={"rejected_ids": (None, refused, *row.rejected_ids[2:])})
    write_manifest(tmp_path / "again", [row], model).replace(tmp_path / "out" / "manifests" / "batch-1" / "v1.json")
    shutil.copytree(tmp_path / "again" / "shards", tmp_path / "out" / "shards", dirs_exist_ok=True)
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    page = Page(html := (tmp_path / "e" / "report.html").read_text("utf-8"))
    tokens = [a for _, a in page.tags if "data-about" in a]
    assert "the student proposed “9”, which was refused" in (tokens[1]["data-about"] or "")
    assert ["refused" in (token["class"] or "") for token in tokens[:3]] == [False, True, False]
    assert "1 proposals of the student were refused" in html


def test_tokens_are_one_stop_of_the_keyboard_a_trace(problems: Path, trained: Path, tmp_path: Path) -> None:
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    page = Page((tmp_path / "e" / "report.html").read_text("utf-8"))
    buttons = [a for tag, a in page.tags if tag == "input"]
    assert {button["type"] for button in buttons} == {"radio"}
    assert len(buttons) == len([a for _, a in page.tags if "data-about" in a])
    assert len({button["name"] for button in buttons}) == 12


def test_the_report_is_well_formed(problems: Path, trained: Path, tmp_path: Path) -> None:
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    checked = WellFormed()
    checked.feed(html)
    assert checked.open == [] and checked.faults == []
    assert len(checked.ids) == len(set(checked.ids)) > 20


def test_no_type_of_the_report_is_smaller_than_14_pixels(problems: Path, trained: Path, tmp_path: Path) -> None:
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    style = html[html.index("<style>") : html.index("</style>")]
    sizes = [float(size) for size in re.findall(r"font(?:-size)?:[^;}]*?([0-9.]+)rem", style)]
    assert len(sizes) > 10 and min(sizes) >= 0.875
    # inside charts a unit is 1/72 inch, of 96 pixels
    of_charts = [
        float(size) * 96 / 72
        for size in re.findall(r"font: ([0-9.]+)px|font-size: ([0-9.]+)px", html)
        for size in size
        if size
    ]
    assert of_charts and min(of_charts) >= 14
    assert "max-height" not in style and "white-space: nowrap" not in style


def test_the_report_names_a_user_s_objective_by_its_source(problems: Path, trained: Path, tmp_path: Path) -> None:
    provenance = json.loads((trained / "dail.json").read_text())
    provenance["run"]["config"]["objective"] = "/home/me/mine.py:forward_kl#0123456789abcdef"
    (trained / "dail.json").write_text(json.dumps(provenance))
    dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "forward_kl#0123456789abcdef" in html and "/home/me" not in html


@pytest.mark.parametrize("is_foreign", [True, False])
def test_an_adapter_whose_run_is_gone_is_reported_with_notes(
    problems: Path, tmp_path: Path, model: ModelIdentity, is_foreign: bool
) -> None:
    provenance = None if is_foreign else {"run": {"model": model.model_dump(), "manifest": "gone/v1.json"}}
    folder = write_adapter(tmp_path / "foreign", provenance)
    assert dail_eval(problems, tmp_path / "e", "--adapter", str(folder)).exit_code == 0
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "no traces." in html and "no training curves." in html


def test_a_damaged_shard_costs_the_traces_and_not_the_report(problems: Path, trained: Path, tmp_path: Path) -> None:
    next((tmp_path / "out").glob("shards/*/*.parquet")).write_bytes(b"PAR1")
    assert dail_eval(problems, tmp_path / "e", "--adapter", str(trained)).exit_code == 0
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "No traces: shard" in html and "is damaged" in html


def test_the_base_model_alone_has_no_difference(problems: Path, tmp_path: Path) -> None:
    said = dail_eval(problems, tmp_path / "e").stdout
    assert "adapter" not in said
    html = (tmp_path / "e" / "report.html").read_text("utf-8")
    assert "adapter − base" not in html and 'class="note"' not in html


def test_an_adapter_that_does_not_fit_is_refused_before_the_engine_starts(
    problems: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_engine(*_: Any) -> Engine:
        raise AssertionError("the engine was started")

    monkeypatch.setattr(run, "start_engine", no_engine)
    (trained / "adapter_model.safetensors").write_bytes(demo_lora(rank=8))
    with pytest.raises(UsageError, match=r"q_proj.lora_A.weight has rank 8 .* and adapter_config.json says 4"):
        dail_eval(problems, tmp_path / "e", "--adapter", str(trained))


@pytest.mark.parametrize("cut_config", [False, True])
def test_what_no_engine_of_the_model_can_hold_is_refused_before_one_starts(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut_config: bool
) -> None:
    def no_engine(*_: Any) -> Engine:
        raise DailError("the engine was started")

    for module in (run, drawing):
        monkeypatch.setattr(module, "start_engine", no_engine)
    folder = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    if cut_config:  # the engine will say
        config = json.loads((folder / "config.json").read_text())
        del config["num_attention_heads"]
        (folder / "config.json").write_text(json.dumps(config))
    wanted = "the engine was started" if cut_config else r"leaves \d+ of the engine's for the completion, wanted 3000"
    with pytest.raises(DailError, match=wanted):
        dail_eval(problems, tmp_path / "e", "--max-tokens", "3000", model=folder)


def test_settings_reach_the_engine_and_unknown_ones_are_refused(problems: Path, tmp_path: Path) -> None:
    from dail.synth.core.errors import UsageError

    dail_eval(problems, tmp_path / "e", "--set", "engine.rows=8", "--temperature", "1", "--seed", "5")
    settings = Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes()).settings
    assert (settings.engine.rows, settings.temperature, settings.seed) == (8, 1.0, 5)
    with pytest.raises(UsageError, match=r"did you mean engine\.rows\?"):
        dail_eval(problems, tmp_path / "e", "--set", "engine.rowz=8")


def test_a_config_file_is_read_and_flags_win(problems: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[engine]\nrows = 8\n[eval]\nsamples = 3\nmax_tokens = 9\nseed = 4\n[train]\nepochs = 2\n")
    dail_eval(problems, tmp_path / "e", "--config", str(file), "--seed", "5")
    settings = Evaluation.model_validate_json((tmp_path / "e" / "eval.json").read_bytes()).settings
    assert (settings.engine.rows, settings.max_tokens, settings.samples, settings.seed) == (8, 9, 4, 5)


def test_an_adapter_that_changes_nothing_is_warned_of(
    problems: Path, tmp_path: Path, trained: Path, prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = prompts.tokenizer.encode(r"\boxed{1}", add_special_tokens=False)
    monkeypatch.setattr(run, "start_engine", lambda *_: TableEngine(lambda row: same))
    result = dail_eval(problems, tmp_path / "e", "--adapter", str(trained))
    assert "warning: All 24 completions of the adapter equal" in result.stderr
    assert "may not have been applied" in (tmp_path / "e" / "report.html").read_text("utf-8")


def test_the_door_gives_the_same_in_a_running_loop_and_is_silent(
    problems: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[Progress] = []

    async def cell() -> Evaluation:
        config = EvalConfig(engine=EngineConfig(model=DEMO_MODEL), samples=4)
        return evaluate_door(problems, tmp_path / "door", trained, config, on_progress=seen.append)

    found = asyncio.run(cell())
    assert capfd.readouterr() == ("", "")
    assert [(one.title, one.done) for one in seen if one.done == one.total] == [("sampling", 48), ("judging", 48)]
    dail_eval(problems, tmp_path / "verb", "--adapter", str(trained))
    verb = Evaluation.model_validate_json((tmp_path / "verb" / "eval.json").read_bytes())
    assert (found.groups, found.problems, found.subjects) == (verb.groups, verb.problems, verb.subjects)
    assert {p.name for p in (tmp_path / "door").iterdir()} == {"eval.json", "samples.jsonl", "report.html"}
