"""An accelerator that is not there: whoever would wait for it is told where.

Its tensors are those of torch's meta device, which have shapes and no data, as all of an accelerator's are that has not
come so far yet. (Fake CUDA tensors would say "cuda", but autograd ends the process over them where torch was built
without CUDA.) What waits for an accelerator: reading a number of it (`item`, `bool`, `tolist`, `cpu`), asking how
many elements of a mask are true (`nonzero`, picking by a mask, `unique`), and a copy to it that is not `non_blocking`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

THERE = torch.device("meta")

_aten = torch.ops.aten
_COUNTS = {
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_consecutive.default,
    _aten.unique_dim.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten._local_scalar_dense.default,
    _aten.is_nonzero.default,
}
_COPIES = {_aten._to_copy.default, _aten.copy_.default, _aten.copy.default}


class WaitingError(Exception):
    """The program would have waited for its accelerator here."""


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there, here = ([x for x in tensors if x.is_meta is meta] for meta in (True, False))
        if func in _COPIES:
            _refuse_waiting_copy(func, args, kwargs)
        elif there and func in _COUNTS:
            raise WaitingError(f"{func} of a tensor of the accelerator")
        elif there and func in (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default):
            if any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
                raise WaitingError(f"{func} by a mask: how many elements it has is asked for")
        elif there and func is _aten.repeat_interleave.Tensor and kwargs.get("output_size") is None:
            raise WaitingError(f"{func} without output_size")
        if there and func not in _COPIES and any(x.ndim for x in here):
            raise WaitingError(f"{func} of tensors of the accelerator and of the CPU")
        return func(*args, **kwargs)


def _refuse_waiting_copy(func: Any, args: Any, kwargs: Any) -> None:
    source = args[0] if func is _aten._to_copy.default else args[1]
    to = kwargs.get("device") or source.device if func is _aten._to_copy.default else args[0].device
    waits = not (kwargs.get("non_blocking") or (func is not _aten._to_copy.default and args[2:] and args[2]))
    if source.is_meta and torch.device(to).type != "meta":
        raise WaitingError("a copy from the accelerator to the CPU")
    if not source.is_meta and torch.device(to).type == "meta" and waits:
        raise WaitingError("a copy to the accelerator that is waited for: flowmap.maths.devices.sent does not wait")


class _Factories(TorchFunctionMode):
    """Tensors of the accelerator that are made from numbers of Python: torch copies them, and waits."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func in (torch.tensor, torch.as_tensor, torch.asarray)
        if made and torch.device(kwargs.get("device") or "cpu") == THERE:
            raise WaitingError(f"{func.__name__} of numbers of Python, on the accelerator")
        if func is Tensor.new_tensor and args[0].is_meta:
            raise WaitingError("new_tensor on the accelerator")
        return func(*args, **kwargs)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within this context WaitingError is raised where the accelerator THERE would be waited for."""
    with _Factories(), _Operations():  # type: ignore[no-untyped-call]
        yield
