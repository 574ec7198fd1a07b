"""How small and how large the numbers of a recipe may be, and why: one named type for each reason. Torch-free.

`flowmap check` reads any recipe at once, and a run does what its recipe says; so no number may be one that no machine
computes with, that float32 does not have, or that makes a table of its own size. Bounds are far beyond what anybody
trains with: they refuse slips of the keyboard and units mistaken, not experiments. Infinity and NaN are no numbers here
(`flowmap.plugin.Config`).

Over 250 lines: this is one list, and a bound that stood elsewhere would be looked for here.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast, final

from pydantic import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError, core_schema

from flowmap.schema.words import Recomputation

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


@final
@dataclass(frozen=True)
class Range:
    """Marks a number: it is at least `least` and at most `most`, because of `why`.

    `above` leaves `least` itself out, `below` leaves `most` out, and `or_zero` lets 0 in, which turns something off.
    Stands inside `Annotated[int, ...]` or `Annotated[float, ...]`.
    """

    least: float
    most: float
    why: str
    above: bool = False
    below: bool = False
    or_zero: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """Pydantic's own bounds, and what it has none for."""
        lower = "gt" if self.above else "ge"
        limits = {lower: 0 if self.or_zero else self.least, "lt" if self.below else "le": self.most}
        schema = cast("core_schema.CoreSchema", {**handler(source), **limits})
        return core_schema.no_info_after_validator_function(self._zero_or_more, schema) if self.or_zero else schema

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Pydantic's own, and 0 beside the range if it is let in."""
        found: dict[str, Any] = handler(schema)
        return {"anyOf": [{"enum": [0]}, {**found, "minimum": self.least}]} if self.or_zero else found

    def _zero_or_more(self, value: float) -> float:
        if 0 < value < self.least:
            raise PydanticCustomError(
                "explained", "{text}", {"text": f"must be 0 or at least {self.least:g}, not {value:g}"}
            )
        return value

    def text(self) -> str:
        """The range as the reference of recipes has it."""
        lower = f"{'>' if self.above else '≥'} {shown(self.least)}"
        return f"{'0 or ' if self.or_zero else ''}{lower}, {'<' if self.below else '≤'} {shown(self.most)}"


def shown(number: float) -> str:
    """`number` as a sentence has it: whole ones in full, with commas."""
    whole = isinstance(number, int) or (number.is_integer() and abs(number) < 1e15)
    return f"{int(number):,}" if whole else f"{number:g}"


# --- how long, how often, how many

MOST_STEPS = 10**8
_STEPS = "a hundred million steps of a hundredth of a second take twelve days, and no published training has as many"

Steps = Annotated[int, Range(0, MOST_STEPS, _STEPS, above=True)]
"""A number of training steps, of which there are some."""

Step = Annotated[int, Range(0, MOST_STEPS, _STEPS)]
"""A 0-based step of a stage, or a number of them that may be 0."""

MOST_BATCH = 2**20
_BATCH = "a million samples go into one step: the place of each in the batch is held in memory"

Batch = Annotated[int, Range(0, MOST_BATCH, _BATCH, above=True)]
"""Samples of a step."""

MicroBatch = Annotated[int, Range(0, MOST_BATCH, _BATCH)]
"""Samples at a time; 0 has a meaning of its own."""

MOST_SAMPLES = 10**7
_SAMPLES = "ten million samples, two hundred times those of a usual Fréchet distance; all are held in memory at once"

SampleCount = Annotated[int, Range(1, MOST_SAMPLES, _SAMPLES)]
"""Samples that are made or compared with."""

Spread = Annotated[int, Range(2, MOST_SAMPLES, f"two at least, for a spread; {_SAMPLES}")]
"""Samples of which a spread is taken."""

Repeats = Annotated[int, Range(2, 1000, "two at least, for a spread; the error of a mean of a thousand is 3 % of it")]
"""Times that something is measured."""

MOST_CALLS = 10_000
_CALLS = "times of a finer grid, with a shift of up to 1000, are closer together than float32 tells apart (6e-8 near 1)"

Calls = Annotated[int, Range(0, MOST_CALLS, _CALLS, above=True)]
"""Network calls of a sample, or steps of a grid of times."""

