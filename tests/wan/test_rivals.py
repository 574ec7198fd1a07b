"""Causal students of others, from their own checkpoints and by recipe fields, held to the numbers of their code."""

from __future__ import annotations

from pathlib import Path

import pytest
from flowmap_wan.causal_configs import CausalWan21Config
from torch import Tensor

from .rivals import SAMPLERS, Watched, built, config_of, golden, network_of, off, role_of, sampled


@pytest.mark.parametrize("name", SAMPLERS)
def test_latents_are_those_of_the_released_code(name: str, tmp_path: Path) -> None:
    held = golden(name)
    config = config_of(name, held.write(tmp_path))
    backbone = built(config)
    network, chunking = Watched(network_of(role_of(backbone))), backbone.chunking()
    if isinstance(config, CausalWan21Config) and config.context == "recomputed":
        chunk = iter(range(2, 9))

        def given(frames: Tensor) -> Tensor:
            return held.held[f"reencoded.{next(chunk)}"]

        chunking = config.splitting(given)
    made = sampled(held, backbone, network, chunking)
    begin = held.held["first"].shape[1] if "first" in held.held else 0
    expected = held.held["latents"]
    assert off(made[:, begin:], expected[:, begin:]) < 2e-5
    v, steps = held.held, len(held.held["times"])
    compared = 0
    calls = iter(network.calls)
    chunks = sorted({int(key.split(".")[1]) for key in v if key.startswith("v.")})
    if begin:
        next(calls)
    for c in chunks:
        for s in range(steps):
            x, _, found = next(calls)
            if f"v.{c}.{s}" in v:
                assert off(x, v[f"x.{c}.{s}"]) < 2e-5
                assert off(found, v[f"v.{c}.{s}"]) < 1e-4
                compared += 1
        next(calls, None)
    assert compared >= len(chunks)
    # A call a step of every chunk, and one that remembers each but the last.
    assert len(network.calls) == len(chunks) * (steps + 1) - 1 + bool(begin)
