"""Guidance while sampling: chunk after chunk against a loop by hand, and in the rows of an evaluation."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from flowmap_samplers.configs import EulerConfig
from flowmap_samplers.samplers import Euler, Heun
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Batch, Chunking, Cond, OneChunk, Samples, Velocity
from flowmap.maths.draw import Draw
from flowmap.maths.path import grid
from flowmap.networks.guidance import Guided, GuidedChunks, GuidedCond, guided_velocity
from flowmap.networks.rollout import rollout
from flowmap.recipe.layout import Plan, make_plan
from flowmap.recipe.read import read
from flowmap.use import evaluate as module
from flowmap.use import joint
from flowmap.use.real import HeldOut, encoded
from flowmap.use.student import generate, open_contestant

from .video_runs import digits_run
from .wan.support import CHANNELS, bidirectional, causal, draw, error, noise, student, text

pytestmark = pytest.mark.usefixtures("one_thread")

CHUNKS = (1, 2, 2, 1)
FRAMES = sum(CHUNKS)
SIZE = (4, 4)
SCALE = 3.0
CPU = torch.device("cpu")


def by_hand(
    network: Velocity, start: Tensor, times: Tensor, cond: Cond, null: Cond, chunking: Chunking, sizes: Sequence[int]
) -> Tensor:
    """Euler over all chunks, with and without the condition in calls and memories of their own."""
    made = []
    for index, x in enumerate(start.split(list(sizes), dim=1)):
        for t, r in itertools.pairwise(times):
            now = t.expand(len(x))
            with_cond, without = network.velocity(x, now, cond), network.velocity(x, now, null)
            x = x - (t - r) * (SCALE * with_cond - (SCALE - 1) * without)  # noqa: PLW2901
        made.append(x)
        if index + 1 < len(sizes):
            cond, null = (chunking.remember(network, half, x) for half in (cond, null))
    return torch.cat(made, 1)


@pytest.fixture(scope="module")
def model() -> tuple[Chunking, Velocity]:
    backbone = causal(CHUNKS, SIZE, full_chunks=2)
    return backbone.chunking(), student(backbone)[1]


def conditions() -> tuple[Cond, Cond]:
    return text(2), text(2, seed=8)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 3])
def test_chunks_by_hand(steps: int, model: tuple[Chunking, Velocity]) -> None:
    chunking, network = model
    start, times, (cond, null) = noise(2, FRAMES, CHANNELS, *SIZE), grid(steps, 5.0), conditions()
    expected = by_hand(network, start, times, cond, null, chunking, CHUNKS)
    both = GuidedCond(cond, null)
    found = rollout(Euler(), Guided(network, SCALE), start, times, both, GuidedChunks(chunking), draw(2))
    assert error(found, expected) < 1e-5
    plain = rollout(Euler(), network, start, times, cond, chunking, draw(2))
    assert error(plain, expected) > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("given", [1, 3, 5])
def test_chunks_by_hand_after_given_frames(given: int, model: tuple[Chunking, Velocity]) -> None:
    chunking, network = model
    start, times, (cond, null) = noise(2, FRAMES - given, CHANNELS, *SIZE), grid(2, 5.0), conditions()
    frames = noise(2, given, CHANNELS, *SIZE, seed=7)
    seen, unseen = (chunking.given(network, half, frames) for half in (cond, null))
    sizes = chunking.sizes(FRAMES, given)
    expected = torch.cat([frames, by_hand(network, start, times, seen, unseen, chunking, sizes)], 1)
    both = GuidedCond(cond, null)
    chunks = GuidedChunks(chunking)
    found = rollout(Euler(), Guided(network, SCALE), start, times, both, chunks, draw(2), context=frames)
    assert torch.equal(found[:, :given], frames)
    assert error(found, expected) < 1e-5


@torch.no_grad()
def test_all_frames_at_once_after_a_given_one() -> None:
    backbone = bidirectional(3, SIZE)
    network, chunking = student(backbone)[1], backbone.chunking()
    start, frames, times, (cond, null) = (
        noise(2, 2, CHANNELS, *SIZE),
        noise(2, 1, CHANNELS, *SIZE),
        grid(2),
        conditions(),
    )
    seen, unseen = (chunking.given(network, half, frames) for half in (cond, null))
    expected = torch.cat([frames, by_hand(network, start, times, seen, unseen, chunking, (2,))], 1)
    both, chunks = GuidedCond(cond, null), GuidedChunks(chunking)
    found = rollout(Euler(), Guided(network, SCALE), start, times, both, chunks, draw(2), context=frames)
    assert error(found, expected) < 1e-5


@torch.no_grad()
def test_a_scale_of_one_is_no_guidance(model: tuple[Chunking, Velocity]) -> None:
    chunking, network = model
    start, times, (cond, null) = noise(2, FRAMES, CHANNELS, *SIZE), grid(2), conditions()
    both = GuidedCond(cond, null)
    found = rollout(Heun(), Guided(network, 1.0), start, times, both, GuidedChunks(chunking), draw(2))
    assert torch.equal(found, rollout(Heun(), network, start, times, cond, chunking, draw(2)))


@torch.no_grad()
def test_rows_of_a_guided_condition(model: tuple[Chunking, Velocity]) -> None:
    chunking, network = model
    cond, null = conditions()
    frames, x, t = noise(2, 3, CHANNELS, *SIZE, seed=7), noise(2, 2, CHANNELS, *SIZE), torch.tensor([0.8, 0.3])
    both = GuidedChunks(chunking).given(Guided(network, SCALE), GuidedCond(cond, null), frames)
    assert isinstance(both, GuidedCond)
    guided = Guided(network, SCALE)
    whole = guided.velocity(x, t, both)
    assert error(whole, guided_velocity(network, x, t, both.cond, both.null, SCALE)) == 0
    order = torch.tensor([1, 0])
    assert error(guided.velocity(x[order], t[order], both.take(order)), whole[order]) < 1e-5
    twice = guided.velocity(torch.cat([x, x]), torch.cat([t, t]), both.join(both))
    assert error(twice, torch.cat([whole, whole])) < 1e-5


def test_guided_things_go_together_only(model: tuple[Chunking, Velocity]) -> None:
    chunking, network = model
    cond, null = conditions()
    both, x = GuidedCond(cond, null), noise(2, 1, CHANNELS, *SIZE)
    with pytest.raises(TypeError, match="takes a GuidedCond, not VideoCond"):
        Guided(network, 2.0).velocity(x, torch.ones(2), cond)
    with pytest.raises(TypeError, match="go with a guided network, not ModuleFlowMap"):
        GuidedChunks(chunking).remember(network, both, x)
    with pytest.raises(TypeError, match="takes a GuidedCond, not VideoCond"):
        GuidedChunks(chunking).given(Guided(network, 2.0), cond, x)


def test_chunks_are_those_of_the_model(model: tuple[Chunking, Velocity]) -> None:
    chunking, _ = model
    guided = GuidedChunks(chunking)
    assert guided.sizes(FRAMES, 3) == (2, 1)
    assert guided.window(FRAMES, draw()) == chunking.window(FRAMES, draw())
    batch = Batch(noise(2, 3, CHANNELS, *SIZE), *conditions())
    assert GuidedChunks(OneChunk()).whole(batch) is batch
    with pytest.raises(FlowmapError, match="2 latent frames cannot be given"):
        guided.sizes(FRAMES, 2)


# In an evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory.getbasetemp())


def changed(run: Path, folder: Path, contests: str) -> Plan:
    """The plan of the same run with other contests; its results go to `folder`."""
    recipe = (run / "recipe.lock.toml").read_text()
    head, evaluation = recipe.split("[evaluation]\n")
    simple = re.split(r"^\[", evaluation, maxsplit=1, flags=re.MULTILINE)[0]
    simple = re.sub(r"^metrics = .*?^\]$|^contests = .*?^\]$", "", simple, flags=re.MULTILINE | re.DOTALL)
    metric = 'metrics = [{ type = "sliced_wasserstein", to = "teacher", cells = 4 }]'
    (folder / "r.toml").write_text(f"{head}[evaluation]\n{metric}\ncontests = [{contests}]\n{simple}")
    if not (folder / "runs" / "digits").exists():
        (folder / "runs" / "digits").mkdir(parents=True)
        for stage in ("teacher", "forward"):
            (folder / "runs" / "digits" / stage).symlink_to(run / stage)
    return make_plan(read(folder / "r.toml")[0], folder / "runs")


class Asked:
    """With what the samples of an evaluation were drawn, the teacher's references left out."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.calls: list[tuple[str, str, int, float]] = []
        self.said: list[str] = []
        self.starts: list[Batch | None] = []

        def asked(who: Any, sampler: Any, calls: int, shift: float, drawn: Any, *more: Any, **named: Any) -> Tensor:
            if drawn.turn not in ("reference", "floor"):
                start, scale = more
                self.calls.append((who.stage, sampler.type, 0 if start is None else start.x0.shape[1], scale))
                self.starts.append(start)
            return generate(who, sampler, calls, shift, drawn, *more, **named)

        patch.setattr(joint, "generate", asked)

    def run(self, plan: Plan) -> list[tuple[str, str, int, float]]:
        self.calls.clear()
        self.said.clear()
        module.evaluate(plan, CPU, self.said.append)
        return self.calls


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def rows(plan: Plan) -> list[tuple[str, str, int]]:
    lines = [json.loads(line) for line in (plan.folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["stage"], line["sampler"], line["nfe"]) for line in lines]