GridPoints = Annotated[int, Range(2, MOST_CALLS, f"two at least, to step from one to the next; {_CALLS}")]
"""Intervals of a grid of times whose neighbours are pairs."""

MOST_ROLLOUT = 1000
_ROLLOUT = "a thousand network calls for one update are twenty times those of any published training"

Rollout = Annotated[int, Range(0, MOST_ROLLOUT, _ROLLOUT, above=True)]
"""Steps of a grid that is gone along in training."""

Turns = Annotated[int, Range(1, 1000, "a thousand turns of one role for one of another are far beyond use (5)")]
"""Turns of one role for one of another."""

Memory = Annotated[int, Range(20, 10**6, "fewer have no mean to compare with; more are longer than any stage needs")]
"""Steps that a running mean goes back."""

Rewinds = Annotated[int, Range(1, 100, "each halves the learning rates or so: after a hundred nothing moves")]
"""Times that a stage goes back."""

Prefetch = Annotated[int, Range(0, 64, "each is a whole micro-batch in memory, and one is as good as many")]
"""Micro-batches that are made ready ahead."""

Seed = Annotated[int, Range(-(2**63), 2**63 - 1, "what 64 bits hold, as everywhere else where seeds are given")]
"""A seed. Any other gives other numbers."""

Faults = Annotated[int, Range(0, 10**9, "more samples than any set of shards has")]
"""Samples that may be unusable."""

Processes = Annotated[int, Range(0, 4096, "more than any machine has processors")]
"""Threads; 0 has a meaning of its own."""

Devices = Annotated[int, Range(1, 4096, "more than share anything")]
"""Devices that share one thing."""

Trainings = Annotated[int, Range(1, 1024, "more trainings at a time than any machine has processors for")]
"""Trainings at a time."""

Amount = Annotated[
    float, Range(1e-3, 1e18, "the calls of a hundred million steps with a million samples, ten thousand calls each")
]
"""What a budget has, in its unit."""

# --- shares, probabilities and weights

Share = Annotated[float, Range(0, 1, "a share of a whole")]
"""A part of a whole, from none to all."""

Part = Annotated[float, Range(1e-6, 1, "a share of a whole; less than a millionth is nothing")]
"""A part of a whole that may be all of it."""

SomeShare = Annotated[float, Range(1e-6, 1, "a share of a whole; less than a millionth is nothing", below=True)]
"""A part of a whole, neither none nor all."""

Probability = Annotated[
    float, Range(1e-6, 1, "a probability; what comes about once in a million samples trains nothing", or_zero=True)
]
"""How often something is done; 0 is never."""

Decay = Annotated[float, Range(0, 1, "a share that is kept; with 1 nothing new would ever count", below=True)]
"""What an average keeps of itself."""

Confidence = Annotated[
    float, Range(0.5, 0.999999, "a half is chance; beyond, it is the tails that no seed shows", above=True)
]
"""Of a statistical sentence."""

_WEIGHT = "float32 has seven digits: of terms that differ more than that in size the smaller is lost in their sum"

Weight = Annotated[float, Range(1e-6, 1e6, _WEIGHT)]
"""Of a term beside others of weight 1."""

Factor = Annotated[float, Range(1, 1e6, "1 is no difference; beyond, no collapse in float32 would be seen", above=True)]
"""By how much something may differ, in one direction or both."""

Constant = Annotated[float, Range(1e-30, 1e3, "it keeps float32 from a division by 0, whose least normal is 1e-38")]
"""What is added to a denominator."""

Power = Annotated[float, Range(0, 2, "at 1 a loss is divided by itself; at 2 large errors would count less than small")]
"""Of the adaptive weight of a sample."""

Guidance = Annotated[float, Range(1, 1e3, "1 is none, published scales are below 20; at 1000 the data no longer count")]
"""w in null + w (cond - null)."""

# --- optimisers

LearningRate = Annotated[
    float, Range(1e-12, 1e3, "below, float32 weights never change; above, one step of AdamW moves each by a thousand")
]
"""Of AdamW: how far a weight moves in one step, about."""

WeightDecay = Annotated[float, Range(0, 1e3, "times the learning rate it is the share of a weight that a step takes")]
"""Decoupled."""

