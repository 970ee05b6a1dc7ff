"""Every named run in deploy/configs loads; the paper's two hold the paper's numbers, the official ones its authors'."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from dail.serve.cli import VERBS
from dail.serve.loop import LoopConfig
from dail.synth.config import EngineConfig, SynthConfig
from dail.synth.core.errors import UsageError
from dail.synth.core.settings import TABLES, presets, read, settings_of
from dail.synth.run import local
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.evals.config import EvalConfig
from dail.train.evals.protocols import departures
from tests.conftest import DEMO_MODEL, ROOT

ITEM = {"problem": "1 + 2?", "solution": "It is \\boxed{3}.", "answer": "3"}
CONFIGS = ROOT / "deploy" / "configs"
QWEN25, QWEN3 = CONFIGS / "qwen2.5-7b-paper-v1.toml", CONFIGS / "qwen3-8b-paper-v1.toml"
OFFICIAL = CONFIGS / "qwen2.5-7b-official.toml", CONFIGS / "qwen3-8b-official.toml"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_table_of_every_named_run_loads(path: Path):
    engine = read("worker", path).told("engine", model="folder").load(EngineConfig, "engine")
    read("worker", path).load(SynthConfig, "worker", engine=engine)
    read("submit", path).load(Synthesis, "synthesis")
    read("train", path).load(TrainConfig, "train")
    read("eval", path).load(EvalConfig, "eval", engine=engine)


def test_every_named_run_is_installed_under_its_name():
    assert {name: path.resolve() for name, path in presets().items()} == {
        path.stem: path for path in CONFIGS.glob("*.toml")
    }


@pytest.mark.parametrize(("path", "epochs"), [(QWEN25, 5), (QWEN3, 3)])
def test_the_paper_s_runs_train_with_table_2(path: Path, epochs: int):
    config = read("train", path).load(TrainConfig, "train")
    assert (config.warmup_steps, config.lr, config.weight_decay, config.batch_size) == (5, 2e-4, 0.01, 4)
    assert (config.lora_rank, config.lora_alpha, config.gamma, config.epochs) == (32, 32, 0.1, epochs)
    assert config == TrainConfig(epochs=epochs, dtype="bfloat16")


def test_the_paper_s_rollouts_are_direct_for_qwen25_and_mixed_and_cut_for_qwen3():
    direct, mixed = (Synthesis.model_validate(tomllib.loads(path.read_text())["synthesis"]) for path in (QWEN25, QWEN3))
    assert (direct.method, direct.thinking) == ("direct", None)
    assert (mixed.method, mixed.tau, mixed.max_tokens, mixed.thinking) == ("mixed", 0.8, 256, True)


def synthesis_of(path: Path) -> Synthesis:
    return read("submit", path).load(Synthesis, "synthesis")


def test_the_authors_rollouts_are_mixed_for_qwen25_and_direct_and_cut_for_qwen3():
    other, reasoning = map(synthesis_of, OFFICIAL)
    assert (other.method, other.tau, other.proposals, other.max_tokens) == ("mixed", 0.8, 5, 2048)
    assert (reasoning.method, reasoning.suppress, reasoning.max_tokens) == ("direct", ("</think>",), 256)
    assert (other.opening, reasoning.opening, reasoning.drop_empty_thought) == ("", "<think>", True)
    for one in (other, reasoning):
        assert (one.temperature, one.top_k, one.top_p, one.probability_space) == (1.0, 20, 1.0, "raw")
        assert (one.extractor, one.proof_answers, one.samples_per_item) == ("official", True, 32)
        assert (one.too_long, one.prompt_tokens) == ("drop_then_halve", 16000)


@pytest.mark.parametrize(("path", "epochs"), zip(OFFICIAL, (5, 3), strict=True))
def test_the_authors_training_takes_16_traces_a_step_and_a_mean_of_each(path: Path, epochs: int):
    config = read("train", path).load(TrainConfig, "train")
    assert (config.batch_size, config.reduction, config.epochs, config.seed) == (16, "trace_mean", epochs, 3407)
    assert (config.lr, config.warmup_steps, config.weight_decay, config.gamma) == (2e-4, 5, 0.01, 0.1)
    assert (config.end_token, config.after_last, config.optimizer) == ("drop", True, "paged_adamw_8bit")
    assert (config.skip_first, config.longest) == ((2, 12288) if epochs == 5 else (1, 2048))
    assert config.lora_targets == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.mark.parametrize("path", [QWEN25, QWEN3, *OFFICIAL], ids=lambda path: path.stem)
def test_every_line_of_a_preset_of_the_paper_s_models_says_where_it_is_from(path: Path):
    text = path.read_text("utf-8")
    marks = (
        r"# (?:App|Table|§|\(silent\)|the paper's)"
        if "paper" in path.stem
        else r"# (?:draw|conf|train|eval)[/:;]?(?:\W|conf|utils|$)"
    )
    lines = [line for line in text.splitlines() if re.match(r"\w+ *=", line)]
    assert len(lines) > 20 and [line for line in lines if not re.search(marks, line)] == ['method = "direct"'] * (
        "2.5-7b-p" in path.stem
    )
    assert (
        "2602.02405" in text if "paper" in path.stem else "https://github.com/ethanm88/DAIL at commit 4886f8d" in text
    )


@pytest.mark.parametrize("path", [QWEN25, QWEN3, *OFFICIAL], ids=lambda path: path.stem)
def test_the_evaluation_of_a_preset_is_its_protocol(path: Path):
    engine = EngineConfig(model=DEMO_MODEL, model_tokens=8000)  # [engine] is that of the rollouts
    config = read("eval", path).load(EvalConfig, "eval", engine=engine)
    assert departures("paper" if "paper" in path.stem else "official", config) == {}
    assert bool(config.budgets) == ("qwen3" in path.stem)


def model_without(folder: Path, *, token: str = "", switch: bool = True) -> Path:
    """The demo model, without a token in its tokenizer's vocabulary, or without the thinking switch."""
    shutil.copytree(DEMO_MODEL, folder)
    tokenizer = folder / "tokenizer.json"
    value = json.loads(tokenizer.read_text("utf-8"))
    value["added_tokens"] = [one for one in value["added_tokens"] if one["content"] != token]
    tokenizer.write_text(json.dumps(value))
    config = folder / "tokenizer_config.json"
    settings = json.loads(config.read_text("utf-8"))
    decoder = settings.get("added_tokens_decoder", {})
    settings["added_tokens_decoder"] = {id_: one for id_, one in decoder.items() if one["content"] != token}
    config.write_text(json.dumps(settings))
    if not switch:
        (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


@pytest.mark.parametrize(
    ("lacks", "why"),
    [({"token": "</think>"}, "</think>"), ({"switch": False}, "thinking=True is set, but .* has no thinking switch")],
)
def test_a_model_that_lacks_what_a_preset_asks_for_is_refused_before_an_engine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lacks: dict[str, Any], why: str
):
    monkeypatch.setattr(local, "run_worker", lambda *_, **__: pytest.fail("an engine would have been started"))
    model = model_without(tmp_path / "model", **lacks)
    with pytest.raises(UsageError, match=why):
        local.synthesise([ITEM], tmp_path / "out", model=model, synthesis=synthesis_of(OFFICIAL[1]))
    assert not (tmp_path / "out" / "ledger.jsonl").exists()


