"""Open the run or the weights that somebody wishes to sample (flowmap.use.wish).

`Opened` is the network with all that the wish left open and the recipe, or the weights' authors, decide: sampler,
number of calls, guidance, size. A wish that cannot be fulfilled is refused here, before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowmap.console.commands import going_on
from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.texts import is_file
from flowmap.interfaces import Data, Samples
from flowmap.maths.draw import Draw
from flowmap.plugin.kinds import BackboneConfig, SamplerConfig
from flowmap.reading.open import choose_sampler, choose_stage, open_run, rerun, sampler_called
from flowmap.recipe.evaluations import sampler_doubt
from flowmap.recipe.layout import Plan, StagePlan
from flowmap.recipe.near import runs_near
from flowmap.recipe.outside import Outside, is_nowhere, look_up
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.bounds import MOST_HELD
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import Weights
from flowmap.training.processes import Processes
from flowmap.use.shares import as_wished, networks, refuse_unshared, sharing
from flowmap.use.start import refuse_given
from flowmap.use.student import ReadyModel, open_contestant, open_weights
from flowmap.use.wish import Wish
from flowmap.video.clips import strips
from flowmap.weights.runs import RUN_LOCK

_CALLS = 4
_SIZES = ("length", "height", "width")
Opening = Callable[[StagePlan, Weights, Processes], ReadyModel]
"""How a finished stage's student is made ready to sample."""


def _opening(plan: StagePlan, weights: Weights, processes: Processes) -> ReadyModel:
    made_by = networks(plan.recipe.backbone, plan.recipe.data.spec(), processes)
    return open_contestant(plan, weights, processes.device, networks=made_by)


@final
@dataclass(frozen=True)
class Opened:
    """Who is sampled, how, and what is made of it (`spec`); `facts` say who it is, `source` is what was opened.

    Each sample is shared by as many of the `processes` as were asked for, or, where the network is sharded and nothing
    was asked for, as can share one; `backbone` made the network.
    """

    source: StagePlan | Outside
    processes: Processes
    contestant: ReadyModel
    backbone: BackboneConfig
    spec: SampleSpec
    sampler: SamplerConfig
    calls: int
    shift: float
    cfg_scale: float
    facts: dict[str, str]
    doubt: str | None
    """Why the sampler asks the network for what nobody taught it."""

    @property
    def reads_text(self) -> bool:
        """Whether prompts can be given."""
        return self.spec.text and self.backbone.reads_text()

    def asked(self, wish: Wish) -> Opened:
        """The same network for another wish: of prompts, classes, frames that are given, calls, seed and number.

        Raises FlowmapError for what cannot be done.
        """
        _refuse(wish, self.spec, self.sampler, self.backbone, "n")
        if isinstance(self.contestant.data, Asked):
            _refuse_nothing(wish, self.spec)
        return replace(self, calls=wish.calls or self.calls)


def open_wished(where: str, wish: Wish, together: int | None = None, later: bool = False) -> Opened:
    """Open `where` as `wish` says: the folder of a run, a folder of weights, or a hub id in the hub's cache.

    Each sample is made by so many processes `together`, by all if it is None. What is to be shown may be said `later`,
    to what was opened (`asked`). Raises FlowmapError for what cannot be done.
    """
    if not where.strip():
        raise FlowmapError("no folder is named: give that of a run or of weights, or a hub id")
    folder = Path(where)
    if any(is_file(place / RUN_LOCK) for place in (folder, folder.parent)):
        return open_wished_run(open_run(folder), wish, together=together)
    if is_nowhere(where):
        raise FlowmapError(f"{where} is no folder, neither of a run nor of weights{runs_near(folder)}")
    found = look_up(where)
    if found.run:
        return open_wished_run(open_run(found.run), wish, together=together)
    return _open_weights(found, wish, together, later)


