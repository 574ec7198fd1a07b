"""Which samples a data source gives: batches, references, pictures of them."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import Tensor

from flowmap.testing.alike import same_samples, some_rows
from flowmap.testing.check import Laws
from flowmap.testing.contract import build_quietly, halves, require, require_own_names, whole
from flowmap.testing.data.subject import COUNT, REFERENCES, DataSubject, Split, pictured

LAWS = Laws("data")

_STEPS = 4
_KNOWN = 0.02  # of training samples: real data have a few samples twice


@LAWS.proven(
    "The same draw gives the same batch, and another step another.",
    "Data.batch",
    after=("samples_are_as_specified", "draws_from_its_draw"),
)
def batches_are_by_their_draw(subject: DataSubject) -> None:
    """No state."""
    batch, data = subject.batch, subject.data
    same_samples(batch, data.batch(whole(COUNT)), f"{subject.who} must return the same batch for the same draw")
    other = data.batch(whole(COUNT, step=1))
    require(not torch.equal(batch.x, other.x), f"{subject.who} must return another batch for another step")


@LAWS.proven(
    "What is drawn for two things has two names: under one name it is the same numbers.",
    "Draw",
    after=("batches_are_by_their_draw",),
)
def names_are_drawn_once(subject: DataSubject) -> None:
    """In a batch, and in prompts."""
    for use in (subject.data.batch, subject.data.prompts):
        require_own_names(subject.who, whole(COUNT), use)


@LAWS.proven(
    "A batch does not depend on how many processes share it.", "Data.batch", after=("batches_are_by_their_draw",)
)
def batches_are_shared(subject: DataSubject) -> None:
    """Every third sample, and the others."""
    contract = f"the batch of {subject.who} must not depend on how many processes share it"
    for part in halves(COUNT):
        same_samples(subject.data.batch(part), some_rows(subject.batch, part.rows), contract)


@LAWS.proven(
    "A reference has as many samples as are asked for, or fewer, and is the same at every call.",
    "Data.reference",
    after=("draws_from_its_draw",),
)
def references_repeat(subject: DataSubject) -> None:
    """Both splits."""
    for split in get_args(Split):
        for count in REFERENCES:
            samples = subject.data.reference(split, count)
            who = f"the {split} reference of {subject.who}"
            require(0 < len(samples.x) <= count, f"{who} must have from 1 to {count} samples, not {len(samples.x)}")
            same_samples(samples, subject.data.reference(split, count), f"{who} must be the same at every call")


@LAWS.proven(
    "A source that is built again has the same samples.",
    "DataConfig.build",
    after=("references_repeat", "batches_are_by_their_draw"),
)
def building_repeats(subject: DataSubject) -> None:
    """Another process, or the run that goes on, has the same splits."""
    again = build_quietly(subject.config, subject.config.build)
    for split in get_args(Split):
        who = f"the {split} reference of {subject.who}"
        contract = f"{who} must be the same when it is built again, as every process builds it"
        same_samples(subject.data.reference(split, REFERENCES[1]), again.reference(split, REFERENCES[1]), contract)
    contract = f"{subject.who} must return the same batch for the same draw when it is built again"
    same_samples(subject.batch, again.batch(whole(COUNT)), contract)


@LAWS.proven(
    "Samples that are held out are not those of the training reference.",
    "Data.reference",
    after=("references_repeat", "samples_are_as_specified"),
)
def held_out_is_another_split(subject: DataSubject) -> None:
    """But for a few that data have twice."""
    train, held_out = (subject.data.reference(split, REFERENCES[1]).x.flatten(1) for split in get_args(Split))
    shared = float((train[:, None] == held_out[None]).all(dim=2).any(dim=0).double().mean())
    require(
        shared < 0.5,
        f"the held-out reference of {subject.who} must not be what it trains on; {100 * shared:.0f} % of it are in "
        "the training reference",
    )


@LAWS.proven(
    "Samples that are held out are not trained on.",
    "Data.batch, Data.reference",
    after=("held_out_is_another_split", "batches_are_by_their_draw"),
)
def held_out_is_not_trained_on(subject: DataSubject) -> None:
    """A few batches against many held-out samples.

    Where few samples are possible, some are in both by chance, and the held-out ones are alike among themselves: of n
    that are drawn from M about n^2 / 2M are, while a sample is one of them with probability n / M.
    """
    held_out = _rows(subject.data.reference("held_out", 32 * subject.number).x)
    rows = [row for step in range(_STEPS) for row in _rows(subject.data.batch(whole(subject.number, step)).x)]
    there = set(held_out)
    known = sum(row in there for row in rows) / len(rows)
    chance = 2 * (len(held_out) - len(there)) / len(held_out)
    require(
        known < _KNOWN + 1.5 * chance,
        f"the batches of {subject.who} must hold no sample that is held out; {100 * known:.1f} % of {len(rows)} "
        f"training samples are among the {len(there)} of its held-out reference",
    )


def _rows(x: Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in x]


@LAWS.proven("A picture is uint8 [H, W, 3].", "Data.picture", after=("draws_from_its_draw",))
def pictures_are_shown(subject: DataSubject) -> None:
    """Of data space."""
    picture = subject.data.picture(pictured(subject, subject.batch))
    good = picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3
    shown = f"{picture.dtype} {list(picture.shape)}"
    require(good, f"a picture of {subject.who} must be uint8 [H, W, 3], not {shown}")
