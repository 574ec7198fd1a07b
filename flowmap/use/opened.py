"""Open the run or the weights that somebody wishes to sample (flowmap.use.wish).

`Opened` is the network with all that the wish left open and the recipe, or the weights' authors, decide: sampler,
number of calls, guidance, size. A wish that cannot be fulfilled is refused here, before anything is computed.
"""

from __future__ import annotations

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
from flowmap.recipe.published import own_sampler, own_samplers
from flowmap.recipe.tables import ComputeConfig
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import Weights
from flowmap.training.processes import Processes
from flowmap.use.refusals import refuse, refuse_calls, refuse_nothing
from flowmap.use.shares import as_wished, networks, refuse_unshared, sharing
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
    """Why what is asked of the network is nothing that it was made for."""
    guidable: bool = True
    """Whether with another sampler it could be guided."""

    @property
    def reads_text(self) -> bool:
        """Whether prompts can be given."""
        return self.spec.text and self.backbone.reads_text()

    def asked(self, wish: Wish) -> Opened:
        """The same network for another wish: of prompts, classes, frames that are given, calls, seed and number.

        Raises FlowmapError for what cannot be done.
        """
        refuse(wish, self.spec, self.sampler, self.backbone, "n", guidable=self.guidable)
        if isinstance(self.contestant.data, Asked):
            refuse_nothing(wish, self.spec)
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
    guidable = chosen.stage.objective.roles()["student"].diagonal
    refuse(wish, spec, config, plan.recipe.backbone, "n", guidable=guidable)
    processes = sharing(as_wished(plan.recipe.compute, wish), plan.recipe.backbone, spec, together)
    with going_on(rerun(plan.folder)):
        contestant = opening(chosen, wish.weights, processes)
    refuse_unshared(contestant, plan.recipe.backbone, spec, processes, together)
    facts = {"stage": chosen.stage.name, "weights": wish.weights, "shift": f"{contestant.shift:g}"}
    doubt = sampler_doubt(config, chosen.stage.name, chosen.stage.objective.roles()["student"])
    own = config.own_times()
    usual = _CALLS if own is None else own.steps * config.calls_per_step
    numbers = wish.calls or usual, contestant.shift, wish.cfg_scale or 1.0
    return Opened(chosen, processes, contestant, plan.recipe.backbone, spec, config, *numbers, facts, doubt, guidable)


def _open_weights(weights: Outside, wish: Wish, together: int | None, later: bool) -> Opened:
    """Weights that are no run's, sampled as their authors do unless `wish` says otherwise."""
    for name, given in (("stage", wish.stage), ("train-seed", wish.train_seed), ("weights", wish.weights != "ema")):
        if given:
            raise FlowmapError(f"{option(name)}: is for runs; {weights.name} is one set of weights")
    told = weights.pretrained
    spec = _spec(weights, wish)
    config = own_sampler(told, wish.calls)
    if wish.sampler not in (None, told.sampler):
        config = sampler_called(wish.sampler, told.kind, "these weights are")
    backbone, guidable = weights.sized(spec).backbone, told.diagonal and not told.to_data
    refuse(wish, spec, config, backbone, "n", *_SIZES, guidable=guidable)
    refuse_calls(wish, config, own_samplers(told))
    if not later:
        refuse_nothing(wish, spec)
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
    doubts = [sampler_doubt(config, weights.name, told), _given_doubt(wish, weights)]
    own = config.own_times()
    numbers = wish.calls or (own.steps * config.calls_per_step if own else told.calls), shift, cfg_scale
    doubt = "; ".join(filter(None, doubts)) or None
    return Opened(weights, processes, contestant, backbone, spec, config, *numbers, facts, doubt, guidable)


def _given_doubt(wish: Wish, weights: Outside) -> str | None:
    """Why frames that are given are nothing that the network was made for."""
    given = [option(name) for name in ("image", "video") if getattr(wish, name) is not None]
    if not given or weights.backbone.goes_on():
        return None
    return f"{given[0]}: {weights.name} never learned to go on from given frames"


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
