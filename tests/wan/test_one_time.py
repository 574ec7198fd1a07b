"""A flow map as plain Wan: diffusers' one-time class, walked by a plain Euler loop, is the flow map's own sampler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.configs import Wan21Config
from flowmap_wan.one_time import baked
from flowmap_wan.transformer import shell
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import FlowMap
from flowmap.maths.path import grid
from flowmap.workshop.adapters import plain_state

from .support import CHANNELS, architecture, bidirectional, draw, error, lora, make, module, noise, text

EMBEDDER = "condition_embedder."


def plain(role: Any, times: Tensor, config: Any) -> Any:
    """diffusers' one-time Wan with the weights of `role` for the list of `times`."""
    transformer = module(role).transformer
    state = {key: value.float() for key, value in plain_state(transformer, role.name).items()}
    own = {key.removeprefix(EMBEDDER): value for key, value in state.items() if key.startswith(EMBEDDER)}
    state |= {
        f"{EMBEDDER}time_embedder.{key}": value
        for key, value in baked(transformer.condition_embedder, own, times.tolist()).items()
    }
    state = {key: value for key, value in state.items() if "delta_embedder" not in key}
    made = WanTransformer3DModel.from_config(shell(config, transformer.config, single_time=True).config)
    made.load_state_dict(state, strict=True)
    return made.eval()


def walked(model: Any, x: Tensor, times: Tensor) -> Tensor:
    """What any tool's Euler sampler does with a list of times and a velocity."""
    for now, after in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        at = torch.full((len(x),), 1000 * now)
        velocity = model(x.transpose(1, 2), at, text(len(x)).text, return_dict=False)[0].transpose(1, 2)
        x = x - (now - after) * velocity
    return x


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("how", ["whole", "adapters", "t-r"])
@torch.no_grad()
def test_a_plain_loop_is_the_flow_maps_sampler(steps: int, how: str) -> None:
    fields = {"lora": lora()} if how == "adapters" else {}
    backbone = bidirectional(3, (6, 10), **fields)
    role = make(backbone, "student", "flow_map", 1)
    embedder = module(role).transformer.condition_embedder
    if how == "t-r":
        embedder.deltatime_type = "t-r"
    generator = torch.Generator().manual_seed(5)
    for name, parameter in embedder.named_parameters():
        # Two embedders that differ, as trained ones do.
        scale = 0.3 if "delta_embedder" in name else 0.1
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    times, start = grid(steps, 5.0), noise(2, 3, CHANNELS, 6, 10)
    network = role.network
    assert isinstance(network, FlowMap)
    ours = FlowMapEuler().sample(network, start, times, text(2), draw(2))
    config = backbone_config(how)
    theirs = walked(plain(role, times, config), start, times)
    assert error(theirs, ours) < 1e-5
    if steps > 1:
        # With times of its own list only.
        other = grid(steps + 1, 5.0)
        away = walked(plain(role, other, config), start, times)
        assert error(away, ours) > 1e-3


def backbone_config(how: str) -> Wan21Config:
    return Wan21Config(weights="random", architecture=architecture(), **({"lora": lora()} if how == "adapters" else {}))


def test_a_time_that_comes_twice_is_refused() -> None:
    backbone = bidirectional(3, (6, 10))
    transformer = module(make(backbone, "student", "flow_map", 1)).transformer
    own = {
        key.removeprefix(EMBEDDER): value.float()
        for key, value in plain_state(transformer, None).items()
        if key.startswith(EMBEDDER)
    }
    with torch.no_grad():
        own["delta_embedder.linear_2.weight"] = own["delta_embedder.linear_2.weight"] + 1
    with pytest.raises(FlowmapError, match="no embedder of one time is that of these 3 steps"):
        baked(transformer.condition_embedder, own, [0.5, 0.4, 0.5, 0.0])
