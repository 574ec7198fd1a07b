"""Texts and pictures one by one, for transformers that take them so. Torch is imported by those who bring tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from torch import Tensor


def lengths(mask: Tensor) -> list[int]:
    """How many tokens count of each text of `mask` `[B, L]`; all of them where tensors have no data, as in a plan."""
    if mask.is_meta or hasattr(mask, "fake_mode"):
        return [mask.shape[1]] * len(mask)
    counts: list[int] = mask.sum(dim=1).tolist()
    return counts


def stacked(pictures: Sequence[Tensor]) -> Tensor:
    """Pictures of one shape as a batch."""
    import torch

    return torch.stack(list(pictures))


@final
class Counted:
    """A mask `[B, L]` that knows its `lengths` without its data; in all else it is that mask."""

    def __init__(self, mask: Tensor) -> None:
        self._mask, self._lengths = mask, lengths(mask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mask, name)

    def sum(self, dim: int) -> Counted:
        """What `tolist` gives the lengths of."""
        assert dim == 1, "of each text"
        return self

    def tolist(self) -> list[int]:
        """The lengths."""
        return self._lengths
