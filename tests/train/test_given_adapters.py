"""Runs that start from an adapter, and runs whose references have one on; PEFT's own model is the oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import adapter_digest, identify
from dail.train.card import card
from dail.train.config import TrainConfig
from dail.train.consistency import check_rollout
from dail.train.data import load_examples, pad
from dail.train.given_adapters import check_start, read_given, take_given
from dail.train.loop import Result, compute_references, run
from dail.train.model import load_roles, read_limits
from dail.train.record import Given, GivenAdapter, Provenance, RunRecord
from tests.conftest import Told
from tests.train.conftest import MakeManifest, trace_row, write_manifest
from tests.train.test_consistency import with_logprobs

CPU = torch.device("cpu")
SETTINGS = TrainConfig(epochs=1, lora_rank=4, lora_alpha=8, lr=3e-3, warmup_steps=0, dtype="float32")
STILL = SETTINGS.model_copy(update={"lr": 1e-20, "weight_decay": 0.0})
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

Make = Callable[..., Path]


@pytest.fixture
def make_adapter(tiny_model: Path, tmp_path: Path) -> Make:
    """`make_adapter("name", seed, **LoRA settings)`: as PEFT saves one, with weights that change the model much."""

    def make(name: str = "given", seed: int = 3, **settings: object) -> Path:
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        lora = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": "CAUSAL_LM", **settings})
        torch.manual_seed(seed)
        peft = get_peft_model(base, lora)
        for weight in (weight for name, weight in peft.named_parameters() if ".lora_" in name):
            torch.nn.init.normal_(weight, std=0.2)
        peft.save_pretrained(tmp_path / name, save_embedding_layers=False)
        return tmp_path / name

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def metrics(result: Result) -> list[dict[str, float]]:
    return [json.loads(line) for line in result.metrics.read_text().splitlines()]


def peft_hidden(model: Path, adapter: Path, ids: tuple[int, ...]) -> torch.Tensor:
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, adapter).eval()
    with torch.no_grad():
        return peft.get_base_model().model(torch.tensor([ids])).last_hidden_state[0]


def test_training_starts_from_the_weights_that_it_is_given(
    tiny_model: Path, make_manifest: MakeManifest, make_adapter: Make, tmp_path: Path
):
    given, manifest = make_adapter(), make_manifest(6)
    still = run(tiny_model, manifest, tmp_path / "still", STILL, given=Given(init_adapter=given))
    assert read_given(tmp_path / "still", tiny_model) == read_given(still.adapter, tiny_model)  # a run's, by its folder
    assert weights(still.adapter).keys() == weights(given).keys()
    assert all(torch.equal(weight, weights(given)[name]) for name, weight in weights(still.adapter).items())
    fresh = run(tiny_model, manifest, tmp_path / "fresh", STILL)
    moved = run(tiny_model, manifest, tmp_path / "moved", SETTINGS, given=Given(init_adapter=given))
    assert metrics(still)[0]["gap"] != pytest.approx(metrics(fresh)[0]["gap"], rel=0.1)
    assert metrics(still)[0]["gap"] == pytest.approx(metrics(moved)[0]["gap"], rel=1e-5)
    assert not torch.equal(*(next(iter(weights(one).values())) for one in (moved.adapter, given)))


def roles_with(tiny_model: Path, config: TrainConfig = SETTINGS, **given: Path):
    found = {name: GivenAdapter(folder=str(folder), digest=adapter_digest(folder)) for name, folder in given.items()}
    return take_given(load_roles(tiny_model, config, CPU), RunRecord.model_construct(config=config, **found))


@pytest.mark.parametrize("lora", ["lean", "peft"])
@pytest.mark.parametrize("settings", [{}, {"r": 2, "lora_alpha": 3, "target_modules": ["q_proj", "up_proj"]}])
def test_references_are_what_peft_makes_of_that_adapter_and_the_student_is_not(
    tiny_model: Path, make_adapter: Make, lora: str, settings: dict[str, object]
):
    config = SETTINGS.model_copy(update={"lora": lora, "lora_dropout": 0.5, "lora_targets": ("v_proj", "q_proj")})
    given, bare = make_adapter(**settings, lora_dropout=0.9), load_roles(tiny_model, config, CPU)
    roles = roles_with(tiny_model, config, reference_adapter=given)
    prompt, trace = (5, 7, 9, 11), (13, 15, 17)
    batch = pad([prompt], [trace], CPU)
    wanted = peft_hidden(tiny_model, given, (*prompt, *trace))[3:6]
    assert torch.allclose(roles.reference(batch), wanted, atol=1e-5)
    assert not torch.allclose(bare.reference(batch), wanted, atol=1e-2)
    assert torch.equal(roles.student(batch), bare.reference(batch))  # fresh layers change nothing yet
    assert torch.equal(roles.given_or_bare(batch, None), bare.reference(batch))
    assert roles.adapter().keys() == bare.adapter().keys()


def test_cached_and_live_references_give_the_same_losses_and_another_adapter_s_are_not_taken(
    tiny_model: Path, make_manifest: MakeManifest, make_adapter: Make, tmp_path: Path
):
    given, manifest, cache = Given(reference_adapter=make_adapter()), make_manifest(6), tmp_path / "cache"
    cached = run(tiny_model, manifest, tmp_path / "cached", SETTINGS, cache, given=given)
    live_settings = SETTINGS.model_copy(update={"reference_states": "live"})
    live = run(tiny_model, manifest, tmp_path / "live", live_settings, given=given)
    bare = run(tiny_model, manifest, tmp_path / "bare", SETTINGS)
    for ours, theirs in zip(metrics(cached), metrics(live), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
    assert metrics(cached)[0]["loss"] != pytest.approx(metrics(bare)[0]["loss"], rel=0.1)
    assert weights(cached.adapter).keys() == weights(bare.adapter).keys()
    for other in (Given(), Given(reference_adapter=make_adapter("other", seed=4))):
        with pytest.raises(UsageError, match=r"something else \(adapter sha256:.* there, .* here\)"):
            compute_references(tiny_model, manifest, cache, SETTINGS, given=other)


def test_where_the_start_and_the_references_are_one_adapter_every_gap_of_the_prompts_is_left_alone(
    tiny_model: Path, make_adapter: Make
):
    """Both loaded: the student then gives what the references give in the same context."""
    given = make_adapter()
    roles = roles_with(tiny_model, init_adapter=given, reference_adapter=given)
    batch = pad([(5, 7, 9, 11)], [(13, 15, 17)], CPU)
    assert torch.allclose(roles.student(batch), roles.reference(batch), atol=1e-6)


def test_a_run_names_what_it_was_given_and_another_start_is_another_run(
    tiny_model: Path, make_manifest: MakeManifest, make_adapter: Make, tmp_path: Path
):
    one, other, manifest = make_adapter("one"), make_adapter("other", seed=4), make_manifest(5)
    result = run(tiny_model, manifest, tmp_path / "run", SETTINGS, given=Given(one, other))
    said = Provenance.model_validate_json((result.adapter / "dail.json").read_bytes())
    assert said.run.init_adapter == GivenAdapter(folder="one", digest=adapter_digest(one))
    assert said.run.reference_adapter == GivenAdapter(folder="other", digest=adapter_digest(other))
    text = card(said, said.run)
    assert f"| started from the adapter | {adapter_digest(one)} |" in text
    assert f"| adapter of the references | {adapter_digest(other)} |" in text
    with pytest.raises(UsageError, match=r"holds another run .*init adapter sha256:.* there, None here"):
        run(tiny_model, manifest, tmp_path / "run", SETTINGS, given=Given(reference_adapter=other))
    assert run(tiny_model, manifest, tmp_path / "run", SETTINGS, given=Given(one, other)).resumed_at == result.steps


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"r": 8}, "has rank 8, lora_rank is 4; .* set lora_rank=8"),
        ({"lora_alpha": 16}, "has alpha 16, lora_alpha is 8"),
        ({"use_rslora": True}, "has use_rslora=True"),
        ({"rank_pattern": {"q_proj": 2}}, "has rank_pattern="),
        ({"alpha_pattern": {"q_proj": 2}}, "has alpha_pattern="),
        ({"target_modules": ["q_proj"]}, r"it is not on down_proj × 2, .*; set lora_targets=q_proj$"),
        ({"use_dora": True}, "has use_dora"),
    ],
)
def test_an_adapter_that_training_cannot_go_on_from_is_refused_with_what_would_do(
    tiny_model: Path, make_manifest: MakeManifest, make_adapter: Make, tmp_path: Path, settings: dict, message: str
):
    given = Given(init_adapter=make_adapter(**settings))
    with pytest.raises(UsageError, match=message):
        run(tiny_model, make_manifest(4), tmp_path / "run", SETTINGS, given=given)
    assert not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("targets", [["lm_head", "q_proj"], ["embed_tokens"]])
def test_an_adapter_of_the_references_on_head_or_embedding_is_refused(
    tiny_model: Path, make_adapter: Make, targets: list[str]
):
    with pytest.raises(UsageError, match=f"adapts base_model.model.*{targets[0]}; wanted one on linear layers"):
        roles_with(tiny_model, reference_adapter=make_adapter(target_modules=targets))


def test_no_adapter_at_all_and_one_of_another_model_are_refused(tiny_model: Path, make_adapter: Make, tmp_path: Path):
    with pytest.raises(UsageError, match="is no adapter folder"):
        read_given(tmp_path, tiny_model)
    folder = make_adapter()
    config = json.loads((folder / "adapter_config.json").read_text()) | {"r": 5}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="of different runs"):
        read_given(folder, tiny_model)
    assert read_given(None, tiny_model) is None and check_start(None, SETTINGS) is None


def drawn_with(tiny_model: Path, adapter: Path, count: int = 6):
    """Rows whose student had the adapter on, by PEFT in float64; the privileged student was the bare model."""
    network = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float64, attn_implementation="eager")
    plain = [trace_row(f"{i:032x}", identify(tiny_model), seed=i) for i in range(count)]
    bare = [with_logprobs(network.eval(), row) for row in plain]
    peft = PeftModel.from_pretrained(network, adapter).double().eval()
    own = [with_logprobs(peft, row) for row in plain]
    return [
        row.model_copy(update={"student_logprob": other.student_logprob, "student_revision": adapter_digest(adapter)})
        for row, other in zip(bare, own, strict=True)
    ]


@pytest.mark.parametrize("role", ["init_adapter", "reference_adapter"])
def test_the_student_s_numbers_are_held_against_the_adapter_that_it_had_on(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, role: str, told: Told
):
    given, other = make_adapter(), make_adapter("other", seed=4)
    rows, config = drawn_with(tiny_model, given), SETTINGS.model_copy(update={"lora_dropout": 0.5})
    manifest = write_manifest(tmp_path / "shards", identify(tiny_model), rows)
    data = load_examples(manifest, identify(tiny_model), read_limits(tiny_model))
    found = check_rollout(roles_with(tiny_model, config, **{role: given}), data, manifest, config)
    assert [one.role for one in found] == ["student", "privileged"] and all(one.error < 1e-3 for one in found)
    found = check_rollout(roles_with(tiny_model, config, **{role: other}), data, manifest, config)
    assert [one.role for one in found] == ["privileged"]
    assert f"the student of the traces had {adapter_digest(given)[:19]} on, which this run was not given" in told()
    wrong = roles_with(tiny_model, config, **{role: other})
    wrong = replace(wrong, given={adapter_digest(given): next(iter(wrong.given.values()))})
    with pytest.raises(UsageError, match="does not give the log-probabilities"):
        check_rollout(wrong, data, manifest, config)


def test_the_start_is_warned_of_unless_it_is_the_student_that_drew_the_traces(
    tiny_model: Path, make_adapter: Make, tmp_path: Path, told: Told
):
    given, other = make_adapter(), make_adapter("other", seed=4)
    model = identify(tiny_model, student=given)
    rows = [row.model_copy(update={"model_name": model.name}) for row in drawn_with(tiny_model, given)]
    manifest = write_manifest(tmp_path / "shards", model, rows)
    run(tiny_model, manifest, tmp_path / "own", SETTINGS, given=Given(init_adapter=given))
    assert "drawn by a student of its own" not in told()
    run(tiny_model, manifest, tmp_path / "bare", SETTINGS)
    assert f"({adapter_digest(given)[:19]}), and training starts from the bare model" in told()
    run(tiny_model, manifest, tmp_path / "other", SETTINGS, given=Given(init_adapter=other))
    assert f"training starts from another adapter ({adapter_digest(other)[:19]})" in told()
