"""`dail doctor`: what it shows, what it forecasts, and how it ends."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import UsageError
from dail.synth.data.reader import load_items
from dail.synth.engine.sizing import Device
from dail.synth.engine.versions import Choices
from dail.synth.method.prompts import Prompts
from dail.synth.run import doctor
from dail.synth.run.doctor import Trainer, describe, examine
from dail.synth.run.preview import Forecast, Preview, PreviewTrace, forecast, spread
from dail.synth.schema.synthesis import Synthesis
from tests.conftest import DEMO_MODEL, EXPERT_SOLUTIONS, OLYMPIAD, ROOT
from tests.synth.engine.test_versions import pretend

FAKE = SynthConfig(engine=EngineConfig(model=DEMO_MODEL, kind="fake"))
SHORT = Synthesis(thinking=False, max_tokens=40)


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """The command as people run it: exit code, its JSON, and standard error."""
    command = [str(Path(os.environ.get("VENV", ROOT / ".venv")) / "bin" / "dail"), "doctor", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def trace(tokens: int) -> PreviewTrace:
    return PreviewTrace(
        item_id="i", tokens=tokens, student_share=0.5, finish_reason="stop", shard_bytes=10 * tokens, text=""
    )


def a_preview(*lengths: int, engines: int = 1) -> Preview:
    return Preview(
        engine="fake",
        num_engines=engines,
        rows=8,
        step_tokens=64,
        model_tokens=100,
        kv_tokens=1000,
        start_s=1.0,
        draw_s=2.0,
        tokens_per_s=50.0,
        traces=tuple(map(trace, lengths)),
        failed={},
    )


def with_a_bad_item(folder: Path) -> Path:
    lines = EXPERT_SOLUTIONS.read_text("utf-8").splitlines()[:6]
    bad = {"id": "endless", "problem": "Turn A.", "solution": "turn " * 5000, "answer": "1"}
    path = folder / "items.jsonl"
    path.write_text("\n".join([*lines, json.dumps(bad)]), "utf-8")
    return path


def test_items_of_a_preview_lie_evenly_over_the_file() -> None:
    assert spread(1000) == [0, 249, 499, 749, 999]
    assert spread(2) == [0, 1]


def test_forecast_multiplies_means_and_counts_every_gpu() -> None:
    assert forecast(a_preview(100, 200, 300, engines=2), 90, gpus_per_engine=4) == Forecast(
        units=90,
        tokens=18_000,
        tokens_low=round((200 - 2 * 100 / 3**0.5) * 90),
        tokens_high=round((200 + 2 * 100 / 3**0.5) * 90),
        tokens_per_s=50.0,
        hours=18_000 / 50 / 3600,
        engine_hours=18_000 / 50 / 3600 * 8,
        disk_bytes=180_000,
    )


def test_one_trace_has_no_range_and_none_has_no_forecast() -> None:
    one = forecast(a_preview(70), 2)
    assert one and (one.tokens, one.tokens_low, one.tokens_high) == (140, None, None)
    assert forecast(a_preview(), 2) is None


def test_prompts_are_the_ids_that_will_be_decoded() -> None:
    report = examine(OLYMPIAD, FAKE, SHORT, with_preview=False)
    contexts = Prompts(DEMO_MODEL).contexts(load_items(OLYMPIAD)[0], Synthesis(thinking=False))
    shown = {prompt.role: list(prompt.token_ids) for prompt in report.prompts}
    assert shown == {
        "student": contexts.student_ids,
        "privileged_student": contexts.privileged_ids,
        "negative_reference": contexts.negative_ids,
    }
    assert report.preview is None and report.forecast is None


def test_tokens_that_no_role_draws_are_named_and_one_that_is_none_is_refused() -> None:
    asked = SHORT.model_copy(update={"suppress": ("</think>", 11)})
    report = examine(OLYMPIAD, FAKE, asked, with_preview=False)
    assert report.suppressed == {11: ",", 1023: "</think>"}
    assert "never drawn: 11 (','), 1023 ('</think>')" in describe(report)
    with pytest.raises(UsageError, match="'The lock', which is not one token"):
        examine(None, FAKE, SHORT.model_copy(update={"suppress": ("The lock",)}), with_preview=False)


def test_bad_items_are_found_before_an_engine_starts(tmp_path: Path) -> None:
    report = examine(with_a_bad_item(tmp_path), FAKE, SHORT, with_preview=False)
    assert report.items and (report.items.items, report.items.units) == (7, 6)
    assert [(bad.item_id, bad.code) for bad in report.items.bad] == [("endless", "context_length_exceeded")]
    assert report.exit_code == 3


def test_what_kinds_of_items_there_are_is_counted_and_what_loses_a_part_is_named(tmp_path: Path) -> None:
    items = [
        {"id": "answer", "problem": "1 + 1?", "solution": "It is 2.", "answer": "2"},
        {"id": "box", "problem": "1 + 2?", "solution": "It is \\boxed{3}.", "answer": "notfound"},
        {"id": "proof", "problem": "Show it.", "solution": "As 4 > 3."},
        {"id": "long", "problem": "2 + 2?", "solution": ["It is 4.", "turn " * 5000], "answer": "4"},
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items))
    asked = SHORT.model_copy(update={"too_long": "drop_later_solutions", "prompt_tokens": 1000})
    report = examine(path, FAKE, asked, with_preview=False)
    assert report.items and report.items.shortened == ("long",) and not report.items.bad
    text = describe(report)
    counts = "verifiable: 2 by answer, 1 by the box of the solution, 0 without answer; 1 proof; 3 without waypoints"
    assert f"{counts}; too long, so that a part of the solution is dropped: 1" in text


def test_a_template_that_prints_the_date_is_pointed_at_until_one_is_set(tmp_path: Path) -> None:
    model = shutil.copytree(DEMO_MODEL, tmp_path / "model")
    template = (
        "{% if effort is defined %}{{ effort }}{% endif %}{{ strftime_now('%d %b %Y') }}: {{ messages[-1].content }}"
    )
    (model / "chat_template.jinja").write_text(template)
    config = SynthConfig(engine=EngineConfig(model=model, kind="fake"))
    report = examine(OLYMPIAD, config, Synthesis(), with_preview=False)
    assert (report.prints_date, report.template_args) == (True, ("effort",))
    assert "the chat template reads effort and prints the date; a turn ends with" in describe(report)
    assert sum("set date=" in note for note in report.notes) == 1
    fixed = examine(OLYMPIAD, config, Synthesis(date="2026-11-26"), with_preview=False)
    assert not any("set date=" in note for note in fixed.notes)
    assert all(prompt.text.startswith("26 Nov 2026: ") for prompt in fixed.prompts)


def test_what_the_items_contradict_or_repeat_is_shown_shortened_and_told_whole(tmp_path: Path) -> None:
    items = [{"problem": f"{n}+1?", "solution": rf"As $n={n}$, \boxed{{{n + 1}}}.", "answer": "7"} for n in range(7)]
    path, problems = tmp_path / "items.jsonl", tmp_path / "problems.jsonl"
    path.write_text("\n".join(map(json.dumps, items)), "utf-8")
    problems.write_text('{"id": "e", "problem": "3 + 1 ?", "answer": "4"}', "utf-8")
    report = examine(path, FAKE, SHORT, with_preview=False, against=problems)
    assert report.data_check and list(map(len, report.data_check.ids().values())) == [6, 1]
    assert report.exit_code == 0
    text = describe(report)
    assert "data check: 6 answers contradict the box (item-00000, " in text
    assert "  item item-00004: the answer is 7, the box of the solution says 5\n  and 1 more like these, in 6" in text
    assert "  item item-00003: its problem is e of the evaluation set" in text


def test_a_template_with_a_thinking_switch_is_pointed_at() -> None:
    report = examine(OLYMPIAD, FAKE, Synthesis(max_tokens=40), with_preview=False)
    assert any("thinking is not set" in note for note in report.notes)
    assert not any("thinking" in note for note in examine(OLYMPIAD, FAKE, SHORT, with_preview=False).notes)


def test_long_texts_are_shortened_for_people_alone(tmp_path: Path) -> None:
    item = {"problem": "Sum it. " + "1 + " * 400 + "1 = ?", "solution": "401", "answer": "401"}
    (tmp_path / "items.jsonl").write_text(json.dumps(item))
    report = examine(tmp_path / "items.jsonl", FAKE, SHORT, with_preview=False)
    text = describe(report)
    assert "characters …]" in text
    assert len(text) < 7000 < sum(len(prompt.token_ids) for prompt in report.prompts) * 4
    assert all(prompt.text in report.model_dump_json().encode().decode("unicode_escape") for prompt in report.prompts)


def test_a_model_that_does_not_fit_here_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise UsageError("the weights leave no room")

    monkeypatch.setattr(doctor, "fit", full)
    report = examine(None, FAKE, SHORT, with_preview=True)
    assert report.reserved is None
    assert report.notes == ("not on this machine: the weights leave no room",)
    assert report.exit_code == 0


def test_what_vllm_will_choose_is_what_its_engine_has(demo_engine: Any) -> None:
    from dail.synth.engine.vllm import chosen

    real = demo_engine._engine.vllm_config
    runner = demo_engine._engine.model_executor.driver_worker.worker.model_runner
    choices = chosen(EngineConfig(model=DEMO_MODEL, dtype="float32", rows=64, step_tokens=8192, kv_cache_gib=0.5))
    assert choices == Choices(
        runner="second" if ".cpu." in type(runner).__module__ else "first",
        attention=runner.attn_groups[0][0].backend.get_name(),
        dtype=str(next(runner.model.parameters()).dtype).removeprefix("torch."),
        graphs=real.compilation_config.cudagraph_mode.name,
        schedules_ahead=real.scheduler_config.async_scheduling,
    )


def test_what_vllm_will_choose_is_in_the_json() -> None:
    code, report, said = run("--model", str(DEMO_MODEL), "--no-preview", "--set", "engine.dtype=float32")
    assert code == 0, said
    assert report["engine"] == {
        "runner": "first",
        "attention": "CPU_ATTN",
        "dtype": "float32",
        "graphs": "NONE",
        "schedules_ahead": False,
    }
    assert report["versions"]["torch"] == torch.__version__


def test_the_runner_is_vllms_own_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the second one wherever Triton can compile."""
    from dail.synth.engine.vllm import chosen

    runners = []
    for has_triton in (True, False):
        monkeypatch.setattr("vllm.config.vllm.HAS_TRITON", has_triton)
        runners.append(chosen(EngineConfig(model=DEMO_MODEL, rows=64, step_tokens=8192, kv_cache_gib=0.5)).runner)
    assert runners == ["second", "first"]


