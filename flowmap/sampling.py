"""Draw samples from a run or from weights, from prompts, images or videos: what `flowmap sample` does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from flowmap.commands import going_on
from flowmap.configs import SamplerConfig, SampleSpec, Weights
from flowmap.contestant import Contestant, generate, latent_context, open_contestant, open_weights
from flowmap.draw import Draw
from flowmap.errors import FlowmapError
from flowmap.folder import readable, writing
from flowmap.hub import RUN_LOCK
from flowmap.interfaces import Batch, Data, Samples
from flowmap.outside import Outside, is_nowhere, look_up
from flowmap.pictures import png, strips
from flowmap.processes import Processes
from flowmap.reopen import choose_sampler, choose_stage, open_run, rerun, runs_near, sampler_called
from flowmap.tables import ComputeConfig
from flowmap.video import ClipError, read_clip, read_image, to_float, to_uint8, write_mp4

_IMAGES, _VIDEOS, _CALLS = 64, 4, 4
_ENDINGS = (".png", ".safetensors", ".mp4")


@final
@dataclass(frozen=True)
class Wish:
    """What to sample.

    `number` samples (per prompt, if there are `prompts`) with `calls` network calls each; what is None is chosen
    from the recipe, or is as the weights' authors have it. `image`, or the first `frames` frames of `video`, are given
    clean. `length` (in frames), `height`, `width` (in pixels) and `shift` are for weights, which have no recipe.
    """

    stage: str | None = None
    weights: Weights = "ema"
    sampler: str | None = None
    calls: int | None = None
    number: int | None = None
    seed: int = 0
    train_seed: int | None = None
    prompts: tuple[str, ...] = ()
    image: Path | None = None
    video: Path | None = None
    frames: int | None = None
    cfg_scale: float | None = None
    length: int | None = None
    height: int | None = None
    width: int | None = None
    shift: float | None = None


@final
@dataclass(frozen=True)
class _Opened:
    """Who is sampled and how; `facts` say who it is."""

    contestant: Contestant
    spec: SampleSpec
    sampler: SamplerConfig
    calls: int
    shift: float
    cfg_scale: float
    facts: dict[str, str]


def sample(where: str, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw samples from `where`: the folder of a run, a folder of weights, or a hub id in the hub's cache.

    Returns the files written, and a summary. The same seed gives the same samples. Videos are written as one mp4 each,
    everything as a picture and as the tensor `samples` `[N, F, ...]` in data space. Raises FlowmapError for what cannot
    be done.
    """
    folder = Path(where)
    if any((place / RUN_LOCK).is_file() for place in (folder, folder.parent)):
        return sample_run(folder, wish, out)
    if is_nowhere(where):
        raise FlowmapError(f"{where} is no folder, neither of a run nor of weights{runs_near(folder)}")
    return sample_weights(look_up(where), wish, out)


