"""Make a list of samples, each a file of its own, by all processes that were started: what a benchmark asks for.

Every process takes its part of what is not there yet. A sample comes from its prompt, its seed and its image alone, and
is computed by itself: it is the same whatever else is in the list, in whatever order, and however many processes there
are, as `flowmap sample` makes it. To the bit in float32, but where several processes share it; products in bfloat16 on
a CPU round differently from one process to another now and then.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import final

from torch import Tensor

from flowmap.console.commands import process
from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.folder import StoppedError
from flowmap.interfaces import Batch, Cond
from flowmap.maths.draw import Draw
from flowmap.phases import each, phase
from flowmap.recipe.layout import StagePlan
from flowmap.use.identity import stage_identity
from flowmap.use.opened import Opened, open_wished
from flowmap.use.pieces import Piece, checked, printable_text
from flowmap.use.produced import Produced, told
from flowmap.use.showing import in_colour, pictured, write_picture, write_video
from flowmap.use.start import begun, given_frames, noise_of, start_of
from flowmap.use.student import generate
from flowmap.use.wish import Wish
from flowmap.weights.fingerprints import fingerprint

__all__ = ["Piece", "Production", "produce"]

_VERSIONS = ("flowmap", "torch", "diffusers")
_TEXTS_TOGETHER = 16
"""Prompts that are read before the encoder of texts leaves its accelerator: with their nulls 0.3 GB, of Wan's."""


@final
@dataclass(frozen=True)
class Production:
    """What became of a list: so many files were `made` (by all processes) and so many were `there` before.

    They are `folder`/NAME`ending`; `facts` say how they were made, in the words of a summary.
    """

    folder: Path
    ending: str
    made: int
    there: int
    facts: dict[str, object]

    def summary(self) -> str:
        """What became of the list, in one line."""
        before = f" ({self.there} were there)" if self.there else ""
        facts = ", ".join(f"{name} {value}" for name, value in self.facts.items())
        return f"{self.folder} has all {self.made + self.there} samples{before}: {facts}"


def produce(where: str, wish: Wish, pieces: Sequence[Piece], out: Path, together: int = 1) -> Production:
    """Make those of `pieces` that are not in the folder `out` yet, from `where` and as `wish` says (see `sample`).

    To be called by all processes alike. Each sample is made by so many of them `together`. A video is written as
    `out`/NAME.mp4, an image as `out`/NAME.png; nothing else is left in `out`, and `out`.json records how they were
    made. The prompt "" is none, for models that read none. Raises FlowmapError for what cannot be done: for a record of
    other settings, for a piece that is recorded with another prompt, seed or image, and for files that are strangers.
    What was finished before an error is kept, and the same call goes on.
    """
    for name, given in (
        ("prompt", wish.prompts),
        ("class", wish.classes),
        ("image", wish.image),
        ("video", wish.video),
        ("n", wish.number),
    ):
        if given:
            raise FlowmapError(f"{option(name)}: does not go with a list, which says what each sample is to show")
    pieces, produced = checked(pieces), Produced(out)
    first = process()[0] == 0
    try:
        with produced.held() if first else nullcontext():
            entries = {piece.name: told(piece) for piece in pieces} if first else {}
            if first:
                produced.refuse_misfits(entries)
            opened = open_wished(where, _wish_of_all(wish, pieces), together)
            if first:
                produced.begin(where, _settings(opened), entries)
            return _fulfilled(opened, wish, pieces, produced)
    except StoppedError as error:
        raise FlowmapError(f"{error}\nTo go on: run the same command again", error.code) from error


def _wish_of_all(wish: Wish, pieces: Sequence[Piece]) -> Wish:
    """`wish` with one prompt and one image, if any piece has: what cannot be given at all is refused by it."""
    prompt = next((piece.prompt for piece in pieces if piece.prompt), None)
    image = next((piece.image for piece in pieces if piece.image), None)
    return replace(wish, number=1, prompts=() if prompt is None else (prompt,), image=image)


def _settings(opened: Opened) -> dict[str, object]:
    """All that the samples of a list have in common, as JSON has it: where it changes, samples do."""
    source, contestant = opened.source, opened.contestant
    who: dict[str, object]
    if isinstance(source, StagePlan):
        who = {"stage": contestant.stage, "training seed": contestant.seed, "weights": contestant.weights}
        who["fingerprint"] = stage_identity(source)
    else:
        with phase(f"looking at the weights of {source.name}"):
            who = {"fingerprint": fingerprint(source.pretrained.files)}
    spec, processes = opened.spec, opened.processes
    return {
        **who,
        "sampler": opened.sampler.model_dump(mode="json"),
        "calls": opened.calls,
        "shift": opened.shift,
        "guidance": opened.cfg_scale,
        "shape": list(spec.shape),
        "frames per second": spec.fps,
        "precision": processes.precision,
        "device": processes.device.type,
        **{name: importlib.metadata.version(name) for name in _VERSIONS},
    }


