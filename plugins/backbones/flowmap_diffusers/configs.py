"""Image backbones, one for each family of diffusers' transformers. Torch-free."""

from __future__ import annotations

from typing import ClassVar, Literal

from flowmap_diffusers.families.dit import Dit
from flowmap_diffusers.families.lumina2 import Lumina2
from flowmap_diffusers.families.pixart import PixArt
from flowmap_diffusers.families.sana import Sana
from flowmap_diffusers.families.sd3 import Sd3
from flowmap_diffusers.families.z_image import ZImage
from flowmap_diffusers.family import Family
from flowmap_diffusers.image_config import ImageConfig
from flowmap_diffusers.noise_prediction import FREQUENCY


class DitConfig(ImageConfig):
    """DiT (arXiv 2212.09748), class to image."""

    type: Literal["dit"] = "dit"
    family: ClassVar[Family] = Dit()

    def time_frequency(self) -> float:
        """Steps of the table of DDPM per unit of t, at most."""
        return FREQUENCY


class Lumina2Config(ImageConfig):
    """Lumina-Image 2.0 (arXiv 2503.21758), text to image."""

    type: Literal["lumina2"] = "lumina2"
    family: ClassVar[Family] = Lumina2()


class PixArtConfig(ImageConfig):
    """PixArt-alpha and PixArt-Sigma (arXiv 2310.00426, 2403.04692), text to image."""

    type: Literal["pixart"] = "pixart"
    family: ClassVar[Family] = PixArt()

    def time_frequency(self) -> float:
        """Steps of the table of DDPM per unit of t, at most."""
        return FREQUENCY


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
