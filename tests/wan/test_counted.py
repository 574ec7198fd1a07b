"""What one sample of a rival takes: as counted, as hooks on its layers see it, and as the page of comparisons says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.released import RELEASES
from flowmap_wan.twin import make_twin
from torch import nn

from flowmap.interfaces import Batch
from flowmap.plugin import SampleSpec
from flowmap.recipe.outside import look_up
from flowmap.recipe.tables import ComputeConfig
from flowmap.statistics.effort import Effort
from flowmap.use.counting import Tally
from flowmap.use.networks import Networks
from flowmap.use.student import generate, open_weights

from .rival_folders import one_file, two_experts
from .support import draw

PAGE = (Path(__file__).parents[2] / "docs/compare-with-others.md").read_text()
PAIR = "CausalWan2.2-I2V-A14B-Preview-Diffusers"
ROWS = {
    "Self-Forcing, CausVid warped": ("self_forcing_dmd", 0),
    "CausVid": ("autoregressive_checkpoint", 0),
    "LightX2V's CausVid": ("Wan2.1-T2V-14B-CausVid", 0),
    "Krea-Realtime": ("krea-realtime-video-14b", 0),
    "rCM (77 frames)": ("rCM_Wan2.1_T2V_1.3B_480p", 0),
    "CausalWan2.2 (73 frames), with an image": (PAIR, 1),
    "CausalWan2.2 (73 frames), from words alone": (PAIR, 0),
}
"""By their row of the page: published weights by name, and the latent frames that they are given."""


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_twin(tmp_path_factory.mktemp("encoders") / "twin")


@contextmanager
def embedded() -> Iterator[list[int]]:
    """How many samples went through each embedding of patches, which every pass of a network begins with."""
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, nn.Conv3d) and module.kernel_size == (1, 2, 2):
            seen.append(len(inputs[0]))

    handle = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def of_page(who: str) -> tuple[int, int, int]:
    """Chunks, calls and passes of a row: the first of each, where it has several."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| {who} |")]
    chunks, calls, passes = (re.findall(r"\d+", cell) for cell in row.split("|")[3:6])
    return int(chunks[0]), int(calls[0]), int(passes[0])


@pytest.mark.parametrize(
    "who", [pytest.param(who, marks=() if who.startswith(("rCM", "CausVid")) else pytest.mark.slow) for who in ROWS]
)
def test_the_page_has_what_is_counted_and_what_layers_see(who: str, encoders: Path, tmp_path: Path) -> None:
    name, given = ROWS[who]
    release = RELEASES[name]
    spec = SampleSpec((4 * (release.shape[0] - 1) + 1, 3, 16, 16), text=True, fps=16.0)
    prefix = "net." if name.startswith("rCM") else "model."
    place = tmp_path / name
    folder = two_experts(encoders, place) if name == PAIR else one_file(encoders, place, name, prefix=prefix)
    outside = look_up(str(folder)).sized(spec)
    networks = Networks(outside.backbone, spec, torch.device("cpu"), ComputeConfig(device="cpu"))
    ready = open_weights(outside, 0, cast(Any, None), networks)
    cond, null = ready.backbone.condition(["a red ball"] * 2, 2, ready.device)
    start = Batch(torch.zeros(2, given, *ready.backbone.latent_shape()[1:]), cond, null)
    tally, sampler = Tally(), LcmConfig(**dict(outside.pretrained.sampler_fields))
    with embedded() as seen:
        generate(ready, sampler, outside.pretrained.calls, None, draw(2), start, tally=tally)
    counted = tally.of_one()
    assert counted is not None
    assert counted == Effort(*of_page(who))
    assert counted.passes == sum(seen) / 2


def test_nothing_is_known_of_no_sample() -> None:
    assert Tally().of_one() is None
