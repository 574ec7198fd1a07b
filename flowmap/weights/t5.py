"""The shapes of T5's encoders (arXiv 1910.10683), which read texts for many an image and video model. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

SHARED, EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"
"""The names of its one embedding, of which a file has either or both."""

T = TypeVar("T")


def encoder_shapes(
    vocabulary: int, width: int, heads: int, hidden: int, layers: int, distances: tuple[int, int], gated: bool
) -> dict[str, tuple[int, ...]]:
    """Of an encoder, its embedding under its first name.

    `heads` is the dimensions of all heads together. `distances`: buckets of relative positions and the number of heads,
    of which every layer has biases (UMT5, arXiv 2304.09151). `gated`: two layers make the hidden units.
    """
    inner = ("wi_0", "wi_1") if gated else ("wi",)
    found: dict[str, tuple[int, ...]] = {SHARED: (vocabulary, width), "encoder.final_layer_norm.weight": (width,)}
    for index in range(layers):
        attention, ffn = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        found |= {f"{attention}.SelfAttention.{layer}.weight": (heads, width) for layer in "qkv"}
        found[f"{attention}.SelfAttention.o.weight"] = (width, heads)
        found[f"{attention}.SelfAttention.relative_attention_bias.weight"] = distances
        found |= {f"{layer}.layer_norm.weight": (width,) for layer in (attention, ffn)}
        found |= {f"{ffn}.DenseReluDense.{layer}.weight": (hidden, width) for layer in inner}
        found[f"{ffn}.DenseReluDense.wo.weight"] = (width, hidden)
    return found


def with_one_name(found: Mapping[str, T]) -> dict[str, T]:
    """`found` by the names of a file, with the embedding under its first name alone."""
    named = dict(found)
    if EMBEDDING in named:
        named.setdefault(SHARED, named[EMBEDDING])
        del named[EMBEDDING]
    return named
