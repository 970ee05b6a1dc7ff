"""One frozen copy of the weights in three roles (paper §2.2): adapter on is the student, adapter off both references.

Axes: B rows of sequences, T tokens of the longest, R trace tokens joined, D hidden size, V vocabulary.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from dail.synth.core.errors import UsageError
from dail.train.attention import PACKED, register
from dail.train.config import TrainConfig
from dail.train.data import Example, ModelLimits, Sequences, pad, student_input
from dail.train.distributed import Ranks
from dail.train.loading import load_base, read_config
from dail.train.lora import make_lean
from dail.train.loss import Head
from dail.train.sharding import shard
from dail.train.targets import Targets, describe, find_targets

_log = logging.getLogger(__name__)

_ALONE = Ranks()
# Names under which configurations have the longest sequence; a model with none of them reads sequences of any length.
_CONTEXT_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length", "max_sequence_length")
_PACKED_ERROR = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 3e-2}  # relative, of hidden states


@dataclass(frozen=True)
class Roles:
    """`head` turns hidden states into logits, for all three roles unless the student's has an adapter (`adapted_head`).

    `packs`: sequences may be joined.
    """

    peft: Any
    head: Head
    device: torch.device
    packs: bool = False
    adapted_head: nn.Module | None = None

    @property
    def folds(self) -> bool:
        """Whether the three roles can be folded before the head."""
        return self.head.is_plain and self.adapted_head is None

    def student(self, batch: Sequences) -> Tensor:
        """Hidden states at the trace positions [R, D], with gradient to the adapter."""
        return self._hidden(batch)

    def reference(self, batch: Sequences) -> Tensor:
        """The same without adapter and without gradient; the contexts in `batch` make it one reference or both."""
        with torch.no_grad(), self.peft.disable_adapter():
            return self._hidden(batch)

    def _hidden(self, batch: Sequences) -> Tensor:
        # No attention mask: sequences are causal, and a mask would cost the fast kernel. No cache: it would be filled
        # for nothing.
        decoder = self.peft.get_base_model().get_decoder()
        pack: dict[str, Any] = {}
        if batch.lengths is not None:
            pack = {"pack_lengths": batch.lengths, "pack_ends": batch.ends, "position_ids": batch.positions_BT}
        return batch.trace_positions(decoder(input_ids=batch.ids_BT, use_cache=False, **pack).last_hidden_state)

    def adapter(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: weight for name, weight in self.peft.named_parameters() if weight.requires_grad}


def read_limits(folder: Path) -> ModelLimits:
    """From the folder's config.json alone, so that bad data is refused before any weights are read."""
    config = read_config(folder).get_text_config()
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise UsageError(f"{folder}/config.json is of no model that can be trained here: it has no vocab_size")
    limits = (getattr(config, name, None) for name in _CONTEXT_NAMES)
    return ModelLimits(next((limit for limit in limits if isinstance(limit, int)), sys.maxsize), vocabulary)


