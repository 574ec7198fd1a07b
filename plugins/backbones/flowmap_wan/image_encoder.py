"""Pictures as CLIP sees them (arXiv 2103.00020): the image encoder of Wan2.1-I2V, through transformers, in float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flowmap.workshop.parts import OnDevices, read_model, weights_of
from flowmap_wan.checkpoint import Checkpoint
from flowmap_wan.image_layout import ImageEncoderFields, ImageProcessorFields, with_short_names


@final
class ImageEncoder:
    """The image encoder of the checkpoint that `source` finds, read when it is first needed."""

    def __init__(self, source: Callable[[], Checkpoint]) -> None:
        self._source = source
        self._models = OnDevices(self._read)

    @torch.no_grad()
    def __call__(self, x: Tensor, device: torch.device) -> Tensor:
        """The last hidden states but one `[B, tokens, D]`, on `device`, of pictures `[B, 3, H, W]` in [-1, 1]."""
        pixels = torch.stack([scaled(picture, self._scaling) for picture in x])
        found = self._models(device)(pixel_values=pixels.to(device), output_hidden_states=True)
        states: Tensor = found.hidden_states[-2]
        return states

    def release(self) -> None:
        """It leaves its accelerator, 2.5 GB."""
        self._models.release()

    @cached_property
    def _scaling(self) -> ImageProcessorFields:
        return self._source().pipeline.fields("image_processor", ImageProcessorFields)

    def _read(self, device: torch.device) -> Any:
        from transformers import CLIPVisionConfig, CLIPVisionModel

        folder = self._source().pipeline
        fields = folder.fields("image_encoder", ImageEncoderFields)
        own = {with_short_names(name): value for name, value in weights_of(folder, "image_encoder").items()}

        def make() -> torch.nn.Module:
            model: torch.nn.Module = CLIPVisionModel(CLIPVisionConfig(**fields.model_dump(exclude={"model_type"})))
            for module in model.modules():
                if hasattr(module, "position_ids"):
                    # The one buffer, which no file has.
                    module.position_ids = torch.arange(fields.tokens, device="cpu")[None]
            return model

        with torch.device("meta"):
            # By the names of the transformers that is here.
            names = {with_short_names(name): name for name in make().state_dict()}
        return read_model("image encoder", make, {names[key]: own[key] for key in names}, torch.float32)


def scaled(picture: Tensor, by: ImageProcessorFields) -> Tensor:
    """A picture `[3, H, W]` in [-1, 1] as CLIP's processor makes it of one of eight bits, `[3, size, size]`."""
    bits = ((picture.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(bits.permute(1, 2, 0).cpu().numpy())
    short, (width, height) = by.size.shortest_edge, image.size
    # The longer side is rounded down.
    sides = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = image.resize(sides, Image.Resampling(by.resample))
    left, top = (image.width - by.crop_size.width) // 2, (image.height - by.crop_size.height) // 2
    image = image.crop((left, top, left + by.crop_size.width, top + by.crop_size.height))
    colours = np.asarray(image).astype(np.float32) * np.float32(by.rescale_factor)
    mean, deviation = (np.array(values, np.float32) for values in (by.image_mean, by.image_std))
    return torch.from_numpy((colours - mean) / deviation).permute(2, 0, 1)
