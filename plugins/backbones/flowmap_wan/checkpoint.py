"""Wan weights as a folder: what kind of checkpoint it is, and what in it cannot be. Torch-free."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

from flowmap.errors import FlowmapError
from flowmap.weights.fields import CONFIG, fields_of
from flowmap.weights.names import Published
from flowmap.weights.pipeline import Pipeline
from flowmap.weights.t5 import with_one_name
from flowmap.weights.tokenizers import tokenizer_flaw
from flowmap_wan.image_checkpoint import PARTS, image_flaws, other_task, takes_pictures
from flowmap_wan.image_layout import IMAGE_CHANNELS, ImageEncoderFields, ImageProcessorFields, is_unused
from flowmap_wan.layout import (
    LATENT_CHANNELS,
    TextEncoderFields,
    TransformerFields,
    VaeFields,
    text_encoder_shapes,
    transformer_shapes,
    vae_shapes,
)

PUBLISHED = Published(
    {
        "Wan2.1-T2V-1.3B-Diffusers": "Wan-AI",
        "Wan2.1-T2V-14B-Diffusers": "Wan-AI",
        "AnyFlow-Wan2.1-T2V-1.3B-Diffusers": "nvidia",
        "AnyFlow-Wan2.1-T2V-14B-Diffusers": "nvidia",
        "AnyFlow-FAR-Wan2.1-1.3B-Diffusers": "nvidia",
        "AnyFlow-FAR-Wan2.1-14B-Diffusers": "nvidia",
    },
    ("transformer", "text_encoder", "tokenizer", "vae"),
)
PUBLISHED_IMAGE = Published(
    {"Wan2.1-I2V-14B-480P-Diffusers": "Wan-AI", "Wan2.1-I2V-14B-720P-Diffusers": "Wan-AI"},
    (*PUBLISHED.parts, *PARTS),
)
"""Those that begin with a picture."""
_CLASSES: Mapping[str, list[str]] = {
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
}
Kind = Literal["wan", "i2v", "anyflow", "far"]
KINDS: Mapping[str, Kind] = {
    "WanTransformer3DModel": "wan",
    "AnyFlowTransformer3DModel": "anyflow",
    "AnyFlowFARTransformer3DModel": "far",
}
FIRST_RELEASE = "FAR_Wan_Transformer3DModel"
"""What AnyFlow's checkpoints call both of theirs, which came before diffusers had classes for them."""

# The pipelines of folders whose transformer is not there (yet).
PIPELINES: Mapping[str, Kind] = {
    "WanPipeline": "wan",
    "WanImageToVideoPipeline": "i2v",
    "AnyFlowPipeline": "anyflow",
    "WanAnyFlowPipeline": "anyflow",
    "AnyFlowFARPipeline": "far",
    "FARWanAnyFlowPipeline": "far",
}
TIME, DELTA = "condition_embedder.time_embedder.", "condition_embedder.delta_embedder."
"""What the parameters of the embedders of the first and of the second time begin with."""
FAR = "far_patch_embedding."
"""What those of the patches of compressed frames begin with."""


def published(pictures: bool) -> Published:
    """The published weights that a backbone takes: those that begin with `pictures`, or the others."""
    return PUBLISHED_IMAGE if pictures else PUBLISHED


