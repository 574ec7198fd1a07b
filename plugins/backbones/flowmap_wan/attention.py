"""Self- and cross-attention for diffusers' AnyFlow blocks: exact with a memory, on every device.

diffusers' causal processor pads tokens to a multiple of 128 and attends to the padding when it reads its cache,
and its only backend has no backward pass on a CPU. These processors do neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional as F

from flowmap.phases import phase
from flowmap.workshop.memo import Text
from flowmap_wan.rotary import Turn, rotated

AttentionKernel = Literal["auto", "dense", "flex"]


@final
@dataclass(frozen=True, eq=False)
class Sight:
    """Which token sees which: a noised one its own chunk and earlier clean ones, a clean one clean ones up to its own.

    Of queries (`[Lq]`) and keys (`[Lk]`): the chunk each belongs to, and whether it is noised (FAR, 2503.19325).
    """

    chunk: Tensor
    noised: Tensor
    key_chunk: Tensor
    key_noised: Tensor

    def rule(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether queries see keys, by their indices."""
        chunk, noised = self.chunk[query], self.noised[query]
        other, other_noised = self.key_chunk[key], self.key_noised[key]
        same = chunk == other
        return torch.where(other_noised, noised & same, (other < chunk) | (same & ~noised))

    @cached_property
    def dense(self) -> Tensor:
        """The rule as a table `[Lq, Lk]`."""
        device = self.chunk.device
        queries, keys = (torch.arange(len(c), device=device) for c in (self.chunk, self.key_chunk))
        return self.rule(queries[:, None], keys[None, :])

    @cached_property
    def blocks(self) -> Any:
        """The rule as flex attention takes it, with blocks that nobody sees left out."""
        from torch.nn.attention.flex_attention import create_block_mask

        lengths = len(self.chunk), len(self.key_chunk)
        return create_block_mask(
            lambda b, h, query, key: self.rule(query, key), None, None, *lengths, device=str(self.chunk.device)
        )


@final
@dataclass
class Slot:
    """One layer's part of a memory: keys and values `[B, heads, L, head_dim]` to attend to besides one's own.

    If `recording`, the layer leaves the new tokens' keys and values in `written`.
    """

    past: tuple[Tensor, Tensor] | None = None
    recording: bool = False
    written: tuple[Tensor, Tensor] | None = field(default=None)


Slots = Sequence[Slot] | None
"""One of each layer, where something is remembered."""

_MOST_SHAPES = 128


@cache
def _flex() -> Callable[..., Tensor]:
    """Flex attention, compiled: uncompiled it holds the whole table of scores."""
    from torch.nn.attention.flex_attention import flex_attention

    if not torch.cuda.is_available():
        return flex_attention
    compiled = torch.compile(flex_attention, dynamic=False)
    known: set[object] = set()

    def call(q: Tensor, k: Tensor, v: Tensor, block_mask: Any) -> Tensor:
        kind = (q.shape, k.shape, q.dtype, q.device, q.requires_grad, torch.is_grad_enabled())
        # Every window, batch size and gradient mode is a shape of its own, and beyond its limit torch goes back to
        # uncompiled. The limit is one of the calling thread, and backward recomputes in another.
        with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES):
            if kind in known:
                result: Tensor = compiled(q, k, v, block_mask=block_mask)
            else:
                with phase(f"compiling attention of {q.shape[2]:,} to {k.shape[2]:,} tokens, once"):
                    result = compiled(q, k, v, block_mask=block_mask)
                known.add(kind)
        return result

    return call


def attend(q: Tensor, k: Tensor, v: Tensor, sight: Sight | None, kernel: AttentionKernel) -> Tensor:
    """Attention of `[B, heads, L, head_dim]`; everything sees everything where `sight` is None.

    Without a mask torch takes flash attention where there is one. With a mask, `auto` means flex attention on
    an accelerator and a dense mask on a CPU.
    """
    if sight is None:
        return F.scaled_dot_product_attention(q, k, v)
    # Flex attention has no forward derivative, for which plain attention is asked for (flowmap.networks.tangent).
    plain = kernel == "auto" and not torch.backends.cuda.flash_sdp_enabled()
    # Compiled flex attention takes no heads below 16 dimensions; only toys have them.
    if q.shape[-1] >= 16 and not plain and (kernel == "flex" or (kernel == "auto" and q.device.type == "cuda")):
        return _flex()(q, k, v, block_mask=sight.blocks)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=sight.dense)


@final
class SelfAttention:
    """The processor of `attn1`. It is called by diffusers' block, whose names of arguments it has."""

    def __init__(self, kernel: AttentionKernel) -> None:
        self._kernel = kernel

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        rotary_emb: Turn,
        attention_mask: Sight | None = None,
        kv_cache: Slot | None = None,
        kv_cache_flag: None = None,
    ) -> Tensor:
        """Attend from the tokens `[B, L, D]` to themselves, after what the slot remembers."""
        # Normalised across all heads, as Wan2.1 was trained.
        q = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        k = _heads(attn, attn.norm_k(attn.to_k(hidden_states)))
        v = _heads(attn, attn.to_v(hidden_states))
        q, k = rotated(q, rotary_emb).to(v.dtype), rotated(k, rotary_emb).to(v.dtype)
        if kv_cache is not None:
            if kv_cache.recording:
                kv_cache.written = (k, v)
            if kv_cache.past is not None:
                # New tensors, never a write in place: a checkpointed block reads the same memory again in backward.
                k, v = torch.cat([kv_cache.past[0], k], dim=2), torch.cat([kv_cache.past[1], v], dim=2)
        return _out(attn, attend(q, k, v, attention_mask, self._kernel), hidden_states)


@final
class CrossAttention:
    """The processor of `attn2`: from video tokens to text tokens, all of them (Wan2.1 attends to padding too)."""

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Text) -> Tensor:
        """Attend from tokens `[B, L, D]` to text `[B, M, D]`."""

        def read(tokens: Tensor) -> tuple[Tensor, Tensor]:
            k, v = _heads(attn, attn.norm_k(attn.to_k(tokens))), _heads(attn, attn.to_v(tokens))
            return k.to(v.dtype), v

        q = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        k, v = encoder_hidden_states.through(attn, (attn.to_k, attn.norm_k, attn.to_v), read)
        return _out(attn, attend(q.to(v.dtype), k, v, None, "dense"), hidden_states)


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _out(attn: Any, x: Tensor, like: Tensor) -> Tensor:
    return attn.to_out[1](attn.to_out[0](_flat(x).to(like.dtype)))