def _fulfilled(opened: Opened, wish: Wish, pieces: Sequence[Piece], produced: Produced) -> Production:
    processes, spec = opened.processes, opened.spec
    ending = ".png" if spec.fps is None else ".mp4"
    absent = processes.agreed([not produced.there(piece.name + ending) for piece in pieces])
    left = [piece for piece, gone in zip(pieces, absent, strict=True) if gone]
    mine, made = _mine(opened, left), 0
    starts = _starts(opened, wish, [piece for piece, _ in mine])
    for piece, wanted in each(mine, f"making {len(left)} samples, {len(mine)} of them here", "samples"):
        sample = _made(opened, piece, next(starts))
        # Of those who share a sample each has the whole of it.
        if wanted and processes.index % processes.sequence == 0:
            _write(opened, piece.name + ending, sample, produced)
            made += 1
    total = int(processes.total([made])[0])
    facts: dict[str, object] = {**opened.facts, "sampler": opened.sampler.type, "nfe": opened.calls}
    if opened.cfg_scale != 1:
        facts["guidance"] = opened.cfg_scale
    if opened.doubt is not None:
        facts["warning"] = opened.doubt
    return Production(produced.folder, ending, total, len(pieces) - total, facts)


def _mine(opened: Opened, left: Sequence[Piece]) -> list[tuple[Piece, bool]]:
    """What this process makes of the pieces that are `left`, and whether it is wanted of this one.

    Side by side, so that samples of one prompt, which stand together, are made by one process. If a network is sharded,
    all make equally many (see flowmap.use.joint), and all those from images first: they take other calls.
    """
    processes = opened.processes
    if not opened.contestant.sharded:
        begin, end = processes.dealt(len(left))[processes.share]
        return [(piece, True) for piece in left[begin:end]]
    mine: list[tuple[Piece, bool]] = []
    for some in ([p for p in left if p.image is not None], [p for p in left if p.image is None]):
        begin, end, idle = processes.in_step(len(some))
        mine += [(piece, place >= idle) for place, piece in enumerate(some[begin:end])]
    return mine


def _starts(opened: Opened, wish: Wish, pieces: Sequence[Piece]) -> Iterator[Batch | None]:
    """What each of `pieces` begins with. Many prompts are read at a time, each by itself."""
    contestant = opened.contestant
    known: dict[str, tuple[Cond, Cond]] = {}
    for number, piece in enumerate(pieces):
        one = replace(wish, image=piece.image)
        given = given_frames(one, contestant, opened.spec)
        if not opened.reads_text:
            yield start_of(one, contestant, given, 1, _noise(opened, piece))
            continue
        if piece.prompt not in known:
            known.clear()
            with phase("reading prompts"):
                upcoming = dict.fromkeys(later.prompt for later in pieces[number:])
                for prompt in islice(upcoming, _TEXTS_TOGETHER):
                    known[prompt] = contestant.backbone.condition([prompt], 1, contestant.device)
                contestant.backbone.release()
        yield begun(contestant, given, *known[piece.prompt], 1)


def _noise(opened: Opened, piece: Piece) -> Draw:
    return noise_of(piece.seed, 1, opened.contestant.device)


def _made(opened: Opened, piece: Piece, start: Batch | None) -> Tensor:
    """The sample `[F, ...]` in data space. Raises FlowmapError if it is not all finite numbers."""
    draw, numbers = _noise(opened, piece), (opened.calls, opened.shift)
    sample = generate(opened.contestant, opened.sampler, *numbers, draw, start, opened.cfg_scale)[0]
    if not sample.isfinite().all():
        raise FlowmapError(
            f"the sample of '{printable_text(piece.name)}' has values that are no finite numbers, and was not written; "
            "its weights may be damaged or their training may have diverged",
            code=1,
        )
    return sample


def _write(opened: Opened, name: str, sample: Tensor, produced: Produced) -> None:
    contestant, spec = opened.contestant, opened.spec
    if spec.fps is not None:
        produced.put(name, partial(write_video, video=sample, contestant=contestant, fps=spec.fps))
        return
    picture = pictured(sample) if in_colour(spec) else contestant.data.picture(sample[None])
    produced.put(name, partial(write_picture, picture=picture))
