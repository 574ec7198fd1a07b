"""Sampler `lcm`: levels looked up as released schedulers do, held to the lists of the golden files."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from flowmap_samplers.configs import ConsistencyConfig, LcmConfig
from flowmap_samplers.lcm import in_bfloat16, nearest, whole_thousandths
from pydantic import ValidationError
from safetensors import safe_open
from torch import Tensor

from flowmap.interfaces import Cond, FlowMap, NoCond
from flowmap.testing import check_sampler

from .support import exact_role, whole

RIVALS = Path(__file__).parents[1] / "golden" / "rivals"
EVEN = (1000, 750, 500, 250)
WAN22 = (1000, 850, 700, 550, 350, 275, 200, 125)
RCM = tuple(1000 * math.tan(a) / (1 + math.tan(a)) for a in (math.atan(80), 1.5, 1.4, 1.0))
RELEASED = {
    "self_forcing": LcmConfig(times=EVEN, shift=5, levels="nearest"),
    "causvid": LcmConfig(times=(1000, 757, 522), shift=8, warped=False, levels="nearest"),
    "causvid_warp4": LcmConfig(times=EVEN, shift=8, levels="nearest"),
    "krea": LcmConfig(times=(1000, 666, 333, 0), shift=5, levels="nearest"),
    "krea_keep_first": LcmConfig(times=(1000, 750, 500, 250, 0), shift=5, levels="nearest"),
    "lightx2v_sf": LcmConfig(times=(999, 957, 899, 702), shift=5, warped=False, levels="whole"),
    "causal_wan22_t2v": LcmConfig(times=WAN22, shift=12, levels="nearest", boundary=875),
    "rcm": LcmConfig(times=RCM, start="scaled"),
    "rcm_bf16_times": LcmConfig(times=RCM, start="scaled", time_input="bfloat16"),
}


def golden(name: str, key: str) -> Tensor | None:
    with safe_open(RIVALS / f"{name}.safetensors", "pt") as file:
        return file.get_tensor(key) if key in file.keys() else None  # noqa: SIM118  # it is no mapping


class Told(FlowMap):
    """Notes what it is told; its answer is 1."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.towards: list[float] = []

    def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
        self.times.append(float(t[0]))
        self.towards.append(float(r[0]))
        return torch.ones_like(x)


def run(config: LcmConfig, x: Tensor) -> tuple[Told, Tensor]:
    network, times = Told(), torch.tensor(config.own_times().times, dtype=torch.float64)
    return network, config.build().sample(network, x, times, NoCond(), whole(len(x)))


@pytest.mark.parametrize("name", RELEASED)
def test_the_network_is_told_the_released_times(name: str) -> None:
    network, _ = run(RELEASED[name], torch.zeros(1, 1, 1))
    told = [float(golden(name, f"t.{step}")[0]) for step in range(4)] if "rcm" in name else golden(name, "times")
    expected = torch.tensor(told) if isinstance(told, list) else told
    # A list of times that rose above its start by a rounding would be off by that alone.
    assert torch.allclose(1000 * torch.tensor(network.times), expected.float(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("name", [name for name in RELEASED if "rcm" not in name and "22" not in name])
def test_predictions_are_reckoned_with_the_released_levels(name: str) -> None:
    # With u = 1 and no data, what is left of x after one step is x - sigma.
    config, sigmas = RELEASED[name], golden(name, "sigmas")
    level = (whole_thousandths if config.levels == "whole" else nearest)(config.shift)
    found = [level(t) for t in config.own_times().times[:-1]]
    assert torch.allclose(torch.tensor([at for at, _ in found]), sigmas, rtol=1e-7, atol=1e-7)
    noising = golden(name, "sigmas_renoise")
    if noising is not None:
        assert torch.allclose(torch.tensor([to for _, to in found])[1:], noising[1:], rtol=1e-7, atol=1e-7)


def test_a_level_is_looked_up_and_no_time() -> None:
    x = torch.zeros(1, 1, 1)
    _, result = run(LcmConfig(times=(757,), shift=8, warped=False, levels="nearest"), x)
    assert float(result) == pytest.approx(-0.7567567, abs=1e-7)
    assert run(LcmConfig(times=(757,), warped=False), x)[1].item() == pytest.approx(-0.757, abs=1e-7)


def test_the_first_network_of_two_goes_to_the_boundary_and_its_last_point_is_left_alone() -> None:
    config = LcmConfig(times=(1000, 875, 800), boundary=875, warped=False)
    network, result = run(config, torch.full((1, 1, 1), 2.0))
    assert network.towards == pytest.approx([0.875, 0.875, 0.0])
    # 2 -> 2 - 0.125; no noise at the same level (a = 1); a step of no length; no noise below; then 0.8 to data.
    assert float(result) == pytest.approx(2 - 0.125 - 0.8, abs=1e-6)


def test_noise_above_the_boundary_adds_up_to_the_level() -> None:
    config = LcmConfig(times=(1000, 950, 600), boundary=500, warped=False)
    x = whole(20_000).normal("start", (1, 1))

    class Exact(FlowMap):
        """Data are 0: x_t is noise of standard deviation t, and the map to r keeps r / t of it."""

        def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
            return x / t[:, None, None]

    seen: list[float] = []

    class Watched(FlowMap):
        def mean_velocity(self, x: Tensor, t: Tensor, r: Tensor, cond: Cond) -> Tensor:
            seen.append(float(x.std()))
            return Exact().mean_velocity(x, t, r, cond)

    times = torch.tensor(config.own_times().times)
    config.build().sample(Watched(), x, times, NoCond(), whole(20_000))
    assert seen == pytest.approx([1.0, 0.95, 0.6], rel=0.02)


def test_without_tables_it_is_the_consistency_sampler() -> None:
    times = torch.tensor([1.0, 0.7, 0.4, 0.0])
    x = whole(64).normal("start", (1, 1))
    network = exact_role("student").network
    ours = LcmConfig(times=(1000, 700, 400), warped=False).build().sample(network, x, times, NoCond(), whole(64))
    theirs = ConsistencyConfig().build().sample(network, x, times, NoCond(), whole(64))
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_scaled_start_is_that_of_its_level() -> None:
    assert RELEASED["rcm"].own_times().start == pytest.approx(80 / 81)
    assert RELEASED["lightx2v_sf"].own_times().start == 1
    assert [round(1000 * in_bfloat16(t)) for t in RELEASED["rcm"].own_times().times[:-1]] == [988, 932, 852, 608]


def test_it_keeps_the_contract() -> None:
    check_sampler(LcmConfig(times=EVEN, shift=5, levels="nearest"))
    check_sampler(LcmConfig(times=(900, 400), warped=False))


def test_calls_are_those_of_its_list() -> None:
    config = LcmConfig(times=(1000, 500))
    assert [config.steps(calls) for calls in (0, 1, 2, 3, 4)] == [None, None, 2, None, None]
    assert config.takes() == "'lcm' has 2 times of its own, so it takes 2 calls"


@pytest.mark.parametrize("times", [(500, 1000), (1000, 1000), ()])
def test_a_list_falls(times: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError):
        LcmConfig(times=times)
