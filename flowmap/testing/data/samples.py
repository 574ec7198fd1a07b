"""What the samples of a data source are."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import torch
from torch import Tensor

from flowmap.interfaces import EncodedText
from flowmap.testing.alike import alike, captions, some_prompts
from flowmap.testing.check import Laws
from flowmap.testing.contract import halves, own_randomness_only, require, require_like, whole
from flowmap.testing.data.subject import COUNT, DataSubject, pictured

LAWS = Laws("data")

_ENOUGH = 10  # samples that can be judged
_CONDITIONS = "classes or text"


@LAWS.proven(
    "Random numbers come from the source's draw alone, and opening it draws none.",
    "Data.batch, Data.prompts, DataConfig.build",
)
def draws_from_its_draw(subject: DataSubject) -> None:
    """No global generator."""
    data, who = subject.data, subject.who
    with own_randomness_only(who):
        samples = data.batch(whole(COUNT))
        data.prompts(whole(COUNT))
        data.reference("train", 3)
        data.picture(pictured(subject, samples))


@LAWS.proven(
    "Samples are finite float32 of the shape that the specification says.",
    "DataConfig.spec, Samples.x",
    after=("draws_from_its_draw",),
)
def samples_are_as_specified(subject: DataSubject) -> None:
    """Of one of its sizes, where there are several; in model space where they are encoded."""
    for index, (who, samples, count) in enumerate(subject.all()):
        spec = subject.spec
        if spec.sizes and not samples.encoded and not index:
            shape = tuple(samples.x.shape[1:])
            require(
                shape in spec.sizes, f"x of {who} must be of one of the sizes that its spec names, not {list(shape)}"
            )
            require(spec.shape in spec.sizes, f"the sizes of {subject.who} must have its shape among them")
            spec = replace(spec, shape=shape)
        require_like(samples.x, (count, *(samples.x.shape[1:] if samples.encoded else spec.shape)), f"x of {who}")


@LAWS.proven(
    "Samples have labels [B] in int64, from 0 on, if and only if the specification says so.",
    "SampleSpec.labelled, Samples.labels",
    after=("draws_from_its_draw",),
)
def labels_are_as_specified(subject: DataSubject) -> None:
    """Batches and references."""
    for who, samples, count in subject.all():
        labels = samples.labels
        if not subject.spec.labelled:
            require(labels is None, f"{who} has labels, but its spec does not say so")
            continue
        good = labels is not None and labels.shape == (count,) and labels.dtype == torch.int64
        require(good, f"{who} must have labels [{count}] in int64: its spec says labelled")
        require(labels is not None and bool((labels >= 0).all()), f"the labels of {who} must not be negative")


@LAWS.proven(
    "Samples have prompts if and only if the specification has classes or text; texts are strings or encoded.",
    "SampleSpec.conditional, Samples.prompts",
    after=("draws_from_its_draw",),
)
def prompts_are_as_specified(subject: DataSubject) -> None:
    """Of batches, of references, and those to generate by."""
    spec = subject.spec
    for who, samples, count in subject.all():
        conditional = samples.prompts is not None
        require(conditional == spec.conditional, f"{who} must have prompts if and only if its spec has {_CONDITIONS}")
        if spec.text:
            captions(samples.prompts, samples.encoded, count, f"the prompts of {who}")
    prompts = subject.data.prompts(whole(COUNT))
    conditional = prompts is not None
    require(
        conditional == spec.conditional, f"{subject.who} must give prompts if and only if its spec has {_CONDITIONS}"
    )
    if spec.text:
        captions(prompts, isinstance(prompts, EncodedText), COUNT, f"the prompts of {subject.who}")


@LAWS.proven(
    "Prompts to generate by depend on their draw alone, however many processes share them.",
    "Data.prompts",
    after=("prompts_are_as_specified",),
)
def prompts_are_by_their_draw(subject: DataSubject) -> None:
    """No state."""
    prompts = subject.data.prompts(whole(COUNT))
    same = alike(prompts, subject.data.prompts(whole(COUNT)))
    require(same, f"the prompts of {subject.who} must be the same for the same draw")
    for part in halves(COUNT):
        same = alike(some_prompts(prompts, part.rows), subject.data.prompts(part))
        require(same, f"the prompts of {subject.who} must not depend on how many processes share them")


@LAWS.proven(
    "Class labels are from 0 to the number of classes less 1, where they are prompts.",
    "SampleSpec.classes",
    needs=("classes",),
    after=("labels_are_as_specified", "prompts_are_by_their_draw"),
)
def classes_are_counted(subject: DataSubject) -> None:
    """Prompts of batches, of references and of generation."""
    classes = subject.spec.classes
    asked = [*((f"the prompts of {who}", samples.prompts) for who, samples, _ in subject.all())]
    asked += [
        (f"the prompts of a batch of {subject.who}", subject.many.prompts),
        (f"the prompts of {subject.who}", subject.data.prompts(whole(subject.number))),
    ]
    for who, prompts in asked:
        good = isinstance(prompts, Tensor) and prompts.ndim == 1 and prompts.dtype == torch.int64
        require(good, f"{who} must be labels [B] in int64: its spec has {classes} classes")
        least, most = int(prompts.min()), int(prompts.max())
        require(
            least >= 0 and most < classes,
            f"{who} must be from 0 to {classes - 1}, for its spec has {classes} classes; they are from {least} to "
            f"{most}",
        )


@LAWS.proven(
    "What a sample is asked for by goes with what it is labelled as.",
    "Samples.labels, Samples.prompts",
    needs=("classes", "labels"),
    after=("classes_are_counted",),
)
def prompts_go_with_labels(subject: DataSubject) -> None:
    """Labels are told from prompts better than by chance, where there are several of both."""
    samples = subject.many
    labels, prompts = samples.labels, samples.prompts
    assert labels is not None
    if len(set(labels.tolist())) < 2 or len(set(prompts.tolist())) < 2 or _seen_twice(prompts) < _ENOUGH:
        return
    told, chance = _told(prompts, labels), _told(prompts, labels.roll(subject.number // 3))
    require(
        told > chance + 0.1,
        f"the prompts of a batch of {subject.who} must go with its labels: by the prompt {100 * told:.0f} % of the "
        f"labels are told, and {100 * chance:.0f} % where samples are mixed up",
    )


def _halves(labels: Tensor) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    first, second = slice(0, len(labels) // 2), slice(len(labels) // 2, None)
    return (first, second), (second, first)


def _seen_twice(prompts: Tensor) -> int:
    """How many of the prompts are in the other half too: of a thousand classes hardly any."""
    return sum(int(torch.isin(prompts[asked], prompts[known]).sum()) for known, asked in _halves(prompts))


def _told(prompts: Tensor, labels: Tensor) -> float:
    """The share of labels that are the commonest of their prompt, where the other half has that prompt."""
    right = 0
    for known, asked in _halves(labels):
        seen: dict[int, Counter[int]] = defaultdict(Counter)
        for prompt, label in zip(prompts[known].tolist(), labels[known].tolist(), strict=True):
            seen[prompt][label] += 1
        for prompt, label in zip(prompts[asked].tolist(), labels[asked].tolist(), strict=True):
            right += bool(seen[prompt]) and seen[prompt].most_common(1)[0][0] == label
    return right / _seen_twice(prompts)
