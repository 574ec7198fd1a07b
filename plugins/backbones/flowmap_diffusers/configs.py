"""Image backbones, one for each family of diffusers' transformers. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from flowmap.schema.bounds import Guidance
from flowmap_diffusers.checkpoint import claims
from flowmap_diffusers.families.dit import Dit
from flowmap_diffusers.families.flux import Flux
from flowmap_diffusers.families.flux2 import Flux2
from flowmap_diffusers.families.lumina2 import Lumina2
from flowmap_diffusers.families.pixart import PixArt
from flowmap_diffusers.families.qwen_image import QwenImage
from flowmap_diffusers.families.sana import Sana
from flowmap_diffusers.families.sd3 import Sd3
from flowmap_diffusers.families.z_image import ZImage
from flowmap_diffusers.family import Family
from flowmap_diffusers.image_config import GuidedConfig, ImageConfig


class DitConfig(ImageConfig):
    """DiT (arXiv 2212.09748), class to image."""

    type: Literal["dit"] = "dit"
    family: ClassVar[Family] = Dit()
    any_size: ClassVar[bool] = False


class FluxConfig(GuidedConfig):
    """FLUX.1 [dev], [Krea] and [schnell], text to image."""

    type: Literal["flux"] = "flux"
    family: ClassVar[Family] = Flux()


class Flux2Config(GuidedConfig):
    """FLUX.2 [dev], text to image."""

    type: Literal["flux2"] = "flux2"
    guidance: Guidance = Field(4.0, description="what the transformer is told, which is guidance-distilled")
    family: ClassVar[Family] = Flux2()


class Lumina2Config(ImageConfig):
    """Lumina-Image 2.0 (arXiv 2503.21758), text to image."""

    type: Literal["lumina2"] = "lumina2"
    family: ClassVar[Family] = Lumina2()


class PixArtConfig(ImageConfig):
    """PixArt-alpha and PixArt-Sigma (arXiv 2310.00426, 2403.04692), text to image."""

    type: Literal["pixart"] = "pixart"
    family: ClassVar[Family] = PixArt()


class QwenImageConfig(ImageConfig):
    """Qwen-Image (arXiv 2508.02324), text to image."""

    type: Literal["qwen_image"] = "qwen_image"
    family: ClassVar[Family] = QwenImage()


class SanaConfig(ImageConfig):
    """Sana and Sana 1.5 (arXiv 2410.10629, 2501.18427), text to image."""

    type: Literal["sana"] = "sana"
    family: ClassVar[Family] = Sana()


class Sd3Config(ImageConfig):
    """Stable Diffusion 3 and 3.5 (arXiv 2403.03206), text to image."""

    type: Literal["sd3"] = "sd3"
    family: ClassVar[Family] = Sd3()


class ZImageConfig(ImageConfig):
    """Z-Image (arXiv 2511.22699), text to image."""

    type: Literal["z_image"] = "z_image"
    family: ClassVar[Family] = ZImage()


KINDS: tuple[type[ImageConfig], ...] = (
    DitConfig,
    Flux2Config,
    FluxConfig,
    Lumina2Config,
    PixArtConfig,
    QwenImageConfig,
    SanaConfig,
    Sd3Config,
    ZImageConfig,
)
"""All of them."""


def backbone_of(weights: str) -> str | None:
    """The backbone whose family `weights` are of; None if they are of none."""
    return next((kind.type_name() for kind in KINDS if claims(weights, kind.family)), None)
