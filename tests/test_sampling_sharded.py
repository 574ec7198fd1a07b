"""Networks that no process holds whole are measured and sampled as whole ones are: same scores, same files."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from flowmap.files.sealed import write_sealed
from flowmap.recipe.layout import LOCK
from flowmap.training.changes import read_lock
from tests.process_runs import shared
from tests.small_runs import EVALUATION, FORWARD, HEAD, TEACHER, flowmap
from tests.test_processes import SPY, run
from tests.test_produce import KILLED, contents
from tests.test_run import tame
from tests.video_runs import wan_run

SHARDED = ("--set", "compute.sampling=sharded")

POINTS = f'{HEAD}compute = {{ device = "cpu", threads = 1 }}\n{TEACHER}{FORWARD}{EVALUATION}'.replace(
    '["flow_map", "consistency"] },',
    '["flow_map", "consistency"] },\n    { stage = "forward", weights = "raw", samplers = ["flow_map"] },',
)

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


HELD = """
import os
import torch
import flowmap.use.joint as joint
import flowmap.use.produce as producing
from flowmap.use import networks
from torch.distributed.tensor import DTensor
student = networks.Networks.student

def part(module):
    held = sum((p.to_local() if isinstance(p, DTensor) else p).nbytes for p in module.parameters())
    return held / sum(p.numel() * p.element_size() for p in module.parameters())

def spied(self, *args):
    network = student(self, *args)
    if self.sharded:
        module = self._sharded[1].module
        module.register_forward_hook(lambda *_: calls.append(1))
        told.append((os.environ["RANK"], module, part(module)))
    return network

networks.Networks.student = spied
told, calls = [], []
generate = joint.generate
def counted(*args, **named):
    made = generate(*args, **named)
    for rank, module, share in told:
        # After the calls as before them: nothing stays gathered.
        print("held:", rank, share, part(module), flush=True)
    print("calls:", os.environ["RANK"], len(calls), flush=True)
    return made
joint.generate = producing.generate = counted
"""


def heard(said: str, number: int) -> None:
    """Every process has held its part of each network, before its calls and after them, and all have called alike."""
    shares = re.findall(r"held: (\d) (\S+) (\S+)", said)
    assert {rank for rank, *_ in shares} == set(map(str, range(number)))
    for _, before, after in shares:
        # Rows are shared out: a matrix of two rows is whole in two of four processes.
        assert float(before) == float(after) < 1.3 / number
    calls = {rank: re.findall(rf"calls: {rank} (\d+)", said) for rank in map(str, range(number))}
    assert len(set(map(tuple, calls.values()))) == 1
    assert calls["0"]


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_scores_are_those_of_one_process(number: int, tmp_path: Path) -> None:
    run(tmp_path, POINTS, 1)
    measured_anew(tmp_path, 1)
    alone = scores(tmp_path / "runs/small")
    said = measured_anew(tmp_path, number, *SHARDED, patch=SPY + HELD)
    assert "a second writer" not in said
    heard(said, number)
    assert scores(tmp_path / "runs/small") == alone


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a causal Wan with adapters: chunks, memories, guidance, given frames."""
    return wan_run(tmp_path_factory.getbasetemp(), "far_wan21")


def sharded_copy(run: Path, to: Path, **compute: object) -> Path:
    """A copy of a finished run, whose recipe says how networks are sampled, and nothing measured."""
    folder = shutil.copytree(run, to / "runs" / run.name, ignore=shutil.ignore_patterns("metrics.jsonl", ".shelf"))
    lock = read_lock(folder / LOCK)
    lock["compute"] |= {"sampling": "sharded"} | compute
    write_sealed(folder / LOCK, "a run", lock)
    return folder


