"""What the networks of a backbone make of their conditions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from flowmap.interfaces import EncodedText
from flowmap.plugin.blame import said_of
from flowmap.testing.backbones.subject import COUNT, BackboneSubject
from flowmap.testing.check import Laws
from flowmap.testing.contract import require, require_equal, unchanged_rows

LAWS = Laws("backbone")

_CLASSES = 32
_OTHERS = torch.tensor([1, 2, 3, 0])  # the prompt of another sample for each


def _at(subject: BackboneSubject, cond: Any, rows: Tensor | None = None) -> Tensor:
    """The velocity under `cond`, of the samples `rows` (all, if not given)."""
    x, t = (subject.batch.x0, subject.t) if rows is None else (subject.batch.x0[rows], subject.t[rows])
    return subject.at("velocity", x=x, t=t, cond=cond)


def _chosen(prompts: Any, rows: Tensor) -> Any:
    if isinstance(prompts, EncodedText):
        return prompts.take(rows)
    return prompts[rows] if isinstance(prompts, Tensor) else [prompts[row] for row in rows.tolist()]


@LAWS.proven(
    "Rows of a condition that are taken act as those rows do.", "Cond.take", after=("calls_repeat", "samples_are_alone")
)
def conditions_are_taken(subject: BackboneSubject) -> None:
    """In any order."""
    cond, _ = subject.conditions(subject.samples.prompts)
    rows, contract = (
        torch.tensor([2, 0, 3]),
        f"`take` of a condition of {subject.who}: taking rows of a condition of {subject.who} must act as those rows "
        "do",
    )
    require_equal(_at(subject, cond.take(rows), rows), _at(subject, cond)[rows], contract)


@LAWS.proven(
    "A network can be asked under the null condition.",
    "Backbone.condition",
    needs=("conditional",),
    after=("calls_repeat",),
)
def null_is_answered(subject: BackboneSubject) -> None:
    """As it can under what is asked for."""
    cond, null = subject.conditions(subject.samples.prompts)
    _at(subject, cond)
    try:
        _at(subject, null)
    except Exception as error:
        beyond = "; has its embedding of labels a row for the null label, beyond those of the classes?"
        raise AssertionError(
            f"{subject.called('velocity')} must answer under the null condition that `condition` gives, as under "
            f"others: {said_of(error, subject.config)}{beyond if isinstance(error, IndexError) else ''}"
        ) from error


@LAWS.proven(
    "Conditions that are joined act as each does alone.",
    "Cond.join",
    after=("calls_repeat", "samples_are_alone", "null_is_answered"),
)
def conditions_are_joined(subject: BackboneSubject) -> None:
    """A condition and the null condition."""
    cond, null = subject.conditions(subject.samples.prompts)
    twice = torch.arange(COUNT).repeat(2)
    apart = torch.cat([_at(subject, cond), _at(subject, null)])
    require_equal(
        _at(subject, cond.join(null), twice), apart, f"joined conditions of {subject.who} must act as each does alone"
    )


@LAWS.proven(
    "A network depends on its condition.", "Backbone.condition", needs=("conditional",), after=("conditions_are_taken",)
)
def condition_is_used(subject: BackboneSubject) -> None:
    """With another prompt it says something else."""
    prompts = subject.samples.prompts
    cond, _ = subject.conditions(prompts)
    here, there = _at(subject, cond), _at(subject, cond.take(_OTHERS))
    other = prompts != prompts[_OTHERS] if isinstance(prompts, Tensor) else torch.ones(COUNT, dtype=torch.bool)
    same = int((_alike(here, there) & other).sum())
    require(
        not same,
        f"{subject.who} must use its condition: with the prompts of other samples its networks say the same of {same} "
        f"of {int(other.sum())} samples",
    )


def _alike(here: Tensor, there: Tensor) -> Tensor:
    """Which rows are the same."""
    return (here == there).flatten(1).all(dim=1)


@LAWS.proven(
    "The null condition is another than what is asked for.",
    "Backbone.condition",
    equation="guidance v = v(null) + w (v(cond) - v(null)): arXiv 2207.12598",
    needs=("conditional",),
    after=("conditions_are_taken", "conditions_are_joined", "condition_is_used"),
)
def null_is_no_condition(subject: BackboneSubject) -> None:
    """Guidance by their difference would do nothing, if only for one class. An empty text may be the null condition."""
    for prompts in _asked(subject):
        cond, null = subject.conditions(prompts)
        alike = _alike(_at(subject, cond), _at(subject, null))
        told = prompts.tolist() if isinstance(prompts, Tensor) else prompts
        same = [row for row in range(COUNT) if alike[row] and not (isinstance(told, list) and told[row] == "")]
        which = f" of class {told[same[0]]}" if same and isinstance(prompts, Tensor) else ""
        require(
            not same,
            f"`condition` of {subject.who} must give a null condition of its own: that{which} and nothing give the "
            "same, so guidance does nothing",
        )


def _asked(subject: BackboneSubject) -> Iterator[Any]:
    """Prompts of as many samples as there are; of classes the first and the last."""
    prompts = subject.samples.prompts
    if not (isinstance(prompts, Tensor) and subject.spec.classes):
        yield prompts
        return
    classes = subject.spec.classes
    known = sorted({*range(min(classes, _CLASSES)), *range(max(0, classes - COUNT), classes)})
    for begin in range(0, len(known), COUNT):
        yield torch.tensor((known[begin:] + known)[:COUNT] if len(known) >= COUNT else (known * COUNT)[:COUNT])


@LAWS.proven(
    "The null condition is the same, whatever is asked for.",
    "Backbone.condition",
    needs=("conditional",),
    after=("null_is_no_condition",),
)
def null_is_one(subject: BackboneSubject) -> None:
    """With the prompts of other samples."""
    nulls = [subject.conditions(_chosen(subject.samples.prompts, rows))[1] for rows in (torch.arange(COUNT), _OTHERS)]
    first, other = (_at(subject, null) for null in nulls)
    require_equal(other, first, f"the null condition of {subject.who} must be the same, whatever is asked for")


@LAWS.proven(
    "The condition of a prompt does not depend on the prompts beside it.",
    "Backbone.condition",
    needs=("conditional",),
    after=("condition_is_used",),
)
def prompts_are_alone(subject: BackboneSubject) -> None:
    """Alone it is what it is among others."""
    prompts, all_rows = subject.samples.prompts, torch.arange(COUNT)
    together = _at(subject, subject.conditions(prompts)[0])
    for row in all_rows.split(1):
        alone, _ = subject.conditions(_chosen(prompts, row), subject.samples.x[row])
        require_equal(
            _at(subject, alone, row),
            together[row],
            f"the condition that {subject.who} makes of a prompt must not depend on the prompts beside it",
        )


@LAWS.proven(
    "A batch has the condition of its own prompts, and the null condition.",
    "Backbone.encode, Batch",
    needs=("conditional",),
    after=("null_is_no_condition",),
)
def batches_have_their_conditions(subject: BackboneSubject) -> None:
    """What `encode` makes of prompts is what `condition` makes of them."""
    for name, mine, asked in zip(
        ("condition", "null condition"),
        (subject.batch.cond, subject.batch.null),
        subject.conditions(subject.samples.prompts),
        strict=True,
    ):
        require_equal(
            _at(subject, mine),
            _at(subject, asked),
            f"the {name} of a batch that {subject.who} encodes must be that of its prompts",
        )


@LAWS.proven(
    "Texts are read as they are: other words are another condition.",
    "BackboneConfig.reads_text, Backbone.condition",
    needs=("text",),
    after=("condition_is_used",),
)
def texts_are_told_apart(subject: BackboneSubject) -> None:
    """Each text of the samples from each other, as far as they are texts."""
    prompts = subject.samples.prompts
    if not (isinstance(prompts, list) and len(set(prompts)) == COUNT):
        return
    cond, _ = subject.conditions(prompts)
    for shift in (1, 2, 3):
        same = unchanged_rows(_at(subject, cond), _at(subject, cond.take((torch.arange(COUNT) + shift) % COUNT)))
        require(
            not same,
            f"{subject.who} must tell texts apart; {same} of {COUNT} say the same as another "
            f"({', '.join(map(repr, prompts))})",
        )


@LAWS.proven(
    "A picture in a condition is the first frame that encoding finds in a sample.",
    "Backbone.pictured, Backbone.encode",
    needs=("pictured",),
    after=("conditions_are_taken",),
)
def pictures_are_first_frames(subject: BackboneSubject) -> None:
    """With that frame alone."""
    cond, _ = subject.conditions(subject.samples.prompts, subject.samples.x[:, :1])
    contract = f"`pictured` of {subject.who} must make of a first frame what `encode` makes of it in a sample"
    require_equal(_at(subject, cond), _at(subject, subject.batch.cond), contract)


@LAWS.proven(
    "A network sees its picture, without a prompt too.",
    "Backbone.pictured",
    needs=("pictured",),
    after=("pictures_are_first_frames", "null_is_answered"),
)
def pictures_are_used(subject: BackboneSubject) -> None:
    """With the pictures of other samples it says something else."""
    own, others = (
        subject.conditions(subject.samples.prompts, x) for x in (subject.samples.x, subject.samples.x[_OTHERS])
    )
    for name, here, there in zip(("condition", "null condition"), own, others, strict=True):
        ignored = torch.equal(_at(subject, here), _at(subject, there))
        require(not ignored, f"the picture in a {name} of {subject.who} is not used: another gives the same velocity")
