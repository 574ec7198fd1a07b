"""Networks that no process holds whole are measured and sampled as whole ones are: same scores, same files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.process_runs import shared
from tests.small_runs import EVALUATION, FORWARD, HEAD, TEACHER, flowmap, preload
from tests.test_processes import SPY, run

SHARDED = ("--set", "compute.sampling=sharded")

POINTS = f'{HEAD}compute = {{ device = "cpu", threads = 1 }}\n{TEACHER}{FORWARD}{EVALUATION}'

FEW_AT_ONCE = """
import flowmap.networks.batches
flowmap.networks.batches._MOST_TOGETHER = {most}
"""
"""A score of 24 points takes 5 batches of 5, and the teacher's 48 take 10: no number of processes but 1 and 5 has equal
shares of both."""


def scores(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def measured_anew(folder: Path, number: int, *words: str, patch: str = "") -> str:
    """Measure the run of `recipe.toml` again, from nothing, in so many processes; what they said."""
    shutil.rmtree(folder / "runs/small/.shelf", ignore_errors=True)
    (folder / "runs/small/metrics.jsonl").unlink(missing_ok=True)
    code, said = shared(folder, "run", "recipe.toml", *words, number=number, patch=FEW_AT_ONCE.format(most=5) + patch)
    assert code == 0, said
    return said


@pytest.mark.parametrize("number", [2, 4])
def test_scores_are_those_of_one_process(number: int, tmp_path: Path) -> None:
    run(tmp_path, POINTS, 1)
    measured_anew(tmp_path, 1)
    alone = scores(tmp_path / "runs/small")
    said = measured_anew(tmp_path, number, *SHARDED, patch=SPY)
    assert "a second writer" not in said
    assert scores(tmp_path / "runs/small") == alone


HELD = """
import os
import torch
import flowmap.use.joint as joint
import flowmap.use.produce as producing
from flowmap.use import networks
from torch.distributed.tensor import DTensor
student = networks.Networks.student

def own(module):
    return sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in module.parameters())

def spied(self, *args):
    network = student(self, *args)
    if self.sharded:
        module = self._sharded[1].module
        module.register_forward_hook(lambda *_: calls.append(1))
        whole = sum(p.numel() * p.element_size() for p in module.parameters())
        told.append((os.environ["RANK"], module, own(module) / whole))
    return network

networks.Networks.student = spied
told, calls = [], []
generate = joint.generate
def counted(*args, **named):
    made = generate(*args, **named)
    for rank, module, share in told:
        # After the calls as before them: nothing stays gathered.
        print("held:", rank, share, own(module) / sum(p.numel() * p.element_size() for p in module.parameters()), flush=True)
    print("calls:", os.environ["RANK"], len(calls), flush=True)
    return made
joint.generate = producing.generate = counted
"""
