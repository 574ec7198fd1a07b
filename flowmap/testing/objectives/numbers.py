"""In which precision an objective computes."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from flowmap.plugin.blame import place_in
from flowmap.plugin.kinds import ComponentConfig
from flowmap.testing.check import Laws
from flowmap.testing.contract import require
from flowmap.testing.objectives.subject import SHAPES, ObjectiveSubject

LAWS = Laws("objective")

_HALVES = (torch.bfloat16, torch.float16)


@final
class _Halves(TorchDispatchMode):
    """What is computed in half precision: each dtype, and where the component of `config` asks for it."""

    def __init__(self, config: ComponentConfig) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._config = config
        self.found: list[tuple[torch.dtype, str]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Whatever torch is asked for."""
        result = function(*args, **kwargs or {})
        dtypes = {part.dtype for part in tree_leaves(result) if isinstance(part, Tensor)}
        self.found += [(dtype, place_in(self._config)) for dtype in _HALVES if dtype in dtypes]
        return result


@LAWS.proven(
    "An objective computes in float32 or wider: mixed precision is a matter of networks alone.",
    "Objective",
    after=("losses_are_scalars", "graphs_are_their_own"),
)
def numbers_are_not_rounded(subject: ObjectiveSubject) -> None:
    """The times and points that it asks networks for, targets, losses and their gradients."""
    for shape in SHAPES:
        with _Halves(subject.config) as seen:
            subject.run(shape, subject.draw())
        dtype, place = seen.found[0] if seen.found else (torch.float32, "")
        name = str(dtype).removeprefix("torch.")
        require(
            not seen.found,
            f"{subject.who} must compute in float32 or wider, whatever networks run in; it makes numbers of {name}"
            f"{place and f' ({place})'}, so times or losses are rounded",
        )
