"""Figures as inline SVG: small, without any outside reference, coloured by the page's own CSS variables."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flowmap.report.traces import POINTS, Trace, extremes, smoothed
from flowmap.schema.words import Better
from flowmap.statistics.sense import bound_word

COLOURS = 8
"""How many series colours the page's CSS defines: `--s0` (neutral) to `--s7`."""

# Of no use in themselves: each is replaced by a CSS variable, so that figures follow the page's theme.
_INK, _MUTED, _RULE, _PAPER = "#010203", "#010204", "#010205", "#010206"
_NAMES = {_INK: "--ink", _MUTED: "--muted", _RULE: "--rule", _PAPER: "--paper"}
_SERIES = [f"#0107{i:02x}" for i in range(COLOURS)]
_VARIABLES = _NAMES | {colour: f"--s{i}" for i, colour in enumerate(_SERIES)}

_MARKERS = ("o", "^", "s", "D", "v", "P")
_DASHES: tuple[tuple[float, ...], ...] = ((), (4, 2), (1.2, 1.4), (5, 1.5, 1.2, 1.5), (2.5, 1.2), (7, 2))
Size = tuple[float, float]
_TEXT = 8.5
_SIZE = (3.7, 2.8)


@dataclass(frozen=True)
class Style:
    """How a series looks: the index of its colour, and the one of its marker and dash."""

    colour: int
    shape: int = 0

    @property
    def marker(self) -> str:
        """Matplotlib's name of the marker."""
        return _MARKERS[self.shape % len(_MARKERS)]

    @property
    def dash(self) -> tuple[float, tuple[float, ...] | None]:
        """Matplotlib's dash pattern, in line widths."""
        return (0.0, _DASHES[self.shape % len(_DASHES)] or None)

    @property
    def hex(self) -> str:
        """The placeholder that becomes the CSS variable."""
        return _SERIES[self.colour % COLOURS]


@dataclass(frozen=True)
class Curve:
    """Scores of one series: `y` and `spread` at `calls`; the page's CSS knows it as `series-<index>`."""

    label: str
    index: int
    style: Style
    calls: Sequence[int]
    y: Sequence[float]
    spread: Sequence[float]


def curve_panel(
    title: str,
    curves: Sequence[Curve],
    floor: float,
    limits: tuple[float, float],
    per: str = "sample",
    labelled: bool = False,
    behind: Sequence[Curve] = (),
    better: Better = "lower",
) -> Markup:
    """Score against network calls per sample (or what `per` says), both axes logarithmic, floor or ceiling dashed.

    `limits` is the range of the score (see `score_limits`). `labelled` names each line at its right end. The curves
    `behind` are drawn thin and grey, to compare with.
    """

    def draw(axes: Axes) -> None:
        low, high = limits
        for curve in behind:
            value = np.where(np.isfinite(curve.y), np.maximum(curve.y, low), np.nan)
            axes.plot(np.log2(curve.calls), value, color=_RULE, lw=1)
        for curve in curves:
            x = np.log2(curve.calls)
            value, spread = np.array(curve.y), np.nan_to_num(np.array(curve.spread))
            value = np.where(np.isfinite(value), np.maximum(value, low), np.nan)
            bottom = np.maximum(value - spread, low)
            band = axes.fill_between(x, bottom, value + spread, color=curve.style.hex, alpha=0.16, lw=0)
            (line,) = axes.plot(x, value, color=curve.style.hex, lw=1.6, linestyle=curve.style.dash)
            line.set(marker=curve.style.marker, markersize=4.2, markeredgecolor=_PAPER, markeredgewidth=0.6)
            for artist in (band, line):
                artist.set_gid(f"series-{curve.index}")
        ends = [(c.y[-1], c.label, c.style.hex) for c in curves if math.isfinite(c.y[-1])]
        names = ends if labelled else []
        if floor >= low > 0:
            axes.axhline(floor, color=_MUTED, lw=1, linestyle=(0, (3, 2.4)), zorder=1)
            names.append((floor, bound_word(better), _MUTED))
        _call_axis(axes, sorted({n for c in (*curves, *behind) for n in c.calls}), per)
        _score_axis(axes, low, high)
        _end_labels(axes, names, low, high)

    return _svg(title, draw, right=0.72 if labelled else 0.4)


def score_limits(curves: Iterable[Curve], floor: float, better: Better = "lower") -> tuple[float, float]:
    """The range of a logarithmic score axis: it ends below the floor, where nothing can be told apart.

    Where higher is better it ends above the ceiling, and far below that.
    """
    values = [v for c in curves for v in c.y if math.isfinite(v) and v > 0]
    if better == "higher":
        top = max(*values, floor, 1e-12)
        return (max(min([*values, top / 2]), top * 1e-3) / 1.25, top * 1.1)
    if not values:
        return (max(floor, 1.0) / 2, max(floor, 1.0) * 2)
    low, high = min(values), max(*values, floor)
    low = max(min(low, floor) if floor > 0 else low, floor / 2.5, high * 1e-5)
    return (low / 1.25, high * 1.35)


