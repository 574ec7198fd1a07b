"""What a backbone is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from flowmap.interfaces.chunks import Chunking
from flowmap.interfaces.networks import Cond, Role
from flowmap.interfaces.samples import Batch, Samples
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.schema.words import NetworkKind


@final
@dataclass(frozen=True)
class SamplingGrid:
    """Where what is exported is to be sampled: on the grid of `shift`, and, in forms that know one list, in `calls`.

    `sampler` has the fields of the run's own sampler, as a recipe has them, where all that the student learned is to
    jump to data; it is empty of any other. `listed` are the `calls + 1` times of that sampler, if it has a list.
    """

    shift: float
    calls: int
    sampler: Mapping[str, Any] = field(default_factory=dict)
    listed: tuple[float, ...] = ()

    def times(self) -> list[float]:
        """The `calls + 1` times to 0: those that are `listed`, or from 1; see `flowmap.maths.path.grid`."""
        return list(self.listed) or [float(t) for t in grid(self.calls, self.shift)]


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
    def precompute(self, samples: Samples, draw: Draw) -> Samples:
        """The same samples in model space, their prompts read by the text encoder if there is one.

        What is random in it (a sample of a VAE's posterior) comes from `draw`; encoders compute on its device.
        """

    @abstractmethod
    def encode(self, samples: Samples, draw: Draw) -> Batch:
        """Raw or precomputed samples to a batch in model space, by `draw` as `precompute`."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Model space `[B, F, ...]` back to data space."""

    @abstractmethod
    def condition(self, prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
        """The condition of `prompts` for `count` samples, and the null condition, on `device`, where texts are read."""

    def pictured(self, cond: Cond, null: Cond, frames: Tensor) -> tuple[Cond, Cond]:
        """The same conditions of samples whose first `frames` `[B, k, ...]` in data space are part of a condition.

        `frames` may be on another device; of one row they are those of all samples. As they are, unless a backbone is
        conditioned on a picture (`BackboneConfig.contexts` says 0 then): what others are given is context.
        """
        return cond, null

    def release(self) -> None:
        """The encoders of texts leave their accelerator until a text is read again: networks need the room.

        Called when prompts have been read and sampling begins. Does nothing, unless a backbone has such encoders.
        """
        return

    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape `(F, ...)` of one sample in model space."""

    @abstractmethod
    def chunking(self) -> Chunking:
        """How frames are split into chunks; `OneChunk()` for a model of all frames at once."""

    @abstractmethod
    def export(self, role: Role, folder: Path, form: str, merged: bool, grid: SamplingGrid) -> str:
        """Write `role` into the empty `folder` in a form in which others load it; return how to load it.

        `form` is one that the configuration names (`forms`), or empty if it names none. Adapters are `merged` into the
        weights, or written beside them; `grid` is where it is to be sampled.
        Raises FlowmapError if this backbone has no such form.
        """
