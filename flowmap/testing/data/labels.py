"""What samples are labelled as, and asked for by, in batches, in references and where samples are generated."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import get_args

import torch
from torch import Tensor

from flowmap.interfaces import Samples
from flowmap.testing.check import Laws
from flowmap.testing.contract import require, whole
from flowmap.testing.data.subject import DataSubject, Split

LAWS = Laws("data")

_STEPS = 4
_OTHERS = 0.1  # of samples that are in both: real data have a few twice, with two labels
_ENOUGH = 20  # samples that are in both
_SEEN = 0.3  # beyond chance: samples show what they are labelled as
_LEFT_OUT = 0.2
_ASKED = 0.95
_MANY = 1024
_MOST = 65536


@LAWS.proven(
    "A sample has the same label, and the same class as its prompt, in batches and in references.",
    "Samples.labels, Samples.prompts",
    after=("classes_are_counted", "prompts_go_with_labels", "references_repeat", "batches_are_by_their_draw"),
)
def labels_are_of_their_samples(subject: DataSubject) -> None:
    """Of samples that are in both; where none is, of those that are nearest."""
    batches = [subject.data.batch(whole(subject.number, step)) for step in range(_STEPS)]
    for split in get_args(Split):
        reference = subject.data.reference(split, 8 * subject.number)
        # Where samples have several sizes, those of a step have one.
        alike = [batch for batch in batches if batch.x.shape[1:] == reference.x.shape[1:]]
        for what, known in _classes(subject, reference) if alike else ():
            found = torch.cat([dict(_classes(subject, batch))[what] for batch in alike])
            _require_same(subject, what, split, torch.cat([batch.x for batch in alike]), found, reference.x, known)


def _classes(subject: DataSubject, samples: Samples) -> Iterator[tuple[str, Tensor]]:
    """What says which class samples are of, with its name; `[B]` int64."""
    if samples.labels is not None:
        yield "labels", samples.labels
    if subject.spec.classes:
        yield "prompts", samples.prompts


def _require_same(
    subject: DataSubject, what: str, split: str, x: Tensor, labels: Tensor, reference: Tensor, known: Tensor
) -> None:
    """Require that the `labels` of training samples `x` are what those of the `reference` say."""
    must = f"the {what} of a batch of {subject.who} must be those of the same samples in its {split} reference"
    mine, theirs = _by_sample(x, labels), _by_sample(reference, known)
    both = [(mine[row], theirs[row]) for row in mine.keys() & theirs.keys()]
    # What has several labels in one place may have them in the other.
    sure = [(a, b) for a, b in both if len(a) == len(b) == 1]
    other = sum(a != b for a, b in sure)
    require(other <= _OTHERS * len(sure), f"{must}; of {len(sure)} samples that are in both, {other} have another")
    if len(sure) >= _ENOUGH:
        return
    some, near = slice(0, subject.number), slice(0, 2 * subject.number)
    near_ones = ((reference[near], known[near]), (x[near], labels[near]))
    right, own = (_nearest_says(x[some], labels[some], *those) for those in near_ones)
    chance = _by_chance(labels[some], labels)
    require(
        own < chance + _SEEN or right > chance + (own - chance) / 3,
        f"{must}: by the nearest sample of the reference {100 * right:.0f} % of them are told, by the nearest of the "
        f"batches {100 * own:.0f} %, and by chance {100 * chance:.0f} %",
    )


def _by_sample(x: Tensor, labels: Tensor) -> dict[bytes, set[int]]:
    found: dict[bytes, set[int]] = defaultdict(set)
    for row, label in zip(x, labels.tolist(), strict=True):
        found[row.numpy().tobytes()].add(label)
    return found


def _nearest_says(x: Tensor, labels: Tensor, others: Tensor, known: Tensor) -> float:
    """The share of `labels` that the nearest of `others` has, itself left out."""
    apart = torch.cdist(x.flatten(1), others.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.masked_fill(apart == 0, torch.inf).argmin(1)
    return float((known[nearest] == labels).double().mean())


def _by_chance(labels: Tensor, known: Tensor) -> float:
    """How often two labels are the same if one is drawn from each."""
    return float((labels[:, None] == known[None]).double().mean())


@LAWS.proven(
    "Batches and references have samples of the same classes.",
    "Data.batch, Data.reference",
    after=("labels_are_of_their_samples",),
)
def classes_are_of_the_data(subject: DataSubject) -> None:
    """Most samples of each are of classes that the other has, too."""
    for split in get_args(Split):
        reference = dict(_classes(subject, subject.data.reference(split, subject.number)))
        for what, labels in _classes(subject, subject.many):
            pairs = (("a batch", labels, reference[what]), (f"the {split} reference", reference[what], labels))
            for whose, mine, theirs in pairs:
                strange = 1 - _covered(mine.tolist(), theirs.tolist())
                require(
                    strange <= _LEFT_OUT + _unseen(theirs.tolist()),
                    f"the {what} of batches and of the {split} reference of {subject.who} must be of the same classes; "
                    f"{100 * strange:.0f} % of those of {whose} are of classes that the other has not",
                )


def _covered(labels: Sequence[int], others: Sequence[int]) -> float:
    there = set(others)
    return sum(label in there for label in labels) / len(labels)


def _unseen(labels: Sequence[int]) -> float:
    """How likely another is of a class that none of `labels` is: the share of those that are alone (Good 1953)."""
    return sum(number == 1 for number in Counter(labels).values()) / len(labels)


@LAWS.proven(
    "Samples are generated of the classes that the data have.",
    "Data.prompts",
    needs=("classes",),
    after=("classes_are_of_the_data",),
)
def prompts_ask_for_what_there_is(subject: DataSubject) -> None:
    """Hardly a training sample is of a class that is never asked for."""
    count = min(max(_MANY, 8 * subject.spec.classes), _MOST)
    asked = set(subject.data.prompts(whole(count)).tolist())
    trained = subject.many.prompts.tolist()
    share = _covered(trained, list(asked))
    require(
        share >= _ASKED,
        f"the prompts of {subject.who} must ask for the classes that it trains on; {count} of them ask for "
        f"{len(asked)}, of which {100 * share:.0f} % of its training samples are",
    )
