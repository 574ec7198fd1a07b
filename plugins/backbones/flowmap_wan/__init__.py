"""Backbones `wan21` (bidirectional) and `far_wan21` (causal): Wan2.1 video models (arXiv 2503.20314) with two times."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from flowmap.errors import FlowmapError
from flowmap.plugin import (
    BackboneConfig,
    ComponentConfig,
    Config,
    Finding,
    Origin,
    Precision,
    Pretrained,
    SampleSpec,
    hookimpl,
    listed,
    unknown_word,
)
from flowmap.recipe.hub import RUN_LOCK, find, of_tensors
from flowmap.schema.bounds import (
    MOST_PARTS,
    MOST_ROWS,
    MOST_TEXT,
    MOST_WIDTH,
    Channels,
    Depth,
    Frames,
    HeadDim,
    Heads,
    Hidden,
    Patch,
    PathText,
    Probability,
    Range,
    Scale,
    Share,
    Tokens,
    Width,
)

if TYPE_CHECKING:
    from flowmap.interfaces import Backbone
    from flowmap.plugin.footprint import Footprint

RANDOM = "random"

LAYERS = (
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
    "ffn.net.0.proj",
    "ffn.net.2",
)
"""The linear layers of a transformer block."""

PUBLISHED_LAYERS = ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "ffn.net.0.proj", "ffn.net.2")
"""Those that AnyFlow's authors adapt."""

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)
"""What Wan2.1's authors steer away from, in their own words (Wan-Video/Wan2.1, sample_neg_prompt).

AnyFlow's null condition is the embedding of these words too.
"""

TimeFeatures = Annotated[int, Range(2, MOST_WIDTH, "a sine and a cosine; Wan has 256")]
"""Sinusoids of a time."""

FullChunks = Annotated[
    int, Range(2, MOST_PARTS, "the chunk that is made and one before; more than a video has are all")
]
"""Chunks at full resolution."""


class ArchitectureConfig(Config):
    """Sizes of a network that starts from random weights."""

    layers: Depth = Field(4, description="transformer blocks")
    heads: Heads = Field(4, description="attention heads")
    head_dim: HeadDim = Field(24, description="dimensions of a head; even, for rotary positions")
    ffn_dim: Hidden = Field(256, description="hidden units of the feed-forward layers")
    channels: Channels = Field(16, description="channels of a latent frame")
    text_dim: Width = Field(32, description="dimensions of a text embedding")
    freq_dim: TimeFeatures = Field(64, description="sinusoids of a time")
    patch: tuple[Patch, Patch, Patch] = Field((1, 2, 2), description="frames, rows and columns of a patch")

    def diffusers(self) -> dict[str, Any]:
        """The same under diffusers' names."""
        return {
            "num_layers": self.layers,
            "num_attention_heads": self.heads,
            "attention_head_dim": self.head_dim,
            "ffn_dim": self.ffn_dim,
            "in_channels": self.channels,
            "out_channels": self.channels,
            "text_dim": self.text_dim,
            "freq_dim": self.freq_dim,
            "patch_size": self.patch,
        }


class LoraConfig(Config):
    """Low-rank adapters (arXiv 2106.09685) on one frozen base that all roles share."""

    rank: Width = Field(256, description="rank of every adapter")
    alpha: Scale = Field(256.0, description="an adapter's output is scaled by alpha / rank")
    layers: tuple[str, ...] = Field(
        PUBLISHED_LAYERS,
        max_length=MOST_ROWS,
        description="linear layers of every block that get one: self-attention and feed-forward as published; attn2 is "
        "cross-attention. A flow map's time embedders get one besides",
    )


