"""The log-probabilities in the shards are the oracle of the trainer: what it computes otherwise is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from dail.synth.core.errors import IntegrityError, UsageError
from dail.synth.schema.models import identify
from dail.synth.schema.shards import TraceRow
from dail.train import checkpoint
from dail.train.config import TrainConfig
from dail.train.consistency import Consistency, check_rollout
from dail.train.data import load_examples, pad
from dail.train.loop import compute_references, run
from dail.train.model import load_roles, read_limits
from tests.conftest import DEMO_MODEL, Told
from tests.train.architectures import save_model
from tests.train.conftest import VOCABULARY, changed_model, trace_row, write_manifest

CPU = torch.device("cpu")
FLOAT32 = TrainConfig(dtype="float32", lora_rank=4)
ENGINE = "vllm 0.32.0 float32"
PER_TOKEN = ("student_prob", "rejected_ids", "student_logprob", "privileged_logprob")


def drawn(folder: Path, model: Path, count: int = 8, trace: tuple[int, ...] = (), **changes: object) -> list[TraceRow]:
    """Rows that say they are of `folder`'s model, with what `model` gives, in float64, each sequence alone."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64, attn_implementation="eager").eval()
    rows = [trace_row(f"{i:032x}", identify(folder), seed=i) for i in range(count)]
    if trace:
        nothing = {"student_prob": (None,) * len(trace), "rejected_ids": (None,) * len(trace)}
        rows = [row.model_copy(update={"trace_ids": trace, **nothing}) for row in rows]
    return [with_logprobs(network, row, **changes) for row in rows]