GUIDED = '{ stage = "teacher", samplers = ["euler"], cfg_scale = 4.0 }'
FREE = '{ stage = "forward", samplers = ["flow_map"] }'
AFTER = '{ stage = "forward", samplers = ["flow_map", "euler"], context = 3 }'
BOTH = '{ stage = "teacher", samplers = ["euler"], cfg_scale = 2.0, context = 1 }'


def test_every_contest_has_its_row_and_its_label(run: Path, tmp_path: Path, asked: Asked) -> None:
    plan = changed(run, tmp_path, ", ".join([GUIDED, FREE, AFTER, BOTH]))
    assert asked.run(plan) == [
        call
        for row in (
            ("teacher", "euler", 0, 4.0),
            ("forward", "flow_map", 0, 1.0),
            ("forward", "flow_map", 3, 1.0),
            ("forward", "euler", 3, 1.0),
            ("teacher", "euler", 1, 2.0),
        )
        for call in (row, row)
    ]
    assert rows(plan) == [
        ("teacher", "euler", 1),
        ("forward", "flow_map", 1),
        ("forward", "flow_map-after-3", 1),
        ("forward", "euler-after-3", 1),
        ("teacher", "euler-after-1", 1),
    ]
    assert "seed 0: forward (ema), by flow_map-after-3" in asked.said
    pictures = sorted(file.name for file in (plan.folder / "pictures").iterdir())
    assert "forward.ema.flow_map-after-3.1.png" in pictures
    assert len([name for name in pictures if ".ema." in name and ".1." in name]) == 5
    assert asked.run(plan) == []


