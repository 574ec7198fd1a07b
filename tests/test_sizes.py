"""Data of several sizes: every objective trains on them, a step at a time of one, and `check` asks who takes them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
import torch
from flowmap_images.configs import ImagesConfig
from rich.console import Console
from torch import Tensor, nn
from torch.nn.functional import conv2d, silu

from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Cond
from flowmap.launch.run import run_recipe
from flowmap.plugin import BackboneConfig, Finding, SampleSpec
from flowmap.recipe.read import read
from flowmap.testing import check_backbone
from flowmap.use.encode import encode_recipe
from flowmap.workshop import LABELS, Architecture, ModuleBackbone, NoCodec, TensorCond, labelled
from tests.small_runs import EVERYTHING

pytestmark = pytest.mark.usefixtures("one_thread")

RECIPE = """
name = "sizes"
compute = {{ device = "cpu", micro_batch = {micro} }}
backbone = "{backbone}"

[data]
type = "images"
path = "{path}"
condition = "class"
classes = 4
height = 32
width = 32
buckets = true
bucket_step = {step}
held_out = 0.4
"""
MEASURED = """
[evaluation]
teacher = "teacher"
teacher_calls = 2
calls = [1]
samples = 4
repeats = 2
real = 4
metrics = ["semigroup"]
contests = [{ stage = "forward", samplers = ["flow_map"] }]
"""

SEEN: list[tuple[int, ...]] = []
"""The shapes of what networks were called with."""


class Convolutions(nn.Module):
    """Two convolutions, shifted by the times and the class: they take any size."""

    def __init__(self, classes: int, two_times: bool) -> None:
        super().__init__()
        self.inside = nn.Parameter(torch.randn(8, 3, 3, 3) / 5)
        self.outside = nn.Parameter(torch.randn(3, 8, 3, 3) / 8)
        self.time = nn.Linear(1, 8)
        self.target = nn.Linear(1, 8) if two_times else None
        self.label = nn.Embedding(classes + 1, 8)

    def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
        SEEN.append(tuple(x.shape))
        shift = self.time(t[:, None])
        if self.target is not None and r is not None:
            shift = torch.lerp(shift, self.target(r[:, None]), 0.25)
        shift = shift + self.label(cond[LABELS]) if isinstance(cond, TensorCond) else shift
        h = silu(conv2d(x[:, 0], self.inside, padding=1) + shift[..., None, None])
        return conv2d(h, self.outside, padding=1)[:, None]


class ConvolutionsConfig(BackboneConfig):
    """Takes pictures of any size whose sides are even."""

    type: Literal["convolutions"] = "convolutions"
    random_base: ClassVar[bool] = True
    any_size: ClassVar[bool] = True

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        if any(side % 16 for side in spec.shape[-2:]):
            yield Finding("error", ("type",), f"sides are multiples of 16, not {list(spec.shape[-2:])}")

    def build(self, spec: SampleSpec) -> Backbone:
        architecture = Architecture(
            lambda two_times, chosen: Convolutions(spec.classes, two_times), copies={"target.": "time."}
        )
        return ModuleBackbone(self.type, architecture, NoCodec(spec.shape), labelled(spec.classes))


Write = Callable[..., Path]


@pytest.fixture
def recipe(install: Callable[..., None], here: Path) -> Write:
    install(ConvolutionsConfig)
    pictures = ImagesConfig(path="-", condition="class", classes=4).rehearsed(here / "pictures").path

    def write(stages: str = "", micro: int = 0, step: int = 16, backbone: str = "convolutions") -> Path:
        path = here / f"r{micro}.toml"
        path.write_text(RECIPE.format(path=pictures, micro=micro, step=step, backbone=backbone) + stages)
        return path

    return write


def test_the_backbone_keeps_the_contract(install: Callable[..., None]) -> None:
    check_backbone(ConvolutionsConfig(), SampleSpec((1, 3, 16, 32), classes=3))


def test_every_objective_trains_on_several_sizes_however_a_step_is_divided(recipe: Write) -> None:
    found: list[list[dict[str, Any]]] = []
    for micro in (0, 2):
        SEEN.clear()
        stages = EVERYTHING.replace("batch = 8", "batch = 4") + (MEASURED if not micro else "")
        done = run_recipe(recipe(stages, micro), (), (), False, Path(f"runs{micro}"), Console(quiet=True))
        files = sorted(done.folder.rglob("steps.jsonl"))
        found.append([json.loads(line) for path in files for line in path.read_text().splitlines()])
        assert {shape[3:] for shape in SEEN} == {(32, 32), (48, 16), (16, 48)}
    whole, parts = found
    assert len(whole) == len(parts) > 20
    # In parts of a step of another size the losses would be others, not only summed in another order.
    for one, other in zip(whole, parts, strict=True):
        assert one["losses"].keys() == other["losses"].keys()
        assert list(one["losses"].values()) == pytest.approx(list(other["losses"].values()), rel=1e-4)


def test_classes_are_encoded_ahead_and_trained_on(recipe: Write, here: Path) -> None:
    file, shown = recipe(EVERYTHING.replace("batch = 8", "batch = 4")), io.StringIO()
    raw = read(file)[0].data
    assert isinstance(raw, ImagesConfig)
    encode_recipe(file, raw.path, here / "latents", [], Console(file=shown, width=200))
    assert "✓ encoded 24 samples in 2 parts, 0 faults\n" in shown.getvalue()
    facts = json.loads((here / "latents" / "encoded.json").read_text())
    assert (facts["classes"], facts["latents"]["16 x 48"]) == (4, [1, 3, 16, 48])
    runs = [
        run_recipe(file, [f"name={p.name}", f"data.path={p}"], (), False, here, Console(quiet=True))
        for p in (Path(raw.path), here / "latents")
    ]
    losses = [
        [
            json.loads(line)["losses"]
            for path in sorted(done.folder.rglob("steps.jsonl"))
            for line in path.read_text().splitlines()
        ]
        for done in runs
    ]
    assert losses[0] == losses[1]


def refused(path: Path) -> str:
    with pytest.raises(FlowmapError) as caught:
        read(path)
    return str(caught.value)


def test_a_backbone_of_one_size_is_refused(recipe: Write) -> None:
    text = refused(recipe(backbone="mlp"))
    assert "data: its samples have 5 sizes, and backbone 'mlp' takes one; bring all to 32 x 32, or choose" in text


def test_a_backbone_is_asked_about_each_size(recipe: Write) -> None:
    text = refused(recipe(step=8))
    assert "backbone.type: samples of 40 x 24: sides are multiples of 16, not [40, 24]" in text
    assert "samples of 32 x 32" not in text
