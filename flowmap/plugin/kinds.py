"""What a plugin registers: pydantic configuration classes, one base class per kind of component.

Nothing here imports torch, so that `flowmap check` and `flowmap plugins` answer at once. A configuration
builds its component with `build()`, and only there may a plugin import torch.

Over 250 lines: what each of the six kinds may be asked, side by side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, final

from pydantic import Field

from flowmap.schema.bounds import PathText
from flowmap.schema.config import Config, Finding
from flowmap.schema.specs import Origin, OwnTimes, Pretrained, RoleSpec, SampleSpec, StageFacts
from flowmap.schema.words import Better, NetworkKind, Precision, Recomputation

if TYPE_CHECKING:
    from flowmap.interfaces import (
        Archive,
        Backbone,
        Data,
        Features,
        Metric,
        Objective,
        References,
        Sampler,
        Samples,
    )
    from flowmap.plugin.footprint import Footprint


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
    any_size: ClassVar[bool] = False
    """Whether its networks take samples of several sizes, one in each step (`SampleSpec.sizes`)."""
    one_time: ClassVar[bool] = False
    """Whether its flow maps have one time: they jump to data, or along one grid (`RoleSpec.to_data`), and ignore r."""
    forms: ClassVar[tuple[str, ...]] = ()
    """The forms in which others load a network of this backbone (`flowmap export --format`); the first is the usual."""
    listed_forms: ClassVar[frozenset[str]] = frozenset()
    """Those of them in which a flow map is one for a single list of times, `SamplingGrid.times()`."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """What loads a form, as a model card calls it, where that is not diffusers."""

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
        """How many frames of samples of `spec` can be given as context, ascending, and their number in model space.

        0 in model space: they are no frames that are kept but part of the condition (`Backbone.pictured`), without
        which the networks make nothing.
        """
        return {}

    def context_hint(self, spec: SampleSpec, frames: int) -> str:
        """What to set, so that `frames` that are none of its `contexts` could be given; nothing if nothing would help.

        It follows 'nearest: 9 or 21; or'.
        """
        return ""

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

    def encoders(self, device: str) -> Mapping[str, int]:
        """Bytes, by its name, of each network that encodes texts or raw data on that kind of device; as far as known.

        They are in memory beside the networks that are trained, as long as raw data are read.
        """
        return {}

    def has_blocks(self) -> bool:
        """Whether its networks have blocks, the `units` of their roles, which can be compiled one by one."""
        return True

    def recomputation(self) -> Recomputation:
        """What backward computes once more instead of keeping what it needs (gradient checkpointing)."""
        return "none"

    def cudnn_attention(self) -> bool:
        """Whether gradients through cuDNN's kernels of attention were checked at the shapes of its networks.

        Where they were not, training takes others: some are wrong (`flowmap.training.kernels`).
        """
        return False

    def attention_heads(self, spec: SampleSpec) -> int | None:
        """The attention heads of its networks, where the tokens of a sample can be shared among processes.

        As many processes can share them as divide that number. 1: they cannot be shared; None: it is not known yet.
        """
        return 1

    def no_forward_mode(self, spec: SampleSpec) -> str | None:
        """Why its networks have no forward-mode derivative (jvp) on samples of `spec` that fits; None if they have one.

        The reason is the end of a sentence. Of attention `flowmap.plugin.scores` can say it.
        """
        return None

    def time_frequency(self) -> float | None:
        """The highest angular frequency with which its networks see a time, in radians per unit of t; None if unknown.

        It says how long a difference in time may be (`flowmap.recipe.step_length`).
        """
        return None

    def footprint(self, spec: SampleSpec, precision: Precision) -> Footprint | None:
        """What its networks take (parameters, arithmetic, memory) on samples of `spec`; None if that is not known."""
        return None

    @abstractmethod
    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Say what does not fit between this backbone and samples of `spec`, all of its `shape`."""

    def training_findings(self) -> Iterable[Finding]:
        """Say what does not fit in a recipe that trains, and does in one that only samples."""
        return ()

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

    def group(self) -> int:
        """How many samples the objective compares with one another, which must be seen together; 1 if none are.

        A batch is then whole groups, and so is what a process is shown at a time (`Scene`): samples 0 ... group - 1 of
        the scene are one, and so on. Within a group `draw.groups` draws the same times, or anything else, for all.
        """
        return 1

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
    to_data: ClassVar[bool] = False
    """Whether it asks a flow map for jumps to data alone, or where one of two networks ends."""

    def own_times(self) -> OwnTimes | None:
        """The one list of times that it goes along, whatever grid others are sampled on; None: any grid."""
        return None

    @final
    def steps(self, calls: int) -> int | None:
        """How many steps take exactly `calls` network calls; None if no number does."""
        own = self.own_times()
        possible = calls == own.steps * self.calls_per_step if own else calls % self.calls_per_step == 0
        return calls // self.calls_per_step if possible and calls > 0 else None

    @final
    def takes(self) -> str:
        """Say how many calls it takes: the middle of a sentence."""
        own, each = self.own_times(), self.calls_per_step
        if own is None:
            return f"'{self.type}' takes {each} calls a step"
        return f"'{self.type}' has {own.steps} times of its own, so it takes {own.steps * each} calls"

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
    better: ClassVar[Better] = "lower"
    """Which of its scores are the better ones. Where higher is better, scores are 0 or above."""

    def label(self) -> str:
        """What its scores are called, the same for no other metric of an evaluation: its type, or "type:more".

        A metric that can be listed twice, with other settings, has to say more.
        """
        return self.type

    @abstractmethod
    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Say what does not fit between this metric and samples of `spec`."""

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """Why a score of `samples` samples of `spec`, with so many real ones, is none to set beside published ones.

        Each is a sentence without its stop, shown wherever the number is; nothing if the number may stand beside them.
        """
        return ()

    @abstractmethod
    def build(self, references: References) -> Metric:
        """Make the metric; what it learns from the references (a classifier, say) it learns here.

        A run also asks before its first step, for what fails to fail then, and ends that at the first look at the
        references: look at one of them (their device, say) before anything that takes long.
        """


class FeaturesConfig(ComponentConfig):
    """Configuration of features: the space in which a metric compares samples, such as that of a trained network."""

    kind: ClassVar[str] = "features"

    def label(self) -> str:
        """What scores in these features are called, the same for no others: their type, unless that says too little."""
        return self.type

    def remarks(self, spec: SampleSpec) -> Iterable[str]:
        """Why numbers in these features are none to set beside published ones; see MetricConfig."""
        return ()

    @abstractmethod
    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Say what does not fit between these features and samples of `spec`."""

    @abstractmethod
    def build(self, references: References) -> Features:
        """Make them ready; what they learn from the references they learn here, and none of it from `unseen`.

        Asked twice, as a metric is (MetricConfig.build).
        """

    def unseen(self, references: References) -> Samples:
        """The real samples that nothing in the features has learned from, which are what a perfect model would make."""
        return references.train
