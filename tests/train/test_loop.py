"""Whole runs on a tiny model: what they leave, and that stopping them anywhere changes nothing."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dail.synth.core.errors import DailError, StorageError, UsageError
from dail.synth.core.progress import Progress, told_to
from dail.synth.core.running import Stop
from dail.synth.run.selection import select
from dail.synth.schema.models import adapter_digest, identify
from dail.synth.schema.selection import Selection
from dail.train import checkpoint, loop
from dail.train.adapter import finished
from dail.train.comparison import reference_weights
from dail.train.config import TrainConfig
from dail.train.loop import Result, run
from dail.train.step import GradientStep
from tests.conftest import ROOT, Told
from tests.train.conftest import MakeManifest, trace_row, write_manifest

SETTINGS = TrainConfig(epochs=2, checkpoint_every=2, lora_rank=4, lr=3e-3, dtype="float32")  # 3 steps an epoch

EMPTY = dict.fromkeys(("rejected_ids", "student_logprob", "privileged_logprob"), (None,) * 40)  # of 40 tokens

Train = Callable[..., Result]


@pytest.fixture
def train(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path) -> Train:
    """`train("name", config)` runs on ten traces into a folder of that name."""
    manifest = make_manifest(10)
    return lambda name, config=SETTINGS, **more: run(tiny_model, manifest, tmp_path / name, config, **more)


def weights(result: Result) -> dict[str, torch.Tensor]:
    return load_file(result.adapter / "adapter_model.safetensors")


def same(one: Result, other: Result) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(result: Result) -> list[dict[str, float]]:
    return [json.loads(line) for line in result.metrics.read_text().splitlines()]


def interrupt_before(monkeypatch: pytest.MonkeyPatch, update: int, error: BaseException) -> None:
    """The given optimizer update of the next run raises instead."""
    real, count = loop.update, itertools.count(1)

    def fail(*args: object) -> None:
        if next(count) == update:
            raise error
        real(*args)

    monkeypatch.setattr(loop, "update", fail)


@pytest.mark.parametrize("states", ["cached", "live"])
def test_training_brings_the_gap_down_and_the_figures_add_up(train: Train, states: str):
    figures = lines(train("run", SETTINGS.model_copy(update={"epochs": 12, "reference_states": states, "kl_every": 1})))
    first, last = figures[:3], figures[-3:]
    assert sum(f["gap"] for f in last) < 0.8 * sum(f["gap"] for f in first)
    for f in figures:
        assert f["loss"] == pytest.approx(f["kl_privileged"] - 0.1 * f["kl_negative"], abs=1e-5)
        assert f["loss"] == pytest.approx(f["gap"] + f["floor"], abs=1e-5)


@pytest.mark.parametrize("objective", ["contrastive", "privileged_kl", "negative_kl"])
def test_figures_of_text_that_repeats_every_8_tokens_add_up_however_it_is_cut(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, objective: str
):
    """The first, every fourth and the last step have both KLs, which are of all tokens: no cut changes them."""
    period = (9, 33, 70, 12, 44, 5, 81, 17)
    manifest = make_manifest(8, trace_ids=period * 5, student_prob=(1.0,) * 40, **EMPTY)
    config = SETTINGS.model_copy(update={"objective": objective, "epochs": 5, "kl_every": 4, "lr": 1e-2})
    cuts = [{}, {"token_chunk": 7}, {"microbatch_tokens": 1, "token_chunk": 8}]
    found = [
        lines(run(tiny_model, manifest, tmp_path / str(n), config.model_copy(update=cut))) for n, cut in enumerate(cuts)
    ]
    weights = reference_weights(config)
    for step, *others in zip(*found, strict=True):
        has_kls = step["step"] in (1, 4, 8, 10)
        assert {name for name in step if name.startswith("kl_")} == {f"kl_{name}" for name in weights if has_kls}
        assert step["student_entropy"] > 0
        if has_kls:
            assert step["loss"] == pytest.approx(sum(w * step[f"kl_{n}"] for n, w in weights.items()), abs=1e-6)
        for other in others:
            assert other.keys() == step.keys()
            for name in step.keys() - {"tokens_s"}:
                assert other[name] == pytest.approx(step[name], rel=2e-4, abs=2e-5), name


@pytest.mark.parametrize("objective", ["privileged_kl", "negative_kl", "nll"])
def test_every_ablation_brings_its_own_loss_down(train: Train, objective: str):
    figures = lines(train("run", SETTINGS.model_copy(update={"epochs": 8, "objective": objective})))
    assert sum(f["loss"] for f in figures[-3:]) < 0.9 * sum(f["loss"] for f in figures[:3])


def test_bfloat16_weights_train_as_well(train: Train):
    figures = lines(train("run", SETTINGS.model_copy(update={"epochs": 8, "dtype": "bfloat16"})))
    assert sum(f["gap"] for f in figures[-3:]) < 0.9 * sum(f["gap"] for f in figures[:3])


@pytest.mark.parametrize("update", [1, 2, 3, 6])
def test_a_run_stopped_at_any_step_ends_with_the_same_weights(
    train: Train, monkeypatch: pytest.MonkeyPatch, update: int
):
    unbroken = train("unbroken")
    with monkeypatch.context() as patch:
        interrupt_before(patch, update, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train("stopped")
    resumed = train("stopped")
    assert resumed.resumed_at == (update - 1) // 2 * 2
    assert same(resumed, unbroken)
    assert [f["step"] for f in lines(resumed)] == [1, 2, 3, 4, 5, 6]
    assert all(
        ours.pop("tokens_s") and theirs.pop("tokens_s") and ours == theirs
        for ours, theirs in zip(lines(resumed), lines(unbroken), strict=True)
    )


def test_a_stopped_run_with_dropout_drops_what_an_unbroken_one_would(train: Train, monkeypatch: pytest.MonkeyPatch):
    settings = SETTINGS.model_copy(update={"lora_dropout": 0.3})
    unbroken = train("unbroken", settings)
    assert not same(unbroken, train("without"))
    with monkeypatch.context() as patch:
        interrupt_before(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train("stopped", settings)
    assert same(train("stopped", settings), unbroken)


def test_a_run_killed_outright_ends_with_the_same_weights(
    train: Train, tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    settings = SETTINGS.model_copy(update={"epochs": 20})
    unbroken = train("unbroken", settings)
    code = (
        "import sys; from pathlib import Path; from dail.train.config import TrainConfig; "
        "from dail.train.loop import run; run(*map(Path, sys.argv[1:4]), TrainConfig.model_validate_json(sys.argv[4]))"
    )
    arguments = [tiny_model, make_manifest(10), tmp_path / "killed", settings.model_dump_json()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here; another split of the sums rounds otherwise
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], cwd=ROOT, env=environment)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 5):
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    resumed = train("killed", settings)
    assert 0 < resumed.resumed_at < resumed.steps
    assert same(resumed, unbroken)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_run_behind_a_step_that_is_kept(
    train: Train, tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, number: int, code: int
):
    settings = SETTINGS.model_copy(update={"epochs": 40, "checkpoint_every": 1000})
    unbroken = train("unbroken", settings)
    given = {"epochs": 40, "checkpoint_every": 1000, "lora_rank": 4, "lr": 3e-3, "dtype": '"float32"'}
    command = [Path(sys.executable).with_name("dail"), "train", "--model", tiny_model, "--manifest", make_manifest(10)]
    command += ["--out", tmp_path / "stopped", "--json"]
    command += [word for name, value in given.items() for word in ("--set", f"train.{name}={value}")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    metrics = tmp_path / "stopped" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 5):
        time.sleep(0.005)
    process.send_signal(number)
    out, err = process.communicate()
    assert process.returncode == code, err
    done = json.loads(out)["stopped_at"]
    assert f"stopped behind step {done} of 120, which is saved; the same command goes on" in err
    resumed = train("stopped", settings)
    assert 5 <= resumed.resumed_at == done < resumed.steps
    assert same(resumed, unbroken)


def test_a_run_is_asked_to_stop_from_python(train: Train, tmp_path: Path):
    stop = Stop()

    def enough(seen: Progress) -> None:
        if seen.title == "training" and seen.done == 3:
            stop.set()

    with told_to(enough):
        result = train("stopped", stop=stop)
    assert (result.stopped_at, result.steps, result.adapter.exists()) == (3, 6, False)
    assert train("stopped").resumed_at == 3


def test_two_runs_in_one_folder_are_refused_and_the_holder_is_named(train: Train, tmp_path: Path):
    with checkpoint.held(tmp_path / "run"):
        why = rf"another run \(process {os.getpid()} on \S+ since .*\) is at work in .*run; wait for it, stop it"
        with pytest.raises(UsageError, match=why):
            train("run")
    assert train("run").steps == 6


def test_what_a_run_leaves_can_be_read_by_whom_the_umask_lets(train: Train):
    before = os.umask(0o027)
    try:
        result = train("run")
    finally:
        os.umask(before)
    found = {path.name: path.stat().st_mode & 0o777 for path in result.adapter.parent.rglob("*.safetensors")}
    assert len(found) >= 3 and set(found.values()) == {0o640}, found


def test_equal_runs_leave_equal_adapters_and_a_digest_of_what_they_say(train: Train, tmp_path: Path):
    one, other = train("one"), train("other")
    config = one.adapter / "adapter_config.json"
    assert config.read_bytes() == (other.adapter / "adapter_config.json").read_bytes()
    said = json.loads(config.read_text())
    assert said["target_modules"] == sorted(said["target_modules"])
    digest = adapter_digest(one.adapter)
    assert digest == adapter_digest(other.adapter)
    config.write_text(json.dumps({**said, "target_modules": said["target_modules"][::-1]}))
    assert adapter_digest(one.adapter) == digest
    config.write_text(json.dumps({**said, "lora_alpha": 1}))
    assert adapter_digest(one.adapter) != digest


def test_a_finished_run_is_not_trained_again(train: Train, monkeypatch: pytest.MonkeyPatch):
    first = train("run")
    monkeypatch.setattr(loop, "load_roles", None)
    again = train("run")
    assert again == Result(first.adapter, first.metrics, steps=6, resumed_at=6)


def test_a_run_that_ended_before_its_adapter_was_written_only_writes_it(train: Train, monkeypatch: pytest.MonkeyPatch):
    unbroken = train("unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(loop.adapter, "save_adapter", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train("stopped")
    resumed = train("stopped")
    assert resumed.resumed_at == 6
    assert same(resumed, unbroken)


def interrupted(*args: object) -> None:
    raise KeyboardInterrupt


def test_another_run_s_folder_is_refused_and_says_in_what_it_differs(train: Train):
    train("run")
    with pytest.raises(UsageError, match=r"another run \(gamma 0\.1 there, 0\.2 here\)"):
        train("run", SETTINGS.model_copy(update={"gamma": 0.2}))


def test_a_run_that_made_no_step_does_not_keep_a_corrected_command_out(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Whatever ended it: what can be refused is, before the folder is claimed, and what cannot leaves no step."""
    with pytest.raises(UsageError, match=r"'v_prooj' matches no layer \(near: v_proj"):
        train("run", SETTINGS.model_copy(update={"lora_targets": ("q_proj", "v_prooj")}))
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="does not fit"):
        patch.setattr(loop.memory, "fit", _raises(UsageError("it does not fit")))
        train("run", SETTINGS.model_copy(update={"lora_rank": 8}))
    with monkeypatch.context() as patch, pytest.raises(UsageError, match="tracker tensorboard cannot start"):
        patch.setattr("dail.train.metrics.TensorBoard", _raises(UsageError("tracker tensorboard cannot start")))
        train("run", SETTINGS.model_copy(update={"lora_rank": 2}))
    assert not (tmp_path / "run" / checkpoint.RUN_FILE).exists()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="out of memory"):
        patch.setattr(GradientStep, "gradients", _raises(RuntimeError("out of memory")))
        train("run", SETTINGS.model_copy(update={"dtype": "bfloat16"}))
    assert (tmp_path / "run" / checkpoint.RUN_FILE).exists()
    assert same(train("run"), train("unbroken"))
    assert train("run").resumed_at == 6


