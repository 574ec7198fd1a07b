"""One transformer block: diffusers' layers, modulated frame by frame.

diffusers' own forward takes six numbers per token and channel, made anew in float32 by every block: at 14B and 480p
gigabytes for what is the same in all tokens of a frame. Here they are those of a frame, and tokens see them by a view.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import Any, final

import torch
from torch import Tensor, nn

from flowmap.interfaces import Shared
from flowmap_wan.attention import Read, Slot, read, read_picture
from flowmap_wan.rotary import Turn
from flowmap_wan.sight import Mask

Modulation = tuple[Tensor, int]
"""Of consecutive tokens: six numbers for every group of as many tokens `[B, groups, 6, D]`, and how many tokens."""


def modulate_by_frame(block: nn.Module) -> None:
    """Let diffusers' `block` take a sequence of `Modulation` where it took modulations per token.

    The block itself is still what is called: sharding and adapters hook into it and its layers.
    """
    block.forward = MethodType(_forward, block)
    block.register_forward_pre_hook(_with_text_read)


def _with_text_read(block: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with what has been read of text and picture in their places: where parameters are gathered, but
    before what is compiled or computed again."""
    hidden, text, *rest, image = given
    return hidden, read(block.attn2, text), *rest, None if image is None else read_picture(block.attn2, image)


def _forward(
    block: Any,
    hidden: Tensor,
    text: Read | Tensor,
    modulations: Sequence[Modulation],
    rotation: Turn,
    mask: Mask | None,
    slot: Slot | None,
    shared: Shared | None = None,
    image: Read | Tensor | None = None,
) -> Tensor:
    """As AnyFlowTransformerBlock.forward of diffusers, operation by operation."""
    six = _Six(block.scale_shift_table, modulations)
    shift, scale, gate = 0, 1, 2
    x = six.each(lambda m, x: (block.norm1(x.float()) * (1 + m[scale]) + m[shift]).type_as(x), hidden)
    y = block.attn1(x, rotary_emb=rotation, attention_mask=mask, kv_cache=slot, shared=shared)
    hidden = (hidden.float() + six.each(lambda m, y: y * m[gate], y)).type_as(hidden)

    x = block.norm2(hidden.float()).type_as(hidden)
    hidden = hidden + block.attn2(x, encoder_hidden_states=text, image=image)

    shift, scale, gate = 3, 4, 5
    x = six.each(lambda m, x: (block.norm3(x.float()) * (1 + m[scale]) + m[shift]).type_as(x), hidden)
    y = block.ffn(x)
    # A sum, not a view of one: what shards the block hooks into what it returns.
    return (hidden.float() + six.each(lambda m, y: y.float() * m[gate], y)).type_as(hidden)


@final
class _Six:
    """The six modulations of a block, and who is modulated by which."""

    def __init__(self, table: Tensor, modulations: Sequence[Modulation]) -> None:
        self._lengths = [length for _, length in modulations]
        # [B, groups, 1, D] each, to go with [B, groups, tokens, D].
        self._pieces = [(table + numbers.float()).unsqueeze(3).unbind(2) for numbers, _ in modulations]

    def each(self, function: Callable[[tuple[Tensor, ...], Tensor], Tensor], x: Tensor) -> Tensor:
        """`function` of the six and of `x` `[B, L, D]`, piece by piece."""
        done = []
        for six, piece in zip(self._pieces, x.split(self._lengths, dim=1), strict=True):
            done.append(function(six, piece.unflatten(1, (six[0].shape[1], -1))).flatten(1, 2))
        return done[0] if len(done) == 1 else torch.cat(done, dim=1)
