"""What a backbone makes of samples: model space and back, chunks and windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from flowmap.interfaces import EncodedText, Samples
from flowmap.testing.backbones.subject import COUNT, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import own_randomness_only, require, require_equal, require_like, whole

LAWS = Laws("backbone")


@LAWS.proven(
    "It takes the samples that it is examined with, and building it draws no random number.",
    "BackboneConfig.findings, BackboneConfig.build",
)
def takes_its_samples(subject: BackboneSubject) -> None:
    """Findings have no error."""
    assert subject.backbone


@LAWS.proven(
    "Encoding takes random numbers from its draw, and is the same for the same draw.",
    "Backbone.encode",
    after=("takes_its_samples",),
)
def encodes_by_the_draw(subject: BackboneSubject) -> None:
    """No global generator, no state."""
    draw = whole(COUNT).child("encoding")
    with own_randomness_only(f"`encode` of {subject.who}"):
        first, again = (subject.backbone.encode(subject.copied(), draw).x0 for _ in range(2))
    require_equal(again, first, f"`encode` of {subject.who} must give the same for the same draw", tolerance=1e-6)


@LAWS.proven(
    "Encoded samples are finite float32 of the shape of model space.",
    "Backbone.encode, Backbone.latent_shape",
    after=("encodes_by_the_draw",),
)
def encodes_into_model_space(subject: BackboneSubject) -> None:
    """Shape and dtype."""
    require_like(subject.batch.x0, (COUNT, *subject.backbone.latent_shape()), f"x0 as encoded by {subject.who}")


@LAWS.proven("Encoding changes no sample that it is given.", "Backbone.encode", after=("takes_its_samples",))
def encoding_leaves_samples_alone(subject: BackboneSubject) -> None:
    """Neither x nor prompts."""
    given = subject.copied()
    before = [tensor.clone() for tensor in _tensors(given)]
    subject.backbone.encode(given, whole(COUNT).child("encoding"))
    same = all(torch.equal(old, new) for old, new in zip(before, _tensors(given), strict=True))
    require(same, f"`encode` of {subject.who} must leave the samples that it is given as they are")


@LAWS.proven(
    "Samples that were precomputed are encoded to what the raw ones are, by the same draw.",
    "Backbone.precompute, Backbone.encode",
    after=("encodes_into_model_space", "encoding_leaves_samples_alone"),
)
def precomputed_is_encoded(subject: BackboneSubject) -> None:
    """The two ways to a batch."""
    draw = whole(COUNT).child("encoding")
    ahead = subject.backbone.precompute(subject.copied(), draw)
    mark = "which says encoded = True" if ahead.encoded else "which does not say encoded = True"
    found = subject.backbone.encode(ahead.map(torch.clone), draw).x0
    require_equal(
        found,
        subject.batch.x0,
        f"`encode` of {subject.who} must make of what `precompute` returns, {mark}, what it makes of raw samples",
    )


@LAWS.proven(
    "Decoded samples are finite float32 of the shape of data space.",
    "Backbone.decode",
    after=("encodes_into_model_space",),
)
def decodes_into_data_space(subject: BackboneSubject) -> None:
    """Shape and dtype."""
    decoded = subject.backbone.decode(subject.batch.x0.clone())
    require_like(decoded, (COUNT, *subject.spec.shape), f"samples as decoded by {subject.who}")


@LAWS.proven("Decoding changes nothing that it is given.", "Backbone.decode", after=("decodes_into_data_space",))
def decoding_leaves_samples_alone(subject: BackboneSubject) -> None:
    """Not in place."""
    given = subject.batch.x0.clone()
    subject.backbone.decode(given)
    require(
        torch.equal(given, subject.batch.x0), f"`decode` of {subject.who} must leave the x that it is given as it is"
    )


@LAWS.proven(
    "Decoding undoes encoding, where nothing is lost.",
    "Backbone.decode",
    needs=("lossless",),
    after=("decodes_into_data_space", "encoding_leaves_samples_alone"),
)
def decoding_undoes_encoding(subject: BackboneSubject) -> None:
    """On samples in [-1, 1], outside of which a codec may clip."""
    x = subject.samples.x.clamp(-1, 1)
    batch = subject.backbone.encode(replace(subject.copied(), x=x.clone()), whole(COUNT).child("encoding"))
    why = "say lossless = False if it is not meant to"
    require_equal(
        subject.backbone.decode(batch.x0),
        x,
        f"`decode` of {subject.who} must give back what `encode` was given; {why}",
        tolerance=1e-2,
    )


@LAWS.proven(
    "The chunks of a sample are above 0 and sum to its frames that are not given.",
    "Chunking.sizes, BackboneConfig.contexts",
    after=("takes_its_samples",),
)
def chunks_make_up_the_frames(subject: BackboneSubject) -> None:
    """With and without given frames, chunked and not."""
    chunking, who = subject.backbone.chunking(), subject.who
    frames = subject.backbone.latent_shape()[0]
    sizes = chunking.sizes(frames)
    good = sum(sizes) == frames and min(sizes) > 0
    require(good, f"the chunks {sizes} of {who} must be above 0 and sum to {frames} frames")
    chunks = len(sizes) > 1
    said = subject.config.causal()
    require(
        said == chunks,
        f"{who} makes {len(sizes)} chunks of {frames} frames, and its configuration says causal() = {said}",
    )
    if said:
        together = chunking.unchunked().sizes(frames)
        require(together == (frames,), f"{who} unchunked must be one chunk of {frames} frames, not {together}")
    contexts = subject.config.contexts(subject.spec)
    rising = list(contexts) == sorted(contexts) and all(0 < c < subject.spec.shape[0] for c in contexts)
    require(rising, f"the contexts {contexts} of {who} must rise and be fewer than its frames")
    for given in contexts.values():
        rest = sum(chunking.sizes(frames, given))
        require(rest == frames - given, f"the chunks of {who} after {given} of {frames} frames sum to {rest}")


@LAWS.proven(
    "A step of training looks at a window of frames, the same in all processes, as one chunk or teacher-forced.",
    "Chunking.window, Chunking.forced, Chunking.whole",
    after=("encodes_into_model_space", "chunks_make_up_the_frames"),
)
def windows_lie_in_the_frames(subject: BackboneSubject) -> None:
    """And views have their shapes."""
    chunking, who, (frames, *rest) = subject.backbone.chunking(), subject.who, subject.backbone.latent_shape()
    draw = whole(COUNT)
    window = chunking.window(frames, draw)
    inside = 0 <= window.start < window.stop <= frames
    require(inside, f"the window {window} of {who} must lie in {frames} frames and hold some")
    other = chunking.window(frames, draw.part(1, 2))
    require(other == window, f"the window of {who} must be the same in all processes, not {window} and {other}")
    seen = (COUNT, window.stop - window.start, *rest)
    require_like(chunking.forced(subject.batch, window).x0, seen, f"x0 as teacher-forced by {who}")
    require_like(chunking.whole(subject.batch).x0, (COUNT, frames, *rest), f"x0 as one chunk of {who}")


def _tensors(samples: Samples) -> list[Tensor]:
    prompts: Any = samples.prompts
    found = [samples.x, *(part for part in (samples.labels, prompts) if isinstance(part, Tensor))]
    return found + list(prompts.tensors().values()) if isinstance(prompts, EncodedText) else found
