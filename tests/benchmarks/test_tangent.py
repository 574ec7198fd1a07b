"""du/dt by each method, as a ratio to one forward of the network."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from flowmap_mlp.configs import MlpConfig

from flowmap.interfaces import NoCond, as_flow_map
from flowmap.networks.tangent import tangent
from flowmap.plugin import SampleSpec
from flowmap.schema.settings import TangentConfig
from flowmap.training.stage import base_draw
from tests.benchmarks.table import interleaved, show

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import torch._decomp.decompositions_for_jvp  # what torch loads at the first jvp is deprecated by torch itself

METHODS = {
    "central, batched": TangentConfig(),
    "central, sequential": TangentConfig(batched=False),
    "jvp": TangentConfig(method="jvp"),
}


def test_tangent(benchmark: Any) -> None:
    backbone = MlpConfig(width=160, depth=3).build(SampleSpec((1, 1, 8, 8), classes=0))
    role = backbone.role("student", "flow_map", None, base_draw(0))
    with torch.no_grad():  # zero layers would make the derivative zero
        for parameter in role.own.values():
            parameter.add_(0.02 * torch.randn_like(parameter))
    network = as_flow_map(role.network)
    x, v = torch.randn(2, 128, 1, 1, 8, 8).unbind(0)
    t = torch.rand(128) * 0.9 + 0.05
    r = t * torch.rand(128)

    def forward() -> torch.Tensor:
        with torch.no_grad():
            return network.mean_velocity(x, t, r, NoCond())

    works = {"one forward": forward} | {
        name: lambda config=config: tangent(network, x, t, r, v, NoCond(), config) for name, config in METHODS.items()
    }
    interleaved(works, rounds=5, repeats=5)
    seconds = interleaved(works, rounds=40, repeats=5)
    benchmark.pedantic(works["central, batched"], rounds=50)
    show(benchmark, "du/dt (MLP, batch 128)", seconds, "one forward")
