"""A user's own objective: its gradient, what is refused of it and when, and what a run says that was trained on it."""

from __future__ import annotations

import importlib.metadata
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dail.synth.core.errors import UsageError
from dail.synth.core.extensions import label
from dail.synth.core.settings import read, settings_of
from dail.synth.schema.models import identify
from dail.train import loop, memory
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, load_examples
from dail.train.loop import compute_references, run
from dail.train.loss import Head, adapted_divergence_loss, adapted_own_loss, own_loss
from dail.train.model import load_roles
from dail.train.objective import OBJECTIVES, checked
from dail.train.step import GradientStep
from tests.train.conftest import CONTEXT, VOCABULARY, MakeManifest
from tests.train.test_distributed import agree, torchrun
from tests.train.test_loop import SETTINGS, Train, interrupt_before, lines, same, train, weights
from tests.train.test_loss import R, V, gradient, kl_loss, largest_tensor, pair, roles
from tests.train.test_model import CPU, stir

__all__ = ["train"]  # a fixture

SOURCE = """
def contrastive(student_CV, privileged_CV, negative_CV, trace_C, gamma):
    log_p_CV, log_q_CV, log_n_CV = (logits.log_softmax(-1) for logits in (student_CV, privileged_CV, negative_CV))
    return (log_p_CV.exp() * ((log_p_CV - log_q_CV) - gamma * (log_p_CV - log_n_CV))).sum(-1)
"""
TRACE = torch.randint(V, (R,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def config(file: Path) -> TrainConfig:
    return TrainConfig.model_validate({**SETTINGS.model_dump(), "objective": f"{file}:contrastive", "gamma": 0.3})


def own(file: Path) -> Any:
    return OBJECTIVES.load(f"{file}:contrastive")


@pytest.mark.parametrize("changes", [{}, {"cap": 3.0, "scale": 0.5, "bias_V": torch.linspace(-1, 1, V).double()}])
@pytest.mark.parametrize("chunk", [1, 5, R])
def test_its_gradient_is_the_built_in_one_s_where_both_are_the_same_loss(
    file: Path, changes: dict[str, Any], chunk: int
):
    student, privileged, negative, matrix = roles()
    head, outer = Head(matrix, **changes), torch.rand(R, dtype=torch.float64)
    wanted, all_figures = kl_loss(student, privileged, negative, head, pair(1.0, -0.3), chunk)
    got, figures = own_loss(student, privileged, negative, TRACE, head, own(file), 0.3, chunk)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12) and torch.equal(figures["loss"], got)
    assert torch.allclose(
        gradient((got * outer).sum(), student), gradient((wanted * outer).sum(), student), rtol=0, atol=1e-12
    )
    for name in ("kl_privileged", "kl_negative", "student_entropy"):
        assert torch.equal(figures[name], all_figures[name]), name
    assert figures.keys() == {"loss", "kl_privileged", "kl_negative", "student_entropy"}
    bare, fewer = own_loss(student, privileged, negative, TRACE, head, own(file), 0.3, chunk, with_kls=False)
    assert torch.equal(bare, got) and fewer.keys() == {"loss"}


def test_so_is_an_adapted_head_s_and_its_adapter_s(file: Path):
    student, privileged, negative, matrix = roles()
    head, adapted = Head(matrix, cap=3.0), nn.Linear(*matrix.shape[::-1], bias=False, dtype=torch.float64)
    references, found = {"privileged": privileged, "negative": negative}, []
    for loss, _ in (
        adapted_divergence_loss(student, references, head, adapted, pair(1.0, -0.3), 5),
        adapted_own_loss(student, privileged, negative, TRACE, head, adapted, own(file), 0.3, 5),
    ):
        found.append((loss.detach(), *torch.autograd.grad(loss.square().sum(), (student, adapted.weight))))
    for wanted, got in zip(*found, strict=True):
        assert torch.allclose(got, wanted, rtol=0, atol=1e-12)


def test_it_gets_whole_rows_without_gradient_but_the_student_s_and_the_trace_and_gamma():
    seen = []

    def watching(student_CV: Tensor, privileged_CV: Tensor, negative_CV: Tensor, trace_C: Tensor, gamma: float):
        seen.append((trace_C.tolist(), gamma, privileged_CV.requires_grad, negative_CV.requires_grad))
        assert student_CV.shape == privileged_CV.shape == negative_CV.shape == (len(trace_C), V)
        assert student_CV.dtype == privileged_CV.dtype == torch.float32 and student_CV.requires_grad
        return student_CV.sum(-1)

    student, privileged, negative, matrix = (tensor.detach().bfloat16() for tensor in roles())
    for tensor in (student, privileged, negative):
        tensor.requires_grad_()
    with largest_tensor() as sizes:
        loss, _ = own_loss(student, privileged, negative, TRACE, Head(matrix, cap=3.0), watching, 0.4, 5)
        loss.sum().backward()
    assert seen == [(part.tolist(), 0.4, False, False) for part in TRACE.split(5)]
    assert student.grad is not None and privileged.grad is None and negative.grad is None
    assert max(sizes) <= max(5 * V, matrix.numel(), R * matrix.shape[1])


def examples(tiny_model: Path, manifest: Path) -> tuple[Example, ...]:
    return load_examples(manifest, identify(tiny_model), ModelLimits(CONTEXT, VOCABULARY)).examples


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "lm_head")])
def test_a_step_has_the_built_in_one_s_gradients(
    tiny_model: Path, make_manifest: MakeManifest, config: TrainConfig, targets: Any
):
    config = config.model_copy(update={"lora_targets": targets, "token_chunk": 7, "max_grad_norm": 1e9})
    roles, batch, found = load_roles(tiny_model, config, CPU), examples(tiny_model, make_manifest(4)), []
    stir(roles)
    for objective in (config.objective, "contrastive"):
        roles.peft.zero_grad()
        GradientStep(roles, config.model_copy(update={"objective": objective}), 10.0).gradients(batch)
        found.append({name: weight.grad.clone() for name, weight in roles.adapter().items()})
    assert any("lm_head" in name for name in found[0]) == (targets != "all-linear")
    for name, wanted in found[1].items():
        assert torch.allclose(found[0][name], wanted, rtol=1e-3, atol=1e-5), name


