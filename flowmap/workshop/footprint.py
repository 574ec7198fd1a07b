"""What the networks of any backbone take, measured on the backbone itself: nobody has to write down a footprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from flowmap.interfaces import Backbone, Batch, Cond, FlowMap, Velocity, Window
from flowmap.maths.draw import Draw
from flowmap.plugin.footprint import CallShape, Footprint, Weights
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import NetworkKind, Precision
from flowmap.workshop.fake import Masks, Meter, Taken, measure

_KINDS: tuple[NetworkKind, ...] = ("velocity", "flow_map")


@final
class MeasuredFootprint(Footprint):
    """Runs the roles that `make` makes on fake tensors: parameters, arithmetic and memory as they are.

    `make(units)` builds the backbone, from random weights, with so many of the parts that are alike (`Role.units`: the
    blocks of a transformer). Those with one and with two of them stand for the real one with `depth`; where that is 1,
    what is made is the real one. Prompts for so many samples are what `prompts` gives. Where attention has masks,
    `masks` says of a call who sees whom. All of it happens `within` a context, for what a backbone would remember
    beyond it.
    """

    def __init__(
        self,
        make: Callable[[int], Backbone],
        depth: int,
        precision: Precision,
        prompts: Callable[[int], Any] = lambda count: None,
        masks: Callable[[CallShape], Masks] = lambda shape: {},
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._make, self._depth, self._precision = make, depth, precision
        self._prompts, self._masks, self._within = prompts, masks, within
        self._rigs: dict[int, _Rig] = {}
        self._taken: dict[tuple[int, NetworkKind, CallShape, int, bool], Taken] = {}
        self._kept: dict[tuple[int, int | None], int] = {}

    def base(self) -> Weights:
        """See Footprint.base."""
        return self._weights(lambda rig: rig.shared)

    def own(self, kind: NetworkKind) -> Weights:
        """See Footprint.own."""
        return self._weights(lambda rig: rig.roles[kind].own.values())

    def flops(self, kind: NetworkKind, shape: CallShape, gradient: bool) -> int:
        """See Footprint.flops; what a condition remembers from its first call on is not computed again."""
        return self._all(lambda units: self._take(units, kind, shape, 1, gradient).flops)

    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        """See Footprint.held."""
        return self._all(lambda units: self._take(units, kind, shape, samples, True).held)

    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        """See Footprint.workspace: that of one unit, for one computes at a time; what is read stays of all of them."""
        if shape.view == "reading":
            return self._all(lambda units: self._take(units, kind, shape, samples, False).peak)
        taken = self._take(1, kind, shape, samples, gradient)
        return taken.peak - taken.held

    def memory(self, frames: int) -> int:
        """See Footprint.memory."""
        return self._all(lambda units: self._remembered(units, frames))

    def prompt(self) -> int:
        """See Footprint.prompt."""
        return self._all(lambda units: self._remembered(units, None))

    def _all(self, number: Callable[[int], int]) -> int:
        """The number of all units: every one after the first adds the same."""
        one = number(1)
        return one if self._depth == 1 else one + (self._depth - 1) * (number(2) - one)

    def _weights(self, parameters: Callable[[_Rig], Iterable[nn.Parameter]]) -> Weights:
        def total(units: int) -> int:
            return sum(map(_bytes, parameters(self._few(units))))

        # The last of several blocks may be smaller than the others.
        rig = self._few(min(2, self._depth))
        parts = [sum(_bytes(p) for p in parameters(rig) if id(p) in unit) for unit in rig.units]
        root = sum(map(_bytes, parameters(rig))) - sum(parts)
        count = self._all(lambda units: sum(p.numel() for p in parameters(self._few(units))))
        return Weights(count, self._all(total), max(parts, default=0), root)

    def _few(self, units: int) -> _Rig:
        if units not in self._rigs:
            with self._within():
                self._rigs[units] = _Rig(lambda: self._make(units), self._prompts, self._precision)
        return self._rigs[units]

    def _take(self, units: int, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> Taken:
        key = (units, kind, shape, samples, gradient)
        if key not in self._taken:
            with self._within():
                self._taken[key] = self._measured(*key)
        return self._taken[key]

    def _measured(self, units: int, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> Taken:
        rig = self._few(units)
        with rig.mode:
            call = rig.call(kind, shape, samples)
            # Of two units only what they hold, and their arithmetic, is asked for; that of backward is the same.
            return measure(call, gradient, self._precision, self._masks(shape))

    def _remembered(self, units: int, frames: int | None) -> int:
        """Bytes of what stays of one sample's first `frames`, read; None: of its prompt, after a call."""
        key = (units, frames)
        if key not in self._kept:
            with self._within(), self._few(units).mode:
                self._kept[key] = self._few(units).remembered(frames)
        return self._kept[key]


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def labels_of(spec: SampleSpec) -> Callable[[int], Tensor | None]:
    """Prompts for a footprint: class labels, if samples of `spec` have any."""
    return lambda count: torch.zeros(count, dtype=torch.int64) if spec.classes else None


@final
class _Rig:
    """A backbone of few units on fake tensors, with a role of either kind."""

    def __init__(self, make: Callable[[], Backbone], prompts: Callable[[int], Any], precision: Precision) -> None:
        self._prompts, self._precision = prompts, precision
        self._known: dict[tuple[int, int], Cond] = {}
        self.mode = FakeTensorMode()
        draw = Draw.whole(0, "footprint", 0, "weights", 1)
        with self.mode:
            self.backbone = make()
            self.roles = {kind: self.backbone.role(kind, kind, None, draw) for kind in _KINDS}
            for role in self.roles.values():
                for parameter in role.own.values():
                    # Gradients have a line of their own in the plan: adding to them takes nothing new.
                    parameter.grad = torch.empty_like(parameter)

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
        # What does not depend on the condition, a network may remember from its first call on.
        self._after(frames or 0, 1)
        with _plain(self._precision):
            if frames is None:
                fresh = self._text(1)
                with Meter() as meter:
                    self._first_call(fresh, 1)
                return int(meter.alive)
            with Meter() as meter:
                kept = chunking.given(self.roles["velocity"].network, self._after(0, 1), video[:, :frames])
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
        return self.backbone.condition(self._prompts(samples), samples, torch.device("cpu"))[0]

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
