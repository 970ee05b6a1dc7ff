"""A tiny random Qwen3 and shards of random traces for it, made by hand through the real contracts."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
from collections.abc import Callable, Container
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from dail.synth.core.files import Objects
from dail.synth.run.trace_rows import located, reference, shard_of
from dail.synth.schema.manifest import build_manifest, encode_manifest, manifest_key
from dail.synth.schema.models import ModelIdentity, identify
from dail.synth.schema.shards import TraceRow, encode_shard
from dail.synth.schema.synthesis import Synthesis
from dail.synth.schema.units import ShardRef

VOCABULARY, CONTEXT = 96, 128
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

MakeManifest = Callable[..., Path]
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """The tensors are so small that a second thread only waits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 layers of width 32, random weights scaled up so that its distributions are far from uniform."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=None,
    )
    torch.manual_seed(1)
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(VOCABULARY)}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t1", pad_token="t0").save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return folder


def changed_model(model: Path, folder: Path, change: Callable[[Weights], object], **settings: object) -> Path:
    """A copy of a model folder, its weights passed through a function, with other settings in its config.json."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text()) | settings
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def trace_row(unit: str, model: ModelIdentity, seed: int = 0, **changes: object) -> TraceRow:
    """A row of random ids: contexts of 5 to 20 tokens, a trace of 4 to 30."""
    draw = random.Random(seed)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(draw.randint(low, high)))

    trace = ids(4, 30)
    values: dict[str, object] = {
        "unit_id": unit,
        "batch_id": "batch-1",
        "item_id": f"item-{unit}",
        "sample_index": 0,
        "problem": "p",
        "solution": "s",
        "answer": "1",
        "answer_found": "nowhere",
        "kind": "verifiable",
        "waypoints": ("1",),
        "privileged": None,
        "dropped": (),
        "source": None,
        "license": None,
        "metadata": "{}",
        "student_prompt_ids": ids(5, 8),
        "privileged_prompt_ids": ids(12, 20),
        "negative_prompt_ids": ids(8, 14),
        "trace_ids": trace,
        "student_prob": (1.0,) * len(trace),
        "rejected_ids": (None,) * len(trace),
        "student_logprob": (None,) * len(trace),
        "privileged_logprob": (None,) * len(trace),
        "trace_text": "t",
        "prompt": ({"role": "user", "content": "p"},),
        "completion": ({"role": "assistant", "content": "t"},),
        "finish_reason": "stop",
        "truncated": False,
        "method": "mixed",
        "strategy": "reference",
        "tau": 0.8,
        "temperature": 0.6,
        "probability_space": "raw",
        "prompts": "paper",
        "extractor": "paper",
        "acceptance": "absolute",
        "acceptance_k": 25,
        "top_p": 1.0,
        "top_k": 0,
        "stop": (),
        "max_tokens": 64,
        "thinking": None,
        "template_args": "{}",
        "date": None,
        "opening": "",
        "drop_empty_thought": False,
        "probe_hash": "",
        "seed": seed,
        "model_name": model.name,
        "model_revision": model.revision,
        "student_revision": None,
        "tokenizer_hash": model.tokenizer_hash,
        "template_hash": model.template_hash,
        "config_fingerprint": "sha256:0",
        "engine": "none",
        "created_at": NOW,
    }
    return TraceRow.model_validate(values | changes)


def write_manifest(root: Path, model: ModelIdentity, rows: list[TraceRow]) -> Path:
    """One shard per row."""
    objects, shards = Objects(root), []
    for row in rows:
        data, shard = shard_of(row)
        objects.put(shard.key, data)
        shards.append(shard)
    return _listed(objects, model, shards)


def write_together(root: Path, model: ModelIdentity, rows: list[TraceRow], without: Container[int] = ()) -> Path:
    """One shard of all rows, of which the manifest names these alone."""
    data, objects = encode_shard(rows), Objects(root)
    refs = [reference(row, place) for place, row in enumerate(rows) if place not in without]
    shards = located(refs, rows[0].batch_id, data)
    objects.put(shards[0].key, data)
    return _listed(objects, model, shards)


def _listed(objects: Objects, model: ModelIdentity, shards: list[ShardRef]) -> Path:
    manifest = build_manifest("batch-1", 1, model, Synthesis(), shards, NOW)
    objects.put(manifest_key("batch-1", 1), encode_manifest(manifest))
    return objects.path(manifest_key("batch-1", 1))


@pytest.fixture
def make_manifest(tmp_path: Path, tiny_model: Path) -> MakeManifest:
    """`make_manifest(count, **changes)`: rows of random ids for the tiny model; changes apply to the last row."""
    model = identify(tiny_model)

    def make(count: int = 10, **changes: object) -> Path:
        rows = [trace_row(f"{i:032x}", model, seed=i) for i in range(count - 1)]
        rows.append(trace_row(f"{count - 1:032x}", model, seed=count - 1, **changes))
        return write_manifest(tmp_path / "shards", model, rows)

    return make
