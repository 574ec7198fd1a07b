"""Build what a run needs only later, before its first step: what cannot be built is then said before it costs training.

Whose fault that is, flowmap.plugin.answers says, or the command by flowmap.plugin.blame.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, final

from flowmap.interfaces import References
from flowmap.phases import phase
from flowmap.plugin.kinds import DataConfig, FeaturesConfig, MetricConfig
from flowmap.recipe.recipe import Recipe
from flowmap.recipe.tables import EvaluationConfig
from flowmap.training.terms import turns_of

T = TypeVar("T")


def build_early(recipes: Sequence[Recipe]) -> None:
    """Build every sampler, metric, set of features, objective, data source and backbone that `recipes` name.

    Nothing of it is kept, and nothing is built that takes long. Data and the backbone of the first stage are opened by
    that stage at once. Metrics and features are built as far as they get without a sample, for there are none of a
    teacher yet. Raises what `build()` raises, and FlowmapError for what is no such component.
    """
    with phase("building what is needed later"):
        for recipe in recipes:
            for stage in recipe.stages:
                turns_of(stage.objective, stage.objective.build())
            if recipe.evaluation is not None:
                _build_measures(recipe.evaluation)
        for data in _others(each for recipe in recipes for each in _data_of(recipe)):
            data.build()
        for backbone, spec in _others((recipe.backbone, recipe.data.spec()) for recipe in recipes):
            backbone.build(spec)


def _build_measures(evaluation: EvaluationConfig) -> None:
    """Samplers, and metrics with the features that they hold."""
    evaluation.teacher_sampler.build()
    for contest in evaluation.contests:
        for sampler in contest.samplers:
            sampler.build()
    for metric in evaluation.metrics:
        for name in type(metric).model_fields:
            if isinstance(held := getattr(metric, name), FeaturesConfig):
                _build_unread(held)
        _build_unread(metric)


def _build_unread(config: MetricConfig | FeaturesConfig) -> None:
    """Build `config` until it looks at the references for the first time."""
    references: References = object.__new__(_Unread)
    try:
        config.build(references)
    except _ReadError:
        return


def _data_of(recipe: Recipe) -> Iterator[DataConfig]:
    """The data of `recipe` in the order in which they are opened."""
    for stage in recipe.stages:
        yield stage.data or recipe.data
    if recipe.evaluation is not None:
        yield recipe.measured_data()


def _others(configs: Iterable[T]) -> list[T]:
    """Each once, but the first, which is built at once anyway. A plugin's configuration need have no hash."""
    found: list[T] = []
    for config in configs:
        if config not in found:
            found.append(config)
    return found[1:]


class _ReadError(BaseException):
    """Of no kind that a plugin would catch."""


@final
class _Unread(References):  # type: ignore[misc]  # a plugin may ask whether it is one
    """References of which nothing is there: who looks at one is stopped."""

    def __getattribute__(self, name: str) -> Any:
        """Say that `name` was looked at."""
        raise _ReadError(name)