@pytest.mark.parametrize(
    ("number", "sequence"),
    [pytest.param(2, 1, marks=pytest.mark.slow), (2, 2), pytest.param(4, 1, marks=pytest.mark.slow)],
)
def test_a_causal_model_with_adapters(number: int, sequence: int, causal: Path, tmp_path: Path) -> None:
    folder = sharded_copy(causal, tmp_path, sequence=sequence)
    code, said = shared(tmp_path, "evaluate", str(folder), number=number, patch=HELD)
    assert code == 0, said
    heard(said, number)
    ours, theirs = scores(folder), scores(causal)
    assert len(ours) == len(theirs) == 3
    for our, their in zip(ours, theirs, strict=True):
        values, expected = our.pop("values"), their.pop("values")
        assert values == pytest.approx(expected, rel=1e-4, abs=0)
        # All other numbers are made of these.
        named = {"stage", "weights", "sampler", "nfe", "metric", "seed", "samples", "checkpoint", "evaluation"}
        assert {name: our[name] for name in named} == {name: their[name] for name in named}


WORDS = ("--nfe", "1", "--sharded")

ALIGNED = """
from flowmap.use import networks
take_whole = networks.take_whole
def aligned(module, device):
    take_whole(module, device)
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
networks.take_whole = aligned
"""
"""Weights that are mapped from files lie anywhere, and matrix products of a CPU round by where they lie. On a GPU, and
where they are gathered, they are aligned."""

PROMPTS = ["a red fox", "a ball", "a ball", "", "a house"]