Norm = Annotated[float, Range(1e-9, 1e9, "a gradient of no other size is found in float32", or_zero=True)]
"""Of a gradient; 0 is none."""

# --- times, in [0, 1] with 1 = noise

Shift = Annotated[float, Range(1e-3, 1e3, "1 is none, 5 usual; beyond, all times but a thousandth are at one end")]
"""s in s a / (1 + (s - 1) a)."""

Time = Annotated[float, Range(0, 1, "times are in [0, 1]")]
"""Where on the path: 0 is data, 1 noise."""

Thousandths = Annotated[float, Range(0, 1000, "times are in [0, 1000] where they are counted in thousandths")]
"""A time in thousandths, as schedulers count."""

Difference = Annotated[
    float, Range(1e-6, 0.1, "below, it is the rounding of times (6e-8 near 1) that a difference shows; above, no slope")
]
"""Half the width of a difference in time."""

Stride = Annotated[float, Range(1e-6, 1, "times are in [0, 1], and 6e-8 apart near 1")]
"""A step in time."""

Boundary = Annotated[float, Range(1e-3, 0.99, "both sides of it must have times")]
"""A time that parts [0, 1]."""

Logit = Annotated[float, Range(-100, 100, "at 17 a time is rounded to 1 in float32, and at -100 to a denormal number")]
"""The mean of the logit of a time."""

Deviation = Annotated[
    float, Range(1e-3, 1e3, "below a thousandth of the usual size all is one point; above, all is at the ends")
]
"""A standard deviation: of data, which are near 1, or of the logit of a time."""

DeviationOrNone = Annotated[
    float, Range(1e-3, 1e3, "below a thousandth of the usual size its square is lost in float32", or_zero=True)
]
"""The same; 0 is none."""

Frequency = Annotated[float, Range(1e-3, 1e5, "radians per unit of t; beyond, times in float32 are too coarse for it")]
"""Of the sinusoids of a time."""

# --- sizes of samples and networks

MOST_FRAMES = 2**16
_FRAMES = "65,536 frames are more than an hour at 16 a second; a sample is held in memory whole"

Frames = Annotated[int, Range(1, MOST_FRAMES, _FRAMES)]
"""Frames of a sample, or of a part of one."""

Given = Annotated[int, Range(0, MOST_FRAMES, _FRAMES)]
"""Frames of a sample that are given; 0 is none."""

MOST_SIDE = 2**15
_SIDE = "32,768 pixels are twice a frame of 16K"

Side = Annotated[int, Range(1, MOST_SIDE, _SIDE)]
"""Height or width of a frame, in pixels."""

Cells = Annotated[int, Range(0, MOST_SIDE, _SIDE)]
"""Height or width of a coarser frame; 0 is none."""

MOST_ELEMENTS = 2**32
"""Numbers of one sample: 16 GiB in float32, of which training holds several."""

MOST_HELD = 2**40
"""Numbers of all samples of a score, or of a batch: 4 TiB in float32, which are held until they have been used."""

Rate = Annotated[
    float, Range(1e-3, 1e4, "a frame in a quarter of an hour; ten thousand are those of a high-speed camera")
]
"""Frames per second."""

Speed = Annotated[float, Range(0, 1e4, "pixels per frame; a digit bounces off the sides at every one")]
"""Of what moves."""

MOST_WIDTH = 2**16
_WIDTH = "four times the width of the largest published networks; a square layer of it has 4e9 weights"

Width = Annotated[int, Range(1, MOST_WIDTH, _WIDTH)]
"""Units of a layer, dimensions of an embedding or a rank."""

Hidden = Annotated[int, Range(8, 2**20, "below 8 a network learns nothing; beyond, one layer fills a device")]
"""Units of a hidden layer."""

Depth = Annotated[int, Range(1, 1024, "eight times the depth of the deepest published transformers")]
"""Blocks or layers."""

Heads = Annotated[int, Range(1, 1024, "eight times those of the widest published transformers")]
"""Attention heads."""

HeadDim = Annotated[int, Range(12, 4096, "below 12, rotary positions have no pair for frames, rows and columns each")]
"""Dimensions of an attention head."""

