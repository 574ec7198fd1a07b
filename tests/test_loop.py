"""The loop: schedules, clipping, averages, turns, batches, what is trained and what is not, and when it stops."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowmap.console.signals import Interruption
from flowmap.errors import FlowmapError
from flowmap.files.manifest import checkpoints
from flowmap.interfaces import Loss, Role, Scene, Turn, every
from flowmap.plugin import RoleSpec
from flowmap.recipe.tables import ComputeConfig, EmaConfig, OptimizerConfig
from flowmap.training.loop import Parts, learning_rate, run_stage
from flowmap.training.memory import peak_memory, reset_peak_memory
from flowmap.training.processes import Processes
from flowmap.training.records import NonFiniteError
from flowmap.training.stage import Stage, open_stage
from flowmap.training.train import train
from tests.small_runs import (
    EVERYTHING,
    FORWARD,
    HEAD,
    ON_POLICY,
    TEACHER,
    Watcher,
    checkpoints_every,
    planned,
    scripted,
    scripted_plan,
    tensors,
    trace,
    train_all,
)

TURNED = HEAD.replace('"checkerboard"', '"digits"') + TEACHER


def test_a_stage_with_data_of_its_own_is_trained_on_them(tmp_path: Path) -> None:
    """Digits on their side are the upright ones of the same draw, turned to the left."""
    own = "stages.teacher.data.type=digits", "stages.teacher.data.quarter_turns=1"
    stages = [open_stage(planned(TURNED, tmp_path, *sets).stages[0], Processes(ComputeConfig())) for sets in ((), own)]
    upright, turned = (next(iter(Parts(stage, stage.roles, 0, "0-student"))).batch.x0 for stage in stages)
    assert torch.equal(turned, upright.rot90(1, dims=(3, 4)))
    assert not torch.equal(turned, upright)
    # To the left: what was the rightmost column is the top row.
    assert torch.equal(turned[..., 0, :], upright[..., :, -1])


TRAINED = RoleSpec("velocity", True, "")


def squares(role: str, weight: float = 1.0) -> Callable[[Scene], Iterator[Loss]]:
    """A loss that moves every parameter of `role`."""

    def losses(scene: Scene) -> Iterator[Loss]:
        yield Loss(role, weight * sum_of_squares(scene.roles[role]))

    return losses


def sum_of_squares(role: Role) -> Tensor:
    return torch.stack([(p - 0.1).square().sum() for p in role.own.values()]).sum()


def opened(folder: Path, objective: object, *overrides: str, **stage: object) -> Stage:
    return open_stage(scripted_plan(objective, folder, *overrides, **stage), Processes(ComputeConfig(device="cpu")))  # type: ignore[arg-type]


def copy(role: Role) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in role.own.items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- learning rate


def test_the_learning_rate_of_a_whole_stage() -> None:
    config = OptimizerConfig(lr=1.0, warmup=4, decay=0.5)
    rates = [learning_rate(config, step, 12) for step in range(12)]
    assert rates == pytest.approx([1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    assert [learning_rate(OptimizerConfig(lr=0.5), step, 3) for step in range(3)] == [0.5] * 3


@pytest.mark.parametrize("library", ["transformers", "diffusers.optimization"])
def test_a_warm_up_from_zero_is_that_of_the_libraries(library: str) -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.AdamW([parameter], lr=5e-5)
    schedule = importlib.import_module(library).get_constant_schedule_with_warmup(optimizer, num_warmup_steps=7)
    expected = []
    for _ in range(12):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert expected[0] == 0
    config = OptimizerConfig(lr=5e-5, warmup=7, warmup_zero=True)
    assert [learning_rate(config, step, 12) for step in range(12)] == pytest.approx(expected, rel=1e-12)
    later = config.model_copy(update={"warmup_zero": False})
    assert [learning_rate(later, step, 12) for step in range(11)] == pytest.approx(expected[1:], rel=1e-12)
    assert learning_rate(OptimizerConfig(lr=5e-5, warmup_zero=True), 0, 12) == 5e-5


@given(
    lr=st.floats(1e-6, 1.0),
    warmup=st.integers(0, 60),
    decay=st.floats(0, 1),
    steps=st.integers(1, 100),
    data=st.data(),
)
def test_the_learning_rate_is_positive_and_at_most_the_peak(
    lr: float, warmup: int, decay: float, steps: int, data: st.DataObject
) -> None:
    step = data.draw(st.integers(0, steps - 1))
    rate = learning_rate(OptimizerConfig(lr=lr, warmup=warmup, decay=decay), step, steps)
    assert 0 < rate <= lr
    if step >= warmup and step <= steps - decay * steps:
        assert rate == lr


def test_each_trained_role_has_its_own_rate_and_it_reaches_the_optimiser(tmp_path: Path) -> None:
    text = HEAD + TEACHER + FORWARD + ON_POLICY
    plan = planned(text, tmp_path, "stages.on_policy.roles.critic.optimizer.warmup=4")
    watcher = train_all(plan)
    lines = watcher.records[-5:]
    assert [line.lr["student"] for line in lines] == [1e-3] * 5
    assert [line.lr["critic"] for line in lines] == pytest.approx([1.25e-4, 2.5e-4, 3.75e-4, 5e-4, 5e-4])

    stage = opened(
        tmp_path, scripted(Turn("student", squares("student"))), optimizer=OptimizerConfig(lr=1e-2, warmup=3), clip=0.0
    )
    before = copy(stage.roles["student"])
    for record in run_stage(stage, 0):
        # AdamW's first steps move every parameter by very nearly the learning rate.
        moved = max((p - before[name]).abs().max().item() for name, p in stage.roles["student"].own.items())
        assert moved == pytest.approx(1e-2 * min(record.step / 3, 1), rel=0.02)
        before = copy(stage.roles["student"])


# --- clipping


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e9])
def test_the_gradient_is_clipped_to_the_limit_and_logged_before(tmp_path: Path, clip: float) -> None:
    seen: list[Tensor] = []
    stage = opened(tmp_path, scripted(Turn("student", squares("student", 1000.0))), clip=clip)
    parameters = list(stage.roles["student"].own.values())
    stage.optimizers["student"].register_step_pre_hook(
        lambda *_: seen.append(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())
    )
    expected = 1000 * 2 * torch.cat([(p - 0.1).flatten() for p in parameters]).norm().item()
    record = next(run_stage(stage, 0))
    assert record.norms["student"] == pytest.approx(expected, rel=1e-5)
    assert seen[0].item() == pytest.approx(0.5 if clip == 0.5 else expected, rel=1e-5)


# --- the moving average


def test_the_average_against_one_kept_by_hand(tmp_path: Path) -> None:
    stage = opened(tmp_path, scripted(Turn("student", squares("student"))), ema=EmaConfig(decay=0.75, start=3), steps=8)
    role = stage.roles["student"]
    by_hand = {name: p.double() for name, p in copy(role).items()}
    assert same(role.average, copy(role))
    for record in run_stage(stage, 0):
        decay = 0.75 if record.step - 1 >= 3 else 0.0
        for name, p in copy(role).items():
            by_hand[name] = decay * by_hand[name] + (1 - decay) * p.double()
        assert all(torch.allclose(role.average[n].double(), by_hand[n], rtol=1e-6, atol=1e-7) for n in by_hand)
        assert same(role.average, copy(role)) == (record.step <= 3)
    assert all(value.dtype == torch.float32 for value in role.average.values())


def test_an_objective_sees_the_average_that_the_loop_keeps(tmp_path: Path) -> None:
    inside: list[dict[str, Tensor]] = []

    def losses(scene: Scene) -> Iterator[Loss]:
        with scene.roles["student"].averaged():
            inside.append(copy(scene.roles["student"]))
        yield from squares("student")(scene)

    stage = opened(tmp_path, scripted(Turn("student", losses)), ema=EmaConfig(decay=0.9))
    averages = [{n: a.clone() for n, a in stage.roles["student"].average.items()}]
    for _ in run_stage(stage, 0):
        assert same(inside[-1], averages[-1])
        averages.append({n: a.clone() for n, a in stage.roles["student"].average.items()})
    assert not same(averages[0], averages[-1])


# --- turns, batches, roles


def test_a_turn_is_taken_at_every_so_many_steps(tmp_path: Path) -> None:
    objective = scripted(
        Turn("critic", squares("critic")),
        Turn("student", squares("student"), every(3)),
        critic=TRAINED,
        student=TRAINED,
    )
    stage = opened(tmp_path, objective, steps=7)
    students, critics = [copy(stage.roles["student"])], [copy(stage.roles["critic"])]
    for record in run_stage(stage, 0):
        turn = (record.step - 1) % 3 == 0
        assert set(record.losses) == set(record.lr) == set(record.norms) == {"critic", *(["student"] if turn else [])}
        assert record.backwards == 1 + turn
        students.append(copy(stage.roles["student"]))
        critics.append(copy(stage.roles["critic"]))
        assert same(students[-1], students[-2]) != turn
        assert not same(critics[-1], critics[-2])


def test_every_turn_of_every_step_has_its_own_batch_and_noise(tmp_path: Path) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def look(role: str) -> Callable[[Scene], Iterator[Loss]]:
        def losses(scene: Scene) -> Iterator[Loss]:
            seen.append((scene.batch.x0, scene.draw.normal("noise", (3,))))
            # A name of its own: what a step logs is by name.
            yield Loss(scene.draw.turn, sum_of_squares(scene.roles[role]))

        return losses

    turns = (Turn("student", look("student")), Turn("critic", look("critic")), Turn("student", look("student")))
    stage = opened(tmp_path, scripted(*turns, student=TRAINED, critic=TRAINED), steps=3)
    list(run_stage(stage, 0))
    assert len(seen) == 9
    for part in (0, 1):
        firsts = {tuple(pair[part].flatten().tolist()) for pair in seen}
        assert len(firsts) == 9
    # And it is a function of where it is used, not of what happened before.
    (again,) = Parts(stage, stage.roles, 2, "1-critic")
    assert torch.equal(again.batch.x0, seen[7][0])
    assert torch.equal(again.draw.normal("noise", (3,)), seen[7][1])
    assert again.batch.x0.shape == (8, 1, 2)


def test_only_the_roles_that_a_stage_trains_change(tmp_path: Path) -> None:
    plan = planned(HEAD + EVERYTHING, tmp_path)
    processes = Processes(ComputeConfig(device="cpu"))
    for stage_plan in plan.stages:
        stage = open_stage(stage_plan, processes)
        before = {name: copy(role) for name, role in stage.roles.items()}
        list(run_stage(stage, 0))
        for name, needed in stage_plan.stage.objective.roles().items():
            role = stage.roles[name]
            changed = {n for n, p in role.own.items() if not torch.equal(p, before[name][n])}
            assert changed == (role.own.keys() if needed.trained else set()), (stage_plan.stage.name, name)
            assert all(p.requires_grad == needed.trained for p in role.own.values())
            assert needed.trained or all(p.grad is None for p in role.own.values())
        # Trained again and kept, for the stages after it.
        train(stage_plan, processes, Watcher(), Interruption())


@pytest.mark.parametrize("turns", [1, 2])
def test_two_losses_of_one_name_are_refused(turns: int, tmp_path: Path) -> None:
    def losses(scene: Scene) -> Iterator[Loss]:
        for _ in range(3 - turns):
            yield Loss("same", sum_of_squares(scene.roles["student"]))

    stage = opened(tmp_path, scripted(*(Turn("student", losses) for _ in range(turns))))
    with pytest.raises(FlowmapError, match="two losses of one step are called 'same'"):
        next(run_stage(stage, 0))


def test_each_loss_is_differentiated_before_the_next_is_asked_for(tmp_path: Path) -> None:
    gradients: list[bool] = []

    def losses(scene: Scene) -> Iterator[Loss]:
        p = next(iter(scene.roles["student"].own.values()))
        gradients.append(p.grad is None)
        yield Loss("first", sum_of_squares(scene.roles["student"]), {"size": torch.tensor(2.0)})
        gradients.append(p.grad is None)
        yield Loss("second", 3 * sum_of_squares(scene.roles["student"]))

    stage = opened(tmp_path, scripted(Turn("student", losses)), clip=0.0)
    flat = torch.cat([(p - 0.1).flatten() for p in stage.roles["student"].own.values()])
    record = next(run_stage(stage, 0))
    assert gradients == [True, False]
    assert record.backwards == 2
    assert list(record.losses) == ["first", "second"]
    assert record.losses["second"] == pytest.approx(3 * record.losses["first"])
    assert record.raw == {"first/size": 2.0}
    assert record.norms["student"] == pytest.approx((1 + 3) * 2 * flat.norm().item(), rel=1e-5)


def test_what_a_step_says_of_itself(tmp_path: Path) -> None:
    watcher = train_all(planned(HEAD + TEACHER, tmp_path))
    assert [record.step for record in watcher.records] == [1, 2, 3, 4, 5, 6]
    record = watcher.records[0]
    assert record.calls == {"student": {"grad": 1, "no_grad": 0, "grad_samples": 8, "no_grad_samples": 0}}
    assert record.peak_bytes > 2**20
    assert record.seconds > 0
    assert all(math.isfinite(value) for r in watcher.records for value in r.losses.values())


# --- precision


@pytest.fixture
def bf16() -> Processes:
    return Processes(ComputeConfig(device="cpu", precision="bf16"))


def test_mixed_precision_keeps_float32_parameters(tmp_path: Path, bf16: Processes) -> None:
    plan = planned(HEAD + EVERYTHING, tmp_path, "compute.precision=bf16")
    for stage in plan.stages:
        watcher = Watcher()
        train(stage, bf16, watcher, Interruption())
        assert all(math.isfinite(value) for r in watcher.records for value in r.losses.values())
    saved = tensors(tmp_path / "runs")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_mixed_precision_is_really_used(tmp_path: Path, bf16: Processes) -> None:
    exact = open_stage(planned(HEAD + TEACHER, tmp_path).stages[0], bf16)
    kinds: list[torch.dtype] = []
    layer = next(m for m in exact.roles["student"].module.modules() if isinstance(m, torch.nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    next(run_stage(exact, 0))
    assert kinds == [torch.bfloat16]


# --- a number that is none


def bad_loss(value: float, at: int) -> Callable[[Scene], Iterator[Loss]]:
    def losses(scene: Scene) -> Iterator[Loss]:
        yield Loss("good", sum_of_squares(scene.roles["student"]))
        yield Loss("bad", sum_of_squares(scene.roles["student"]) * (value if scene.draw.step == at else 1.0))

    return losses


class _BadGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.nan


def bad_gradient(at: int) -> Callable[[Scene], Iterator[Loss]]:
    def losses(scene: Scene) -> Iterator[Loss]:
        role = scene.roles["student"]
        yield Loss("first", sum_of_squares(role))
        # Its value is as finite as any.
        value = sum_of_squares(role)
        yield Loss("second", _BadGradient.apply(value) if scene.draw.step == at else value)
        yield Loss("third", sum_of_squares(role))

    return losses


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        (bad_loss(math.nan, 3), "the loss of branch 'bad' of role 'student' is nan"),
        (bad_loss(math.inf, 3), "the loss of branch 'bad' of role 'student' is inf"),
        (bad_loss(-math.inf, 3), "the loss of branch 'bad' of role 'student' is -inf"),
        (bad_gradient(3), "the gradient of branch 'second' of role 'student' is nan"),
    ],
)
def test_a_number_that_is_none_stops_before_anything_is_touched(
    tmp_path: Path, losses: Callable[[Scene], Iterator[Loss]], what: str
) -> None:
    stage = opened(tmp_path, scripted(Turn("student", losses)))
    records = run_stage(stage, 0)
    for _ in range(3):
        next(records)
    role = stage.roles["student"]
    before, average = copy(role), {n: a.clone() for n, a in role.average.items()}
    with pytest.raises(NonFiniteError) as caught:
        next(records)
    assert f"step 4: {what}" in str(caught.value)
    assert caught.value.step == 4
    assert same(copy(role), before)
    assert same(role.average, average)


@pytest.mark.parametrize("losses", [bad_loss(math.nan, 4), bad_gradient(4)])
def test_a_stopped_stage_keeps_its_last_good_checkpoint_and_says_where(
    tmp_path: Path, losses: Callable[[Scene], Iterator[Loss]]
) -> None:
    plan = scripted_plan(scripted(Turn("student", losses)), tmp_path, "checkpoints.every=2")
    good: dict[str, object] = {}
    processes, watcher = (
        Processes(ComputeConfig(device="cpu")),
        Watcher(at=lambda record: good.update(trace(plan.folder))),
    )
    with pytest.raises(FlowmapError) as caught:
        train(plan, processes, watcher, Interruption())
    newest = checkpoints(plan.folder)[-1]
    assert newest.step == 4
    assert "stage 'teacher', step 5: the " in str(caught.value)
    assert f"The last good checkpoint is {newest.path}" in str(caught.value)
    assert "lower the learning rate" in str(caught.value)
    assert caught.value.code == 1
    assert [record.step for record in watcher.records] == [1, 2, 3, 4]
    # Nothing was written after the last good step, and going on hits the same number again.
    files = trace(plan.folder)
    good.update({name: data for name, data in files.items() if "step-000004" in name})
    assert files == {name: data for name, data in good.items() if name in files}
    with pytest.raises(FlowmapError) as again:
        train(plan, processes, Watcher(), Interruption())
    assert str(again.value) == str(caught.value)
    assert trace(plan.folder) == files


def test_a_first_step_that_fails_has_no_checkpoint_to_name(tmp_path: Path) -> None:
    plan = scripted_plan(scripted(Turn("student", bad_loss(math.nan, 0))), tmp_path)
    with pytest.raises(FlowmapError, match=r"step 1: .* There is no checkpoint of this stage yet"):
        train(plan, Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())
    assert checkpoints(plan.folder) == []


def test_the_role_of_a_bad_number_is_named_and_neither_role_is_saved(tmp_path: Path) -> None:
    def critic(scene: Scene) -> Iterator[Loss]:
        yield Loss("critic", sum_of_squares(scene.roles["critic"]) * (math.nan if scene.draw.step == 2 else 1.0))

    turns = (Turn("student", squares("student")), Turn("critic", critic))
    plan = scripted_plan(scripted(*turns, student=TRAINED, critic=TRAINED), tmp_path, "checkpoints.every=1")
    with pytest.raises(FlowmapError, match="step 3: the loss of branch 'critic' of role 'critic' is nan"):
        train(plan, Processes(ComputeConfig(device="cpu")), Watcher(), Interruption())
    assert checkpoints(plan.folder)[-1].step == 2


def test_the_networks_of_a_stage_are_let_go_when_it_ends(tmp_path: Path) -> None:
    import gc
    import weakref

    processes = Processes(ComputeConfig(device="cpu"))
    kept: list[weakref.ref[torch.nn.Module]] = []

    def losses(scene: Scene) -> Iterator[Loss]:
        kept.append(weakref.ref(scene.roles["student"].module))
        yield from squares("student")(scene)

    plan = scripted_plan(scripted(Turn("student", losses)), tmp_path)
    train(plan, processes, Watcher(), Interruption())
    gc.collect()
    assert kept
    assert all(module() is None for module in kept)


def test_checkpoints_do_not_change_the_steps(tmp_path: Path) -> None:
    runs = []
    for number in (1, 100):
        folder = tmp_path / str(number)
        folder.mkdir()
        train_all(planned(HEAD + TEACHER + FORWARD + checkpoints_every(number, keep=1), folder))
        runs.append(trace(folder))
    assert runs[0] == runs[1]
    assert any("step-000006" in name for name in runs[0])


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak counts from the start of the process")
def test_peak_memory_is_that_since_the_reset() -> None:
    cpu = torch.device("cpu")
    large = torch.ones(100_000_000)
    high = peak_memory(cpu)
    del large
    reset_peak_memory(cpu)
    assert peak_memory(cpu) < high - 300_000_000
    assert torch.ones(50_000_000).sum() > 0
    assert peak_memory(cpu) < high - 100_000_000
