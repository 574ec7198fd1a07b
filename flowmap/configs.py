"""What a plugin registers: pydantic configuration classes, one base class per kind of component.

Nothing here imports torch, so that `flowmap check` and `flowmap plugins` answer at once. A configuration
builds its component with `build()`, and only there may a plugin import torch.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from flowmap.bounds import PathText

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler

    from flowmap.footprint import Footprint
    from flowmap.interfaces import Archive, Backbone, Data, Metric, Objective, References, Sampler

NetworkKind = Literal["velocity", "flow_map"]
"""`velocity`: u(x, t), one time. `flow_map`: u(x, t, r), two times; it serves as a velocity at r = t."""

_SHOWN = 32  # of a list, in a sentence

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""What a run, a stage and a component may be called: each becomes part of a file's name."""

Precision = Literal["no", "bf16"]
"""Mixed precision of the network calls: none, or bfloat16 where autocast takes it."""

FrameView = Literal["forced", "whole"]
"""How a causal model is shown the frames of a video: `forced` is chunk by chunk, each given the clean ones before it
(teacher forcing), as it will generate them; `whole` is all frames as one chunk, in which every frame sees every other.
To a model of all frames at once both are the same."""

FrameChoice = Literal["nearest", "rate"]
"""Which frames of a clip are taken: those nearest in time, or those that counting by declared rates comes to."""

Fit = Literal["crop", "stretch"]
"""How a frame comes to its size: scaled to cover it, with the middle kept, or squashed."""

Weights = Literal["ema", "raw"]
"""Which weights of a finished stage: their moving average or the raw trained ones."""