def sample_run(folder: Path, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw samples from a finished stage of the run in `folder`; see `sample`."""
    for option in ("length", "height", "width", "shift"):
        if getattr(wish, option) is not None:
            raise FlowmapError(f"--{option}: is for weights; a run's samples are as its recipe says")
    plan = open_run(folder)
    chosen = choose_stage(plan, wish.stage, wish.train_seed)
    config = choose_sampler(plan.recipe, chosen, wish.sampler)
    spec = plan.recipe.data.spec()
    _refuse(wish, spec, config, plan.recipe.backbone.reads_text(), out)
    device = Processes(plan.recipe.compute).device
    with going_on(rerun(folder)):
        contestant = open_contestant(chosen, wish.weights, device)
    shift = plan.recipe.evaluation.shift if plan.recipe.evaluation else 1.0
    facts = {"stage": chosen.stage.name, "weights": wish.weights}
    return _drawn(
        _Opened(contestant, spec, config, wish.calls or _CALLS, shift, wish.cfg_scale or 1.0, facts), wish, out
    )


def sample_weights(weights: Outside, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw samples from `weights`, which are no run's, as their authors do unless `wish` says otherwise."""
    if weights.run is not None:
        return sample_run(weights.run, wish, out)
    for option, given in (("stage", wish.stage), ("train-seed", wish.train_seed), ("weights", wish.weights != "ema")):
        if given:
            raise FlowmapError(f"--{option}: is for runs; {weights.name} is one set of weights")
    told = weights.pretrained
    spec = _spec(weights, wish)
    config = sampler_called(wish.sampler or told.sampler, told.kind, "these weights are")
    backbone = weights.sized(spec).backbone
    _refuse(wish, spec, config, backbone.reads_text(), out)
    if spec.text and not wish.prompts:
        raise FlowmapError("--prompt: say what to show; there are no data whose prompts could be taken")
    shift = told.shift if wish.shift is None else wish.shift
    if shift is None:
        raise FlowmapError(f"--shift: nothing in {weights.name} says for which sampling grid it was made; give it")
    cfg_scale = wish.cfg_scale or (told.cfg_scale if config.network == "velocity" else 1.0)
    device = Processes(ComputeConfig()).device
    contestant = open_weights(weights.sized(spec), spec, 0, device, Asked(), backbone.build(spec))
    size = " x ".join(map(str, (spec.shape[0], *spec.shape[2:]) if spec.fps else spec.shape[2:]))
    facts = {"weights": weights.name, "size": size, "shift": f"{shift:g}"}
    return _drawn(_Opened(contestant, spec, config, wish.calls or told.calls, shift, cfg_scale, facts), wish, out)


def _spec(weights: Outside, wish: Wish) -> SampleSpec:
    """What is to be made: what the weights were made for, in another size if it is wished and possible."""
    spec = weights.pretrained.spec
    if spec is None:
        raise FlowmapError(f"{weights.name}: these weights do not say what they make; evaluate them by a recipe")
    if wish.length is not None and spec.fps is None:
        raise FlowmapError("--length: these weights do not make videos")
    frames, channels, height, width = spec.shape
    shape = (wish.length or frames, channels, wish.height or height, wish.width or width)
    spec = replace(spec, shape=shape)
    given = [
        f"--{name} {value}" for name in ("length", "height", "width") if (value := getattr(wish, name)) is not None
    ]
    for finding in weights.sized(spec).backbone.findings(spec):
        if finding.level == "error":
            raise FlowmapError(f"{' '.join(given) or weights.name}: {finding.message}")
    return spec


@final
class Asked(Data):
    """In the place of data, where there are none: what is made comes from prompts alone."""

    def batch(self, draw: Draw) -> Samples:
        """Raises FlowmapError."""
        raise FlowmapError("there are no data here; a recipe has them")

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """Raises FlowmapError."""
        raise FlowmapError("there are no data here; a recipe has them")

    def prompts(self, draw: Draw) -> None:
        """None: whoever asks brings them."""
        return

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """Videos as rows of frames, images side by side."""
        return strips(to_uint8(x.cpu()).permute(0, 1, 3, 4, 2).numpy())


def _drawn(opened: _Opened, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw the samples and write them."""
    contestant, spec, config, device = opened.contestant, opened.spec, opened.sampler, opened.contestant.device
    count = wish.number or (1 if wish.prompts else _VIDEOS if spec.fps else _IMAGES)
    total = count * max(1, len(wish.prompts))
    draw = Draw.whole(wish.seed, "flowmap sample", 0, config.type, total, device)
    given = _given(wish, contestant, spec)
    start = _start(wish, contestant, given, count, draw)
    with writing(out):
        # Before the work, not after it.
        out.parent.mkdir(parents=True, exist_ok=True)
    samples = generate(contestant, config, opened.calls, opened.shift, draw, start, opened.cfg_scale)
    facts: dict[str, object] = {**opened.facts, "sampler": config.type, "nfe": opened.calls, "seed": wish.seed}
    if opened.cfg_scale != 1:
        facts["guidance"] = opened.cfg_scale
    if given is not None:
        facts["frames given"] = f"{len(given)} of {spec.shape[0]}"
    return _write(out, samples, contestant, spec, facts), ", ".join(f"{k} {v}" for k, v in facts.items())


def _refuse(wish: Wish, spec: SampleSpec, sampler: SamplerConfig, reads_text: bool, out: Path) -> None:
    """Raise FlowmapError for wishes that these data, this sampler or this backbone cannot fulfil."""
    if not out.name:
        raise FlowmapError(f"--out {out}: give a name for the files, such as samples")
    if wish.cfg_scale not in (None, 1) and sampler.network == "flow_map":
        raise FlowmapError(
            f"--guidance {wish.cfg_scale:g}: sampler '{sampler.type}' follows the flow map, which cannot be guided "
            "(the guidance of training is in it); leave it out, or take --sampler euler"
        )
    if wish.prompts and not spec.text:
        raise FlowmapError("--prompt: the data of this run have no captions, so its model takes no prompts")
    if wish.prompts and not reads_text:
        raise FlowmapError("--prompt: the backbone of this run has no text encoder; its data bring the conditions")
    if wish.image and wish.video:
        raise FlowmapError("--image and --video: give one of them")
    if (wish.image or wish.video) and spec.fps is None:
        raise FlowmapError("--image and --video: this run's model does not make videos")
    if wish.frames is not None and wish.video is None:
        raise FlowmapError("--frames: says how much of --video is given; there is none")


def _given(wish: Wish, contestant: Contestant, spec: SampleSpec) -> Tensor | None:
    """The frames given clean, in data space `[k, C, H, W]`; None if nothing is."""
    try:
        if wish.image is not None:
            latent_context(contestant.contexts, 1)
            pixels = read_image(wish.image, spec)
        elif wish.video is not None:
            pixels = _clip(wish.video, wish.frames, contestant, spec)
        else:
            return None
    except ClipError as error:
        raise FlowmapError(str(error)) from None
    x = to_float(pixels)
    return x.mean(1, keepdim=True) if spec.shape[1] == 1 else x


def _clip(path: Path, frames: int | None, contestant: Contestant, spec: SampleSpec) -> Tensor:
    """The first `frames` frames; without a number, as many as the clip has and the model can be given."""
    if frames is not None:
        try:
            latent_context(contestant.contexts, frames)
        except FlowmapError as error:
            raise FlowmapError(f"--frames {frames}: {error}") from None
        return read_clip(path, frames, spec)
    problem = ClipError(f"{path}: the model of this run cannot be given frames")
    for possible in sorted(contestant.contexts, reverse=True):
        try:
            return read_clip(path, possible, spec)
        except ClipError as error:
            problem = error
    raise problem


def _start(wish: Wish, contestant: Contestant, given: Tensor | None, count: int, draw: Draw) -> Batch | None:
    """The given frames and the conditions of all samples; None if everything comes from the data's own prompts."""
    if given is None and not wish.prompts:
        return None
    backbone, device = contestant.backbone, contestant.device
    prompts = [prompt for prompt in wish.prompts for _ in range(count)]
    cond, null = backbone.condition(prompts or contestant.data.prompts(draw), draw.count)
    if given is None:
        x0 = torch.zeros(draw.count, 0, *backbone.latent_shape()[1:], device=device)
    else:
        # The prompts are read above; a video needs none to be encoded.
        x0 = backbone.precompute(Samples(given[None].to(device), prompts=[])).x
        x0 = x0.expand(draw.count, *x0.shape[1:])
    return Batch(x0, cond, null)


def _write(
    out: Path, samples: Tensor, contestant: Contestant, spec: SampleSpec, facts: dict[str, object]
) -> list[Path]:
    stem = out.with_suffix("") if out.suffix in _ENDINGS else out
    picture, tensors = (stem.with_name(stem.name + ending) for ending in (".png", ".safetensors"))
    with writing(out):
        picture.write_bytes(png(contestant.data.picture(samples)))
        save_file({"samples": samples.contiguous()}, tensors, metadata={k: str(v) for k, v in facts.items()})
        readable(tensors)
    if spec.fps is None:
        return [picture, tensors]
    videos = []
    for index, video in enumerate(samples):
        number = f"-{index}" if len(samples) > 1 else ""
        videos.append(stem.with_name(f"{stem.name}{number}.mp4"))
        write_mp4(videos[-1], _film(video, contestant), spec.fps)
    return [*videos, picture, tensors]


def _film(video: Tensor, contestant: Contestant) -> NDArray[np.uint8]:
    """A video `[F, C, H, W]` as frames `[F, H, W, 3]`: its own colours, or drawn as its data draw themselves."""
    if video.shape[1] == 3:
        return to_uint8(video).permute(0, 2, 3, 1).numpy()
    return np.stack([contestant.data.picture(frame[None, None]) for frame in video])
