"""Where Wan weights come from: what must be there, how to get it, and what kind of checkpoint it is. Torch-free.

Over 250 lines: one folder, with everything that is asked of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from flowmap.errors import FlowmapError
from flowmap.recipe.hub import fingerprint, header, of_tensors, read_json
from flowmap.recipe.shapes import misfit
from flowmap_wan.layout import (
    LATENT_CHANNELS,
    Shapes,
    TextEncoderFields,
    TransformerFields,
    VaeFields,
    text_encoder_shapes,
    transformer_shapes,
    vae_shapes,
)
from flowmap_wan.names import how_to_get
from flowmap_wan.parts import (
    CONFIG,
    PIECES,
    VOCABULARY,
    absent,
    fields_of,
    shapes_of,
    tokenizer_flaw,
    weight_files,
)

PARTS = ("transformer", "text_encoder", "vae")
"""What has a configuration and weights."""

SHARED, EMBEDDING = "shared.weight", "encoder.embed_tokens.weight"
"""The names of the text encoder's one embedding."""

_CLASSES: Mapping[str, list[str]] = {
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
_MOST_SHIFT = 1e4
_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
Kind = Literal["wan", "anyflow", "far"]
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
    "AnyFlowPipeline": "anyflow",
    "WanAnyFlowPipeline": "anyflow",
    "AnyFlowFARPipeline": "far",
    "FARWanAnyFlowPipeline": "far",
}
TIME, DELTA = "condition_embedder.time_embedder.", "condition_embedder.delta_embedder."
"""What the parameters of the embedders of the first and of the second time begin with."""
FAR = "far_patch_embedding."
"""What those of the patches of compressed frames begin with."""

IMAGE_MODEL = (
    "is Wan's separate image-to-video model, with more channels or an image encoder; "
    "use a text-to-video checkpoint: ours are given images as first frames"
)
"""Why a checkpoint of the other task is refused."""

_SCHEDULER = "scheduler/scheduler_config.json"
INDEX = "model_index.json"

ADAPTER = "lora"
"""Where `flowmap export --keep-lora` writes the adapter of a transformer."""


