"""Our sampler against diffusers' pipelines; and where the causal pipeline is off, that it is the pipeline."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AnyFlowFARPipeline, AnyFlowPipeline, FlowMapEulerDiscreteScheduler
from diffusers.models.transformers import transformer_anyflow_far
from flowmap_samplers.samplers import FlowMapEuler
from torch import Tensor
from torch.nn import functional as F

from flowmap.interfaces import FlowMap, Role
from flowmap.maths.path import grid
from flowmap.networks.rollout import rollout

from .support import CHANNELS, architecture, bidirectional, causal, diffusers_twin, draw, error, noise, student, text

pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention:UserWarning")
STEPS, SHIFT = 4, 5.0


def pipeline(kind: Any, role: Role) -> Any:
    """A pipeline of diffusers without encoders: it gets embeddings and gives latents."""
    made = kind(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=diffusers_twin(role),
        scheduler=FlowMapEulerDiscreteScheduler(shift=SHIFT),
    )
    made.set_progress_bar_config(disable=True)
    return made


def theirs(pipe: Any, start: Tensor, embeddings: Tensor, **more: Any) -> Tensor:
    """The pipeline's latents `[B, F, C, H, W]` from the noise `start`."""
    out = pipe(
        prompt_embeds=embeddings,
        latents=start.transpose(1, 2).clone(),
        num_frames=4 * start.shape[1] - 3,
        height=8 * start.shape[3],
        width=8 * start.shape[4],
        num_inference_steps=STEPS,
        output_type="latent",
        **more,
    )
    latents: Tensor = out.frames
    return latents.transpose(1, 2)


@torch.no_grad()
def ours(backbone: Any, network: FlowMap, start: Tensor, context: Tensor | None = None) -> Tensor:
    times, cond = grid(STEPS, SHIFT), text(len(start))
    chunks = backbone.chunking()
    return rollout(FlowMapEuler(), network, start, times, cond, chunks, draw(len(start)), context=context)


@pytest.mark.parametrize("size", [(6, 10), (4, 4)])
def test_the_bidirectional_pipeline(size: tuple[int, int]) -> None:
    backbone = bidirectional(5, size)
    role, network = student(backbone)
    start = noise(2, 5, CHANNELS, *size)
    latents = theirs(pipeline(AnyFlowPipeline, role), start, text(2).text)
    assert error(ours(backbone, network, start), latents) < 1e-4


CHUNKS = (1, 2, 1, 1, 1)


def unpadded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out of attention without a mask the zeros that diffusers' processor pads keys with."""
    real = transformer_anyflow_far.dispatch_attention_fn

    def dispatch(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, **kwargs: Any) -> Tensor:
        if attn_mask is not None:
            result: Tensor = real(q, k, v, attn_mask=attn_mask, **kwargs)
            return result
        keys = int(k.abs().sum((0, 2, 3)).ne(0).sum())
        q, k, v = (x.transpose(1, 2) for x in (q, k[:, :keys], v[:, :keys]))
        return F.scaled_dot_product_attention(q, k, v, scale=kwargs.get("scale")).transpose(1, 2)

    monkeypatch.setattr(transformer_anyflow_far, "dispatch_attention_fn", dispatch)


def test_the_causal_pipeline_where_it_pads_nothing() -> None:
    size = (16, 32)
    shape = {"compressed_patch_size": (1, 4, 4), "architecture": architecture(2, 20, 1)}
    backbone = causal(CHUNKS, size, **shape)
    role, network = student(backbone)
    start = noise(1, sum(CHUNKS), CHANNELS, *size)
    latents = theirs(pipeline(AnyFlowFARPipeline, role), start, text(1).text)
    assert error(ours(backbone, network, start), latents) < 1e-4
    latents = theirs(pipeline(AnyFlowFARPipeline, role), start, text(1).text, video_latents=start[:, :3])
    assert error(ours(backbone, network, start[:, 3:], context=start[:, :3]), latents) < 1e-4


@pytest.mark.parametrize("size", [(6, 10), (8, 12)])
def test_elsewhere_the_causal_pipeline_attends_to_padding(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = causal(CHUNKS, size, architecture=architecture(2, 12, 1))
    role, network = student(backbone)
    start = noise(2, sum(CHUNKS), CHANNELS, *size)
    made = ours(backbone, network, start)
    pipe = pipeline(AnyFlowFARPipeline, role)
    assert error(made, theirs(pipe, start, text(2).text)) > 1e-2
    unpadded(monkeypatch)
    assert error(made, theirs(pipe, start, text(2).text)) < 1e-4