@pytest.mark.parametrize("states", ["cached", "live"])
def test_a_whole_run_is_the_built_in_one_up_to_rounding(train: Train, config: TrainConfig, states: str):
    config = config.model_copy(update={"reference_states": states})
    ours = train("own", config)
    theirs = train("builtin", config.model_copy(update={"objective": "contrastive"}))
    for mine, wanted in zip(lines(ours), lines(theirs), strict=True):
        assert mine["loss"] == pytest.approx(wanted["loss"], abs=1e-4)
        assert "gap" not in mine and "floor" not in mine
        assert ("kl_privileged" in mine) == ("student_entropy" in mine) == (mine["step"] in (1, 6))
        if "kl_privileged" in mine:
            assert mine["loss"] == pytest.approx(mine["kl_privileged"] - 0.3 * mine["kl_negative"], abs=1e-5)
    assert all(torch.allclose(weights(ours)[name], wanted, atol=1e-3) for name, wanted in weights(theirs).items())
    assert (ours.adapter.parent / "curves.svg").is_file()
    assert (ours.adapter.parent / "references").exists() == (states == "cached")


def test_a_cache_serves_it_and_the_built_in_ones_alike(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
):
    manifest, folder = make_manifest(6), tmp_path / "references"
    assert compute_references(tiny_model, manifest, folder, config).num_traces == 6
    monkeypatch.setattr("dail.train.references._compute", None)
    run(tiny_model, manifest, tmp_path / "own", config, folder)
    run(tiny_model, manifest, tmp_path / "builtin", SETTINGS, folder)


def test_two_ranks_make_the_adapter_of_one(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, config: TrainConfig
):
    manifest, config = make_manifest(7), config.model_copy(update={"lr": 1e-3, "epochs": 1})
    run(tiny_model, manifest, tmp_path / "alone", config)
    process = torchrun(tiny_model, manifest, tmp_path / "two", config)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert agree(tmp_path / "alone", tmp_path / "two")


def test_more_memory_is_forecast_for_whole_rows(tiny_model: Path, make_manifest: MakeManifest, config: TrainConfig):
    roles, example = load_roles(tiny_model, config, CPU), examples(tiny_model, make_manifest(1))[0]
    folded = config.model_copy(update={"objective": "contrastive"})
    ours, theirs = (memory.count(GradientStep(roles, one, 10.0), [example]) for one in (config, folded))
    assert ours.fixed - theirs.fixed == 4 * 9 * config.token_chunk * VOCABULARY


def test_run_and_adapter_say_which_source_it_was(train: Train, config: TrainConfig, file: Path):
    result = train("run", config)
    pinned = OBJECTIVES.pin(f"{file}:contrastive")
    assert json.loads((result.adapter.parent / "run.json").read_text())["config"]["objective"] == pinned
    in_adapter = json.loads((result.adapter / "dail.json").read_text())["run"]["config"]["objective"]
    assert in_adapter == label(pinned), "no path of this machine"
    card = (result.adapter / "README.md").read_text()
    assert f"| objective | {label(pinned)} |" in card and "| gamma | 0.3 |" in card