def with_logprobs(network: torch.nn.Module, row: TraceRow, **changes: object) -> TraceRow:
    def given(prompt: tuple[int, ...]) -> tuple[float, ...]:
        ids = torch.tensor([[*prompt, *row.trace_ids]])
        with torch.no_grad():
            log_p = network(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return tuple(log_p.gather(-1, torch.tensor(row.trace_ids)[:, None])[:, 0].tolist())

    values = {
        "engine": ENGINE,
        "student_logprob": given(row.student_prompt_ids),
        "privileged_logprob": given(row.privileged_prompt_ids),
    }
    return TraceRow.model_validate(row.model_dump() | values | changes)


def check(root: Path, model: Path, rows: list[TraceRow], config: TrainConfig = FLOAT32) -> list[Consistency]:
    manifest = write_manifest(root / "shards", identify(model), rows)
    data = load_examples(manifest, identify(model), read_limits(model))
    return check_rollout(load_roles(model, config, CPU), data, manifest, config)


def test_the_model_that_wrote_the_traces_passes_in_both_roles(tiny_model: Path, tmp_path: Path, told: Told):
    found = check(tmp_path, tiny_model, drawn(tiny_model, tiny_model))
    assert [one.role for one in found] == ["student", "privileged"]
    assert all(one.error < 1e-4 and one.num_traces == 6 and one.num_tokens > 60 for one in found)
    assert "gives the rollout's log-probabilities again" in told()


def scaled(weights: dict[str, torch.Tensor]) -> None:
    weights["model.layers.1.mlp.up_proj.weight"] *= 1.2


# The first two are larger than what rounding to bfloat16 may do.
FAULTS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], dict[str, object]]] = {
    "a wrong weight": (lambda w: w["model.layers.1.mlp.up_proj.weight"].normal_(0, 0.2), {}),
    "a lost RoPE factor": (
        lambda w: None,
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "a wrong RoPE base": (lambda w: None, {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "a weight that is a fifth too large": (scaled, {}),
    "a norm of another scale": (lambda w: w["model.layers.0.input_layernorm.weight"].mul_(1.5), {}),
    "another epsilon": (lambda w: None, {"rms_norm_eps": 0.1}),
}


@pytest.mark.parametrize(
    ("engine", "what"),
    [(ENGINE, what) for what in FAULTS] + [("vllm 0.32.0 bfloat16", what) for what in list(FAULTS)[:2]],
)
def test_a_model_that_computes_something_else_is_refused_with_the_size_and_the_likely_cause(
    tiny_model: Path, tmp_path: Path, engine: str, what: str
):
    change, settings = FAULTS[what]
    rows = drawn(tiny_model, changed_model(tiny_model, tmp_path / "writer", change, **settings), engine=engine)
    with pytest.raises(
        UsageError, match=r"off by [\d.]+ as student and [\d.]+ as privileged student .* weights that are"
    ):
        check(tmp_path, tiny_model, rows)


def test_an_attention_cap_that_a_kernel_drops_is_found(tmp_path: Path):
    config = AutoConfig.for_model(
        "gemma2", vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, initializer_range=0.3, attn_logit_softcapping=3.0,
        final_logit_softcapping=None, query_pre_attn_scalar=8, max_position_embeddings=128,
    )  # fmt: skip
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "gemma")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_MODEL / file, tmp_path / "gemma")
    rows = drawn(tmp_path / "gemma", tmp_path / "gemma")
    manifest = write_manifest(tmp_path / "shards", rows_model := identify(tmp_path / "gemma"), rows)
    data = load_examples(manifest, rows_model, read_limits(tmp_path / "gemma"))
    roles = load_roles(tmp_path / "gemma", FLOAT32, CPU)
    roles.peft.get_base_model().set_attn_implementation("eager")
    assert max(one.error for one in check_rollout(roles, data, manifest, FLOAT32)) < 1e-4
    roles.peft.get_base_model().set_attn_implementation("sdpa")  # which takes a cap and drops it
    with pytest.raises(UsageError, match="attention that lacks a cap"):
        check_rollout(roles, data, manifest, FLOAT32)


@pytest.mark.parametrize("choice", ["each", "long", "short"])
def test_long_rope_is_set_to_what_the_engine_had(tmp_path: Path, told: Told, choice: str):
    """vLLM has long factors for all sequences or short ones for all, as its context is long."""
    folder = tmp_path / "phi"
    save_model("phi3", folder)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO_MODEL / file, folder)
    writer = load_roles(folder, FLOAT32, CPU)
    assert writer.rope is not None
    writer.rope.choice = choice  # type: ignore[assignment]
    rows = []
    for seed, length in enumerate((4, 60, 9, 50)):  # on either side of the 32 tokens of the short factors
        row = trace_row(f"{seed:032x}", identify(folder), seed=seed)
        row = row.model_copy(update={"trace_ids": tuple(range(1, length + 1)), "engine": ENGINE})
        row = row.model_copy(update=dict.fromkeys(("student_prob", "rejected_ids"), (None,) * length))
        for role in ("student", "privileged"):
            prompt = getattr(row, f"{role}_prompt_ids")
            with torch.no_grad(), writer.peft.disable_adapter():
                hidden = writer.reference(pad([prompt], [row.trace_ids], CPU))
                log_p = writer.head.logits(hidden).log_softmax(-1)
            given = log_p.gather(-1, torch.tensor(row.trace_ids)[:, None])[:, 0].tolist()
            row = row.model_copy(update={f"{role}_logprob": tuple(given)})
        rows.append(row)
    manifest = write_manifest(tmp_path / "shards", identify(folder), rows)
    data = load_examples(manifest, identify(folder), read_limits(folder))
    roles = load_roles(folder, FLOAT32, CPU)
    assert max(one.error for one in check_rollout(roles, data, manifest, FLOAT32)) < 1e-3
    assert roles.rope is not None and roles.rope.choice == choice
    assert (f"all sequences get the {choice} factors" in told()) == (choice != "each")


def test_contexts_that_were_rendered_otherwise_are_told_from_weights(tiny_model: Path, tmp_path: Path):
    rows = [
        row.model_copy(update={"privileged_prompt_ids": (7, *row.privileged_prompt_ids[1:-1], 9)})
        for row in drawn(tiny_model, tiny_model)
    ]
    with pytest.raises(UsageError, match=r"privileged student's contexts alone .* another template"):
        check(tmp_path, tiny_model, rows)


