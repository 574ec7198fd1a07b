"""The abstract types of flowmap. Every class here is abstract or final.

Conventions, everywhere outside a backbone: times t, r in [0, 1] with 1 = noise, `[B]` or `[B, F]`, float32 or
wider; samples x `[B, F, ...]`, frames second (images and points have F = 1).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flowmap.configs import NetworkKind
from flowmap.draw import Draw
from flowmap.errors import FlowmapError
from flowmap.path import like

C = TypeVar("C", bound="Cond")


class Cond(ABC):
    """What a network is conditioned on, one row per sample; opaque to everything but its backbone."""

    @abstractmethod
    def take(self: C, index: Tensor) -> C:
        """The rows `index` `[K]` (int64)."""

    @abstractmethod
    def join(self: C, other: C) -> C:
        """The rows of this one, then those of `other`."""


@final
class NoCond(Cond):
    """The condition of an unconditional model."""

    def take(self, index: Tensor) -> NoCond:
        """Nothing to take."""
        return self

    def join(self, other: NoCond) -> NoCond:
        """Nothing to join."""
        return self


@final
@dataclass(frozen=True)
class Samples:
    """Raw samples of a data source.

    `x` `[B, F, ...]` in data space; `labels` `[B]` int64 if the data are labelled; `prompts`: what a
    generation of such a sample is conditioned on, in whatever form the backbone's `condition` takes. Samples
    that a backbone has `encoded` ahead of training have `x` in model space.
    """

    x: Tensor
    labels: Tensor | None = None
    prompts: Any = None
    encoded: bool = False


@final
@dataclass(frozen=True)
class EncodedText:
    """Prompts that a text encoder has read: `text` `[B, L, D]`; `null` `[L, D]` is the null condition of guidance."""

    text: Tensor
    null: Tensor


@final
@dataclass(frozen=True)
class Batch:
    """Encoded samples: `x0` `[B, F, ...]` at t = 0, their condition, and the null condition of guidance."""

    x0: Tensor
    cond: Cond
    null: Cond


class Velocity(ABC):
    """A network that knows the instantaneous velocity dx/dt: a teacher or a critic."""

    @abstractmethod
    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The velocity at `x` `[B, F, ...]` and `t` `[B]` or `[B, F]`; the shape of `x`."""