def open_wished_run(plan: Plan, wish: Wish, opening: Opening = _opening, together: int | None = 1) -> Opened:
    """A finished stage of the run of `plan`, opened by `opening`; `together` as in `open_wished`."""
    for name in (*_SIZES, "shift"):
        if getattr(wish, name) is not None:
            raise FlowmapError(f"{option(name)}: is for weights; a run's samples are as its recipe says")
    chosen = choose_stage(plan, wish.stage, wish.train_seed)
    config = choose_sampler(plan.recipe, chosen, wish.sampler)
    spec = plan.recipe.data.spec()
    _refuse(wish, spec, config, plan.recipe.backbone, "n")
    processes = sharing(as_wished(plan.recipe.compute, wish), plan.recipe.backbone, spec, together)
    with going_on(rerun(plan.folder)):
        contestant = opening(chosen, wish.weights, processes)
    refuse_unshared(contestant, plan.recipe.backbone, spec, processes, together)
    facts = {"stage": chosen.stage.name, "weights": wish.weights, "shift": f"{contestant.shift:g}"}
    doubt = sampler_doubt(config, chosen.stage.name, chosen.stage.objective.roles()["student"])
    own = config.own_times()
    usual = _CALLS if own is None else own.steps * config.calls_per_step
    numbers = wish.calls or usual, contestant.shift, wish.cfg_scale or 1.0
    return Opened(chosen, processes, contestant, plan.recipe.backbone, spec, config, *numbers, facts, doubt)


def _open_weights(weights: Outside, wish: Wish, together: int | None, later: bool) -> Opened:
    """Weights that are no run's, sampled as their authors do unless `wish` says otherwise."""
    for name, given in (("stage", wish.stage), ("train-seed", wish.train_seed), ("weights", wish.weights != "ema")):
        if given:
            raise FlowmapError(f"{option(name)}: is for runs; {weights.name} is one set of weights")
    told = weights.pretrained
    spec = _spec(weights, wish)
    own = {} if wish.sampler not in (None, told.sampler) else told.sampler_fields
    config = sampler_called(wish.sampler or told.sampler, told.kind, "these weights are", own)
    backbone = weights.sized(spec).backbone
    _refuse(wish, spec, config, backbone, "n", *_SIZES)
    if not later:
        _refuse_nothing(wish, spec)
    listed = config.own_times() is not None
    if listed and wish.shift is not None:
        why = f"sampler '{config.type}' goes along a list of times of its own"
        raise FlowmapError(f"{option('shift', wish.shift)}: {why}, which no shift changes; leave it out")
    shift = told.shift if wish.shift is None else wish.shift
    wish.refuse_another_list(weights.name, told)
    if shift is None:
        raise FlowmapError(
            f"{option('shift')}: nothing in {weights.name} says for which sampling grid it was made (in diffusers' "
            "layout that is shift, or flow_shift, in scheduler/scheduler_config.json); give it"
        )
    cfg_scale = wish.cfg_scale or (told.cfg_scale if config.network == "velocity" else 1.0)
    processes = sharing(as_wished(ComputeConfig(), wish), backbone, spec, together)
    contestant = open_weights(weights.sized(spec), 0, Asked(), networks(backbone, spec, processes))
    refuse_unshared(contestant, backbone, spec, processes, together)
    size = " x ".join(map(str, (spec.shape[0], *spec.shape[2:]) if spec.fps else spec.shape[2:]))
    facts = {"weights": weights.name, "size": size} | ({} if listed else {"shift": f"{shift:g}"})
    doubt = sampler_doubt(config, weights.name, told)
    numbers = wish.calls or told.calls, shift, cfg_scale
    return Opened(weights, processes, contestant, backbone, spec, config, *numbers, facts, doubt)


def _refuse_nothing(wish: Wish, spec: SampleSpec) -> None:
    if spec.text and not wish.prompts:
        raise FlowmapError(f"{option('prompt')}: say what to show; there are no data whose prompts could be taken")