class Config(BaseModel):
    """A frozen configuration that refuses fields it does not know and names the nearest one.

    Types are strict: neither "10" nor true is a number. An array is a tuple. A field of a type that TOML does
    not have asks to be converted: `Annotated[Path, Field(strict=False)]`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _arrays_are_tuples(cls, value: Any) -> Any:
        return {key: frozen(v) for key, v in value.items()} if isinstance(value, Mapping) else value

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        allowed = [info.alias or name for name, info in cls.model_fields.items()]
        unknown = [key for key in value if key not in allowed]
        if unknown:
            raise ValidationError.from_exception_data(
                cls.__name__,
                [
                    InitErrorDetails(
                        type=_explained(unknown_word("field", key, allowed)),
                        loc=(key,),
                        input=value[key],
                    )
                    for key in unknown
                ],
            )
        return value


def frozen(value: Any) -> Any:
    """`value` with every list in it, at any depth of lists, as a tuple."""
    return tuple(frozen(v) for v in value) if isinstance(value, list) else value


def unknown_word(what: str, word: str, allowed: Iterable[str]) -> str:
    """Say that `word` is no `what`, what is allowed, and the nearest allowed word if one is near."""
    allowed = list(allowed)
    near = difflib.get_close_matches(str(word), allowed, n=1, cutoff=0.5)
    allowed = [*allowed[:_SHOWN], "..."] if len(allowed) > _SHOWN else allowed
    listed = f"allowed: {', '.join(allowed)}" if allowed else "none is allowed here"
    hint = f". Did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{plain(str(word))}'; {listed}{hint}"


def plain(word: str, most: int = 60) -> str:
    """`word` as one line shows it: at most so many characters of it, and what no terminal shows as an escape."""
    text = word if word.isprintable() else repr(word)[1:-1]
    return text if len(text) <= most else f"{text[:most]}..."


def listed(numbers: Sequence[int]) -> str:
    """`numbers` in words; of many the first ones and the last."""
    some = map(str, numbers if len(numbers) <= _SHOWN else numbers[: _SHOWN // 2])
    return ", ".join(some) + (f", ..., {numbers[-1]}" if len(numbers) > _SHOWN else "")


def context_refusal(possible: Iterable[int], frames: int) -> str:
    """Say that `frames` are none of the `possible` numbers of context frames, and which are nearest."""
    possible = list(possible)
    if not possible:
        return "this backbone generates whole samples; no frames can be given to it"
    near = sorted(sorted(possible, key=lambda n: abs(n - frames))[:2])
    return (
        f"{frames} context frames cannot be given: possible are {listed(possible)}; "
        f"nearest: {' or '.join(map(str, near))}"
    )


def guidance_findings(cfg_scale: float, conditional: bool) -> Iterable[Finding]:
    """What is wrong with a `cfg_scale` on data that are, or are not, `conditional`: guidance needs a condition."""
    if cfg_scale != 1 and not conditional:
        yield Finding("error", ("cfg_scale",), "guidance needs a condition, and these data have none; use 1")


@dataclass(frozen=True)
class Finding:
    """Something that `flowmap check` has to say about one field.

    `field` is relative to whoever reports it; an `error` refuses the recipe, a `warning` does not.
    """

    level: Literal["error", "warning"]
    field: tuple[str | int, ...]
    message: str


@dataclass(frozen=True)
class Origin:
    """Where base weights come from: a hub id, if they have one, and their licence, as a model card names it."""

    hub_id: str | None
    licence: str


@dataclass(frozen=True)
class RoleSpec:
    """A role that an objective needs: what kind of network, and whether the stage trains it.

    `view` is how the objective shows frames to a causal network in this role. A student that is trained on whole videos
    is sampled so too.
    """

    kind: NetworkKind
    trained: bool
    summary: str
    view: FrameView = "forced"


@dataclass(frozen=True)
class SampleSpec:
    """What one sample of a data source is.

    `shape` is `(F, ...)`: frames first (1 for images and points). `classes` counts the labels that can
    be a condition; 0 means that there are none. `labelled` says whether reference samples have class labels,
    `text` whether samples come with a caption, `text_dim` how many dimensions its embedding has where the data bring
    one (0 if not). `fps` are the frames per second of videos; `frame_choice` and `fit` say how files become such
    samples, those that the data are made of and those that a user gives.
    """

    shape: tuple[int, ...]
    classes: int = 0
    labelled: bool = False
    text: bool = False
    text_dim: int = 0
    fps: float | None = None
    # How a sample was read is no part of what kind it is.
    frame_choice: FrameChoice = field(default="nearest", compare=False)
    fit: Fit = field(default="crop", compare=False)

    @property
    def conditional(self) -> bool:
        """Whether a generation can be conditioned on anything."""
        return self.classes > 0 or self.text


@dataclass(frozen=True)
class Pretrained:
    """What a backbone's base weights are as they stand, without any training of ours.

    `kind` is what they compute, `view` how a causal model of them shows frames to itself; `files` are what tells them
    from others. What their authors sample them with: samples of `spec` (None: any), a grid shifted by `shift` (None:
    not known), `calls` network calls of `sampler`, guided by `cfg_scale` (w in null + w (cond - null)).
    """

    kind: NetworkKind
    view: FrameView = "whole"
    files: tuple[Path, ...] = ()
    spec: SampleSpec | None = None
    shift: float | None = 1.0
    sampler: str = "flow_map"
    calls: int = 4
    cfg_scale: float = 1.0


@dataclass(frozen=True)
class StageFacts:
    """What an objective may know about its stage when it is asked whether the combination makes sense.

    `batch` is the global batch in samples; `conditional` says whether the data carry a condition, `recomputes`
    whether the backbone recomputes its forward in backward (gradient checkpointing), `accumulates` whether a process
    may take its share of the batch in several micro-batches. `steps` is the length of the stage, `channels` those of
    the data; 0 where that is not known.
    """

    batch: int
    conditional: bool
    recomputes: bool = False
    accumulates: bool = False
    steps: int = 1_000_000
    channels: int = 0

    def ever(self, probability: float) -> bool:
        """Whether in one such stage of a hundred, at least, there is a sample to which this happens."""
        return probability * self.batch * self.steps >= 0.01

    def rarely(self) -> str:
        """Say that something does not come about in so short a stage."""
        return (
            f"this stage has {self.batch * self.steps:,} samples, and most likely it comes about in none; use 0.1 say"
        )


def idle(config: Config, why: str, *fields: str) -> Iterator[Finding]:
    """A warning for each of `fields` of `config` that is not at its default, although `why`: nothing reads it."""
    for name in fields:
        if getattr(config, name) != type(config).model_fields[name].get_default(call_default_factory=True):
            yield Finding("warning", (name,), f"has no effect: {why}")


class ComponentConfig(Config, ABC):
    """Base of every configuration that a plugin registers.

    A subclass declares `type: Literal["its_name"] = "its_name"`: the word a recipe uses.
    """

    kind: ClassVar[str]
    type: str

    @classmethod
    def type_name(cls) -> str:
        """The word that names this component in a recipe."""
        return str(cls.model_fields["type"].default)

    def missing(self) -> Iterable[Finding]:
        """What a run would read and this machine does not have: what, where it was looked for, how to get it."""
        return ()

    def rehearsed(self, folder: Path) -> Self:
        """A tiny twin of the same kind, for a rehearsal; `folder` is for what it reads. As it is, if it is tiny."""
        return self


class BackboneConfig(ComponentConfig):
    """Configuration of a backbone: the network architecture and where its own weights come from."""

    kind: ClassVar[str] = "backbone"
    random_base: ClassVar[bool] = False
    """Whether the base weights are a random initialisation, of no use to a role that is never trained."""
    forms: ClassVar[tuple[str, ...]] = ()
    """The forms in which others load a network of this backbone (`flowmap export --format`); the first is the usual."""

    def origin(self) -> Origin:
        """What the base weights are, for a model card."""
        return Origin(None, "apache-2.0" if self.random_base else "unknown")

    @classmethod
    def of_weights(cls, weights: str) -> Self | None:
        """The configuration that makes a network of `weights` (a folder or a hub id); None if they are not of its kind.

        Of the installed backbones one at most may claim them. They need not be here, if their name says what they are.
        """
        return None

    def pretrained(self) -> Pretrained | None:
        """What the base weights are as they stand; None if they are random, not here, or of no use by themselves."""
        return None

    def sized(self, spec: SampleSpec) -> Self:
        """The same for samples of `spec`: what depends on their size is made to fit, if it can be."""
        return self

    def reading_as(self, other: BackboneConfig) -> Self:
        """The same, with prompts and the null condition read as `other` reads them, beside which it is measured."""
        return self

    def contexts(self, spec: SampleSpec) -> Mapping[int, int]:
        """How many frames of samples of `spec` can be given as context, ascending, and their number in model space."""
        return {}

    def goes_on(self) -> bool:
        """Whether its networks learn to go on from frames that are given to them, where they can be given any."""
        return True

    def causal(self) -> bool:
        """Whether samples are generated in several chunks, one after the other."""
        return False

    def reads_text(self) -> bool:
        """Whether the backbone can be asked for anything in words."""
        return False

    def encoding(self, training: bool = False) -> Mapping[str, Any]:
        """What decides what `flowmap encode` makes of data, as JSON, by the names of fields; nothing if it makes none.

        Weights stand there by a fingerprint, and not at all if they are not here. With `training`, without what is not
        taken from encoded data but made from this configuration.
        """
        return {}

    def encoding_precision(self, device: str) -> str | None:
        """The precision in which texts are encoded on that kind of device (cpu, cuda); None if none are."""
        return None

    def recomputes(self) -> bool:
        """Whether backward computes the forward once more instead of keeping what it needs."""
        return False

    def time_frequency(self) -> float | None:
        """The highest angular frequency with which its networks see a time, in radians per unit of t; None if unknown.

        It says how long a difference in time may be (`flowmap.step_length`).
        """
        return None

    def footprint(self, spec: SampleSpec, precision: Precision) -> Footprint | None:
        """What its networks take (parameters, arithmetic, memory) on samples of `spec`; None if that is not known."""
        return None

    @abstractmethod
    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Say what does not fit between this backbone and samples of `spec`."""

    @abstractmethod
    def build(self, spec: SampleSpec) -> Backbone:
        """Make the backbone for samples of `spec`. No weights are allocated yet."""