class FlowMap(Velocity):
    """A network that knows the average velocity u(x, t, r) between two times: a student.

    It defines the flow map X_{t->r}(x) = x - (t - r) u(x, t, r) for r <= t; u(x, t, t) is the velocity.
    """

    @abstractmethod
    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """u(x, t, r) for `x` `[B, F, ...]` and `t >= r`, both `[B]` or `[B, F]`; the shape of `x`."""

    @final
    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The diagonal u(x, t, t)."""
        return self.mean_velocity(x, t, t, cond)

    @final
    def jump(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        """The flow map X_{t->r}(x), in one network call."""
        return x - like(t - r, x) * self.mean_velocity(x, t, r, cond)


@final
class Role:
    """A named part that a network plays in a stage: student, teacher, critic.

    A role has a network; it is not one. `own` are the parameters that belong to this role alone, by the names
    they have in checkpoints: three roles may be three adapters on one frozen base. `module` is what moves to
    a device and runs under mixed precision. `average` holds the moving average of `own`, where one is kept.
    """

    def __init__(self, name: str, network: Velocity, module: nn.Module, own: Mapping[str, nn.Parameter]) -> None:
        self.name = name
        self.network = network
        self.module = module
        self.own = dict(own)
        self.average: dict[str, Tensor] = {}

    def freeze(self) -> None:
        """Stop this role's parameters from being trained."""
        for parameter in self.own.values():
            parameter.requires_grad_(False)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within this context the network computes with the moving average, without gradient.

        The trained values are back when it ends; graphs built before it stay valid.
        """
        trained = {name: self.own[name].data for name in self.average}
        try:
            with torch.no_grad():
                for name, value in self.average.items():
                    self.own[name].data = value.to(self.own[name].dtype)
                yield
        finally:
            for name, value in trained.items():
                self.own[name].data = value


@final
@dataclass(frozen=True)
class Window:
    """What one training step looks at: of the frames before `stop`, those from `start` on are noised.

    The frames before `start` are clean context.
    """

    start: int
    stop: int


class Chunking(ABC):
    """How a model splits frames into chunks that are generated one after the other.

    All counts are frames in model space.
    """

    @abstractmethod
    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """Frames per chunk to generate, in order, when the first `given` of `frames` are given clean.

        They sum to `frames - given`. Raises FlowmapError if so many cannot be given.
        """

    @abstractmethod
    def window(self, frames: int, draw: Draw) -> Window:
        """What this step of training looks at, in videos of `frames`; the same in all processes."""

    @abstractmethod
    def forced(self, batch: Batch, window: Window) -> Batch:
        """The teacher-forced view of `batch`: `x0` is what gets noised, the conditions carry the clean context."""

    @abstractmethod
    def whole(self, batch: Batch) -> Batch:
        """The view of `batch` as one chunk, in which every frame sees every other."""

    @abstractmethod
    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """The condition of what follows the clean `frames` `[B, f, ...]`, the first of a video.

        Raises FlowmapError if the model cannot be given so many. Called without gradient.
        """

    @abstractmethod
    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """The condition of the next chunk, once `chunk` `[B, f, ...]` is finished. Called without gradient."""


@final
class OneChunk(Chunking):
    """A model of all frames at once that takes no context: nothing is given, and nothing remembered."""

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        """All frames at once."""
        if given:
            raise FlowmapError("this backbone generates whole samples; no frames can be given to it")
        return (frames,)

    def window(self, frames: int, draw: Draw) -> Window:
        """All frames, noised."""
        return Window(0, frames)

    def forced(self, batch: Batch, window: Window) -> Batch:
        """The batch itself: there is no context."""
        return batch

    def whole(self, batch: Batch) -> Batch:
        """The batch itself."""
        return batch

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        """Raises FlowmapError: no frames can be given."""
        self.sizes(frames.shape[1], frames.shape[1])
        return cond

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        """The condition itself: nothing follows."""
        return cond


class Backbone(ABC):
    """An architecture: makes roles from weights, and translates between data space and model space.

    Making one allocates no weights; they are read when the first role or encoder is needed.
    """

    @abstractmethod
    def role(self, name: str, kind: NetworkKind, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        """Make a role; a role of the same name that was made before is no longer valid.

        `weights` are the `own` parameters of a role of a finished stage, or None for the backbone's base
        weights (a pretrained checkpoint, or a random initialisation by `draw`). A `flow_map` role made from
        the weights of a `velocity` role equals it at r = t. Raises FlowmapError unless every parameter is set.
        """

    @abstractmethod
    def precompute(self, samples: Samples) -> Samples:
        """The same samples in model space, their prompts read by the text encoder if there is one."""

    @abstractmethod
    def encode(self, samples: Samples) -> Batch:
        """Raw or precomputed samples to a batch in model space."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Model space `[B, F, ...]` back to data space."""

    @abstractmethod
    def condition(self, prompts: Any, count: int) -> tuple[Cond, Cond]:
        """The condition of `prompts` for `count` samples, and the null condition."""

    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape `(F, ...)` of one sample in model space."""

    @abstractmethod
    def contexts(self) -> Mapping[int, int]:
        """How many frames in data space can be given as context, ascending, and their number in model space."""

    @abstractmethod
    def chunking(self) -> Chunking:
        """How frames are split into chunks; `OneChunk()` for a model of all frames at once."""

    @abstractmethod
    def export(self, role: Role, folder: Path, merged: bool) -> str:
        """Write `role` into the empty `folder` in the form in which others load it; return how to load it.

        Adapters are `merged` into the weights, or written beside them. Raises FlowmapError if this backbone
        has no such form.
        """


@final
@dataclass(frozen=True)
class Loss:
    """One term of a turn.

    `value` is a scalar to differentiate; `raw` are detached scalars to log beside it, such as each branch's
    loss before weights and rebalancing.
    """

    branch: str
    value: Tensor
    raw: Mapping[str, Tensor] = field(default_factory=dict)


@final
class World:
    """All processes of the run, as an objective sees them."""

    def total(self, value: Tensor) -> Tensor:
        """The sum of `value` over all processes, without gradient."""
        value = value.detach().clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(value)
        return value


@final
@dataclass(frozen=True)
class Scene:
    """All that an objective sees in one turn of one step."""

    roles: Mapping[str, Role]
    batch: Batch
    draw: Draw
    chunking: Chunking
    world: World

    def forced(self) -> Batch:
        """The teacher-forced view of the batch, through this turn's window."""
        window = self.chunking.window(self.batch.x0.shape[1], self.draw.child("context"))
        return self.chunking.forced(self.batch, window)

    def velocity(self, role: str) -> Velocity:
        """The network of `role`."""
        return self.roles[role].network

    def flow_map(self, role: str) -> FlowMap:
        """The two-time network of `role`; raises TypeError if it has one time only."""
        return as_flow_map(self.roles[role].network)


