"""What the parts of a Wan checkpoint have to be: the fields of their configurations, and the shapes of their weights.

What diffusers and transformers would make of a configuration, known without either: `flowmap check` is to tell a part
that is not complete. `tests/wan/test_layout.py` holds these shapes to those of the libraries' own models. Torch-free.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Shapes = dict[str, tuple[int, ...]]

# Above any model there is, and low enough that nobody works for minutes on a number that is wrong.
_Size = Annotated[int, Field(ge=1, le=2_000_000)]
_Few = Annotated[int, Field(ge=1, le=1000)]
_Small = Annotated[float, Field(gt=0, lt=1)]
_Patch = tuple[_Few, _Few, _Few]

LATENT_CHANNELS = 16
"""Of Wan2.1's VAE."""


class _Fields(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


class TransformerFields(_Fields):
    """A transformer's config.json, plain Wan's or AnyFlow's; what it leaves out is as diffusers' class has it."""

    class_name: str = Field(alias="_class_name")
    patch_size: _Patch = (1, 2, 2)
    num_attention_heads: _Few = 40
    attention_head_dim: _Size = 128
    in_channels: _Size = LATENT_CHANNELS
    out_channels: _Size | None = LATENT_CHANNELS
    text_dim: _Size = 4096
    freq_dim: _Size = 256
    ffn_dim: _Size = 13824
    num_layers: _Few = 40
    cross_attn_norm: bool = True
    qk_norm: Literal["rms_norm_across_heads"] = "rms_norm_across_heads"
    eps: _Small = 1e-6
    rope_max_seq_len: _Size = 1024
    image_dim: _Size | None = None
    added_kv_proj_dim: _Size | None = None
    gate_value: float = Field(0.25, ge=0, le=1)
    deltatime_type: str = "r"
    init_flowmap_model: bool = False
    init_far_model: bool = False
    chunk_partition: tuple[_Size, ...] | None = None
    full_chunk_limit: _Few | None = None
    compressed_patch_size: _Patch | None = None


class TextEncoderFields(_Fields):
    """A text encoder's config.json: UMT5's."""

    model_type: Literal["umt5"]
    vocab_size: _Size
    d_model: _Size
    d_kv: _Size
    d_ff: _Size
    num_layers: _Few
    num_heads: _Few
    relative_attention_num_buckets: _Size = 32
    relative_attention_max_distance: _Size = 128
    layer_norm_epsilon: _Small = 1e-6
    feed_forward_proj: Literal["gated-gelu", "relu"] = "gated-gelu"


class VaeFields(_Fields):
    """A VAE's config.json: Wan2.1's, which makes a quarter of the frames and an eighth of the sides."""

    class_name: Literal["AutoencoderKLWan"] = Field(alias="_class_name")
    base_dim: _Size = 96
    decoder_base_dim: _Size | None = None
    z_dim: Literal[16] = LATENT_CHANNELS
    dim_mult: tuple[_Few, _Few, _Few, _Few] = (1, 2, 4, 4)
    num_res_blocks: _Few = 2
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
        *_layer("patch_embedding", width, fields.in_channels, *patch),
        *_layer("condition_embedder.time_proj", 6 * width, width),
        *_layer("condition_embedder.text_embedder.linear_1", width, fields.text_dim),
        *_layer("condition_embedder.text_embedder.linear_2", width, width),
        *_layer("proj_out", out * patch[0] * patch[1] * patch[2], width),
        ("scale_shift_table", (1, 2, width)),
    ]
    for embedder in ("time_embedder", "delta_embedder")[: 1 + two_times]:
        names += _layer(f"condition_embedder.{embedder}.linear_1", width, fields.freq_dim)
        names += _layer(f"condition_embedder.{embedder}.linear_2", width, width)
    if far:
        names += _layer("far_patch_embedding", width, fields.in_channels, *(fields.compressed_patch_size or (1, 4, 4)))
    for index in range(fields.num_layers):
        block = f"blocks.{index}"
        for attention in ("attn1", "attn2"):
            for layer in ("to_q", "to_k", "to_v", "to_out.0"):
                names += _layer(f"{block}.{attention}.{layer}", width, width)
            names += [(f"{block}.{attention}.norm_{part}.weight", (width,)) for part in "qk"]
        names += _layer(f"{block}.norm2", width) if fields.cross_attn_norm else ()
        names += _layer(f"{block}.ffn.net.0.proj", fields.ffn_dim, width)
        names += _layer(f"{block}.ffn.net.2", width, fields.ffn_dim)
        names.append((f"{block}.scale_shift_table", (1, 6, width)))
    return dict(names)


