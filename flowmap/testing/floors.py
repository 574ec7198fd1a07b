"""The laws of what metrics say that a perfect model scores."""

from __future__ import annotations

import math

from flowmap.testing.check import Laws
from flowmap.testing.contract import require
from flowmap.testing.metrics import MetricSubject

LAWS = Laws("metric")

_FLOOR = 4.0  # within this factor of what perfect samples score: both have chance in them
_ITSELF = 1e-4  # of what others score; rounding is less
_GROWN, _KEPT = 1.5, 1.15  # what is plain growth, and what is some


@LAWS.proven("The floor is finite, and no worse than noise.", "Metric.floor", after=("better_is_better",))
def floors_are_no_noise(subject: MetricSubject) -> None:
    """At the number of samples that is scored."""
    sign, noise = 1 if subject.config.better == "lower" else -1, subject.bad.value
    floor = subject.metric.floor(subject.count)
    require(
        math.isfinite(floor) and sign * floor <= sign * noise,
        f"the floor of {subject.who} is what a perfect model would score; {floor:g} is not (noise: {noise:g})",
    )


@LAWS.proven("The floor is the same in every run.", "Metric.floor", after=("floors_are_no_noise",))
def floors_repeat(subject: MetricSubject) -> None:
    """Of the same references, by a metric that is built again: it may draw anew at every call, as it is asked once."""
    floors = [subject.built().floor(subject.count) for _ in range(2)]
    require(
        floors[0] == floors[1],
        f"the floor of {subject.who} must be the same when the metric is built again, not {floors[0]!r} and "
        f"{floors[1]!r}: choose samples by a generator with a seed of its own",
    )


@LAWS.proven(
    "The floor is what perfect samples score.",
    "Metric.floor",
    needs=("own_floor",),
    after=("floors_repeat", "leaves_samples_alone", "makes_its_calls"),
)
def floors_are_what_is_perfect(subject: MetricSubject) -> None:
    """Within a factor of 4, and a quarter of the way to noise or a factor of 2; half of the way if higher is better."""
    noise, higher = subject.bad.value, subject.config.better == "higher"

    def told(size: int) -> tuple[float, float, str]:
        floor, perfect = subject.metric.floor(size), subject.perfect(size)
        what = f"the floor of {subject.who} must be what a perfect model scores"
        numbers = f"{floor:.3g}, real samples that it never saw score {perfect:.3g}, and noise {noise:.3g}"
        return floor, perfect, f"{what}; at {size} samples it is {numbers}"

    floor, perfect, must = told(subject.count)
    off, way = abs(floor - perfect), abs(noise - perfect)
    if higher:
        require(off <= way / 2, must)
        return
    # Of a metric that hardly tells few samples from noise, chance is a good part of the way.
    require(off <= way / _FLOOR or 0 < perfect / 2 <= floor <= perfect * 2, must)
    require(perfect <= 0 or perfect / _FLOOR <= floor <= perfect * _FLOOR, f"{must}: so few samples do not score 0")
    # Of all that it was given: by chance real samples come near to others, and never so near as to themselves.
    floor, perfect, must = told(len(subject.unseen.x))
    require(perfect <= 0 or floor > _ITSELF * perfect, f"{must}: does it compare samples with themselves?")


@LAWS.proven(
    "The floor goes by the number of samples as scores do.",
    "Metric.floor",
    needs=("own_floor",),
    after=("floors_are_what_is_perfect",),
)
def floors_go_by_the_size(subject: MetricSubject) -> None:
    """Of a quarter of the samples."""
    many, few = subject.count, subject.count // 4
    perfect, floor = ([at(size) for size in (few, many)] for at in (subject.perfect, subject.metric.floor))
    grown, kept = (max(pair) / max(min(pair), 1e-12) for pair in (perfect, floor))
    good = grown < _GROWN or kept > _KEPT
    require(
        good,
        f"the floor of {subject.who} must go by the number of samples: perfect ones score {perfect[0]:.3g} ({few} "
        f"samples) and {perfect[1]:.3g} ({many}), and the floor is {floor[0]:.3g} and {floor[1]:.3g}",
    )
