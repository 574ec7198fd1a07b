"""Derivatives in time of a Wan model: its highest frequency, and the measured error against forward mode."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from flowmap_wan.configs import FarWan21Config, Wan21Config

from flowmap.networks.tangent import tangent
from flowmap.recipe.step_length import NAME
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.settings import TangentConfig
from flowmap.training.ledger import Ledger
from flowmap.training.processes import Processes
from flowmap.training.tangent_error import TangentError

from .support import CHANNELS, bidirectional, noise, student, text


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.parametrize("kind", [Wan21Config, FarWan21Config])
def test_the_highest_time_frequency_is_that_of_the_network_s_own_sinusoids(
    kind: type[Wan21Config] | type[FarWan21Config],
) -> None:
    """A feature sin(w t) has its largest derivative, w, where t = 0."""
    role, _ = student(bidirectional())
    sinusoids = role.module.transformer.condition_embedder.timesteps_proj
    assert isinstance(sinusoids, Timesteps)
    t = torch.zeros(1, dtype=torch.float64)
    _, slopes = torch.func.jvp(lambda t: sinusoids(1000 * t), (t,), (torch.ones_like(t),))
    assert kind(weights="random").time_frequency() == pytest.approx(float(slopes.abs().max()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_measured_error_is_that_against_forward_mode() -> None:
    _, network = student(bidirectional())
    x, v, cond = noise(3, 3, CHANNELS, 6, 10), noise(3, 3, CHANNELS, 6, 10, seed=9), text(3)
    t, r = torch.tensor([0.83, 0.31, 0.6]), torch.tensor([0.47, 0.0, 0.2])
    truth = tangent(network, x, t, r, v, cond, TangentConfig(method="jvp"))
    for step, right in ((0.0003, True), (0.0006, True), (0.005, False)):
        error = TangentError([], "objective", False, Processes(ComputeConfig(device="cpu")), Ledger())
        with error.measuring(1):
            ours = tangent(network, x, t, r, v, cond, TangentConfig(step=step))
        off = float((ours - truth).norm() / truth.norm())
        found, doubts = error.take()
        if right:
            assert found[NAME] == pytest.approx(off, rel=0.15)
            assert doubts == ()
        else:
            (doubt,) = doubts
            assert off > 0.5
            assert f"tangent.step = 0.005 is {100 * off:.0f} % off the one over 0.00031" in doubt
