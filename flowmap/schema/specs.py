"""What samples, roles, stages and weights are, as far as a configuration has to know. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowmap.schema.words import Fit, FrameChoice, FrameView, NetworkKind


@dataclass(frozen=True)
class Origin:
    """Where base weights come from: a hub id, if they have one, and their licence, as a model card names it."""

    hub_id: str | None
    licence: str


@dataclass(frozen=True)
class RoleSpec:
    """A role that an objective needs: what kind of network, and whether the stage trains it.

    `view` is how the objective shows frames to a causal network in this role. A student that is trained on whole videos
    is sampled so too. `diagonal` says of a trained flow map u(x, t, r) whether its velocity u(x, t, t) is learned as
    well: not, if all that it learns is to jump to r = 0, or along a grid. Velocity samplers follow that. `to_data` says
    that to jump to r = 0, or along one grid, is all that it learns: a network of one time can do that.
    """

    kind: NetworkKind
    trained: bool
    summary: str
    view: FrameView = "forced"
    diagonal: bool = True
    to_data: bool = False


@dataclass(frozen=True)
class SampleSpec:
    """What one sample of a data source is.

    `shape` is `(F, ...)`: frames first (1 for images and points). `classes` counts the labels that can
    be a condition; 0 means that there are none. `labelled` says whether reference samples have class labels,
    `text` whether samples come with a caption, `text_dim` how many dimensions its embedding has where the data bring
    one (0 if not). `fps` are the frames per second of videos; `frame_choice` and `fit` say how files become such
    samples, those that the data are made of and those that a user gives. `sizes` are the shapes that training samples
    may have where they have several, `shape` among them; those of a step have one. Samples are made, and compared, in
    `shape` alone.
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
    sizes: tuple[tuple[int, ...], ...] = field(default=(), compare=False)

    @property
    def conditional(self) -> bool:
        """Whether a generation can be conditioned on anything."""
        return self.classes > 0 or self.text


@dataclass(frozen=True)
class OwnTimes:
    """A list of `times` in [0, 1], from the first to the last, which is 0; no other can be taken in its place.

    `start` is the level of the noise that it begins with: what unit noise is multiplied by.
    """

    times: tuple[float, ...]
    start: float = 1.0

    @property
    def steps(self) -> int:
        """How many steps the list has."""
        return len(self.times) - 1


@dataclass(frozen=True)
class Pretrained:
    """What a backbone's base weights are as they stand, without any training of ours.

    `kind` is what they compute, `view` how a causal model of them shows frames to itself; `files` are what tells them
    from others. What their authors sample them with: samples of `spec` (None: any), a grid shifted by `shift` (None:
    not known), `calls` network calls of `sampler` with `sampler_fields`, guided by `cfg_scale` (w in null + w (cond -
    null)). For `diagonal` and `to_data` see RoleSpec. With `one_list` they mean something on that grid of
    `calls` alone.

    `published` is where their authors publish them, by whose sampler they are then held to be made; None where it is
    a guess. `also` are other fields with which they are published; `bound` are names of `sampler_fields` that follow
    from the weights themselves, and hold for any list of times.
    """

    kind: NetworkKind
    view: FrameView = "whole"
    files: tuple[Path, ...] = ()
    spec: SampleSpec | None = None
    shift: float | None = 1.0
    sampler: str = "flow_map"
    calls: int = 4
    cfg_scale: float = 1.0
    diagonal: bool = True
    to_data: bool = False
    one_list: bool = False
    sampler_fields: Mapping[str, object] = field(default_factory=dict)
    published: str | None = None
    also: tuple[Mapping[str, object], ...] = ()
    bound: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageFacts:
    """What an objective may know about its stage when it is asked whether the combination makes sense.

    `batch` is the global batch in samples, of which a process takes `micro_batch` at a time (0: its whole share): an
    objective over sets of samples sees no more of them together. `conditional` says whether the data carry a condition,
    `recomputes` whether the backbone recomputes its forward in backward (gradient checkpointing). `steps` is the length
    of the stage, `channels` those of the data; 0 where that is not known. `no_forward_mode` is why the backbone has no
    forward-mode derivative (jvp) on such samples, as the end of a sentence; None if it has one.
    """

    batch: int
    conditional: bool
    recomputes: bool = False
    micro_batch: int = 0
    steps: int = 1_000_000
    channels: int = 0
    no_forward_mode: str | None = None

    @property
    def accumulates(self) -> bool:
        """Whether a process may take its share of the batch in several micro-batches."""
        return 0 < self.micro_batch < self.batch

    def ever(self, probability: float) -> bool:
        """Whether in one such stage of a hundred, at least, there is a sample to which this happens."""
        return probability * self.batch * self.steps >= 0.01

    def rarely(self) -> str:
        """Say that something does not come about in so short a stage."""
        return (
            f"this stage has {self.batch * self.steps:,} samples, and most likely it comes about in none; use 0.1 say"
        )
