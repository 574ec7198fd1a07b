"""Backbones `causal_wan21` and `causal_wan22`: causal Wan students of other projects. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import Finding, SampleSpec
from flowmap.schema.bounds import Frames, Given, Thousandths
from flowmap_wan.causal_config import CausalConfig
from flowmap_wan.settings import ContextFrames

if TYPE_CHECKING:
    from flowmap.interfaces import Chunking
    from flowmap_wan.rolling import Reencoding


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

    def context_hint(self, spec: SampleSpec, frames: int) -> str:
        """As those that are written."""
        return super().context_hint(spec, frames) if self.context == "written" else ""

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
        from flowmap_wan.released import other_boundary

        yield from super().findings(spec)
        if self.lora is not None:
            yield Finding("error", ("lora",), "two networks cannot be adapted here; leave this out")
        if (why := other_boundary(self.weights, self.boundary)) is not None:
            yield Finding("warning", ("boundary",), why)

    def sampler_fields(self) -> Mapping[str, object]:
        """A step goes to the boundary where the network changes there."""
        return {"boundary": self.boundary}

    def splitting(self, reencoded: Reencoding) -> Chunking:
        """Chunk after chunk."""
        from flowmap_wan.rolling import Rolling

        return Rolling(self.evenly(), None)
