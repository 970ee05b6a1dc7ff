"""Loss and gradients of every architecture are the oracle's, by the way that the table says, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.train.architectures import KINDS, TABLE, held, outcome, row

FEW = (
    "bamba", "bloom", "cohere2", "deepseek_v3", "falcon", "gemma2", "gemma3_text", "gemma4_text", "glm_moe_dsa",
    "gpt_neox", "gpt_oss", "lfm2", "llama", "llama4_text", "mamba2", "minimax", "mistral", "mixtral",
    "olmo2", "opt", "phi3", "qwen2", "qwen3", "qwen3_moe", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm",
)  # fmt: skip


def in_table(kind: str) -> str:
    (line,) = (line for line in TABLE.read_text().splitlines() if line.startswith(f"| {kind} |"))
    return line


def said(line: str) -> str:
    return line.split(" | ")[1]


@pytest.mark.parametrize("kind", FEW)
def test_a_few_are_as_the_table_says(kind: str):
    assert said(row(outcome(kind))) == said(in_table(kind))


DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
VARIANTS = [
    ("falcon", {"alibi": True}),
    ("gemma2", {"attn_logit_softcapping": 0.5, "final_logit_softcapping": None, "sliding_window": 3}),
    ("llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 65}),
    ("llama4_text", {"attn_temperature_tuning": True, "floor_scale": 8, "attention_chunk_size": 8}),
    ("mistral", {"sliding_window": 1}),
    ("opt", {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
]


@pytest.mark.parametrize(("kind", "settings"), VARIANTS)
def test_other_settings_of_an_architecture_agree_too(tmp_path: Path, kind: str, settings: dict[str, Any]):
    assert "exact" in row(held(kind, tmp_path, **settings))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_all_are_as_the_table_says():
    assert [said(row(outcome(kind))) for kind in KINDS] == [said(in_table(kind)) for kind in KINDS]


@pytest.mark.parametrize("kind", ["gemma2", "gpt_oss"])
def test_other_traces_and_no_packing_agree_too(tmp_path: Path, kind: str):
    assert row(held(kind, tmp_path / "packed", 1)) and row(held(kind, tmp_path / "padded", 1, packing="off"))


@pytest.mark.skipif(f"transformers {transformers.__version__} " not in TABLE.read_text(), reason="of another release")
def test_every_architecture_is_in_the_table():
    assert all(in_table(kind) for kind in KINDS)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
