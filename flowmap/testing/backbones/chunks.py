"""What causal models show themselves of frames, in training and in generation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch
from torch import Tensor

from flowmap.interfaces import Batch, Cond, Window
from flowmap.testing.backbones.subject import COUNT, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import require, require_equal, unchanged_rows, whole

LAWS = Laws("backbone")

_DRAWN, _WINDOWS = 48, 6
_ARXIV = "teacher forcing with a clean context: arXiv 2503.19325"


def _ends(subject: BackboneSubject) -> list[int]:
    """Where chunks end, the first at its size and the last at the end."""
    return list(itertools.accumulate(subject.backbone.chunking().sizes(subject.backbone.latent_shape()[0])))


def _windows(subject: BackboneSubject) -> list[Window]:
    """A few of the windows that training looks at."""
    frames = subject.backbone.latent_shape()[0]
    drawn = {subject.backbone.chunking().window(frames, whole(COUNT, step)) for step in range(_DRAWN)}
    found = sorted(drawn, key=lambda window: (window.stop, window.start))
    # Spread over all of them, the last with them, which goes furthest.
    places = {round(place * (len(found) - 1) / (_WINDOWS - 1)) for place in range(_WINDOWS)}
    return [found[place] for place in sorted(places)]


def _noised(subject: BackboneSubject) -> Tensor:
    """All frames `[B, F, ...]` as the network is asked for them; the clean ones are others."""
    return whole(COUNT).normal("frames", subject.backbone.latent_shape())


def _forced(subject: BackboneSubject, clean: Tensor, noised: Tensor, window: Window) -> Tensor:
    view: Batch = subject.backbone.chunking().forced(replace(subject.batch, x0=clean.clone()), window)
    with torch.no_grad():
        return subject.student().mean_velocity(
            noised[:, window.start : window.stop].clone(), subject.t, subject.r, view.cond
        )


@LAWS.proven(
    "Teacher-forced, no chunk depends on the frames after it, clean or noised.",
    "Chunking.forced",
    equation=_ARXIV,
    needs=("causal",),
    after=("calls_repeat", "windows_lie_in_the_frames"),
)
def no_future_leak(subject: BackboneSubject) -> None:
    """At every end of a chunk inside of every window."""
    clean, noised = subject.batch.x0, _noised(subject)
    for window in _windows(subject):
        before = _forced(subject, clean, noised, window)
        for end in (end for end in _ends(subject) if window.start < end <= window.stop):
            for what in ("clean", "noised"):
                changed = {"clean": clean.clone(), "noised": noised.clone()}
                changed[what][:, end:] += 1
                after = _forced(subject, changed["clean"], changed["noised"], window)
                seen = end - window.start
                contract = (
                    f"a chunk of {subject.who} must not depend on the frames after it (`forced`, frames "
                    f"{window.start} to {window.stop}): "
                    f"the {what} frames from {end} on change what is made of those before"
                )
                require_equal(after[:, :seen], before[:, :seen], contract)


@LAWS.proven(
    "Teacher-forced, a chunk depends on the clean frames before it.",
    "Chunking.forced",
    equation=_ARXIV,
    needs=("causal",),
    after=("no_future_leak",),
)
def forced_sees_the_past(subject: BackboneSubject) -> None:
    """The last chunk of every window, and the chunk before it."""
    clean, noised, ends = subject.batch.x0, _noised(subject), [0, *_ends(subject)]
    for window in _windows(subject):
        last = ends.index(window.stop)
        if last < 2:
            continue
        begin, other = ends[last - 1], clean.clone()
        other[:, ends[last - 2] : begin] += 1
        before, after = (_forced(subject, x, noised, window)[:, begin - window.start :] for x in (clean, other))
        same = unchanged_rows(before, after)
        require(
            not same,
            f"a chunk of {subject.who} must depend on the clean frames before it (`forced`); frames {ends[last - 2]} "
            f"to {begin} change nothing in {same} of {COUNT} samples",
        )


def _remembered(subject: BackboneSubject, clean: Tensor, chunks: int) -> Cond:
    """The condition after so many finished chunks."""
    chunking, cond, begin = subject.backbone.chunking(), subject.batch.cond, 0
    with torch.no_grad():
        for end in _ends(subject)[:chunks]:
            cond = chunking.remember(subject.student(), cond, clean[:, begin:end].clone())
            begin = end
    return cond


def _following(subject: BackboneSubject, cond: Cond, noised: Tensor, chunk: int) -> Tensor:
    """What is made of the chunk under `cond`."""
    ends = [0, *_ends(subject)]
    return subject.at("flow_map", x=noised[:, ends[chunk] : ends[chunk + 1]], cond=cond)


@LAWS.proven(
    "A finished chunk is remembered: the next depends on it.",
    "Chunking.remember",
    needs=("causal",),
    after=("calls_repeat", "chunks_make_up_the_frames"),
)
def finished_chunks_are_remembered(subject: BackboneSubject) -> None:
    """Each of them, by the one that follows."""
    clean, noised, ends = subject.batch.x0, _noised(subject), [0, *_ends(subject)]
    for chunk in range(1, len(ends) - 1):
        other = clean.clone()
        other[:, ends[chunk - 1] : ends[chunk]] += 1
        found = [_following(subject, _remembered(subject, x, chunk), noised, chunk) for x in (clean, other)]
        same = unchanged_rows(*found)
        require(
            not same,
            f"`remember` of {subject.who} must remember a finished chunk; the next is the same without chunk {chunk} "
            f"of {len(ends) - 1} in {same} of {COUNT} samples",
        )


@LAWS.proven(
    "What is made of a chunk after remembered frames is what is made of it teacher-forced with the same frames.",
    "Chunking.remember, Chunking.forced",
    equation=_ARXIV,
    needs=("causal",),
    after=("no_future_leak", "forced_sees_the_past", "finished_chunks_are_remembered"),
)
def generated_is_forced(subject: BackboneSubject) -> None:
    """The last chunk of every window that training looks at, of which generation sees as much."""
    clean, noised, ends = subject.batch.x0, _noised(subject), [0, *_ends(subject)]
    for window in _windows(subject):
        chunk = ends.index(window.stop) - 1
        made = _following(subject, _remembered(subject, clean, chunk), noised, chunk)
        forced = _forced(subject, clean, noised, window)[:, ends[chunk] - window.start :]
        contract = (
            f"chunk {chunk + 1} of {subject.who} after `remember` must be what it is teacher-forced (`forced`, frames "
            f"{window.start} to {window.stop}) with the same clean frames"
        )
        require_equal(made, forced, contract)


@LAWS.proven(
    "Frames that are given act as frames that were made and remembered.",
    "Chunking.given",
    needs=("causal", "context"),
    after=("finished_chunks_are_remembered",),
)
def given_is_remembered(subject: BackboneSubject) -> None:
    """Wherever frames may be given."""
    clean, noised, ends = subject.batch.x0, _noised(subject), [0, *_ends(subject)]
    for frames in subject.config.contexts(subject.spec).values():
        chunk = ends.index(frames)
        with torch.no_grad():
            cond = subject.backbone.chunking().given(subject.student(), subject.batch.cond, clean[:, :frames].clone())
        made, given = (_following(subject, c, noised, chunk) for c in (_remembered(subject, clean, chunk), cond))
        require_equal(
            given,
            made,
            f"{frames} frames that are given to {subject.who} (`given`) must act as if they had been made and "
            "remembered",
        )


@LAWS.proven(
    "What is made depends on the frames that are given.",
    "Chunking.given",
    needs=("context",),
    after=("calls_repeat", "chunks_make_up_the_frames"),
)
def given_frames_are_seen(subject: BackboneSubject) -> None:
    """By the chunk that follows them."""
    clean, noised = subject.batch.x0, _noised(subject)
    chunking, total = subject.backbone.chunking(), clean.shape[1]
    for frames in subject.config.contexts(subject.spec).values():
        size = chunking.sizes(total, frames)[0]
        found = []
        for x in (clean, clean + 1):
            with torch.no_grad():
                cond = chunking.given(subject.student(), subject.batch.cond, x[:, :frames].clone())
            found.append(subject.at("flow_map", x=noised[:, frames : frames + size], cond=cond))
        same = unchanged_rows(*found)
        require(
            not same,
            f"`given` of {subject.who} must show the {frames} frames that are given; other ones change nothing in "
            f"{same} of {COUNT} samples",
        )
