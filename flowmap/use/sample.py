"""Draw samples from a run or from weights, from prompts, images or videos: what `flowmap sample` does."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from flowmap.console.commands import process
from flowmap.console.options import option
from flowmap.errors import ClipError, FlowmapError
from flowmap.files.folder import SKIP_PREFIX, writing
from flowmap.files.whole import readable, write_together
from flowmap.interfaces import Batch, Samples
from flowmap.maths.draw import Draw
from flowmap.phases import phase
from flowmap.reading.open import open_run
from flowmap.schema.specs import SampleSpec
from flowmap.use.opened import Opened, open_wished, open_wished_run
from flowmap.use.student import ReadyModel, generate, latent_context
from flowmap.use.watching import Watcher
from flowmap.use.wish import Wish
from flowmap.video.clips import clip_as, image_as, to_float, to_uint8, write_mp4
from flowmap.video.pictures import png

_IMAGES, _VIDEOS = 64, 4
_ENDINGS = (".png", ".safetensors", ".mp4")


def sample(where: str, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw samples from `where`: the folder of a run, a folder of weights, or a hub id in the hub's cache.

    Returns the files written, and a summary. The same seed gives the same samples. Videos are written as one mp4 each,
    images in colour as one PNG each, everything as a picture (of one image: itself) and as the tensor `samples`
    `[N, F, ...]` in data space. Raises FlowmapError for what cannot
    be done.
    """
    _refuse_name(out)
    return _written(open_wished(where, wish), wish, out)


