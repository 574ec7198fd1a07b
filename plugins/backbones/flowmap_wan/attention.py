"""Self- and cross-attention for diffusers' AnyFlow blocks: exact with a memory, on every device.

diffusers' causal processor pads tokens to a multiple of 128 and attends to the padding when it reads its cache,
and its only backend has no backward pass on a CPU. These processors do neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, final

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn
from torch.nn import functional as F

from flowmap.interfaces import Shared
from flowmap.phases import phase
from flowmap.workshop.memo import Text
from flowmap_wan.rotary import Turn, rotated
from flowmap_wan.sight import Mask, Span


@final
@dataclass(frozen=True)
class Remembered:
    """What one layer remembers: keys and values, each in the pieces `[B, heads, L, head_dim]` that were written.

    A longer memory has the pieces of the shorter one and no copy of them: while a chunk is written both are there.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def map(self, each: Callable[[Tensor], Tensor]) -> Remembered:
        """The same with `each` applied to every piece."""
        return Remembered(tuple(map(each, self.keys)), tuple(map(each, self.values)))

    def before(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and all values, `k` and `v` the last of them."""
        return torch.cat([*self.keys, k], dim=2), torch.cat([*self.values, v], dim=2)

    def tensors(self) -> tuple[Tensor, ...]:
        """All pieces, in the order in which `map` visits them."""
        return (*self.keys, *self.values)


@final
@dataclass
class Slot:
    """One layer's part of a memory: what to attend to besides one's own tokens.

    If `recording`, the layer leaves the new tokens' keys and values in `written`. So many `zeros` are keys and values
    of nothing, which take their share of attention like any.
    """

    past: Remembered | None = None
    recording: bool = False
    zeros: int = 0
    written: tuple[Tensor, Tensor] | None = field(default=None)


Read = tuple[Tensor, Tensor]
"""Keys and values of a text `[B, heads, M, head_dim]`."""

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


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None) -> Tensor:
    """Attention of `[B, heads, L, head_dim]`; everything sees everything where `mask` is None.

    Without a mask, and in parts, torch takes flash attention where there is one; a mask of blocks means flex attention.
    """
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if isinstance(mask, tuple):
        found = [
            F.scaled_dot_product_attention(q[:, :, begin:end], _spans_of(k, keys), _spans_of(v, keys))
            for (begin, end), keys in mask
        ]
        return found[0] if len(found) == 1 else torch.cat(found, dim=2)
    if torch.compiler.is_compiling():
        from torch.nn.attention.flex_attention import flex_attention

        result: Tensor = flex_attention(q, k, v, block_mask=mask)
        return result
    return _flex()(q, k, v, block_mask=mask)


def _spans_of(x: Tensor, spans: Sequence[Span]) -> Tensor:
    """The tokens of `x` `[B, heads, L, head_dim]` in these spans; a view of one."""
    found = [x[:, :, begin:end] for begin, end in spans]
    return found[0] if len(found) == 1 else torch.cat(found, dim=2)


@final
class SelfAttention:
    """The processor of `attn1`. It is called by diffusers' block, whose names of arguments it has."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        rotary_emb: Turn,
        attention_mask: Mask | None = None,
        kv_cache: Slot | None = None,
        kv_cache_flag: None = None,
        shared: Shared | None = None,
    ) -> Tensor:
        """Attend from the tokens `[B, L, D]` to themselves, after what the slot remembers.

        Where tokens are shared among processes, these are some of them; what is remembered is of all, by some heads.
        """
        # Normalised across all heads, as Wan2.1 was trained.
        q = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        k = _heads(attn, attn.norm_k(attn.to_k(hidden_states)))
        v = _heads(attn, attn.to_v(hidden_states))
        q, k = rotated(q, rotary_emb).to(v.dtype), rotated(k, rotary_emb).to(v.dtype)
        if shared is not None:
            q, k, v = shared.heads(torch.stack([q, k, v])).unbind()
        if kv_cache is not None:
            if kv_cache.recording:
                # Of what processes have shared, keys and values are parts of one tensor, the queries in it.
                kv_cache.written = (k, v) if shared is None else (k.clone(), v.clone())
            if kv_cache.past is not None:
                # New tensors, never a write in place: a checkpointed block reads the same memory again in backward.
                k, v = kv_cache.past.before(k, v)
            if kv_cache.zeros:
                k, v = (F.pad(x, (0, 0, kv_cache.zeros, 0)) for x in (k, v))
        found = attend(q, k, v, attention_mask)
        return _out(attn, found if shared is None else shared.tokens(found), hidden_states)


@final
class CrossAttention:
    """The processor of `attn2`: from video tokens to text tokens, all of them (Wan2.1 attends to padding too)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Read | Tensor,
        image: Read | Tensor | None = None,
    ) -> Tensor:
        """Attend from tokens `[B, L, D]` to text `[B, M, D]`, and apart from it to a picture, or to what has been read.

        What both give is added (Wan2.1-I2V).
        """
        q = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        text = encoder_hidden_states
        k, v = _read(attn, text) if isinstance(text, Tensor) else text
        found = attend(q.to(v.dtype), k, v, None)
        if image is not None:
            k, v = _read_picture(attn, image) if isinstance(image, Tensor) else image
            found = found + attend(q.to(v.dtype), k, v, None)
        return _out(attn, found, hidden_states)


def attend_to_pictures(transformer: Any, width: int) -> None:
    """Give every cross-attention of `transformer` the layers of Wan2.1-I2V, by diffusers' names.

    They are for features of `width`; the configuration of the transformer says so too.
    """
    for block in transformer.blocks:
        attn = block.attn2
        attn.add_k_proj = nn.Linear(width, attn.inner_dim)
        attn.add_v_proj = nn.Linear(width, attn.inner_dim)
        attn.norm_added_k = RMSNorm(attn.inner_dim, eps=attn.norm_k.eps)
    transformer.register_to_config(added_kv_proj_dim=width)


def read(attn: Any, text: Text) -> Read | Tensor:
    """The keys and values of `text` that are the same at every call, or else its tokens."""
    parts = (attn.to_k, attn.norm_k, attn.to_v)
    found = text.remembered(attn, parts, lambda tokens: _read(attn, tokens))
    return text.tokens if found is None else found


def read_picture(attn: Any, image: Text) -> Read | Tensor:
    """The keys and values of a picture that are the same at every call, or else its tokens."""
    parts = (attn.add_k_proj, attn.norm_added_k, attn.add_v_proj)
    # Under a key of its own: the text of the same memo has that of the layer.
    found = image.remembered(attn.add_k_proj, parts, lambda tokens: _read_picture(attn, tokens))
    return image.tokens if found is None else found


def _read_picture(attn: Any, tokens: Tensor) -> Read:
    k, v = _heads(attn, attn.norm_added_k(attn.add_k_proj(tokens))), _heads(attn, attn.add_v_proj(tokens))
    return k.to(v.dtype), v


def _read(attn: Any, tokens: Tensor) -> Read:
    k, v = _heads(attn, attn.norm_k(attn.to_k(tokens))), _heads(attn, attn.to_v(tokens))
    return k.to(v.dtype), v


def _heads(attn: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)


def _flat(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _out(attn: Any, x: Tensor, like: Tensor) -> Tensor:
    return attn.to_out[1](attn.to_out[0](_flat(x).to(like.dtype)))
