"""Checkpoints that make videos from a picture: which are taken, and what in their parts cannot be. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator

from flowmap.weights.fields import CONFIG, PREPROCESSING
from flowmap.weights.pipeline import Pipeline
from flowmap_wan.image_layout import (
    ImageEncoderFields,
    ImageProcessorFields,
    image_encoder_shapes,
    with_short_names,
)
from flowmap_wan.layout import TransformerFields

PARTS = ("image_encoder", "image_processor")
"""What such a checkpoint has besides."""

_ANOTHER = (
    "is Wan's separate image-to-video model, with more channels and an image encoder; use backbone type 'wan21_i2v' "
    "for it, or a text-to-video checkpoint: ours are given images as first frames"
)
_NO_PICTURES = "makes videos from text alone; use backbone type 'wan21' or 'far_wan21' for it"
_TAKEN = "; of those that begin with a picture only Wan2.1-I2V's are taken (wan21_i2v)"
_TWO_PICTURES = f"makes videos between a first and a last picture (Wan2.1-FLF2V){_TAKEN}"
_EXPERTS = f"is a separate image-to-video model without an image encoder, as Wan2.2's, which have two experts{_TAKEN}"
_UNATTENDED = f"is a separate image-to-video model, and no layer attends to its pictures{_TAKEN}"
_TWO_TIMES = f"is a separate image-to-video model in a class of AnyFlow's{_TAKEN}"


def takes_pictures(fields: TransformerFields) -> bool:
    """Whether a transformer is of an image-to-video model, with more channels or an image encoder."""
    more = fields.in_channels != (fields.out_channels or fields.in_channels)
    return bool(fields.image_dim or fields.added_kv_proj_dim or more)


def other_task(fields: TransformerFields, plain: bool, pictures: bool) -> str | None:
    """Why a checkpoint is not what a backbone with `pictures`, or without, takes: the end of a sentence; else None.

    `plain` is one of Wan's own class.
    """
    if not takes_pictures(fields):
        return _NO_PICTURES if pictures else None
    if fields.pos_embed_seq_len is not None:
        return _TWO_PICTURES
    if not fields.image_dim or not fields.added_kv_proj_dim:
        return _UNATTENDED if fields.image_dim else _EXPERTS
    if not plain:
        return _TWO_TIMES
    return None if pictures else _ANOTHER


def image_flaws(pipeline: Pipeline, transformer: TransformerFields) -> Iterator[str]:
    """What is wrong with the image encoder and its processor, and where they do not belong to the `transformer`."""
    fields = pipeline.fields("image_encoder", ImageEncoderFields)
    found = {with_short_names(name): shape for name, shape in pipeline.shapes("image_encoder").items()}
    yield from pipeline.misfits("image_encoder", found, image_encoder_shapes(fields))
    config, own = pipeline.folder / "image_encoder" / CONFIG, pipeline.folder / "transformer" / CONFIG
    if transformer.image_dim != fields.hidden_size:
        yield (
            f"{own}: image_dim is {transformer.image_dim}, and hidden_size of {config} is {fields.hidden_size}; they "
            "do not belong together"
        )
    width = transformer.num_attention_heads * transformer.attention_head_dim
    if transformer.added_kv_proj_dim != width:
        yield f"{own}: added_kv_proj_dim is {transformer.added_kv_proj_dim}, and what it sees has {width} dimensions"
    if fields.num_hidden_layers < 2:
        yield f"{config}: num_hidden_layers is {fields.num_hidden_layers}; the last layer but one is what is seen"
    crop = pipeline.fields("image_processor", ImageProcessorFields).crop_size
    if (crop.height, crop.width) != (fields.image_size, fields.image_size):
        file = pipeline.folder / "image_processor" / PREPROCESSING
        yield f"{file}: crop_size is {crop.height} x {crop.width}, and image_size of {config} is {fields.image_size}"
