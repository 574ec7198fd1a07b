"""A causal backbone's stage that was trained on whole videos is measured and sampled as one chunk."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from flowmap_samplers.configs import EulerConfig
from torch import Tensor

from flowmap.interfaces import Batch, Cond
from flowmap.maths.path import grid
from flowmap.reading.open import open_run
from flowmap.recipe.read import read
from flowmap.use.real import HeldOut
from flowmap.use.sample import sample_run
from flowmap.use.student import ReadyModel, generate, open_contestant
from flowmap.use.wish import Wish

from .conftest import edited
from .video_runs import DIGITS, MEASURED, STAGES, finished

pytestmark = pytest.mark.usefixtures("one_thread")

WHOLE = 'objective = { type = "flow_matching", view = "whole" }'
RECIPE = edited(('objective = "flow_matching"', WHOLE), text=DIGITS + STAGES + MEASURED)
STEPS, SHIFT = 3, 2.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("whole"), RECIPE)


@pytest.fixture(scope="module")
def teacher(run: Path) -> ReadyModel:
    plan = open_run(run)
    return open_contestant(plan.find("teacher", 0), "ema", torch.device("cpu"))


def by_hand(teacher: ReadyModel, x: Tensor, cond: Cond, null: Cond, scale: float) -> Tensor:
    """Euler of all frames together: no chunks, no memory."""
    for t, r in itertools.pairwise(grid(STEPS, SHIFT)):
        now = t.expand(len(x))
        with_cond, without = (teacher.network.velocity(x, now, c) for c in (cond, null))
        x = x - (t - r) * (without + scale * (with_cond - without))
    return x


@torch.no_grad()
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_all_frames_are_made_together(teacher: ReadyModel, scale: float) -> None:
    draw = teacher.draw("test", 0, 3)
    cond, null = teacher.backbone.condition(teacher.data.prompts(draw), 3, torch.device("cpu"))
    noise = draw.normal("start noise", teacher.backbone.latent_shape())
    found = generate(teacher, EulerConfig(), STEPS, SHIFT, draw, cfg_scale=scale)
    torch.testing.assert_close(found, by_hand(teacher, noise, cond, null, scale), rtol=0, atol=1e-5)


@torch.no_grad()
def test_given_frames_are_seen_by_all_others(teacher: ReadyModel) -> None:
    draw = teacher.draw("test", 0, 3)
    start, _ = HeldOut(teacher).start(1, draw)
    found = generate(teacher, EulerConfig(), STEPS, SHIFT, draw, start)
    assert torch.equal(found[:, :1], start.x0)
    # The last frame sees the given one directly: another one changes it.
    other = Batch(-start.x0, start.cond, start.null)
    assert float((generate(teacher, EulerConfig(), STEPS, SHIFT, draw, other)[:, -1] - found[:, -1]).abs().max()) > 1e-4


def test_the_forward_stage_beside_it_is_still_made_chunk_by_chunk(run: Path) -> None:
    assert open_contestant(open_run(run).find("forward", 0), "ema", torch.device("cpu")).view == "forced"


def test_sample_goes_the_same_way(run: Path, teacher: ReadyModel, tmp_path: Path) -> None:
    made, summary = sample_run(run, Wish(stage="teacher", calls=STEPS, number=2, cfg_scale=2.0), tmp_path / "x")
    assert "stage teacher" in summary
    assert made


SCORED = """
[[stages]]
name = "on_policy"
steps = 2
batch = 2
objective = {{ type = "backward_simulation", score = "{score}" }}
roles.student.from = "forward"
roles.teacher.from = "teacher"
roles.critic.from = "teacher"
"""


def warnings(here: Path, text: str) -> list[str]:
    (here / "r.toml").write_text(text)
    return [line for line in read(Path("r.toml"))[1] if ".roles." in line]


def test_check_warns_of_a_role_that_is_shown_what_it_was_not_trained_on(here: Path) -> None:
    trained_whole, trained_forced = RECIPE.replace(MEASURED, ""), DIGITS + STAGES
    assert not warnings(here, trained_whole + SCORED.format(score="whole"))
    assert not warnings(here, trained_forced + SCORED.format(score="forced"))
    assert warnings(here, trained_forced + SCORED.format(score="whole")) == [
        f"r.toml:{line}: stages.on_policy.roles.{role}.from: warning: role '{role}' is shown all frames as one chunk, "
        "and stage 'teacher' trained it on chunks after clean ones only; train it with view = 'whole' (flow_matching), "
        "or change how this objective shows frames to it"
        for line, role in ((36, "teacher"), (37, "critic"))
    ]
    (told, _) = warnings(here, trained_whole + SCORED.format(score="forced"))
    assert "is shown chunks after clean ones, and stage 'teacher' trained it on all frames as one chunk only" in told


def test_where_all_frames_are_one_chunk_anyway_there_is_nothing_to_warn_of(here: Path) -> None:
    one = edited(("chunks = [1, 2, 2]", "chunks = [5]"), text=DIGITS + STAGES + SCORED.format(score="whole"))
    assert not warnings(here, one)


@pytest.mark.parametrize("name", ["anyflow_far_1.3b", "anyflow_far_14b"])
def test_the_published_causal_recipes_train_their_scores_as_they_ask_them(name: str) -> None:
    recipe, told = read(Path(__file__).parents[1] / "recipes" / f"{name}.toml")
    assert not [line for line in told if ".roles." in line]
    views = {role: spec.view for role, spec in recipe.stage("on_policy").objective.roles().items()}
    assert views == {"student": "forced", "teacher": "whole", "critic": "whole"}
    assert recipe.stage("teacher").objective.roles()["student"].view == "whole"
