"""How far scores would move if the same prompts were sampled again: intervals from the videos of each prompt.

The prompts are the benchmark's own and stay; what is drawn is the noise of each video. So a score is a mean over
prompts (strata) of the mean of n_p videos, and its variance is the sum over prompts of n_p s_p^2 / N^2, with s_p^2 the
variance of a prompt's videos and N the number of all (Cochran, Sampling Techniques, 5.3, without a correction for
finite populations). Student's t has sum (n_p - 1) degrees of freedom, hundreds, so that its form hardly matters. A
total is linear in the scores, so each clip adds something to it that can be told: clips that several dimensions look
at are counted once, with all that they add, and no independence of dimensions is assumed. Nothing is said of other
prompts, and nothing of another training.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping

from flowmap.statistics.quantiles import student
from flowmap.vbench.dimensions import PERCENT, Suite
from flowmap.vbench.names import prompt_of
from flowmap.vbench.totals import slope

CONFIDENCE = 0.95
_APART = 1e-3  # relative: what a mean over frames may differ from the mean over clips of one length

Values = Mapping[str, float | None]
"""The value of each clip, by its name, as the package gives it; None of a clip that it leaves out by design."""


def half_width(name: str, score: float, values: Values) -> float | None:
    """Half of the interval of a dimension's raw score; None where its clips do not say it.

    They do not where a prompt has one clip, and where the score is not the mean of its clips' values.
    """
    added = _added(name, score, values)
    return None if added is None else _half(added)


def half_width_of_total(suite: Suite, scores: Mapping[str, float], values: Mapping[str, Values]) -> float | None:
    """Half of the interval of a total (as a share); None if that of a dimension is not known."""
    whole: dict[str, float] = defaultdict(float)
    for name in suite.counted:
        added = _added(name, scores[name], values[name])
        if added is None:
            return None
        for clip, value in added.items():
            whole[clip] += slope(suite, name) * value
    return _half(whole)


def _added(name: str, score: float, values: Values) -> dict[str, float] | None:
    """What each clip adds to the deviation of a score; None if the score is not the mean of its clips' values.

    A clip without a value adds nothing: the mean of those that have one is a ratio, and this is its linear part.
    """
    by = 100 if name in PERCENT else 1
    there = [value / by for value in values.values() if value is not None]
    if not there or not math.isclose(statistics.fmean(there), score, rel_tol=_APART, abs_tol=1e-6):
        return None
    return {clip: 0.0 if v is None else (v / by - score) / len(there) for clip, v in values.items()}


def _half(added: Mapping[str, float]) -> float | None:
    """Half of the interval of the sum of what clips add, those of a prompt being draws of the same."""
    prompts: dict[str, list[float]] = defaultdict(list)
    for clip, value in added.items():
        prompts[prompt_of(clip)].append(value)
    freedom = sum(len(each) - 1 for each in prompts.values())
    if any(len(each) == 1 for each in prompts.values()) or not freedom:
        return None
    variance = sum(len(each) * statistics.variance(each) for each in prompts.values())
    return student(0.5 + CONFIDENCE / 2, freedom) * math.sqrt(variance)
