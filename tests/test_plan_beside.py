"""What a plan says of the moment with most activations, and of what a run takes besides its steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flowmap_wan.configs import FarWan21Config
from torch import nn
from torch.utils.checkpoint import checkpoint

from flowmap.errors import FlowmapError
from flowmap.planning import estimate, limits
from flowmap.planning.activations import Moment, fullest
from flowmap.planning.beside import LIBRARIES, Evaluation, evaluation_of
from flowmap.planning.count import StageCost
from flowmap.planning.events import Call
from flowmap.planning.footprints import footprint_of
from flowmap.planning.limits import crowded, refuse_impossible
from flowmap.plugin.footprint import CallShape
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.schema.specs import RoleSpec
from flowmap.workshop.fake import Meter
from tests.test_plan import Tokens

FAR_14B = Path(__file__).parents[1] / "recipes" / "anyflow_far_14b.toml"
GB = 10**9


def recipe(*overrides: str) -> Recipe:
    return read(FAR_14B, overrides)[0]


def test_the_moment_is_named() -> None:
    specs = {"student": RoleSpec("flow_map", True, ""), "critic": RoleSpec("velocity", True, "")}
    one = Call("student", CallShape("following", 2, 4), 1, True)
    reading = Call("student", CallShape("reading", 2, 4), 1, False)
    score = Call("critic", CallShape("whole", 6), 2, False)
    small = Call("critic", CallShape("whole", 2), 1, False)
    found = fullest(StageCost(1, {}, {}, {(one, reading, small, 0): 1}, 1), specs, Tokens(7))
    # Held: one graph of 200 and its memory of 4000; reading has that memory too, and 20 to compute.
    assert found == Moment("student", one.shape, 1, True, True, 200, 4000, 60, 14)
    assert found.words() == "backward of the student, frames 5 to 6 after a memory of 4"
    assert found.total == 4274

    # Without the memory the scores of two samples are most, while the graph waits.
    first = Call("student", CallShape("whole", 1), 1, True)
    found = fullest(StageCost(1, {}, {}, {(first, score, 0): 1}, 1), specs, Tokens())
    assert found == Moment("critic", score.shape, 2, False, False, 100, 0, 120, 0)
    assert found.words() == "a call of the critic, frames 1 to 6 at once, 2 samples"
    words = [Moment("student", shape, 1, False, False, 0, 0, 0).words() for shape in (reading.shape, first.shape)]
    assert words == ["a call of the student, reading frames 5 to 6 into a memory", "a call of the student, frame 1"]


def test_the_evaluation_of_a_causal_model_by_hand() -> None:
    """A video at a time."""
    made = recipe()
    found = evaluation_of(made, Tokens(7))
    base, own = Tokens().base().bytes, Tokens().own("flow_map").bytes
    # Chunks of 3 frames compute most, and the last one, after 19, has the largest memory.
    assert found == Evaluation("forward", 1, base + own, 30 + 19 * 1000 + 7)
    # The teacher is whole: 21 frames, twice, for it is guided.
    alone = evaluation_of(recipe('evaluation.contests=[{ stage = "teacher", samplers = ["euler"] }]'), Tokens(7))
    assert alone == Evaluation("teacher", 1, base + own, 2 * (210 + 7))
    assert evaluation_of(made.model_copy(update={"evaluation": None}), Tokens()) is None


def test_encoders_are_those_of_the_libraries() -> None:
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        text = UMT5EncoderModel(
            UMT5Config(vocab_size=256384, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
        )
        vae = AutoencoderKLWan()
    counts = [sum(p.numel() for p in model.parameters()) for model in (text, vae)]
    config = FarWan21Config(weights="Wan-AI/Wan2.1-T2V-14B-Diffusers")
    assert config.encoders("cuda") == {"text encoder": 2 * counts[0], "VAE": 4 * counts[1]}
    assert config.encoders("cpu")["text encoder"] == 4 * counts[0]
    assert FarWan21Config(weights="random").encoders("cuda") == {}


def test_mixed_precision_keeps_copies_of_what_is_trained_until_a_forward_ends() -> None:
    """Of three layers under checkpointing all three are there at once, and of frozen ones none."""
    layers = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
    x = torch.zeros(1, 64)

    def alive() -> int:
        with Meter() as meter, torch.autocast("cpu", dtype=torch.bfloat16):
            y = x
            for layer in layers:
                y = checkpoint(layer, y, use_reentrant=False)
            return meter.alive

    assert alive() >= 3 * 2 * 64**2
    layers.requires_grad_(False)
    assert alive() < 2 * 64**2


@pytest.mark.parametrize(
    ("sets", "devices", "bytes_each"),
    [((), 1, 2), ((), 8, 0), (("compute.precision=no",), 1, 0), (("backbone.gradient_checkpointing=false",), 1, 0)],
)
def test_copies_are_of_one_role(sets: tuple[str, ...], devices: int, bytes_each: int, tmp_path: Path) -> None:
    plan = make_plan(recipe(*sets), tmp_path).stages[0]
    assert estimate._copies(plan, devices, 1000) == 1000 * bytes_each


def test_raw_data_that_leave_no_room_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = recipe()
    plan = make_plan(made, tmp_path)
    refuse_impossible(made, plan, 1, 65 * GB)  # encoded, or not here
    monkeypatch.setattr(limits, "raw_data", lambda recipe, stage: stage.name == "on_policy")
    refuse_impossible(made, plan, 1, 75 * GB)
    with pytest.raises(FlowmapError, match=r"^stage 'on_policy' does not fit: its data are raw") as caught:
        refuse_impossible(made, plan, 1, 65 * GB)
    assert "text encoder (11.4 GB) and VAE (0.5 GB) stand beside at least 61." in str(caught.value)
    assert "and there are 65.0 GB. What helps: flowmap encode" in str(caught.value)


def test_an_evaluation_that_cannot_fit_is_refused_and_a_tight_one_warned_of(tmp_path: Path) -> None:
    made = recipe()
    why = (
        r"^the evaluation does not fit: one device holds the network whole, which takes 32.0 GB, and there are 20.0 GB"
    )
    whole = recipe("compute.sampling=replicated")
    with pytest.raises(FlowmapError, match=f"{why}. What helps: compute.sampling = 'sharded'"):
        refuse_impossible(whole, make_plan(whole, tmp_path), 8, 20 * GB)
    # By itself it is sharded there.
    refuse_impossible(made, make_plan(made, tmp_path), 8, 20 * GB)
    without = made.model_copy(update={"evaluation": None})
    refuse_impossible(without, make_plan(without, tmp_path), 8, 20 * GB)
    # Nor can weights be measured that no device holds, where nothing is trained.
    measured = made.model_copy(update={"stages": ()})
    refuse_impossible(measured, make_plan(measured, tmp_path), 1, 40 * GB)
    with pytest.raises(
        FlowmapError, match=r"takes [23]\d\.\d GB, and there are 20.0 GB. What helps: devices with more"
    ):
        refuse_impossible(measured, make_plan(measured, tmp_path), 1, 20 * GB)

    alone, shared = (evaluation_of(made, footprint_of(made), devices, 24 * GB) for devices in (1, 8))
    assert (alone.weights, alone.sharded, shared.sharded) == (pytest.approx(32 * GB, rel=0.02), False, True)
    # An eighth, and of forty blocks two.
    assert alone.weights / 8 + alone.weights / 20 < shared.weights < 1.2 * (alone.weights / 8 + alone.weights / 20)

    taken = Evaluation("forward", 1, 32 * GB, 8 * GB)
    (warning,) = crowded(taken, 42 * GB)
    assert warning.startswith("warning: the evaluation of stage 'forward' is estimated at 40.0 GB on one device")
    assert warning.endswith("What helps: leave [evaluation] out, and run flowmap evaluate where there is more memory")
    (warning,) = crowded(replace(taken, stage="base"), 42 * GB, trains=False)
    assert warning.startswith("warning: the evaluation of 'base' is estimated at 40.0 GB on one device")
    assert "[evaluation]" not in warning
    assert not list(crowded(taken, 45 * GB))
    assert not list(crowded(taken, None))
    assert LIBRARIES == GB // 2
