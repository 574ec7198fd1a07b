"""Backbone `wan21_i2v`: Wan2.1-I2V, which makes a video from its first frame and a text, with two times. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from flowmap.plugin import Finding, SampleSpec
from flowmap_wan.two_times import TwoTimesConfig

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone, Chunking


class Wan21I2VConfig(TwoTimesConfig):
    """Wan2.1-I2V, bidirectional: a video from a picture, its first frame, and a text."""

    pictures: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ("diffusers", "original", "comfyui")
    # None of them has a class of two times that begins with a picture.
    listed_forms: ClassVar[frozenset[str]] = frozenset(forms)
    libraries: ClassVar[Mapping[str, str]] = {"original": "wan", "comfyui": "comfyui"}
    type: Literal["wan21_i2v"] = "wan21_i2v"

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """Image-to-video models, and what we exported; those that are not Wan2.1's are refused when looked at."""
        from flowmap_wan.opening import claimed
        from flowmap_wan.told import told_by

        told = told_by(weights)
        if told is not None:
            return told.config(weights, cls)
        return cls(weights=weights) if claimed(weights) == "i2v" else None

    def missing(self) -> Iterable[Finding]:
        """What is not here of the weights, or that they are of another task."""
        from flowmap_wan.opening import claimed_here

        found, other = list(super().missing()), None if self.random_base else claimed_here(self.weights)
        why = other.other_task(pictures=True) if other is not None and found else None
        # Of what is there whole `findings` says it.
        yield from found if why is None else [Finding("error", ("weights",), why)]

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        if self.random_base:
            why = "'random' has no image encoder; name a checkpoint, or take type 'wan21' with first_frame"
            yield Finding("error", ("weights",), why)
            return
        yield from super().findings(spec)

    def _shape_findings(self, spec: SampleSpec) -> Iterable[Finding]:
        yield from super()._shape_findings(spec)
        if self.latent_frames(spec) < 2:
            why = f"it makes frames after a picture, and these data have {spec.shape[0]}; take 5 or more"
            yield Finding("error", ("type",), why)

    def contexts(self, spec: SampleSpec) -> Mapping[int, int]:
        """The first frame, always; it is part of the condition, and all latent frames are made."""
        return {1: 0} if self.latent_frames(spec) > 1 else {}

    def _starts(self, frames: int) -> Iterable[int]:
        return ()

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_wan.backbone import wan_backbone

        return wan_backbone(self, spec, self.splitting())

    def splitting(self) -> Chunking:
        """All frames at once, none of them given."""
        from flowmap.interfaces import OneChunk

        return OneChunk()
