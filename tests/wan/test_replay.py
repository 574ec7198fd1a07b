"""Replayed rollouts of a causal Wan model: the gradient of holding every chunk's graph, in a fraction of its memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from flowmap_distribution.configs import BackwardSimulationConfig
from flowmap_wan.settings import LoraConfig
from torch import Tensor

from flowmap.interfaces import Batch, Chunking, Cond, Loss, Role, Scene, Velocity, Window, World
from flowmap.maths.draw import Draw
from flowmap.planning.count import count
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.ledger import Ledger
from flowmap.training.loop import run_stage
from flowmap.training.precision import compute_in
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage
from flowmap.workshop.backbone import ModuleBackbone

from .support import CHANNELS, bidirectional, causal, chunking, draw, gradients, lora, make, noise, relative, text

CHUNKS = (1, 2, 1, 2, 1)
FRAMES = sum(CHUNKS)
SIZE = (4, 4)
ADAPTED = pytest.mark.parametrize("adapted", [lora(), None], ids=["lora", "full"])
ENDS = [sum(CHUNKS[: i + 1]) for i in range(len(CHUNKS))]


class Windowed(Chunking):
    """The chunks of `real` through a window of our choice."""

    def __init__(self, real: Chunking, chosen: Window) -> None:
        self._real, self._chosen = real, chosen

    def sizes(self, frames: int, given: int = 0) -> tuple[int, ...]:
        return self._real.sizes(frames, given)

    def window(self, frames: int, draw: Draw) -> Window:
        return self._chosen

    def forced(self, batch: Batch, window: Window) -> Batch:
        return self._real.forced(batch, window)

    def whole(self, batch: Batch) -> Batch:
        return self._real.whole(batch)

    def given(self, network: Velocity, cond: Cond, frames: Tensor) -> Cond:
        return self._real.given(network, cond, frames)

    def remember(self, network: Velocity, cond: Cond, chunk: Tensor) -> Cond:
        return self._real.remember(network, cond, chunk)


def roles(backbone: ModuleBackbone) -> dict[str, Role]:
    made = {
        "student": make(backbone, "student", "flow_map", 2),
        "teacher": make(backbone, "teacher", "velocity", 3),
        "critic": make(backbone, "critic", "velocity", 4),
    }
    made["teacher"].freeze()
    return made


def scene(made: dict[str, Role], chunks: Chunking, frames: int = FRAMES) -> Scene:
    batch = Batch(noise(2, frames, CHANNELS, *SIZE), text(2), text(2, seed=99))
    return Scene(made, batch, draw(2), chunks, World())


def distil(
    made: dict[str, Role], chunks: Chunking, frames: int = FRAMES, **fields: Any
) -> tuple[Loss, dict[str, Tensor]]:
    """The student's distribution loss, and its gradients."""
    for role in made.values():
        role.module.zero_grad(set_to_none=True)
    objective = BackwardSimulationConfig(
        **{"rollout_steps": (4,), "cfg_scale": 2.0, "score": "forced", **fields}
    ).build()
    loss = next(iter(objective.turns()[0].losses(scene(made, chunks, frames))))
    loss.value.backward()
    return loss, gradients(made["student"])


WINDOWS = [Window(start, stop) for stop in ENDS for start in (0, *ENDS) if start < stop]


