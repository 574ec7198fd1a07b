"""Draw samples from a run or from weights, from prompts, images or videos: what `flowmap sample` does."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from flowmap.console.commands import process
from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.folder import writing
from flowmap.files.whole import readable, write_together
from flowmap.reading.open import open_run
from flowmap.use.joint import made_by_all
from flowmap.use.opened import Opened, open_wished, open_wished_run
from flowmap.use.showing import in_colour, pictured, write_picture, write_video
from flowmap.use.start import given_frames, noise_of, start_of
from flowmap.use.student import times_of
from flowmap.use.watching import Watcher
from flowmap.use.wish import Wish

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
    opened: Opened, wish: Wish, out: Path | None = None, watcher: Watcher | None = None
) -> tuple[Tensor, dict[str, object]]:
    """Samples `[N, F, ...]` in data space, on the CPU, and what there is to say of how they were made.

    Of several processes the first has them, and the others `[0]`.

    If they are to be written as `out`, its folder is made before the work. A `watcher` is told how far it is. Raises
    FlowmapError if any of them has values that are no finite numbers.
    """
    contestant, spec, config = opened.contestant, opened.spec, opened.sampler
    count = wish.number or (1 if wish.asked else _VIDEOS if spec.fps else _IMAGES)
    draw = noise_of(wish.seed, count * max(1, wish.asked), contestant.device)
    given = given_frames(wish, contestant, spec)
    start = start_of(wish, contestant, given, count, draw)
    if out is not None:
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
    numbers = opened.calls, opened.shift, draw, start, opened.cfg_scale
    found = made_by_all(opened.processes, contestant, config, *numbers, watcher)
    samples = torch.empty(0) if found is None else found
    _refuse_no_numbers(samples)
    facts: dict[str, object] = {**opened.facts, "sampler": config.type, "nfe": opened.calls, "seed": wish.seed}
    if opened.cfg_scale != 1:
        facts["guidance"] = opened.cfg_scale
    if given is not None:
        facts["frames given"] = f"{len(given)} of {spec.shape[0]}"
    if opened.doubt is not None:
        facts["warning"] = opened.doubt
    return samples, facts


def _refuse_no_numbers(samples: Tensor) -> None:
    """Refuse to write what looks like a sample and is none."""
    bad = sum(not sample.isfinite().all() for sample in samples)
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
        times = times_of(opened.sampler, opened.calls, opened.shift).tolist()
        settings = {"sampler settings": json.dumps(opened.sampler.as_tables()), "times": json.dumps(times)}
        told = {k: str(v) for k, v in facts.items()} | settings
        save_file({"samples": samples.contiguous()}, file, metadata=told)
        readable(file)

    files: dict[Path, Callable[[Path], object]] = {}
    if spec.fps is not None:
        for index, video in enumerate(samples):
            number = f"-{index}" if len(samples) > 1 else ""
            fill_video = partial(write_video, video=video, contestant=contestant, fps=spec.fps)
            files[stem.with_name(f"{stem.name}{number}.mp4")] = fill_video
    images = [pictured(x) for x in samples] if in_colour(spec) else []
    if len(images) > 1:
        for index, image in enumerate(images):
            files[stem.with_name(f"{stem.name}-{index}.png")] = partial(write_picture, picture=image)
    sheet = images[0] if len(images) == 1 else contestant.data.picture(samples)
    files[picture] = partial(write_picture, picture=sheet)
    files[tensors] = fill_tensors
    write_together(files)
    return list(files)
