"""Fixtures that more than one room's tests use."""

from __future__ import annotations

import os
from pathlib import Path

# Before any test imports vllm or transformers: in-process engine, small KV cache, never a download.
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).parent.parent
DEMO_MODEL = ROOT / "deploy" / "demo" / "model"
EXPERT_SOLUTIONS = ROOT / "deploy" / "demo" / "expert_solutions.jsonl"
OLYMPIAD = ROOT / "deploy" / "demo" / "olympiad.jsonl"
