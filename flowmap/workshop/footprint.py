"""What the networks of any backbone take, measured on the backbone itself: nobody has to write down a footprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flowmap.interfaces import Backbone
from flowmap.plugin.footprint import CallShape, Footprint, Weights
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import NetworkKind, Precision
from flowmap.workshop.combinations import Linear
from flowmap.workshop.fake import Flops, Taken, arithmetic, measure
from flowmap.workshop.rig import Rig


@final
@dataclass(frozen=True)
class Extent:
    """What the arithmetic of a call is linear in, `outside` of the parts that are alike and `inside` of one.

    The constants are the same for all calls, but for what of a backward is outside and in the first part: for those of
    one `case`.
    """

    outside: tuple[int, ...]
    inside: tuple[int, ...]
    case: str = ""


@final
class MeasuredFootprint(Footprint):
    """Runs the roles that `make` makes on fake tensors: parameters, arithmetic and memory as they are.

    `make(units)` builds the backbone, from random weights, with so many of the parts that are alike (`Role.units`: the
    blocks of a transformer). Those with one and with two of them stand for the real one with `depth`; where that is 1,
    what is made is the real one. Prompts for so many samples are what `prompts` gives. All of it happens `within` a
    context, for what a backbone would remember beyond it.

    Where `extent` says of a call what its arithmetic is linear in, outside of the parts that are alike and inside of
    one, only so many calls are measured as that takes (flowmap.workshop.combinations). Its forward is then taken to be
    the same with gradient and without.
    """

    def __init__(
        self,
        make: Callable[[int], Backbone],
        depth: int,
        precision: Precision,
        prompts: Callable[[int], Any] = lambda count: None,
        within: Callable[[], AbstractContextManager[None]] = nullcontext,
        extent: Callable[[CallShape], Extent] | None = None,
    ) -> None:
        self._make, self._depth, self._precision = make, depth, precision
        self._prompts, self._within, self._extent = prompts, within, extent
        self._rigs: dict[tuple[int, str], Rig] = {}
        self._flops: dict[tuple[NetworkKind, CallShape, bool], int] = {}
        self._counted: dict[tuple[int, NetworkKind, CallShape, bool], Flops] = {}
        self._lines: dict[tuple[str, NetworkKind, bool], Linear] = {}
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
        key = (kind, shape, gradient)
        if key not in self._flops:
            self._flops[key] = self._arithmetic(*key)
        return self._flops[key]

    def _arithmetic(self, kind: NetworkKind, shape: CallShape, gradient: bool) -> int:
        if self._extent is None:
            return self._all(lambda units: self._count(units, kind, shape, gradient).of(gradient))
        extent = self._extent(shape)

        def measured(units: int) -> int:
            # Nothing that is read into a memory has a gradient.
            return self._count(units, kind, shape, shape.view != "reading").of(gradient)

        first = self._line(f"first, {extent.case}" if gradient else "first", kind, gradient)
        one = first.value((*extent.outside, *extent.inside), lambda: measured(1))
        if self._depth == 1:
            return one
        further = self._line("further", kind, gradient)
        return one + (self._depth - 1) * further.value(extent.inside, lambda: measured(2) - measured(1))

    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        """See Footprint.held."""
        return self._all(lambda units: self._take(units, kind, shape, samples, True).held)

    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        """See Footprint.workspace: that of one unit, for one computes at a time; what is read stays of all of them."""
        if shape.view == "reading":
            one, kept = self._take(1, kind, shape, samples, False), 0
            if self._depth > 1:
                kept = self._take(2, kind, shape, samples, False).left - one.left
            return one.peak + (self._depth - 1) * kept
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

    def _weights(self, parameters: Callable[[Rig], Iterable[nn.Parameter]]) -> Weights:
        def total(units: int) -> int:
            return sum(map(_bytes, parameters(self._few(units))))

        # The last of several blocks may be smaller than the others.
        rig = self._few(min(2, self._depth))
        parts = [sum(_bytes(p) for p in parameters(rig) if id(p) in unit) for unit in rig.units]
        root = sum(map(_bytes, parameters(rig))) - sum(parts)
        count = self._all(lambda units: sum(p.numel() for p in parameters(self._few(units))))
        return Weights(count, self._all(total), max(parts, default=0), root)

    def _few(self, units: int, device: str = "cpu") -> Rig:
        if (units, device) not in self._rigs:
            with self._within():
                self._rigs[units, device] = Rig(lambda: self._make(units), self._prompts, self._precision, device)
        return self._rigs[units, device]

    def _line(self, part: str, kind: NetworkKind, gradient: bool) -> Linear:
        return self._lines.setdefault((part, kind, gradient), Linear())

    def _count(self, units: int, kind: NetworkKind, shape: CallShape, gradient: bool) -> Flops:
        key = (units, kind, shape, gradient)
        if key not in self._counted:
            try:
                self._counted[key] = self._counted_on("meta", *key)
            except Exception:
                # Not every network computes there; what fails on the other too, says so.
                self._counted[key] = self._counted_on("cpu", *key)
        return self._counted[key]

    def _counted_on(self, device: str, units: int, kind: NetworkKind, shape: CallShape, gradient: bool) -> Flops:
        rig = self._few(units, device)
        with self._within(), rig.running(), sdpa_kernel(SDPBackend.MATH):
            return arithmetic(rig.call(kind, shape, 1), gradient)

    def _take(self, units: int, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> Taken:
        key = (units, kind, shape, samples, gradient)
        if key not in self._taken:
            with self._within():
                self._taken[key] = self._measured(*key)
        return self._taken[key]

    def _measured(self, units: int, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> Taken:
        rig = self._few(units)
        with rig.running():
            call = rig.call(kind, shape, samples)
            # Of two units only what they hold is asked for.
            return measure(call, gradient, self._precision, backward=units == 1)

    def _remembered(self, units: int, frames: int | None) -> int:
        """Bytes of what stays of one sample's first `frames`, read; None: of its prompt, after a call."""
        key = (units, frames)
        if key not in self._kept:
            with self._within(), self._few(units).running():
                self._kept[key] = self._few(units).remembered(frames)
        return self._kept[key]


def _bytes(parameter: nn.Parameter) -> int:
    return parameter.numel() * parameter.element_size()


def labels_of(spec: SampleSpec) -> Callable[[int], Tensor | None]:
    """Prompts for a footprint: class labels, if samples of `spec` have any."""
    return lambda count: torch.zeros(count, dtype=torch.int64) if spec.classes else None