@final
@dataclass(frozen=True)
class Checkpoint:
    """A folder with a Wan2.1 or AnyFlow pipeline."""

    folder: Path

    @property
    def pipeline(self) -> Pipeline:
        """The folder as that of any pipeline."""
        # If its configuration is damaged, that is said where it is read.
        with suppress(FlowmapError):
            return Pipeline(self.folder, published(bool(self.transformer.image_dim)))
        return Pipeline(self.folder, published((self.folder / PARTS[0]).is_dir()))

    @property
    def transformer(self) -> TransformerFields:
        """The configuration of the transformer; raises FlowmapError, naming the field, if it cannot be one."""
        return fields_of(self.folder / "transformer", TransformerFields)

    @property
    def kind(self) -> Kind:
        """What the transformer is: plain Wan2.1 (`i2v`: for pictures), or AnyFlow's of two times, causal or not."""
        fields = self.transformer
        if fields.class_name == FIRST_RELEASE and fields.init_flowmap_model:
            return "far" if fields.init_far_model else "anyflow"
        if fields.class_name == FIRST_RELEASE or KINDS.get(fields.class_name) == "wan":
            return "i2v" if takes_pictures(fields) else "wan"
        if fields.class_name not in KINDS:
            raise FlowmapError(f"{self._config}: holds a {fields.class_name}; weights can be one of {', '.join(KINDS)}")
        return KINDS[fields.class_name]

    @property
    def _config(self) -> Path:
        return self.folder / "transformer" / CONFIG

    @property
    def two_times(self) -> bool:
        """Whether the transformer has two times."""
        return self.kind in ("anyflow", "far")

    def flaw(self, weights: str, pictures: bool = False) -> str | None:
        """What is wrong with the files and what to do, as far as configurations and headers tell; None if nothing is.

        `weights` is what the recipe calls this checkpoint, of a backbone that begins with `pictures` or not.
        """
        how = published(pictures).how_to_get(weights)
        try:
            if (other := self.other_task(pictures)) is not None:
                return other
            if (contradiction := self.contradiction(self.pipeline.shapes("transformer"))) is not None:
                return contradiction
        except FlowmapError as error:
            return f"{error}{how}"
        text = partial(self._text_flaws, self.transformer.text_dim, f"{self._config}:")
        checks = [self._transformer_flaws, text, self._vae_flaws]
        if pictures:
            checks.append(lambda: image_flaws(self.pipeline, self.transformer))
        return next((f"{flaw}{how}" for flaw in self.pipeline.flaws(checks)), None)

    def encoders_flaw(self, sizes: Mapping[str, Any] | None) -> str | None:
        """What is wrong with the parts beside a transformer elsewhere, of `sizes` if known; None if nothing is.

        The sizes are a diffusers configuration; with those of pictures the image encoder is looked at too.
        """
        text_dim = None if sizes is None else sizes["text_dim"]
        checks: list[Callable[[], Iterable[str]]] = [
            partial(self._text_flaws, text_dim, "the transformer's"),
            self._vae_flaws,
        ]
        if sizes is not None and sizes.get("image_dim"):
            fields = TransformerFields.model_validate({"_class_name": "", **sizes})
            checks.append(lambda: image_flaws(self.pipeline, fields))
        return next(iter(self.pipeline.flaws(checks)), None)

    def _transformer_flaws(self) -> Iterator[str]:
        fields, kind = self.transformer, self.kind
        wanted = transformer_shapes(fields, self.two_times, kind == "far" or fields.init_far_model)
        found = {key: shape for key, shape in self.pipeline.shapes("transformer").items() if not is_unused(key)}
        yield from self.pipeline.misfits("transformer", found, wanted)
        channels = LATENT_CHANNELS + (IMAGE_CHANNELS if kind == "i2v" else 0)
        if fields.in_channels != channels:
            yield f"{self._config}: in_channels is {fields.in_channels}, and Wan's VAE makes {channels}"

    def _text_flaws(self, text_dim: int | None, whose: str) -> Iterator[str]:
        fields = self.pipeline.fields("text_encoder", TextEncoderFields)
        found = with_one_name(self.pipeline.shapes("text_encoder"))
        yield from self.pipeline.misfits("text_encoder", found, text_encoder_shapes(fields))
        if text_dim not in (None, fields.d_model):
            yield (
                f"{whose} text_dim is {text_dim}, and d_model of {self.folder / 'text_encoder' / CONFIG} is "
                f"{fields.d_model}; they do not belong together"
            )
        flaw = tokenizer_flaw(self.folder / "tokenizer", fields.vocab_size)
        if flaw is not None:
            yield flaw

    def _vae_flaws(self) -> Iterator[str]:
        fields = self.pipeline.fields("vae", VaeFields)
        if sum(fields.temperal_downsample) != 2:
            given = list(fields.temperal_downsample)
            yield f"{self.folder / 'vae' / CONFIG}: temperal_downsample is {given}; Wan's halves time twice"
        yield from self.pipeline.misfits("vae", self.pipeline.shapes("vae"), vae_shapes(fields))

    def contradiction(self, keys: Collection[str]) -> str | None:
        """Where the configuration and the `keys` of the weights say different things of what the model is; else None.

        The released class leaves parameters out with a warning only; what is left would be another model.
        """
        fields, kind = self.transformer, self.kind
        released, delta = fields.class_name == FIRST_RELEASE, fields.deltatime_type
        if self.two_times and delta not in ("r", "t-r"):
            return f"{self._config}: deltatime_type is {delta!r}; it is 'r' or 't-r'"
        for start, has, field in (
            (DELTA, self.two_times, "init_flowmap_model"),
            (FAR, kind == "far" or fields.init_far_model, "init_far_model"),
        ):
            there = any(key.startswith(start) for key in keys)
            if there != has:
                said = f"{field} = {str(has).lower()}" if released else f"_class_name = {fields.class_name}"
                gate = ", with gate_value and deltatime_type as in training" if field == "init_flowmap_model" else ""
                way = f"set {field} = true{gate}" if released and there else "fetch or export them again"
                return f"{self._config} says {said}, and the weights have {'' if there else 'no '}{start}*; {way}"
        if released and self.two_times and "gate_value" not in fields.model_fields_set:
            # That class takes 0 then, which gives the second time no part at all.
            return f"{self._config}: gate_value is missing; set it as in training (AnyFlow has 0.25)"
        if released and fields.init_far_model and not self.two_times:
            why = "init_far_model without init_flowmap_model: no backbone here is causal with one time"
            return f"{self._config} says {why}"
        return None

    def other_task(self, pictures: bool) -> str | None:
        """Why it is no checkpoint of a backbone that begins with `pictures`, or of one that does not; None if it is."""
        why = other_task(self.transformer, not self.two_times, pictures)
        return None if why is None else f"{self.folder} {why}"

    def classes(self) -> dict[str, list[str]]:
        """Which library and class the encoders' parts are of."""
        parts = self.pipeline.encoders()
        return self.pipeline.classes({part: named for part, named in _CLASSES.items() if part in parts})

    def encoders(self) -> str:
        """A short name for what the encoders and the tokenizer are, however their files are divided."""
        text, vae = self.pipeline.fields("text_encoder", TextEncoderFields), self.pipeline.fields("vae", VaeFields)
        told = {"text_encoder": repr(text), "vae": repr(vae)}
        if PARTS[0] in self.pipeline.published.parts:
            scaled = self.pipeline.fields("image_processor", ImageProcessorFields)
            told["image_encoder"] = f"{self.pipeline.fields('image_encoder', ImageEncoderFields)!r} {scaled!r}"
        return self.pipeline.encoders_fingerprint(told)

    def licence(self) -> str:
        """What the model card of the base says; Wan2.1's own licence for a plain Wan checkpoint without a card."""
        return self.pipeline.licence() or ("unknown" if self.two_times else "apache-2.0")


def text_precision(device: str) -> Literal["bfloat16", "float32"]:
    """The precision in which prompts are read on a kind of device (cpu, cuda)."""
    return "bfloat16" if device == "cuda" else "float32"
