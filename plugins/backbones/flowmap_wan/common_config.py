"""What the configurations of Wan backbones have. Torch-free."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field

from flowmap.errors import FlowmapError
from flowmap.plugin import BackboneConfig, Finding, Origin, Precision, Pretrained, Recomputation, SampleSpec
from flowmap.plugin.scores import scores_too_large
from flowmap.schema.bounds import MOST_TEXT, RECOMPUTATION, PathText, Recomputed, Tokens
from flowmap.weights.fingerprints import of_tensors
from flowmap.weights.lora import lora_findings, trained_in_full
from flowmap.weights.names import RANDOM, find
from flowmap.weights.runs import is_run
from flowmap_wan.findings import shape_findings, smallest_adapted
from flowmap_wan.settings import NEGATIVE_PROMPT, ArchitectureConfig, LoraConfig, adaptable

if TYPE_CHECKING:
    from flowmap.plugin.footprint import Footprint
    from flowmap.weights.null import NullFile


class CommonConfig(BackboneConfig):
    """What all Wan backbones have."""

    forms: ClassVar[tuple[str, ...]] = ("diffusers", "released")
    pictures: ClassVar[bool] = False
    """Whether videos begin with a picture that is part of the condition."""
    weights: PathText = Field(
        description="a folder or a hub id with a Wan2.1 or AnyFlow checkpoint in diffusers' layout, the folder of a "
        "flowmap run, or 'random'"
    )
    architecture: ArchitectureConfig | None = Field(None, description="sizes; only with weights = 'random'")
    lora: LoraConfig | None = Field(None, description="train adapters; if left out, every weight is trained")
    base_precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision in which the base weights are held; bfloat16 for what is not "
        "trained: with lora, or where a recipe only samples",
    )
    gradient_checkpointing: Recomputed = Field("none", description=RECOMPUTATION)
    attention: Literal["auto", "parts", "dense", "flex"] = Field(
        "auto",
        description="causal attention: chunk by chunk in 'parts' without a mask, or with a mask: 'dense', or 'flex', "
        "which needs an accelerator to train; 'auto' takes parts, and in compiled blocks flex on an accelerator",
    )
    text_length: Tokens = Field(512, description="tokens of a prompt; longer ones are cut")
    negative_prompt: str = Field(
        NEGATIVE_PROMPT,
        max_length=MOST_TEXT,
        description="the prompt of the null condition; if left out Wan's own",
    )
    null_embedding: PathText | None = Field(
        None,
        min_length=1,
        description="a safetensors file with the null condition's embedding [tokens, dimensions], not negative_prompt",
    )

    @property
    def random_base(self) -> bool:  # type: ignore[override]
        """Whether the base weights are a random initialisation."""
        return self.weights == RANDOM

    def null_file(self) -> NullFile | None:
        """The file of the null condition, if the recipe names one."""
        from flowmap.weights.null import NullFile

        how = "AnyFlow's negative_embedding .pth is turned into one as `flowmap docs video` says"
        return None if self.null_embedding is None else NullFile(Path(self.null_embedding), how)

    def missing(self) -> Iterable[Finding]:
        """The weights, unless they are random."""
        if self.random_base:
            return
        from flowmap.weights.pipeline import missing
        from flowmap_wan.checkpoint import published

        for problem in missing(self.weights, published(self.pictures)):
            yield Finding("error", ("weights",), problem)
        file, width = self.null_file(), (self._sizes() or {}).get("text_dim")
        if file is not None and (wrong := file.problem(self.text_length, width)) is not None:
            yield Finding("error", ("null_embedding",), wrong)

    def origin(self) -> Origin:
        """The checkpoint's own name and licence."""
        from flowmap_wan.checkpoint import Checkpoint, published

        folder = None if self.random_base else find(self.weights)
        if folder is None or is_run(folder):
            return super().origin()
        return Origin(published(self.pictures).hub_id(self.weights), Checkpoint(folder).licence())

    def recomputation(self) -> Recomputation:
        """As `gradient_checkpointing` says."""
        return self.gradient_checkpointing

    def attention_heads(self, spec: SampleSpec) -> int | None:
        """Those of the transformer, where its sizes are known."""
        heads = (self._sizes() or {}).get("num_attention_heads")
        return None if heads is None else int(heads)

    def no_forward_mode(self, spec: SampleSpec) -> str | None:
        """Where the scores of attention would be too large; see `flowmap.plugin.scores`."""
        sizes = self._sizes()
        if sizes is None or len(spec.shape) != 4:
            return None
        return scores_too_large(int(sizes["num_attention_heads"]), self._tokens(spec, sizes["patch_size"]))

    def _tokens(self, spec: SampleSpec, patch: Sequence[int]) -> int:
        """Tokens of the largest sample of `spec`, all at full resolution."""
        scale = 1 if self.random_base else 8
        frames = self.latent_frames(spec)
        return max(
            frames * (height // scale // patch[1]) * (width // scale // patch[2])
            for _, _, height, width in (spec.shape, *spec.sizes)
        )

    def time_frequency(self) -> float:
        """1000: the fastest sinusoid is sin(1000 t) (`get_timestep_embedding` of diffusers 0.42, of times 1000 t)."""
        return 1000.0

    def reads_text(self) -> bool:
        """With a checkpoint comes a text encoder."""
        return not self.random_base

    def reading_as(self, other: BackboneConfig) -> Self:
        """With the text length and the null condition of another Wan backbone with a text encoder."""
        if not isinstance(other, CommonConfig) or other.random_base or self.random_base:
            return self
        told = ("text_length", "negative_prompt", "null_embedding")
        return self.model_copy(update={name: getattr(other, name) for name in told})

    def encoding(self, training: bool = False) -> Mapping[str, Any]:
        """The encoders, the length of a text and the null condition.

        A `null_embedding` takes the place of the one that data bring (`WanBackbone.condition`).
        """
        if self.random_base:
            return {}
        from flowmap_wan.architecture import encoders_of

        found: dict[str, Any] = {"text_length": self.text_length}
        checkpoint, file = encoders_of(self._encoders_in()), self.null_embedding
        # What is absent or damaged is said elsewhere.
        with suppress(FlowmapError):
            found |= {} if checkpoint is None else {"weights": checkpoint.encoders()}
        if training and file is not None:
            return found
        with suppress(FlowmapError):
            found["null_embedding"] = None if file is None else of_tensors([Path(file)])
        return found | {"negative_prompt": self.negative_prompt if file is None else None}

    def _encoders_in(self) -> str:
        """The name of the folder with the text encoder and the VAE."""
        return self.weights

    def encoding_precision(self, device: str) -> str | None:
        """That of the text encoder; the VAE's is float32 everywhere."""
        from flowmap_wan.checkpoint import text_precision

        return None if self.random_base else text_precision(device)

    def encoders(self, device: str) -> Mapping[str, int]:
        """The text encoder, and the VAE and an image encoder in float32."""
        from flowmap_wan.architecture import encoder_bytes

        return {} if self.random_base else encoder_bytes(self._encoders_in(), device, self.pictures)

    def footprint(self, spec: SampleSpec, precision: Precision) -> Footprint | None:
        """Measured; known where the sizes are."""
        sizes = self._sizes()
        return None if sizes is None else self._measured(spec, sizes, precision)

    @abstractmethod
    def _measured(self, spec: SampleSpec, sizes: Mapping[str, Any], precision: Precision) -> Footprint:
        """The footprint of networks of `sizes` (a diffusers configuration)."""

    def training_findings(self) -> Iterable[Finding]:
        """The precision of weights that are trained."""
        yield from trained_in_full(self.base_precision, self.lora is not None)

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        from flowmap.weights.null import null_findings

        if self.random_base and self.architecture is None:
            yield Finding("error", ("architecture",), "random weights need sizes: give a table 'architecture'")
        if not self.random_base and self.architecture is not None:
            yield Finding("error", ("architecture",), "the checkpoint decides the sizes; leave this out")
        yield from null_findings(self.null_embedding, self.negative_prompt != NEGATIVE_PROMPT, self.random_base)
        if self.lora is not None:
            smallest = smallest_adapted(self.lora, self._sizes())
            yield from lora_findings(self.lora.layers, adaptable(self.pictures), self.lora.rank, smallest)
        if not self.random_base:
            yield from self._weights_findings()
        if len(spec.shape) != 4:
            yield Finding("error", ("type",), f"'{self.type}' takes videos [F, C, H, W]; these data are {spec.shape}")
            return
        yield from self._shape_findings(spec)

    @abstractmethod
    def _weights_findings(self) -> Iterable[Finding]:
        """What of weights on this machine is wrong or has no effect, as far as headers and configurations tell."""

    def _sizes(self) -> Mapping[str, Any] | None:
        """Those of the transformer, by diffusers' names, as far as they are known."""
        from flowmap_wan.architecture import architecture_of

        return architecture_of(self.architecture, self.weights)

    def _shape_findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Samples that the network or its VAE cannot take."""
        return shape_findings(self.architecture, self.random_base, spec)

    def pretrained(self) -> Pretrained | None:
        """The checkpoint's own network, or the student of the run that the weights are."""
        from flowmap_wan.pretrained import pretrained

        return None if self.random_base else pretrained(self.weights, self._chunks(), self.pictures)

    def _chunks(self) -> tuple[int, ...]:
        """The latent frames of each chunk, where there are several."""
        return ()

    def contexts(self, spec: SampleSpec) -> Mapping[int, int]:
        """Those after which a chunk begins; a latent frame after the first stands for four."""
        given = self._starts(self.latent_frames(spec))
        return {(n if self.random_base else 4 * (n - 1) + 1): n for n in given}

    @abstractmethod
    def _starts(self, frames: int) -> Iterable[int]:
        """The latent frames, above 0, with which generation can begin."""

    def latent_frames(self, spec: SampleSpec) -> int:
        """Frames in model space."""
        return spec.shape[0] if self.random_base else (spec.shape[0] - 1) // 4 + 1
