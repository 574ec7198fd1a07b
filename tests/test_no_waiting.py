"""A step tells an accelerator what to do and waits for nothing: every objective, on one that is not there.

What does wait, and is left out here: `Records.read`, the one reading of a step's numbers, about once a second; what
measures differences (`TangentError`), in the 1st, the 10th and every 100th update; the encoders of raw samples; the
multistep samplers, whose schedulers keep their grid on the CPU; and every call of a few transformers: Z-Image and
Lumina-Image 2.0 take texts one by one, and ask for their lengths (`lists.lengths`); and see CALLS_WAIT.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flowmap.interfaces import Samples, Scene, World
from flowmap.maths.devices import sent
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.training import tangent_error
from flowmap.training.first_batch import FirstBatch
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.records import Records, Turned
from flowmap.training.stage import Stage, open_stage
from flowmap.weights.names import RANDOM
from tests.images import support as images
from tests.no_waiting import THERE, WaitingError, no_waiting

OBJECTIVES = catalogue().names("objective")

RECIPE = """
name = "small"
compute = {{ device = "cpu", micro_batch = 2 }}
{model}

[[stages]]
name = "it"
steps = 2
batch = {batch}
objective = {objective}
"""

DIGITS = """
data = { type = "digits", conditional = true }
backbone = { type = "mlp", width = 8, depth = 1 }
"""

WAN = """
data = {{ type = "moving_digits", frames = 5, size = 8 }}

[backbone]
type = "{kind}"
weights = "random"
architecture = {{ layers = 1, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, patch = [1, 2, 2] }}
{more}
"""
FAR = """
chunks = [1, 2, 2]
full_chunks = 2
compressed_patch_size = [1, 4, 4]
"""
LORA = "lora = { rank = 2, alpha = 2.0 }\ngradient_checkpointing = true"
MODELS = {
    "mlp": DIGITS,
    "wan": WAN.format(kind="wan21", more="first_frame = 0.5"),
    "far": WAN.format(kind="far_wan21", more=FAR + LORA),
}

FIELDS = {
    "trajectory": "trajectory_steps = 4",
    "rcm": "start = 0, critic_steps = 1",
    "scm": "bins = 0",
}
DEFAULTS = [f"{{ type = '{name}', {FIELDS.get(name, '')} }}".replace(",  }", " }") for name in OBJECTIVES]
VARIANTS = [
    "{ type = 'flow_map', weight = 'beta08', cfg_scale = 3.0, drop_condition = 0.2, bidirectional = 0.5 }",
    "{ type = 'backward_simulation', forward = 'flow_map', score = 'forced', rollout_steps = [2] }",
    "{ type = 'consistency', schedule = 'improved', start_stage = 4, cfg_scale = 2.0, distance = 'pseudo_huber' }",
    "{ type = 'eulerian', velocity = 'self', tangent = { method = 'central' } }",
    "{ type = 'lagrangian', velocity = 'self', tangent = { method = 'central' } }",
    "{ type = 'mean_flow', cfg_scale = 2.0, drop_condition = 0.2, times = { distribution = 'logit_normal' } }",
    "{ type = 'semigroup', velocity = 'teacher', cfg_scale = 2.0 }",
]
FOR_VIDEO = [
    *VARIANTS[:2],
    "{ type = 'self_forcing', steps = 2, critic_steps = 1 }",
    "{ type = 'causvid', steps = 2, critic_steps = 1 }",
    "{ type = 'flow_matching' }",
]
CASES = [
    *(("mlp", objective) for objective in DEFAULTS + VARIANTS),
    *(("wan", objective) for objective in FOR_VIDEO),
    *(("far", objective) for objective in [*FOR_VIDEO, "{ type = 'trajectory', trajectory_steps = 4 }"]),
]


def there(stage: Stage) -> Stage:
    """The same stage on the accelerator that is not there."""
    for module in {id(role.module): role.module for role in stage.roles.values()}.values():
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        owned = [role for role in stage.roles.values() if role.module is module]
        own = {role.name: {key: names[id(p)] for key, p in role.own.items()} for role in owned}
        trained = {name: p.requires_grad for name, p in module.named_parameters()}
        module.to(THERE)
        moved = dict(module.named_parameters())
        for name, parameter in moved.items():
            parameter.requires_grad_(trained[name])
        for role in owned:
            role.own = {key: moved[name] for key, name in own[role.name].items()}
            role.average = {key: value.to(THERE) for key, value in role.average.items()}
    stage.processes.device = THERE
    # Fused kernels are only for devices that exist. They read nothing.
    own = {name: list(stage.roles[name].own.values()) for name in stage.optimizers}
    return replace(stage, optimizers={name: torch.optim.AdamW(p, foreach=True) for name, p in own.items()})


def opened(folder: Path, model: str, objective: str) -> Stage:
    path = folder / "recipe.toml"
    # Two micro-batches of the model whose calls are cheapest: more of the others are only more of the same calls.
    path.write_text(RECIPE.format(model=model, objective=objective, batch=4 if model == DIGITS else 2))
    return there(open_stage(make_plan(read(path)[0], folder).stages[0], Processes(ComputeConfig(device="cpu"))))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> list[Turned]:
    """The turns that would be read, which none is."""
    turns: list[Turned] = []
    monkeypatch.setattr(Records, "add", lambda self, turn: turns.append(turn))
    monkeypatch.setattr(Records, "read", lambda self: None)
    monkeypatch.setattr(Records, "told", lambda self: iter(()))
    monkeypatch.setattr(tangent_error, "due", lambda update: False)
    return turns


@pytest.fixture
def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the first batch looked at, which is waited for, once."""
    monkeypatch.setattr(FirstBatch, "see", lambda self, batch: None)


