"""What the parts of a Wan checkpoint have to be: the fields of their configurations, and the shapes of their weights.

What diffusers and transformers would make of a configuration, known without either: `flowmap check` is to tell a part
that is not complete. `tests/wan/test_layout.py` holds these shapes to those of the libraries' own models. Torch-free.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from flowmap.weights import video_vae
from flowmap.weights.fields import Few, Fields, Size, Small
from flowmap.weights.shapes import Shapes, layer
from flowmap.weights.t5 import encoder_shapes
from flowmap_wan.image_layout import image_attention, image_embedder

_Patch = tuple[Few, Few, Few]

LATENT_CHANNELS = 16
"""Of Wan2.1's VAE."""


class TransformerFields(Fields):
    """A transformer's config.json, plain Wan's or AnyFlow's; what it leaves out is as diffusers' class has it."""

    class_name: str = Field(alias="_class_name")
    patch_size: _Patch = (1, 2, 2)
    num_attention_heads: Few = 40
    attention_head_dim: Size = 128
    in_channels: Size = LATENT_CHANNELS
    out_channels: Size | None = LATENT_CHANNELS
    text_dim: Size = 4096
    freq_dim: Size = 256
    ffn_dim: Size = 13824
    num_layers: Few = 40
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: Small = 1e-6
    rope_max_seq_len: Size = 1024
    image_dim: Size | None = None
    added_kv_proj_dim: Size | None = None
    pos_embed_seq_len: Size | None = None
    gate_value: float = Field(0.25, ge=0, le=1)
    deltatime_type: str = "r"
    init_flowmap_model: bool = False
    init_far_model: bool = False
    chunk_partition: tuple[Size, ...] | None = None
    full_chunk_limit: Few | None = None
    compressed_patch_size: _Patch | None = None


class TextEncoderFields(Fields):
    """A text encoder's config.json: UMT5's."""

    model_type: Literal["umt5"]
    vocab_size: Size
    d_model: Size
    d_kv: Size
    d_ff: Size
    num_layers: Few
    num_heads: Few
    relative_attention_num_buckets: Size = 32
    relative_attention_max_distance: Size = 128
    layer_norm_epsilon: Small = 1e-6
    feed_forward_proj: Literal["gated-gelu", "relu"] = "gated-gelu"


class VaeFields(Fields):
    """A VAE's config.json: Wan2.1's, which makes a quarter of the frames and an eighth of the sides."""

    class_name: Literal["AutoencoderKLWan"] = Field(alias="_class_name")
    base_dim: Size = 96
    decoder_base_dim: Size | None = None
    z_dim: Literal[16] = LATENT_CHANNELS
    dim_mult: tuple[Few, Few, Few, Few] = (1, 2, 4, 4)
    num_res_blocks: Few = 2
    attn_scales: tuple[float, ...] = Field((), max_length=10)
    temperal_downsample: tuple[bool, bool, bool] = (False, True, True)
    latents_mean: Annotated[tuple[float, ...], Field(min_length=16, max_length=16)] | None = None
    latents_std: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=16, max_length=16)] | None = None
    is_residual: Literal[False] = False
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    patch_size: None = None


def transformer_shapes(fields: TransformerFields, two_times: bool, far: bool) -> Shapes:
    """Of a Wan transformer; with the embedder of a second time, and with patches of compressed frames."""
    width = fields.num_attention_heads * fields.attention_head_dim
    out = fields.out_channels or fields.in_channels
    patch = fields.patch_size
    names: list[tuple[str, tuple[int, ...]]] = [
        *layer("patch_embedding", width, fields.in_channels, *patch),
        *layer("condition_embedder.time_proj", 6 * width, width),
        *layer("condition_embedder.text_embedder.linear_1", width, fields.text_dim),
        *layer("condition_embedder.text_embedder.linear_2", width, width),
        *layer("proj_out", out * patch[0] * patch[1] * patch[2], width),
        ("scale_shift_table", (1, 2, width)),
    ]
    for embedder in ("time_embedder", "delta_embedder")[: 1 + two_times]:
        names += layer(f"condition_embedder.{embedder}.linear_1", width, fields.freq_dim)
        names += layer(f"condition_embedder.{embedder}.linear_2", width, width)
    if far:
        names += layer("far_patch_embedding", width, fields.in_channels, *(fields.compressed_patch_size or (1, 4, 4)))
    if fields.image_dim:
        names += image_embedder(fields.image_dim, width)
    for index in range(fields.num_layers):
        block = f"blocks.{index}"
        for attention in ("attn1", "attn2"):
            for part in ("to_q", "to_k", "to_v", "to_out.0"):
                names += layer(f"{block}.{attention}.{part}", width, width)
            names += [(f"{block}.{attention}.norm_{part}.weight", (width,)) for part in "qk"]
        if fields.added_kv_proj_dim:
            names += image_attention(f"{block}.attn2", width, fields.added_kv_proj_dim)
        names += layer(f"{block}.norm2", width) if fields.cross_attn_norm else ()
        names += layer(f"{block}.ffn.net.0.proj", fields.ffn_dim, width)
        names += layer(f"{block}.ffn.net.2", width, fields.ffn_dim)
        names.append((f"{block}.scale_shift_table", (1, 6, width)))
    return dict(names)


def text_encoder_shapes(fields: TextEncoderFields) -> Shapes:
    """Of UMT5's encoder; its embedding is `shared`, which other files call `encoder.embed_tokens`."""
    return encoder_shapes(
        fields.vocab_size,
        fields.d_model,
        fields.num_heads * fields.d_kv,
        fields.d_ff,
        fields.num_layers,
        (fields.relative_attention_num_buckets, fields.num_heads),
        gated=fields.feed_forward_proj.startswith("gated-"),
    )


def vae_shapes(fields: VaeFields) -> Shapes:
    """Of Wan2.1's VAE."""
    return video_vae.shapes(
        fields.z_dim,
        fields.in_channels,
        (fields.base_dim, fields.decoder_base_dim or fields.base_dim),
        fields.dim_mult,
        fields.num_res_blocks,
        fields.attn_scales,
        fields.temperal_downsample,
    )