class _WanConfig(BackboneConfig):
    """What both backbones have."""

    forms: ClassVar[tuple[str, ...]] = ("diffusers", "released")
    weights: PathText = Field(
        description="a folder or a hub id with a Wan2.1 or AnyFlow checkpoint in diffusers' layout, the folder of a "
        "flowmap run, or 'random'"
    )
    architecture: ArchitectureConfig | None = Field(None, description="sizes; only with weights = 'random'")
    lora: LoraConfig | None = Field(None, description="train adapters; if left out, every weight is trained")
    base_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="precision in which the base weights are held; bfloat16 only with lora"
    )
    gradient_checkpointing: bool = Field(False, description="recompute blocks in backward instead of keeping them")
    attention: Literal["auto", "dense", "flex"] = Field(
        "auto", description="masked attention: 'flex' needs an accelerator to train; 'auto' takes it there"
    )
    gate: Share = Field(0.25, description="share of the r-embedding, for weights that have none yet")
    text_length: Tokens = Field(512, description="tokens of a prompt; longer ones are cut")
    negative_prompt: str = Field(
        NEGATIVE_PROMPT,
        max_length=MOST_TEXT,
        description="the prompt of the null condition; Wan's own Chinese one if left out",
    )
    null_embedding: PathText | None = Field(
        None,
        min_length=1,
        description="a safetensors file with the embedding of the null condition, [tokens, dimensions], in place of "
        "negative_prompt",
    )

    @property
    def random_base(self) -> bool:  # type: ignore[override]
        """Whether the base weights are a random initialisation."""
        return self.weights == RANDOM

    def missing(self) -> Iterable[Finding]:
        """The weights, unless they are random."""
        if self.random_base:
            return
        from flowmap_wan.checkpoint import missing

        for problem in missing(self.weights):
            yield Finding("error", ("weights",), problem)
        folder = find(self.weights)
        if self.null_embedding is not None and (problem := self._null_problem(self.null_embedding)):
            yield Finding("error", ("null_embedding",), problem)
        if folder is not None and (folder / "lora").is_dir():
            why = f"{folder / 'lora'} would not be read, and the rest is the base alone; export without --keep-lora"
            yield Finding("error", ("weights",), why)

    def _null_problem(self, file: str) -> str | None:
        """What is wrong with the file of the null condition."""
        from flowmap_wan.architecture import architecture_of
        from flowmap_wan.null import finite, shape_of

        try:
            tokens, width = shape_of(Path(file))
        except FlowmapError as error:
            return str(error)
        sizes = architecture_of(self)
        if sizes is not None and width != sizes["text_dim"]:
            return f"{file} has {width} dimensions, and the text embeddings of these weights have {sizes['text_dim']}"
        if tokens > self.text_length:
            return f"{file} has {tokens} tokens, more than text_length = {self.text_length}; set that to {tokens}"
        try:
            return None if finite(Path(file)) else f"{file}: not all of its numbers are finite"
        except FlowmapError as error:
            return str(error)

    def origin(self) -> Origin:
        """The checkpoint's own name and licence."""
        from flowmap_wan.checkpoint import Checkpoint
        from flowmap_wan.names import hub_id

        folder = None if self.random_base else find(self.weights)
        if folder is None or (folder / RUN_LOCK).is_file():
            return super().origin()
        return Origin(hub_id(self.weights), Checkpoint(folder).licence())

    def recomputes(self) -> bool:
        """As `gradient_checkpointing` says."""
        return self.gradient_checkpointing

    def time_frequency(self) -> float:
        """1000: the fastest sinusoid is sin(1000 t) (`get_timestep_embedding` of diffusers 0.42, of times 1000 t)."""
        return 1000.0

    def reads_text(self) -> bool:
        """With a checkpoint comes a text encoder."""
        return not self.random_base

    def reading_as(self, other: BackboneConfig) -> Self:
        """With the text length and the null condition of another Wan backbone with a text encoder."""
        if not isinstance(other, _WanConfig) or other.random_base or self.random_base:
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
        checkpoint, file = encoders_of(self.weights), self.null_embedding
        # What is absent or damaged is said elsewhere.
        with suppress(FlowmapError):
            found |= {} if checkpoint is None else {"weights": checkpoint.encoders()}
        if training and file is not None:
            return found
        with suppress(FlowmapError):
            found["null_embedding"] = None if file is None else of_tensors([Path(file)])
        return found | {"negative_prompt": self.negative_prompt if file is None else None}

    def encoding_precision(self, device: str) -> str | None:
        """That of the text encoder; the VAE's is float32 everywhere."""
        from flowmap_wan.checkpoint import text_precision

        return None if self.random_base else text_precision(device)

    def footprint(self, spec: SampleSpec, precision: Precision) -> Footprint | None:
        """Counted on the meta device; known where the sizes are."""
        from flowmap_wan.architecture import architecture_of

        architecture = architecture_of(self)
        if architecture is None:
            return None
        from flowmap_wan.footprint import WanFootprint

        return WanFootprint(self, spec, architecture, precision)

    def rehearsed(self, folder: Path) -> Self:
        """The same with a tiny random checkpoint in diffusers' layout, made in `folder` if it is not there yet."""
        if self.random_base:
            return self
        from flowmap_wan.twin import make_null, make_twin

        small = {
            "weights": str(make_twin(folder / "wan-twin")),
            "lora": self.lora and LoraConfig(rank=4, alpha=4.0),
            "text_length": 32,
            "null_embedding": self.null_embedding and str(make_null(folder / "null.safetensors")),
        }
        return self.model_copy(update=small)

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What does not fit."""
        if self.random_base and self.architecture is None:
            yield Finding("error", ("architecture",), "random weights need sizes: give a table 'architecture'")
        if not self.random_base and self.architecture is not None:
            yield Finding("error", ("architecture",), "the checkpoint decides the sizes; leave this out")
        yield from self._null_findings()
        if self.lora is None and self.base_precision != "float32":
            why = "weights that are trained are held in float32; use it, or train adapters: backbone.lora"
            yield Finding("error", ("base_precision",), why)
        yield from self._lora_findings()
        yield from self._checkpoint_findings()
        if len(spec.shape) != 4:
            yield Finding("error", ("type",), f"'{self.type}' takes videos [F, C, H, W]; these data are {spec.shape}")
            return
        yield from self._shape_findings(spec)

    def _null_findings(self) -> Iterable[Finding]:
        if self.null_embedding is None:
            return
        if self.random_base:
            why = "has no effect: with random weights the data bring the null condition; leave this out"
            yield Finding("error", ("null_embedding",), why)
        elif self.negative_prompt != NEGATIVE_PROMPT:
            why = "null_embedding takes the place of negative_prompt; leave one of them out"
            yield Finding("error", ("negative_prompt",), why)

    def _lora_findings(self) -> Iterable[Finding]:
        if self.lora is None:
            return
        where = ("lora", "layers")
        if not self.lora.layers:
            yield Finding("error", where, f"name at least one layer; there are {', '.join(LAYERS)}")
        for index, layer in enumerate(self.lora.layers):
            if layer not in LAYERS:
                yield Finding("error", (*where, index), unknown_word("layer", layer, LAYERS))
            elif layer in self.lora.layers[:index]:
                yield Finding("error", (*where, index), f"'{layer}' is listed twice")
        from flowmap_wan.architecture import architecture_of

        sizes = architecture_of(self)
        if sizes is None:
            return
        width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
        hidden = any(layer.startswith("ffn.") for layer in self.lora.layers)
        smallest = min(width, sizes["ffn_dim"]) if hidden else width
        if self.lora.rank > smallest:
            why = f"{self.lora.rank} is more than the smallest side of an adapted layer, {smallest}, and gains nothing"
            yield Finding("warning", ("lora", "rank"), why)

    def _checkpoint_findings(self) -> Iterable[Finding]:
        """What the configuration of a checkpoint on this machine tells beforehand."""
        from flowmap_wan.architecture import architecture_of
        from flowmap_wan.pretrained import complete, problem

        if self.random_base:
            return
        why = problem(self.weights)
        sizes = None if why else architecture_of(self)
        if sizes is not None and sizes["attention_head_dim"] % 2:
            why = f"its heads have {sizes['attention_head_dim']} dimensions; rotary positions turn pairs of them"
        if why is not None:
            yield Finding("error", ("weights",), why)
            return
        checkpoint = complete(self.weights)
        if checkpoint is not None and checkpoint.kind != "wan" and "gate" in self.model_fields_set:
            own = checkpoint.transformer.gate_value
            if own != self.gate:
                yield Finding("warning", ("gate",), f"has no effect: the weights have a gate of their own, {own:g}")

    def pretrained(self) -> Pretrained | None:
        """The checkpoint's own network, or the student of the run that the weights are."""
        from flowmap_wan.pretrained import pretrained

        return None if self.random_base else pretrained(self.weights, self._chunks())

    def _chunks(self) -> tuple[int, ...]:
        """The latent frames of each chunk, where there are several."""
        return ()

    def _shape_findings(self, spec: SampleSpec) -> Iterable[Finding]:
        frames, channels, height, width = spec.shape
        if self.random_base and self.architecture is not None:
            patch = self.architecture.patch
            if patch[0] != 1:
                yield Finding("error", ("architecture", "patch"), "a patch has one frame: times are those of a frame")
            if self.architecture.head_dim % 2:
                why = "rotary positions turn pairs of dimensions; give an even number"
                yield Finding("error", ("architecture", "head_dim"), why)
            if channels != self.architecture.channels:
                why = f"the data have {channels} channels; set it to that"
                yield Finding("error", ("architecture", "channels"), why)
            if spec.text_dim not in (0, self.architecture.text_dim):
                why = f"the data bring text embeddings of {spec.text_dim} dimensions; set it to that"
                yield Finding("error", ("architecture", "text_dim"), why)
            if height % patch[1] or width % patch[2]:
                why = f"frames of {height} x {width} are not whole patches of {patch[1]} x {patch[2]}"
                yield Finding("error", ("architecture", "patch"), why)
        elif not self.random_base:
            if channels != 3:
                yield Finding("error", ("type",), f"the VAE takes 3 colours, and these data have {channels}")
            if (frames - 1) % 4:
                near = 4 * ((frames - 1) // 4) + 1
                why = f"the VAE takes 4 n + 1 frames, not {frames}; nearest: {near} or {near + 4}"
                yield Finding("error", ("type",), why)
            if height % 16 or width % 16:
                near_to = " x ".join(str(max(16, 16 * round(side / 16))) for side in (height, width))
                why = f"frames of {height} x {width} are not multiples of 16 (VAE 8, patches 2); nearest: {near_to}"
                yield Finding("error", ("type",), why)

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


class Wan21Config(_WanConfig):
    """Wan2.1, bidirectional: every frame sees every other. Text- and image-to-video."""

    type: Literal["wan21"] = "wan21"
    first_frame: Probability = Field(
        0.0, description="share of training steps in which the first frame is given (image-to-video)"
    )

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """Plain Wan2.1 checkpoints, and AnyFlow's bidirectional ones."""
        from flowmap_wan.checkpoint import claimed

        return cls(weights=weights) if claimed(weights) in ("wan", "anyflow") else None

    def goes_on(self) -> bool:
        """With `first_frame`; text-to-video weights as they are never saw a frame without noise beside others."""
        return self.first_frame > 0

    def _starts(self, frames: int) -> Iterable[int]:
        return range(1, frames)

    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone."""
        from flowmap_wan.backbone import WanBackbone
        from flowmap_wan.chunking import Bidirectional

        return WanBackbone(self, spec, Bidirectional(self.first_frame))


class FarWan21Config(_WanConfig):
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
        from flowmap_wan.backbone import WanBackbone
        from flowmap_wan.chunking import Causal

        return WanBackbone(self, spec, Causal(self.chunks, self.full_chunks, self.long_share))


@hookimpl
def flowmap_components() -> Iterable[type[ComponentConfig]]:
    """The components of this package."""
    return [Wan21Config, FarWan21Config]