def _raises(error: Exception) -> Callable[..., None]:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    return fail


def test_the_references_of_a_run_that_made_no_step_stay_and_those_of_the_next_lie_beside_them(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(GradientStep, "gradients", _raises(RuntimeError("out of memory")))
        train("run", SETTINGS.model_copy(update={"dtype": "bfloat16"}))
    train("run", SETTINGS.model_copy(update={"epochs": 1}))
    found = sorted(path.name for path in (tmp_path / "run").glob("references*"))
    assert found[0] == "references" and len(found) == 2


def test_a_run_whose_adapter_no_gradient_reaches_ends_before_it_keeps_a_step(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    real = GradientStep.gradients

    def cut_off(scorer: GradientStep, *args: object) -> dict[str, float]:
        figures = real(scorer, *args)
        for weight in scorer.roles.adapter().values():
            weight.grad = None
        return figures

    with monkeypatch.context() as patch, pytest.raises(UsageError, match="step 1: no gradient reaches the adapter"):
        patch.setattr(GradientStep, "gradients", cut_off)
        train("run")
    assert not (tmp_path / "run" / checkpoint.CHECKPOINT_FILE).exists() and not lines_of(tmp_path / "run")
    assert train("run", SETTINGS.model_copy(update={"epochs": 1})).steps == 3


def lines_of(out: Path) -> list[str]:
    return (out / "metrics.jsonl").read_text().splitlines()


def test_what_is_adapted_is_said_before_the_first_step(train: Train, told: Told):
    train("run", SETTINGS.model_copy(update={"epochs": 1, "lora_targets": ("q_proj",)}))
    said = told()
    assert "on 2 linear layers: q_proj × 2" in said and "of the model's weights: " in said and "left out" not in said


def test_traces_that_are_too_long_are_counted_in_the_records_and_make_another_run(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    manifest = make_manifest(6, privileged_prompt_ids=(3,) * 128)
    config = SETTINGS.model_copy(update={"epochs": 1})
    with pytest.raises(UsageError, match=r"the model reads 128; .* set train\.too_long=drop"):
        run(tiny_model, manifest, tmp_path / "run", config)
    dropping = config.model_copy(update={"too_long": "drop"})
    result = run(tiny_model, manifest, tmp_path / "run", dropping)
    assert result.steps == 2  # of 5 traces
    for path in (tmp_path / "run" / "run.json", result.adapter / "dail.json"):
        found = json.loads(path.read_text())
        assert found.get("run", found)["dropped_traces"] == 1
    with pytest.raises(UsageError, match=r"another run \(too_long drop there, fail here\)"):
        run(tiny_model, manifest, tmp_path / "run", config)


def test_memory_settings_may_change_when_a_run_goes_on(train: Train, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        interrupt_before(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train("run")
    assert train("run", SETTINGS.model_copy(update={"microbatch_tokens": 64, "token_chunk": 8})).resumed_at == 2


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_traces(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    real, count = GradientStep.gradients, itertools.count(1)

    def poisoned(*args: object) -> dict[str, float]:
        figures = real(*args)
        return {**figures, "loss": float("nan")} if next(count) == 4 else figures

    monkeypatch.setattr(GradientStep, "gradients", poisoned)
    with pytest.raises(DailError, match=r"step 4: the loss is nan.*traces [0-9a-f]{32}, .*checkpoint\.safetensors"):
        train("run")
    monkeypatch.undo()
    assert train("run").resumed_at == 3


def test_a_full_disk_stops_the_run_and_keeps_the_last_checkpoint(
    train: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    unbroken = train("unbroken")
    real, count = loop.checkpoint.save_file, itertools.count(1)

    def full(tensors: object, path: Path, **options: object) -> None:
        if "checkpoint" in path.name and next(count) == 2:
            path.write_bytes(b"half a checkpoint")
            raise OSError(28, "No space left on device")
        real(tensors, path, **options)

    monkeypatch.setattr(loop.checkpoint, "save_file", full)
    with pytest.raises(StorageError, match="what was there before is kept; free some space"):
        train("run")
    resumed = train("run")
    assert resumed.resumed_at == 2
    assert same(resumed, unbroken)


def test_a_large_gamma_is_warned_of(train: Train, told: Told):
    train("quiet", SETTINGS.model_copy(update={"epochs": 1, "gamma": 0.5}))
    assert "is above" not in told()
    train("loud", SETTINGS.model_copy(update={"epochs": 1, "gamma": 0.6}))
    assert "gamma 0.6 is above 0.5" in told()


def test_traces_of_a_student_of_its_own_are_told_of_and_recorded(tiny_model: Path, tmp_path: Path, told: Told):
    model = identify(tiny_model).model_copy(update={"student": "sha256:theadapter"})
    rows = [trace_row(f"{i:032x}", model, seed=i, student_revision=model.student) for i in range(4)]
    result = run(tiny_model, write_manifest(tmp_path / "shards", model, rows), tmp_path / "run", SETTINGS)
    assert "training starts from the bare model, which did not write them" in told()
    provenance = finished(tmp_path / "run")
    assert provenance and provenance.run.student == "sha256:theadapter"
    assert "sha256:theadapter" in (result.adapter / "README.md").read_text()


def test_how_traces_were_chosen_is_in_the_records_and_the_card(
    make_manifest: MakeManifest, tiny_model: Path, tmp_path: Path
):
    chosen = select(make_manifest(4), "best", by="shortest")
    result = run(tiny_model, chosen.manifest, tmp_path / "run", SETTINGS.model_copy(update={"epochs": 1}))
    for path in (tmp_path / "run" / "run.json", result.adapter / "dail.json"):
        found = json.loads(path.read_text())
        assert Selection.model_validate(found.get("run", found)["selection"]) == chosen.selection
    assert (
        "| chosen by | best (by shortest): 4 of 4 traces; of 4 of 4 items |"
        in (result.adapter / "README.md").read_text()
    )


REFERENCES = {"privileged": 1.0, "negative": -0.1, "student": 0.2}


@pytest.mark.parametrize("states", ["cached", "live"])
@pytest.mark.parametrize(
    ("settings", "floor"),
    [
        ({"references": REFERENCES, "reference_temperature": 0.7, "student_temperature": 0.7}, True),
        ({"references": {"privileged": 1.0, "student": 0.2}, "divergence": "forward"}, True),
        ({"references": REFERENCES, "divergence": "jsd", "jsd_beta": 0.3}, False),
        ({"divergence": "jsd", "gamma": 0.0}, True),
    ],
)
def test_any_references_and_divergence_come_down_and_say_what_they_are_made_of(
    train: Train, states: str, settings: dict[str, object], floor: bool
):
    config = TrainConfig.model_validate({**SETTINGS.model_dump(), **settings, "epochs": 10, "reference_states": states})
    result = train("run", config)
    found, names = lines(result), set(reference_weights(config))
    key = "gap" if floor else "loss"
    assert sum(step[key] for step in found[-3:]) < 0.9 * sum(step[key] for step in found[:3])
    assert ({"gap", "floor"} <= found[0].keys()) is floor
    assert {name for name in found[0] if name.startswith("kl_")} == {f"kl_{name}" for name in names}
    if config.divergence == "reverse":
        assert found[0]["loss"] == pytest.approx(sum(w * found[0][f"kl_{n}"] for n, w in REFERENCES.items()), abs=1e-5)
    card, curves = ((result.adapter / "README.md").read_text(), (result.adapter.parent / "curves.svg").read_text())
    if config.references:
        assert "| references | privileged 1, " in card and "| gamma |" not in card
        assert "KL to the base model" in curves
    assert ("| divergence | jsd, beta 0." in card) == (config.divergence == "jsd")
    assert ("| temperatures | student 0.7, references 0.7 |" in card) == (config.student_temperature == 0.7)


@pytest.mark.parametrize(
    "changes",
    [
        {"references": {"privileged": 1.0, "negative": -0.2}},
        {"reference_temperature": 0.6},
        {"student_temperature": 0.6},
        {"divergence": "jsd"},
        {"divergence": "jsd", "jsd_beta": 0.3},
        {"token_weights": "position"},
    ],
)
def test_a_run_does_not_go_on_with_another_comparison(train: Train, changes: dict[str, object]):
    config = SETTINGS.model_copy(update={"epochs": 1, "divergence": "jsd"} if "jsd_beta" in changes else {"epochs": 1})
    train("run", config)
    with pytest.raises(UsageError, match=f"another run .*{next(reversed(changes))} .* there, .* here"):
        train("run", config.model_copy(update=changes))


@pytest.mark.parametrize("settings", [{}, {"objective": "privileged_kl"}, {"references": {"student": 1.0}}])
@pytest.mark.parametrize("states", ["cached", "live"])
def test_a_model_distilled_onto_itself_has_nothing_to_learn_and_is_told_so(
    tiny_model: Path, tmp_path: Path, told: Told, settings: dict[str, Any], states: str
):
    model = identify(tiny_model)
    rows = [trace_row(f"{number:032x}", model, number) for number in range(4)]
    alike = [row.model_copy(update={"privileged_prompt_ids": row.student_prompt_ids,
                                    "negative_prompt_ids": row.student_prompt_ids}) for row in rows]  # fmt: skip
    alike = rows if "references" in settings else alike  # one is the student itself, whatever the others read
    config = TrainConfig.model_validate({**settings, "reference_states": states, "epochs": 1})
    result = run(tiny_model, write_manifest(tmp_path / "alike", model, alike), tmp_path / "run", config)
    assert "student and references read the same contexts" in told()
    assert not any(weight.any() for name, weight in weights(result).items() if "lora_B" in name)


def test_a_loss_that_no_gradient_comes_from_is_refused_all_the_same(tiny_model: Path, tmp_path: Path):
    """Contexts are alike, and the objective of one's own is constant, but not 0."""
    model = identify(tiny_model)
    rows = [trace_row(f"{number:032x}", model, number) for number in range(4)]
    alike = [row.model_copy(update={"privileged_prompt_ids": row.student_prompt_ids}) for row in rows]
    own = tmp_path / "own.py"
    own.write_text("def flat(student, privileged, negative, trace, gamma):\n    return 0 * student.sum(-1) + 1\n")
    settings = TrainConfig(objective=f"{own}:flat", epochs=1)
    with pytest.raises(UsageError, match="no gradient reaches the adapter"):
        run(tiny_model, write_manifest(tmp_path / "alike", model, alike), tmp_path / "run", settings)
