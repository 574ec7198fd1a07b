"""A backbone of few parts with a role of either kind, on tensors without data: what is run to see what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flowmap.interfaces import Backbone, Batch, Cond, FlowMap, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap.plugin.footprint import CallShape
from flowmap.schema.words import NetworkKind, Precision
from flowmap.workshop.fake import Meter

KINDS: tuple[NetworkKind, ...] = ("velocity", "flow_map")


@final
class Rig:
    """A backbone of few units with a role of either kind: on fake tensors that are on the "cpu", or on "meta"."""

    def __init__(
        self, make: Callable[[], Backbone], prompts: Callable[[int], Any], precision: Precision, device: str
    ) -> None:
        self._prompts, self._precision, self._device = prompts, precision, torch.device(device)
        self._known: dict[tuple[int, int], Cond] = {}
        self._fake = FakeTensorMode() if device == "cpu" else nullcontext()
        draw = Draw.whole(0, "footprint", 0, "weights", 1)
        with self.running():
            self.backbone = make()
            self.roles = {kind: self.backbone.role(kind, kind, None, draw) for kind in KINDS}
            for role in self.roles.values():
                if device == "meta":
                    # Mixed precision is not followed there, and products of two precisions are refused.
                    for parameter in role.module.parameters():
                        parameter.data = parameter.data.float()
                for parameter in role.own.values():
                    # Gradients have a line of their own in the plan: adding to them takes nothing new.
                    parameter.grad = torch.empty_like(parameter)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within this context tensors have no data."""
        # Tensors are on the CPU by themselves, and a device that is named looks at every call.
        with self._fake, nullcontext() if self._device.type == "cpu" else self._device:
            yield

    @property
    def shared(self) -> list[nn.Parameter]:
        """The parameters that no role owns."""
        owned = {id(p) for role in self.roles.values() for p in role.own.values()}
        every = {id(p): p for role in self.roles.values() for p in role.module.parameters()}
        return [p for key, p in every.items() if key not in owned]

    @cached_property
    def units(self) -> list[set[int]]:
        """The parameters of each part that is gathered at once, by their identity."""
        parts = {id(unit): unit for role in self.roles.values() for unit in role.units}
        return [{id(p) for p in unit.parameters()} for unit in parts.values()]

    def call(self, kind: NetworkKind, shape: CallShape, samples: int) -> Callable[[], Any]:
        """A call of `shape`, with everything that is there before it."""
        network, chunking, video = self.roles[kind].network, self.backbone.chunking(), self._video(samples)
        x, t = video[:, shape.start : shape.start + shape.frames].clone(), torch.zeros(samples)
        if shape.view == "forced":
            text = self._after(0, samples)
            cond = chunking.forced(Batch(video, text, text), Window(shape.start, shape.start + shape.frames)).cond
        else:
            cond = self._after(shape.start, samples)
        if shape.view == "reading":
            return lambda: chunking.remember(network, cond, x) if shape.start else chunking.given(network, cond, x)
        return lambda: _answer(network, x, t, cond)

    def remembered(self, frames: int | None) -> int:
        """Bytes of what stays of one sample's first `frames`, read; None: of its prompt, after a call."""
        chunking, video = self.backbone.chunking(), self._video(1)
        if frames is not None and (not frames or len(chunking.sizes(video.shape[1])) == 1):
            return 0
        # Everything twice: what does not depend on the condition, a network may remember from its first call on.
        with _plain(self._precision):
            if frames is None:
                self._first_call(self._text(1), 1)
                fresh = self._text(1)
                with Meter() as meter:
                    self._first_call(fresh, 1)
                return int(meter.alive)
            network, text = self.roles["velocity"].network, self._after(0, 1)
            chunking.given(network, text, video[:, :frames])
            with Meter() as meter:
                kept = chunking.given(network, text, video[:, :frames])
                alive = int(meter.alive)
        del kept
        return alive

    def _after(self, start: int, samples: int) -> Cond:
        """The condition of `samples` after their first `start` frames, which has been called with before."""
        if (start, samples) not in self._known:
            with _plain(self._precision):
                if start:
                    given = self._video(samples)[:, :start]
                    network, text = self.roles["velocity"].network, self._after(0, samples)
                    self._known[start, samples] = self.backbone.chunking().given(network, text, given)
                else:
                    text = self._text(samples)
                    self._first_call(text, samples)
                    self._known[0, samples] = text
        return self._known[start, samples]

    def _first_call(self, text: Cond, samples: int) -> None:
        """A condition may remember what is made of it first."""
        video = self._video(samples)
        first = video[:, : self.backbone.chunking().sizes(video.shape[1])[0]]
        _answer(self.roles["velocity"].network, first, torch.zeros(samples), text)

    def _text(self, samples: int) -> Cond:
        return self.backbone.condition(self._prompts(samples), samples, self._device)[0]

    def _video(self, samples: int) -> Tensor:
        return torch.zeros(samples, *self.backbone.latent_shape())


def _answer(network: Velocity, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """What the network says; two equal times cost as much as two different ones."""
    return network.mean_velocity(x, t, t, cond) if isinstance(network, FlowMap) else network.velocity(x, t, cond)


@contextmanager
def _plain(precision: Precision) -> Iterator[None]:
    """Without gradient, in mixed `precision`."""
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        yield
