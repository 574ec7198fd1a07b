"""Sampling by Wan models against diffusers' own pipelines, on the same weights and the same noise.

Aims: bidirectional at most 0.95 of the time; the reading of finished chunks costs the same however many there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AnyFlowFARPipeline, AnyFlowPipeline
from flowmap_samplers.samplers import FlowMapEuler
from flowmap_wan.configs import FarWan21Config, Wan21Config
from flowmap_wan.settings import ArchitectureConfig
from torch import Tensor

from flowmap.interfaces import Backbone, FlowMap, Role
from flowmap.maths.path import grid
from flowmap.networks.rollout import rollout
from flowmap.plugin import SampleSpec
from tests.benchmarks.table import interleaved, show
from tests.wan.support import CHANNELS, TEXT, built, draw, noise, student, text
from tests.wan.test_pipelines import SHIFT, STEPS, pipeline, theirs

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention:UserWarning")
SIZES = ArchitectureConfig(layers=4, heads=4, head_dim=64, ffn_dim=1024, channels=CHANNELS, text_dim=TEXT, freq_dim=64)
SIDES = (16, 32)  # 128 tokens a frame, of compressed frames 8
CHUNKS = (1, *(2 for _ in range(9)))


def spec(frames: int) -> SampleSpec:
    return SampleSpec((frames, CHANNELS, *SIDES))


def far() -> FarWan21Config:
    fields = {"chunks": CHUNKS, "compressed_patch_size": (1, 8, 8), "architecture": SIZES}
    return FarWan21Config(weights="random", **fields)


def samples(backbone: Backbone, network: FlowMap, start: Tensor) -> Callable[[], Tensor]:
    """A generation, of which each call makes its own conditions: nothing is remembered of an earlier one."""

    @torch.no_grad()
    def work() -> Tensor:
        return rollout(FlowMapEuler(), network, start, grid(STEPS, SHIFT), text(1, 64), backbone.chunking(), draw(1))

    return work


def against_diffusers(kind: Any, backbone: Backbone, role: Role, network: FlowMap, frames: int) -> dict[str, Any]:
    start, pipe = noise(1, frames, CHANNELS, *SIDES), pipeline(kind, role)
    ours = samples(backbone, network, start)
    return {"flowmap": ours, "diffusers": lambda: theirs(pipe, start, text(1, 64).text)}


def test_bidirectional_sampling(benchmark: Any) -> None:
    torch.set_num_threads(1)
    frames = 5
    backbone = built(Wan21Config(weights="random", architecture=SIZES), spec(frames))
    role, network = student(backbone)
    works = against_diffusers(AnyFlowPipeline, backbone, role, network, frames)
    assert float((works["flowmap"]() - works["diffusers"]()).abs().max()) < 1e-3
    seconds = interleaved(works, rounds=8)
    benchmark.pedantic(works["flowmap"], rounds=1)
    show(benchmark, "four calls of a bidirectional model (640 tokens)", seconds, "diffusers")


def test_causal_sampling(benchmark: Any) -> None:
    torch.set_num_threads(1)
    backbone = built(far(), spec(sum(CHUNKS)))
    role, network = student(backbone)
    works = against_diffusers(AnyFlowFARPipeline, backbone, role, network, sum(CHUNKS))
    seconds = interleaved(works, rounds=3)
    benchmark.pedantic(works["flowmap"], rounds=1)
    show(benchmark, f"a causal model, {len(CHUNKS)} chunks of four calls", seconds, "diffusers")


@torch.no_grad()
def test_reading_finished_chunks(benchmark: Any) -> None:
    torch.set_num_threads(1)
    backbone = built(far(), spec(sum(CHUNKS)))
    _, network = student(backbone)
    frames, chunking = noise(1, sum(CHUNKS), CHANNELS, *SIDES).split(CHUNKS, dim=1), backbone.chunking()
    seconds: list[list[float]] = [[] for _ in frames]
    for _ in range(6):
        memory: Any = text(1, 64)
        for chunk, times in zip(frames, seconds, strict=True):
            begin = time.perf_counter()
            memory = chunking.remember(network, memory, chunk)
            times.append(time.perf_counter() - begin)
    # From the fourth on each reads as many tokens: the newest chunks, and the one that is compressed now.
    found = {f"chunk {index + 1}": sorted(times)[len(times) // 2] for index, times in enumerate(seconds) if index > 2}
    benchmark.pedantic(lambda: None, rounds=1)
    show(benchmark, "reading a finished chunk", found, "chunk 4")
