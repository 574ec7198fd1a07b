"""What somebody gives a network by hand, made into what the network takes, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Cond, EncodedText
from flowmap.schema.specs import SampleSpec
from flowmap.use.student import ReadyModel


def point_of(student: ReadyModel, x: Tensor) -> Tensor:
    """`x` as the student's network takes it."""
    shape = student.backbone.latent_shape()
    if not isinstance(x, Tensor) or tuple(x.shape[1:]) != tuple(shape) or x.is_complex():
        found = f"shape {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise FlowmapError(f"points are a tensor [B, {', '.join(map(str, shape))}] of real numbers, not {found}")
    return x.to(student.device, torch.float32)


def times_of(t: float | Tensor, point: Tensor) -> Tensor:
    """One time for each sample, in float32."""
    try:
        times = torch.as_tensor(t, dtype=torch.float32, device=point.device)
    except (TypeError, ValueError, RuntimeError):
        raise FlowmapError(f"a time is a number or a tensor of numbers, not {t!r}") from None
    if times.ndim > 1 or (times.ndim == 1 and len(times) != len(point)):
        raise FlowmapError(
            f"a time is one number, or one for each of the {len(point)} samples, not {list(times.shape)}"
        )
    if not bool(((times >= 0) & (times <= 1)).all()):
        raise FlowmapError("times are between 0 (data) and 1 (noise)")
    return times.expand(len(point))


def condition_of(student: ReadyModel, prompts: Any, count: int, spec: SampleSpec) -> Cond:
    """The condition of `count` samples. Raises FlowmapError unless `prompts` are such as the data of `spec` have."""
    if spec.conditional and prompts is None:
        raise FlowmapError(f"this network has a condition: give prompts, one for each of the {count} samples")
    if prompts is not None and not spec.conditional:
        raise FlowmapError("these data have no condition; leave prompts out")
    if spec.classes and prompts is not None:
        prompts = _labels(prompts, spec.classes).to(student.device)
    elif isinstance(prompts, str):
        prompts = [prompts]
    if prompts is not None and not isinstance(prompts, Sized | EncodedText):
        raise FlowmapError(f"prompts are one for each of the {count} samples, not {prompts!r}")
    number = count if prompts is None else len(prompts)
    if number != count:
        raise FlowmapError(f"there are {number} prompts and {count} samples")
    return student.backbone.condition(prompts, count, student.device)[0]


def _labels(prompts: Any, classes: int) -> Tensor:
    """Class labels `[B]` int64, from any list of them."""
    try:
        labels = torch.as_tensor(prompts)
    except (TypeError, ValueError, RuntimeError):
        raise FlowmapError(f"prompts of these data are class labels, 0 to {classes - 1}, one for each sample") from None
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole or not bool(((labels >= 0) & (labels < classes)).all()):
        raise FlowmapError(f"prompts of these data are class labels, 0 to {classes - 1}, one for each sample")
    return labels.long()
