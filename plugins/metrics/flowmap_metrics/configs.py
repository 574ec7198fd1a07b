"""Fréchet and sliced Wasserstein distances, semigroup error, nearest training sample, and two features. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import FeaturesConfig, Finding, MetricConfig, NetworkKind, SampleSpec
from flowmap.schema.bounds import Cells, Directions
from flowmap_metrics.bases import InFeaturesConfig, sets_of

if TYPE_CHECKING:
    from flowmap.interfaces import Features, Metric, References, Samples


_SMALLEST = 2
To = Literal["held_out", "teacher"]


class PixelsConfig(FeaturesConfig):
    """The raw numbers of a sample."""

    type: Literal["pixels"] = "pixels"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits all data."""
        return []

    def build(self, references: References) -> Features:
        """Make them ready."""
        from flowmap_metrics.features import Pixels

        return Pixels()


class ClassifierConfig(FeaturesConfig):
    """A small classifier of these images, trained on one half of the training split: its last hidden layer."""

    type: Literal["classifier"] = "classifier"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """The classifier learns from labels, and halves an image of so many pixels once."""
        if not spec.labelled:
            yield Finding("error", ("type",), "classifier features need labelled data, and these have no labels")
        elif len(spec.shape) != 4 or min(spec.shape[2:]) < _SMALLEST:
            why = (
                f"classifier features are of images [F, C, H, W] of {_SMALLEST} x {_SMALLEST} pixels or more, and "
                f"samples of these data are {list(spec.shape)}; use a metric of their raw numbers, such as "
                "frechet_pixels"
            )
            yield Finding("error", ("type",), why)

    def build(self, references: References) -> Features:
        """Train the classifier, unless the shelf has it."""
        from flowmap_metrics.classifier import train_classifier
        from flowmap_metrics.parts import halves

        return train_classifier(halves(references.train)[0], references.shelf)

    def unseen(self, references: References) -> Samples:
        """The other half."""
        from flowmap_metrics.parts import halves

        return halves(references.train)[1]


def _frechet(features: FeaturesConfig, to: To, references: References) -> Metric:
    """The distance in `features`, to held-out data or to the teacher's samples."""
    from flowmap_metrics.frechet import FrechetDistance
    from flowmap_metrics.remembered import features_of

    return FrechetDistance(features_of(features, references), *sets_of(features, to, references))


class FrechetConfig(InFeaturesConfig):
    """Fréchet distance in any installed features, to held-out data or to the teacher's own many-step samples."""

    type: Literal["frechet"] = "frechet"
    to: To = Field("held_out", description="what samples are compared with")

    def label(self) -> str:
        """With its features, and the teacher if that is what samples are compared with."""
        return f"{self.type}:{self.features.label()}" + (":teacher" if self.to == "teacher" else "")

    def build(self, references: References) -> Metric:
        """Measure what samples are compared with."""
        return _frechet(self.features, self.to, references)


class FrechetFeaturesConfig(MetricConfig):
    """Fréchet distance to held-out data in the features of a classifier; its floor is of images it has not seen.

    The classifier is trained on one half of the training split, and the other half are the floor's.
    """

    type: Literal["frechet_features"] = "frechet_features"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Labelled images are needed."""
        return ClassifierConfig().findings(spec)

    def build(self, references: References) -> Metric:
        """Train the classifier."""
        return _frechet(ClassifierConfig(), "held_out", references)


class FrechetPixelsConfig(MetricConfig):
    """Fréchet distance to held-out data on the raw numbers."""

    type: Literal["frechet_pixels"] = "frechet_pixels"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits all data."""
        return []

    def build(self, references: References) -> Metric:
        """Measure the held-out data."""
        return _frechet(PixelsConfig(), "held_out", references)


class FrechetTeacherConfig(MetricConfig):
    """Fréchet distance to the teacher's own many-step samples: what distillation lost."""

    type: Literal["frechet_teacher"] = "frechet_teacher"
    space: Literal["features", "pixels"] = Field("features", description="classifier features or raw numbers")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Features need labelled images."""
        for finding in self._features().findings(spec):
            yield Finding(finding.level, ("space",), finding.message)

    def build(self, references: References) -> Metric:
        """Measure the teacher's samples."""
        return _frechet(self._features(), "teacher", references)

    def _features(self) -> FeaturesConfig:
        """The same classifier as that of frechet_features, so that both are made for the cost of one."""
        return ClassifierConfig() if self.space == "features" else PixelsConfig()


class SlicedWassersteinConfig(MetricConfig):
    """Sliced Wasserstein-2 distance (POT) to held-out data, or to the teacher's own many-step samples."""

    type: Literal["sliced_wasserstein"] = "sliced_wasserstein"
    to: To = Field("held_out", description="what samples are compared with")
    cells: Cells = Field(
        0, description="frames, rows and columns that samples are averaged down to before; 0 leaves them alone"
    )
    projections: Directions = Field(128, description="random directions; the same at every call")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits all data."""
        return []

    def build(self, references: References) -> Metric:
        """Keep the held-out data."""
        from flowmap_metrics.distances import SlicedWasserstein

        real = references.held_out.x, references.train.x
        target, perfect = real if self.to == "held_out" else (references.teacher, references.teacher_again)
        return SlicedWasserstein(self.projections, self.cells, target, perfect)


class SemigroupConfig(MetricConfig):
    """Root mean square of X_{t->r} - X_{s->r}(X_{t->s}) per element, on noised data, t > s > r uniform."""

    type: Literal["semigroup"] = "semigroup"
    network: ClassVar[NetworkKind | None] = "flow_map"
    calls: ClassVar[int] = 3

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits all data."""
        return []

    def build(self, references: References) -> Metric:
        """Make the metric."""
        from flowmap_metrics.distances import Semigroup

        return Semigroup()


class NearestTrainConfig(MetricConfig):
    """Mean Euclidean distance to the nearest training sample; far below the floor means copied data."""

    type: Literal["nearest_train"] = "nearest_train"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits all data."""
        return []

    def build(self, references: References) -> Metric:
        """Keep the training data."""
        from flowmap_metrics.distances import NearestTrain

        return NearestTrain(references.train.x, references.held_out.x)