def test_what_will_run_is_said_on_two_lines() -> None:
    report = examine(None, FAKE, SHORT, with_preview=False)
    choices = Choices(
        runner="second", attention="FLASH_ATTN", dtype="bfloat16", graphs="FULL_AND_PIECEWISE", schedules_ahead=False
    )
    text = describe(report.model_copy(update={"engine": choices}))
    assert (
        "the engine: vLLM's second model runner, attention FLASH_ATTN, bfloat16, CUDA graphs FULL_AND_PIECEWISE, not "
        "scheduling ahead\n" in text
    )
    assert "the trainer, with dtype=auto: " in text
    assert "the engine: " not in describe(report)


@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_what_is_said_of_the_trainer_is_what_it_does(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from dail.train.attention import has_kernel
    from dail.train.config import TrainConfig
    from dail.train.model import device_and_dtype

    monkeypatch.setattr(torch.cuda, "is_available", lambda: kind == "cuda")
    device, settled = device_and_dtype(TrainConfig())
    states: Any = SimpleNamespace(is_cuda=device.type == "cuda", dtype=getattr(torch, settled.dtype))
    expected = Trainer(dtype=settled.dtype, one_kernel=has_kernel(states))
    assert doctor._trainer(Device(kind, "", 0, 0)) == expected


@pytest.mark.parametrize("version", ["0.23.0", "0.34.0"])
def test_another_vllm_is_refused_first_of_all(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "vllm", version)
    config = SynthConfig(engine=EngineConfig(model=tmp_path / "no model"))
    with pytest.raises(UsageError, match=f"vLLM {version} is installed; wanted >=0.24,<0.34"):
        examine(None, config, SHORT, with_preview=False)


def test_other_packages_outside_their_ranges_are_notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, "peft", "0.19.1")
    report = examine(None, FAKE, SHORT, with_preview=False)
    assert report.versions["peft"] == "0.19.1"
    assert any(note.startswith("peft 0.19.1 is installed; wanted <0.22,>=0.20") for note in report.notes)
    assert report.exit_code == 0


