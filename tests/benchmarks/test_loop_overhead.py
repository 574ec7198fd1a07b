"""What the loop costs over a bare PyTorch loop of the same mathematics. Aim: under 3 %, reported and not asserted."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.stage import Stage, base_draw, open_stage
from tests.benchmarks.table import interleaved, show

RECIPE = """
name = "overhead"
data = "digits"
backbone = { type = "mlp", width = 160, depth = 3 }

[[stages]]
name = "forward"
steps = 1000000
batch = 128
objective = "flow_map"
ema = { decay = 0.99 }
"""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """The forward stage on digits."""
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return open_stage(make_plan(read(path)[0], tmp_path).stages[0], Processes(ComputeConfig(device="cpu")))


def bare(stage: Stage) -> Iterator[float]:
    """The same step as anyone would write it by hand: torch's own random numbers, no roles, no records."""
    role = stage.backbone.role("student", "flow_map", None, base_draw(0))
    module, parameters = role.module, list(role.own.values())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)
    pixels = torch.from_numpy(load_digits(return_X_y=True)[0]).float().reshape(-1, 1, 1, 8, 8)[:1198] / 8 - 1
    size, h = 128, 0.005
    edges = torch.tensor([0.5, 0.75])
    while True:
        x0 = pixels[torch.randint(len(pixels), (size,))]
        noise = torch.randn_like(x0)
        a, b = torch.rand(size), torch.rand(size)
        t, r = torch.maximum(a, b), torch.minimum(a, b)
        branch = torch.bucketize((torch.randperm(size) + torch.rand(())) / size, edges, right=True)
        r = torch.where(branch == 0, t, torch.where(branch == 1, 0.0, r))
        t_x = t.reshape(-1, 1, 1, 1, 1)
        x_t, v = (1 - t_x) * x0 + t_x * noise, noise - x0
        with torch.no_grad():
            target = v.clone()
            moving = (r < t).nonzero().flatten()
            times, ends = t[moving], r[moving]
            late, early = (times + h).clamp(max=1.0), (times - h).clamp(min=0.0)
            x, v_moving = x_t[moving], v[moving]
            x_late = x + (late - times).reshape(-1, 1, 1, 1, 1) * v_moving
            x_early = x - (times - early).reshape(-1, 1, 1, 1, 1) * v_moving
            both = module(torch.cat([x_late, x_early]), torch.cat([late, early]), torch.cat([ends, ends]), None)
            u_late, u_early = both.chunk(2)
            derivative = (u_late - u_early) / (late - early).reshape(-1, 1, 1, 1, 1)
            target[moving] -= (times - ends).reshape(-1, 1, 1, 1, 1) * derivative
        optimizer.zero_grad(set_to_none=True)
        losses = (module(x_t, t, r, None) - target).square().flatten(1).mean(1)
        with torch.no_grad():
            diffusion = branch == 0
            mean = losses[diffusion].sum() / diffusion.sum()
            balance = torch.where(diffusion, 1.0, mean / (losses + 1e-5))
        loss = (losses * balance).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 0.01)
        value = loss.item()
        assert math.isfinite(value)
        yield value


def test_loop_overhead(stage: Stage, benchmark: Any) -> None:
    ours, theirs = run_stage(stage, 0), bare(stage)
    works = {"flowmap": lambda: next(ours), "bare PyTorch": lambda: next(theirs)}
    interleaved(works, rounds=5, repeats=10)
    seconds = interleaved(works, rounds=60, repeats=5)
    benchmark.pedantic(works["flowmap"], rounds=50)
    show(benchmark, "one step of the forward stage (digits, MLP, batch 128)", seconds, "bare PyTorch")
    benchmark.extra_info["overhead"] = seconds["flowmap"] / seconds["bare PyTorch"] - 1
