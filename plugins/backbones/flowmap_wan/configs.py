"""Backbones `wan21` (bidirectional) and `far_wan21` (causal): Wan2.1 video models (arXiv 2503.20314) with two times."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field

from flowmap.plugin import Finding, SampleSpec, listed
from flowmap.schema.bounds import MOST_PARTS, Frames, Patch, Probability
from flowmap_wan.settings import FullChunks
from flowmap_wan.two_times import TwoTimesConfig

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone, Chunking


class Wan21Config(TwoTimesConfig):
    """Wan2.1, bidirectional: every frame sees every other. Text- and image-to-video."""

    forms: ClassVar[tuple[str, ...]] = ("diffusers", "released", "original", "comfyui")
    listed_forms: ClassVar[frozenset[str]] = frozenset(("original", "comfyui"))
    libraries: ClassVar[Mapping[str, str]] = {"original": "wan", "comfyui": "comfyui"}
    type: Literal["wan21"] = "wan21"
    first_frame: Probability = Field(
        0.0, description="share of training steps in which the first frame is given (image-to-video)"
    )

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """Plain Wan2.1 checkpoints, AnyFlow's bidirectional ones, rCM's, and what we exported, as that says."""
        from flowmap_wan.opening import claimed
        from flowmap_wan.released import release_of
        from flowmap_wan.told import told_by

        told = told_by(weights)
        if told is not None:
            return told.config(weights, cls)
        release = release_of(weights)
        if release is not None and release.type == "wan21":
            return cls.model_validate({"weights": weights, **release.fields})
        return cls(weights=weights) if claimed(weights) in ("wan", "anyflow") else None

    def goes_on(self) -> bool:
        """With `first_frame`; text-to-video weights as they are never saw a frame without noise beside others."""
        return self.first_frame > 0

    def _starts(self, frames: int) -> Iterable[int]:
        return range(1, frames)

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_wan.backbone import wan_backbone

        return wan_backbone(self, spec, self.splitting())

    def splitting(self) -> Chunking:
        """All frames at once."""
        from flowmap_wan.chunking import Bidirectional

        return Bidirectional(self.first_frame)


class FarWan21Config(TwoTimesConfig):
    """Wan2.1 made causal (FAR, arXiv 2503.19325): chunk after chunk. Text-, image- and video-to-video."""

    type: Literal["far_wan21"] = "far_wan21"
    chunks: tuple[Frames, ...] = Field(
        (1, 3, 3, 3, 3, 3, 3, 2),
        min_length=1,
        max_length=MOST_PARTS,
        description="latent frames per chunk; they sum to a video's",
    )
    full_chunks: FullChunks = Field(3, description="newest chunks at full resolution; older ones are compressed")
    long_share: Probability = Field(
        0.5, description="share of training steps over more chunks than full_chunks (evenly, up to all)"
    )
    compressed_patch_size: tuple[Patch, Patch, Patch] = Field((1, 4, 4), description="patch of a compressed frame")

    def _shape_findings(self, spec: SampleSpec) -> Iterable[Finding]:
        yield from super()._shape_findings(spec)
        frames, (_, _, height, width) = self.latent_frames(spec), spec.shape
        if sum(self.chunks) != frames:
            ends = list(itertools.accumulate(self.chunks))
            near = sorted(sorted(ends, key=lambda end: abs(end - frames))[:2])
            shown = " or ".join(f"{end if self.random_base else 4 * (end - 1) + 1}" for end in near)
            why = (
                f"[{listed(self.chunks)}] sum to {sum(self.chunks)}, and these data have {frames} latent frames; "
                f"chunks end at {shown} frames"
            )
            yield Finding("error", ("chunks",), why)
        scale = 1 if self.random_base else 8
        deep, down, across = self.compressed_patch_size
        fine = self.architecture.patch if self.architecture is not None else (1, 2, 2)
        if deep != 1 or down % fine[1] or across % fine[2]:
            why = f"must be one frame, and whole multiples of a full frame's patch {fine[1]} x {fine[2]}"
            yield Finding("error", ("compressed_patch_size",), why)
        if height // scale % down or width // scale % across:
            why = f"latent frames of {height // scale} x {width // scale} are not whole patches of {down} x {across}"
            yield Finding("error", ("compressed_patch_size",), why)

    def no_forward_mode(self, spec: SampleSpec) -> str | None:
        """Where the scores of attention would be too large, or its kernel has none."""
        if self.attention == "flex" and self.causal():
            return "attention = 'flex' has no forward derivative ('auto' has one)"
        return super().no_forward_mode(spec)

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """AnyFlow's causal checkpoints, with the chunks that they were trained on."""
        from flowmap_wan.pretrained import far_fields

        fields = far_fields(weights)
        return None if fields is None else cls.model_validate(fields)

    def sized(self, spec: SampleSpec) -> Self:
        """The first chunks, if a shorter video ends where one of them ends."""
        if len(spec.shape) != 4:
            return self
        ends = list(itertools.accumulate(self.chunks))
        frames = self.latent_frames(spec)
        if frames not in ends:
            return self
        return self.model_copy(update={"chunks": self.chunks[: ends.index(frames) + 1]})

    def _chunks(self) -> tuple[int, ...]:
        return self.chunks

    def causal(self) -> bool:
        """In more than one chunk."""
        return len(self.chunks) > 1

    def _starts(self, frames: int) -> Iterable[int]:
        return itertools.accumulate(self.chunks[:-1])

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_wan.backbone import wan_backbone

        return wan_backbone(self, spec, self.splitting())

    def splitting(self) -> Chunking:
        """Chunk after chunk."""
        from flowmap_wan.chunking import Causal

        return Causal(self.chunks, self.full_chunks, self.long_share)