@final
@dataclass(frozen=True)
class Turn:
    """One optimiser update within a step.

    `losses` yields the turn's terms one by one; the loop differentiates each before asking for the next, so
    that no two graphs are alive at once. A turn is taken at every `every`-th step.
    """

    role: str
    losses: Callable[[Scene], Iterator[Loss]]
    every: int = 1


class Objective(ABC):
    """What a stage minimises."""

    @abstractmethod
    def turns(self) -> tuple[Turn, ...]:
        """The updates of one step, in order."""


class Sampler(ABC):
    """From noise to samples (or from any time to any other) along a grid of times."""

    @abstractmethod
    def order(self) -> int | None:
        """Order of convergence to the network's own ODE as the grid is refined; None if it has none.

        A flow-map sampler follows the map, whose error does not depend on the grid: None.
        """

    @abstractmethod
    def sample(self, network: Velocity, x: Tensor, times: Tensor, cond: Cond, draw: Draw) -> Tensor:
        """Carry `x` `[B, F, ...]` from `times[0]` to `times[-1]`.

        `times` `[N + 1]` is decreasing, in [0, 1]. Gradients flow if they are enabled. Stochastic samplers
        take their noise from `draw`.
        """


class Data(ABC):
    """A data source. It has no state: what it returns depends on the draw alone."""

    @abstractmethod
    def batch(self, draw: Draw) -> Samples:
        """The training samples of this draw: `draw.count` of `draw.total`."""

    @abstractmethod
    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """Samples to compare with; at most `count` of them, fewer where the split is smaller."""

    @abstractmethod
    def prompts(self, draw: Draw) -> Any:
        """What to condition the generation of `draw.count` samples on; None if unconditional."""

    @abstractmethod
    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """Draw samples `[B, F, ...]` in data space as one picture `[H, W, 3]`; videos as rows of frames."""


class Archive(Data):
    """Raw data in parts (files) that can be encoded once, ahead of training."""

    @abstractmethod
    def parts(self) -> tuple[str, ...]:
        """The names of the parts, in order; each becomes one encoded part or none."""

    @abstractmethod
    def count(self, part: str) -> int:
        """About how many samples `part` has, without reading them."""

    @abstractmethod
    def encode(self, part: str, precompute: Callable[[Samples], Samples], folder: Path) -> Iterator[int]:
        """Write `part`, through `precompute`, into `folder`: whole, under its own name, or not at all.

        Yields how many samples have been dealt with since the last time. A sample that cannot be used is
        logged and skipped; raises FlowmapError when they are too many.
        """


@final
@dataclass(frozen=True)
class References:
    """What samples are compared with, in data space.

    `train` and `held_out` are real; `teacher` are the teacher's many-step samples, and `teacher_again` more of
    them from other noise, to know how much of a distance to them is chance.
    """

    train: Samples
    held_out: Samples
    teacher: Tensor
    teacher_again: Tensor


@final
@dataclass(frozen=True)
class Evidence:
    """What a metric looks at: `samples` `[N, F, ...]` in data space, and the network that made them.

    `batch` are real encoded samples for metrics that probe the network on the path of real data; None for those
    that look at samples only.
    """

    samples: Tensor
    network: Velocity
    batch: Batch | None
    draw: Draw


class Metric(ABC):
    """One number about a set of samples or a network; lower is better."""

    @abstractmethod
    def score(self, evidence: Evidence) -> float:
        """The number."""

    @abstractmethod
    def floor(self, size: int) -> float:
        """What a perfect model would score with `size` samples: nothing below it means anything."""


def as_flow_map(network: Velocity) -> FlowMap:
    """`network` as the two-time network it is; raises TypeError if it is not one."""
    if not isinstance(network, FlowMap):
        raise TypeError(f"{type(network).__name__} has one time only; a flow map is needed")
    return network
