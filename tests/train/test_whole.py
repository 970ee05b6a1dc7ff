"""Full fine-tuning: gradients of the definition in float64, references of the model as it was, a model folder left."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from transformers import AutoModelForCausalLM

from dail.synth.core.errors import UsageError
from dail.synth.schema.models import identify
from dail.train.checkpoint import CHECKPOINT_FILE
from dail.train.config import TrainConfig
from dail.train.data import load_examples
from dail.train.distributed import Ranks
from dail.train.loading import load_base
from dail.train.loop import run
from dail.train.model import load_roles, read_limits
from dail.train.packing import choose_packing
from dail.train.record import Given, Provenance
from dail.train.references import ReferenceCache, fill, made_with
from dail.train.step import GradientStep
from tests.conftest import Told
from tests.train.conftest import MakeManifest
from tests.train.test_loop import interrupt_before

CPU = torch.device("cpu")
FULL = TrainConfig(tune="full", dtype="float32", epochs=2, checkpoint_every=2, lr=1e-3)


def gradients_by_definition(model: Path, examples, gamma: float, mean: float) -> dict[str, torch.Tensor]:
    """Of the paper's loss in float64, each sequence alone; the references are the model itself, without gradient."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager").eval()

    def log_p(prompt: tuple[int, ...], trace: tuple[int, ...]) -> torch.Tensor:
        return network(torch.tensor([[*prompt, *trace]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)

    for e in examples:
        student = log_p(e.student_prompt_ids, e.trace_ids)
        with torch.no_grad():
            privileged, negative = (log_p(one, e.trace_ids) for one in (e.privileged_prompt_ids, e.negative_prompt_ids))
        loss = (student.exp() * ((student - privileged) - gamma * (student - negative))).sum()
        (loss / (len(examples) * mean)).backward()
    return {name: weight.grad for name, weight in network.named_parameters()}


def test_the_gradient_of_every_weight_but_the_head_s_is_the_definition_s(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    """The tiny model's embedding is tied to its head, and is left alone with it; its gradient plays no part."""
    data = load_examples(make_manifest(4), identify(tiny_model), read_limits(tiny_model))
    roles = choose_packing(load_roles(tiny_model, FULL, CPU), data.examples)
    cache = ReferenceCache(tmp_path / "cache", made_with(identify(tiny_model), roles, FULL))
    fill(cache, roles, data.examples, FULL)
    config = FULL.model_copy(update={"max_grad_norm": 1e9})
    GradientStep(roles, config, data.mean_trace_tokens, cache).gradients(data.examples)
    wanted = gradients_by_definition(tiny_model, data.examples, FULL.gamma, data.mean_trace_tokens)
    assert wanted.keys() - {name.removeprefix("base.") for name in roles.adapter()} == {"model.embed_tokens.weight"}
    for name, weight in roles.adapter().items():
        theirs = wanted[name.removeprefix("base.")].float()
        assert torch.allclose(weight.grad, theirs, rtol=1e-3, atol=1e-4 * float(theirs.abs().max())), name


def test_a_stopped_run_whose_references_are_gone_reads_them_off_the_untrained_model_again(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
):
    manifest = make_manifest(10)
    unbroken = run(tiny_model, manifest, tmp_path / "unbroken", FULL)
    assert "weights are trained, which take" in told()
    with monkeypatch.context() as patch:
        interrupt_before(patch, 4, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(tiny_model, manifest, tmp_path / "stopped", FULL)
    assert (tmp_path / "stopped" / CHECKPOINT_FILE).exists()
    shutil.rmtree(tmp_path / "stopped" / "references")
    resumed = run(tiny_model, manifest, tmp_path / "stopped", FULL)
    assert resumed.resumed_at == 2
    ours, theirs = (load_base(one.adapter, "float32").state_dict() for one in (resumed, unbroken))
    assert all(torch.equal(weight, theirs[name]) for name, weight in ours.items())
    assert run(tiny_model, manifest, tmp_path / "stopped", FULL).resumed_at == resumed.steps


def test_a_run_leaves_a_model_with_the_base_s_files_and_its_lineage_and_brings_the_gap_down(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path
):
    result = run(tiny_model, make_manifest(10), tmp_path / "run", FULL.model_copy(update={"epochs": 8}))
    gaps = [json.loads(line)["gap"] for line in result.metrics.read_text().splitlines()]
    assert sum(gaps[-3:]) < 0.8 * sum(gaps[:3])
    assert result.adapter == tmp_path / "run" / "model" and not (tmp_path / "run" / "adapter").exists()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (result.adapter / name).read_bytes() == (tiny_model / name).read_bytes(), name
    ours, base = identify(result.adapter), identify(tiny_model)
    assert (ours.tokenizer_hash, ours.template_hash) == (base.tokenizer_hash, base.template_hash)
    assert ours.revision != base.revision
    said = Provenance.model_validate_json((result.adapter / "dail.json").read_bytes())
    assert said.run.config.tune == "full" and said.run.model == base
    text = (result.adapter / "README.md").read_text()
    assert "# A model trained by" in text and "| trained | every weight but the head |" in text
    assert "base_model_relation: finetune" in text and "lora" not in text.lower()
    trained, frozen = (load_base(one, "float32") for one in (result.adapter, tiny_model))
    assert torch.equal(trained.lm_head.weight, frozen.lm_head.weight)
    assert not torch.equal(trained.model.norm.weight, frozen.model.norm.weight)


@pytest.mark.parametrize(
    ("changes", "given", "says"),
    [
        ({"reference_states": "live"}, Given(), "reference_states=live"),
        (
            {"shard_weights": True, "optimizer": "paged_adamw_8bit"},
            Given(),
            "optimizer=.* and shard_weights=true, whose .*",
        ),
        ({"dtype": "bfloat16"}, Given(), "dtype=bfloat16"),
        ({"quantise": "nf4"}, Given(), "quantise=nf4"),
        ({}, Given(Path("a"), Path("b")), "--init-adapter, --reference-adapter"),
    ],
)
def test_what_cannot_go_with_it_is_refused_by_name(
    tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path, changes: dict[str, object], given: Given, says: str
):
    if {"quantise", "optimizer"} & changes.keys():
        pytest.importorskip("bitsandbytes", reason="dail[bnb] is not installed")
    with pytest.raises(UsageError, match=f"it cannot go with {says}; leave that out, or set tune=lora"):
        run(tiny_model, make_manifest(4), tmp_path / "run", FULL.model_copy(update=changes), given=given)


def test_one_rank_has_nobody_to_divide_it_with(tiny_model: Path, make_manifest: MakeManifest, tmp_path: Path):
    with pytest.raises(UsageError, match="there is one; start several with torchrun"):
        run(tiny_model, make_manifest(4), tmp_path / "run", FULL.model_copy(update={"shard_weights": True}))


def test_a_torch_whose_ranks_must_all_use_every_expert_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(FSDPModule, "set_reduce_scatter_unused_params")
    with pytest.raises(UsageError, match=r"needs torch 2\.13, .*; upgrade torch, or leave shard_weights off"):
        load_roles(tiny_model, FULL.model_copy(update={"shard_weights": True}), CPU, Ranks(0, 2))
