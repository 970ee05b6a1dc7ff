"""Attention over a pack: sequences joined end to end, none of which can see into another.

transformers' own way to pack leaks without a word where a mask or a cache is passed along. Here every sequence's
queries meet its own keys only, since they are multiplied by nothing else. On a GPU torch's kernel for sequences of
different lengths does the same in one call.

Axes: H heads, T tokens of the pack, D size of a head.
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
from transformers import AttentionInterface

PACKED = "dail_packed"  # the name under which transformers knows it


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
        pack_lengths: of the sequences, in order; none: there is one.
        pack_ends: where the first begins and where each ends, int32 on the device, for torch's kernel. Made once a
            pack, since every layer would wait to send it.

    Raises:
        NotImplementedError: the model wants of its attention what this has not.
    """
    lengths = list(pack_lengths) if pack_lengths else [query_1HTD.shape[2]]
    if softcap is not None or s_aux is not None or (sliding_window is not None and max(lengths) > sliding_window):
        raise NotImplementedError("sliding windows, caps and sinks are not known to packed attention")
    assert attention_mask is None, "a pack needs no mask"
    if pack_ends is not None and has_kernel(query_1HTD):
        return _in_one_call(query_1HTD, key_1HTD, value_1HTD, max(lengths), pack_ends, scaling), None
    is_grouped = query_1HTD.shape[1] != key_1HTD.shape[1]
    parts = zip(query_1HTD.split(lengths, 2), key_1HTD.split(lengths, 2), value_1HTD.split(lengths, 2), strict=True)
    each = [
        scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=is_grouped)
        for query, key, value in parts
    ]
    return torch.cat(each, 2).transpose(1, 2).contiguous(), None


def has_kernel(states: Tensor) -> bool:
    """Whether torch's kernel for sequences of different lengths takes these."""
    return states.is_cuda and states.dtype in (torch.bfloat16, torch.float16)


def _in_one_call(
    query_1HTD: Tensor, key_1HTD: Tensor, value_1HTD: Tensor, longest: int, ends: Tensor, scaling: float | None
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
        window_size=(-1, 0),  # causal
        **(_grouping(varlen_attn) if is_grouped else {}),
    )
    assert isinstance(attended_THD, Tensor), "nothing but the attention was asked for"
    return attended_THD[None]


@cache
def _grouping(kernel: Callable[..., Any]) -> dict[str, Any]:
    """torch 2.11's takes fewer heads of keys than of queries without being told so; later ones want the word."""
    return {"enable_gqa": True} if "enable_gqa" in signature(kernel).parameters else {}


def register() -> None:
    """Makes the name known to transformers. No mask goes with it: for one that gives none, transformers would still
    look through the positions on the host, and wait for them."""
    AttentionInterface.register(PACKED, packed_attention)
