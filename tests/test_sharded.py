"""How a network is shared out changes what is sent between processes, and not what is trained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.process_runs import furthest, shared
from tests.small_runs import preload
from tests.test_processes import COPIES, VIDEO, assert_equal, run

FORWARD = VIDEO.rpartition("[[stages]]")[0]
STEPS = 2

COUNTED = """
from torch import Tensor, distributed
for kind, names in {"reduced": ("reduce_scatter_single", "reduce_scatter_tensor"),
                    "gathered": ("all_gather_single", "all_gather_into_tensor")}.items():
    # What FSDP2 calls, and what it called before torch 2.13.
    name = next(name for name in names if hasattr(distributed, name))
    def counted(*args, kind=kind, known=getattr(distributed, name), **named):
        sizes = [value.nbytes for value in (*args, *named.values()) if isinstance(value, Tensor)]
        print(f"{kind}:", max(sizes), flush=True)
        return known(*args, **named)
    setattr(distributed, name, counted)
"""
"""Every process says what it gathers and reduces, and how many bytes that is when it is whole."""

LARGE = """
import flowmap.training.sharding
flowmap.training.sharding._FEW = {few}
"""
"""Units count as large beside what is exact in them (1), as those of models of a useful size do; or never (-1)."""

HELD = """
import flowmap.training.stage
place = flowmap.training.stage.place
def spied(roles, processes):
    roles = list(roles)
    made = place(roles, processes)
    def tell(unit, *_):
        for name, parameter in unit.named_parameters():
            print("held:", name, parameter.dtype, flush=True)
    roles[0].units[0].register_forward_pre_hook(tell)
    return made
flowmap.training.stage.place = spied
"""
"""Every process says in what precision a unit computes."""


def shared_as(fields: str, text: str = FORWARD) -> str:
    return text.replace("threads = 1", f"threads = 1, {fields}", 1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    preload("flowmap_wan.backbone")
    folder = tmp_path_factory.mktemp("alone")
    run(folder, FORWARD, 1)
    return folder


@pytest.mark.parametrize(
    ("fields", "reductions"),
    [
        # Two parts, the block and the rest; two losses of each of two micro-batches.
        ('base = "replicated", reduction = "turn"', 2),
        ('base = "sharded", reduction = "loss"', 2 * 4),
    ],
)
def test_what_is_sent_and_what_is_trained(fields: str, reductions: int, alone: Path, tmp_path: Path) -> None:
    said = run(tmp_path, shared_as(fields), 2, 1, patch=COUNTED)
    assert_equal(alone, tmp_path, ["forward"])
    assert said.count("reduced: ") == 2 * STEPS * reductions


def test_a_base_that_is_whole_in_each_process_is_not_gathered(tmp_path: Path) -> None:
    sent = {}
    for base in ("replicated", "sharded"):
        folder = tmp_path / base
        folder.mkdir()
        said = run(folder, shared_as(f'base = "{base}"'), 2, patch=COUNTED)
        sent[base] = sum(int(count) for count in re.findall(r"gathered: (\d+)", said))
    assert 3 * sent["replicated"] < sent["sharded"]


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        # What is exact is trained too here, and its gradients are summed in another order.
        pytest.param(COPIES, 1e-6, id="copies"),
        pytest.param(VIDEO, 0.0, id="adapters", marks=pytest.mark.slow),
    ],
)
def test_gathered_in_bfloat16_what_is_exact_stays_so(text: str, limit: float, tmp_path: Path) -> None:
    """What autocast would cast arrives cast, and nothing else: one call and its gradient are the same to the bit."""
    said, text = {}, text.rpartition("[[stages]]")[0]
    for few in (-1, 1):
        folder = tmp_path / str(few)
        folder.mkdir()
        said[few] = run(folder, shared_as('precision = "bf16"', text), 2, patch=LARGE.format(few=few) + HELD)
    found = furthest(*(tmp_path / str(few) / "runs/video/forward" for few in (-1, 1)))
    assert {"weights", "average", "exp_avg", "exp_avg_sq", "losses", "norms"} <= found.keys()
    assert {kind: value for kind, value in found.items() if value > limit} == {}
    seen = dict(re.findall(r"held: (\S+) torch\.(\S+)", said[1]))
    exact = {name for name, precision in seen.items() if precision == "float32"}
    assert exact == {"scale_shift_table", "norm2.weight", "norm2.bias"} | {
        f"attn{n}.norm_{part}.weight" for n in (1, 2) for part in "qk"
    }
    assert set(re.findall(r"held: \S+ torch\.(\S+)", said[-1])) == {"float32"}


DIT = """
name = "dit"
data = { type = "digits", conditional = true }
compute = { device = "cpu", threads = 1, precision = "bf16" }
backbone = { type = "dit", weights = "random", architecture = { in_channels = 1, out_channels = 2 } }

[[stages]]
name = "forward"
steps = 1
batch = 4
objective = { type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5 }
"""


def test_embedders_of_time_that_lie_in_blocks_stay_exact(tmp_path: Path) -> None:
    preload("flowmap_diffusers.backbone")
    said = run(tmp_path, DIT, 2, patch=LARGE.format(few=1) + HELD)
    seen = dict(re.findall(r"held: (\S+) torch\.(\S+)", said))
    times = {name: precision for name, precision in seen.items() if re.search("(timestep|delta)_embedder", name)}
    assert len(times) == 8
    assert set(times.values()) == {"float32"}
    assert seen["attn1.to_q.weight"] == seen["norm1.linear.weight"] == "bfloat16"


@pytest.mark.slow
@pytest.mark.parametrize("base", ["replicated", "sharded"])
def test_two_nodes_with_a_copy_each(base: str, tmp_path: Path) -> None:
    preload("flowmap_wan.backbone")
    one, four = tmp_path / "one", tmp_path / "four"
    # Of fewer samples some process would have none with r < t, and take a row along for company.
    text = VIDEO.replace("batch = 4", "batch = 16")
    for folder, processes in ((one, 1), (four, 4)):
        folder.mkdir()
        run(folder, shared_as(f'base = "{base}"', text), processes, nodes=2)
    assert_equal(one, four, ("forward", "on_policy"))


KEPT = """
import os
import torch
from torch import nn
from flowmap.interfaces import Role, Velocity
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.ema import start_average
from flowmap.training.processes import Processes, leave
from flowmap.training.sharding import local, place
module = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
for layer in module:
    nn.init.eye_(layer.weight)
role = Role("student", Velocity, module, dict(module.named_parameters()), list(module))
place([role], Processes(ComputeConfig(device="cpu")))
start_average(role)

@torch.no_grad()
def computed():
    return float(module(torch.ones(1, 2))[0, 0])

found = [computed()]
with torch.no_grad():
    for parameter in role.own.values():
        local(parameter).mul_(3)
role.let_go()
found.append(computed())
with role.averaged():
    found.append(computed())
found.append(computed())
print("computed:", found, flush=True)
leave()
os._exit(0)
"""


def test_what_was_gathered_and_kept_is_not_used_after_a_change(tmp_path: Path) -> None:
    """The last unit stays gathered after a call without gradient: through a step and an average it must not."""
    code, said = shared(tmp_path, patch=KEPT)
    assert (code, said) == (0, "computed: [1.0, 9.0, 1.0, 9.0]\n" * 2)