def device_and_dtype(config: TrainConfig) -> tuple[torch.device, TrainConfig]:
    """The GPU if there is one, and the settings with `auto` replaced by what it means there."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if config.dtype != "auto":
        return device, config
    return device, config.model_copy(update={"dtype": "bfloat16" if device.type == "cuda" else "float32"})


def load_roles(folder: Path, config: TrainConfig, device: torch.device, ranks: Ranks = _ALONE) -> Roles:
    """The frozen weights with a fresh adapter, which changes nothing yet.

    Args:
        ranks: among which `shard_weights` divides them.

    Raises:
        UsageError: the weights cannot be read or the architecture does not fit.
    """
    base = load_base(folder, config.dtype)
    # Made before the move, so that every device starts from the same adapter; in eval mode, so that a model with
    # dropout of its own has none.
    torch.manual_seed(config.seed)
    targets = find_targets(base, config.lora_targets)
    try:
        peft = get_peft_model(base, _lora(config, targets)).eval()
    except ValueError as error:
        raise UsageError(f"the adapter does not fit {folder}: {error}; set other lora_targets") from None
    for line in describe(peft.get_base_model(), targets):
        _log.info(line)
    if config.shard_weights:
        shard(peft, device, ranks)
    for name, module in peft.named_modules():
        module.training = "lora_dropout" in name
    return Roles(peft.to(device), _head(peft), device, adapted_head=_adapted_head(peft))


def _lora(config: TrainConfig, targets: Targets) -> LoraConfig:
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(targets.names),
    )
    if config.lora == "lean":
        make_lean(lora)
    return lora


def choose_packing(roles: Roles, examples: Sequence[Example]) -> Roles:
    """Joins sequences without padding if that gives what each gives alone, tried out on a few; else pads.

    Some architectures want of their attention what `dail.train.attention` has not, and torch's kernel wants a newer
    GPU. Why is said.
    """
    alone = [pad([e.student_prompt_ids], [e.trace_ids], roles.device) for e in examples]
    with torch.no_grad():
        wanted_RD = torch.cat([roles.student(one) for one in alone])
        own = roles.peft.config._attn_implementation
        register()
        try:
            roles.peft.get_base_model().set_attn_implementation(PACKED)
            packed_RD = roles.student(student_input(examples, roles.device, packed=True))
            error = float((packed_RD - wanted_RD).norm() / wanted_RD.norm())
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError) as problem:  # what is not implemented is a RuntimeError, too
            _log.info(
                f"sequences are padded, which takes longer: {roles.peft.config.model_type} models cannot be packed on "
                f"the {roles.device.type} with torch {torch.__version__} ({type(problem).__name__}: {problem})"
            )
        else:
            if error <= _PACKED_ERROR[wanted_RD.dtype]:
                return replace(roles, packs=True)
            _log.info(
                f"sequences are padded: packed ones are off by {error:.2g} in {roles.peft.config.model_type} models"
            )
        roles.peft.get_base_model().set_attn_implementation(own)
    return roles


def recompute(roles: Roles) -> None:
    """Keeps of each layer its input alone and computes the rest again in the backward pass."""
    roles.peft.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    for module in roles.peft.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # it asks for this; what lies inside stays in eval mode, without dropout


def _head(peft: Any) -> Head:
    """The head with what its architecture does to its logits, as far as configurations name it."""
    head, config = peft.get_base_model().get_output_embeddings(), peft.config.get_text_config()
    head = head.get_base_layer() if isinstance(head, BaseTunerLayer) else head
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    cap = getattr(config, "final_logit_softcapping", None)
    return Head(head.weight, getattr(head, "bias", None), scale, float(cap) if cap else None)


def _adapted_head(peft: Any) -> nn.Module | None:
    """The head, if the adapter reaches it."""
    head = peft.get_base_model().get_output_embeddings()
    return head if isinstance(head, BaseTunerLayer) else None


def check_roles(roles: Roles, example: Example) -> None:
    """Checks what the loss rests on, with a fresh adapter and the beginning of one example.

    Raises:
        UsageError: logits are not what the head is known to make of hidden states.
    """
    batch = pad([example.student_prompt_ids[:16]], [example.trace_ids[:16]], roles.device)
    with torch.no_grad():
        student_RD = roles.student(batch)
        logits_RV = batch.trace_positions(roles.peft(input_ids=batch.ids_BT, use_cache=False).logits)
        ours_RV = roles.head.logits(student_RD)
        reference_RD = roles.reference(batch)
    if not torch.isfinite(student_RD).all():
        raise UsageError(
            f"the model gives hidden states that are not finite on the first {len(student_RD)} tokens of trace "
            f"{example.unit_id}; wanted finite numbers; set dtype=float32 if it was made for more range"
        )
    if not torch.allclose(student_RD, reference_RD, rtol=1e-3, atol=1e-3 * float(reference_RD.abs().max())):
        raise UsageError(
            f"an adapter that changes nothing yet changes the hidden states of {roles.peft.config.model_type} models; "
            "wanted the same with it and without; set other lora_targets"
        )
    if not torch.allclose(ours_RV.float(), logits_RV.float(), rtol=0.02, atol=0.02 * float(logits_RV.abs().max())):
        raise UsageError(
            f"{roles.peft.config.model_type} models do something to their logits that is not known here; wanted a "
            "matrix on the hidden state, with or without a bias, a scale or a cap; train another model"
        )
    if roles.folds:
        return
    why = f"{roles.peft.config.model_type} models put a bias, a scale or a cap on their logits"
    _log.info(
        f"{'the adapter reaches the head' if roles.adapted_head else why}, so the three roles cannot be folded before "
        "the head: references are computed in every step, with three rows of logits a token"
    )