def rows_of_the_table() -> list[list[str]]:
    text = (ROOT / "synth/method/the-method.md").read_text("utf-8")
    section = text[text.index("## The paper, its authors' code, and ours") :].partition("\n## ")[0]
    return [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if line[:2] == "| "
    ][1:]


def test_the_table_of_differences_names_settings_that_there_are():
    rows, tables = rows_of_the_table(), "|".join(TABLES)
    known = {name for table in TABLES for name in (one.name for one in settings_of(table).values())}
    named = {name for row in rows for name in re.findall(rf"`((?:{tables})\.\w+)`", row[-1])}
    assert all(len(row) == 4 and all(row) for row in rows) and len(rows) >= 38
    assert len(named) > 40 and named - known == set()
    verbs = {verb for row in rows for verb in re.findall(r"`dail (\w+)", row[-1])}
    assert verbs - set(VERBS) == set()


@pytest.mark.parametrize("path", OFFICIAL, ids=lambda path: path.stem)
def test_what_an_official_preset_sets_is_in_the_table(path: Path):
    told = " ".join(row[-1] for row in rows_of_the_table())
    set_ = {f"{table}.{key}" for table, values in tomllib.loads(path.read_text("utf-8")).items() for key in values}
    assert {name for name in set_ if f"`{name}`" not in told} <= {"engine.dtype", "eval.thinking", "train.objective"}


def test_an_unknown_setting_in_a_file_is_refused(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text("[train]\nlearning_rate = 1e-4\n")
    with pytest.raises(UsageError, match=r"\[train\]: there is no setting 'learning_rate'; did you mean train\.lr\?"):
        read("train", path)


@pytest.mark.parametrize(("name", "reference", "divergence"), [("opsd", "frozen", "jsd"), ("sdft", "mean", "reverse")])
def test_the_family_s_presets_are_rounds_of_the_student_s_own_rollouts(name: str, reference: str, divergence: str):
    chosen = read("loop", name)
    assert chosen.load(Synthesis, "synthesis").method == "student"
    training = chosen.load(TrainConfig, "train")
    assert (training.references, training.divergence, training.epochs) == ({"privileged": 1.0}, divergence, 1)
    rounds = chosen.load(LoopConfig, "loop")
    assert (rounds.reference, rounds.items_per_round, training.batch_size) == (reference, 256, 32)
