"""What somebody wishes to have sampled, in the words of whoever asks. flowmap.use.opened opens what is wished for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast, final, get_args

from pydantic import Field, ValidationError

from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.recipe.messages import validation_findings
from flowmap.schema.bounds import Calls, Frames, Guidance, SampleCount, Seed, Shift, Side
from flowmap.schema.config import Config
from flowmap.schema.specs import Pretrained
from flowmap.schema.words import Weights


class _Numbers(Config):
    """The numbers of a wish, called as their options are."""

    nfe: Calls | None = None
    n: SampleCount | None = None
    seed: Seed = 0
    train_seed: Seed | None = Field(None, alias="train-seed")
    frames: Frames | None = None
    guidance: Guidance | None = None
    length: Frames | None = None
    height: Side | None = None
    width: Side | None = None
    shift: Shift | None = None


def known_weights(word: str) -> Weights:
    """Which weights of a stage are asked for; raises FlowmapError for what there is not."""
    if word not in get_args(Weights):
        raise FlowmapError(f"{option('weights', word)}: allowed: {', '.join(get_args(Weights))}")
    return cast(Weights, word)


@final
@dataclass(frozen=True)
class Wish:
    """What to sample.

    `number` samples (per prompt, if there are `prompts`, or `classes` of data with class labels) with `calls` network
    calls each; what is None is chosen from the recipe, or is as the weights' authors have it. `image`, or the first
    `frames` frames of `video`, are given clean.
    `length` (in frames), `height`, `width` (in pixels) and `shift` are for weights, which have no recipe. `sharded`
    is whether the network is, over all processes, or whole in each (compute.sampling).
    """

    stage: str | None = None
    weights: Weights = "ema"
    sampler: str | None = None
    calls: int | None = None
    number: int | None = None
    seed: int = 0
    train_seed: int | None = None
    prompts: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    image: Path | None = None
    video: Path | None = None
    frames: int | None = None
    cfg_scale: float | None = None
    length: int | None = None
    height: int | None = None
    width: int | None = None
    shift: float | None = None
    sharded: bool | None = None

    @property
    def asked(self) -> int:
        """How many prompts or classes there are."""
        return len(self.prompts) + len(self.classes)

    def refuse_another_list(self, name: str, told: Pretrained) -> None:
        """Raise FlowmapError if the weights `name` know one list of times, and another is wished for."""
        asked: dict[str, tuple[float | str | None, float | str | None]] = {
            "nfe": (self.calls, told.calls),
            "shift": (self.shift, told.shift),
            "sampler": (self.sampler, told.sampler),
        }
        for word, (given, own) in asked.items():
            if told.one_list and given not in (None, own):
                raise FlowmapError(
                    f"{option(word, given)}: {name} was exported for one list of times, {told.calls} steps of "
                    f"{told.sampler} at shift {told.shift:g}, and with any other means nothing; leave it out, or "
                    "export it anew"
                )

    def __post_init__(self) -> None:
        """Raises FlowmapError, in the words of whoever asks, for a number that is out of bounds."""
        numbers = {
            "nfe": self.calls,
            "n": self.number,
            "seed": self.seed,
            "train-seed": self.train_seed,
            "frames": self.frames,
            "guidance": self.cfg_scale,
            "length": self.length,
            "height": self.height,
            "width": self.width,
            "shift": self.shift,
        }
        try:
            _Numbers.model_validate(numbers)
        except ValidationError as error:
            problems = validation_findings(error)
            raise FlowmapError("\n".join(f"{option(str(p.field[0]))}: {p.message}" for p in problems)) from None
