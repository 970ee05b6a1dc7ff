"""Attention that drops nothing of what a model hands to it, over rows with pads or over packs.

A pack is sequences joined end to end, none of which can see into another. transformers' own way to pack leaks without a
word where a mask or a cache is passed along. Here every sequence's queries meet its own keys only, since they are
multiplied by nothing else. On a GPU torch's kernel for sequences of different lengths does the same in one call.

Kernels drop what they do not know (transformers' SDPA drops a cap on the scores). Here caps and sinks are computed in
plain steps, windows by each kernel's own setting, and anything else ends in an error that names it.

Axes: B rows, H heads, T tokens of a row, Q queries and K keys of a sequence, D size of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

PACKED, PADDED = "dail_packed", "dail_padded"  # the names under which transformers knows them
# What modules pass on that says nothing about what attends to what: rows' positions and bookkeeping.
_SAYS_NOTHING = {
    "cache_position",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_embeddings",
    "position_ids",
    "return_dict",
    "use_cache",
}


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: Tensor,
    key_1HTD: Tensor,
    value_1HTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    pack_lengths: Sequence[int] | None = None,
    pack_ends: Tensor | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it; [1, T, H, D].

    Args:
        pack_lengths: of the sequences, in order; none: each row is one.
        pack_ends: where the first begins and where each ends, int32 on the device, for torch's kernel. Made once a
            pack, since every layer would wait to send it.
        sliding_window: key j is seen by query i where i - j is less.
        softcap: scores become softcap · tanh(score / softcap).
        s_aux: one score a head [H] that takes its part of each softmax and gives nothing.

    Raises:
        NotImplementedError: the model wants of its attention what this has not.
    """
    _refuse_unknown(module, others)
    if attention_mask is not None:
        raise NotImplementedError("a mask, which a pack has none of")
    if query_1HTD.shape[2] != key_1HTD.shape[2]:
        raise NotImplementedError("other keys than those of the sequence's own tokens")
    lengths = list(pack_lengths) if pack_lengths else [query_1HTD.shape[2]]
    is_plain = softcap is None and s_aux is None and key_1HTD.shape[3] == value_1HTD.shape[3]
    if pack_ends is not None and is_plain and has_kernel(query_1HTD):
        return _in_one_call(query_1HTD, key_1HTD, value_1HTD, max(lengths), pack_ends, scaling, sliding_window), None
    parts = zip(query_1HTD.split(lengths, 2), key_1HTD.split(lengths, 2), value_1HTD.split(lengths, 2), strict=True)
    each = []
    for query, key, value in parts:
        mask_QK = _window(query.shape[2], sliding_window, query.device)
        each.append(_attend(query, key, value, mask_QK, scaling, softcap, s_aux))
    return torch.cat(each, 2).transpose(1, 2).contiguous(), None


def padded_attention(
    module: torch.nn.Module,
    query_BHTD: Tensor,
    key_BHTD: Tensor,
    value_BHTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers calls it, with the mask that it makes, which knows windows; none: plain causal; [B, T, H, D].

    Raises:
        NotImplementedError: the model wants of its attention what this has not.
    """
    _refuse_unknown(module, others)
    if attention_mask is None and query_BHTD.shape[2] != key_BHTD.shape[2]:
        raise NotImplementedError("other keys than those of the sequence's own tokens, without a mask")
    attended = _attend(query_BHTD, key_BHTD, value_BHTD, attention_mask, scaling, softcap, s_aux)
    return attended.transpose(1, 2).contiguous(), None


def _refuse_unknown(module: torch.nn.Module, others: dict[str, Any]) -> None:
    """A keyword that is not known here would be dropped, and the model computed would be another one."""
    causal = others.pop("is_causal", None)
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        raise NotImplementedError("attention that looks ahead")
    for name, value in others.items():
        says_something = isinstance(value, Tensor) or (value is not None and value is not False and value != 0.0)
        if says_something and name not in _SAYS_NOTHING:
            raise NotImplementedError(f"attention with {name}")


def _window(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which keys each query sees [Q, K]; none where the sequence is not longer than the window."""
    if window is None or length <= window:
        return None
    seen_QK = torch.ones(length, length, dtype=torch.bool, device=device)
    return seen_QK.tril_().triu_(1 - window)


def _attend(
    query_BHQD: Tensor,
    key_BHKD: Tensor,
    value_BHKD: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    if softcap is not None or sinks_H is not None:
        return _in_steps(query_BHQD, key_BHKD, value_BHKD, mask, scaling, softcap, sinks_H)
    return scaled_dot_product_attention(
        query_BHQD,
        key_BHKD,
        value_BHKD,
        mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query_BHQD.shape[1] != key_BHKD.shape[1],
    )


def _in_steps(
    query_BHQD: Tensor,
    key_BHKD: Tensor,
    value_BHKD: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float | None,
    sinks_H: Tensor | None,
) -> Tensor:
    """What no kernel computes, with every score in memory and at least in float32."""
    wide = torch.promote_types(query_BHQD.dtype, torch.float32)
    group = query_BHQD.shape[1] // key_BHKD.shape[1]
    key, value = key_BHKD.repeat_interleave(group, 1), value_BHKD.repeat_interleave(group, 1)
    scale = query_BHQD.shape[3] ** -0.5 if scaling is None else scaling
    scores = query_BHQD.to(wide) @ key.to(wide).transpose(2, 3) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril_()
    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if sinks_H is None:
        weights = scores.softmax(-1)
    else:
        sinks = sinks_H.to(wide)[None, :, None, None].expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
    return weights.to(value.dtype) @ value


def has_kernel(states: Tensor) -> bool:
    """Whether torch's kernel for sequences of different lengths takes these."""
    return states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)


def _in_one_call(
    query_1HTD: Tensor,
    key_1HTD: Tensor,
    value_1HTD: Tensor,
    longest: int,
    ends: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    assert len(query_1HTD) == 1, "a pack is one row"
    query_THD, key_THD, value_THD = (states[0].transpose(0, 1) for states in (query_1HTD, key_1HTD, value_1HTD))
    is_grouped = query_THD.shape[1] != key_THD.shape[1]
    attended_THD = varlen_attn(
        query_THD,
        key_THD,
        value_THD,
        ends,
        ends,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None or longest <= window else window - 1, 0),  # to the left; causal
        **(_grouping(varlen_attn) if is_grouped else {}),
    )
    assert isinstance(attended_THD, Tensor), "nothing but the attention was asked for"
    return attended_THD[None]


@cache
def _grouping(kernel: Callable[..., Any]) -> dict[str, Any]:
    """torch 2.11's takes fewer heads of keys than of queries without being told so; later ones want the word."""
    return {"enable_gqa": True} if "enable_gqa" in signature(kernel).parameters else {}


def register() -> None:
    """Makes the names known to transformers. No mask goes with packs: for a name that gives none, transformers would
    still look through the positions on the host, and wait for them."""
    AttentionInterface.register(PACKED, packed_attention)
    AttentionInterface.register(PADDED, padded_attention)
    AttentionMaskInterface.register(PADDED, sdpa_mask)
