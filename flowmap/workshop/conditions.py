"""Conditions as named tensors: class labels, one or several text embeddings, pooled vectors, masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Cond, EncodedText, NoCond

LABELS = "labels"
"""What the labels are called in a condition."""


@final
class TensorCond(Cond):
    """Tensors by name, `[B, ...]` each: a row of each per sample."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`."""
        return self.tensors[name]

    def take(self, index: Tensor) -> TensorCond:
        """The rows `index` of every tensor."""
        return TensorCond({name: x[index.to(x.device)] for name, x in self.tensors.items()})

    def join(self, other: TensorCond) -> TensorCond:
        """These rows, then the others."""
        return TensorCond({name: torch.cat([x, other.tensors[name]]) for name, x in self.tensors.items()})


Conditions = Callable[[Any, int, torch.device], tuple[Cond, Cond]]
"""Makes the condition of encoded prompts for so many samples, and the null condition, on a device."""


def labelled(classes: int) -> Conditions:
    """`conditions` for networks of `classes` labels; the null label is `classes` itself.

    A network has one embedding more than there are classes.
    """
    return partial(conditions, classes=classes)


def conditions(prompts: Any, count: int, device: torch.device, classes: int = 0) -> tuple[Cond, Cond]:
    """The condition of `prompts` for `count` samples, and the null condition, on `device`.

    Labels `[count]` int64 are called `LABELS`. Of EncodedText every tensor has the name it has there ("text", and
    whatever comes with it), and its null. None is no condition at all. Raises FlowmapError for anything else.
    """
    if prompts is None:
        return NoCond(), NoCond()
    if isinstance(prompts, EncodedText):
        there = prompts.to(device)
        null = {name: x.expand(count, *x.shape) for name, x in there.nulls().items()}
        return TensorCond(there.tensors()), TensorCond(null)
    if isinstance(prompts, Tensor) and prompts.dtype == torch.int64 and prompts.ndim == 1:
        if not classes:
            raise FlowmapError("this backbone was made for data without classes, and is given class labels", code=1)
        labels = prompts.to(device)
        return TensorCond({LABELS: labels}), TensorCond({LABELS: torch.full_like(labels, classes)})
    raise FlowmapError(
        f"this backbone takes class labels or encoded texts for prompts, not {type(prompts).__name__}", code=1
    )