Channels = Annotated[int, Range(1, 4096, "of latents: published ones have 4 to 128")]
"""Channels of a frame."""

Tokens = Annotated[int, Range(1, MOST_WIDTH, "of a prompt: 512 for Wan; attention over more is that of a book")]
"""Tokens of a text."""

Patch = Annotated[int, Range(1, 256, "a side of a patch, of which published ones have 1 to 32")]
"""Frames, rows or columns that become one token."""

Scale = Annotated[float, Range(1e-6, 1e6, _WEIGHT)]
"""What an output is multiplied by."""

Coordinate = Annotated[
    float, Range(-1e6, 1e6, "float32 has seven digits: beside such a number noise of size 1 is lost")
]
"""A number of a sample."""

Coordinates = Annotated[int, Range(1, 2**20, "numbers of a point; nothing here learns points of more")]
"""How many numbers a point has."""

Directions = Annotated[
    int, Range(1, 10**5, "a thousand are plenty; each is as long as a sample, and all are held at once")
]
"""Random projections."""

Bins = Annotated[int, Range(0, 4096, "each needs four samples of the global batch; 8 are usual")]
"""Of times; 0 is none."""

# --- how long lists are

MOST_SEEDS = 1000
"""Training seeds: the error of a mean of a thousand is 3 % of their spread."""

MOST_STAGES = 64
"""Stages of a recipe or a contestant: each is checked, and its line of ancestors is in its lock."""

MOST_CONTESTS = 256
"""Contests of an evaluation: each is a row of the report, and is looked for among all others."""

MOST_CONTESTANTS = 64
"""Contestants: each is a whole recipe to check, and each pair is a line of the page."""

MOST_MICRO_BATCHES = 2**16
"""Micro-batches of a step, of all processes: each is a pass of its own through every network."""

MOST_STAGES_IN_ALL = 1024
"""Stages of all contestants together, those that all share counted for each: all are checked one by one."""

MOST_ROWS = 64
"""Samplers of a contest, metrics, roles, grids: far more than are installed or than a page can show."""

MOST_PARTS = 4096
"""Chunks of a video or components of a mixture: what is made of them is held as one table."""

MOST_TEXT = 2**20
"""Characters of a text: a book."""

MOST_NAME = 100
"""Characters of a name, which becomes part of file names; file systems take 255 bytes."""

_MOST_PATH, _MOST_FILE_NAME = 4096, 255  # bytes, of Linux


def refuse_large(sizes: Sequence[tuple[str, int]]) -> None:
    """Raise ValueError, with the product and its fields, if a sample of these named sizes fits no machine."""
    product = 1
    for _, size in sizes:
        product *= size
    if product > MOST_ELEMENTS:
        named = " x ".join(f"{name} {size:,}" for name, size in sizes)
        raise ValueError(f"a sample of {named} has {product:,} numbers, and at most {MOST_ELEMENTS:,} fit in memory")


def _possible(path: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in path):
        raise ValueError("has a control character in it, as no path here may")
    longest = max(len(part.encode()) for part in path.split("/"))
    if longest > _MOST_FILE_NAME or len(path.encode()) > _MOST_PATH:
        raise ValueError(f"a path has at most {_MOST_PATH} bytes, and each part of it {_MOST_FILE_NAME}")
    if path.startswith("~") and os.path.expanduser(path) == path:
        raise ValueError(f"there is no home folder of {path.split('/', maxsplit=1)[0]}")
    return path


PathText = Annotated[str, AfterValidator(_possible)]
"""Text that may be the path of a file or folder, which need not be there."""


def _in_words(value: object) -> object:
    """Recipes once said true or false."""
    return {True: "block", False: "none"}[value] if isinstance(value, bool) else value


RECOMPUTATION = (
    "what backward recomputes instead of keeping: whole blocks, or (selective) all of them but matrix products and "
    "attention, or (offload) whole blocks whose inputs wait in the memory of the CPU; true is 'block', false is 'none'"
)
"""What a recipe's field of that kind is described as."""

Recomputed = Annotated[Recomputation, BeforeValidator(_in_words, json_schema_input_type=Recomputation | bool)]
"""What backward computes again."""
