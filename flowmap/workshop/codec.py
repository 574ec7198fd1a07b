"""The way from data to what a network sees and back, where they are not the same: a VAE, text encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import EncodedText
from flowmap.maths.draw import Draw


class Codec(ABC):
    """Encoders, which are never trained. They are read when they are first needed, to the device they are asked on."""

    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """The shape `(F, ...)` of one sample in model space."""

    @abstractmethod
    def encode(self, x: Tensor, draw: Draw) -> Tensor:
        """Data `[B, F, ...]` to model space, on the device of `draw`; what is random in it comes from `draw`."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Model space `[B, F, ...]` to data, on the device of `x` or on the CPU."""

    @abstractmethod
    def text(self, prompts: Sequence[str], device: torch.device) -> EncodedText:
        """Texts, read by the text encoders, with the null condition. Raises FlowmapError if there are none."""

    def release(self) -> None:
        """See Backbone.release; does nothing, unless overridden."""
        return


@final
class NoCodec(Codec):
    """Data as they are, of `shape` `(F, ...)`: there is nothing to encode, and nobody who reads."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def latent_shape(self) -> tuple[int, ...]:
        """That of the data."""
        return self._shape

    def encode(self, x: Tensor, draw: Draw) -> Tensor:
        """As it is."""
        return x

    def decode(self, x: Tensor) -> Tensor:
        """As it is."""
        return x

    def text(self, prompts: Sequence[str], device: torch.device) -> EncodedText:
        """Raises FlowmapError."""
        raise FlowmapError("this backbone has no text encoder; its data must bring embeddings, or class labels", code=1)
