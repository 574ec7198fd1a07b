"""What frozen layers make of a text, made once: beside adapters it is the same for every role and at every call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from diffusers.models.normalization import RMSNorm
from torch import Tensor, nn

from flowmap.workshop.adapters import AdaptedLinear
from flowmap.workshop.precision import is_mixed

M = TypeVar("M")


@final
class TextMemo:
    """What layers of frozen bases have made of one prompt: it is the same for every role and at every call.

    It holds no graph, so it serves calls with and without gradient, and a block that backward recomputes.
    """

    def __init__(self) -> None:
        self._made: dict[Any, Any] = {}

    def recall(self, layer: nn.Module, x: Tensor, make: Callable[[], M]) -> M:
        """What `layer` makes of the prompt that is `x` there; `make` is called once for each precision and device."""
        device = x.device
        mixed = torch.get_autocast_dtype(device.type) if is_mixed(device) else None
        key = (layer, x.dtype, mixed, device)
        if key not in self._made:
            self._made[key] = make()
        found: M = self._made[key]
        return found


@final
@dataclass(frozen=True)
class Text:
    """The tokens of prompts `[B, M, D]`; with a memo, what frozen layers make of them is made once."""

    tokens: Tensor
    memo: TextMemo | None = None

    def through(self, layer: nn.Module, parts: Sequence[nn.Module], make: Callable[[Tensor], M]) -> M:
        """`make` of the tokens, which uses the `parts` of `layer`; remembered if it can be."""
        found = self.remembered(layer, parts, make)
        return make(self.tokens) if found is None else found

    def remembered(self, layer: nn.Module, parts: Sequence[nn.Module], make: Callable[[Tensor], M]) -> M | None:
        """The same, made once, or None unless it depends on the frozen base alone.

        It does if the parts are plain layers without anything to train.
        """
        memo, tokens = self.memo, self.tokens
        if memo is None or tokens.requires_grad or not all(_frozen(part) for part in parts):
            return None
        return memo.recall(layer, tokens, lambda: make(tokens))


def _frozen(part: nn.Module) -> bool:
    # An adapted layer is another for every role.
    plain = isinstance(part, nn.Linear | nn.LayerNorm | nn.RMSNorm | RMSNorm) and not isinstance(part, AdaptedLinear)
    return plain and not any(parameter.requires_grad for parameter in part.parameters())
