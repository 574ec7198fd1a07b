"""Pictures as a part of what a network is conditioned on, where its samples are made from their first frame."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from flowmap.interfaces import Cond, EncodedText


class Pictures(ABC):
    """What a backbone makes of the first frames of samples: encoders, which are never trained."""

    @abstractmethod
    def beside(self, prompts: Any, x: Tensor, device: torch.device) -> EncodedText:
        """The encoded `prompts` (None: none) with what is made of the first frames of data `x` `[B, F, ...]`.

        It stands among their `others`, so that encoded data keep it. One row of `x` is that of all prompts; encoders
        compute on `device`. Raises FlowmapError for prompts of another kind.
        """

    @abstractmethod
    def shown(self, cond: Cond, null: Cond, frames: Tensor) -> tuple[Cond, Cond]:
        """See Backbone.pictured."""

    @abstractmethod
    def release(self) -> None:
        """The encoders leave their accelerator; see Backbone.release."""