@pytest.mark.parametrize(
    ("recomputed", "adapted"),
    [
        pytest.param(False, lora(), id="kept-lora"),
        pytest.param(True, None, id="recomputed-full"),
        pytest.param(False, None, id="kept-full", marks=pytest.mark.slow),
        pytest.param(True, lora(), id="recomputed-lora", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: f"{window.start}-{window.stop}")
def test_the_gradient_of_a_forced_score(window: Window, recomputed: bool, adapted: LoraConfig | None) -> None:
    backbone = causal(CHUNKS, SIZE, lora=adapted, gradient_checkpointing=recomputed)
    made = roles(backbone)
    chunks = Windowed(chunking(backbone), window)
    held, expected = distil(made, chunks, replay=False)
    replayed, ours = distil(made, chunks)
    assert torch.equal(replayed.value, held.value)
    assert relative(ours, expected) < 2e-5


@ADAPTED
@pytest.mark.parametrize("sampler", ["flow_map", "consistency"])
@pytest.mark.parametrize("score", ["forced", "whole"])
def test_the_gradient_of_every_score_and_sampler(
    score: Literal["forced", "whole"], sampler: str, adapted: LoraConfig | None
) -> None:
    backbone = causal(CHUNKS, SIZE, lora=adapted, gradient_checkpointing=True)
    made = roles(backbone)
    chunks = Windowed(chunking(backbone), Window(3, FRAMES))
    held, expected = distil(made, chunks, replay=False, score=score, sampler=sampler)
    replayed, ours = distil(made, chunks, score=score, sampler=sampler)
    assert torch.equal(replayed.value, held.value)
    assert relative(ours, expected) < 2e-5


@ADAPTED
def test_only_the_student_gets_gradients(adapted: LoraConfig | None) -> None:
    backbone = causal(CHUNKS, SIZE, lora=adapted, gradient_checkpointing=True)
    made = roles(backbone)
    distil(made, chunking(backbone))
    assert not gradients(made["critic"])
    assert not gradients(made["teacher"])
    owned = {id(parameter) for parameter in made["student"].own.values()}
    named = made["student"].module.named_parameters()
    assert not [name for name, p in named if p.grad is not None and id(p) not in owned]


def test_in_mixed_precision_it_is_the_same_to_that_precision() -> None:
    backbone = causal(CHUNKS, SIZE, lora=lora(), gradient_checkpointing=True, base_precision="bfloat16")
    made = roles(backbone)
    compute_in(made["student"].module, "bf16", torch.device("cpu"))
    chunks = Windowed(chunking(backbone), Window(3, FRAMES))
    (held, expected), (replayed, ours) = (distil(made, chunks, replay=replay) for replay in (False, True))
    assert torch.equal(replayed.value, held.value)
    # Read at once, the memory rounds otherwise than read chunk by chunk.
    assert relative(ours, expected) < 0.05


def test_a_bidirectional_model_holds_its_graph() -> None:
    made = roles(bidirectional(3, SIZE, lora=lora()))
    chunks = bidirectional(3, SIZE).chunking()
    counted = []
    for replay in (False, True):
        ledger = Ledger()
        distil(ledger.watch(made.values(), ["student", "critic"]), chunks, 3, replay=replay)
        counted.append(ledger.take()["calls"])
    assert counted[0] == counted[1]
    assert counted[1]["student"]["no_grad"] == 0


@pytest.mark.parametrize(
    ("window", "graded", "made"), [(Window(0, 4), 3, 3), (Window(3, 7), 3, 5), (Window(6, 7), 1, 5)]
)
def test_calls_of_an_on_policy_step(window: Window, graded: int, made: int) -> None:
    """Chunks are made without gradient and, those that need one, again with; three calls each here."""
    backbone = causal(CHUNKS, SIZE)
    chunks = Windowed(chunking(backbone), window)
    ledger = Ledger()
    distil(ledger.watch(roles(backbone).values(), ["student", "critic"]), chunks)
    calls = ledger.take()["calls"]["student"]
    per_chunk = calls["grad"] // graded
    assert 1 <= per_chunk <= 3
    assert calls["grad"] == graded * per_chunk
    first = per_chunk * (made if graded > 1 else made - 1) + made - 1
    again = (graded - 1) + (window.start > 0) if graded > 1 else 0
    assert calls["no_grad"] == first + again


RECIPE = """\
name = "replay"
data = {{ type = "moving_digits", frames = 4, size = 12 }}

[backbone]
type = "far_wan21"
weights = "random"
chunks = [1, 1, 1, 1]
full_chunks = 2
compressed_patch_size = [1, 12, 12]
architecture = {{ layers = 1, heads = 1, head_dim = 12, ffn_dim = 8, channels = 1, text_dim = 16, patch = [1, 6, 6] }}

[[stages]]
name = "only"
steps = 6
batch = 2
objective = {{ type = "backward_simulation", rollout_steps = [1, 4], replay = {replay}, forward = "flow_map" }}
"""


@pytest.mark.parametrize("replay", [True, False])
def test_plan_counts_what_the_ledger_counts(replay: bool, here: Path) -> None:
    (here / "r.toml").write_text(RECIPE.format(replay=str(replay).lower()))
    plan = make_plan(read(Path("r.toml"))[0], here / "runs").stages[0]
    counted: dict[str, Counter[str]] = {}
    for record in run_stage(open_stage(plan, Processes(ComputeConfig(device="cpu"))), 0):
        for name, calls in record.calls.items():
            counted.setdefault(name, Counter()).update(calls)
    assert {name: Counter(vars(calls)) for name, calls in count(plan).calls.items()} == counted