class DataConfig(ComponentConfig):
    """Configuration of a data source."""

    kind: ClassVar[str] = "data"

    @abstractmethod
    def spec(self) -> SampleSpec:
        """Say what one sample is, without reading any data."""

    @abstractmethod
    def build(self) -> Data:
        """Open the data source."""


class ArchiveConfig(DataConfig):
    """Configuration of raw data that `flowmap encode` can turn into encoded data, once, ahead of training."""

    path: PathText = Field(description="a folder of parts, or a pattern such as data/*.tar")

    def encoded_in(self) -> Path | None:
        """The folder of the parts that `path` names, if they are encoded; None if they are raw, or not here."""
        return None

    @abstractmethod
    def build(self) -> Archive:
        """Open the archive."""


class ObjectiveConfig(ComponentConfig):
    """Configuration of an objective: what a stage minimises, and over which roles."""

    kind: ClassVar[str] = "objective"

    @abstractmethod
    def roles(self) -> Mapping[str, RoleSpec]:
        """Name the roles this objective needs. The network that a stage exists for is `student`."""

    @abstractmethod
    def findings(self, facts: StageFacts) -> Iterable[Finding]:
        """Name the combinations that are known to fail (errors) or to disappoint (warnings)."""

    def grid_shift(self) -> float | None:
        """The shift of the times that the student is trained at, on whose grid it is sampled; None if it has none."""
        return None

    def warmup_steps(self) -> int:
        """Steps over which a part of the loss grows from nothing to all; 0 if none does."""
        return 0

    @abstractmethod
    def build(self) -> Objective:
        """Make the objective."""


