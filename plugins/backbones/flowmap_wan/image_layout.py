"""What pictures add to a Wan checkpoint: the image encoder, how pictures are scaled for it, and layers that see them.

As `flowmap_wan.layout`: what the libraries would make of a configuration, known without them. Torch-free.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flowmap.weights.fields import Few, Fields, Size, Small
from flowmap.weights.shapes import Shapes, layer

IMAGE_CHANNELS = 20
"""What a picture adds to the channels of a frame: four of a mask, and the latents of the picture before grey frames."""
_PREFIX = "vision_model."  # what transformers before 5 put before all names
_UNUSED = ".norm_added_q.weight"  # files have it, and diffusers' class passes over it too


class ImageEncoderFields(Fields):
    """An image encoder's config.json: the part of CLIP (arXiv 2103.00020) that sees."""

    model_type: Literal["clip_vision_model"]
    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Few = 12
    num_attention_heads: Few = 12
    num_channels: Literal[3] = 3
    image_size: Size = 224
    patch_size: Few = 32
    hidden_act: Literal["quick_gelu", "gelu"] = "quick_gelu"
    layer_norm_eps: Small = 1e-5
    projection_dim: Size = 512

    @property
    def tokens(self) -> int:
        """Rows of what it makes of a picture: one for each patch, and one for the whole."""
        return 1 + (self.image_size // self.patch_size) ** 2


class _Side(Fields):
    shortest_edge: Size


class _Sides(Fields):
    height: Size
    width: Size


class ImageProcessorFields(Fields):
    """A preprocessor_config.json of CLIP's: the shorter side is scaled, the middle kept, colours normalised."""

    do_resize: Literal[True] = True
    do_center_crop: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    resample: Literal[3] = 3
    rescale_factor: float = Field(1 / 255, gt=0, lt=1)
    size: _Side
    crop_size: _Sides
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    @model_validator(mode="after")
    def _covered(self) -> ImageProcessorFields:
        if max(self.crop_size.height, self.crop_size.width) > self.size.shortest_edge:
            raise ValueError("crop_size is larger than size.shortest_edge")
        return self


def image_encoder_shapes(fields: ImageEncoderFields) -> Shapes:
    """Of the image encoder, by the names that transformers 5 has."""
    width = fields.hidden_size
    names: list[tuple[str, tuple[int, ...]]] = [
        ("embeddings.class_embedding", (width,)),
        ("embeddings.patch_embedding.weight", (width, fields.num_channels, fields.patch_size, fields.patch_size)),
        ("embeddings.position_embedding.weight", (fields.tokens, width)),
        *layer("pre_layrnorm", width),
        *layer("post_layernorm", width),
    ]
    for index in range(fields.num_hidden_layers):
        block = f"encoder.layers.{index}"
        for part in "qkv":
            names += layer(f"{block}.self_attn.{part}_proj", width, width)
        names += layer(f"{block}.self_attn.out_proj", width, width)
        names += [*layer(f"{block}.layer_norm1", width), *layer(f"{block}.layer_norm2", width)]
        names += layer(f"{block}.mlp.fc1", fields.intermediate_size, width)
        names += layer(f"{block}.mlp.fc2", width, fields.intermediate_size)
    return dict(names)


def with_short_names(name: str) -> str:
    """What transformers 5 calls the parameter of the image encoder that a file calls `name`."""
    return name.removeprefix(_PREFIX)


def is_unused(name: str) -> bool:
    """Whether a transformer's file may have this parameter, which no network reads."""
    return name.endswith(_UNUSED)


def image_embedder(features: int, width: int) -> list[tuple[str, tuple[int, ...]]]:
    """The layers of a transformer of `width` between the image encoder's `features` and cross-attention."""
    name = "condition_embedder.image_embedder"
    return [
        *layer(f"{name}.norm1", features),
        *layer(f"{name}.ff.net.0.proj", features, features),
        *layer(f"{name}.ff.net.2", width, features),
        *layer(f"{name}.norm2", width),
    ]


def image_attention(attention: str, width: int, features: int) -> list[tuple[str, tuple[int, ...]]]:
    """What cross-attention has besides, to attend to `features` of a picture."""
    return [
        *layer(f"{attention}.add_k_proj", width, features),
        *layer(f"{attention}.add_v_proj", width, features),
        (f"{attention}.norm_added_k.weight", (width,)),
    ]
