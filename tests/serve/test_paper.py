"""The plan of `dail paper`, with verbs that only say what they were asked; and its runs, which the paper decides."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dail.serve.cli import dail
from dail.serve.paper import commands, results
from dail.serve.paper.contents import PRESETS, all_runs, contents, runs_named
from dail.serve.paper.results import Results, read_results, setting_of
from dail.synth.core.errors import DailError, IntegrityError, UsageError
from dail.synth.core.settings import read, settings_of
from dail.synth.schema.synthesis import Synthesis
from dail.train.config import TrainConfig
from dail.train.grpo_config import GrpoConfig
from tests.conftest import DEMO_MODEL, ROOT
from tests.serve.recorded import Recorded

ALL = "all problems"
PAPER = ROOT / "deploy" / "paper"


class Verbs(Recorded):
    none_is_right = False
    grpo_learns = True

    def left(self, name: str, said: tuple[str, ...], allowed: Any) -> str:
        if name == "select":
            chosen = Path(said[1]).with_name("chosen.json")
            chosen.touch()
            nothing = {"error": "usage", "message": "no trace is correct", "exit_code": 2}
            assert 2 in allowed
            return json.dumps(nothing if Verbs.none_is_right else {"manifest": str(chosen)})
        out = Path(said[said.index("--out") + 1])
        out.mkdir(parents=True, exist_ok=True)
        return str(
            {"synth": self._synth, "eval": self._eval, "calibrate": self._calibrate}.get(name, self._train)(out, said)
        )

    def _synth(self, out: Path, said: tuple[str, ...]) -> str:
        (out / "v1.json").touch()
        return json.dumps({"manifest": f"{out}/v1.json", "committed": 4})

    def _train(self, out: Path, said: tuple[str, ...]) -> str:
        (out / "adapter").mkdir()
        (out / "adapter" / "adapter_config.json").write_text('{"r": 1}')
        learned = out.name if said[0] == "train" or Verbs.grpo_learns else "nothing"
        (out / "adapter" / "adapter_model.safetensors").write_text(learned)
        return json.dumps({"adapter": f"{out}/adapter", "folder": f"{out}/adapter"})

    def _calibrate(self, out: Path, said: tuple[str, ...]) -> str:
        (out / "calibration.json").write_text(json.dumps({"recommendation": {"tau": 0.8}}))
        return ""

    def _eval(self, out: Path, said: tuple[str, ...]) -> str:
        names = [one.partition("=")[0] for flag in ("--model", "--adapter") for one in after(flag, said)]
        at = dict(one.split("=", 1) for one in after("--set", said))
        places = [(name, t, b) for name in names for t in json.loads(at.get("eval.temperatures", "[0.6]"))
                  for b in json.loads(at.get("eval.budgets", "[null]"))]  # fmt: skip
        arms = [{"name": f"{n}, {t}, {b}", "subject": n, "temperature": t, "budget": b} for n, t, b in places]
        group = {
            "group": ALL, "num_problems": 10, "summary": {arm["name"]: {"cut_share": 0.25} for arm in arms},
            "passes": {
                arm["name"]: [{"k": k, "mean": len(arm["subject"]) / 100, "low": 0.0, "high": 0.5} for k in (1, 4)]
                for arm in arms
            },
        }  # fmt: skip
        less = {**group, "num_problems": 8}
        (out / "eval.json").write_text(
            json.dumps({"format": "dail.eval/3", "groups": [group], "without": [less], "arms": arms})
        )
        return "{}"


@pytest.fixture(autouse=True)
def verbs(monkeypatch: pytest.MonkeyPatch) -> type[Verbs]:
    Verbs.asked, Verbs.dies_at, Verbs.none_is_right, Verbs.grpo_learns = [], None, False, True
    monkeypatch.setattr(commands, "Children", Verbs)
    return Verbs


@pytest.fixture
def items(tmp_path: Path) -> Path:
    rows = [{"problem": f"{n} + {n}?", "solution": "Add.", "answer": str(2 * n), "id": f"sum-{n}"} for n in range(5)]
    return written(tmp_path / "items.jsonl", rows)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(*arguments: object) -> Any:
    result = CliRunner().invoke(dail, ["paper", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(items: Path, out: Path, *arguments: object) -> Any:
    given = ("--model", DEMO_MODEL, "--solutions", items, "--problems", "hard=p.jsonl", "--out", out, "--json")
    result = said(*given, *arguments)
    assert result.exit_code == 0, result.output
    return result


def after(option: str, words: tuple[str, ...]) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words) if word == option]


def verbs_asked(verbs: type[Verbs]) -> list[str]:
    return [words[0] for words in verbs.asked]


# --- the runs are the paper's -----------------------------------------------------------------------------------------


def test_what_each_run_sets_is_what_makes_it_that_run():
    def own(name: str) -> Any:
        return {f"{t}.{k}": v for t, values in runs_named(name)[0].own.items() for k, v in values.items()}

    contrastive = {"train.objective": "contrastive", "train.gamma": 0.1}
    mixed = {"synthesis.method": "mixed", "synthesis.tau": 0.8}
    table_3 = {"grpo.lr": 1e-6, "grpo.batch_size": 64, "grpo.rollouts": 32, "grpo.temperature": 0.6, "grpo.top_p": 0.95}
    wanted = {
        "base": {},
        "direct": {"synthesis.method": "direct", **contrastive},
        "mixed": {**mixed, **contrastive},
        "sft": {"synthesis.method": "expert", "train.objective": "nll"},
        "star": {"synthesis.method": "direct", "synthesis.shown": "answer", "synthesis.samples_per_item": 8,
                 "synthesis.enough": "first_correct", "train.objective": "nll"},
        "direct-nll": {"synthesis.method": "direct", "train.objective": "nll"},
        "mixed-nll": {**mixed, "train.objective": "nll"},
        "privileged-kl": {**mixed, "train.objective": "privileged_kl"},
        "negative-kl": {**mixed, "train.objective": "negative_kl"},
        "gamma": {**mixed, **contrastive, "train.gamma": 0.01},
        "tau": {**mixed, **contrastive, "synthesis.tau": 0.5},
        "grpo": {**table_3, "grpo.epochs": 15},
        "nurl": {**table_3, "grpo.epochs": 15, "grpo.hints": "waypoints"},
        "grpo-deepscaler": {**table_3, "grpo.epochs": 1},
    }  # fmt: skip
    assert {name: own(name) for name in all_runs()} == wanted
    assert runs_named("nurl")[0].sheet.after == "grpo" and runs_named("star")[0].sheet.keep == "first_correct"


def test_the_sweep_of_gamma_is_the_paper_s_twelve_values_and_its_last_one_is_refused():
    values = [one.own["train"]["gamma"] for one in runs_named("gamma")]
    assert values == [0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    with pytest.raises(UsageError, match="wanted less than 1"):
        runs_named("gamma-1")[0].settings(read("paper", PRESETS["verifiable"])).load(TrainConfig, "train")


@pytest.mark.parametrize("study", PRESETS)
def test_every_run_loads_on_the_paper_s_presets(study: Any):
    shared = read("paper", PRESETS[study])
    for one in (one for runs in all_runs().values() for one in runs if one.name != "gamma-1"):
        chosen = one.settings(shared)
        chosen.load(Synthesis, "synthesis")
        training, rewards = chosen.load(TrainConfig, "train"), chosen.load(GrpoConfig, "grpo")
        assert (training.epochs, training.batch_size) == ({"verifiable": 5, "proof": 3}[study], 4)
        assert (rewards.lr, rewards.rollouts, rewards.temperature) == (1e-6, 32, 0.6)


def test_tables_2_and_3_are_what_the_runs_hold():
    tables = [one for one in contents() if one.shows == "settings"]
    assert [one.key for one in tables] == ["table-2", "table-3"]
    for one in tables:
        assert {name: setting_of(one, name) for name in one.settings} == one.settings
    assert json.loads(said("--table", 3, "--json").stdout)["settings"]["table-3"]["grpo.lr"] == [1e-6, 1e-6]
    assert "ours   warmup_steps 5, lr 0.0002" in said("--table", 2).stdout


def test_the_paper_s_printed_numbers_are_there():
    numbers = {(n.study, n.run, n.k, n.budget): n.value for one in contents() for n in one.numbers}
    table_4 = {"mixed": 46.0, "privileged-kl": 44.0, "base": 41.0, "negative-kl": 38.1}
    assert {run: numbers["verifiable", run, 128, None] for run in table_4 if run != "base"}.items() <= table_4.items()
    assert numbers["proof", "mixed", 128, 1024] == 96.9 and numbers["proof", "base", 1, 4096] == 55.1
    keys = [one.key for one in contents()]
    asked = [*(f"table-{n}" for n in range(1, 5)), *(f"figure-{n}" for n in (2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16))]
    assert set(asked) <= set(keys) and len(keys) == len(set(keys))


def test_every_setting_of_a_run_s_file_has_its_source_and_every_file_says_where_the_paper_has_it():
    for path in sorted(set(PAPER.glob("*.toml")) - {PAPER / "contents.toml"}):
        text = path.read_text("utf-8")
        head, _, tables = text.partition("[run]")
        assert "§" in head or "App." in head, path
        lines = [line for line in tables.partition("\n[")[2].splitlines() if re.match(r"\w+ *=", line)]
        assert [line for line in lines if not re.search(r"# (§|App\.|Table|\(ours\)|\(Zelikman)", line)] == [], path


def test_runs_name_runs_and_settings_that_there_are():
    for one in contents():
        for names in one.runs.values():
            assert all(runs_named(name) for name in names)
        for name in one.settings:
            assert name.partition(".")[2] in settings_of(name.partition(".")[0])
    with pytest.raises(UsageError, match="there is no run mixd; did you mean mixed"):
        runs_named("mixd")


# --- the table of contents --------------------------------------------------------------------------------------------


def test_without_anything_it_prints_the_contents_with_no_figure_of_ours(tmp_path: Path):
    text = said("--out", tmp_path).output
    assert f"note: {tmp_path} has no results.json" in text
    assert "Table 4: The contrastive objective" in text and "pass@128: mixed 46.0, privileged-kl 44.0" in text
    block = text[text.index("Table 4") : text.index("Figure 2")]
    assert "command  dail paper --table 4 …" in block and "ours     not run" in block
    rows = json.loads(said("--json", "--out", tmp_path).stdout)
    assert {row["ours"] for row in rows if row["shows"] != "settings"} == {""}


def test_the_page_has_the_table_of_contents_as_the_verb_prints_it():
    page = (ROOT / "deploy/reproducing.md").read_text("utf-8")
    assert said("--markdown").stdout.strip() in page, "put what `dail paper --markdown` prints into the page"


def test_ours_is_read_from_results_that_runs_have_left(items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(items, tmp_path / "out", "--table", 4)
    each = "base 4.0/4.0, mixed 5.0/5.0, privileged-kl 13.0/13.0"
    wanted = f"| model: pass@1/4 of 10 problems (test, temperature 0.6): {each}"
    assert wanted not in said("--markdown").stdout and wanted in said("--markdown", "--out", tmp_path / "out").stdout
    monkeypatch.setattr(results, "PUBLISHED", tmp_path / "out" / "results.json")
    assert wanted in said("--markdown").stdout


# --- the steps --------------------------------------------------------------------------------------------------------


def test_table_4_is_one_set_of_traces_three_trainings_and_one_evaluation(items, tmp_path, verbs):
    out = tmp_path / "out"
    told = json.loads(run(items, out, "--table", 4).stdout)
    assert verbs_asked(verbs) == ["eval", "synth", "train", "train", "train", "eval"]
    assert not after("--adapter", verbs.asked[0]) and after("--out", verbs.asked[0]) == after("--out", verbs.asked[-1])
    trained = [words for words in verbs.asked if words[0] == "train"]
    assert len({*after("--manifest", trained[0]), *after("--manifest", trained[2])}) == 1
    assert len({after("--references", words)[0] for words in trained}) == 1
    judged = verbs.asked[-1]
    assert after("--model", judged) == [f"base={DEMO_MODEL}"] and after("--problems", judged) == ["hard=p.jsonl"]
    assert [one.partition("=")[0] for one in after("--adapter", judged)] == ["mixed", "privileged-kl", "negative-kl"]
    rows = {row["run"]: row for row in told["exhibits"]["table-4"]}
    assert rows["mixed"]["pass"]["4"] == [0.05, 0.0, 0.5] and rows["mixed"]["cut_share"] == 0.25
    assert rows["negative-kl"]["paper"] == {"beyond-aime pass@128": 38.1}
    settings = tomllib.loads((out / "settings" / "negative-kl.toml").read_text())
    assert settings["train"]["objective"] == "negative_kl" and settings["train"]["lr"] == 2e-4  # Table 2


def test_further_figures_in_one_folder_take_the_traces_and_runs_that_are_there(items, tmp_path, verbs):
    out = tmp_path / "out"
    run(items, out, "--table", 4)
    verbs.asked = []
    run(items, out, "--figure", 5)
    assert [words[0] for words in verbs.asked] == [
        "synth",
        "train",
        "train",
        "train",
        "eval",
    ]  # direct's traces are new
    named = [one.partition("=")[0] for one in after("--adapter", verbs.asked[-1])]
    assert named == ["mixed", "privileged-kl", "negative-kl", "direct", "direct-nll", "mixed-nll"]  # none is lost
    text = said("--out", out).output
    assert "demo" not in text and "model: pass@1/4 of 10 problems (test, temperature 0.6): base 4.0/4.0" in text


def test_a_value_of_a_sweep_that_is_another_run_is_trained_and_judged_once(items, tmp_path, verbs):
    out = tmp_path / "out"
    told = run(items, out, "--table", 4, "--run", "gamma")
    assert sum(words[0] == "train" for words in verbs.asked) == 3 + 10  # of twelve, one is `mixed` and one is refused
    assert "gamma-1 is not run: train.gamma: got 1.0, wanted less than 1" in told.stderr
    rows = {row["run"]: row["pass"]["1"] for row in json.loads(told.stdout)["exhibits"]["appendix-b3"]}
    assert len(rows) == 12 and rows["gamma-0.1"] == [0.05, 0.0, 0.5]  # judged as `mixed`, whose name has 5 letters


def test_star_is_shown_the_answer_and_keeps_what_is_right_and_temperatures_are_the_base_model_s(items, tmp_path, verbs):
    run(items, tmp_path / "out", "--figure", 3)
    assert verbs_asked(verbs) == ["eval"] * 2 + ["synth", "train"] * 2 + ["synth", "select", "train", "eval"]
    star = tomllib.loads((tmp_path / "out" / "settings" / "star.toml").read_text())
    assert (star["synthesis"]["shown"], star["synthesis"]["max_tokens"]) == ("answer", 8192)
    (select,) = (words for words in verbs.asked if words[0] == "select")
    assert select[2:] == ("--keep", "first_correct", "--json")
    assert after("--manifest", verbs.asked[-2]) == [select[1].replace("v1.json", "chosen.json")]
    temperatures = verbs.asked[1]
    assert after("--set", temperatures) == ["eval.temperatures=[0.8, 1.0, 1.2]"] and not after(
        "--adapter", temperatures
    )
    found = read_results(tmp_path / "out" / "results.json")
    assert found is not None
    assert {(one.run, one.temperature) for one in found.judged if one.judged_on == "temperatures"} == {
        ("base", 0.8), ("base", 1.0), ("base", 1.2)
    }  # fmt: skip


def test_a_run_of_which_no_trace_is_left_is_said_and_the_others_go_on(items, tmp_path, verbs):
    verbs.none_is_right = True
    told = run(items, tmp_path / "out", "--figure", 3)
    assert "star is not run: no trace is correct" in told.stderr
    assert [one.partition("=")[0] for one in after("--adapter", verbs.asked[-1])] == ["direct", "sft"]


def test_nurl_goes_on_from_grpo_and_deepscaler_is_said_where_it_is_not_given(items, tmp_path, verbs):
    told = run(items, tmp_path / "out", "--figure", 2)
    assert verbs_asked(verbs) == ["eval", "synth", "train", "grpo", "grpo", "eval"]
    first, second = (words for words in verbs.asked if words[0] == "grpo")
    assert not after("--after", first) and after("--after", second) == after("--out", first)
    assert first[1] == str(tmp_path / "out" / "solutions.jsonl")
    assert "grpo-deepscaler is not run: it takes --deepscaler FILE" in told.stderr
    run(items, tmp_path / "out", "--figure", 2, "--deepscaler", "scaler.jsonl")
    assert [words[1] for words in verbs.asked if words[0] == "grpo"][-1] == "scaler.jsonl"


def test_two_runs_with_the_same_weights_are_judged_as_one(items, tmp_path, verbs):
    verbs.grpo_learns = False
    told = run(items, tmp_path / "out", "--figure", 2)
    assert [one.partition("=")[0] for one in after("--adapter", verbs.asked[-1])] == ["direct", "grpo"]
    assert "nurl: the same weights as grpo, and judged as these" in told.stderr
    rows = {row["run"]: row["pass"] for row in json.loads(told.stdout)["exhibits"]["figure-2"]}
    assert rows["nurl"] == rows["grpo"]


def test_the_training_set_is_judged_on_itself(items, tmp_path, verbs):
    run(items, tmp_path / "out", "--figure", 6)
    assert after("--problems", verbs.asked[-1]) == [f"train={tmp_path / 'out' / 'trained-on.jsonl'}"]
    first = json.loads((tmp_path / "out" / "trained-on.jsonl").read_text().splitlines()[1])
    assert first == {"id": "sum-1", "problem": "1 + 1?", "answer": "2"}


def test_thinking_models_are_judged_at_budgets(items, tmp_path, verbs):
    (tmp_path / "mine.toml").write_text("[synthesis]\nmax_tokens = 256\n")  # the preset may say so itself
    words = ("--table", 1, "--study", "proof", "--config", tmp_path / "mine.toml")
    told = json.loads(run(items, tmp_path / "out", *words).stdout)
    assert after("--set", verbs.asked[-1]) == ["eval.budgets=[512, 1024, 2048, 4096]", "eval.answer_tokens=2048"]
    rows = {(row["run"], row["budget"]): row["paper"] for row in told["exhibits"]["table-1"]}
    assert rows["mixed", 512] == {"gpqa-diamond pass@1": 46.9, "gpqa-diamond pass@128": 96.5} and len(rows) == 8
    run(items, tmp_path / "fewer", *words, "--set", "eval.budgets=[64]")
    assert after("--set", verbs.asked[-1]) == ["eval.answer_tokens=2048"]


def test_figure_14_is_the_evaluation_without_what_was_trained_on(items, tmp_path, verbs):
    told = json.loads(run(items, tmp_path / "out", "--figure", 14).stdout)
    rows = {(row["run"], row["judged_on"]): row["problems"] for row in told["exhibits"]["figure-14"]}
    assert rows["direct", "test"] == 10 and rows["direct", "deduplicated"] == 8
    assert verbs_asked(verbs).count("eval") == 2


def test_two_sets_of_problems_in_one_folder_are_not_taken_for_one(items, tmp_path):
    out = tmp_path / "out"
    run(items, out, "--table", 4)
    told = json.loads(run(items, out, "--table", 4, "--problems", "more=q.jsonl").stdout)
    assert len(told["exhibits"]["table-4"]) == 2 * 4
    text = said("--table", 4, "--model", DEMO_MODEL, "--solutions", items, "--problems", "hard=p.jsonl", "--out", out)
    assert "beyond-aime pass@128 38.1" in text.stdout and "13.0 (0 to 50) @4" in text.stdout


def test_calibration_and_losses_are_pointed_at(items, tmp_path, verbs):
    told = json.loads(run(items, tmp_path / "out", "--figure", 11, "--figure", 13, "--study", "verifiable").stdout)
    assert verbs_asked(verbs) == ["calibrate", "synth", "train"]
    drawn = tomllib.loads(Path(after("--config", verbs.asked[0])[0]).read_text())["synthesis"]
    assert drawn["method"] == "mixed" and after("--grid", verbs.asked[0]) == ["paper"]
    run(items, tmp_path / "quick", "--figure", 11, "--set", "calibrate.grid=quick")
    assert not after("--grid", verbs.asked[-1])
    settings = tomllib.loads(Path(after("--config", verbs.asked[-1])[0]).read_text())
    assert settings["calibrate"] == {"grid": "quick"}
    assert told["figures"]["figure-11"] == {"tau": 0.8, "report": "calibration/calibration.html"}
    losses = tmp_path / "out" / told["figures"]["figure-13"]["losses"]
    assert losses.name == "curves.svg" and losses.parent == Path(after("--out", verbs.asked[2])[0])


@pytest.mark.parametrize("dies_at", ["synth", "select", "train", "grpo", "eval"])
def test_what_was_stopped_goes_on_and_does_nothing_twice(items, tmp_path, verbs, dies_at):
    out, asked = tmp_path / "out", ("--figure", 3, "--figure", 6)
    verbs.dies_at = dies_at
    with pytest.raises(DailError, match="ended with exit code 1"):
        run(items, out, *asked)
    died = len(verbs.asked)
    run(items, out, *asked)
    once = [words for words in verbs.asked if words[0] != "eval"]
    assert verbs.asked[died - 1] == verbs.asked[died]  # that very step again
    assert len(once) == len(set(once)) + (dies_at != "eval")


def test_the_settings_of_a_config_are_shared_and_a_run_s_own_stay(items, tmp_path):
    (tmp_path / "mine.toml").write_text('[synthesis]\nmethod = "student"\ntemperature = 1.0\n[grpo]\nepochs = 2\n')
    run(
        items,
        tmp_path / "out",
        "--table",
        4,
        "--run",
        "grpo",
        "--config",
        tmp_path / "mine.toml",
        "--set",
        "train.lr=1e-3",
    )
    mixed, grpo = (tomllib.loads((tmp_path / f"out/settings/{name}.toml").read_text()) for name in ("mixed", "grpo"))
    assert (mixed["synthesis"]["method"], mixed["synthesis"]["temperature"]) == ("mixed", 1.0)
    assert mixed["train"] == {"lr": 1e-3, "objective": "contrastive", "gamma": 0.1}  # no preset beside a config
    assert (grpo["grpo"]["epochs"], grpo["grpo"]["rollouts"]) == (2, 32)  # the paper's where nobody says otherwise


def test_an_evaluation_asks_as_the_traces_were_drawn_where_nobody_says(items, tmp_path):
    told = run(items, tmp_path / "out", "--table", 4, "--config", "cpu-tiny")
    assert "eval.thinking=false, as synthesis.thinking" in told.stderr
    shared = tomllib.loads((tmp_path / "out" / "settings" / "shared.toml").read_text())
    assert shared["eval"] == {"thinking": False}


def test_a_dry_run_writes_the_settings_prints_every_command_and_runs_none(items, tmp_path, verbs):
    out = tmp_path / "out"
    lines = run(items, out, "--table", 4, "--figure", 3, "--dry-run").stdout.splitlines()
    assert not verbs.asked and [line.split()[:2] for line in lines] == [
        ["dail", verb] for verb in ("eval", "eval", "synth", *["train"] * 3, *["synth", "train"] * 2,
                                    "synth", "select", "train", "eval")
    ]  # fmt: skip
    for name in re.findall(r"--config (\S+)", "\n".join(lines)):
        read("paper", name)
    assert {one.name for one in out.iterdir()} == {"paper.json", "settings", "solutions.jsonl", "trained-on.jsonl"}
    run(items, out, "--table", 4)
    assert f"--out {after('--out', verbs.asked[2])[0]} " in lines[3]  # where it said


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--table", 9], "there is no table 9 to be run; of this kind there are 1, 2, 3, 4"),
        (["--figure", 1], "there is no figure 1 to be run"),
        (["--figure", 8], "is a command of its own: dail doctor FILE"),
        (["--run", "grop"], "there is no run grop; did you mean grpo"),
        (["--table", 1], "give --study verifiable or --study proof"),
        (["--table", 4, "--study", "proof"], "Table 4 is of verifiable; leave it out"),
        (["--table", 4, "--figure", 4], "one call is of one model and one study: Table 4 is of verifiable; Fig"),
        (["--table", 4, "--set", "train.gamma=0.3"], "gamma=0.1 makes the run mixed what it is, and --set says 0.3"),
        (["--table", 4, "--set", "train.lr=-1"], r"train\.lr"),
        (["--table", 4, "--set", "gamma=0.1", "--config", "nowhere.toml"], "no file and no preset"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_anything_runs(items, tmp_path, verbs, arguments, why):
    with pytest.raises(UsageError, match=why):
        run(items, tmp_path / "out", *arguments)
    assert not verbs.asked and not (tmp_path / "out").exists()


@pytest.mark.parametrize("lacks", ["--model", "--solutions", "--out", "--problems"])
def test_what_is_missing_is_named(items, tmp_path, lacks):
    given = {"--model": DEMO_MODEL, "--solutions": items, "--out": tmp_path / "out", "--problems": "p.jsonl"}
    words = [word for flag, value in given.items() if flag != lacks for word in (flag, value)]
    with pytest.raises(UsageError, match=f"Table 4 takes {lacks}"):
        said("--table", 4, *words)
    with pytest.raises(UsageError, match="is given, and nothing to run; name --table, --figure or --run"):
        said(*words)


def test_runs_that_take_answers_are_refused_where_there_are_none(tmp_path, verbs):
    rows = [
        {"problem": "1 + 1?", "solution": "Two.", "answer": "2"},
        {"id": "p", "problem": "Show.", "solution": "So."},
    ]
    items = written(tmp_path / "mixed.jsonl", rows)
    for figure, name in ((3, "star"), (6, "grpo")):
        with pytest.raises(
            UsageError, match=f"the run {name} takes answers, and 1 of 2 expert solutions have none: p;"
        ):
            run(items, tmp_path / "out", "--figure", figure)
    run(items, tmp_path / "out", "--table", 4)  # takes none


def test_a_folder_of_other_settings_another_model_or_something_else_is_refused(items, tmp_path):
    out = tmp_path / "out"
    run(items, out, "--table", 4)
    with pytest.raises(
        UsageError, match=r"runs of the paper in .* were begun otherwise: train\.lr 0\.0002 there, 0\.1 here"
    ):
        run(items, out, "--table", 4, "--set", "train.lr=0.1")
    run(items, out, "--table", 4, "--set", "eval.samples=4", "--set", "engine.rows=8")  # no result is another for these
    other = written(tmp_path / "other.jsonl", [{"problem": "1?", "solution": "1.", "answer": "1"}])
    with pytest.raises(UsageError, match="begun otherwise: expert solutions"):
        run(other, out, "--table", 4)
    with pytest.raises(UsageError, match="cannot be written: No such file or directory; choose another --out"):
        run(items, Path("/proc/nowhere/runs"), "--table", 4)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="holds something that is not of this verb"):
        run(items, tmp_path / "mine", "--table", 4)


def test_damaged_records_are_named(items, tmp_path, verbs):
    out = tmp_path / "out"
    run(items, out, "--table", 4)
    (step,) = out.glob("traces/*/step.json")
    step.write_text("{")
    with pytest.raises(IntegrityError, match=r"step\.json cannot be read .*; remove it to do the step again"):
        run(items, out, "--table", 4)
    step.write_text('{"result": "/nowhere/v1.json"}')
    with pytest.raises(IntegrityError, match="which is gone; remove"):
        run(items, out, "--table", 4)
    (out / "results.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"results\.json cannot be read"):
        said("--out", out)


def test_an_evaluation_of_another_format_is_refused(items, tmp_path, verbs, monkeypatch):
    monkeypatch.setattr(
        Verbs, "_eval", lambda self, out, said: (out / "eval.json").write_text('{"format": "dail.eval/2"}')
    )
    with pytest.raises(IntegrityError, match=r"its format is dail\.eval/2, wanted dail\.eval/3"):
        run(items, tmp_path / "out", "--table", 4)


def test_results_say_whose_they_are_and_hold_no_path_of_this_machine(items, tmp_path):
    run(items, tmp_path / "out", "--table", 4)
    text = (tmp_path / "out" / "results.json").read_text()
    assert Results.model_validate_json(text).model == "model" and str(tmp_path) not in text


def test_a_run_that_trains_whole_models_is_judged_as_models(items, tmp_path, verbs):
    run(items, tmp_path / "out", "--run", "sft", "--study", "verifiable", "--set", "train.tune=full")
    assert [one.partition("=")[0] for one in after("--model", verbs.asked[-1])] == ["base", "sft"]


def test_options_of_a_run_without_one_and_of_the_contents_with_one_are_refused(items, tmp_path):
    for words in (("--dry-run",), ("--study", "proof"), ("--deepscaler", "x")):
        with pytest.raises(UsageError, match=f"{words[0]} is given, and nothing to run"):
            said(*words)
    with pytest.raises(UsageError, match="--markdown is the table of contents"):
        run(items, tmp_path / "out", "--table", 4, "--markdown")