class SamplerConfig(ComponentConfig):
    """Configuration of a sampler."""

    kind: ClassVar[str] = "sampler"
    network: ClassVar[NetworkKind]
    """The kind of network the sampler calls."""
    calls_per_step: ClassVar[int]
    """Network calls that one step along the grid takes."""

    @abstractmethod
    def build(self) -> Sampler:
        """Make the sampler."""


class MetricConfig(ComponentConfig):
    """Configuration of a metric."""

    kind: ClassVar[str] = "metric"
    network: ClassVar[NetworkKind | None] = None
    """The kind of network the metric itself calls, or None if it looks at samples only."""
    calls: ClassVar[int] = 0
    """Network calls per sample that the metric itself makes."""

    @abstractmethod
    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Say what does not fit between this metric and samples of `spec`."""

    @abstractmethod
    def build(self, references: References) -> Metric:
        """Make the metric; what it learns from the references (a classifier, say) it learns here."""


class FromCatalogue:
    """Marks a field that holds one installed component, named by its `type`.

    Use the ready-made `AnyBackbone`, `AnyData`, `AnyObjective`, `AnySampler` and `AnyMetric`. In a recipe
    the value is a table with a `type`, or just the name where every field has a default.
    """

    def __init__(self, base: type[ComponentConfig]) -> None:
        self.base = base

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Validate through the catalogue; serialise as the component's own fields."""
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda component: component.model_dump(mode="json", by_alias=True, exclude_none=True)
            ),
        )

    def _validate(self, value: Any) -> ComponentConfig:
        from flowmap.catalogue import catalogue

        kind = self.base.kind
        if isinstance(value, self.base):
            return value
        if isinstance(value, str):
            return _installed(kind, value).model_validate({"type": value})
        allowed = f"; allowed: {', '.join(catalogue().names(kind))}"
        if not isinstance(value, Mapping):
            raise _explained(f"must be a name, or a table with a 'type'{allowed}")
        if not isinstance(value.get("type"), str):
            raise _explained(f"the field 'type' must name what it is{allowed}")
        try:
            found = _installed(kind, value["type"])
        except PydanticCustomError as error:
            details = InitErrorDetails(type=error, loc=("type",), input=value["type"])
            raise ValidationError.from_exception_data(kind, [details]) from None
        return found.model_validate(dict(value))


def _installed(kind: str, name: str) -> type[ComponentConfig]:
    from flowmap.catalogue import catalogue

    try:
        return catalogue().find(kind, name)
    except LookupError as error:
        raise _explained(str(error.args[0])) from None


def _explained(text: str) -> PydanticCustomError:
    """An error whose text is shown as it is."""
    return PydanticCustomError("explained", "{text}", {"text": text})


AnyBackbone = Annotated[BackboneConfig, FromCatalogue(BackboneConfig)]
AnyData = Annotated[DataConfig, FromCatalogue(DataConfig)]
AnyObjective = Annotated[ObjectiveConfig, FromCatalogue(ObjectiveConfig)]
AnySampler = Annotated[SamplerConfig, FromCatalogue(SamplerConfig)]
AnyMetric = Annotated[MetricConfig, FromCatalogue(MetricConfig)]