@pytest.mark.parametrize("error", [ImportError("No module named 'vllm'"), UsageError("vLLM cannot start")])
def test_a_vllm_that_cannot_be_asked_is_a_note(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(doctor, "_engine", broken)
    report = examine(None, FAKE, SHORT, with_preview=False)
    assert report.engine is None
    assert report.notes == (f"what vLLM will choose cannot be said here: {error}",)


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    """Something that answers where Ray's dashboard would, with a status."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(request.param)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    monkeypatch.setattr(doctor, "_DASHBOARD_PORT", server.server_port)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")
    yield
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "auto", "", "ray://127.0.0.1:10001", "http://127.0.0.1:PORT/"])
@pytest.mark.parametrize(("dashboard", "code"), [(200, 1), (401, 0)], indirect=["dashboard"])
def test_a_dashboard_that_takes_jobs_from_anybody_is_a_danger(
    dashboard: None, code: int, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address.replace("PORT", str(doctor._DASHBOARD_PORT)))
    report = examine(None, FAKE, SHORT, with_preview=False)
    assert report.exit_code == code
    assert ("RAY_AUTH_MODE=token" in describe(report)) == bool(code)


def test_the_preview_draws_five_items_and_forecasts_all(tmp_path: Path) -> None:
    settings = ("--set", "engine.kind=fake", "--set", "synthesis.thinking=false", "--set", "synthesis.max_tokens=20")
    code, report, said = run(
        str(with_a_bad_item(tmp_path)), "--model", str(DEMO_MODEL), *settings, "--set", "synthesis.samples_per_item=3"
    )
    assert code == 3, said
    lengths = [shown["tokens"] for shown in report["preview"]["traces"]]
    assert len(lengths) == 5 and report["preview"]["failed"] == {}
    assert report["forecast"]["units"] == 18
    assert report["forecast"]["tokens"] == round(sum(lengths) / 5 * 18)
    assert report["forecast"]["hours"] == pytest.approx(
        report["forecast"]["tokens"] / report["preview"]["tokens_per_s"] / 3600, rel=1e-3
    )
    assert report["preview"]["rows"] == report["reserved"]["rows"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nosuch.jsonl", "--model", str(DEMO_MODEL)), "does not exist"),
        ((str(OLYMPIAD),), "no model is named"),
        ((str(OLYMPIAD), "--model", "/nowhere"), "is no model folder"),
        ((str(OLYMPIAD), "--model", str(DEMO_MODEL), "--set", "engine.row=3"), "did you mean engine.rows?"),
    ],
)
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...], said: str) -> None:
    code, _, error = run(*arguments)
    assert code == 2
    assert said in error
