"""Write a finished stage's student as others load it, with a model card: what `flowmap export` does."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch

from flowmap.console.commands import going_on
from flowmap.console.options import option
from flowmap.errors import FlowmapError
from flowmap.files.whole import readable, write_whole_folder
from flowmap.interfaces import SamplingGrid
from flowmap.phases import phase
from flowmap.plugin.catalogue import catalogue
from flowmap.plugin.kinds import BackboneConfig
from flowmap.reading.open import choose_sampler, choose_stage, open_run, rerun
from flowmap.reading.read import read_about
from flowmap.recipe.layout import LOCK, Plan, StagePlan
from flowmap.recipe.tables import sampling_shift
from flowmap.schema.specs import SampleSpec
from flowmap.schema.words import Weights, unknown_word
from flowmap.statistics.scores import METRICS, read_scores, remarks_of
from flowmap.statistics.sense import direction
from flowmap.training.stage import base_draw, stage_weights
from flowmap.version import __version__

_MOST_ROWS = 40
_STEPS = 4
_RECIPE = "recipe.toml"  # not LOCK: that marks the folder of a run
_ANY_STEP = "It is a flow map u(x, t, r), from any time to any earlier one: it can be sampled with any number of steps."
_ONE_LIST = "It is a flow map on one list of {} steps, which `times.json` has; on any other list it means nothing."
_JUMPS = (
    "It jumps to data: it is sampled by jumping and adding noise again along a list of times, in thousandths {} "
    "({} steps). Between two times it knows nothing."
)
_MANY_STEPS = "It is a velocity u(x, t), and no flow map: it is sampled with many steps, as its base is."


def export_run(
    folder: Path,
    to: Path,
    stage: str | None,
    weights: Weights,
    train_seed: int | None,
    merged: bool,
    form: str | None = None,
    calls: int | None = None,
) -> tuple[StagePlan, str]:
    """Export a stage of the run in `folder` into the new folder `to`; returns the stage, and how to load it.

    `form` is one of the backbone's, the first if it is None; in forms that know one list of times it has `calls`
    steps (4 if None). All is written or nothing. Raises FlowmapError if `to` exists, if the stage is not finished, or
    if there is no form of it that others load.
    """
    if os.path.lexists(to):
        raise FlowmapError(f"--to {to}: is there already; name a new folder, or move it away")
    plan = open_run(folder)
    chosen = choose_stage(plan, stage, train_seed)
    recipe, forms = plan.recipe, plan.recipe.backbone.forms
    if form is not None and forms and form not in forms:
        raise FlowmapError(f"--format {form}: {_no_form(form, recipe.backbone)}")
    form = form or next(iter(forms), "")
    if calls is not None and form not in recipe.backbone.listed_forms:
        listed = ", ".join(sorted(recipe.backbone.listed_forms)) or "none here"
        raise FlowmapError(f"--nfe {calls}: is for forms of one list of times ({listed})")
    student = chosen.stage.objective.roles()["student"]
    if student.kind == "velocity" and student.view == "forced" and recipe.backbone.causal():
        raise FlowmapError(
            f"stage '{chosen.stage.name}' trains a velocity that makes videos chunk by chunk: it is no any-step model, "
            "and no other pipeline samples it so; export a stage that trains a flow map"
        )
    grid = _grid(plan, chosen, calls)
    with going_on(rerun(folder)):
        own = stage_weights(chosen, chosen.stage.name, weights)
    backbone = recipe.backbone.build(recipe.data.spec())
    with phase("making the network"):
        role = backbone.role("student", student.kind, own, base_draw(chosen.seed))
    # They are in the role now: once is enough.
    del own
    any_step = _ONE_LIST.format(grid.calls) if form in recipe.backbone.listed_forms else _ANY_STEP
    if student.to_data:
        any_step = _JUMPS.format(", ".join(f"{1000 * t:.6g}" for t in grid.times()[:-1]), grid.calls)
    loading, library = "", recipe.backbone.libraries.get(form or "", "diffusers")

    def fill(part: Path) -> None:
        nonlocal loading
        with torch.no_grad():
            loading = backbone.export(role, part, form, merged, grid)
        (part / _RECIPE).write_text((plan.folder / LOCK).read_text("utf-8"), "utf-8")
        (part / "README.md").write_text(_card(plan, chosen, weights, loading, grid.shift, any_step, library), "utf-8")
        for file in part.rglob("*.safetensors"):
            # What is linked is the base's own file, and none of our business.
            if file.stat().st_nlink == 1:
                readable(file)

    write_whole_folder(to, fill)
    return chosen, loading.replace("FOLDER", str(to))


def _no_form(form: str, backbone: BackboneConfig) -> str:
    """Why networks of `backbone` are not written in `form`."""
    every = (component.config for component in catalogue().components)
    others = [config.type_name() for config in every if issubclass(config, BackboneConfig) and form in config.forms]
    if not others:
        return unknown_word("format", form, backbone.forms)
    return (
        f"what reads it has no network such as that of backbone '{backbone.type}', only such as "
        f"{' or '.join(others)}; allowed: {', '.join(backbone.forms)}"
    )


def _grid(plan: Plan, chosen: StagePlan, calls: int | None) -> SamplingGrid:
    """What the student is sampled on by whoever loads it, as `flowmap sample` does; in `calls` steps, if it can be.

    Raises FlowmapError if the run samples it along a list of another number.
    """
    shift, student = sampling_shift(chosen.stage, plan.recipe.evaluation), chosen.stage.objective.roles()["student"]
    sampler = choose_sampler(plan.recipe, chosen, None)
    if not student.to_data or not sampler.to_data:
        jumps = {"type": "consistency"} if student.to_data else {}
        return SamplingGrid(shift, calls or _STEPS, jumps)
    own = sampler.own_times()
    if own is not None and calls not in (None, own.steps):
        why = f"{sampler.takes()}, as the recipe samples stage '{chosen.stage.name}'"
        raise FlowmapError(f"{option('nfe', calls)}: {why}; leave it out")
    listed = () if own is None else own.times
    return SamplingGrid(shift, own.steps if own else calls or _STEPS, sampler.model_dump(mode="json"), listed)


def _card(
    plan: Plan, chosen: StagePlan, weights: Weights, loading: str, shift: float, any_step: str, library: str
) -> str:
    """The model card: what it is, how it was made and measured, how it is loaded, under which licence."""
    recipe = plan.recipe
    origin = recipe.backbone.origin()
    flow_map = chosen.stage.objective.roles()["student"].kind == "flow_map"
    head = [
        "---",
        f"license: {origin.licence}",
        f"library_name: {library}",
        *([f"base_model: {origin.hub_id}"] if origin.hub_id else []),
        f"tags: [{'flow-map, distillation' if flow_map else 'flow-matching'}, flowmap]",
        "---",
    ]
    about = _about(plan.folder)
    versions = {"flowmap": __version__, **{k: v for k, v in about.items() if k in ("torch", "diffusers", "device")}}
    # The chosen stage and those that it starts from: no other has a part in these weights, or need be trained.
    trained = [stage["name"] for stage in chosen.lock["stages"]]
    stages = "\n".join(
        f"| {s.name} | {s.objective.type} | {s.steps} | {s.batch} | {s.optimizer.lr:g} |"
        for s in recipe.stages
        if s.name in trained
    )
    return "\n".join(
        [
            *head,
            f"# {recipe.name}: {chosen.stage.name}",
            "",
            f"The {'moving average' if weights == 'ema' else 'raw weights'} of the student of stage "
            f"`{chosen.stage.name}` (training seed {chosen.seed}), {'distilled' if flow_map else 'trained'} with "
            f"[flowmap](https://arxiv.org/abs/2605.13724) {__version__} by the recipe in `{_RECIPE}`.",
            "",
            any_step if flow_map else _MANY_STEPS,
            "",
            "## Load",
            "```python",
            *(["import diffusers"] if "diffusers." in loading else []),
            loading,
            "```",
            f"`FOLDER` is where this file lies. Its sampling grid has shift {shift:g}."
            + _conditions(recipe.data.spec()),
            "",
            "## Training",
            "| stage | objective | steps | batch | learning rate |",
            "|---|---|---|---|---|",
            stages,
            "",
            "Made with " + ", ".join(f"{name} {value}" for name, value in versions.items()) + ".",
            "",
            "## Measured",
            _measured(plan, chosen, weights),
            "",
            "## Licence",
            f"That of the base weights: {origin.licence}.",
            "",
        ]
    )


def _conditions(spec: SampleSpec) -> str:
    if len(spec.shape) != 4:
        return ""
    frames, _, height, width = spec.shape
    if spec.fps:
        return f" Videos have {frames} frames of {height} x {width}, and are made at {spec.fps:g} frames per second."
    return f" Images are {height} x {width}."


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = read_about(folder)
    except FlowmapError:
        about = {}  # what it was trained with is not known
    return about or {"torch": importlib.metadata.version("torch")}


def _measured(plan: Plan, chosen: StagePlan, weights: Weights) -> str:
    """The stage's own lines of the results."""
    wanted = (chosen.stage.name, chosen.seed, weights)
    lines = read_scores(plan.folder / METRICS)
    lines = [line for line in lines if (line["stage"], line["seed"], line["weights"]) == wanted]
    if not lines:
        return "Nothing was measured."
    rows = [
        f"| {line['sampler']} | {line['nfe']} | {line['metric']} | {line['value']:.4g} ± {line['spread']:.2g} "
        f"| {line['floor']:.3g} |"
        for line in lines[:_MOST_ROWS]
    ]
    return "\n".join(
        [
            f"{direction({line['metric']: line['better'] for line in lines})}; ± is the spread over fresh noise; the "
            "floor (the ceiling, where higher is better) is what a perfect model would score.",
            "",
            "| sampler | network calls | metric | value | floor |",
            "|---|---|---|---|---|",
            *rows,
            "",
            *(f"- {metric}: {'; '.join(told)}." for metric, told in remarks_of(lines).items()),
        ]
    )
