"""LoRA layers that keep float32 weights and compute in the precision of the activations.

PEFT's own layer casts each layer's input to the adapter's float32, and autograd keeps that copy: half as much memory
again for a model in bfloat16, and products at float32's speed. Here the small matrices are cast instead, as vLLM will
multiply them too. The scale is applied between them, where there are fewest numbers; that changes no bit if it is a
power of two. In float32 both layers do the same operations otherwise. PEFT builds, switches, saves and loads the
adapter either way.
"""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn.functional import linear


class LeanLinear(Linear):
    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = self.base_layer(x, *args, **kwargs)
        if self.disable_adapters:
            return result
        (name,) = self.active_adapters
        if name not in self.lora_A:  # a layer that only the references' adapter is on, or only the student's
            return result
        inner = linear(self.lora_dropout[name](x), self.lora_A[name].weight.to(x.dtype)) * self.scaling[name]
        return result + linear(inner, self.lora_B[name].weight.to(x.dtype))


def make_lean(config: LoraConfig) -> None:
    """Lets PEFT use `LeanLinear` for every linear layer of this adapter; what it saves is the same."""
    config._register_custom_module({nn.Linear: LeanLinear})
