"""Image backbones, one for each family of diffusers' transformers. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from flowmap_diffusers.families.lumina2 import Lumina2
from flowmap_diffusers.families.sana import Sana
from flowmap_diffusers.families.sd3 import Sd3
from flowmap_diffusers.families.z_image import ZImage
from flowmap_diffusers.family import Family
from flowmap_diffusers.image_config import ImageConfig


class Lumina2Config(ImageConfig):
    """Lumina-Image 2.0 (arXiv 2503.21758), text to image."""

    type: Literal["lumina2"] = "lumina2"
    family: ClassVar[Family] = Lumina2()


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
