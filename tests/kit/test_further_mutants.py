"""Mutants that a capability is needed for: adapters, footprints, texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from flowmap_wan.configs import Wan21Config
from torch import Tensor

from flowmap.interfaces import EncodedText, Role, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.plugin.footprint import CallShape, Weights
from flowmap.schema.words import NetworkKind
from flowmap.testing.capabilities import Capabilities
from flowmap.workshop.footprint import MeasuredFootprint

from ..wan.support import CHANNELS, TEXT, architecture, lora, noise
from .reference import IMAGE, broken, reference
from .test_backbone_mutants import Wrapped, called

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
]

VIDEO = SampleSpec((2, CHANNELS, 4, 4))


def wan() -> dict[str, str]:
    config = Wan21Config(weights="random", architecture=architecture(layers=1), lora=lora())
    prompts = EncodedText(noise(4, 5, TEXT, seed=3), noise(5, TEXT, seed=4))
    return broken(config, spec=VIDEO, samples=Samples(noise(4, *VIDEO.shape), prompts=prompts))


def test_roles_that_get_in_each_other_s_way() -> None:
    """A buffer that every call fills anew, of which the backward of another call has need."""
    buffer = torch.ones(1)

    def through(u: Any, x: Tensor, t: Tensor, r: Tensor, c: Any) -> Tensor:
        return u(x, t, r, c) * buffer.fill_(1.0)  # type: ignore[no-any-return]

    found = broken(called(through), Capabilities(adapters=True, has_jvp=False), spec=IMAGE)
    assert list(found) == ["roles_do_not_get_in_the_way"]


def test_a_base_that_a_role_changes_is_no_base() -> None:
    """A role that is made later changes those before it."""

    class Spoils(Wrapped):
        made: list[Role] = []  # noqa: RUF012

        def role(self, name: str, kind: Any, weights: Mapping[str, Tensor] | None, draw: Draw) -> Role:
            role = self.inner.role(name, kind, weights, draw)
            with torch.no_grad():
                for other in (other for other in self.made if other.name != name):
                    other.own["out.bias"].add_(0.1)
            self.made.append(role)
            return role

    assert "roles_share_nothing_of_their_own" in broken(reference(wrap=Spoils), spec=IMAGE)


@pytest.mark.slow
def test_a_footprint_that_miscounts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert wan() == {}
    own, held = MeasuredFootprint.own, MeasuredFootprint.held

    def less(self: MeasuredFootprint, kind: NetworkKind) -> Weights:
        found = own(self, kind)
        return Weights(found.count - 1, found.bytes, found.unit, found.root)

    with monkeypatch.context() as patched:
        patched.setattr(MeasuredFootprint, "own", less)
        found = wan()
        assert list(found) == ["footprint_counts_parameters"]
        assert "role of 'wan21' owns 1,439 parameters; it owns 1,440" in found["footprint_counts_parameters"]

    def tenth(self: MeasuredFootprint, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        return held(self, kind, shape, samples) // 10

    monkeypatch.setattr(MeasuredFootprint, "held", tenth)
    assert list(wan()) == ["footprint_counts_memory"]