def test_a_run_goes_on_under_the_same_source_alone_wherever_it_lies(
    train: Train, config: TrainConfig, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    unbroken = train("unbroken", config)
    with monkeypatch.context() as patch:
        interrupt_before(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            train("stopped", config)
    (tmp_path / "elsewhere").mkdir()
    moved = file.rename(tmp_path / "elsewhere" / "mine.py")
    file.write_text(SOURCE.replace("gamma *", "2 * gamma *"))
    digests = [OBJECTIVES.pin(f"{path}:contrastive").partition("#")[2] for path in (moved, file)]
    with pytest.raises(
        UsageError,
        match=rf"another run \(objective contrastive#{digests[0]} there, contrastive#{digests[1]} here; after # stands "
        r"the digest of a source\); give another --out",
    ):
        train("stopped", config)
    resumed = train("stopped", config.model_copy(update={"objective": f"{moved}:contrastive"}))
    assert resumed.resumed_at == 2 and same(resumed, unbroken)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("def own(*_): return 1.0", r"it gives a float; wanted floating-point numbers \[3\]"),
        ("def own(s, p, n, t, g): return (s - p).square().mean()", r"it gives float32 \[\]; wanted .* \[3\]"),
        ("def own(s, p, n, t, g): return s - p", r"it gives float32 \[3, 7\]"),
        ("def own(s, p, n, t, g): return (s - p).sum(-1).squeeze()", r"it gives float32 \[\]; wanted .* \[1\]"),
        ("def own(s, p, n, t, g): return s.argmax(-1)", r"it gives int64 \[3\]"),
        ("def own(s, p, n, t, g): return s.detach().sum(-1)", "no gradient to the student's logits"),
        ("def own(s, p, n, t, g): return n.clone().requires_grad_().sum(-1)", "no gradient to the student's logits"),
        ("def own(s, p, n, t, g): return (s - s.mean(0)).square().sum(-1)", "one at a time; wanted the same"),
        ("def own(student, privileged): return student", r"raises TypeError: .* takes 2 positional arguments but 5"),
        ("def own(s, p, n, t, g): raise SystemExit(0)", "raises SystemExit: 0"),
        ("import sys; sys.exit()", "cannot be imported: SystemExit"),
        ("own = 7", "raises TypeError: 'int' object is not callable"),
        ("1 / 0", "cannot be imported: ZeroDivisionError"),
        ("other = 7", "has nothing named own"),
    ],
)
def test_what_is_no_objective_is_refused_before_the_model_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, why: str
):
    (tmp_path / "bad.py").write_text(source)
    monkeypatch.setattr(loop, "identify", None)
    config = TrainConfig(objective=f"{tmp_path}/bad.py:own")
    with pytest.raises(UsageError, match=rf"objective .*bad\.py:own.*{why}"):
        run(tmp_path / "model", tmp_path / "manifest", tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_a_source_that_is_not_the_pinned_one_is_refused(file: Path):
    pinned = checked(f"{file}:contrastive")
    file.write_text(SOURCE + "\n")
    with pytest.raises(UsageError, match="it changed since this began"):
        checked(pinned)


def test_ranks_that_read_different_sources_do_not_begin(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, config: TrainConfig
):
    class Two(loop.Ranks):
        def gather(self, value: Any) -> list[Any]:
            return [value, next(count)]

    count = itertools.count()
    with pytest.raises(UsageError, match="the ranks have different settings, models or sources"):
        run(tiny_model, make_manifest(4), tmp_path / "run", config, ranks=Two(0, 2))


def test_an_entry_point_s_name_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "site_losses.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    declared = importlib.metadata.EntryPoint("mine", "site_losses:contrastive", "dail.objectives")
    monkeypatch.setattr(
        "dail.synth.core.extensions.entry_points",
        lambda group, name="mine": [declared] if (group, name) == ("dail.objectives", "mine") else [],
    )
    assert checked(TrainConfig(objective="mine").objective).startswith("mine#")
    assert checked("site_losses:contrastive").startswith("site_losses:contrastive#")


def test_settings_show_the_names_and_that_there_may_be_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    setting = settings_of("train")["objective"]
    assert setting.kind == "contrastive|privileged_kl|negative_kl|nll or FILE.py:NAME|MODULE:NAME|NAME"
    assert setting.choices == OBJECTIVES.builtin
    monkeypatch.chdir(tmp_path)
    config = read("train", None, ["objective=mine.py:own"]).load(TrainConfig, "train")
    assert config.objective == f"{tmp_path}/mine.py:own"


@pytest.mark.parametrize("wrong", ["contrastiv", "mine.py", "./mine"])
def test_a_name_that_nobody_declares_is_refused_with_those_that_there_are(wrong: str):
    with pytest.raises(
        UsageError,
        match=r"train\.objective: there is no objective '.*'; known are contrastive, privileged_kl, negative_kl, nll; "
        r"your own is FILE\.py:NAME, MODULE:NAME, or an entry point of dail\.objectives",
    ):
        read("train", None, [f"objective={wrong}"]).load(TrainConfig, "train")
