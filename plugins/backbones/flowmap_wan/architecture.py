"""The sizes of the transformer that a recipe names, as far as they can be known without weights. Torch-free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG
from flowmap.weights.names import find
from flowmap.weights.runs import origin
from flowmap_wan.checkpoint import Checkpoint, text_precision
from flowmap_wan.image_layout import ImageEncoderFields, image_encoder_shapes
from flowmap_wan.layout import TextEncoderFields, TransformerFields, VaeFields, text_encoder_shapes, vae_shapes
from flowmap_wan.settings import ArchitectureConfig

# The published sizes, by a part of the name; what both have in common is as diffusers' class has it.
PUBLISHED_SIZES: Mapping[str, Mapping[str, Any]] = {
    "1.3B": {"num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960},
    "14B": {"num_layers": 40, "num_attention_heads": 40, "ffn_dim": 13824},
}

# What those that begin with a picture have besides, and their image encoder: the part of CLIP ViT-H/14 that sees.
_PICTURES = ("I2V", {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120})
_IMAGE_ENCODER = {"model_type": "clip_vision_model", "hidden_size": 1280, "intermediate_size": 5120, "patch_size": 14}
_IMAGE_ENCODER |= {"num_hidden_layers": 32, "num_attention_heads": 16}

# UMT5-XXL, which all published weights have; their VAE is as diffusers' class has it.
_TEXT_ENCODER = {"model_type": "umt5", "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240}
_TEXT_ENCODER |= {"num_layers": 24, "num_heads": 64}
_VAE = {"_class_name": "AutoencoderKLWan"}
_BYTES = {"bfloat16": 2, "float32": 4}


def architecture_of(architecture: ArchitectureConfig | None, weights: str) -> Mapping[str, Any] | None:
    """A diffusers configuration: the recipe's own, the checkpoint's, or by its name; None if nothing is known of it.

    Nothing is known of a damaged one: what is wrong with it is `Checkpoint.flaw` to say.
    """
    if architecture is not None:
        return architecture.diffusers()
    base, run = origin(weights)
    if "architecture" in run:
        try:
            return ArchitectureConfig.model_validate(run["architecture"]).diffusers()
        except ValidationError:
            return None
    return None if base is None else _of_weights(base)


def _of_weights(weights: str) -> Mapping[str, Any] | None:
    folder = find(weights)
    if folder is not None and (folder / "transformer" / CONFIG).is_file():
        try:
            return Checkpoint(folder).transformer.model_dump()
        except FlowmapError:
            return None
    name = Path(weights).name
    known = next((sizes for part, sizes in PUBLISHED_SIZES.items() if part in name), None)
    if known is None:
        return None
    more = _PICTURES[1] if _PICTURES[0] in name else {}
    return TransformerFields.model_validate({"_class_name": "", **known, **more}).model_dump()


def encoders_of(weights: str) -> Checkpoint | None:
    """The checkpoint with the encoders of `weights`, which may be a run of ours; None if it is not here."""
    base, _ = origin(weights)
    folder = None if base is None else find(base)
    return None if folder is None else Checkpoint(folder)


def image_encoder_of(weights: str) -> ImageEncoderFields:
    """The image encoder of `weights`, or else the published one."""
    found = encoders_of(weights)
    with suppress(FlowmapError):
        if found is not None:
            return found.pipeline.fields("image_encoder", ImageEncoderFields)
    return ImageEncoderFields.model_validate(_IMAGE_ENCODER)


def encoder_bytes(weights: str, device: str, pictures: bool) -> dict[str, int]:
    """Bytes of the encoders on that kind of device: of the checkpoint's own, or else of the published ones."""
    text, vae = TextEncoderFields.model_validate(_TEXT_ENCODER), VaeFields.model_validate(_VAE)
    found = encoders_of(weights)
    if found is not None:
        # What is damaged is `Checkpoint.flaw` to say.
        with suppress(FlowmapError):
            text, vae = (
                found.pipeline.fields("text_encoder", TextEncoderFields),
                found.pipeline.fields("vae", VaeFields),
            )
    counts = [sum(map(math.prod, shapes.values())) for shapes in (text_encoder_shapes(text), vae_shapes(vae))]
    found_bytes = {"text encoder": _BYTES[text_precision(device)] * counts[0], "VAE": _BYTES["float32"] * counts[1]}
    if pictures:
        shapes = image_encoder_shapes(image_encoder_of(weights))
        found_bytes["image encoder"] = _BYTES["float32"] * sum(map(math.prod, shapes.values()))
    return found_bytes
