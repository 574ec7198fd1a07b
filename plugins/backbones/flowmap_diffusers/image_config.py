"""What the configurations of all image backbones have. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from flowmap.errors import FlowmapError
from flowmap.plugin import BackboneConfig, Finding, Origin, Precision, Pretrained, Recomputation, SampleSpec
from flowmap.plugin.scores import scores_too_large
from flowmap.schema.bounds import MOST_TEXT, RECOMPUTATION, Guidance, PathText, Recomputed, Share, Tokens
from flowmap.weights.lora import trained_in_full
from flowmap.weights.names import RANDOM, find
from flowmap.weights.runs import is_run, origin
from flowmap_diffusers.checkpoint import SPACES, at_hand, claims, foreign, text_precision
from flowmap_diffusers.family import Family, Sizes
from flowmap_diffusers.settings import ImageLoraConfig
from flowmap_diffusers.sizes import encoders_of, sizes_of

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone
    from flowmap.plugin.footprint import Footprint


class ImageConfig(BackboneConfig):
    """What all of them have."""

    family: ClassVar[Family]
    forms: ClassVar[tuple[str, ...]] = ("diffusers",)
    any_size: ClassVar[bool] = True
    weights: PathText = Field(
        description="a folder or a hub id with a pipeline of this family in diffusers' layout, the folder of a flowmap "
        "run, or 'random'"
    )
    architecture: dict[str, Any] | None = Field(
        None, description="sizes by diffusers' names; only with weights = 'random', where what is left out is tiny"
    )
    lora: ImageLoraConfig | None = Field(None, description="train adapters; if left out, every weight is trained")
    base_precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision in which the base weights are held; bfloat16 for what is not trained: with lora, or "
        "where a recipe only samples",
    )
    gradient_checkpointing: Recomputed = Field("none", description=RECOMPUTATION)
    gate: Share = Field(0.25, description="share of the r-embedding")
    text_length: Tokens = Field(256, description="tokens of a prompt; longer ones are cut")
    negative_prompt: str = Field("", max_length=MOST_TEXT, description="the prompt of the null condition")

    @property
    def random_base(self) -> bool:  # type: ignore[override]
        """Whether the base weights are a random initialisation."""
        return self.weights == RANDOM

    def told(self) -> float:
        """The guidance that a guidance-distilled transformer is told; others take no notice."""
        return 1.0

    def share(self) -> float:
        """The share of the r-embedding: that of the weights, where they are of two times, whatever `gate` says."""
        base, first = origin(self.weights)
        checkpoint = None if base is None or base == RANDOM else at_hand(base, self.family)
        student = None if checkpoint is None else checkpoint.student()
        if student is not None:
            return student.gate
        # Of runs on runs the first one's.
        return float(first.get("gate", self.gate))

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """Pipelines of this family."""
        if not claims(weights, cls.family):
            return None
        checkpoint = at_hand(weights, cls.family)
        told: dict[str, Any] = {}
        with suppress(FlowmapError):
            # What is wrong with it the findings say.
            student = None if checkpoint is None else checkpoint.student()
            told = {} if student is None else student.model_dump(include=cls.model_fields.keys())
        return cls(weights=weights, **told)

    def missing(self) -> Iterable[Finding]:
        """The weights, unless they are random."""
        from flowmap.weights.pipeline import missing

        if self.random_base:
            return
        with suppress(FlowmapError):
            # That they are another family's, and what is damaged, the findings say.
            if foreign(self.weights, self.family) is not None:
                return
        for problem in missing(self.weights, self.family.published_as()):
            yield Finding("error", ("weights",), problem)

    def origin(self) -> Origin:
        """The name of the weights on the hub, and what their card says of their licence."""
        folder = None if self.random_base else find(self.weights)
        if folder is None or is_run(folder):
            return super().origin()
        published = self.family.published_as()
        from flowmap.weights.pipeline import Pipeline

        return Origin(published.hub_id(self.weights), Pipeline(folder, published).licence() or "unknown")

    def pretrained(self) -> Pretrained | None:
        """The transformer as its authors sample it, or the student of the run that the weights are."""
        from flowmap_diffusers.pretrained import pretrained

        return None if self.random_base else pretrained(self.weights, self.family)

    def recomputation(self) -> Recomputation:
        """As `gradient_checkpointing` says."""
        return self.gradient_checkpointing

    def no_forward_mode(self, spec: SampleSpec) -> str | None:
        """Where the scores of attention would be too large, of the picture alone; see `flowmap.plugin.scores`."""
        sizes = self.sizes()
        if sizes is None or len(spec.shape) != 4:
            return None
        patch = self.family.patch(sizes)
        shapes = (self.latent_shape(replace(spec, shape=shape), sizes) for shape in (spec.shape, *spec.sizes))
        tokens = max((height // patch) * (width // patch) for _, _, height, width in shapes)
        return scores_too_large(self.family.heads(sizes), tokens)

    def time_frequency(self) -> float:
        """The family's, mostly 1000: the fastest sinusoid of diffusers' embedders is that of the time itself."""
        return self.family.frequency or self.family.scale

    def reads_text(self) -> bool:
        """Where weights come with text encoders."""
        return bool(self.family.parts) and not self.random_base

    def reading_as(self, other: BackboneConfig) -> Self:
        """With the text length and the null condition of another image backbone with text encoders."""
        if not isinstance(other, ImageConfig) or not (other.reads_text() and self.reads_text()):
            return self
        return self.model_copy(update={name: getattr(other, name) for name in ("text_length", "negative_prompt")})

    def encoding(self, training: bool = False) -> Mapping[str, Any]:
        """The encoders, and where there are texts their length and the null condition."""
        if self.random_base:
            return {}
        found: dict[str, Any] = {}
        with suppress(FlowmapError):
            checkpoint = encoders_of(self.weights, self.family)
            found = {} if checkpoint is None else {"weights": checkpoint.encoders()}
        words = {"text_length": self.text_length, "negative_prompt": self.negative_prompt}
        return found | (words if self.family.parts else {})

    def encoding_precision(self, device: str) -> str | None:
        """That of the text encoders; the autoencoder's is float32 everywhere."""
        return text_precision(device) if self.reads_text() else None

    def sizes(self) -> Sizes | None:
        """Those of the transformer, by diffusers' names; None if nothing is known of them."""
        return sizes_of(self.weights, self.architecture, self.family)

    def footprint(self, spec: SampleSpec, precision: Precision) -> Footprint | None:
        """Measured; known where the sizes are."""
        from flowmap_diffusers.footprint import image_footprint

        sizes = self.sizes()
        return None if sizes is None else image_footprint(self, spec, sizes, precision)

    def rehearsed(self, folder: Path) -> Self:
        """The same with a tiny random pipeline in diffusers' layout, made in `folder` if it is not there yet."""
        if self.random_base:
            return self
        from flowmap_diffusers.twin import make_twin

        lora = self.lora and self.lora.model_copy(update={"rank": 4, "alpha": 4.0})
        twin = str(make_twin(folder / f"{self.type}-twin", self.family))
        return self.model_copy(update={"weights": twin, "lora": lora, "text_length": min(self.text_length, 32)})

    def training_findings(self) -> Iterable[Finding]:
        """The precision of weights that are trained."""
        return trained_in_full(self.base_precision, self.lora is not None)

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        from flowmap_diffusers.findings import image_findings

        yield from image_findings(self, spec)

    def latent_shape(self, spec: SampleSpec, sizes: Sizes) -> tuple[int, ...]:
        """What samples of `spec` are in model space: `(1, C, h, w)`."""
        if self.random_base:
            return spec.shape
        checkpoint = at_hand(self.weights, self.family)
        space = SPACES[self.family.vae]
        side = space.side * space.cells if checkpoint is None else checkpoint.side()
        _, _, height, width = spec.shape
        return (1, self.family.channels(sizes), height // side, width // side)

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_diffusers.backbone import image_backbone

        return image_backbone(self, spec)


class GuidedConfig(ImageConfig):
    """What those have besides whose transformers may be guidance-distilled."""

    guidance: Guidance = Field(
        3.5, description="what a guidance-distilled transformer is told; others take no notice of it"
    )

    def told(self) -> float:
        """As `guidance` says, or as an exported student was told if a recipe leaves it out."""
        checkpoint = None if self.random_base else at_hand(self.weights, self.family)
        student = None if checkpoint is None or "guidance" in self.model_fields_set else checkpoint.student()
        return self.guidance if student is None else student.guidance
