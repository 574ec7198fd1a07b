"""Image backbones, one for each family of diffusers' transformers. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from flowmap.schema.bounds import Guidance
from flowmap_diffusers.families.flux import Flux
from flowmap_diffusers.families.flux2 import Flux2
from flowmap_diffusers.families.qwen_image import QwenImage
from flowmap_diffusers.families.sd3 import Sd3
from flowmap_diffusers.family import Family
from flowmap_diffusers.image_config import GuidedConfig, ImageConfig


class FluxConfig(GuidedConfig):
    """FLUX.1 [dev], [Krea] and [schnell], text to image."""

    type: Literal["flux"] = "flux"
    family: ClassVar[Family] = Flux()


class Flux2Config(GuidedConfig):
    """FLUX.2 [dev], text to image."""

    type: Literal["flux2"] = "flux2"
    guidance: Guidance = Field(4.0, description="what the transformer is told, which is guidance-distilled")
    family: ClassVar[Family] = Flux2()


class QwenImageConfig(ImageConfig):
    """Qwen-Image (arXiv 2508.02324), text to image."""

    type: Literal["qwen_image"] = "qwen_image"
    family: ClassVar[Family] = QwenImage()


class Sd3Config(ImageConfig):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206), text to image."""

    type: Literal["sd3"] = "sd3"
    family: ClassVar[Family] = Sd3()
