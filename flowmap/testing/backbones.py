"""The contract of backbones.

Over 250 lines: one method for each promise, on one backbone that is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, FlowMap, Role, Samples, Velocity, Window, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import BackboneConfig
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import NetworkKind
from flowmap.testing.contract import (
    build_quietly,
    check_config,
    own_randomness_only,
    require,
    require_equal,
    require_like,
    require_no_errors,
    whole,
)

_COUNT = 4
_NAMES = 24


def check_backbone(config: BackboneConfig, spec: SampleSpec, samples: Samples | None = None) -> None:
    """Check the backbone that `config` builds for samples of `spec`; raises AssertionError with what is broken.

    `samples` `[4, *spec.shape]` are what it encodes: noise if not given, with labels for prompts if `spec` has
    classes, or texts if it has text. Roles of both kinds keep shapes and float32, give the same when they are called
    again, and treat each sample alone; their `own` parameters are complete and survive a round trip, and a missing, odd
    or misshapen one is refused; roles share none; base weights depend on the draw alone; a flow map made from a
    velocity's weights equals it at r = t; conditions can be taken apart and joined; networks depend on both times and
    on the condition, chunks on those before them and on no later ones; encoding, decoding and chunks have the right
    shapes.
    """
    check_config(config)
    require_no_errors(config.findings(spec), f"'{config.type}'")
    backbone = build_quietly(config, lambda: config.build(spec))
    _Check(config, spec, backbone, samples or _samples(spec)).all()


def _samples(spec: SampleSpec) -> Samples:
    draw = whole(_COUNT)
    labels = (draw.uniform("labels") * spec.classes).long() if spec.classes else None
    texts = ["a ball", "two red balls on a table", "", "a"] if spec.text else None
    return Samples(draw.normal("x", spec.shape), labels, texts if labels is None else labels)


def _weights(role: Role) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in role.own.items()}


def _some(names: list[str]) -> list[str]:
    """All of them, or if there are many so many, spread evenly: a role is made anew for each."""
    if len(names) <= _NAMES:
        return names
    places = {round(place * (len(names) - 1) / (_NAMES - 1)) for place in range(_NAMES)}
    return [names[place] for place in sorted(places)]


class _Check:
    """One backbone under examination."""

    def __init__(self, config: BackboneConfig, spec: SampleSpec, backbone: Backbone, samples: Samples) -> None:
        self.name = f"'{config.type}'"
        self.config = config
        self.spec, self.backbone, self.samples = spec, backbone, samples
        self.draw = whole(1)
        with own_randomness_only(f"encoding by {self.name}"):
            self.batch = backbone.encode(samples, whole(_COUNT).child("encoding"))
        self.t = torch.tensor([1.0, 0.7, 0.4, 0.1])
        self.r = torch.tensor([0.0, 0.7, 0.3, 0.0])

    def all(self) -> None:
        """Every part of the contract."""
        self.shapes()
        for kind in get_args(NetworkKind):
            self.role(kind)
        self.conditions()
        self.causality()
        for kind in get_args(NetworkKind):
            self.own(kind)
            self.times(kind)
            self.round_trip(kind)
            self.strictness(kind)
            self.independence(kind)
        self.diagonal()

    def fresh(self, kind: NetworkKind, name: str = "student", draw: Draw | None = None) -> Role:
        """A role from base weights."""
        with own_randomness_only(f"a role of {self.name}"):
            return self.backbone.role(name, kind, None, draw or self.draw)

    def disturbed(self, kind: NetworkKind, name: str = "student") -> Role:
        """A role whose weights are not at their often special initial values."""
        role = self.fresh(kind, name)
        with torch.no_grad():
            for key, parameter in role.own.items():
                noise = whole(1).normal(f"disturb {key}", tuple(parameter.shape))[0]
                parameter.add_(0.2 * noise.to(parameter.dtype))
        return role

    def call(self, network: Velocity, x: Tensor | None = None) -> Tensor:
        """The network on the batch (or on `x` in its place): at t and r if it has two times, else at t."""
        x = self.batch.x0 if x is None else x
        if isinstance(network, FlowMap):
            return network.mean_velocity(x, self.t, self.r, self.batch.cond)
        return network.velocity(x, self.t, self.batch.cond)

    def shapes(self) -> None:
        """Encoding, decoding, chunks."""
        latent = (_COUNT, *self.backbone.latent_shape())
        require_like(self.batch.x0, latent, f"x0 as encoded by {self.name}")
        decoded = self.backbone.decode(self.batch.x0)
        require_like(decoded, (_COUNT, *self.spec.shape), f"samples as decoded by {self.name}")
        sizes, frames = self.backbone.chunking().sizes(latent[1]), latent[1]
        whole_clip = sum(sizes) == frames and min(sizes) > 0
        require(whole_clip, f"the chunks {sizes} of {self.name} must be above 0 and sum to {frames} frames")
        chunking = self.backbone.chunking()
        window = chunking.window(frames, whole(_COUNT))
        inside = 0 <= window.start < window.stop <= frames
        require(inside, f"the window {window} of {self.name} must lie in {frames} frames and hold some")
        seen = (_COUNT, window.stop - window.start, *latent[2:])
        require_like(chunking.forced(self.batch, window).x0, seen, f"x0 as teacher-forced by {self.name}")
        require_like(chunking.whole(self.batch).x0, latent, f"x0 as one chunk of {self.name}")
        if self.config.causal():
            together = chunking.unchunked().sizes(frames)
            require(
                together == (frames,), f"{self.name} unchunked must be one chunk of {frames} frames, not {together}"
            )
        contexts = self.config.contexts(self.spec)
        rising = list(contexts) == sorted(contexts) and all(0 < c < self.spec.shape[0] for c in contexts)
        require(rising, f"the contexts {contexts} of {self.name} must rise and be fewer than its frames")
        for given in contexts.values():
            rest = sum(chunking.sizes(frames, given))
            require(rest == frames - given, f"the chunks of {self.name} after {given} of {frames} frames sum to {rest}")

    def conditions(self) -> None:
        """Rows of conditions go with rows of samples."""
        network = self.disturbed("velocity").network
        cond, null = self.backbone.condition(self.samples.prompts, _COUNT, torch.device("cpu"))
        both = cond.join(null)
        x, t = torch.cat([self.batch.x0] * 2), torch.cat([self.t] * 2)
        joined = network.velocity(x, t, both)
        apart = [network.velocity(self.batch.x0, self.t, part) for part in (cond, null)]
        require_equal(joined, torch.cat(apart), f"joined conditions of {self.name} must act as each does alone")
        if self.samples.prompts is not None:
            ignored = torch.equal(*apart)
            require(not ignored, f"{self.name} must use its condition: what it is asked for and nothing give the same")
        index = torch.tensor([2, 0, 5])
        taken = network.velocity(x[index], t[index], both.take(index))
        require_equal(taken, joined[index], f"taking rows of a condition of {self.name} must act as those rows do")

    def causality(self) -> None:
        """What comes later in a sample has no part in what is made of a chunk, and what came before has."""
        chunking, x0 = self.backbone.chunking(), self.batch.x0
        sizes = chunking.sizes(x0.shape[1])
        if len(sizes) == 1:
            return
        network, first = self.disturbed("velocity").network, sizes[0]
        begin, end = sum(sizes[:3][:-1]), sum(sizes[:3])
        later, window = x0.clone(), Window(0, end)
        later[:, begin:] += 1
        seen = [chunking.forced(replace(self.batch, x0=x), window) for x in (x0, later)]
        here, there = (network.velocity(view.x0, self.t, view.cond)[:, :begin] for view in seen)
        require_equal(here, there, f"a chunk of {self.name} must not depend on the frames after it (teacher forcing)")
        other, chunk = x0[:, :first] + 1, x0[:, first : first + sizes[1]]
        with torch.no_grad():
            conds = [chunking.remember(network, self.batch.cond, done) for done in (x0[:, :first], other)]
            after = [network.velocity(chunk, self.t, cond) for cond in conds]
        require(not torch.equal(*after), f"{self.name} must remember a finished chunk; the next is the same without it")

    def role(self, kind: NetworkKind) -> None:
        """What a role is and computes."""
        role = self.disturbed(kind)
        who = f"a {kind} role of {self.name}"
        require(role.name == "student", f"{who} must have the name that was asked for")
        two_times = isinstance(role.network, FlowMap)
        require(
            two_times == (kind == "flow_map"), f"{who} has a network of the wrong kind, {type(role.network).__name__}"
        )
        given = self.batch.x0.clone()
        result, again = (self.call(role.network) for _ in range(2))
        require(torch.equal(given, self.batch.x0), f"{who} must leave the x that it is given as it is")
        same = torch.equal(result, again)
        require(same, f"{who} must give the same when it is called again (dropout? a buffer that a call changes?)")
        require_like(result, tuple(self.batch.x0.shape), f"the result of {who}")
        others = self.batch.x0.clone()
        others[1:] += 1
        among_others = self.call(role.network, others)[:1]
        require_equal(result[:1], among_others, f"the result of {who} for one sample must not depend on the others")
        frames = self.t[:, None].expand(-1, self.batch.x0.shape[1])
        require_equal(
            role.network.velocity(self.batch.x0, frames, self.batch.cond),
            role.network.velocity(self.batch.x0, self.t, self.batch.cond),
            f"{who} must take times [B, F], and equal times in all frames must be the same as times [B]",
        )

    def times(self, kind: NetworkKind) -> None:
        """A network knows its times, each of them."""
        x, cond, network = self.batch.x0, self.batch.cond, self.disturbed(kind).network
        who = f"a {kind} role of {self.name}"
        here, earlier = (network.velocity(x, t, cond) for t in (self.t, 0.5 * self.t))
        require(not torch.equal(here, earlier), f"{who} must depend on t; at another time it says the same")
        if isinstance(network, FlowMap):
            far, near = (network.mean_velocity(x, self.t, r, cond) for r in (self.r, self.t))
            apart = (self.t != self.r).nonzero()[:, 0]
            ignored = torch.equal(far[apart], near[apart])
            if self.config.one_time:
                require(ignored, f"{who} must not depend on r; its configuration says one_time")
            else:
                require(not ignored, f"{who} must depend on r; u(x, t, r) is u(x, t, t) everywhere")

    def own(self, kind: NetworkKind) -> None:
        """`own` is all that is trained, and is what the network computes with."""
        role = self.disturbed(kind)
        who = f"a {kind} role of {self.name}"
        require(bool(role.own), f"{who} owns no parameters")
        frozen = [name for name, parameter in role.own.items() if not parameter.requires_grad]
        require(not frozen, f"{who} must be trainable until it is frozen; {', '.join(frozen)} are not")
        for parameter in role.module.parameters():
            parameter.grad = None
        self.call(role.network).square().sum().backward()
        # The module may be shared with other roles, whose own parameters this one's calls never reach.
        owned = {id(parameter) for parameter in role.own.values()}
        named = role.module.named_parameters()
        missing = [name for name, parameter in named if parameter.grad is not None and id(parameter) not in owned]
        require(not missing, f"{who} must own every parameter that it trains; {', '.join(missing)} are not in own")
        reached = any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in role.own.values())
        require(reached, f"no gradient reaches the own parameters of {who}")
        before = self.call(role.network).detach()
        role.average = {name: torch.zeros_like(parameter) for name, parameter in role.own.items()}
        with role.averaged():
            averaged = self.call(role.network)
        require(
            not torch.equal(averaged, before),
            f"{who} must compute with its own parameters; its average changes nothing",
        )
        require(torch.equal(self.call(role.network), before), f"{who} must be the same after its average was used")

    def round_trip(self, kind: NetworkKind) -> None:
        """Weights give the same role again; base weights are a function of the draw."""
        role = self.disturbed(kind)
        who = f"a {kind} role of {self.name}"
        weights = _weights(role)
        again = self.backbone.role("teacher", kind, weights, whole(1, step=9))
        same = torch.equal(self.call(again.network), self.call(role.network))
        require(same, f"{who} made from another's own parameters must compute exactly the same")
        require(again.own.keys() == weights.keys(), f"{who} must own the same names when it is made from weights")
        self.overwrite(again)
        kept = all(torch.equal(weights[name], parameter) for name, parameter in role.own.items())
        require(kept, f"{who} must copy the weights it is made from; training it changes them")
        first, second = (_weights(self.fresh(kind)) for _ in range(2))
        equal = all(torch.equal(first[name], second[name]) for name in first)
        require(equal, f"the base weights of {who} must be the same for the same draw")

    def strictness(self, kind: NetworkKind) -> None:
        """Weights that do not fit are refused."""
        weights = _weights(self.fresh(kind))
        who = f"a {kind} role of {self.name}"
        for name in _some(list(weights)):
            value = weights[name]
            others = {key: tensor for key, tensor in weights.items() if key != name}
            self.refused(kind, others, f"{who} must refuse weights without '{name}'")
            odd = {**others, name: torch.zeros((*value.shape, 2))}
            self.refused(kind, odd, f"{who} must refuse weights whose '{name}' has another shape")
        odd = {**weights, "no.such.parameter": torch.zeros(1)}
        self.refused(kind, odd, f"{who} must refuse weights with a parameter that it does not have")

    def refused(self, kind: NetworkKind, weights: dict[str, Tensor], contract: str) -> None:
        """Require a FlowmapError."""
        make: Callable[[], Role] = lambda: self.backbone.role("student", kind, weights, self.draw)  # noqa: E731
        try:
            make()
        except FlowmapError:
            return
        except Exception as error:
            raise AssertionError(f"{contract} with a FlowmapError, not {type(error).__name__}: {error}") from error
        raise AssertionError(contract)

    def independence(self, kind: NetworkKind) -> None:
        """Two roles share no parameters of their own."""
        one, two = self.disturbed(kind), self.fresh(kind, "teacher")
        before = self.call(one.network).detach()
        self.overwrite(two)
        same = torch.equal(self.call(one.network), before)
        require(same, f"two {kind} roles of {self.name} must not share own parameters; changing one changed the other")

    def overwrite(self, role: Role) -> None:
        """Change all that a role owns, as training does."""
        with torch.no_grad():
            for parameter in role.own.values():
                parameter.fill_(0.5)

    def diagonal(self) -> None:
        """A student made from its teacher begins as its teacher."""
        teacher = self.disturbed("velocity", "teacher")
        student = as_flow_map(self.backbone.role("student", "flow_map", _weights(teacher), whole(1, step=9)).network)
        x, cond = self.batch.x0, self.batch.cond
        require_equal(
            student.mean_velocity(x, self.t, self.t, cond),
            teacher.network.velocity(x, self.t, cond),
            f"a flow_map role of {self.name} made from a velocity's weights must equal that velocity at r = t",
        )
