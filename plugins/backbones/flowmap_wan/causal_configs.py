"""Backbones `causal_wan21` and `causal_wan22`: causal Wan students of other projects. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from flowmap.plugin import Finding, Origin, Precision, Pretrained, SampleSpec
from flowmap.schema.bounds import Frames, Given, PathText, Thousandths
from flowmap_wan.files_config import FilesConfig
from flowmap_wan.settings import ContextFrames, LoraConfig

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone, Chunking
    from flowmap.plugin.footprint import Footprint
    from flowmap_wan.rolling import Even, Reencoding


class CausalConfig(FilesConfig):
    """What both backbones have: one time, equal chunks, and files as other projects lay them out."""

    one_time: ClassVar[bool] = True
    forms: ClassVar[tuple[str, ...]] = ()
    weights: PathText = Field(
        description="a .safetensors file with the original or diffusers' names, a folder with one, a folder or a hub "
        "id in diffusers' layout, the folder of a flowmap run, or 'random'"
    )
    chunk: Frames = Field(3, description="latent frames per chunk")
    first_chunk: Frames | None = Field(
        None, description="latent frames of the first chunk, where it has others (1: an image can be given)"
    )

    def causal(self) -> bool:
        """Always, but for videos of a chunk."""
        return True

    def evenly(self) -> Even:
        """The chunks."""
        from flowmap_wan.rolling import Even

        return Even(self.chunk, self.first_chunk)

    def missing(self) -> Iterable[Finding]:
        """The weights and the encoders, unless weights are random."""
        from flowmap_wan.causal_files import absences

        if not self.random_base:
            yield from absences(self)

    def origin(self) -> Origin:
        """As published."""
        from flowmap_wan.causal_files import origin_of

        return super().origin() if self.random_base else origin_of(self.weights)

    def pretrained(self) -> Pretrained | None:
        """The student as it stands, or that of the run that the weights are."""
        from flowmap_wan.causal_files import pretrained

        return None if self.random_base else pretrained(self)

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """The published ones, by name, with the fields that their authors use; and ours, as they say."""
        from flowmap_wan.released import release_of
        from flowmap_wan.told import told_by

        told = told_by(weights)
        if told is not None:
            return told.config(weights, cls)
        release = release_of(weights)
        if release is None or release.type != cls.type_name():
            return None
        return cls.model_validate({"weights": weights, **release.fields})

    def rehearsed(self, folder: Path) -> Self:
        """The same with tiny random weights in the layout of the project, and encoders, made in `folder`."""
        if self.random_base:
            return self
        from flowmap_wan.causal_twin import make_causal_twin
        from flowmap_wan.twin import make_null, make_twin

        small = {
            "weights": str(make_causal_twin(folder / f"{self.type}-twin", self.parts())),
            "encoders_from": str(make_twin(folder / "wan-twin")),
            "head_dim": 12,
            "lora": self.lora and LoraConfig(rank=4, alpha=4.0),
            "text_length": 64,  # Wan's own negative prompt fits
            "null_embedding": self.null_embedding and str(make_null(folder / "null.safetensors")),
        }
        return self.model_copy(update=small)

    def _measured(self, spec: SampleSpec, sizes: Mapping[str, Any], precision: Precision) -> Footprint:
        from flowmap_wan.causal_footprint import causal_footprint

        return causal_footprint(self, spec, sizes, precision)

    @abstractmethod
    def splitting(self, reencoded: Reencoding) -> Chunking:
        """How frames are split, and what is remembered of them; `reencoded` is what the VAE makes of a frame."""

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_wan.causal_backbone import causal_backbone

        return causal_backbone(self, spec)

    def _encoders_in(self) -> str:
        from flowmap_wan.causal_files import encoders_named

        return encoders_named(self)

    def _sizes(self) -> Mapping[str, Any] | None:
        from flowmap_wan.causal_files import sizes_of

        return sizes_of(self)

    def _weights_findings(self) -> Iterable[Finding]:
        from flowmap_wan.causal_files import misfits

        yield from misfits(self)

    def _shape_findings(self, spec: SampleSpec) -> Iterable[Finding]:
        yield from super()._shape_findings(spec)
        frames, chunks = self.latent_frames(spec), self.evenly()
        if not chunks.whole(frames):
            near = chunks.near(frames)
            shown = " or ".join(str(end if self.random_base else 4 * (end - 1) + 1) for end in near)
            first = "" if self.first_chunk is None else f"{self.first_chunk} and then "
            why = f"{frames} latent frames are no whole chunks of {first}{self.chunk}; nearest: {shown} frames of data"
            yield Finding("error", ("chunk",), why)

    def _starts(self, frames: int) -> Iterable[int]:
        chunks = self.evenly()
        return [given for given in range(1, frames) if chunks.whole(given)] if chunks.whole(frames) else []


class CausalWan21Config(CausalConfig):
    """Causal Wan2.1 students of others: Self-Forcing, CausVid, LightX2V's, Krea's realtime model, FastVideo's."""

    forms: ClassVar[tuple[str, ...]] = ("original",)
    listed_forms: ClassVar[frozenset[str]] = frozenset(forms)
    libraries: ClassVar[Mapping[str, str]] = {"original": "wan"}
    type: Literal["causal_wan21"] = "causal_wan21"
    one_time_weights: Literal["velocity", "jump"] = Field(
        "jump",
        description="what the weights compute: the 'jump' to data, as few-step students, or a 'velocity', as plain "
        "Wan, from which student and teacher can begin",
    )
    window: Frames | None = Field(
        None, description="latent frames that a chunk sees, its own among them; if left out all before it"
    )
    sink: Given = Field(0, description="of the window, frames that are the first of the video")
    context: Literal["written", "recomputed"] = Field(
        "written",
        description="a finished chunk is 'written' into memory once, or all that a chunk sees is 'recomputed' before "
        "it (Krea)",
    )
    context_frames: ContextFrames = Field(3, description="frames that are recomputed")
    keep_first_frame: bool = Field(
        False,
        description="the first of the recomputed ones is always the video's first, and never one encoded anew",
    )
    padded_attention: bool = Field(
        True, description="a short last block of recomputed frames attends to padding too, as in Krea's code"
    )

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        from flowmap_wan.released import one_time_findings

        yield from super().findings(spec)
        yield from one_time_findings(self.weights, self.one_time_weights)
        largest = max(self.chunk, self.first_chunk or 0)
        if self.context == "recomputed":
            for name in ("window", "sink", "first_chunk"):
                if name in self.model_fields_set and getattr(self, name):
                    yield Finding("error", (name,), "is for context = 'written'; what is recomputed has context_frames")
        elif self.window is None and self.sink:
            yield Finding("error", ("sink",), "is a part of the window; set window, or leave this out")
        elif self.window is not None and self.window < self.sink + largest:
            why = f"must hold the sink of {self.sink} and a chunk of {largest}: {self.sink + largest} frames or more"
            yield Finding("error", ("window",), why)

    def splitting(self, reencoded: Reencoding) -> Chunking:
        """Chunk after chunk."""
        from flowmap_wan.rolling import Refilled, Rolling
        from flowmap_wan.sight import Reach

        if self.context == "recomputed":
            kept = (self.context_frames, self.keep_first_frame, self.padded_attention)
            return Refilled(self.evenly(), *kept, reencoded)
        return Rolling(self.evenly(), None if self.window is None else Reach(self.window, self.sink))

    def _starts(self, frames: int) -> Iterable[int]:
        if self.context == "written":
            return super()._starts(frames)
        return range(1 + (frames - 1) % self.chunk, frames, self.chunk)


class CausalWan22Config(CausalConfig):
    """FastVideo's CausalWan2.2: two causal networks, one for the times above a boundary and one for those below."""

    type: Literal["causal_wan22"] = "causal_wan22"
    first_chunk: Frames | None = Field(
        1, description="latent frames of the first chunk, where it has others (1: an image can be given)"
    )
    boundary: Thousandths = Field(
        875, description="from this time up, in thousandths, 'transformer' computes, and below it 'transformer_2'"
    )
    shared_text_keys: bool = Field(
        True,
        description="transformer_2 reads texts with the text embedder, keys and values of transformer, as in "
        "FastVideo's code, where one memory of them serves both",
    )

    def parts(self) -> tuple[str, ...]:
        """Above the boundary, and below."""
        return ("transformer", "transformer_2")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        yield from super().findings(spec)
        if self.lora is not None:
            yield Finding("error", ("lora",), "two networks cannot be adapted here; leave this out")

    def splitting(self, reencoded: Reencoding) -> Chunking:
        """Chunk after chunk."""
        from flowmap_wan.rolling import Rolling

        return Rolling(self.evenly(), None)
