"""A backbone from a module of (x, t, r, condition): roles of both kinds, whole networks or adapters on one base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final, get_args

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Batch, Chunking, Cond, FlowMap, OneChunk, Role, Samples, SamplingGrid
from flowmap.interfaces.held import hold, lent
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.schema.words import NetworkKind
from flowmap.workshop.adapters import Adapters, Chosen
from flowmap.workshop.calling import Call, ModuleFlowMap, ModuleVelocity, Times
from flowmap.workshop.codec import Codec
from flowmap.workshop.conditions import Conditions, conditions
from flowmap.workshop.filling import fill, refuse_running_statistics, refuse_tied, take, with_copies
from flowmap.workshop.pictures import Pictures

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Architecture:
    """What is a backbone's own, in the words of `ModuleBackbone`.

    `make(two_times, chosen)` makes the module, with torch's generator for random weights. It is called as
    `module(x, t, r, cond)` and gives the velocity in the shape of `x` `[B, F, ...]`. `t` and `r` are in [0, 1], `[B]`
    or `[B, F]` as `times` says: one a sample, one a frame, or either; `r` is None for a module of one time. `cond` is
    what `conditions` made. What it has backward compute again goes through `chosen.checkpointed`.

    `inner`: the part of a module that has its parameters, by whose names they are called in checkpoints. `copies`: what
    the names of r's embedder begin with, and what t's do, of which they start as copies. `units`: the parts of a module
    that are gathered one at a time when it is sharded. `adapters`: roles are adapters on one frozen module of two
    times; without, every role is a module of its own. `base` reads pretrained weights, all parameters but those that
    start as copies, as they are stored; if it gives none, base weights are random. `held`: in what precision a base
    weight of that name is held; None: as it is stored, or in float32 without adapters. `export` writes a module for one
    role into an empty folder (see Backbone.export).
    """

    make: Callable[[bool, Chosen], nn.Module]
    inner: Callable[[nn.Module], nn.Module] = lambda module: module
    copies: Mapping[str, str] = field(default_factory=dict)
    units: Callable[[nn.Module], Sequence[nn.Module]] = lambda module: ()
    adapters: Adapters | None = None
    base: Callable[[], Mapping[str, Tensor] | None] = lambda: None
    held: Callable[[str], torch.dtype | None] = lambda name: None
    times: Times = "sample"
    export: Callable[[nn.Module, str | None, NetworkKind, Path, str, bool, SamplingGrid], str] | None = None

    def __post_init__(self) -> None:
        if self.times not in get_args(Times):
            raise ValueError(f"times is {self.times!r}; it is one of {', '.join(get_args(Times))}")


@final
class ModuleBackbone(Backbone):
    """Networks as `architecture` makes them, of the backbone called `name`, for data that `codec` encodes.

    `conditions` are those of encoded texts if left out; `labelled` makes those of class labels. `chunking` is one chunk
    if left out. `pictures` are given where the first frames are part of a condition.
    """

    def __init__(
        self,
        name: str,
        architecture: Architecture,
        codec: Codec,
        conditions: Conditions = conditions,
        chunking: Chunking | None = None,
        pictures: Pictures | None = None,
    ) -> None:
        self._name, self._pictures = name, pictures
        self._architecture = architecture
        self._codec = codec
        self._conditions = conditions
        self._chunking = chunking or OneChunk()
        self._chosen, self._looked_at = Chosen(), False

    @cached_property
    def _base(self) -> nn.Module:
        """The frozen module that adapters share."""
        module = self._module(True, None, 0, self._chosen)
        assert self._architecture.adapters is not None, "asked for with adapters alone"
        self._architecture.adapters.prepare(self._architecture.inner(module), self._chosen)
        return module

    def _module(
        self, two_times: bool, weights: Mapping[str, Tensor] | None, seed: int, chosen: Chosen, who: str = "the base"
    ) -> nn.Module:
        """A module with all of its parameters set, from `weights` or else from the base weights."""
        make, inner, copies = self._architecture.make, self._architecture.inner, self._architecture.copies
        self._refuse_tied()
        # A role of its own changes what it is given.
        found = self._architecture.base() if weights is None else {k: lent(v) for k, v in weights.items()}
        if found is not None:
            # Nothing is drawn that would be overwritten: of billions of weights that takes longer than reading them.
            with init_empty_weights(include_buffers=False):
                module = _seeded(seed, lambda: make(two_times, chosen))
            own = dict(inner(module).named_parameters())
            self._take(inner(module), with_copies(found, own, copies), who)
            for key, parameter in inner(module).named_parameters():
                # What may be trained is held in full, whatever it was stored in, unless the architecture says how.
                trained = self._architecture.adapters is None
                hold(parameter, self._architecture.held(key) or (torch.float32 if trained else parameter.dtype))
        else:
            module = _seeded(seed, lambda: make(two_times, chosen))
            own, starts = dict(inner(module).named_parameters()), tuple(copies)
            if starts and any(key.startswith(starts) for key in own):
                # Random weights are the same for both kinds: those of a module of one time.
                single = inner(_seeded(seed, lambda: make(False, chosen))).named_parameters()
                kept = {key: value for key, value in single if not key.startswith(starts)}
                fill(own, with_copies(kept, own, copies), who)
        refuse_tied(inner(module), f"backbone '{self._name}'")
        refuse_running_statistics(module, f"backbone '{self._name}'")
        return module

    def _take(self, inner: nn.Module, found: Mapping[str, Tensor], who: str) -> None:
        try:
            take(inner, found, who)
        except FlowmapError as error:
            wanted, starts = dict(inner.named_parameters()), tuple(self._architecture.copies)
            why = ""
            if starts and any(key.startswith(starts) for key in found.keys() - wanted.keys()):
                why = "; they are of a network of two times, and this one has one: make both kinds with two times"
            elif not found.keys() - wanted.keys() and wanted.keys() - found.keys() == wanted.keys() - self._single():
                why = "; what weights of a one-time network lack starts as a copy of others: see Architecture.copies"
            raise FlowmapError(f"{error}{why}", code=1) from None

    def _single(self) -> set[str]:
        """The names of the parameters of a module of one time."""
        with init_empty_weights(include_buffers=False):
            module = self._architecture.make(False, Chosen())
        return {name for name, _ in self._architecture.inner(module).named_parameters()}

    def _refuse_tied(self) -> None:
        """See filling.refuse_tied; on the meta device, for what makes modules without weights unties them."""
        if self._looked_at:
            return
        module: nn.Module | None = None
        # Anybody's code, where it may not work: what is wrong with it shows when it is made in earnest.
        with suppress(Exception), torch.device("meta"):
            module = self._architecture.make(True, Chosen())
        if module is not None:
            refuse_tied(self._architecture.inner(module), f"backbone '{self._name}'")
        self._looked_at = True

    def role(self, name: str, kind: NetworkKind, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        """See Backbone.role."""
        seed, two_times = int(draw.shared("initialisation").integers(2**62)), kind == "flow_map"
        adapters, who = self._architecture.adapters, f"role '{name}'"
        if adapters is None:
            chosen = Chosen()
            module = self._module(two_times, weights, seed, chosen, who)
            own = dict(self._architecture.inner(module).named_parameters())
        else:
            module, chosen = self._base, self._chosen
            own = _adapted(self._architecture.inner(module), adapters, name, two_times, weights, seed)
        call = Call(module, chosen, None if adapters is None else name, self._architecture.times)
        network = ModuleFlowMap(call) if two_times else ModuleVelocity(call, both=adapters is not None)
        return Role(name, network, module, own, self._architecture.units(module))

    def precompute(self, samples: Samples, draw: Draw) -> Samples:
        """See Backbone.precompute."""
        if samples.encoded:
            return samples
        prompts = self._read(samples.prompts, draw.device)
        if self._pictures is not None:
            prompts = self._pictures.beside(prompts, samples.x, draw.device)
        return Samples(self._codec.encode(samples.x, draw), samples.labels, prompts, True, samples.sources)

    def encode(self, samples: Samples, draw: Draw) -> Batch:
        """See Backbone.encode."""
        ready = self.precompute(samples, draw)
        cond, null = self.condition(ready.prompts, len(ready.x), ready.x.device)
        return Batch(ready.x, cond, null)

    def decode(self, x: Tensor) -> Tensor:
        """See Backbone.decode."""
        return self._codec.decode(x)

    def condition(self, prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
        """`prompts` are texts, EncodedText, class labels `[count]` int64, or None (unconditional)."""
        return self._conditions(self._read(prompts, device), count, device)

    def pictured(self, cond: Cond, null: Cond, frames: Tensor) -> tuple[Cond, Cond]:
        """See Backbone.pictured."""
        return (cond, null) if self._pictures is None else self._pictures.shown(cond, null, frames)

    def _read(self, prompts: Any, device: torch.device) -> Any:
        """Texts by their encoders, all else as it is."""
        return self._codec.text(prompts, device) if isinstance(prompts, list | tuple) and prompts else prompts

    def release(self) -> None:
        """See Backbone.release."""
        for each in (self._codec, self._pictures):
            if each is not None:
                each.release()

    def latent_shape(self) -> tuple[int, ...]:
        """That of the codec."""
        return self._codec.latent_shape()

    def chunking(self) -> Chunking:
        """All frames at once, unless another was given."""
        return self._chunking

    def export(self, role: Role, folder: Path, form: str, merged: bool, grid: SamplingGrid) -> str:
        """See Backbone.export."""
        if self._architecture.export is None:
            why = f"backbone '{self._name}' has no form that others load"
            raise FlowmapError(f"{why}; its weights are in the run's checkpoints")
        name = None if self._architecture.adapters is None else role.name
        kind: NetworkKind = "flow_map" if isinstance(role.network, FlowMap) else "velocity"
        return self._architecture.export(role.module, name, kind, folder, form, merged, grid)


def _adapted(
    module: nn.Module, adapters: Adapters, name: str, two_times: bool, weights: Mapping[str, Tensor] | None, seed: int
) -> dict[str, nn.Parameter]:
    """The parameters of an adapter for the role `name`, set to `weights`."""

    def added(drawn: bool) -> dict[str, nn.Parameter]:
        with phase(f"adding the adapter of the {name}"):
            return _seeded(seed, lambda: adapters.add(module, name, two_times, drawn))

    own = added(drawn=weights is None)
    if weights is not None:
        if own.keys() - weights.keys():
            # Some are set, and the others, which a velocity has none of, begin as any.
            own = added(drawn=True)
        fill(own, weights, f"role '{name}'", [key for key in own if adapters.lacking(key)])
    return own


def _seeded(seed: int, make: Callable[[], T]) -> T:
    """What `make` makes with torch's generator at `seed`; the generator is where it was afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