def test_an_error_that_begins_late_is_told_from_one_that_is_everywhere(tiny_model: Path, tmp_path: Path):
    late = []
    for row in drawn(tiny_model, tiny_model, trace=tuple(range(3, 93))):
        both = {
            name: tuple(p - 3.0 * (place > 60) for place, p in enumerate(getattr(row, name)))
            for name in ("student_logprob", "privileged_logprob")
        }
        late.append(row.model_copy(update=both))
    with pytest.raises(UsageError, match=r"grows along the sequence .* RoPE settings, a sliding window"):
        check(tmp_path, tiny_model, late)


def test_certain_traces_hide_no_error(tiny_model: Path, tmp_path: Path):
    """Sharper logits make every token near certain, and the mean of the differences small."""
    sharp = changed_model(tiny_model, tmp_path / "sharp", lambda w: w["model.norm.weight"].mul_(6.0))
    network = AutoModelForCausalLM.from_pretrained(sharp, dtype=torch.float64)
    rows = []
    for row in drawn(sharp, sharp):
        ids = list(row.student_prompt_ids)
        for _ in range(24):
            ids.append(int(network(torch.tensor([ids])).logits[0, -1].argmax()))
        trace = tuple(ids[len(row.student_prompt_ids) :])
        rows.append(row.model_copy(update={"trace_ids": trace, **dict.fromkeys(PER_TOKEN, (None,) * 24)}))
    writer = AutoModelForCausalLM.from_pretrained(
        changed_model(sharp, tmp_path / "writer", scaled), dtype=torch.float64, attn_implementation="eager"
    )
    with pytest.raises(UsageError, match="logits are off"):
        check(tmp_path, sharp, [with_logprobs(writer, row, privileged_logprob=(None,) * 24) for row in rows])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"student_logprob": None, "privileged_logprob": None}, "no log-probabilities"),
        ({"engine": "fake"}, "no log-probabilities"),
        ({"student_logprob": None}, "as privileged student nats"),
        ({"student_revision": "sha256:other"}, "as privileged student nats"),
    ],
)
def test_what_the_shards_do_not_hold_is_not_compared_and_said(
    tiny_model: Path, tmp_path: Path, told: Told, changes: dict[str, object], said: str
):
    rows = []
    for row in drawn(tiny_model, tiny_model):
        lists = {name: (None,) * len(row.trace_ids) for name, value in changes.items() if value is None}
        rows.append(row.model_copy(update={**changes, **lists}))
    check(tmp_path, tiny_model, rows)
    assert said in told()


def test_a_trace_without_a_place_for_each_token_is_damaged(tiny_model: Path, tmp_path: Path):
    rows = drawn(tiny_model, tiny_model)
    rows[0] = rows[0].model_copy(update={"student_logprob": rows[0].student_logprob[1:]})
    with pytest.raises(IntegrityError, match="wanted one each"):
        check(tmp_path, tiny_model, rows)


def test_the_tolerance_is_that_of_the_coarser_type_or_the_user_s(tiny_model: Path, tmp_path: Path):
    writer = changed_model(tiny_model, tmp_path / "writer", scaled)
    for place, engine in enumerate(("vllm 0.32.0 bfloat16", "vllm 0.32.0")):
        check(tmp_path / str(place), tiny_model, drawn(tiny_model, writer, engine=engine))
    rows = drawn(tiny_model, writer)
    with pytest.raises(UsageError, match=r"at most 0.01 between vllm 0.32.0 float32 and float32 here"):
        check(tmp_path / "strict", tiny_model, rows)
    check(tmp_path / "loose", tiny_model, rows, FLOAT32.model_copy(update={"rollout_tolerance": 5.0}))


def test_a_run_is_refused_before_its_first_step(tiny_model: Path, tmp_path: Path):
    writer = changed_model(tiny_model, tmp_path / "writer", FAULTS["a wrong weight"][0])
    manifest = write_manifest(tmp_path / "shards", identify(tiny_model), drawn(tiny_model, writer))
    with pytest.raises(UsageError, match="logits are off"):
        run(tiny_model, manifest, tmp_path / "run", FLOAT32)
    assert not (tmp_path / "run" / checkpoint.CHECKPOINT_FILE).exists()
    with pytest.raises(UsageError, match="logits are off"):
        compute_references(tiny_model, manifest, tmp_path / "references", FLOAT32)