@pytest.fixture(scope="module")
def made(causal: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the list of `listed` is, made by one process whose network is whole."""
    folder = tmp_path_factory.mktemp("made")
    code, said = flowmap(folder, "sample", str(causal), *listed(folder), "--nfe", "1", patch=ALIGNED)
    assert code == 0, said
    return contents(folder / "clips")


def listed(folder: Path) -> tuple[str, ...]:
    """Five prompts, two of them with a first frame, so that both kinds of clip take other calls."""
    rows = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(rows).save(folder / "image.png")
    lines = [{"prompt": prompt, "seed": seed} for seed, prompt in enumerate(PROMPTS)]
    for seed in (0, 3):
        lines[seed]["image"] = "image.png"
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "--prompts", "list.jsonl", "--out", "clips"


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_list_that_cannot_be_shared_evenly(number: int, causal: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    code, said = shared(tmp_path, "sample", str(causal), *listed(tmp_path), *WORDS, number=number, patch=HELD)
    assert code == 0, said
    assert "clips has all 5 samples: stage forward" in said
    assert contents(tmp_path / "clips") == made
    heard(said, number)


def test_after_a_kill_another_number_goes_on(causal: Path, made: dict[str, bytes], tmp_path: Path) -> None:
    words = ("sample", str(causal), *listed(tmp_path), *WORDS)
    code, said = shared(tmp_path, *words, patch=KILLED.format(ranks=("1",)))
    assert code != 0
    tame(said)
    there = {path.name: path.read_bytes() for path in (tmp_path / "clips").iterdir()}
    assert 0 < len(there) < len(PROMPTS)
    assert there.items() <= made.items()
    code, said = shared(tmp_path, *words, number=3)
    assert code == 0, said
    assert f"has all 5 samples ({len(there)} were there)" in said
    assert contents(tmp_path / "clips") == made


def test_samples_that_all_make(causal: Path, tmp_path: Path) -> None:
    """By two that share each, and by three, of whom two heads are none to share: then each makes some."""
    words = ("sample", str(causal), "--prompt", "a ball", "--n", "2", "--nfe", "2")
    code, said = flowmap(tmp_path, *words, "--out", "one", patch=ALIGNED)
    assert code == 0, said
    for number in (2, 3):
        code, said = shared(tmp_path, *words, "--sharded", "--out", f"by-{number}", number=number, patch=HELD)
        assert code == 0, said
        heard(said, number)
        one, other = (load_file(tmp_path / f"{name}.safetensors")["samples"] for name in ("one", f"by-{number}"))
        assert float((one - other).abs().max()) <= (1e-4 if number == 2 else 0)
    code, said = shared(tmp_path, *words, "--replicated", "--out", "none", number=3)
    assert code == 2
    assert "started as 3 processes, which would share each sample: 3 processes cannot share the 2 attention" in said
    assert not list(tmp_path.glob("none*"))


READ = """
import ctypes
import os
# What is freed goes back at once: M_MMAP_THRESHOLD, in bytes.
ctypes.CDLL(None).mallopt(-3, 1 << 16)
import torch
from pathlib import Path
from safetensors.torch import load_file
from torch import nn
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import sharding
from flowmap.training.processes import Processes, leave
from flowmap.use.networks import Networks
from flowmap.workshop.adapters import Adapters
from flowmap.workshop.backbone import Architecture, ModuleBackbone
from flowmap.workshop.codec import NoCodec

def own():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

class Config:
    def build(self, spec):
        make = lambda two_times, chosen: nn.Sequential(*(nn.Linear(1024, 1024, bias=False) for _ in range(16)))
        return ModuleBackbone("blocks", Architecture(make, units=list, adapters=ADAPTERS,
            base=lambda: load_file("base.safetensors")), NoCodec((1, 1)))

torch.ones(1) @ torch.ones(1)
sharded, most, read = sharding.fully_shard, 0, 0
def fully_shard(*args, **named):
    global most, read
    read = read or own()
    most = max(most, own())
    return sharded(*args, **named)
sharding.fully_shard = fully_shard
compute = ComputeConfig(device="cpu", sampling="sharded")
processes = Processes(compute)
before = own()
networks = Networks(Config(), None, processes.device, compute, processes)
for kept in ("own", "next"):
    networks.student("flow_map", load_file(kept + ".safetensors"), 0)
    assert networks.sharded
    placed = own()
    role = networks._sharded[1]
    total = sum(float(value.full_tensor().double().sum()) for value in role.own.values())
    shares = [(x - before) / 2**26 for x in (read, max(most, placed), placed)]
    print("held:", kept, *shares, total, flush=True)
leave()
os._exit(0)
"""
"""Sixteen layers of 4 MiB; both processes say how much of them they hold of their own, at most and in the end."""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the memory")
@pytest.mark.parametrize("rank", [0, 256])
def test_no_process_ever_holds_a_whole_network(rank: int, tmp_path: Path) -> None:
    """Neither one whose parameters are all its own, nor a base with large adapters; nor when the next is put in."""
    torch.manual_seed(0)
    size = (1024, 1024)
    save_file({f"{index}.weight": torch.randn(size) for index in range(16)}, tmp_path / "base.safetensors")
    total = {}
    for kept in ("own", "next"):
        if rank:
            shapes = {"lora_A": (rank, 1024), "lora_B": (1024, rank)}
            names = {
                f"{index}.{part}.weight": torch.randn(shape) for index in range(16) for part, shape in shapes.items()
            }
        else:
            names = {f"{index}.weight": torch.randn(size) for index in range(16)}
        total[kept] = sum(float(value.double().sum()) for value in names.values())
        save_file(names, tmp_path / f"{kept}.safetensors")
    adapters = f"Adapters({rank}, 1.0, r'\\d+')" if rank else "None"
    code, said = shared(tmp_path, patch=READ.replace("ADAPTERS", adapters))
    assert code == 0, said
    share = 0.5 * (1 + 2 * rank / 1024)
    found = re.findall(r"held: (\w+) (\S+) (\S+) (\S+) (\S+)", said)
    assert len(found) == 4
    for kept, read, most, placed, numbers in found:
        # Files are mapped, and nothing is of the process's own before the first unit is sharded.
        assert float(read) < 2 * share / 16 + 0.05
        assert float(numbers) == pytest.approx(total[kept], rel=1e-9)
        # Its half, a unit of sixteen whole, and what sharding takes.
        assert share - 0.01 < float(placed) <= float(most) < share + 2 * share / 16 + 0.1
