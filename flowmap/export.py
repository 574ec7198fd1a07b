"""Write a finished stage's student as others load it, with a model card: what `flowmap export` does."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import torch

from flowmap import __version__
from flowmap.commands import going_on
from flowmap.configs import Weights, unknown_word
from flowmap.errors import FlowmapError
from flowmap.evaluate import METRICS
from flowmap.folder import read_lines, readable, write_whole_folder
from flowmap.plan import LOCK, Plan, StagePlan
from flowmap.reopen import choose_stage, open_run, rerun
from flowmap.stage import base_draw, stage_weights
from flowmap.tables import sampling_shift

_MOST_ROWS = 40
_RECIPE = "recipe.toml"  # not LOCK: that marks the folder of a run


def export_run(
    folder: Path,
    to: Path,
    stage: str | None,
    weights: Weights,
    train_seed: int | None,
    merged: bool,
    form: str | None = None,
) -> tuple[StagePlan, str]:
    """Export a stage of the run in `folder` into the new folder `to`; returns the stage, and how to load it.

    `form` is one of the backbone's, the first if it is None. All is written or nothing. Raises
    FlowmapError if `to` exists, if the stage is not finished, or if the backbone has no form that others load.
    """
    if to.exists():
        raise FlowmapError(f"--to {to}: is there already; name a new folder, or move it away")
    plan = open_run(folder)
    chosen = choose_stage(plan, stage, train_seed)
    forms = plan.recipe.backbone.forms
    if form is not None and forms and form not in forms:
        raise FlowmapError(f"--format {form}: {unknown_word('format', form, forms)}")
    with going_on(rerun(folder)):
        own = stage_weights(chosen, chosen.stage.name, weights)
    backbone = plan.recipe.backbone.build(plan.recipe.data.spec())
    kind = chosen.stage.objective.roles()["student"].kind
    role = backbone.role("student", kind, own, base_draw(chosen.seed))
    shift = sampling_shift(chosen.stage, plan.recipe.evaluation)
    loading = ""

    def fill(part: Path) -> None:
        nonlocal loading
        with torch.no_grad():
            loading = backbone.export(role, part, form or next(iter(forms), ""), merged, shift)
        (part / _RECIPE).write_text((plan.folder / LOCK).read_text())
        (part / "README.md").write_text(_card(plan, chosen, weights, loading))
        for file in part.rglob("*.safetensors"):
            # What is linked is the base's own file, and none of our business.
            if file.stat().st_nlink == 1:
                readable(file)

    write_whole_folder(to, fill)
    return chosen, loading.replace("FOLDER", str(to))


def _card(plan: Plan, chosen: StagePlan, weights: Weights, loading: str) -> str:
    """The model card: what it is, how it was made and measured, how it is loaded, under which licence."""
    recipe = plan.recipe
    origin = recipe.backbone.origin()
    head = [
        "---",
        f"license: {origin.licence}",
        "library_name: diffusers",
        *([f"base_model: {origin.hub_id}"] if origin.hub_id else []),
        "tags: [flow-map, distillation, flowmap]",
        "---",
    ]
    about = _about(plan.folder)
    versions = {"flowmap": __version__, **{k: v for k, v in about.items() if k in ("torch", "diffusers", "device")}}
    stages = "\n".join(
        f"| {s.name} | {s.objective.type} | {s.steps} | {s.batch} | {s.optimizer.lr:g} |" for s in recipe.stages
    )
    return "\n".join(
        [
            *head,
            f"# {recipe.name}: {chosen.stage.name}",
            "",
            f"The {'moving average' if weights == 'ema' else 'raw weights'} of the student of stage "
            f"`{chosen.stage.name}` (training seed {chosen.seed}), distilled with "
            f"[flowmap](https://arxiv.org/abs/2605.13724) {__version__} by the recipe in `{_RECIPE}`.",
            "",
            "## Load",
            "```python",
            *(["import diffusers"] if "diffusers." in loading else []),
            loading,
            "```",
            "`FOLDER` is where this file lies." + _conditions(recipe.data.spec().fps),
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


def _conditions(fps: float | None) -> str:
    return f" Videos are made at {fps:g} frames per second." if fps else ""


def _about(folder: Path) -> dict[str, str]:
    try:
        about: dict[str, str] = json.loads((folder / "about.json").read_text())
    except (OSError, ValueError):
        return {"torch": importlib.metadata.version("torch")}
    return about


def _measured(plan: Plan, chosen: StagePlan, weights: Weights) -> str:
    """The stage's own lines of the results."""
    wanted = (chosen.stage.name, chosen.seed, weights)
    lines = read_lines(plan.folder / METRICS)
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
            "Lower is better; ± is the spread over fresh noise; the floor is what a perfect model would score.",
            "",
            "| sampler | network calls | metric | value | floor |",
            "|---|---|---|---|---|",
            *rows,
        ]
    )