def sample_run(folder: Path, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw samples from a finished stage of the run in `folder`; see `sample`."""
    _refuse_name(out)
    return _written(open_wished_run(open_run(folder), wish), wish, out)


def _refuse_name(out: Path) -> None:
    if not out.name:
        raise FlowmapError(f"{option('out', out)}: give a name for the files, such as samples")


def _written(opened: Opened, wish: Wish, out: Path) -> tuple[list[Path], str]:
    """Draw the samples and write them; where several processes share them, the first writes."""
    samples, facts = draw_samples(opened, wish, out)
    files = [] if process()[0] else write_samples(out, samples, opened, facts)
    return files, ", ".join(f"{k} {v}" for k, v in facts.items())


def draw_samples(
    opened: Opened, wish: Wish, out: Path | None = None, watcher: Watcher | None = None, noise: str | None = None
) -> tuple[Tensor, dict[str, object]]:
    """Samples `[N, F, ...]` in data space, on the CPU, and what there is to say of how they were made.

    If they are to be written as `out`, its folder is made before the work. A `watcher` is told how far it is. They are
    made from the noise of the opened sampler, or of the sampler called `noise`, beside whose samples they are to be
    seen. Raises FlowmapError if any of them has values that are no finite numbers.
    """
    contestant, spec, config = opened.contestant, opened.spec, opened.sampler
    count = wish.number or (1 if wish.asked else _VIDEOS if spec.fps else _IMAGES)
    total, turn = count * max(1, wish.asked), noise or config.type
    draw = Draw.whole(wish.seed, "flowmap sample", 0, turn, total, contestant.device)
    given = _given(wish, contestant, spec)
    start = _start(wish, contestant, given, count, draw)
    if out is not None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    samples = generate(contestant, config, opened.calls, opened.shift, draw, start, opened.cfg_scale, watcher)
    _refuse_no_numbers(samples)
    facts: dict[str, object] = {**opened.facts, "sampler": config.type, "nfe": opened.calls, "seed": wish.seed}
    if opened.cfg_scale != 1:
        facts["guidance"] = opened.cfg_scale
    if given is not None:
        facts["frames given"] = f"{len(given)} of {spec.shape[0]}"
    return samples, facts


def _given(wish: Wish, contestant: ReadyModel, spec: SampleSpec) -> Tensor | None:
    """The frames given clean, in data space `[k, C, H, W]`; None if nothing is."""
    try:
        if wish.image is not None:
            latent_context(contestant.contexts, 1)
            pixels = image_as(wish.image, spec)
        elif wish.video is not None:
            pixels = _clip(wish.video, wish.frames, contestant, spec)
        else:
            return None
    except ClipError as error:
        raise FlowmapError(str(error)) from None
    x = to_float(pixels)
    return x.mean(1, keepdim=True) if spec.shape[1] == 1 else x


def _clip(path: Path, frames: int | None, contestant: ReadyModel, spec: SampleSpec) -> Tensor:
    """The first `frames` frames; without a number, as many as the clip has and the model can be given."""
    if frames is not None:
        try:
            latent_context(contestant.contexts, frames)
        except FlowmapError as error:
            raise FlowmapError(f"{option('frames', frames)}: {error}") from None
        return clip_as(path, frames, spec)
    problem = ClipError(f"{path}: the model of this run cannot be given frames")
    for possible in sorted(contestant.contexts, reverse=True):
        try:
            return clip_as(path, possible, spec)
        except ClipError as error:
            problem = error
    raise problem


def _start(wish: Wish, contestant: ReadyModel, given: Tensor | None, count: int, draw: Draw) -> Batch | None:
    """The given frames and the conditions of all samples; None if everything comes from the data's own prompts."""
    if given is None and not wish.asked:
        return None
    backbone, device = contestant.backbone, contestant.device
    asked: Any = contestant.data.prompts(draw)
    if wish.asked:
        each = [each for each in (*wish.prompts, *wish.classes) for _ in range(count)]
        asked = torch.tensor(each, device=device) if wish.classes else each
    cond, null = backbone.condition(asked, draw.count, device)
    backbone.release()
    if given is None:
        x0 = torch.zeros(draw.count, 0, *backbone.latent_shape()[1:], device=device)
    else:
        # The prompts are read above; a video needs none to be encoded.
        with phase("encoding the frames given"):
            once = Draw.whole(0, "given frames", 0, "encoding", 1, device)
            x0 = backbone.precompute(Samples(given[None].to(device), prompts=[]), once).x
        x0 = x0.expand(draw.count, *x0.shape[1:])
    return Batch(x0, cond, null)


def _refuse_no_numbers(samples: Tensor) -> None:
    """Refuse to write what looks like a sample and is none."""
    bad = int((~samples.flatten(1).isfinite()).any(dim=1).sum())
    if bad:
        raise FlowmapError(
            f"{bad} of {len(samples)} samples have values that are no finite numbers, so nothing was written. Their "
            "weights may be damaged or their training may have diverged; or lower "
            f"{option('guidance')}, or take another {option('nfe')} or {option('sampler')}",
            code=1,
        )


def write_samples(out: Path, samples: Tensor, opened: Opened, facts: dict[str, object]) -> list[Path]:
    """Write `samples` as `sample` does, all files or none; returns them, the picture and the tensors last."""
    contestant, spec = opened.contestant, opened.spec
    stem = out.with_suffix("") if out.suffix in _ENDINGS else out
    picture, tensors = (stem.with_name(stem.name + ending) for ending in (".png", ".safetensors"))

    def fill_tensors(file: Path) -> None:
        save_file({"samples": samples.contiguous()}, file, metadata={k: str(v) for k, v in facts.items()})
        readable(file)

    files: dict[Path, Callable[[Path], object]] = {}
    if spec.fps is not None:
        for index, video in enumerate(samples):
            number = f"-{index}" if len(samples) > 1 else ""
            fill_video = partial(_write_video, video=video, contestant=contestant, fps=spec.fps)
            files[stem.with_name(f"{stem.name}{number}.mp4")] = fill_video
    images = [to_uint8(x[0]).permute(1, 2, 0).numpy() for x in samples] if _in_colour(spec) else []
    if len(images) > 1:
        for index, image in enumerate(images):
            files[stem.with_name(f"{stem.name}-{index}.png")] = partial(_write_picture, picture=image)
    sheet = images[0] if len(images) == 1 else contestant.data.picture(samples)
    files[picture] = partial(_write_picture, picture=sheet)
    files[tensors] = fill_tensors
    write_together(files)
    return list(files)


def _in_colour(spec: SampleSpec) -> bool:
    """Whether samples are pictures that can be shown as they are."""
    return spec.fps is None and len(spec.shape) == 4 and spec.shape[:2] == (1, 3)


def _write_picture(file: Path, picture: NDArray[np.uint8]) -> None:
    file.write_bytes(png(picture))


def _write_video(file: Path, video: Tensor, contestant: ReadyModel, fps: float) -> None:
    with phase(f"writing {file.name.removeprefix(SKIP_PREFIX)}"):
        write_mp4(file, film(video, contestant), fps)


def film(video: Tensor, contestant: ReadyModel) -> NDArray[np.uint8]:
    """A video `[F, C, H, W]` as frames `[F, H, W, 3]`: its own colours, or drawn as its data draw themselves."""
    if video.shape[1] == 3:
        return to_uint8(video).permute(0, 2, 3, 1).numpy()
    return np.stack([contestant.data.picture(frame[None, None]) for frame in video])
