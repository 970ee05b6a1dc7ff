"""What vLLM makes of an adapter on each kind of linear layer of a tiny random model. Prints one JSON line a model.

    python -m tests.bench.adapters llama glm4 qwen2_moe …     (names of tests/train/test_targets.py; all, if left out)

PEFT's log-probabilities with the adapter are held against vLLM's: `served` (the same), `ignored` (as without it),
`refused`, or `other` with the error. `all-linear` is what the trainer adapts. Each model has an engine in a process of
its own. vLLM's CPU build runs no experts once adapters are on, so these stay without LoRA layers there.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from dail.train.targets import find_targets

PROMPT = [2, 5, 9, 33, 70, 12, 44, 45, 46, 81, 3, 17]
WIDE = {"hidden_size": 64, "head_dim": 32}  # vLLM's kernels want heads of 32 at least
Scores = list[float]


def save_model(name: str, folder: Path) -> None:
    from tests.train.test_targets import SHAPE, model

    base = model(name, **WIDE)
    for weight in base.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, 0, 0.1)
    base.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(SHAPE["vocab_size"])}, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="t1", pad_token="t0").save_pretrained(folder)


def scores(model: Any) -> Scores:
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([PROMPT]), use_cache=False).logits[0].float().log_softmax(-1)
    return [float(log_p[place, token]) for place, token in enumerate(PROMPT[1:])]


def adapters(folder: Path) -> dict[str, Scores | str]:
    """An adapter for each kind of layer, saved beside the model, and what PEFT gives with it, or why there is none."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    targets = {name.rpartition(".")[2]: [name] for name, layer in base.named_modules() if isinstance(layer, nn.Linear)}
    targets = {kind: [kind] for kind in targets} | {"all-linear": list(find_targets(base, "all-linear").names)}
    found: dict[str, Scores | str] = {}
    for kind, names in targets.items():
        torch.manual_seed(1)
        fresh = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        settings = LoraConfig(r=8, lora_alpha=32, target_modules=names, init_lora_weights=False, task_type="CAUSAL_LM")
        try:
            peft = get_peft_model(fresh, settings).eval()
        except ValueError as error:
            found[kind] = f"not by PEFT: {error}"
            continue
        peft.save_pretrained(folder / kind, save_embedding_layers=False)
        found[kind] = scores(peft)
    return found


def engine(folder: Path, kinds: list[str], with_experts: bool) -> Callable[[str | None], Scores]:
    """Scores of the prompt by vLLM, under the adapter of a kind or none."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    torch._dynamo.config.disable = True
    more: dict[str, Any] = {}
    if with_experts:
        from vllm.model_executor.layers.fused_moe.config import FusedMoEConfig

        real = FusedMoEConfig.__init__
        FusedMoEConfig.__init__ = lambda self, *a, **k: real(self, *a, **{**k, "is_lora_enabled": False})
        more["lora_target_modules"] = kinds
    llm = LLM(
        str(folder), dtype="float32", enforce_eager=True, enable_lora=True, max_lora_rank=8, max_model_len=64, **more
    )
    asked = SamplingParams(max_tokens=1, prompt_logprobs=0, temperature=0)

    def score(kind: str | None) -> Scores:
        request = LoRARequest(kind, 1 + kinds.index(kind), str(folder / kind)) if kind else None
        if request:
            llm.llm_engine.add_lora(request)  # what it refuses here leaves no request behind
        (done,) = llm.generate([{"prompt_token_ids": PROMPT}], asked, lora_request=request, use_tqdm=False)
        return [done.prompt_logprobs[place][token].logprob for place, token in enumerate(PROMPT) if place]

    return score


def judge(name: str) -> dict[str, str]:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="dail-adapters-") as folder:
        return _judge(name, Path(folder))


def _judge(name: str, folder: Path) -> dict[str, str]:
    save_model(name, folder)
    wanted = adapters(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    has_experts = any("experts" in part for part, _ in base.named_modules())
    try:
        score = engine(folder, [*wanted], has_experts)
    except Exception as error:
        return {"engine": str(error)[:200]}
    bare = score(None)
    return {kind: _verdict(score, kind, one, bare) for kind, one in wanted.items()}


def _verdict(score: Callable[[str | None], Scores], kind: str, wanted: Scores | str, bare: Scores) -> str:
    if isinstance(wanted, str):
        return wanted[:100]
    try:
        got = score(kind)
    except ValueError as error:
        return f"refused: {str(error)[:100]}"
    off, moved = _apart(got, wanted), _apart(got, bare)
    return "served" if off < 0.02 * _apart(wanted, bare) else "ignored" if moved < 1e-6 else f"other, off by {off:.2g}"


def _apart(one: Scores, other: Scores) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def main() -> None:
    from tests.train.test_targets import MODELS

    for name in sys.argv[1:] or MODELS:
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            try:
                found = pool.submit(judge, name).result()
            except Exception as error:  # the next model may do
                found = {"not run": f"{type(error).__name__}: {error}"[:200]}
        print(json.dumps({"bench": "adapters", "model": name, **found}), flush=True)


if __name__ == "__main__":
    main()
