"""A backbone under examination."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from flowmap.interfaces import Backbone, Batch, Cond, EncodedText, FlowMap, Role, Samples, Velocity, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import BackboneConfig
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import NetworkKind, needed
from flowmap.testing.capabilities import Capabilities
from flowmap.testing.contract import build_quietly, require_no_errors, whole
from flowmap.testing.examination import Subject

COUNT = 4
KINDS: tuple[NetworkKind, ...] = get_args(NetworkKind)

_DISTURBANCE = 0.05  # of all weights; by 0.2 a linear attention is rough already
_WIDE = 64  # inputs of a layer from which on it is disturbed by less, so that it gives numbers of the same size
_WORDS = 5
NAMED: dict[NetworkKind, str] = {"flow_map": "student", "velocity": "teacher"}
"""The roles that checks share."""


class BackboneSubject(Subject):
    """The backbone that `config` builds for samples of `spec`; `samples` `[4, *spec.shape]` are what it encodes.

    Noise if not given, with labels for prompts if `spec` has classes, or texts (encoded, where `spec` says in how many
    dimensions) if it has text.
    """

    kind: ClassVar[str] = "backbone"
    config: BackboneConfig

    def __init__(
        self,
        config: BackboneConfig,
        spec: SampleSpec,
        samples: Samples | None = None,
        capabilities: Capabilities = Capabilities(),  # noqa: B008  # it cannot be changed
    ) -> None:
        super().__init__(config, capabilities)
        self.spec, self._given = spec, samples
        # Neither whole thousandths, nor near one: what is rounded stays where it is for a while.
        self.t = torch.tensor([1.0, 0.70021, 0.40023, 0.10022])
        self.r = torch.tensor([0.0, 0.70021, 0.30021, 0.0])
        self._roles: dict[NetworkKind, Role] = {}

    def found(self, name: str) -> bool:
        """See Subject.found."""
        config, asked = self.config, self.samples.prompts is not None
        said: dict[str, Callable[[], bool]] = {
            "conditional": lambda: asked,
            "causal": config.causal,
            "context": lambda: any(config.contexts(self.spec).values()),
            "pictured": lambda: bool(needed(config.contexts(self.spec))) and not self.samples.encoded,
            "has_jvp": lambda: config.no_forward_mode(self.spec) is None,
            "text": lambda: asked and config.reads_text(),
            "footprint": lambda: config.footprint(self.spec, "no") is not None,
        }
        return said[name]() if name in said else self._found_in_what_is_built(name)

    def _found_in_what_is_built(self, name: str) -> bool:
        if name == "lossless":
            return self.backbone.latent_shape() == self.spec.shape
        role = self.role("flow_map")
        if name == "adapters":
            own = {id(parameter) for parameter in role.own.values()}
            return any(id(parameter) not in own for parameter in role.module.parameters())
        if name == "sharded":
            return bool(role.units)
        if name == "time_parameters":
            return role.own.keys() > self.role("velocity").own.keys()
        return False

    @cached_property
    def samples(self) -> Samples:
        """What is encoded."""
        if self._given is not None:
            return self._given
        draw = whole(COUNT)
        x = draw.normal("x", self.spec.shape)
        if self.spec.classes:
            labels = torch.arange(COUNT) % self.spec.classes
            return Samples(x, labels if self.spec.labelled else None, labels)
        return Samples(x, prompts=self._texts(draw) if self.spec.text else None)

    def _texts(self, draw: Draw) -> Any:
        width = self.spec.text_dim
        if not width:
            return ["a ball", "two red balls on a table", "", "a"]
        return EncodedText(draw.normal("text", (_WORDS, width)), draw.normal("null", (_WORDS, width))[0])

    @cached_property
    def backbone(self) -> Backbone:
        """What the configuration builds."""
        require_no_errors(self.config.findings(self.spec), self.who)
        return build_quietly(self.config, lambda: self.config.build(self.spec))

    @cached_property
    def batch(self) -> Batch:
        """The samples, encoded."""
        return self.backbone.encode(self.copied(), whole(COUNT).child("encoding"))

    def copied(self) -> Samples:
        """The samples, in memory of their own."""
        return self.samples.map(torch.clone)

    def conditions(self, prompts: Any, frames: Tensor | None = None) -> tuple[Cond, Cond]:
        """The condition of `prompts` and the null condition, with `frames` (those of the samples) where they belong."""
        frames = self.samples.x if frames is None else frames
        found = self.backbone.condition(prompts, len(frames), torch.device("cpu"))
        return self.backbone.pictured(*found, frames.clone()) if self.can("pictured") else found

    def fresh(self, kind: NetworkKind, name: str = "critic", draw: Draw | None = None) -> Role:
        """A role from base weights."""
        return self.backbone.role(name, kind, None, draw or whole(1))

    def disturbed(self, kind: NetworkKind, name: str = "critic") -> Role:
        """A role whose weights are not at their often special initial values."""
        role = self.fresh(kind, name)
        disturb(role)
        return role

    def role(self, kind: NetworkKind) -> Role:
        """The disturbed role of `kind` that checks share, which leave it as it is."""
        if kind not in self._roles:
            self._roles[kind] = self.disturbed(kind, NAMED[kind])
        return self._roles[kind]

    def called(self, kind: NetworkKind) -> str:
        """How a sentence names such a role."""
        return f"a {kind} role of {self.who}"

    def call(self, network: Velocity, **changed: Any) -> Tensor:
        """The network on the batch: at t and r if it has two times, else at t; with what is `changed` of x, t, r, cond.

        What it is given is its own, whatever it does with it.
        """
        asked = {"x": self.batch.x0, "t": self.t, "r": self.r, "cond": self.batch.cond, **changed}
        x, t, r = (asked[name].clone() for name in ("x", "t", "r"))
        if isinstance(network, FlowMap):
            return network.mean_velocity(x, t, r, asked["cond"])
        return network.velocity(x, t, asked["cond"])

    def at(self, kind: NetworkKind, **changed: Any) -> Tensor:
        """The result of the shared role of `kind`, without gradient."""
        with torch.no_grad():
            return self.call(self.role(kind).network, **changed)

    def student(self) -> FlowMap:
        """The network of the shared flow map."""
        return as_flow_map(self.role("flow_map").network)


def disturb(role: Role) -> None:
    """Move all weights of its own from where they begin, by noise that is the same every time."""
    with torch.no_grad():
        for key, parameter in role.own.items():
            noise = whole(1).normal(f"disturb {key}", tuple(parameter.shape))[0]
            inputs = math.prod(parameter.shape[1:])
            size = _DISTURBANCE * min(1.0, math.sqrt(_WIDE / max(1, inputs)))
            parameter.add_(size * noise.to(parameter.dtype))


def weights_of(role: Role) -> dict[str, Tensor]:
    """Its own parameters, as a checkpoint has them."""
    return {name: parameter.detach().clone() for name, parameter in role.own.items()}
