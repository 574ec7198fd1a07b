"""Metrics: three Fréchet distances, sliced Wasserstein, semigroup error, nearest training sample."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from flowmap.plugin import Finding, MetricConfig, NetworkKind, SampleSpec
from flowmap.schema.bounds import Cells, Directions

if TYPE_CHECKING:
    from flowmap.interfaces import Metric, References


_SMALLEST = 2


def _needs_images(spec: SampleSpec, field: str) -> Iterable[Finding]:
    """The classifier learns from labels, and halves an image of so many pixels once."""
    if not spec.labelled:
        yield Finding("error", (field,), "classifier features need labelled data, and these have no labels")
    elif len(spec.shape) != 4 or min(spec.shape[2:]) < _SMALLEST:
        why = (
            f"classifier features are of images [F, C, H, W] of {_SMALLEST} x {_SMALLEST} pixels or more, and samples "
            f"of these data are {list(spec.shape)}; use a metric of their raw numbers, such as frechet_pixels"
        )
        yield Finding("error", (field,), why)


class FrechetFeaturesConfig(MetricConfig):
    """Fréchet distance to held-out data in the features of a classifier; its floor is of images it has not seen.

    The classifier is trained on one half of the training split, and the other half are the floor's.
    """

    type: Literal["frechet_features"] = "frechet_features"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Labelled images are needed."""
        return _needs_images(spec, "type")

    def build(self, references: References) -> Metric:
        """Train the classifier."""
        from flowmap_metrics.frechet import FrechetDistance, features_of
        from flowmap_metrics.parts import halves

        learned, unseen = halves(references.train)
        return FrechetDistance(features_of(learned, references.shelf), references.held_out.x, unseen.x)


class FrechetPixelsConfig(MetricConfig):
    """Fréchet distance to held-out data on the raw numbers."""

    type: Literal["frechet_pixels"] = "frechet_pixels"

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """It fits all data."""
        return []

    def build(self, references: References) -> Metric:
        """Measure the held-out data."""
        from flowmap_metrics.frechet import FrechetDistance, raw

        return FrechetDistance(raw, references.held_out.x, references.train.x)


class FrechetTeacherConfig(MetricConfig):
    """Fréchet distance to the teacher's own many-step samples: what distillation lost."""

    type: Literal["frechet_teacher"] = "frechet_teacher"
    space: Literal["features", "pixels"] = Field("features", description="classifier features or raw numbers")

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        """Features need labelled images."""
        return _needs_images(spec, "space") if self.space == "features" else []

    def build(self, references: References) -> Metric:
        """Measure the teacher's samples."""
        from flowmap_metrics.frechet import FrechetDistance, features_of, raw
        from flowmap_metrics.parts import halves

        # The same classifier as that of frechet_features, so that both are made for the cost of one.
        wanted = self.space == "features"
        space = features_of(halves(references.train)[0], references.shelf) if wanted else raw
        return FrechetDistance(space, references.teacher, references.teacher_again)


class SlicedWassersteinConfig(MetricConfig):
    """Sliced Wasserstein-2 distance (POT) to held-out data, or to the teacher's own many-step samples."""

    type: Literal["sliced_wasserstein"] = "sliced_wasserstein"
    to: Literal["held_out", "teacher"] = Field("held_out", description="what samples are compared with")
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
