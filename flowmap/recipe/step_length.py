"""How long the difference of a derivative in time may be, as far as that is known before anything is computed.

Over the half width h a central difference takes the derivative of a feature sin(w t) times sin(w h) / (w h): it is the
derivative averaged over 2 h of time. In bfloat16, with 8 significant bits, u is rounded by about 2^-9 of itself (root
mean square), and a difference of two such values, divided by 2 h, by 2^-9 |u| / (sqrt(2) h). How far a difference is
off in the end depends on the network; `flowmap.training.tangent_error` measures it. Torch-free.

So a step that a recipe leaves out is 0.3 radians of the backbone's highest time frequency, but not more than 0.005, and
0.005 in bfloat16, where a shorter one would be rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from flowmap.plugin.kinds import ObjectiveConfig
from flowmap.recipe.derivatives import tangents
from flowmap.schema.config import Finding
from flowmap.schema.settings import TangentConfig
from flowmap.schema.specs import StageFacts
from flowmap.schema.words import Precision

NAME = "tangent_error"
"""What the measured relative error of differences is called, beside the losses."""

LIMIT = 0.1
"""The relative error of a difference above which a run warns."""

_RADIANS = 0.3  # of a feature whose derivative is right: 1.5 % off
_MOST_RADIANS = 0.5  # 4 % off
_BFLOAT16 = 2**-9
_MOST_ROUNDING = 0.5  # of |u|, per unit of t


def default_step(frequency: float | None, precision: Precision) -> float:
    """The step of a difference that a recipe leaves out, for a backbone's highest `frequency`; see the module."""
    longest = TangentConfig().step
    if frequency is None or precision == "bf16":
        return longest
    return min(longest, float(f"{_RADIANS / frequency:.1g}"))


def step_findings(
    objective: ObjectiveConfig, facts: StageFacts, frequency: float | None, precision: Precision
) -> Iterator[Finding]:
    """Warn of differences that are too long for `frequency`, the backbone's highest, or too short for `precision`."""
    for place in tangents(objective, facts):
        if place.config.method != "central":
            continue
        doubt = _doubt(place.config.step, frequency, precision, place.jvp)
        if doubt:
            yield Finding("warning", (*place.field, "step"), doubt)


def feature_error(radians: float) -> float:
    """The relative error of a central difference of a sinusoid over this half width: 1 - sin x / x."""
    return 1 - math.sin(radians) / radians


def rounding(step: float) -> float:
    """The rounding of du/dt by a difference in bfloat16, in units of |u| per unit of t; see the module."""
    return _BFLOAT16 / (math.sqrt(2) * step)


def percent(share: float) -> str:
    """`share` in percent, with two digits where it is small."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _doubt(step: float, frequency: float | None, precision: Precision, jvp: bool) -> str | None:
    mixed = precision == "bf16"
    if frequency is not None and step * frequency > _MOST_RADIANS:
        right = _RADIANS / frequency
        ways = [_JVP] if jvp else []
        if mixed:
            ways.append(f"step = {right:.1g} with precision = 'no'")
            rounded = (
                f"; in bf16 rounding adds about {percent(rounding(step))} of |u| per unit of t, "
                f"and {percent(rounding(right))} over {right:.1g}"
            )
        else:
            ways.insert(0, f"step = {right:.1g}")
            rounded = ""
        return (
            f"{_radians(step, frequency)}, so this is a derivative averaged over {2 * step:g} of time, not the "
            f"network's own{rounded}. {_MEASURED}. The network's own takes {' or '.join(ways)}, but averaged trains "
            "better where it was tried (`flowmap docs derivatives`)"
        )
    if mixed and rounding(step) > _MOST_ROUNDING:
        longer = TangentConfig().step
        ways = [_JVP] if jvp else []
        ways += ["precision = 'no'", f"step = {longer:g} ({percent(rounding(longer))}{_price(longer, frequency)})"]
        return (
            f"in bf16 u is rounded to about 0.2 %, which over so short a step is {percent(rounding(step))} of |u| per "
            f"unit of t in the derivative. {_MEASURED}. Set {' or '.join(ways)}"
        )
    return None


_JVP = "method = 'jvp' (plain attention only)"
_MEASURED = f"How far off it is in all, the run measures ('{NAME}' in steps.jsonl)"


def _radians(step: float, frequency: float) -> str:
    """How long `step` is for the fastest feature, and what that makes of it."""
    radians = step * frequency
    return (
        f"{step:g} is {radians:.2g} radians of this backbone's highest time frequency ({frequency:g} per unit of t), "
        f"of which a difference is {percent(feature_error(radians))} off"
    )


def _price(step: float, frequency: float | None) -> str:
    """What a longer `step` costs instead, if it does."""
    if frequency is None or step * frequency <= _MOST_RADIANS:
        return ""
    return f", but {_radians(step, frequency)}"
