"""The shapes of Wan2.1's VAE (arXiv 2503.20314), which Qwen-Image's is too: diffusers' classes of both. Torch-free."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from flowmap.weights.shapes import Shapes, layer

_Named = Iterator[tuple[str, tuple[int, ...]]]


def shapes(
    latent: int,
    colours: int,
    widths: tuple[int, int],
    multiples: Sequence[int],
    blocks: int,
    attention: Sequence[float],
    halved: Sequence[bool],
) -> Shapes:
    """Of encoder and decoder.

    `latent` channels in model space, `colours` in pixels; `widths` of encoder and decoder, whose levels have
    `multiples` of them; `blocks` residual blocks in a level, attention beside those at the scales `attention`; levels
    at which time is `halved`.
    """
    down = [widths[0] * n for n in (1, *multiples)]
    up = [widths[1] * n for n in (multiples[-1], *multiples[::-1])]
    return dict(
        [
            *layer("encoder.conv_in", down[0], colours, 3, 3, 3),
            *_encoder_blocks(down, blocks, attention, halved),
            *_middle("encoder.mid_block", down[-1]),
            ("encoder.norm_out.gamma", (down[-1], 1, 1, 1)),
            *layer("encoder.conv_out", 2 * latent, down[-1], 3, 3, 3),
            *layer("quant_conv", 2 * latent, 2 * latent, 1, 1, 1),
            *layer("post_quant_conv", latent, latent, 1, 1, 1),
            *layer("decoder.conv_in", up[0], latent, 3, 3, 3),
            *_middle("decoder.mid_block", up[0]),
            *_decoder_blocks(up, blocks, halved),
            ("decoder.norm_out.gamma", (up[-1], 1, 1, 1)),
            *layer("decoder.conv_out", colours, up[-1], 3, 3, 3),
        ]
    )


def _encoder_blocks(sizes: Sequence[int], blocks: int, attention: Sequence[float], halved: Sequence[bool]) -> _Named:
    number, scale = itertools.count(), 1.0
    for level, (before, after) in enumerate(itertools.pairwise(sizes)):
        for index in range(blocks):
            yield from _residual(f"encoder.down_blocks.{next(number)}", before if index == 0 else after, after)
            if scale in attention:
                yield from _attention(f"encoder.down_blocks.{next(number)}", after)
        if level < len(sizes) - 2:
            name = f"encoder.down_blocks.{next(number)}"
            yield from layer(f"{name}.resample.1", after, after, 3, 3)
            if halved[level]:
                yield from layer(f"{name}.time_conv", after, after, 3, 1, 1)
            scale /= 2


def _decoder_blocks(sizes: Sequence[int], blocks: int, halved: Sequence[bool]) -> _Named:
    for level, (before, after) in enumerate(itertools.pairwise(sizes)):
        name = f"decoder.up_blocks.{level}"
        for index in range(blocks + 1):
            first = before // 2 if level else before
            yield from _residual(f"{name}.resnets.{index}", first if index == 0 else after, after)
        if level < len(sizes) - 2:
            yield from layer(f"{name}.upsamplers.0.resample.1", after // 2, after, 3, 3)
            if halved[::-1][level]:
                yield from layer(f"{name}.upsamplers.0.time_conv", 2 * after, after, 3, 1, 1)


def _residual(name: str, before: int, after: int) -> _Named:
    yield f"{name}.norm1.gamma", (before, 1, 1, 1)
    yield from layer(f"{name}.conv1", after, before, 3, 3, 3)
    yield f"{name}.norm2.gamma", (after, 1, 1, 1)
    yield from layer(f"{name}.conv2", after, after, 3, 3, 3)
    if before != after:
        yield from layer(f"{name}.conv_shortcut", after, before, 1, 1, 1)


def _attention(name: str, size: int) -> _Named:
    yield f"{name}.norm.gamma", (size, 1, 1)
    yield from layer(f"{name}.to_qkv", 3 * size, size, 1, 1)
    yield from layer(f"{name}.proj", size, size, 1, 1)


def _middle(name: str, size: int) -> _Named:
    yield from _residual(f"{name}.resnets.0", size, size)
    yield from _attention(f"{name}.attentions.0", size)
    yield from _residual(f"{name}.resnets.1", size, size)
