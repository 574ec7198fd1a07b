"""Whether samples and prompts are the same, and parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flowmap.interfaces import EncodedText, Samples
from flowmap.testing.contract import require, require_like


def captions(prompts: Any, encoded: bool, count: int, who: str) -> None:
    """Require `count` texts, or encoded ones."""
    if encoded:
        require(isinstance(prompts, EncodedText), f"{who} must be EncodedText, not {type(prompts).__name__}")
        require(prompts.text.ndim == 3, f"{who} must have text [{count}, L, D], not {list(prompts.text.shape)}")
        require_like(prompts.text, (count, *prompts.text.shape[1:]), f"text of {who}")
        require_like(prompts.null, tuple(prompts.text.shape[1:]), f"null of {who}")
    else:
        good = isinstance(prompts, list) and len(prompts) == count and all(isinstance(p, str) for p in prompts)
        require(good, f"{who} must be a list of {count} strings: its spec says text")


def some_rows(samples: Samples, rows: Sequence[int]) -> Samples:
    """The samples `rows`."""
    index = list(rows)
    labels, sources = (None if part is None else part[index] for part in (samples.labels, samples.sources))
    return Samples(samples.x[index], labels, some_prompts(samples.prompts, rows), samples.encoded, sources)


def some_prompts(prompts: Any, rows: Sequence[int]) -> Any:
    """The prompts of `rows`; None where they are of a kind that only their backbone knows."""
    index = list(rows)
    if isinstance(prompts, EncodedText):
        return prompts.take(torch.tensor(index))
    if isinstance(prompts, Tensor):
        return prompts[index]
    return [prompts[row] for row in index] if isinstance(prompts, list | tuple) else None


def same_samples(a: Samples, b: Samples, contract: str) -> None:
    """Require the same samples, to the bit."""
    require(torch.equal(a.x, b.x), contract)
    require(alike(a.labels, b.labels), contract)
    require(alike(a.prompts, b.prompts), contract)


def alike(a: Any, b: Any) -> bool:
    """Whether both are equal; prompts may be of other kinds, which only their backbone can compare."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return torch.equal(a, b)
    if isinstance(a, EncodedText) and isinstance(b, EncodedText):
        pairs = ((a.tensors(), b.tensors()), (a.nulls(), b.nulls()))
        return all(m.keys() == n.keys() and all(torch.equal(m[name], n[name]) for name in m) for m, n in pairs)
    texts = all(isinstance(p, list) and all(isinstance(text, str) for text in p) for p in (a, b))
    return bool(a == b) if texts else True