@final
@dataclass(frozen=True)
class Checkpoint:
    """A folder laid out as diffusers lays out a pipeline, with everything in it."""

    folder: Path

    @property
    def transformer(self) -> TransformerFields:
        """The configuration of the transformer; raises FlowmapError, naming the field, if it cannot be one."""
        return fields_of(self.folder / "transformer", TransformerFields)

    @property
    def kind(self) -> Kind:
        """What the transformer is: plain Wan2.1, or AnyFlow's two-time one, bidirectional or causal."""
        fields = self.transformer
        if fields.class_name == FIRST_RELEASE:
            if not fields.init_flowmap_model:
                return "wan"
            return "far" if fields.init_far_model else "anyflow"
        if fields.class_name not in KINDS:
            raise FlowmapError(f"{self._config}: holds a {fields.class_name}; weights can be one of {', '.join(KINDS)}")
        return KINDS[fields.class_name]

    @property
    def _config(self) -> Path:
        return self.folder / "transformer" / CONFIG

    def flaw(self, weights: str) -> str | None:
        """What is wrong with the files and what to do, as far as configurations and headers tell; None if nothing is.

        `weights` is what the recipe calls this checkpoint.
        """
        try:
            if self.is_image_model():
                return f"{self.folder} {IMAGE_MODEL}"
            contradiction = self.contradiction(shapes_of(self.folder / "transformer"))
        except FlowmapError as error:
            return f"{error}{how_to_get(weights)}"
        found = contradiction or next(self._flaws(), None)
        return found if found is None or contradiction else f"{found}{how_to_get(weights)}"

    def _flaws(self) -> Iterator[str]:
        for check in (self._transformer_flaws, self._text_flaws, self._vae_flaws, self._pipeline_flaws):
            try:
                yield from check()
            except FlowmapError as error:
                yield str(error)

    def _transformer_flaws(self) -> Iterator[str]:
        fields, kind, found = self.transformer, self.kind, shapes_of(self.folder / "transformer")
        far = kind == "far" or fields.init_far_model
        yield from self._misfit("transformer", found, transformer_shapes(fields, kind != "wan", far))
        if fields.in_channels != LATENT_CHANNELS:
            yield f"{self._config}: in_channels is {fields.in_channels}, and Wan's VAE makes {LATENT_CHANNELS}"

    def _text_flaws(self) -> Iterator[str]:
        part = self.folder / "text_encoder"
        fields, found = fields_of(part, TextEncoderFields), shapes_of(part)
        # One tensor under two names, of which a file has either or both.
        if EMBEDDING in found:
            found.setdefault(SHARED, found[EMBEDDING])
            del found[EMBEDDING]
        yield from self._misfit("text_encoder", found, text_encoder_shapes(fields))
        if self.transformer.text_dim != fields.d_model:
            yield (
                f"{self._config}: text_dim is {self.transformer.text_dim}, and d_model of {part / CONFIG} is "
                f"{fields.d_model}; they do not belong together"
            )
        flaw = tokenizer_flaw(self.folder / "tokenizer", fields.vocab_size)
        if flaw is not None:
            yield flaw

    def _vae_flaws(self) -> Iterator[str]:
        part = self.folder / "vae"
        fields = fields_of(part, VaeFields)
        if sum(fields.temperal_downsample) != 2:
            yield f"{part / CONFIG}: temperal_downsample is {list(fields.temperal_downsample)}; Wan's halves time twice"
        yield from self._misfit("vae", shapes_of(part), vae_shapes(fields))

    def _pipeline_flaws(self) -> Iterable[str]:
        # Both raise what is wrong.
        self.shift(), self.classes()
        return ()

    def _misfit(self, part: str, found: Mapping[str, Sequence[int]], wanted: Shapes) -> Iterator[str]:
        why = misfit(found, wanted)
        if why is not None:
            yield f"the weights in {self.folder / part} do not fit its {CONFIG}: {why}"

    def contradiction(self, keys: Collection[str]) -> str | None:
        """Where the configuration and the `keys` of the weights say different things of what the model is; else None.

        The released class leaves parameters out with a warning only; what is left would be another model.
        """
        fields, kind = self.transformer, self.kind
        released, delta = fields.class_name == FIRST_RELEASE, fields.deltatime_type
        if kind != "wan" and delta not in ("r", "t-r"):
            return f"{self._config}: deltatime_type is {delta!r}; it is 'r' or 't-r'"
        for start, has, field in (
            (DELTA, kind != "wan", "init_flowmap_model"),
            (FAR, kind == "far" or fields.init_far_model, "init_far_model"),
        ):
            there = any(key.startswith(start) for key in keys)
            if there != has:
                said = f"{field} = {str(has).lower()}" if released else f"_class_name = {fields.class_name}"
                gate = ", with gate_value and deltatime_type as in training" if field == "init_flowmap_model" else ""
                way = f"set {field} = true{gate}" if released and there else "fetch or export them again"
                return f"{self._config} says {said}, and the weights have {'' if there else 'no '}{start}*; {way}"
        if released and kind != "wan" and "gate_value" not in fields.model_fields_set:
            # That class takes 0 then, which gives the second time no part at all.
            return f"{self._config}: gate_value is missing; set it as in training (AnyFlow has 0.25)"
        if released and fields.init_far_model and kind == "wan":
            why = "init_far_model without init_flowmap_model: no backbone here is causal with one time"
            return f"{self._config} says {why}"
        return None

    def keys(self) -> list[str]:
        """The names of the transformer's parameters; no weights are read."""
        return list(shapes_of(self.folder / "transformer"))

    def is_image_model(self) -> bool:
        """Whether it is Wan's separate image-to-video model, with more channels or an image encoder."""
        found = self.transformer
        more = found.in_channels != (found.out_channels or found.in_channels)
        return bool(found.image_dim or found.added_kv_proj_dim or more)

    def shift(self) -> float | None:
        """The shift of the grid that the scheduler's configuration names; None if it names none."""
        if not (self.folder / _SCHEDULER).is_file():
            return None
        found = read_json(self.folder / _SCHEDULER)
        value = found.get("shift", found.get("flow_shift"))
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _MOST_SHIFT:
            raise FlowmapError(f"{self.folder / _SCHEDULER}: its shift is {value!r}; it must be a number above 0")
        return float(value)

    def classes(self) -> dict[str, list[str]]:
        """Which library and class model_index.json names for the encoders' parts; raises FlowmapError if it cannot."""
        if not (self.folder / INDEX).is_file():
            return dict(_CLASSES)
        found = read_json(self.folder / INDEX)
        for part in _CLASSES:
            named = found.get(part, _CLASSES[part])
            if not (isinstance(named, list) and len(named) == 2 and all(isinstance(word, str) for word in named)):
                raise FlowmapError(f"{self.folder / INDEX}: {part} is {named!r}; it is a library and a class")
        return {part: found.get(part, named) for part, named in _CLASSES.items()}

    def everything(self) -> tuple[Path, ...]:
        """The files that decide what is computed: configurations and weights of all parts."""
        beside = () if self.adapter() is None else sorted((self.folder / ADAPTER).glob("*.safetensors"))
        return (*(f for p in PARTS for f in (self.folder / p / CONFIG, *self.files(p))), *beside)

    def adapter(self) -> Path | None:
        """The folder of the adapter that belongs to the transformer, if there is one."""
        folder = self.folder / ADAPTER
        return folder if folder.is_dir() else None

    def encoders(self) -> str:
        """A short name for what text encoder, tokenizer and VAE are, however their files are divided."""
        text = fields_of(self.folder / "text_encoder", TextEncoderFields)
        vae = fields_of(self.folder / "vae", VaeFields)
        words = [f for f in (VOCABULARY, PIECES) if (self.folder / "tokenizer" / f).is_file()][:1]
        tokenizer = fingerprint(self.folder / "tokenizer" / name for name in words)
        files = [*self.files("text_encoder"), *self.files("vae")]
        return of_tensors(files, f"{text!r} {vae!r} {tokenizer}")

    def precision(self, part: str) -> str:
        """The precision in which the most parameters of `part` are stored, as torch calls it."""
        sizes: Counter[str] = Counter()
        for file in self.files(part):
            for tensor in header(file).values():
                sizes[tensor["dtype"]] += tensor["data_offsets"][1] - tensor["data_offsets"][0]
        return _TORCH[sizes.most_common(1)[0][0]]

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of `part`: transformer, vae, text_encoder, as it stands."""
        return read_json(self.folder / part / CONFIG)

    def files(self, part: str) -> list[Path]:
        """The safetensors files of `part`; raises FlowmapError naming the first file that is missing."""
        gone = next(absent(self.folder / part), None)
        if gone is not None:
            raise FlowmapError(f"{self.folder} is not complete: {gone} is missing{how_to_get(str(self.folder))}")
        return weight_files(self.folder / part)

    def licence(self) -> str:
        """What the model card of the base says; Wan2.1's own licence for a plain Wan checkpoint without a card."""
        card = self.folder / "README.md"
        text = card.read_text("utf-8", errors="replace") if card.is_file() else ""
        found = re.search(r"^license:\s*(\S+)", text, re.MULTILINE)
        return found[1] if found else ("apache-2.0" if self.kind == "wan" else "unknown")


def text_precision(device: str) -> Literal["bfloat16", "float32"]:
    """The precision in which prompts are read on a kind of device (cpu, cuda)."""
    return "bfloat16" if device == "cuda" else "float32"
