"""What causal Wan students of other projects have in common. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field

from flowmap.plugin import Finding, Origin, Precision, Pretrained, SampleSpec
from flowmap.schema.bounds import Frames, PathText
from flowmap_wan.files_config import FilesConfig
from flowmap_wan.settings import LoraConfig

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

    def sampler_fields(self) -> Mapping[str, object]:
        """The fields of the sampler `lcm` that follow from these, whatever the list of times."""
        return {}

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

    def context_hint(self, spec: SampleSpec, frames: int) -> str:
        """A first chunk of its own, where every one is as long as all others: those given are that."""
        first = frames if self.random_base else (frames + 3) // 4
        if self.first_chunk is not None or first >= self.chunk or (frames % 4 != 1 and not self.random_base):
            return ""
        chunks = self.model_copy(update={"first_chunk": first}).evenly()
        total = self.latent_frames(spec)
        ends = (total,) if chunks.whole(total) else chunks.near(total)
        shown = " or ".join(str(end if self.random_base else 4 * (end - 1) + 1) for end in ends)
        return f"set first_chunk = {first} in a recipe's backbone, and let videos have {shown} frames"

    def _starts(self, frames: int) -> Iterable[int]:
        chunks = self.evenly()
        return [given for given in range(1, frames) if chunks.whole(given)] if chunks.whole(frames) else []
