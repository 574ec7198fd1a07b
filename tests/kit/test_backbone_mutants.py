"""Each mutant of the reference backbone is caught by the check that is meant for it, and by no other."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import (
    Backbone,
    Batch,
    Chunking,
    Cond,
    FlowMap,
    Role,
    Samples,
    SamplingGrid,
    Velocity,
    Window,
)
from flowmap.maths.draw import Draw
from flowmap.plugin import BackboneConfig, SampleSpec
from flowmap.testing.capabilities import Capabilities
from flowmap.workshop.codec import Codec, NoCodec

from .reference import IMAGE, VIDEO, Chunks, Clip, Network, broken, labels_of, outcomes, reference

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]


class Wrapped(Backbone):
    """A backbone that answers as `inner` does; a mutant overrides what it does wrong."""

    def __init__(self, inner: Backbone) -> None:
        self.inner = inner

    def role(self, name: str, kind: Any, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        return self.inner.role(name, kind, weights, draw)

    def precompute(self, samples: Samples, draw: Draw) -> Samples:
        return self.inner.precompute(samples, draw)

    def encode(self, samples: Samples, draw: Draw) -> Batch:
        return self.inner.encode(samples, draw)

    def decode(self, x: Tensor) -> Tensor:
        return self.inner.decode(x)

    def condition(self, prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
        return self.inner.condition(prompts, count, device)

    def latent_shape(self) -> tuple[int, ...]:
        return self.inner.latent_shape()

    def chunking(self) -> Chunking:
        return self.inner.chunking()

    def export(self, role: Role, folder: Path, form: str, merged: bool, grid: SamplingGrid) -> str:
        return ""


Call = Callable[[Callable[..., Tensor], Tensor, Tensor, Tensor, Cond], Tensor]
"""What a mutant makes of a call u(x, t, r, cond) of the right network."""


class _Map(FlowMap):
    def __init__(self, network: Any, call: Call) -> None:
        self.network, self.call = network, call

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        return self.call(self.network.mean_velocity, x, t, r, cond)


class _Velocity(Velocity):
    def __init__(self, network: Velocity, call: Call) -> None:
        self.network, self.call = network, call

    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return self.call(lambda x, t, r, c: self.network.velocity(x, t, c), x, t, t, cond)


def called(call: Call, **given: Any) -> BackboneConfig:
    """The reference, whose networks are called so."""

    class Mutant(Wrapped):
        def role(self, name: str, kind: Any, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
            role = self.inner.role(name, kind, weights, draw)
            wrap = _Map if kind == "flow_map" else _Velocity
            return Role(name, wrap(role.network, call), role.module, role.own, role.units)  # type: ignore[arg-type]

    return reference(wrap=Mutant, **given)


UNREAD = torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0])


def swapped(u: Any, x: Tensor, t: Tensor, r: Tensor, c: Cond) -> Tensor:
    return u(x, r, t, c)  # type: ignore[no-any-return]


def jumping(other: Callable[[Tensor, Tensor], Tensor]) -> Call:
    """With another r, where r is not t."""

    def call(u: Any, x: Tensor, t: Tensor, r: Tensor, c: Cond) -> Tensor:
        return u(x, t, torch.where(r < t, other(t, r), r), c)  # type: ignore[no-any-return]

    return call


def spoilt(name: str) -> Call:
    def call(u: Any, x: Tensor, t: Tensor, r: Tensor, c: Cond) -> Tensor:
        result: Tensor = u(x.clone(), t.clone(), r.clone(), c)
        with torch.no_grad():
            {"x": x, "t": t, "r": r}[name].mul_(0.5)
        return result

    return call


def global_noise(size: float) -> Call:
    return lambda u, x, t, r, c: u(x, t, r, c) + size * torch.randn_like(x)


def python_noise(u: Any, x: Tensor, t: Tensor, r: Tensor, c: Cond) -> Tensor:
    return u(x, t, r, c) + 1e-9 * random.random()  # type: ignore[no-any-return]


def detached_tensor(t: Tensor) -> Tensor:
    # Made anew of numbers, as `torch.tensor(t.tolist())` would.
    return t.detach() * 1.0


def thousandths(t: Tensor) -> Tensor:
    return (1000 * t).long() / 1000


def without(mutant: Callable[[Any], Any], **given: Any) -> BackboneConfig:
    return reference(wrap=mutant, **given)


class EncodeSpoils(Wrapped):
    def encode(self, samples: Samples, draw: Draw) -> Batch:
        result = self.inner.encode(replace(samples, x=samples.x.clone()), draw)
        samples.x.mul_(0.5)
        return result


class EncodesPromptsAway(Wrapped):
    def encode(self, samples: Samples, draw: Draw) -> Batch:
        batch = self.inner.encode(samples, draw)
        return Batch(batch.x0, batch.null, batch.null)


class EncodesTwice(Wrapped):
    """Precomputed samples do not say that they are."""

    def precompute(self, samples: Samples, draw: Draw) -> Samples:
        return replace(samples, x=2 * samples.x)

    def encode(self, samples: Samples, draw: Draw) -> Batch:
        return self.inner.encode(self.precompute(samples, draw), draw)

    def decode(self, x: Tensor) -> Tensor:
        return x / 2


class DecodesElse(Wrapped):
    def decode(self, x: Tensor) -> Tensor:
        return 1.1 * x


class DecodeSpoils(Wrapped):
    def decode(self, x: Tensor) -> Tensor:
        result = x.clone()
        x.zero_()
        return result


class GlobalEncoder(Wrapped):
    def encode(self, samples: Samples, draw: Draw) -> Batch:
        return self.inner.encode(replace(samples, x=samples.x + 1e-9 * torch.randn_like(samples.x)), draw)


class NullIsTheCondition(Wrapped):
    def condition(self, prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
        cond, _ = self.inner.condition(prompts, count, device)
        return cond, cond

    def encode(self, samples: Samples, draw: Draw) -> Batch:
        return Batch(self.inner.encode(samples, draw).x0, *self.condition(samples.prompts, len(samples.x), draw.device))


def null_is_the_first(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    """As where a table of labels has no row more: `labels % classes`."""
    cond, null = labels_of(prompts, count, device)
    return cond, replace(null, labels=null.labels % VIDEO.classes)  # type: ignore[type-var]


def null_is_the_last(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    """As where labels are clamped to what a table has."""
    cond, null = labels_of(prompts, count, device)
    return cond, replace(null, labels=null.labels.clamp(max=VIDEO.classes - 1))  # type: ignore[type-var]


def two_are_one(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    """Of three classes two are the same."""
    cond, null = labels_of(prompts, count, device)
    return replace(cond, labels=torch.where(cond.labels == 2, 1, cond.labels)), null  # type: ignore[type-var,attr-defined]


def null_of_another(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    return Clip(prompts), Clip((prompts + 1) % 3)


def beside(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
    """Prompts that see each other, as of an encoder that attends to padding."""
    return Clip((prompts + prompts.max() + count) % 3), labels_of(prompts, count, device)[1]


class CondIgnored(Network):
    def labelled(self, cond: Clip) -> Tensor:
        return 0 * super().labelled(cond)


class DirectCalls(Wrapped):
    """The network calls a method of the module, past its hooks."""

    def role(self, name: str, kind: Any, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
        role = self.inner.role(name, kind, weights, draw)
        module = role.module
        call: Call = lambda u, x, t, r, c: module.forward(x, t, r if kind == "flow_map" else None, c)  # noqa: E731
        wrap = _Map if kind == "flow_map" else _Velocity
        return Role(name, wrap(role.network, call), module, role.own, role.units)  # type: ignore[arg-type]


class UnitPast(Network):
    """Uses the weights of its unit, past the unit."""

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Clip) -> Tensor:
        h = torch.tanh(
            self.into(x)
            + self.labelled(cond)[:, None]
            + (self.times(t, r)[:, None] if t.ndim == 1 else self.times(t, r))
        )
        h = h + self.chunk(x.mean(1, keepdim=True))
        return self.out(torch.tanh(torch.nn.functional.linear(h, self.block.weight, self.block.bias)))  # type: ignore[no-any-return]


class Dropping(Network):
    """Dropout that is always on, by a generator of its own."""

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Clip) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(x, t, r, cond) * (1 + 1e-3 * (self.calls % 5))


class SinusoidOf1000(Network):
    """A time embedding of 1000 t, of which the configuration says nothing."""

    def times(self, t: Tensor, r: Tensor | None) -> Tensor:
        return super().times(33 * t, None if r is None else 33 * r)


class SinusoidOfMillions(Network):
    """Times are multiplied by 1000 twice."""

    def times(self, t: Tensor, r: Tensor | None) -> Tensor:
        return super().times(1e6 / 30 * t, None if r is None else 1e6 / 30 * r)


class Frozen(Network):
    """A trained part that no gradient of its user reaches: computed without."""

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Clip) -> Tensor:
        with torch.no_grad():
            return super().forward(x, t, r, cond)


BACKBONES: dict[str, tuple[BackboneConfig, str]] = {
    "r ignored": (called(lambda u, x, t, r, c: u(x, t, t, c)), "r_is_used"),
    "r at most 0.5": (called(lambda u, x, t, r, c: u(x, t, r.clamp(max=0.5), c)), "r_is_used"),
    "r at least 0.5": (called(lambda u, x, t, r, c: u(x, t, r.clamp(min=0.5), c)), "r_is_used"),
    "r at most 0.5, but on the diagonal": (called(jumping(lambda t, r: r.clamp(max=0.5))), "r_is_used"),
    "r at least 0.2, but on the diagonal": (called(jumping(lambda t, r: r.clamp(min=0.2))), "r_is_used"),
    "r at most 0.9, but on the diagonal": (called(jumping(lambda t, r: r.clamp(max=0.9))), "r_is_used"),
    "r at least 0.05": (called(jumping(lambda t, r: torch.minimum(r.clamp(min=0.05), t))), "r_is_used"),
    "r at least 0.02": (called(jumping(lambda t, r: torch.minimum(r.clamp(min=0.02), t))), "r_is_used"),
    "r in the upper half of t": (called(jumping(lambda t, r: torch.maximum(r, t / 2))), "r_is_used"),
    "t ignored": (called(lambda u, x, t, r, c: u(x, 0 * t, 0 * r, c)), "t_is_used"),
    "r for t": (called(lambda u, x, t, r, c: u(x, r, r, c)), "t_is_used"),
    "t and r swapped": (called(swapped), "t_and_r_keep_their_places"),
    "integer times": (called(lambda u, x, t, r, c: u(x, thousandths(t), thousandths(r), c)), "times_are_not_rounded"),
    "times in bfloat16": (
        called(lambda u, x, t, r, c: u(x, t.bfloat16().float(), r.bfloat16().float(), c)),
        "times_are_not_rounded",
    ),
    "r in thousandths": (
        called(
            lambda u, x, t, r, c: (
                u(x, t, torch.minimum(thousandths(r), t), c) if not torch.equal(t, r) else u(x, t, r, c)
            )
        ),
        ("times_are_not_rounded"),
    ),
    "times detached": (
        called(lambda u, x, t, r, c: u(x, detached_tensor(t), detached_tensor(r), c)),
        "derivatives_go_through_times",
    ),
    "r detached": (called(lambda u, x, t, r, c: u(x, t, detached_tensor(r), c)), "derivatives_go_through_times"),
    "times 1000 twice": (reference(network=SinusoidOfMillions), "derivatives_go_through_times"),
    "an undeclared frequency": (reference(network=SinusoidOf1000, frequency=None), "default_step_is_short_enough"),
    "condition ignored": (reference(network=CondIgnored), "condition_is_used"),
    "null is the condition": (without(NullIsTheCondition), "null_is_no_condition"),
    "null is the first class": (reference(conditions=null_is_the_first), "null_is_no_condition"),
    "null is the last class": (reference(conditions=null_is_the_last), "null_is_no_condition"),
    "two classes are one": (reference(conditions=two_are_one), "condition_is_used"),
    "null of other prompts": (reference(conditions=null_of_another), "null_is_one"),
    "prompts see each other": (reference(conditions=beside), "prompts_are_alone"),
    "prompts encoded away": (without(EncodesPromptsAway), "batches_have_their_conditions"),
    "x ignored": (called(lambda u, x, t, r, c: u(0 * x, t, r, c)), "x_is_used"),
    "x in bfloat16": (called(lambda u, x, t, r, c: u(x.bfloat16().float(), t, r, c)), "x_is_not_rounded"),
    "x in float16": (called(lambda u, x, t, r, c: u(x.half().float(), t, r, c)), "x_is_not_rounded"),
    "an element of x unread": (called(lambda u, x, t, r, c: u(x * UNREAD, t, r, c)), "all_of_x_is_used"),
    "a result in bfloat16": (called(lambda u, x, t, r, c: u(x, t, r, c).bfloat16().float()), "results_are_not_rounded"),
    "a result in float16": (called(lambda u, x, t, r, c: u(x, t, r, c).half().float()), "results_are_not_rounded"),
    "x in place": (called(spoilt("x")), "arguments_are_left_alone"),
    "t in place": (called(spoilt("t")), "arguments_are_left_alone"),
    "r in place": (called(spoilt("r")), "arguments_are_left_alone"),
    "global noise": (called(global_noise(0.1)), "calls_draw_nothing"),
    "a little global noise": (called(global_noise(1e-9)), "calls_draw_nothing"),
    "python's generator": (called(python_noise), "calls_draw_nothing"),
    "moody": (reference(network=Dropping), "calls_repeat"),
    "batch statistics": (called(lambda u, x, t, r, c: u(x - 0.1 * x.mean(0), t, r, c)), "samples_are_alone"),
    "no gradient": (reference(network=Frozen), "own_is_what_is_trained"),
    "encode spoils samples": (without(EncodeSpoils), "encoding_leaves_samples_alone"),
    "global encoder": (without(GlobalEncoder), "encodes_by_the_draw"),
    "encoded twice": (without(EncodesTwice), "precomputed_is_encoded"),
    "decode is no inverse": (without(DecodesElse), "decoding_undoes_encoding"),
    "decode spoils": (without(DecodeSpoils), "decoding_leaves_samples_alone"),
    "past the module": (without(DirectCalls), "calls_go_through_the_module"),
    "past the unit": (reference(network=UnitPast), "units_are_called"),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_mutant_is_caught_by_its_check_alone(name: str) -> None:
    config, check = BACKBONES[name]
    assert list(broken(config, spec=IMAGE)) == [check]


@pytest.mark.parametrize("spec", [IMAGE, VIDEO, SampleSpec((1, 6))], ids=["image", "video", "unconditional"])
def test_the_reference_keeps_every_law(spec: SampleSpec) -> None:
    found = outcomes(reference(VIDEO if spec is VIDEO else IMAGE), spec=spec)
    assert {o.check.name: o.sentence for o in found if o.status in ("failed", "not run")} == {}
    applied = {o.check.name for o in found if o.status == "passed"}
    assert ("no_future_leak" in applied) == (spec is VIDEO)
    assert ("condition_is_used" in applied) == (spec.classes > 0)


# Causal


class ClipMean(Chunks):
    """The clean context is the mean of all frames, later ones too."""

    def clean(self, batch: Batch, window: Window) -> Tensor:
        return batch.x0.mean(1, keepdim=True).expand_as(batch.x0)[:, : window.stop].detach()


class LastLeaks(Chunks):
    """The first frame of the clean context is the last frame of the clip, if the window goes to its end."""

    def clean(self, batch: Batch, window: Window) -> Tensor:
        clean = super().clean(batch, window).clone()
        if window.stop == batch.x0.shape[1]:
            clean[:, 0] += batch.x0[:, -1]
        return clean


class SeesOwnChunk(Network):
    """A chunk sees its own clean frames."""

    def parts(self, x: Tensor, cond: Clip) -> list[tuple[Tensor, int]]:
        if not cond.sizes:
            return super().parts(x, cond)
        return [(part, begin + part.shape[1]) for part, begin in super().parts(x, cond)]


class NoisedFuture(Network):
    """A chunk sees the noised frames of all others."""

    def seen(self, x: Tensor, begin: int, cond: Clip) -> Tensor:
        return super().seen(x, begin, cond)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Clip) -> Tensor:
        result = super().forward(x, t, r, cond)
        return result + (0.1 * x.mean(1, keepdim=True) if cond.sizes else 0 * result)


class Forgets(Chunks):
    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        return cond


class RemembersTheFirst(Chunks):
    """Forgets what comes after the first chunk."""

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        return cond if isinstance(cond, Clip) and cond.clean is not None else super().remember(network, cond, chunk)


class RemembersTheNewest(Chunks):
    """Generates after the newest chunk alone, and is trained after all."""

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        assert isinstance(cond, Clip)
        return replace(cond, clean=chunk)

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        begin = {1: 0, 3: 1, 4: 3}[frames.shape[1]]
        return self.remember(network, cond, frames[:, begin:])


class ForcedIsBlind(Chunks):
    """Training shows no context at all."""

    def forced(self, batch: Batch, window: Window) -> Batch:
        view = super().forced(batch, window)
        assert isinstance(view.cond, Clip)
        assert isinstance(view.null, Clip)
        return replace(view, cond=replace(view.cond, clean=None), null=replace(view.null, clean=None))


class GivenIsElse(Chunks):
    """Given frames are shown without the first of them."""

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return super().given(network, cond, frames.roll(1, 0))


class GivenIsUnseen(Chunks):
    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return cond


class Restless(Chunks):
    """Every process has a window of its own."""

    def window(self, frames: int, draw: Draw) -> Window:
        return Window(0, 1 if len(draw.rows) < 3 else frames)


class OutsideWindow(Chunks):
    def window(self, frames: int, draw: Draw) -> Window:
        return Window(0, frames + 1)


class ShortChunks(Chunks):
    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return super().sizes(frames, given)[:-1]


CAUSAL: dict[str, tuple[BackboneConfig, list[str]]] = {
    "context from all frames": (reference(VIDEO, chunking=ClipMean), ["no_future_leak"]),
    "one late leak": (reference(VIDEO, chunking=LastLeaks), ["no_future_leak"]),
    "noised frames leak": (reference(VIDEO, network=NoisedFuture), ["no_future_leak"]),
    "its own clean frames": (reference(VIDEO, network=SeesOwnChunk), ["generated_is_forced"]),
    "forgets": (reference(VIDEO, chunking=Forgets), ["finished_chunks_are_remembered"]),
    "forgets later": (reference(VIDEO, chunking=RemembersTheFirst), ["finished_chunks_are_remembered"]),
    "remembers the newest": (reference(VIDEO, chunking=RemembersTheNewest), ["generated_is_forced"]),
    "forced is blind": (reference(VIDEO, chunking=ForcedIsBlind), ["forced_sees_the_past"]),
    # The rows of another sample are still seen.
    "given to others": (reference(VIDEO, chunking=GivenIsElse), ["given_is_remembered"]),
    "given is unseen": (reference(VIDEO, chunking=GivenIsUnseen), ["given_is_remembered", "given_frames_are_seen"]),
    "windows of processes": (reference(VIDEO, chunking=Restless), ["windows_lie_in_the_frames"]),
    "window outside": (reference(VIDEO, chunking=OutsideWindow), ["windows_lie_in_the_frames"]),
    "chunks that end early": (reference(VIDEO, chunking=ShortChunks), ["chunks_make_up_the_frames"]),
}


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_mutant_is_caught_by_its_check_alone(name: str) -> None:
    config, checks = CAUSAL[name]
    assert list(broken(config, spec=VIDEO)) == checks


def test_a_sentence_stands_alone_and_has_numbers() -> None:
    said = broken(BACKBONES["r ignored"][0], spec=IMAGE)["r_is_used"]
    assert said == (
        "a flow_map role of 'reference' must depend on r; u(x, t, r) of `mean_velocity` is u(x, t, t) in 3 of 3 samples"
    )
    said = broken(BACKBONES["an element of x unread"][0], spec=IMAGE)["all_of_x_is_used"]
    assert "no gradient reaches 1 of the 6 of a sample, the first x[:, 0, 3] (is a channel" in said
    said = broken(BACKBONES["times 1000 twice"][0], spec=IMAGE)["derivatives_go_through_times"]
    assert "is t multiplied by 1000 twice?" in said
    assert "detached" not in said
    said = broken(BACKBONES["times detached"][0], spec=IMAGE)["derivatives_go_through_times"]
    assert "is t detached, or made anew" in said
    said = broken(BACKBONES["an undeclared frequency"][0], spec=IMAGE)["default_step_is_short_enough"]
    assert re.search(r"default step 0.005 is \d+ % off .* let `time_frequency` say \d+", said)


class Lossy(Codec):
    """Half of the numbers are lost."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape

    def latent_shape(self) -> tuple[int, ...]:
        return self._shape

    def encode(self, x: Tensor, draw: Draw) -> Tensor:
        return (2 * x).round() / 2

    def decode(self, x: Tensor) -> Tensor:
        return x

    def text(self, prompts: Any, device: torch.device) -> Any:
        return NoCodec(self._shape).text(prompts, device)


def test_a_capability_that_is_denied_takes_its_checks_away() -> None:
    config = reference(codec=Lossy)
    assert list(broken(config, spec=IMAGE)) == ["decoding_undoes_encoding"]
    assert broken(config, Capabilities(lossless=False), spec=IMAGE) == {}
    assert broken(BACKBONES["t and r swapped"][0], Capabilities(time_parameters=False), spec=IMAGE) == {}
    assert broken(BACKBONES["times detached"][0], Capabilities(has_jvp=False), spec=IMAGE) == {}