def test_another_scale_or_context_is_measured_again_and_nothing_else(run: Path, tmp_path: Path, asked: Asked) -> None:
    asked.run(changed(run, tmp_path, f"{GUIDED}, {FREE}, {AFTER}"))
    again = changed(run, tmp_path, f"{GUIDED.replace('4.0', '3.0')}, {FREE}, {AFTER}")
    assert asked.run(again) == [("teacher", "euler", 0, 3.0)] * 2
    again = changed(run, tmp_path, f"{GUIDED.replace('4.0', '3.0')}, {FREE}, {AFTER.replace('3', '1')}")
    assert asked.run(again) == [("forward", name, 1, 1.0) for name in ("flow_map", "euler") for _ in range(2)]
    assert [row[1] for row in rows(again)] == ["euler", "flow_map", "flow_map-after-1", "euler-after-1"]


def test_what_is_given_is_the_beginning_of_held_out_samples(run: Path, tmp_path: Path, asked: Asked) -> None:
    asked.run(changed(run, tmp_path, AFTER))
    held_out = open_contestant(make_plan_of(run), "ema", CPU).data.reference("held_out", 64).x
    starts = [start for start in asked.starts if start is not None]
    assert len(starts) == 4
    for start in starts:
        assert start.x0.shape == (2, 3, 1, 8, 8)
        for video in start.x0:
            assert any(torch.equal(video, known[:3]) for known in held_out)
    # Other repeats see others.
    assert not torch.equal(starts[0].x0, starts[1].x0)


