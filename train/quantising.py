"""Frozen weights in 4 bits (QLoRA, Dettmers et al. 2023), for a model that its card does not hold otherwise.

`quantise=nf4` stores every linear layer but the head as NormalFloat4 with doubly quantised scales, through bitsandbytes
(`dail[bnb]`), and computes in `dtype`. The references are then of these weights too, not of the model that drew the
traces: all three roles share their error, and the rollout check sees gross faults alone. Embedding, head, norms, and
experts that are one parameter stay as they are.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from dail.synth.core.errors import UsageError
from dail.train.config import TrainConfig
from dail.train.optimizers import bitsandbytes_for

_log = logging.getLogger(__name__)

# Nats by which logits may be off from those of the weights that drew the traces: NF4 moved them by 0.6 and 0.8 on
# the tests' random model and by 0.2 and 0.4 on the demo's, more than any rounding.
NF4_TOLERANCE = 2.0
_REPACKS = "support_avx512bf16_for_cpu"  # of bitsandbytes' layers


def check_quantise(config: TrainConfig) -> None:
    """Raises UsageError if weights cannot be quantised here, or not together with other settings."""
    if config.quantise == "none":
        return
    bitsandbytes_for("quantise=nf4", "quantise=none")
    if config.shard_weights:
        raise UsageError(
            "quantise=nf4 and shard_weights=true are not supported together: 4-bit weights would be divided apart from "
            "their scales; set one of them (4 bits hold a model of 70 billion weights on a card of 80 GB)"
        )


def loading_in_4_bits(dtype: str, device: torch.device) -> dict[str, Any]:
    """What transformers is told to quantise the weights while it loads them, on the device."""
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        ),
        "device_map": {"": str(device)},
    }


def settle(base: nn.Module) -> None:
    """Lets passes with and without a gradient compute the same, and says how much is in 4 bits.

    On some CPUs bitsandbytes repacks weights in the first pass without a gradient, for a kernel in bfloat16 through
    which no gradient flows later.
    """
    four = sum(2 * weight.numel() for weight in base.parameters() if weight.dtype == torch.uint8)
    other = sum(weight.numel() for weight in base.parameters() if weight.dtype != torch.uint8)
    for module in base.modules():
        if hasattr(module, _REPACKS):
            setattr(module, _REPACKS, False)
    _log.info(f"quantise=nf4: {four / (four + other):.0%} of the model's weights are in 4 bits, references included")
