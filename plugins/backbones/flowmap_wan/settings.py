"""The tables of a Wan backbone: sizes of a network, adapters; and words of its authors. Torch-free."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from flowmap.plugin import Config
from flowmap.schema.bounds import (
    MOST_FRAMES,
    MOST_PARTS,
    MOST_ROWS,
    MOST_WIDTH,
    Channels,
    Depth,
    HeadDim,
    Heads,
    Hidden,
    Patch,
    Range,
    Scale,
    Width,
)

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LAYERS = (*(f"{part}.{name}" for part in ("attn1", "attn2") for name in _ATTENTION), "ffn.net.0.proj", "ffn.net.2")
"""The linear layers of a transformer block."""

_PICTURE_LAYERS = ("attn2.add_k_proj", "attn2.add_v_proj")

PUBLISHED_LAYERS = tuple(layer for layer in LAYERS if not layer.startswith("attn2."))
"""Those that AnyFlow's authors adapt."""

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)
"""What Wan2.1's authors steer away from, in their own words (Wan-Video/Wan2.1, sample_neg_prompt).

AnyFlow's null condition is the embedding of these words too.
"""

TimeFeatures = Annotated[int, Range(2, MOST_WIDTH, "a sine and a cosine; Wan has 256")]
"""Sinusoids of a time."""

FullChunks = Annotated[
    int, Range(2, MOST_PARTS, "the chunk that is made and one before; more than a video has are all")
]
"""Chunks at full resolution."""

ContextFrames = Annotated[
    int, Range(2, MOST_FRAMES, "the first frame of a video, or of those that are new, and one more")
]
"""Frames that are written anew before a chunk."""


def adaptable(pictures: bool) -> tuple[str, ...]:
    """The linear layers of a transformer block; with keys and values of pictures where there are `pictures`."""
    return (*LAYERS, *_PICTURE_LAYERS) if pictures else LAYERS


class ArchitectureConfig(Config):
    """Sizes of a network that starts from random weights."""

    layers: Depth = Field(4, description="transformer blocks")
    heads: Heads = Field(4, description="attention heads")
    head_dim: HeadDim = Field(24, description="dimensions of a head; even, for rotary positions")
    ffn_dim: Hidden = Field(256, description="hidden units of the feed-forward layers")
    channels: Channels = Field(16, description="channels of a latent frame")
    text_dim: Width = Field(32, description="dimensions of a text embedding")
    freq_dim: TimeFeatures = Field(64, description="sinusoids of a time")
    patch: tuple[Patch, Patch, Patch] = Field((1, 2, 2), description="frames, rows and columns of a patch")

    def diffusers(self) -> dict[str, Any]:
        """The same under diffusers' names."""
        return {
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "ffn_dim": self.ffn_dim,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "patch_size": self.patch,
        }


class LoraConfig(Config):
    """Low-rank adapters (arXiv 2106.09685) on one frozen base that all roles share."""

    rank: Width = Field(256, description="rank of every adapter")
    alpha: Scale = Field(256.0, description="an adapter's output is scaled by alpha / rank")
    layers: tuple[str, ...] = Field(
        PUBLISHED_LAYERS,
        max_length=MOST_ROWS,
        description="linear layers of every block that get one: self-attention and feed-forward as published; attn2 is "
        "cross-attention. A flow map's time embedders get one besides",
    )
