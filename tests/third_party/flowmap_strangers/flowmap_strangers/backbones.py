"""What a recipe may set of the two backbones. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import BackboneConfig, Finding, Recomputation, SampleSpec


class UNet1dConfig(BackboneConfig):
    """A U-Net for signals [1, channels, length], conditioned on class labels."""

    type: Literal["unet1d"] = "unet1d"
    random_base: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("safetensors",)
    libraries: ClassVar[Mapping[str, str]] = {"safetensors": "flowmap-strangers"}
    width: int = Field(16, ge=4, le=1024, description="channels at full length; twice as many at half of it")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        if len(spec.shape) != 3 or spec.shape[0] != 1 or spec.shape[2] % 2:
            why = f"'unet1d' takes signals [1, channels, even length]; these data are {list(spec.shape)}"
            yield Finding("error", ("type",), why)

    def has_blocks(self) -> bool:
        return False

    def time_frequency(self) -> float:
        return 30.0

    def build(self, spec: SampleSpec) -> Any:
        from flowmap_strangers.unet1d import unet1d

        return unet1d(self, spec)


class Sd3Config(BackboneConfig):
    """Stable Diffusion 3's transformer (diffusers) for images, conditioned on class labels, roles as adapters."""

    type: Literal["sd3_labels"] = "sd3_labels"
    random_base: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("safetensors",)
    libraries: ClassVar[Mapping[str, str]] = {"safetensors": "flowmap-strangers"}
    layers: int = Field(2, ge=1, le=100, description="transformer blocks")
    heads: int = Field(2, ge=1, le=100, description="attention heads")
    head_dim: int = Field(8, ge=4, le=256, description="dimensions of a head")
    rank: int = Field(4, ge=1, le=1024, description="rank of every adapter")
    gate: float = Field(0.25, ge=0, le=1, description="share of the r-embedding")
    gradient_checkpointing: bool = Field(False, description="recompute blocks in backward instead of keeping them")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        if len(spec.shape) != 4 or spec.shape[0] != 1 or spec.shape[2] != spec.shape[3] or spec.shape[2] % 2:
            why = f"'sd3_labels' takes square images [1, C, H, H] of even H; these data are {list(spec.shape)}"
            yield Finding("error", ("type",), why)

    def recomputation(self) -> Recomputation:
        return "block" if self.gradient_checkpointing else "none"

    def time_frequency(self) -> float:
        return 1000.0

    def build(self, spec: SampleSpec) -> Any:
        from flowmap_strangers.sd3 import sd3

        return sd3(self, spec)
