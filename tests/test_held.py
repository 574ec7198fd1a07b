"""Weights that are read in one precision and held in another are never in memory twice, nor whole in each process.

Memory is anonymous memory, which is a process's own; files that are mapped into it are shared.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.process_runs import shared

LAYERS, WIDTH = 16, 1024
STORED = LAYERS * WIDTH * WIDTH * 4

READ = f"""
import ctypes
import os
# What is freed goes back at once: M_MMAP_THRESHOLD, in bytes.
ctypes.CDLL(None).mallopt(-3, 1 << 16)
import torch
from pathlib import Path
from torch import nn
from flowmap.interfaces.held import postponed
from flowmap.maths.draw import Draw
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import sharding
from flowmap.training.processes import Processes, leave
from flowmap.workshop.adapters import Adapters
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import NoCodec
from flowmap.workshop.reading import read_tensors

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

def make(two_times, chosen):
    return nn.Sequential(*(nn.Linear({WIDTH}, {WIDTH}, bias=False) for _ in range({LAYERS})))

backbone = ModuleBackbone("blocks", Architecture(
    make, units=list, adapters=Adapters(1, 1.0, "0"), base=lambda: read_tensors([Path("weights.safetensors")], "base"),
    held=lambda name: torch.bfloat16), NoCodec((1, 1)))
torch.ones(1) @ torch.ones(1)
sharded, most = sharding.fully_shard, 0
def fully_shard(*args, **named):
    global most
    most = max(most, own())
    return sharded(*args, **named)
sharding.fully_shard = fully_shard
processes = Processes(ComputeConfig(device="cpu"))
before = own()
with postponed(LATER):
    role = backbone.role("student", "flow_map", None, Draw.whole(0, "base", 0, "weights", 1))
read = own()
sharding.place([role], processes)
placed = own()
total = sum(float(p.full_tensor().double().sum()) for n, p in role.module.named_parameters() if "lora" not in n)
print("held:", *((x - before) / {STORED} for x in (read, max(most, placed), placed)), total, flush=True)
leave()
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
def test_two_processes_hold_half_of_what_is_cast_and_a_unit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = {f"{index}.weight": torch.randn(WIDTH, WIDTH) for index in range(LAYERS)}
    save_file(weights, tmp_path / "weights.safetensors")
    found = {}
    for later in (True, False):
        code, said = shared(tmp_path, patch=READ.replace("LATER", str(later)))
        assert code == 0, said
        found[later] = [[float(x) for x in line.split()] for line in re.findall("held: (.*)", said)]
    total = sum(float(value.bfloat16().double().sum()) for value in weights.values())
    for read, most, placed, numbers in found[True]:
        assert numbers == pytest.approx(total, rel=1e-12)
        # In bfloat16 half, of that half for each process; and a unit of the sixteen whole, and what sharding takes.
        assert read < 0.05
        assert placed <= most < 0.25 + 0.5 / LAYERS + 0.1
    for read, most, _, _ in found[False]:
        assert read > 0.48
        assert most > 0.5
