"""The laws of features."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch

from flowmap.interfaces import Features
from flowmap.plugin.kinds import FeaturesConfig
from flowmap.schema.specs import SampleSpec
from flowmap.testing.check import Laws
from flowmap.testing.contract import build_quietly, own_randomness_only, require, whole
from flowmap.testing.referenced import ReferencedSubject

LAWS = Laws("features")

_COUNT = 24
_TOLERANCE = 1e-4  # of the largest number: sums of float32 come out otherwise in batches of another size


class FeaturesSubject(ReferencedSubject):
    """The features that `config` builds with `references`: images `[128, 1, 1, 8, 8]` of two classes if not given."""

    kind: ClassVar[str] = "features"
    config: FeaturesConfig

    def found(self, name: str) -> bool:
        """See Subject.found."""
        return False

    @cached_property
    def features(self) -> Features:
        """What the configuration builds."""
        train = self.references.train
        shape = tuple(train.x.shape[1:])
        self.require_taken(self.config.findings(SampleSpec(shape, labelled=train.labels is not None)))
        return build_quietly(self.config, lambda: self.config.build(self.references))

    def some(self) -> torch.Tensor:
        """A few samples."""
        return self.references.held_out.x[:_COUNT].clone()


@LAWS.proven(
    "They take the samples that they are examined with, and building them draws no random number.",
    "FeaturesConfig.findings, FeaturesConfig.build",
)
def takes_its_samples(subject: FeaturesSubject) -> None:
    """Findings have no error."""
    assert subject.features


@LAWS.proven("Samples are left as they are.", "Features.of", after=("takes_its_samples",))
def leaves_samples_alone(subject: FeaturesSubject) -> None:
    """Not in place."""
    x = subject.some()
    subject.features.of(x)
    require(torch.equal(x, subject.some()), f"{subject.who} must not change the samples")


@LAWS.proven("A sample has one finite vector.", "Features.of", after=("takes_its_samples",))
def gives_vectors(subject: FeaturesSubject) -> None:
    """[N, D]."""
    x, who = subject.some(), subject.who
    with own_randomness_only(who):
        found = subject.features.of(x)
    good = found.ndim == 2 and len(found) == len(x) and found.is_floating_point()
    require(good, f"{who} must give vectors [{len(x)}, D], not {found.dtype} {list(found.shape)}")
    require(bool(found.isfinite().all()), f"{who} must give finite numbers")


@LAWS.proven("The same samples have the same vectors.", "Features.of", after=("gives_vectors",))
def repeats_itself(subject: FeaturesSubject) -> None:
    """To the bit."""
    first, again = (subject.features.of(subject.some()) for _ in range(2))
    require(torch.equal(first, again), f"{subject.who} must give the same vectors for the same samples")


@LAWS.proven("The vector of a sample is of that sample alone.", "Features.of", after=("repeats_itself",))
def samples_are_alone(subject: FeaturesSubject) -> None:
    """In parts, backwards."""
    x = subject.some()
    found = subject.features.of(x)
    alone = torch.cat([subject.features.of(part) for part in x.flip(0).split(len(x) // 3)]).flip(0)
    error = float((alone - found).abs().max() / found.abs().max().clamp(min=1e-12))
    require(
        error < _TOLERANCE,
        f"the vector of a sample must not depend on the others: {subject.who} (off by {error:.2g} of the largest "
        "number)",
    )


@LAWS.proven("The reference and noise are told apart.", "Features", after=("gives_vectors",))
def tells_noise(subject: FeaturesSubject) -> None:
    """By the mean."""
    real = subject.references.teacher
    noise = whole(len(real)).normal("noise", tuple(real.shape[1:]))
    apart = (subject.features.of(real).double().mean(0) - subject.features.of(noise).double().mean(0)).norm()
    require(bool(apart > 0), f"{subject.who} must tell the reference from noise, whose features have the same mean")


@LAWS.proven(
    "What is unseen are real training samples, a part or all.", "FeaturesConfig.unseen", after=("takes_its_samples",)
)
def unseen_are_real(subject: FeaturesSubject) -> None:
    """Row by row."""
    rows = {row.numpy().tobytes() for row in subject.references.train.x.cpu()}
    unseen = subject.config.unseen(subject.references).x
    known = len(unseen) > 0 and all(row.numpy().tobytes() in rows for row in unseen.cpu())
    require(known, f"what {subject.who} has not learned from must be some of the training samples, and at least one")