def test_held_out_samples_are_encoded_once(
    run: Path, tmp_path: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counting(backbone: Backbone, samples: Samples, draw: Draw) -> Batch:
        counts.append(len(samples.x))
        return encoded(backbone, samples, draw)

    monkeypatch.setattr("flowmap.use.real.encoded", counting)
    asked.run(changed(run, tmp_path, f"{AFTER}, {BOTH}"))
    assert len([start for start in asked.starts if start is not None]) == 6
    assert len(counts) == 1


def test_prompts_are_read_many_at_a_time_before_anything_is_sampled(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan(read(run / "recipe.lock.toml")[0], run.parent)
    who = open_contestant(plan.find("teacher", 0), "ema", CPU)
    told: list[str] = []
    condition, made = who.backbone.condition, rollout

    def asked(prompts: Any, count: int, device: torch.device) -> tuple[Cond, Cond]:
        told.append(f"condition {count}")
        return condition(prompts, count, device)

    def sampled(sampler: Any, network: Any, noise: Tensor, *others: Any, **more: Any) -> Tensor:
        told.append(f"sample {len(noise)}")
        return made(sampler, network, noise, *others, **more)

    monkeypatch.setattr(who.backbone, "condition", asked)
    monkeypatch.setattr(who.backbone, "release", lambda: told.append("release"))
    monkeypatch.setattr("flowmap.use.student.rollout", sampled)
    drawn = who.draw("x", 0, 7)
    whole = generate(who, EulerConfig(), 1, 1.0, drawn)
    assert told == ["condition 7", "release", "sample 7"]
    told.clear()
    monkeypatch.setattr("flowmap.use.student._TEXTS_TOGETHER", 5)
    monkeypatch.setattr("flowmap.networks.batches._MOST_TOGETHER", 2)
    parts = generate(who, EulerConfig(), 1, 1.0, drawn)
    assert told == ["condition 4", "release", *["sample 2"] * 2, "condition 3", "release", "sample 2", "sample 1"]
    assert torch.allclose(parts, whole, atol=1e-5)


def test_real_samples_are_encoded_in_parts(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = open_contestant(make_plan_of(run), "ema", CPU)
    samples, draw = who.data.reference("held_out", 10), Draw.whole(0, "x", 0, "encoding", 10)
    whole, sizes = encoded(who.backbone, samples, draw), list[int]()
    expected, real = who.backbone.encode(samples, draw), who.backbone.precompute

    def precompute(some: Samples, part: Draw) -> Samples:
        sizes.append(len(some.x))
        assert list(part.rows) == list(range(sum(sizes[:-1]), sum(sizes)))
        return real(some, part)

    monkeypatch.setattr(who.backbone, "precompute", precompute)
    monkeypatch.setattr("flowmap.use.real._NUMBERS", 4 * samples.x[0].numel())
    parts = encoded(who.backbone, samples, draw)
    assert sizes == [4, 4, 2]
    assert torch.equal(parts.x0, whole.x0)
    assert torch.equal(parts.x0, expected.x0)
    both = [who.network.velocity(found.x0[:, :1], torch.full((10,), 0.5), found.cond) for found in (parts, expected)]
    assert torch.equal(*both)


def make_plan_of(run: Path) -> Any:
    return make_plan(read(run / "recipe.lock.toml")[0], run.parent).find("forward", 0)


def test_a_guided_contestant_is_the_loop_by_hand(run: Path) -> None:
    plan = make_plan(read(run / "recipe.lock.toml")[0], run.parent)
    who = open_contestant(plan.find("teacher", 0), "ema", CPU)
    sampler = plan.recipe.evaluation.contests[0].samplers[0]  # type: ignore[union-attr]
    drawn = who.draw("x", 0, 2)
    start, _ = HeldOut(who).start(1, drawn)
    found = generate(who, sampler, 2, 1.0, drawn, start, SCALE)
    chunking = who.backbone.chunking()
    with torch.no_grad():
        cond, null = (chunking.given(who.network, half, start.x0) for half in (start.cond, start.null))
        left = drawn.normal("start noise", (5, 1, 8, 8))[:, 1:]
        expected = by_hand(who.network, left, grid(2), cond, null, chunking, (2, 2))
    assert torch.equal(found[:, :1], start.x0)
    assert error(found[:, 1:], expected) < 1e-5


def test_a_flow_map_is_not_guided(run: Path, tmp_path: Path) -> None:
    plan = make_plan(read(run / "recipe.lock.toml")[0], run.parent)
    who = open_contestant(plan.find("forward", 0), "ema", CPU)
    sampler = plan.recipe.evaluation.contests[1].samplers[0]  # type: ignore[union-attr]
    words = "sampler 'flow_map' follows the flow map, which cannot be guided .* leave out the guidance of 2, or take"
    with pytest.raises(FlowmapError, match=words):
        generate(who, sampler, 1, 1.0, who.draw("x", 0, 2), None, 2.0)


def test_frames_that_do_not_end_a_chunk_are_refused(run: Path) -> None:
    who = open_contestant(make_plan_of(run), "ema", CPU)
    with pytest.raises(FlowmapError, match=r"2 context frames cannot be given: possible are 1, 3; nearest: 1 or 3$"):
        HeldOut(who).start(2, who.draw("x", 0, 2))
