"""What data are: samples, batches, data sources and archives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowmap.interfaces.networks import Cond
from flowmap.maths.devices import sent
from flowmap.maths.draw import Draw


@final
@dataclass(frozen=True)
class Samples:
    """Raw samples of a data source.

    `x` `[B, F, ...]` in data space, on the scale of noise, which is N(0, 1): around 0, with a root mean square of about
    1, and of 0.05 to 10 at the least and the most (images in [-1, 1]); `labels` `[B]` int64 if the data are labelled;
    `prompts`: what a generation of such a sample is conditioned on, in whatever form the backbone's `condition` takes.
    Samples that a backbone has `encoded` ahead of training have `x` in model space. `sources` `[B]` int64 number what
    reference samples were made from, where several have the same origin (clips of one video, say): who divides the
    samples in two, to learn from one part and measure by the other, keeps those of one source together.
    """

    x: Tensor
    labels: Tensor | None = None
    prompts: Any = None
    encoded: bool = False
    sources: Tensor | None = None

    def map(self, each: Callable[[Tensor], Tensor]) -> Samples:
        """The same with `each` applied to every tensor; of prompts to those that are tensors or EncodedText."""
        labels, sources = (None if part is None else each(part) for part in (self.labels, self.sources))
        prompts = self.prompts
        if prompts is self.labels:
            prompts = labels
        elif isinstance(prompts, Tensor):
            prompts = each(prompts)
        elif isinstance(prompts, EncodedText):
            prompts = prompts.map(each)
        return Samples(each(self.x), labels, prompts, self.encoded, sources)

    def to(self, device: torch.device) -> Samples:
        """The same on `device`."""
        return self.map(lambda x: sent(x, device))


@final
@dataclass(frozen=True)
class EncodedText:
    """Prompts that text encoders have read: `text` `[B, L, D]`; `null` `[L, D]` is the null condition of guidance.

    `others` are what else they made of the same prompts, by name: a second encoder's embedding, a pooled vector
    `[B, D]`, a mask `[B, L]`; `null_others` are those of the null condition, by the same names, without B.
    Raises ValueError if a name lacks its null, or is "text".
    """

    text: Tensor
    null: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)
    null_others: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.others.keys() != self.null_others.keys() or "text" in self.others:
            names = sorted(self.others), sorted(self.null_others)
            raise ValueError(f"what comes with a text is called {names[0]}, and its null condition has {names[1]}")
        for name, x in self.others.items():
            if len(x) != len(self.text) or x.shape[1:] != self.null_others[name].shape:
                shapes = list(x.shape), list(self.null_others[name].shape)
                why = f"'{name}' is {shapes[0]}, and its null {shapes[1]}"
                raise ValueError(f"{why}; with {len(self.text)} texts it is [{len(self.text)}, ...] and [...]")

    def __len__(self) -> int:
        """B."""
        return len(self.text)

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the prompts by name, `[B, ...]`."""
        return {"text": self.text, **self.others}

    def nulls(self) -> dict[str, Tensor]:
        """All tensors of the null condition by the same names, without B."""
        return {"text": self.null, **self.null_others}

    def take(self, rows: Tensor) -> EncodedText:
        """The prompts `rows` `[K]` (int64)."""
        return replace(self, text=self.text[rows], others={name: x[rows] for name, x in self.others.items()})

    def to(self, device: torch.device) -> EncodedText:
        """The same on `device`."""
        return self.map(lambda x: sent(x, device))

    def map(self, each: Callable[[Tensor], Tensor]) -> EncodedText:
        """The same with `each` applied to every tensor."""
        others, nulls = ({k: each(x) for k, x in group.items()} for group in (self.others, self.null_others))
        return EncodedText(each(self.text), each(self.null), others, nulls)


@final
@dataclass(frozen=True)
class Batch:
    """Encoded samples: `x0` `[B, F, ...]` at t = 0, their condition, and the null condition of guidance."""

    x0: Tensor
    cond: Cond
    null: Cond


class Data(ABC):
    """A data source. It has no state: what it returns depends on the draw alone."""

    @abstractmethod
    def batch(self, draw: Draw) -> Samples:
        """The training samples of this draw: `draw.count` of `draw.total`.

        In training the draw is one of the CPU (`Draw.here`), and the loop takes the samples to the accelerator.
        """

    @abstractmethod
    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """Samples to compare with; at most `count` of them, fewer where the split is smaller.

        Labels and classes are those that the same samples have in batches, and a few samples are of all classes: files
        that are sorted by their class are not read from the first on.
        """

    @abstractmethod
    def prompts(self, draw: Draw) -> Any:
        """What to condition the generation of `draw.count` samples on; None if unconditional.

        Of classes, all that the data have are asked for.
        """

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
