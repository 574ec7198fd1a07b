"""Objectives over sets of samples: groups stay together however a batch is split, and what cuts them is refused."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowmap.errors import FlowmapError
from flowmap.interfaces import World
from flowmap.launch.twin import twin_of
from flowmap.maths.draw import Draw
from flowmap.maths.pairs import draw_pairs
from flowmap.planning.limits import refuse_impossible
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.schema.settings import BranchesConfig, uniform_times
from flowmap.testing import check_objective
from tests.maths.test_split import COUNT, STEP, Wide, gradient, part_of, whole_and_split
from tests.set_objective import EnergyConfig
from tests.small_runs import HEAD, TEACHER

SPLITS = [(1, 12), (1, 4), (2, 12), (2, 4), (3, 8), (6, 4)]
GROUP = 4
BRANCHES = BranchesConfig(diffusion=0.3, consistency=0.3)


def grouped(step: int = 0, total: int = COUNT, group: int = GROUP) -> Draw:
    return Draw.whole(0, "stage", step, "0-student", total, group=group)


# Draws


@pytest.mark.parametrize(("processes", "micro"), SPLITS)
def test_whoever_holds_one_of_a_group_holds_it_all_and_in_order(processes: int, micro: int) -> None:
    for step in range(10):
        held: list[int] = []
        for process in range(processes):
            for part in grouped(step).split(processes, process, micro):
                rows = torch.tensor(part.rows).unflatten(0, (-1, GROUP))
                assert torch.equal(rows - rows[:, :1], torch.arange(GROUP).expand_as(rows))
                assert not (rows[:, 0] % GROUP).any()
                held += part.rows
        assert sorted(held) == list(range(COUNT))


@pytest.mark.parametrize(("processes", "micro"), SPLITS)
def test_without_groups_the_split_is_by_single_samples(processes: int, micro: int) -> None:
    """As before there were groups, so that a run that was begun then goes on as it was."""
    draw = Draw.whole(0, "stage", 5, "0-student", COUNT)
    order = draw.shared("order").permutation(COUNT).tolist()
    assert draw.order().tolist() == order
    by_place = sorted(range(COUNT), key=lambda sample: order[sample])
    start = int(draw.shared("processes").integers(processes))
    for process in range(processes):
        for number, part in enumerate(draw.split(processes, process, micro)):
            dealt = by_place[number * micro * processes :][: micro * processes]
            assert list(part.rows) == sorted(dealt[(process + start) % processes :: processes])


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize(("processes", "micro"), SPLITS)
def test_the_numbers_of_a_group_are_one_and_do_not_depend_on_the_split(size: int, processes: int, micro: int) -> None:
    whole = grouped(3)
    t = draw_pairs(whole.groups(size), BRANCHES, uniform_times()).t
    noise = whole.groups(size).normal("shared", (3,))
    assert len(set(t.tolist())) == COUNT // size
    assert torch.equal(t, t[::size].repeat_interleave(size))
    for process in range(processes):
        for part in whole.split(processes, process, micro):
            rows = list(part.rows)
            assert torch.equal(draw_pairs(part.groups(size), BRANCHES, uniform_times()).t, t[rows])
            assert torch.equal(part.groups(size).normal("shared", (3,)), noise[rows])


def test_the_numbers_of_groups_are_independent_of_those_of_samples() -> None:
    draw = grouped()
    assert not set(draw.groups(GROUP).uniform("x").tolist()) & set(draw.uniform("x").tolist())


@pytest.mark.parametrize("size", [1, 2, 4])
def test_branches_have_their_shares_of_the_groups_in_the_order_of_micro_batches(size: int) -> None:
    """As of single samples: a micro-batch with r < t comes after all with r = t (rebalancing needs that)."""
    total = 40
    for step in range(20):
        branches = [
            draw_pairs(part.groups(size), BRANCHES, uniform_times()).branch
            for part in grouped(step, total).split(1, 0, GROUP)
        ]
        found = torch.cat(branches)
        assert found.tolist() == sorted(found.tolist())
        shares = [int((found == branch).sum()) / total for branch in range(2)]
        assert shares == [BRANCHES.diffusion, BRANCHES.consistency]


@pytest.mark.parametrize("rows", [(0, 1, 2), (1, 2, 3, 4), (0, 1, 2, 4), (4, 5, 6, 7, 1, 0, 2, 3)])
def test_parts_of_groups_are_refused(rows: tuple[int, ...]) -> None:
    whole = grouped(total=8)
    with pytest.raises(ValueError, match="not whole groups of 4"):
        Draw(0, "stage", 0, "turn", 8, rows, whole.peers, whole.device, group=4).groups(4)
    with pytest.raises(ValueError, match="not whole groups of 4"):
        Draw.whole(0, "stage", 0, "turn", 8).groups(4)
    with pytest.raises(ValueError, match="micro-batches of 2 samples cut groups of 4"):
        whole.split(2, 0, 2)


# Gradients


@pytest.mark.parametrize(("processes", "micro"), SPLITS)
def test_the_gradient_of_a_set_objective_does_not_depend_on_the_split(processes: int, micro: int) -> None:
    ((expected, ours),) = whole_and_split(EnergyConfig(samples=GROUP), processes, micro)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-9)


def test_its_loss_is_what_loops_over_groups_and_samples_find() -> None:
    objective = EnergyConfig(samples=GROUP)
    draw = Wide.whole(0, "stage", STEP, "student", COUNT, group=GROUP)
    scene = part_of(objective, draw, World())
    (turn,) = objective.build().turns()
    (loss,) = turn.losses(scene)
    pairs = draw_pairs(draw.groups(GROUP), BranchesConfig(diffusion=0.0), uniform_times())
    noise, other = (draw.normal(name, scene.batch.x0.shape[1:]) for name in ("noise", "other noise"))
    made, real = [], []
    for i in range(COUNT):
        t, r, x0 = pairs.t[i : i + 1], pairs.r[i : i + 1], scene.batch.x0[i : i + 1]
        at = (1 - t) * x0 + t * noise[i : i + 1]
        cond = scene.batch.cond.take(torch.tensor([i]))
        made.append((at - (t - r) * scene.flow_map("student").mean_velocity(at, t, r, cond)).detach().flatten())
        real.append(((1 - r) * x0 + r * other[i : i + 1]).flatten())

    def apart(one: Tensor, two: Tensor, soft: float = 0.0) -> float:
        return math.sqrt(float((one - two).square().sum()) + soft)

    total = 0.0
    for first in range(0, COUNT, GROUP):
        pairs = list(itertools.permutations(range(first, first + GROUP), 2))
        across = sum(apart(made[i], real[j]) for i, j in pairs) / len(pairs)
        within = sum(apart(made[i], made[j], 1e-6) for i, j in pairs) / len(pairs)
        total += (2 * across - within) / (COUNT // GROUP)
    assert float(loss.value.detach()) == pytest.approx(total, rel=1e-9)


def test_what_does_not_say_its_groups_is_not_shown_them() -> None:
    """Without the word of the configuration micro-batches cut groups, and the draw refuses to pretend otherwise."""
    objective = type("Undeclared", (EnergyConfig,), {"group": lambda self: 1})(samples=GROUP)
    (turn,) = objective.build().turns()
    part = Wide.whole(0, "stage", STEP, "student", COUNT).split(1, 0, GROUP)[0]
    with pytest.raises(ValueError, match=r"ObjectiveConfig\.group"):
        gradient(objective, turn, part, World())


@pytest.mark.parametrize("samples", [4, 5, 64])
def test_the_kit_shows_whole_groups(samples: int) -> None:
    check_objective(EnergyConfig(samples=samples))
    nobody = type("Nobody", (EnergyConfig,), {"group": lambda self: 0, "__doc__": "None."})
    with pytest.raises(AssertionError, match="groups of 1 sample at least, not of 0"):
        check_objective(nobody())


def test_a_co_trained_objective_brings_its_groups(install: Callable[..., None]) -> None:
    install(EnergyConfig)
    for name in ("dmd2", "backward_simulation"):
        config = catalogue().find("objective", name).model_validate({"forward": {"type": "energy", "samples": 6}})
        assert config.group() == 6  # type: ignore[attr-defined]


# Recipes

STAGE = TEACHER.replace('"flow_matching"', '{ type = "energy", samples = 4 }')
LAST = STAGE.replace('name = "teacher"', 'name = "last"').replace("samples = 4", "samples = 6")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["stages.teacher.batch=10"],
            "stages.teacher.batch: a batch of 10 is not whole groups of 4, within which 'energy' compares samples; "
            "use 8 or 12",
        ),
        (["stages.teacher.batch=2"], "; use 4"),
        (
            ["compute.micro_batch=6", "stages.teacher.batch=24"],
            "compute.micro_batch: stage 'teacher': micro-batches of 6 would cut groups of 4, within which 'energy' "
            "compares samples; use 4 or 8, or leave it out",
        ),
        (["compute.micro_batch=2"], "; use 4, or leave it out"),
        (["compute.micro_batch=9", "stages.teacher.batch=8"], "; use 8, or leave it out"),
    ],
)
def test_check_refuses_what_would_cut_groups(
    changes: list[str], message: str, problem: Callable[..., str], install: Callable[..., None]
) -> None:
    install(EnergyConfig)
    found = problem(HEAD + STAGE, *changes)
    assert message in found
    assert len(found.splitlines()) == 1


def test_it_says_on_which_line(problem: Callable[..., str], install: Callable[..., None]) -> None:
    install(EnergyConfig)
    text = HEAD + STAGE.replace("batch = 8", "batch = 10")
    line = text.splitlines().index("batch = 10") + 1
    assert problem(text).startswith(f"r.toml:{line}: stages.teacher.batch: ")


def test_where_no_micro_batch_suits_all_stages_it_is_left_out(
    problem: Callable[..., str], install: Callable[..., None]
) -> None:
    install(EnergyConfig)
    text = HEAD + STAGE + LAST.replace("batch = 8", "batch = 6")
    assert problem(text, "compute.micro_batch=2").endswith("compares samples; leave it out")


def test_devices_that_would_cut_groups_are_refused(here: Path, install: Callable[..., None]) -> None:
    install(EnergyConfig)
    Path("r.toml").write_text(HEAD + STAGE)
    recipe, _ = read(Path("r.toml"), ["stages.teacher.batch=24"])
    plan = make_plan(recipe, Path("runs"))
    for devices in (1, 2, 3, 6):
        refuse_impossible(recipe, plan, devices, None)
    with pytest.raises(FlowmapError) as caught:
        refuse_impossible(recipe, plan, 4, None)
    assert str(caught.value) == (
        "stage 'teacher': a batch of 24 cannot be shared evenly by 4 devices in whole groups of 4 (objective "
        "'energy'); use a batch of 16 or 32, or 2 or 3 devices"
    )


@pytest.mark.parametrize(("micro", "processes"), [(0, 1), (12, 1), (12, 2), (0, 3)])
def test_a_twin_has_whole_groups(micro: int, processes: int, here: Path, install: Callable[..., None]) -> None:
    install(EnergyConfig)
    Path("r.toml").write_text(HEAD + STAGE + LAST)
    batches = [f"stages.{name}.batch=72" for name in ("teacher", "last")]
    recipe, _ = read(Path("r.toml"), [*batches, f"compute.micro_batch={micro}"])
    twin = twin_of(recipe, Path("parts"), processes)
    assert [finding.message for finding in twin.findings() if finding.level == "error"] == []
    refuse_impossible(twin, make_plan(twin, Path("runs")), processes, None)
    assert all(stage.batch == 12 * processes for stage in twin.stages)
