"""A transformer with a second time, r, and the pipeline that samples it in a few calls (written by flowmap).

u(x, t, r) is the mean velocity from t to r: x_r = x_t + (r - t) u, so each call is one step of the scheduler, which
goes on to r. flowmap copies this file beside weights that it exports; it needs torch and diffusers alone:

    pipe = DiffusionPipeline.from_pretrained(FOLDER, trust_remote_code=True)
    image = pipe("a red fox", num_inference_steps=4, guidance_scale=1.0).images[0]
"""

import functools
import weakref

import diffusers
import torch
from torch import nn

MODEL, PIPELINE = "SD3Transformer2DModel", "StableDiffusion3Pipeline"
EMBEDDERS, GATE = ("time_text_embed.timestep_embedder",), 0.25
SCALE, BACKWARDS = 1000.0, False


class Pair(nn.Module):
    """A linear layer for each of two times: input `[2 B, in]`, t's rows before r's; weights `[2, out, in]`."""

    def __init__(self, one):
        super().__init__()
        self.weight = nn.Parameter(torch.stack([one.weight.detach()] * 2))
        self.bias = None if one.bias is None else nn.Parameter(torch.stack([one.bias.detach()] * 2))

    def forward(self, x):
        """To `[2 B, out]`."""
        made = torch.einsum("pbi,poi->pbo", x.unflatten(0, (2, -1)), self.weight)
        return (made if self.bias is None else made + self.bias[:, None]).flatten(0, 1)


def linear_layers(module):
    """The linear layers of an embedder and where they stand."""
    return [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]


def put(module, name, layer):
    """Put `layer` in the place of the one called `name`."""
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)


class TwoTimes(getattr(diffusers, MODEL)):
    """The transformer of one time, with embedders of both; the scheduler that it follows says what r is."""

    @functools.wraps(getattr(diffusers, MODEL).__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.followed = None
        for path in EMBEDDERS:
            embedder = self.get_submodule(path)
            for name, layer in linear_layers(embedder):
                put(embedder, name, Pair(layer))
            # What makes sinusoids of times, if the embedder does not do so itself.
            proj = getattr(self.get_submodule(path.rpartition(".")[0]), "time_proj", None)
            embedder.register_forward_pre_hook(functools.partial(self.with_r, proj))
            embedder.register_forward_hook(self.mixed)

    def follow(self, scheduler):
        """Have the steps of `scheduler`, or of what it gives when called, say to which time each call goes."""
        self.followed = scheduler if callable(scheduler) else lambda: scheduler

    def with_r(self, proj, embedder, given):
        """What the embedder is given: the sinusoids of t, then those of r."""
        if self.followed is None:
            raise RuntimeError(
                "these weights are a network of two times: load them with DiffusionPipeline.from_pretrained(FOLDER, "
                "trust_remote_code=True), or say transformer.follow(pipe.scheduler)"
            )
        like, scheduler = given[0], self.followed()
        index = scheduler.step_index or 0
        # t and r of the step that the scheduler is at, as the sinusoids see them.
        now = scheduler.sigmas[index : index + 2].to(like.device, torch.float32)
        times = (SCALE * (1 - now if BACKWARDS else now)).repeat_interleave(len(like))
        return ((times if proj is None else proj(times).to(like.dtype)), *given[1:])

    def mixed(self, embedder, given, made):
        """The embedding of both times."""
        t, r = made.unflatten(0, (2, -1))
        return torch.lerp(t, r, GATE)


class FlowMapScheduler(diffusers.FlowMapEulerDiscreteScheduler):
    """Times evenly from 1 to 0, shifted as in training, whatever a pipeline would have."""

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None):
        """The grid of `num_inference_steps`, or of as many steps as `sigmas` has."""
        super().set_timesteps(len(sigmas) if num_inference_steps is None else num_inference_steps, device)


class FlowMapPipeline(getattr(diffusers, PIPELINE)):
    """The family's pipeline, whose scheduler tells the transformer to which time each call goes."""

    @functools.wraps(getattr(diffusers, PIPELINE).__init__)
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.transformer is not None:
            # Whichever it has when it samples: somebody may put another in its place.
            here = weakref.ref(self)
            self.transformer.follow(lambda: here().scheduler)
