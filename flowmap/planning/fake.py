"""Measure the memory of a computation without doing it: on fake tensors, which have shapes and no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from flowmap.schema.words import Precision


@final
@dataclass(frozen=True)
class Taken:
    """Bytes: `held` after a call until its backward, and `peak`, the most at any moment of both (with held)."""

    held: int
    peak: int


@final
class Meter(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made in its context, for as long as it lives.

    Tables of `[queries, keys]` in `skipped` are left out: they stand for masks, of which block-sparse attention keeps
    next to nothing.
    """

    def __init__(self, skipped: Iterable[tuple[int, int]] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._skipped = set(skipped)
        self._known: dict[int, weakref.ref[Any]] = {}
        self.alive = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and look at what it made."""
        result = func(*args, **(kwargs or {}))
        # A view, and what is written in place, is no new memory.
        if not (func.is_view or func._schema.is_mutable):
            for made in result if isinstance(result, tuple | list) else (result,):
                if isinstance(made, Tensor) and tuple(made.shape) not in self._skipped:
                    self._count(made.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.alive -= size

        self._known[key] = weakref.ref(storage, gone)
        self.alive += size
        self.peak = max(self.peak, self.alive)


def fake_tensors(module: nn.Module, mode: FakeTensorMode) -> None:
    """Give `module`, made on the meta device, fake parameters and buffers that say they are on the CPU."""

    def fake(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype)

    with mode:
        for layer in module.modules():
            for name, parameter in list(layer.named_parameters(recurse=False)):
                twin = nn.Parameter(fake(parameter), requires_grad=parameter.requires_grad)
                if twin.requires_grad:
                    # Gradients have a line of their own in the plan: adding to them takes nothing new.
                    twin.grad = fake(parameter)
                layer.register_parameter(name, twin)
            for name, buffer in list(layer.named_buffers(recurse=False)):
                layer.register_buffer(name, fake(buffer), persistent=False)


def measure(
    call: Callable[[], Any],
    gradient: bool,
    precision: Precision,
    skipped: Iterable[tuple[int, int]] = (),
    backward: bool = True,
) -> Taken:
    """What `call` takes under fake tensors, in mixed `precision`, and with `gradient` its `backward` if it is wanted.

    With gradient `call` returns a tensor to differentiate.
    """
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    with Meter(skipped) as meter:
        with torch.set_grad_enabled(gradient), mixed:
            result = call()
        held = meter.alive if gradient else 0
        if gradient and backward:
            result.backward(torch.zeros_like(result))
    return Taken(held, meter.peak)
