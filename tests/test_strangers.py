"""Backbones of shapes that flowmap has never seen, made with the workshop: they keep the contract, and train."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flowmap.interfaces import Backbone, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.plugin.footprint import CallShape
from flowmap.testing import check_backbone, check_data
from flowmap.workshop.footprint import MeasuredFootprint, labels_of

HERE = Path(__file__).parent / "third_party" / "flowmap_strangers"
WAVE, IMAGE = SampleSpec((1, 1, 16), classes=3), SampleSpec((1, 1, 8, 8), classes=10)
SPECS = {"unet1d": WAVE, "sd3_labels": IMAGE}


@pytest.fixture(params=["unet1d", "sd3_labels"])
def stranger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Any:
    monkeypatch.syspath_prepend(HERE)
    from flowmap_strangers.configs import Sd3Config, UNet1dConfig

    return {"unet1d": UNet1dConfig(width=8), "sd3_labels": Sd3Config()}[request.param]


def test_they_keep_the_contract(stranger: Any) -> None:
    check_backbone(stranger, SPECS[stranger.type])


def test_their_data_keep_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    from flowmap_strangers.configs import WavesConfig

    check_data(WavesConfig())


def test_their_footprint_is_that_of_the_real_thing(stranger: Any) -> None:
    """Parameters exactly; of a network with more blocks than the two that are measured, too."""
    config = stranger.model_copy(update={"layers": 5}) if stranger.type == "sd3_labels" else stranger
    spec = SPECS[stranger.type]
    backbone = config.build(spec)
    depth = 5 if stranger.type == "sd3_labels" else 1

    def few(units: int) -> Backbone:
        return config.model_copy(update={"layers": units}).build(spec)  # type: ignore[no-any-return]

    footprint = MeasuredFootprint(few, depth, "no", labels_of(spec))
    role = backbone.role("student", "flow_map", None, Draw.whole(0, "x", 0, "x", 1))
    own = sum(p.numel() for p in role.own.values())
    assert footprint.own("flow_map").count == own
    assert footprint.base().count + own == sum(p.numel() for p in role.module.parameters())
    shape, x, t = CallShape("whole", 1), torch.zeros(1, 1, *spec.shape[1:]), torch.ones(1)
    cond, _ = backbone.condition(torch.tensor([1]), 1, torch.device("cpu"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counted:
        as_flow_map(role.network).mean_velocity(x, t, t, cond)
    assert footprint.flops("flow_map", shape, False) == counted.get_total_flops()
    assert footprint.flops("flow_map", shape, True) > 1.5 * counted.get_total_flops()
    assert footprint.held("flow_map", shape, 4) > 2 * footprint.held("flow_map", shape, 1)


def test_recomputation_under_adapters_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers recomputes its own blocks, by our function: under the role of the call, whatever is called between."""
    monkeypatch.syspath_prepend(HERE)
    from flowmap_strangers.configs import Sd3Config

    found = []
    for recomputed in (False, True):
        backbone = Sd3Config(gradient_checkpointing=recomputed).build(IMAGE)
        draw = Draw.whole(0, "x", 0, "x", 2)
        roles = [backbone.role(name, "flow_map", None, draw) for name in ("student", "other")]
        with torch.no_grad():
            for number, role in enumerate(roles):
                for key, parameter in role.own.items():
                    parameter.add_(0.1 * draw.normal(f"{number} {key}", tuple(parameter.shape))[0])
            for parameter in roles[0].module.parameters():
                parameter.add_(0.01 * draw.normal("base", tuple(parameter.shape))[0])
        cond, _ = backbone.condition(torch.tensor([1, 7]), 2, torch.device("cpu"))
        x, t = draw.normal("points", (1, 1, 8, 8)), torch.tensor([0.8, 0.4])
        outs = [as_flow_map(role.network).mean_velocity(x, t, 0.5 * t, cond) for role in roles]
        with torch.no_grad():
            roles[1].network.velocity(x, t, cond)
        (outs[0].square().sum() + outs[1].sum()).backward()
        found.append({f"{role.name} {key}": p.grad for role in roles for key, p in role.own.items()})
    plain, again = found
    # The last block makes nothing of the text, and its queries get no gradient.
    reached = {key for key, value in plain.items() if value is not None and bool(value.any())}
    assert len(reached) > 0.9 * len(plain)
    assert all(torch.equal(plain[key], again[key]) for key in reached)


RECIPE = """
name = "strange"
data = {data}
backbone = {backbone}

[[stages]]
name = "teacher"
steps = 6
batch = 8
objective = "flow_matching"

[[stages]]
name = "forward"
steps = 4
batch = 8
objective = {{ type = "flow_map", cfg_scale = 2.0, velocity = "teacher", rebalance = false }}
roles.student.from = "teacher"
roles.teacher.from = "teacher"

[[stages]]
name = "on_policy"
steps = 3
batch = 8
objective = {{ type = "backward_simulation", rollout_steps = [1, 2], forward = "discrete_flow_map" }}
roles.student.from = "forward"
roles.teacher.from = "teacher"
roles.critic.from = "teacher"

[evaluation]
teacher = "teacher"
teacher_calls = 4
calls = [1, 2]
samples = 24
metrics = ["sliced_wasserstein", "semigroup"]
contests = [{{ stage = "on_policy", samplers = ["flow_map"] }}]
"""

RUNS = {
    "unet1d": ('"waves"', '{ type = "unet1d", width = 8 }'),
    "sd3_labels": ('{ type = "digits", conditional = true }', '"sd3_labels"'),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_they_train_through_three_stages_and_are_sampled(name: str, tmp_path: Path) -> None:
    """Installed as a distribution of their own, by the commands alone."""
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    subprocess.run([*pip, "--disable-pip-version-check", "--target", str(site), str(HERE)], check=True)
    data, backbone = RUNS[name]
    (tmp_path / "strange.toml").write_text(RECIPE.format(data=data, backbone=backbone))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "COLUMNS": "300", "OMP_NUM_THREADS": "1"}

    def flowmap(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flowmap", *words]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    flowmap("check", "strange.toml")
    assert "parameters" in flowmap("plan", "strange.toml").stdout
    flowmap("run", "strange.toml")
    scores = [json.loads(line) for line in (tmp_path / "runs/strange/metrics.jsonl").read_text().splitlines()]
    assert {(s["stage"], s["nfe"]) for s in scores if s["metric"] == "sliced_wasserstein"} == {
        ("on_policy", 1),
        ("on_policy", 2),
    }
    flowmap("sample", "runs/strange", "--class", "2", "--nfe", "2", "--out", "made")
    assert (tmp_path / "made.png").is_file()
