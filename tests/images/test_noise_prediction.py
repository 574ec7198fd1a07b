"""Models of noise asked for a velocity: against the exact one of a Gaussian, and diffusers' own steps and pipelines."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler
from flowmap_diffusers.noise_prediction import FREQUENCY, NOISINESS, SCHEDULE, TIMES, step_of, velocity_of
from flowmap_diffusers.twin import make_twin

from flowmap.errors import FlowmapError
from flowmap.interfaces import SamplingGrid
from flowmap.weights.names import RANDOM

from .support import CPU, KINDS, VELOCITIES, draw, pictures, spec_of

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
]
NOISES = sorted(set(KINDS) - set(VELOCITIES))
STEPS, SCALE = 3, 4.0


def test_the_table_is_that_of_diffusers_schedulers() -> None:
    """Of DDIM as DiT is told, and of DPM-Solver as it is by default, which is how PixArt is published."""
    for scheduler in (DDIMScheduler(**SCHEDULE), DPMSolverMultistepScheduler()):
        kept = scheduler.alphas_cumprod.double()
        assert torch.allclose(((1 - kept) / kept).log() / 2, torch.tensor(NOISINESS).double(), atol=1e-4)


def test_the_exact_noise_of_a_gaussian_gives_its_exact_velocity() -> None:
    """Data N(m, s^2): what the posterior mean of the noise is on the one path, and of noise - data on the other."""
    m, s = 0.7, 0.4
    t = torch.linspace(TIMES[0], TIMES[-1], 97, dtype=torch.float64)
    x = torch.randn(97, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def noise(z: torch.Tensor, tau: torch.Tensor) -> torch.Tensor:
        ratio = np.exp(np.interp(tau.numpy(), np.arange(1000), NOISINESS))
        alpha = torch.tensor(1 / np.sqrt(1 + ratio**2))[:, None, None, None]
        sigma = torch.tensor(ratio)[:, None, None, None] * alpha
        exact = sigma * (z - alpha * m) / (alpha**2 * s**2 + sigma**2)
        return torch.cat([exact, torch.full_like(exact, torch.nan)], dim=1)  # a learned sigma is dropped

    time = t[:, None, None, None]
    away = (x - (1 - time) * m) / ((1 - time) ** 2 * s**2 + time**2)
    exact = time * away - (m + (1 - time) * s**2 * away)
    assert torch.allclose(velocity_of(noise, x, t), exact, rtol=1e-8, atol=1e-8)


def test_steps_rise_without_a_gap_and_have_their_slope() -> None:
    t = torch.tensor(TIMES, dtype=torch.float64)
    assert torch.allclose(step_of(t), torch.arange(1000).double(), atol=1e-8)
    between = (t[1:] + t[:-1]) / 2
    made, slope = torch.func.jvp(step_of, (between,), (torch.ones_like(between),))
    assert ((made > torch.arange(999)) & (made < torch.arange(1, 1000))).all()
    h = 1e-8
    assert torch.allclose(slope, (step_of(between + h) - step_of(between - h)) / (2 * h), rtol=1e-4)
    assert 0.99 * FREQUENCY < slope.max() < FREQUENCY
    ends = step_of(torch.tensor([0.0, 1.0]))
    assert ends.tolist() == pytest.approx([0.0, 999.0], abs=1e-3)


@pytest.mark.parametrize("name", NOISES)
def test_our_euler_steps_are_ddim_in_the_pipeline(name: str, tmp_path: Path) -> None:
    """The same pictures from the same noise, guided, at the table's steps, as long as our path has it.

    In float64, for a time in float32 does not say its step to the last digit.
    """
    kind = KINDS[name]
    family, folder = kind.family, make_twin(tmp_path / "twin", kind.family)
    side = 8 * int(family.small["sample_size"])
    pipe = getattr(diffusers, family.pipeline).from_pretrained(folder).to(torch.float64)
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.alphas_cumprod = 1 / (1 + (2 * torch.tensor(NOISINESS, dtype=torch.float64)).exp())
    common: dict[str, Any] = {"guidance_scale": SCALE, "num_inference_steps": STEPS, "output_type": "pt"}
    start = torch.randn(2, 4, side // 8, side // 8, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    prompts: Any = ["a red ball on the left", "yellow square"]
    if family.parts:
        # Only transformers of sides of 128 are told the size of the picture.
        pipe.transformer.register_to_config(sample_size=128)
        told = {"height": side, "width": side, "latents": start.clone(), "max_sequence_length": 16}
        out = pipe(prompts, **told, **common, use_resolution_binning=False, clean_caption=False).images
    else:
        prompts = torch.tensor([3, 7])
        out = pipe(prompts.tolist(), generator=torch.Generator().manual_seed(7), **common).images
    backbone = kind(weights=str(folder), text_length=16).build(pictures(kind, side))
    conds: list[Any] = [
        {key: x.double() if x.is_floating_point() else x for key, x in cond.tensors.items()}
        for cond in backbone.condition(prompts, 2, CPU)
    ]
    times = torch.tensor([*(TIMES[step] for step in pipe.scheduler.timesteps), 0.0], dtype=torch.float64)
    x = start * ((1 - times[0]) ** 2 + times[0] ** 2).sqrt()
    with torch.no_grad():
        for t, r in pairwise(times):
            asked, null = (family.velocity(pipe.transformer, x, t.expand(2), cond, 1.0) for cond in conds)
            x = x + (r - t) * (null + SCALE * (asked - null))
        ours = pipe.vae.decode(x / pipe.vae.config.scaling_factor).sample / 2 + 0.5
    assert (ours.clamp(0, 1) - torch.as_tensor(out)).abs().max() < 1e-5
    assert ours.std() > 1e-3


@pytest.mark.parametrize("name", NOISES)
def test_a_velocity_is_exported_as_the_model_of_noise_that_it_is(name: str, tmp_path: Path) -> None:
    """With a scheduler of its table; a flow map, which no pipeline would sample, is refused."""
    kind = KINDS[name]
    folder, out = make_twin(tmp_path / "twin", kind.family), tmp_path / "out"
    backbone = kind(weights=str(folder), text_length=16).build(pictures(kind, 64))
    role = backbone.role("teacher", "velocity", None, draw())
    out.mkdir()
    backbone.export(role, out, "diffusers", True, SamplingGrid(2.0, 4))
    pipe = getattr(diffusers, kind.family.pipeline).from_pretrained(out)
    assert isinstance(pipe.scheduler, DDIMScheduler)
    assert pipe.scheduler.config.beta_end == 0.02
    for key, value in pipe.transformer.state_dict().items():
        assert torch.equal(value, role.module.transformer.state_dict()[key]), key
    student = backbone.role("student", "flow_map", None, draw())
    with pytest.raises(FlowmapError, match="asks for noise, and this student makes a velocity"):
        backbone.export(student, tmp_path / "no", "diffusers", True, SamplingGrid(2.0, 4))


@pytest.mark.parametrize("name", NOISES)
def test_configurations_of_before_the_class_are_told_apart(name: str, tmp_path: Path) -> None:
    """DiT and PixArt were published as one class, Transformer2DModel."""
    kind = KINDS[name]
    folder = make_twin(tmp_path / "twin", kind.family)
    told = folder / "transformer" / "config.json"
    norm = {"dit": "ada_norm_zero", "pixart": "ada_norm_single"}[name]
    told.write_text(json.dumps(json.loads(told.read_text()) | {"_class_name": "Transformer2DModel", "norm_type": norm}))
    assert [other for other in sorted(KINDS) if KINDS[other].of_weights(str(folder))] == [name]
    config = kind(weights=str(folder))
    assert not [one for one in config.findings(pictures(kind, 64)) if one.level == "error"]
    config.build(pictures(kind, 64)).role("teacher", "velocity", None, draw())


def test_labels_are_those_it_has_and_pictures_are_square() -> None:
    kind = KINDS["dit"]
    config = kind(weights=RANDOM)
    spec = replace(spec_of(kind), classes=1001, shape=(1, 4, 8, 16))
    found = [finding.message for finding in config.findings(spec) if finding.level == "error"]
    assert any("labels for 1000 classes, and these data have 1001" in message for message in found)
    assert any("takes square images" in message for message in found)