def _spec(weights: Outside, wish: Wish) -> SampleSpec:
    """What is to be made: what the weights were made for, in another size if it is wished and possible."""
    spec = weights.pretrained.spec
    if spec is None:
        raise FlowmapError(f"{weights.name}: these weights do not say what they make; evaluate them by a recipe")
    if wish.length is not None and spec.fps is None:
        raise FlowmapError(f"{option('length')}: these weights do not make videos")
    frames, channels, height, width = spec.shape
    shape = (wish.length or frames, channels, wish.height or height, wish.width or width)
    spec = replace(spec, shape=shape)
    given = [option(name, value) for name in _SIZES if (value := getattr(wish, name)) is not None]
    for finding in weights.sized(spec).backbone.findings(spec):
        if finding.level == "error":
            raise FlowmapError(f"{' '.join(given) or weights.name}: {finding.message}")
    return spec


@final
class Asked(Data):
    """In the place of data, where there are none: what is made comes from prompts alone."""

    def batch(self, draw: Draw) -> Samples:
        """Raises FlowmapError."""
        raise FlowmapError("there are no data here; a recipe has them")

    def reference(self, split: Literal["train", "held_out"], count: int) -> Samples:
        """Raises FlowmapError."""
        raise FlowmapError("there are no data here; a recipe has them")

    def prompts(self, draw: Draw) -> None:
        """None: whoever asks brings them."""
        return

    def picture(self, x: Tensor) -> NDArray[np.uint8]:
        """Videos as rows of frames, images side by side."""
        return strips(x)


def _refuse(wish: Wish, spec: SampleSpec, sampler: SamplerConfig, backbone: BackboneConfig, *lower: str) -> None:
    """Raise FlowmapError for wishes that these data, this sampler, this backbone or no machine can fulfil.

    `lower` are the options that say how much is made.
    """
    number = (wish.number or 1) * max(1, wish.asked)
    held = number * math.prod(spec.shape)
    if held > MOST_HELD:
        raise FlowmapError(
            f"{number:,} samples of {' x '.join(map(str, spec.shape))} have {held:,} numbers, and at most "
            f"{MOST_HELD:,} fit in memory; lower {' or '.join(map(option, lower))}"
        )
    if wish.cfg_scale not in (None, 1) and sampler.network == "flow_map":
        raise FlowmapError(
            f"{option('guidance', wish.cfg_scale)}: sampler '{sampler.type}' follows the flow map, which "
            f"cannot be guided (the guidance of training is in it); leave it out, or take {option('sampler', 'euler')}"
        )
    if wish.cfg_scale not in (None, 1) and not spec.conditional:
        raise FlowmapError(
            f"{option('guidance', wish.cfg_scale)}: guidance needs a condition, and the data have none; leave it out"
        )
    if wish.prompts and wish.classes:
        raise FlowmapError(f"{option('prompt')} and {option('class')}: give one of them")
    if wish.classes and not spec.classes:
        raise FlowmapError(f"{option('class')}: the data of this run are not conditioned on a class")
    wrong = [number for number in wish.classes if not 0 <= number < spec.classes]
    if wrong:
        raise FlowmapError(f"{option('class', wrong[0])}: classes are 0 to {spec.classes - 1}")
    if wish.prompts and not spec.text:
        raise FlowmapError(f"{option('prompt')}: the data of this run have no captions, so its model takes no prompts")
    if wish.prompts and not backbone.reads_text():
        raise FlowmapError(
            f"{option('prompt')}: the backbone of this run has no text encoder; its data bring the conditions"
        )
    if wish.image and wish.video:
        raise FlowmapError(f"{option('image')} and {option('video')}: give one of them")
    if (wish.image or wish.video) and spec.fps is None:
        raise FlowmapError(f"{option('image')} and {option('video')}: this model does not make videos")
    if wish.frames is not None and wish.video is None:
        raise FlowmapError(f"{option('frames')}: says how much of {option('video')} is given; there is none")
    refuse_given(wish, backbone, spec)
