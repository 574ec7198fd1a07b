"""The MLP backbone: one time for all samples, as samplers give it, is embedded once."""

from __future__ import annotations

import pytest
import torch
from flowmap_mlp.configs import MlpConfig

from flowmap.interfaces import as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec

pytestmark = pytest.mark.usefixtures("one_thread")


@torch.no_grad()
@pytest.mark.parametrize("classes", [0, 3])
def test_one_time_for_all_samples_is_embedded_once(classes: int) -> None:
    spec, draw = SampleSpec((1, 6), classes=classes, labelled=bool(classes)), Draw.whole(0, "x", 0, "y", 5)
    backbone = MlpConfig(width=16, depth=2).build(spec)
    role = backbone.role("student", "flow_map", None, draw)
    generator = torch.Generator().manual_seed(0)
    for weight in role.own.values():
        weight.data = torch.randn(weight.shape, generator=generator) / 4
    cond, _ = backbone.condition(torch.arange(5) % classes if classes else None, 5, torch.device("cpu"))
    x, (t, r) = draw.normal("x", (1, 6)), torch.tensor([0.8, 0.3])
    network, seen = as_flow_map(role.network), list[int]()
    role.module.time.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    expected = network.mean_velocity(x, t.repeat(5), r.repeat(5), cond)
    once = network.mean_velocity(x, t.expand(5), r.expand(5), cond)
    mixed = network.mean_velocity(x, t.expand(5), torch.linspace(0, 0.5, 5), cond)
    assert float(expected.abs().max()) > 0.1
    assert torch.allclose(once, expected, atol=1e-6)
    assert torch.allclose(mixed, network.mean_velocity(x, t.repeat(5), torch.linspace(0, 0.5, 5), cond), atol=1e-6)
    assert seen == [5, 1, 1, 5]
