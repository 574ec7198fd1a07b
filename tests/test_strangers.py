"""The package of strangers: footprints, gradients, data and metric as they should be, by public names alone.

The kit on each of its components is in the package's own tests, its runs in test_strangers_installed.py.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from flowmap.interfaces import Backbone, Evidence, Samples, as_flow_map
from flowmap.maths.draw import Draw
from flowmap.plugin import SampleSpec
from flowmap.plugin.footprint import CallShape
from flowmap.testing import suite
from flowmap.workshop.footprint import MeasuredFootprint, labels_of

ROOT = Path(__file__).parents[1]
HERE = ROOT / "tests" / "third_party" / "flowmap_strangers"
WAVE, IMAGE = SampleSpec((1, 1, 16), classes=3), SampleSpec((1, 1, 8, 8), classes=10)
SPECS = {"unet1d": WAVE, "sd3_labels": IMAGE}


@pytest.fixture(params=["unet1d", "sd3_labels"])
def stranger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Any:
    monkeypatch.syspath_prepend(HERE)
    from flowmap_strangers.backbones import Sd3Config, UNet1dConfig

    return {"unet1d": UNet1dConfig(width=8), "sd3_labels": Sd3Config()}[request.param]


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
    from flowmap_strangers.backbones import Sd3Config

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


def test_they_use_nothing_but_what_the_reference_lists() -> None:
    """Every name that the package imports from flowmap is on a page of the reference, and none is private."""
    listed = {
        name for page in ROOT.glob("docs/reference-*.md") for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    }
    files = list(HERE.glob("**/*.py"))
    assert len(files) > 8
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.endswith("__"):
                assert isinstance(node.value, ast.Name), f"{file.name}: {node.attr}"
                assert node.value.id == "self", f"{file.name}: {node.attr}"
            if isinstance(node, ast.Import):
                assert not any(alias.name.partition(".")[0] == "flowmap" for alias in node.names), file.name
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "flowmap":
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                if names == {"flowmap.testing.suite.*"}:
                    names = {f"flowmap.testing.suite.{name}" for name in suite.__all__}
                assert names <= listed, f"{file.name}: {sorted(names - listed)}"


@pytest.mark.parametrize("name", ["train", "held_out"])
def test_no_month_is_in_both_splits(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows are the series' own, and those that overlap have one source."""
    monkeypatch.syspath_prepend(HERE)
    from flowmap_strangers.configs import SeaSurfaceConfig

    rows = (HERE / "flowmap_strangers" / "sea_surface.csv").read_text().splitlines()[1:]
    series = torch.tensor([float(word) for row in rows for word in row.split(",")[1:]])
    early = series[: 45 * 12]
    data = SeaSurfaceConfig(months=24).build()
    samples = data.reference(name, 10**6)
    assert len(samples.x) == {"train": 9 * 37, "held_out": 3 * 37}[name]
    places = ((series - early.mean()) / early.std()).unfold(0, 24, 1)
    starts = (samples.x[:, 0, 0, None] - places).abs().amax(-1).argmin(1)
    assert torch.equal(places[starts], samples.x[:, 0, 0])
    assert torch.equal(starts % 12 // 3, samples.labels)
    assert torch.equal(starts // 60, samples.sources)
    assert torch.equal((starts + 23) // 60, samples.sources)
    assert bool((starts + 24 <= 45 * 12).all()) == (name == "train")
    assert bool((starts >= 45 * 12).all()) == (name == "held_out")


def test_the_error_of_labels_is_what_a_loop_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(HERE)
    from flowmap_strangers.label_error import LabelError

    train = Samples(torch.tensor([0.0, 2.0, 10.0, 14.0]).view(-1, 1, 1), torch.tensor([1, 1, 3, 3]))
    held_out = Samples(torch.tensor([1.0, 3.0, 9.0, 0.0]).view(-1, 1, 1), torch.tensor([1, 1, 3, 3]))
    metric = LabelError(train, held_out)
    assert metric.floor(2) == 1 / 4
    asked = torch.tensor([3, 3, 1, 1, 3])
    x = torch.tensor([6.4, 6.6, 20.0, -1.0, 7.0]).view(-1, 1, 1)
    assert metric.score(Evidence(x, None, None, None, asked)) == 2 / 5  # type: ignore[arg-type]
