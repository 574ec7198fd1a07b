"""What the calls of a stage's networks hold at once, and the moment at which that is most. Torch-free.

From the events of each micro-batch, in order (flowmap.planning.events), and what a call of each kind takes
(flowmap.plugin.footprint).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from flowmap.phases import each
from flowmap.plugin.footprint import CallShape, Footprint
from flowmap.schema.specs import RoleSpec
from flowmap.schema.words import NetworkKind

if TYPE_CHECKING:
    from flowmap.planning.count import StageCost
    from flowmap.planning.events import Call, Event


@final
@dataclass(frozen=True)
class Moment:
    """A moment of a step: a call of the network of `role`, or its `backward`, and bytes in memory then.

    Of `graphs` that wait for their backward, of `memories` of finished chunks, of the `workspace` of what is computed,
    and of what is remembered of `prompts`.
    """

    role: str
    shape: CallShape
    samples: int
    gradient: bool
    backward: bool
    graphs: int
    memories: int
    workspace: int
    prompts: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.graphs + self.memories + self.workspace + self.prompts

    def words(self) -> str:
        """What is done then, as the end of a sentence."""
        what = "backward of" if self.backward else "a call with gradient of" if self.gradient else "a call of"
        many = f", {self.samples} samples" if self.samples > 1 else ""
        return f"{what} the {self.role}, {_frames(self.shape)}{many}"


def _frames(shape: CallShape) -> str:
    stop = shape.start + shape.frames
    some = f"frames {shape.start + 1} to {stop}" if shape.frames > 1 else f"frame {stop}"
    if shape.view == "forced":
        return f"{some} noised after clean ones (forced)"
    if shape.view == "following":
        return f"{some} after a memory of {shape.start}"
    if shape.view == "reading":
        return f"reading {some} into a memory"
    return f"{some} at once" if shape.frames > 1 else some


def fullest(cost: StageCost, specs: Mapping[str, RoleSpec], footprint: Footprint) -> Moment:
    """The moment of any script with most bytes, with all graphs and memories that are alive then."""
    sizes = _Largest(cost, specs, footprint)
    sizes.measure(cost)
    samples = max(e.samples for script in cost.scripts for e in script if not isinstance(e, int) and e.gradient)
    # Of every sample its condition and the null one.
    prompts = 2 * samples * footprint.prompt()
    return max((_peak(script, sizes, prompts) for script in cost.scripts), key=lambda moment: moment.total)


@final
class _Largest:
    """Sizes of calls. Of all shapes of one view the largest stands for the others: it decides, and measuring is slow.

    But not of whole ones: the first chunk of a rollout and all frames at once are both of that view.
    """

    def __init__(self, cost: StageCost, specs: Mapping[str, RoleSpec], footprint: Footprint) -> None:
        self._specs, self._footprint = specs, footprint
        self._shapes: dict[tuple[NetworkKind, str], CallShape] = {}
        for script in cost.scripts:
            for event in script:
                if not isinstance(event, int):
                    key = self._key(event)
                    known = self._shapes.get(key, event.shape)
                    self._shapes[key] = max(known, event.shape, key=pairs)

    def _key(self, call: Call) -> tuple[NetworkKind, str]:
        whole = call.shape.view == "whole"
        return self._specs[call.role].kind, str(call.shape) if whole else call.shape.view

    def measure(self, cost: StageCost) -> None:
        """Measure each kind of call once: the footprint remembers, and that is what takes long."""
        calls = (event for script in cost.scripts for event in script if not isinstance(event, int))
        kinds = {(self._key(call), call.samples, call.gradient): call for call in calls}
        for call in each(list(kinds.values()), "measuring the memory of its calls", "kinds of call"):
            if call.gradient:
                self.held(call)
            self.workspace(call, call.gradient)

    def shape(self, call: Call) -> CallShape:
        """The shape that stands for that of `call`."""
        return self._shapes[self._key(call)]

    def held(self, call: Call) -> int:
        """Bytes that `call` holds until its backward."""
        kind, _ = self._key(call)
        return affine(lambda n: self._footprint.held(kind, self.shape(call), n), call.samples)

    def workspace(self, call: Call, gradient: bool) -> int:
        """Bytes on top of those, while it or its backward runs."""
        kind, _ = self._key(call)
        return affine(lambda n: self._footprint.workspace(kind, self.shape(call), n, gradient), call.samples)

    def memory(self, call: Call) -> int:
        """Bytes of the memory that `call` goes by."""
        if call.shape.view not in ("following", "reading"):
            return 0
        return call.samples * self._footprint.memory(self.shape(call).start)


def pairs(shape: CallShape) -> int:
    """What the size of a call goes by: its frames, and those that they see."""
    return shape.frames * (shape.start + shape.frames)


def affine(size: Callable[[int], int], samples: int) -> int:
    """`size(samples)`, where every sample after the first adds the same."""
    if samples <= 2:
        return size(samples)
    one, two = size(1), size(2)
    return one + (samples - 1) * (two - one)


def _peak(script: tuple[Event, ...], sizes: _Largest, prompts: int) -> Moment:
    found: list[Moment] = []
    graphs = 0
    # Calls whose graph is held, and the memories that those graphs need.
    memories: dict[int, tuple[int, int]] = {}

    def note(call: Call, backward: bool, kept: int, workspace: int) -> None:
        shape = sizes.shape(call)
        found.append(Moment(call.role, shape, call.samples, call.gradient, backward, graphs, kept, workspace, prompts))

    for place, event in enumerate(script):
        if isinstance(event, int):
            call = script[event]
            assert not isinstance(call, int)
            # In backward: its own part of what is held goes only at its end.
            note(call, True, _kept(memories), sizes.workspace(call, gradient=True))
            graphs -= sizes.held(call)
            memories.pop(event, None)
            continue
        memory = sizes.memory(event)
        kept = _kept({**memories, place: (event.shape.start, memory)} if memory else memories)
        if event.gradient:
            graphs += sizes.held(event)
            if memory:
                memories[place] = (event.shape.start, memory)
        note(event, False, kept, 0 if event.gradient else sizes.workspace(event, gradient=False))
    return max(found, key=lambda moment: moment.total)


def _kept(memories: Mapping[int, tuple[int, int]]) -> int:
    """Bytes of the memories: calls that start at the same frame share one."""
    return sum(dict(memories.values()).values())
