"""What metrics that compare samples in the space of features have in common. Torch-free."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field

from flowmap.plugin import AnyFeatures, FeaturesConfig, Finding, MetricConfig, SampleSpec

if TYPE_CHECKING:
    from torch import Tensor

    from flowmap.interfaces import References

Target = Literal["train", "held_out", "teacher"]


class InFeaturesConfig(MetricConfig, ABC):
    """A metric in the space of features, which may be those of a network that others trained."""

    features: AnyFeatures = Field(default="pixels", description="the space that samples are compared in")

    def missing(self) -> Iterable[Finding]:
        """What the features would read."""
        return self.of_features(self.features.missing())

    def rehearsed(self, folder: Path) -> Self:
        """With a tiny twin of the features."""
        return self.model_copy(update={"features": self.features.rehearsed(folder)})

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """What the features cannot read."""
        return self.of_features(self.features.findings(spec))

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """What the features remark."""
        return self.features.remarks(spec)

    def of_features(self, found: Iterable[Finding]) -> Iterable[Finding]:
        """The findings of the features, as those of their field."""
        return [Finding(finding.level, ("features", *finding.field), finding.message) for finding in found]


class PublishedConfig(InFeaturesConfig, ABC):
    """A metric as papers have it, in Inception features unless others are named, against training images."""

    features: AnyFeatures = Field(default="inception", description="the space that samples are compared in")
    to: Target = Field(
        "train", description="what samples are compared with: real images of a split, or the teacher's samples"
    )

    def label(self) -> str:
        """With its features, unless they are Inception's, and with what samples are compared with, unless it is train.

        Both are what the name alone means to whoever reads it.
        """
        of = self.features.label()
        return ":".join([self.type, *([] if of == "inception" else [of]), *([] if self.to == "train" else [self.to])])

    def remarks(self, spec: SampleSpec, samples: int, train: int, held_out: int) -> Iterable[str]:
        """What is not as in papers, by any of these metrics: the features, and what samples are compared with."""
        yield from self.features.remarks(spec)
        if (of := self.features.label()) != "inception":
            yield f"in {of} features; only numbers in the same features compare"
        if self.to == "teacher":
            yield "compared with the teacher's samples, and not with real images"
        elif self.to == "held_out":
            yield "compared with held-out images, where published numbers are of the training images"

    def compared(self, samples: int, train: int, held_out: int) -> int:
        """How many samples are compared at a time: no more than there are perfect ones."""
        perfect = {"train": held_out, "held_out": train, "teacher": samples}[self.to]
        return min(samples, perfect)


def sets_of(features: FeaturesConfig, to: Target, references: References) -> tuple[Tensor, Tensor]:
    """What samples are compared with, and what a perfect model would make: samples `[N, F, ...]` each.

    A perfect model makes what nothing in the features has learned from: the other half of what is compared with.
    """
    if to == "teacher":
        return references.teacher, references.teacher_again
    unseen = features.unseen(references).x
    return (references.held_out.x, unseen) if to == "held_out" else (unseen, references.held_out.x)


def few(least: int, found: int, what: str) -> Sequence[str]:
    """Remark that something is of fewer samples than in papers, if so."""
    return [f"{what} {found:,} samples, where published numbers are of {least:,} or more"] if found < least else []