def run(stage: Stage) -> None:
    """All steps of the stage: the first is guarded, the last is to be read."""
    for _ in run_stage(stage, 0, lambda step: False, seconds=1e9):
        pass


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # its own, of forward mode
@pytest.mark.usefixtures("unseen")
@pytest.mark.parametrize(("model", "objective"), CASES)
def test_a_step_waits_for_nothing(model: str, objective: str, tmp_path: Path, unread: list[Turned]) -> None:
    stage = opened(tmp_path, MODELS[model], objective)
    if model != "mlp":
        run(stage)  # what is made once for all calls of a layout, such as masks and rotations, may wait
    with no_waiting():
        run(stage)
    assert {turn.role for turn in unread} == set(stage.optimizers)


@pytest.mark.usefixtures("unseen")
def test_the_one_reading_is_seen(tmp_path: Path) -> None:
    stage = opened(tmp_path, MODELS["mlp"], "'flow_matching'")
    with pytest.raises(WaitingError, match="a copy from the accelerator") as seen, no_waiting():
        run(stage)
    assert [entry.name for entry in seen.traceback if "records.py" in str(entry.path)] == ["read"]


CALLS_WAIT = {
    "lumina2": "diffusers keeps its rotations on the CPU",
    "qwen_image": "diffusers makes the length of its text a tensor",
}


@pytest.mark.parametrize("name", images.KINDS)
def test_an_image_transformer_waits_for_nothing(name: str) -> None:
    kind = images.KINDS[name]
    backbone = kind(weights=RANDOM).build(images.spec_of(kind))
    draw = replace(images.draw(4), device=THERE)
    roles = {}
    for role, two_times in (("student", True), ("teacher", False)):
        made = backbone.role(role, "flow_map" if two_times else "velocity", None, images.draw(1))
        made.module.to(THERE)
        roles[role] = made
    prompts = images.prompts(kind, 4)
    samples = Samples(images.draw(4).normal("x", images.spec_of(kind).shape), None, prompts, True).to(THERE)
    objective = catalogue().find("objective", "flow_map")(velocity="teacher", cfg_scale=2.0).build()

    def step() -> None:
        scene = Scene(roles, backbone.encode(samples, draw), draw, backbone.chunking(), World())
        for turn in objective.turns():
            for loss in turn.losses(scene):
                loss.value.backward()

    step()
    with no_waiting(), pytest.raises(WaitingError) if name in CALLS_WAIT else nullcontext():
        step()


@pytest.mark.parametrize(
    "waiting",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x.sum() > 0),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), x.sum()),
        lambda x: torch.ones(3).to(THERE),
        lambda x: torch.tensor([1.0], device=THERE),
        lambda x: x + torch.ones(3),
        lambda x: x[torch.tensor([1])],
        lambda x: x.unique(),
    ],
)
def test_what_waits_is_told(waiting: Callable[[Tensor], Any]) -> None:
    x = torch.ones(3, device=THERE)
    with no_waiting():
        torch.where(x > 0, x, 0.0) + sent(torch.ones(3), THERE)
    with pytest.raises(WaitingError), no_waiting():
        waiting(x)
