"""Totals against rows that others have published, and intervals against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flowmap.statistics.quantiles import student
from flowmap.vbench.dimensions import I2V, T2V, Suite
from flowmap.vbench.intervals import half_width, half_width_of_total
from flowmap.vbench.totals import missing, share, slope, totals

PUBLISHED = {
    # FlashVideo (2502.05179), table 1, and AccVideo's README: all 16 scores in percent, quality, semantic, total.
    "CogVideoX-1.5": (
        "96.87 97.35 98.88 98.31 50.93 62.79 65.02 87.47 69.65 97.20 87.55 80.25 52.91 24.89 25.19 27.30",
        (82.78, 79.76, 82.17),
    ),
    "Vchitect": (
        "96.83 96.66 98.57 98.98 63.89 60.41 65.35 86.61 68.84 97.20 87.04 57.55 56.57 23.73 25.01 27.57",
        (83.54, 77.06, 82.24),
    ),
    "AccVideo": (
        "95.02 97.75 99.54 97.95 93.33 64.21 68.42 98.38 86.58 97.40 92.04 75.68 59.82 23.88 24.62 27.34",
        (86.62, 83.25, 85.95),
    ),
}


def scores(row: str) -> dict[str, float]:
    return dict(zip(T2V.dimensions, [float(word) / 100 for word in row.split()], strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_rows_are_made_again(name: str) -> None:
    row, published = PUBLISHED[name]
    found = totals(T2V, scores(row))
    assert found is not None
    ours = [100 * value for value in (found.parts["quality"], found.parts["semantic"], found.total)]
    assert ours == pytest.approx(published, abs=0.0101)  # the published scores are rounded
    assert not found.clipping_matters


def test_a_total_is_never_made_over_fewer_dimensions() -> None:
    some = scores(PUBLISHED["Vchitect"][0])
    del some["temporal_flickering"]
    assert totals(T2V, some) is None
    assert missing(T2V, some) == ["temporal_flickering"]


def test_what_is_above_its_range_is_clipped_beside_the_total_and_not_in_it() -> None:
    some = scores(PUBLISHED["Vchitect"][0]) | {"motion_smoothness": 0.999}
    found = totals(T2V, some)
    assert found is not None
    assert found.clipping_matters
    # (0.999 - 0.706) / (0.9975 - 0.706) is 1.00515 instead of 1, a part of 6.5 in four fifths of the total.
    assert found.total - found.clipped == pytest.approx((0.999 - 0.9975) / 0.2915 / 6.5 * 0.8)


def test_videos_from_images_have_their_own_parts() -> None:
    some = {name: dimension.high for name, dimension in I2V.dimensions.items() if dimension.weight}
    found = totals(I2V, some)  # flickering counts in no total, and may be missing
    assert found is not None
    assert found.total == pytest.approx(1)
    some |= {"camera_motion": 0.0, "dynamic_degree": 0.0}
    found = totals(I2V, some)
    assert found is not None
    assert (found.parts["i2v"], found.parts["quality"]) == pytest.approx((2 / 2.1, 5 / 5.5))
    assert found.total == pytest.approx((2 / 2.1 + 5 / 5.5) / 2)


@pytest.mark.parametrize("suite", [T2V, I2V])
def test_the_slope_is_that_of_the_total(suite: Suite) -> None:
    low = {name: dimension.low for name, dimension in suite.dimensions.items()}
    for name, dimension in suite.dimensions.items():
        moved = totals(suite, low | {name: dimension.low + 0.01})
        assert moved is not None
        assert moved.total == pytest.approx(0.01 * slope(suite, name), abs=1e-12)
        assert share(dimension.high, dimension) == 1


def test_an_interval_is_as_wide_as_scores_scatter() -> None:
    """Twenty prompts, five videos: 4000 draws of all scatter as one draw's interval says."""
    rng = np.random.default_rng(0)
    levels, deviations = rng.uniform(0, 1, 20), rng.uniform(0.01, 0.2, 20)
    draws = levels[:, None] + deviations[:, None] * rng.standard_normal((4000, 20, 5))
    true = 1.99 * draws.mean((1, 2)).std()  # Student's t at 80 degrees of freedom
    widths = []
    for draw in draws[:200]:
        values = {f"p{p}-{v}": float(draw[p, v]) for p in range(20) for v in range(5)}
        width = half_width("temporal_flickering", float(draw.mean()), values)
        assert width is not None
        widths.append(width)
    assert np.mean(widths) == pytest.approx(true, rel=0.05)


def test_values_in_percent_and_clips_left_out() -> None:
    values: dict[str, float | None] = {f"{p}-{v}": float(p + v) for p in (1, 2) for v in range(5)}
    plain = half_width("aesthetic_quality", 3.5, values)
    assert plain is not None
    assert half_width("imaging_quality", 0.035, values) == pytest.approx(plain / 100)
    assert half_width("imaging_quality", 3.5, values) is None  # not the mean of its clips
    lacking = half_width("color", 4.0, {**values, "1-0": None, "1-1": None})
    # The ratio's linear part: (value - 4) / 8 of the eight that are there, 0 of the others; variances 0.5 and 2.5 / 64.
    assert lacking == pytest.approx(student(0.975, 8) * math.sqrt(5 * (0.5 + 2.5) / 64))
    assert half_width("aesthetic_quality", 3.5, {"1-0": 3.0, "2-0": 4.0}) is None  # one clip says nothing


def test_clips_that_several_dimensions_look_at_move_a_total_together() -> None:
    """Dimensions on the same clips with the same values add up; on other clips their variances do."""

    def values(name: str, prompt: str) -> dict[str, float]:
        by = 100 if name == "imaging_quality" else 1
        return {f"{prompt}-{v}": by * (0.5 + 0.01 * v) for v in range(5)}

    scored = dict.fromkeys(I2V.counted, 0.52)
    together = half_width_of_total(I2V, scored, {name: values(name, "a") for name in I2V.counted})
    slopes = [slope(I2V, name) for name in I2V.counted]
    deviation = math.sqrt(sum((0.01 * (v - 2)) ** 2 for v in range(5)) / 4)
    assert together == pytest.approx(student(0.975, 4) * deviation / math.sqrt(5) * sum(slopes))
    other = half_width_of_total(I2V, scored, {name: values(name, name) for name in I2V.counted})
    freedom = 4 * len(slopes)
    assert other == pytest.approx(
        student(0.975, freedom) * deviation / math.sqrt(5) * math.sqrt(sum(each**2 for each in slopes))
    )