def loss_panel(title: str, traces: Sequence[Trace], logarithmic: bool, most: int = POINTS) -> Markup:
    """Losses over steps: each smoothed, over its faint raw values (one run only), in its own colour.

    No line has more than `most` points; of the raw values between two the least and the largest are drawn.
    """

    def draw(axes: Axes) -> None:
        if logarithmic:
            axes.set_yscale("log")
        for trace in traces:
            colour = _SERIES[trace.colour % COLOURS]
            for steps, raw in trace.runs:
                values = np.where(np.isfinite(raw) & ((raw > 0) | (not logarithmic)), raw, np.nan)
                if len(trace.runs) == 1:
                    chosen = extremes(values, most)
                    axes.plot(steps[chosen], values[chosen], color=colour, lw=0.6, alpha=0.28)
                axes.plot(*smoothed(steps, values, most), color=colour, lw=1.5)
        axes.set_xlabel("step", color=_MUTED, size=_TEXT)
        low, high = axes.get_ylim()
        if logarithmic:
            _score_axis(axes, low, high)

    return _svg(title, draw, right=0.12)


def swatch(style: Style) -> Markup:
    """The legend's sample of a series."""

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.plot([0, 1], [0, 0], color=style.hex, lw=1.6, linestyle=style.dash)
        axes.plot([0.5], [0], color=style.hex, marker=style.marker, ms=5, markeredgecolor=_PAPER, mew=0.6)

    return _svg("", draw, size=(0.42, 0.17))


def _call_axis(axes: Axes, calls: Sequence[int], per: str) -> None:
    places = [math.log2(n) for n in calls]
    axes.set_xticks(places, [""] * len(places))
    span = max(places[-1] - places[0], 1.0)
    shown: list[int] = []
    for index in range(len(places) - 1, -1, -1):  # from the largest, which is always named
        if not shown or places[shown[-1]] - places[index] >= span / 11:
            shown.append(index)
    axes.set_xticklabels([str(n) if i in shown else "" for i, n in enumerate(calls)])
    axes.set_xlim(places[0] - 0.04 * span, places[-1] + 0.04 * span)
    axes.set_xlabel(f"network calls per {per}", color=_MUTED, size=_TEXT)


def _score_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [s * 10.0**p for p in powers for s in steps if low <= s * 10.0**p <= high]
        if len(ticks) <= 6:
            break
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _end_labels(axes: Axes, names: Sequence[tuple[float, str, str]], low: float, high: float) -> None:
    """Write names at the right edge, at the height of their values but never over each other."""
    if not names:
        return
    gap = 0.075
    heights = [math.log(max(v, low) / low) / math.log(high / low) for v, _, _ in names]
    order = sorted(range(len(names)), key=heights.__getitem__)
    placed = [heights[i] for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    over = max(0.0, placed[-1] - 1.0)
    for height, index in zip(placed, order, strict=True):
        _, text, colour = names[index]
        label = axes.text(1.025, height - over, text, color=colour, size=_TEXT, va="center", parse_math=False)
        label.set_transform(axes.transAxes)


def _svg(title: str, draw: Callable[[Axes], None], size: Size = _SIZE, right: float = 0.0) -> Markup:
    """Draw on one axes and return it as an inline SVG element; `right` is the room beside it in inches."""
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "axes.unicode_minus": False}):
        figure = Figure(figsize=size)
        figure.patch.set_visible(False)
        w, h = size
        plot = (0.48 / w, 0.44 / h, 1 - (0.48 + right) / w, 1 - 0.52 / h) if h > 1 else (0, 0, 1, 1)
        axes = figure.add_axes(plot)
        axes.patch.set_visible(False)
        axes.grid(axis="y", color=_RULE, lw=0.7)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(_MUTED)
        axes.tick_params(labelsize=_TEXT, labelcolor=_MUTED, color=_MUTED, length=3, width=0.7)
        axes.tick_params(axis="y", length=0)
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg")
    return _inline(buffer.getvalue(), title)


def _inline(svg: str, title: str) -> Markup:
    """Strip what a page does not need (prologue, metadata, namespaces, most digits) and let CSS colour it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    size = re.search(r'viewBox="[^"]*"', svg)
    svg = re.sub(r' id="(series-\d+)"', r' class="\1"', svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r"<[^>]*>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), svg)
    svg = re.sub(r"\s*\n\s*", " ", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    named = Markup(' role="img" aria-label="{}"').format(title) if title else Markup(' aria-hidden="true"')
    return Markup(re.sub(r"<svg [^>]*>", lambda _: f"<svg {size[0] if size else ''}{named}>", svg, count=1))