def text_encoder_shapes(fields: TextEncoderFields) -> Shapes:
    """Of UMT5's encoder; its embedding is `shared`, which other files call `encoder.embed_tokens`."""
    width, heads = fields.d_model, fields.num_heads * fields.d_kv
    inner = ("wi_0", "wi_1") if fields.feed_forward_proj.startswith("gated-") else ("wi",)
    found: Shapes = {
        "shared.weight": (fields.vocab_size, width),
        "encoder.final_layer_norm.weight": (width,),
    }
    for index in range(fields.num_layers):
        attention, ffn = (f"encoder.block.{index}.layer.{part}" for part in (0, 1))
        found |= {f"{attention}.SelfAttention.{layer}.weight": (heads, width) for layer in "qkv"}
        found[f"{attention}.SelfAttention.o.weight"] = (width, heads)
        bias = f"{attention}.SelfAttention.relative_attention_bias.weight"
        found[bias] = (fields.relative_attention_num_buckets, fields.num_heads)
        found |= {f"{layer}.layer_norm.weight": (width,) for layer in (attention, ffn)}
        found |= {f"{ffn}.DenseReluDense.{layer}.weight": (fields.d_ff, width) for layer in inner}
        found[f"{ffn}.DenseReluDense.wo.weight"] = (width, fields.d_ff)
    return found


def vae_shapes(fields: VaeFields) -> Shapes:
    """Of Wan2.1's VAE."""
    latent, colours = fields.z_dim, fields.in_channels
    down = [fields.base_dim * n for n in (1, *fields.dim_mult)]
    last = fields.dim_mult[::-1]
    up = [(fields.decoder_base_dim or fields.base_dim) * n for n in (last[0], *last)]
    return dict(
        [
            *_layer("encoder.conv_in", down[0], colours, 3, 3, 3),
            *_encoder_blocks(fields, down),
            *_middle("encoder.mid_block", down[-1]),
            ("encoder.norm_out.gamma", (down[-1], 1, 1, 1)),
            *_layer("encoder.conv_out", 2 * latent, down[-1], 3, 3, 3),
            *_layer("quant_conv", 2 * latent, 2 * latent, 1, 1, 1),
            *_layer("post_quant_conv", latent, latent, 1, 1, 1),
            *_layer("decoder.conv_in", up[0], latent, 3, 3, 3),
            *_middle("decoder.mid_block", up[0]),
            *_decoder_blocks(fields, up),
            ("decoder.norm_out.gamma", (up[-1], 1, 1, 1)),
            *_layer("decoder.conv_out", colours, up[-1], 3, 3, 3),
        ]
    )


_Named = Iterator[tuple[str, tuple[int, ...]]]


def _layer(name: str, *shape: int) -> _Named:
    """Weight and bias of a layer."""
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _encoder_blocks(fields: VaeFields, sizes: Sequence[int]) -> _Named:
    number, scale = itertools.count(), 1.0
    for level, (before, after) in enumerate(itertools.pairwise(sizes)):
        for index in range(fields.num_res_blocks):
            yield from _residual(f"encoder.down_blocks.{next(number)}", before if index == 0 else after, after)
            if scale in fields.attn_scales:
                yield from _attention(f"encoder.down_blocks.{next(number)}", after)
        if level < len(sizes) - 2:
            name = f"encoder.down_blocks.{next(number)}"
            yield from _layer(f"{name}.resample.1", after, after, 3, 3)
            if fields.temperal_downsample[level]:
                yield from _layer(f"{name}.time_conv", after, after, 3, 1, 1)
            scale /= 2


def _decoder_blocks(fields: VaeFields, sizes: Sequence[int]) -> _Named:
    for level, (before, after) in enumerate(itertools.pairwise(sizes)):
        name = f"decoder.up_blocks.{level}"
        for index in range(fields.num_res_blocks + 1):
            first = before // 2 if level else before
            yield from _residual(f"{name}.resnets.{index}", first if index == 0 else after, after)
        if level < len(sizes) - 2:
            yield from _layer(f"{name}.upsamplers.0.resample.1", after // 2, after, 3, 3)
            if fields.temperal_downsample[::-1][level]:
                yield from _layer(f"{name}.upsamplers.0.time_conv", 2 * after, after, 3, 1, 1)


def _residual(name: str, before: int, after: int) -> _Named:
    yield f"{name}.norm1.gamma", (before, 1, 1, 1)
    yield from _layer(f"{name}.conv1", after, before, 3, 3, 3)
    yield f"{name}.norm2.gamma", (after, 1, 1, 1)
    yield from _layer(f"{name}.conv2", after, after, 3, 3, 3)
    if before != after:
        yield from _layer(f"{name}.conv_shortcut", after, before, 1, 1, 1)


def _attention(name: str, size: int) -> _Named:
    yield f"{name}.norm.gamma", (size, 1, 1)
    yield from _layer(f"{name}.to_qkv", 3 * size, size, 1, 1)
    yield from _layer(f"{name}.proj", size, size, 1, 1)


def _middle(name: str, size: int) -> _Named:
    yield from _residual(f"{name}.resnets.0", size, size)
    yield from _attention(f"{name}.attentions.0", size)
    yield from _residual(f"{name}.resnets.1", size, size)
