"""What the commands that need torch do: run a recipe, sample from a run, count what a recipe costs."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import tomli_w
import torch
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape
from safetensors.torch import save_file

from flowmap.configs import SamplerConfig, Weights, unknown_word
from flowmap.contestant import generate, open_contestant
from flowmap.cost import StageCost, count
from flowmap.draw import Draw
from flowmap.errors import FlowmapError
from flowmap.evaluate import METRICS, evaluate
from flowmap.folder import StoppedError, locked, read_lines, set_aside, write_whole, writing
from flowmap.pictures import png
from flowmap.plan import LOCK, Plan, StagePlan, make_plan
from flowmap.progress import ProgressWatcher
from flowmap.recipe import Recipe, read
from flowmap.report import write_report
from flowmap.run import Interruption, make_accelerator, read_lock, refuse_changes, train
from flowmap.stage import finished
from flowmap.verdict import HEADLINES, claims

_VERSIONS = (
    "flowmap",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "accelerate",
    "diffusers",
    "safetensors",
    "pydantic",
)


def run_recipe(
    path: Path, overrides: Sequence[str], only: Sequence[str], fresh: bool, runs: Path, console: Console
) -> None:
    """Train every stage that is not finished, then evaluate and report.

    `only` names the stages to train (all if empty); with it, evaluation waits until all are finished.
    Raises FlowmapError for everything that the user can act on.
    """
    recipe, warnings = read(path, overrides)
    for warning in warnings:
        console.print(f"[yellow]{escape(warning)}[/]", soft_wrap=True)
    for name in only:
        if name not in [s.name for s in recipe.stages]:
            raise FlowmapError(f"--stage {name}: {unknown_word('stage', name, [s.name for s in recipe.stages])}")
    plan = make_plan(recipe, runs)
    chosen = [s for s in plan.stages if not only or s.stage.name in only]
    accelerator = make_accelerator(recipe.compute)
    command = _command(path, overrides, only, runs)
    with locked(plan.folder):
        refuse_changes(s for s in plan.stages if not fresh or s not in chosen)
        _refuse_missing_sources(chosen, _command(path, overrides, (), runs), f"{command} --fresh" if fresh else command)
        if fresh:
            for folder in [s.folder for s in chosen] if only else [plan.folder]:
                aside = set_aside(folder)
                if aside:
                    console.print(f"the old {escape(str(folder))} is now {escape(str(aside))}", soft_wrap=True)
        interruption = Interruption()
        with _going_on(command), interruption.listening():
            _write_about(plan, accelerator.device)
            with ProgressWatcher(console) as watcher, _threads(recipe.compute.threads):
                for stage in chosen:
                    train(stage, accelerator, watcher, interruption)
            if only:
                console.print(f"trained {', '.join(only)}; run without --stage to finish, evaluate and report")
                return
            _evaluate(plan, accelerator.device, console)
            page = write_report(plan.folder)
    if recipe.evaluation:
        _print_claims(plan.folder, recipe.evaluation.teacher, console)
    console.print(f"report: [bold]{escape(str(page))}[/]", soft_wrap=True)


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with `number` CPU threads for a while; 0 leaves them alone."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _evaluate(plan: Plan, device: torch.device, console: Console) -> None:
    began = time.monotonic()
    with console.status("evaluating") as status:

        def tell(text: str) -> None:
            status.update(f"evaluating {escape(text)}")
            if not console.is_terminal:
                console.print(f"evaluating {escape(text)}", soft_wrap=True)

        evaluate(plan, device, tell)
    if plan.recipe.evaluation:
        console.print(f"[green]✓[/] evaluated in {time.monotonic() - began:.1f} s")


def _command(path: Path, overrides: Sequence[str], only: Sequence[str], runs: Path) -> str:
    """What to type to go on with a run: the command itself, but never a second --fresh."""
    return shlex.join(
        [*_program(), "run", str(path)]
        + [word for text in overrides for word in ("--set", text)]
        + [word for name in only for word in ("--stage", name)]
        + (["--runs", str(runs)] if runs != Path("runs") else [])
    )


def _program() -> list[str]:
    """How this process was started, as it can be typed again."""
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return [sys.executable, "-m", "flowmap"]
    found = shutil.which("flowmap")
    known = started.name != "flowmap" or (found is not None and Path(found).resolve() == started.resolve())
    return ["flowmap"] if known else [str(started)]


@contextmanager
def _going_on(command: str) -> Iterator[None]:
    """Add to a StoppedError how to go on: by `command`."""
    try:
        yield
    except StoppedError as error:
        first = f"{error.first} && " if error.first else ""
        raise FlowmapError(f"{error}\nTo go on: {first}{command}", error.code) from error


def _refuse_missing_sources(chosen: Sequence[StagePlan], base: str, command: str) -> None:
    """Refuse to train stages without those they start from. `base` trains everything, `command` what is asked."""
    names = [plan.stage.name for plan in chosen]
    for plan in chosen:
        for folder in plan.sources.values():
            source = folder.name
            if source in names:
                continue
            with _going_on(f"{base} --stage {source} && {command}"):
                if finished(folder, plan.recipe.stage(source).steps) is None:
                    raise StoppedError(
                        f"stage '{plan.stage.name}' starts from stage '{source}', which is not finished in {folder}."
                    )


def _print_claims(folder: Path, teacher: str, console: Console) -> None:
    """One line per claim of the report, with what each headline metric says."""
    words = {"holds": "[green]holds[/]", "fails": "[red]does not hold[/]", "noise": "[yellow]within noise[/]"}
    lines: dict[str, list[str]] = {}
    for claim in claims(read_lines(folder / METRICS), teacher):
        if claim.metric in HEADLINES:
            between = "→" if claim.kind != "student" else "against"
            numbers = f"{claim.before.value:.3g} {between} {claim.after.value:.3g}"
            lines.setdefault(claim.text, []).append(f"{words[claim.verdict]} by {claim.metric} ({numbers})")
    for text, verdicts in lines.items():
        console.print(f"• {escape(text)}: {'; '.join(verdicts)}", highlight=False)


def _write_about(plan: Plan, device: torch.device) -> None:
    everything = plan.recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    header = "# Written by flowmap: the whole recipe, with every default and every --set.\n"
    write_whole(plan.folder / LOCK, header + tomli_w.dumps(everything))
    about: dict[str, str | int] = {name: importlib.metadata.version(name) for name in _VERSIONS}
    about["python"] = platform.python_version()
    about["platform"] = platform.platform()
    about["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    about["threads"] = plan.recipe.compute.threads or torch.get_num_threads()
    write_whole(plan.folder / "about.json", json.dumps(about, indent=2) + "\n")


def open_run(folder: Path) -> Plan:
    """The plan of the run in `folder`. Raises FlowmapError if it is no run of this version's recipes."""
    if not (folder / LOCK).is_file():
        near = sorted(p.parent.name for p in folder.parent.glob(f"*/{LOCK}")) if folder.parent.is_dir() else []
        there = f"; runs in {folder.parent}: {', '.join(near)}" if near else ""
        raise FlowmapError(f"{folder} is not the folder of a run{there}")
    try:
        recipe = Recipe.model_validate(read_lock(folder / LOCK))
    except ValidationError as error:
        raise FlowmapError(
            f"{folder / LOCK} does not fit this version of flowmap or its plugins: {error.error_count()} problems, "
            f"first {error.errors()[0]['loc']}: {error.errors()[0]['msg']}"
        ) from None
    return make_plan(recipe.model_copy(update={"name": folder.resolve().name}), folder.resolve().parent)


def sample_run(
    folder: Path,
    stage: str | None,
    weights: Weights,
    sampler: str | None,
    calls: int,
    number: int,
    seed: int,
    out: Path,
    train_seed: int | None,
) -> tuple[Path, Path, str]:
    """Draw `number` samples from a finished stage; returns the picture's and the tensors' paths, and a summary.

    The same `seed` gives the same samples. The tensor `samples` is `[number, F, ...]` in data space.
    """
    plan = open_run(folder)
    chosen = _choose_stage(plan, stage, train_seed)
    config = _choose_sampler(plan.recipe, chosen, sampler)
    device = make_accelerator(plan.recipe.compute).device
    with _going_on(_rerun(folder)):
        contestant = open_contestant(chosen, weights, device)
    draw = Draw.whole(seed, "flowmap sample", 0, config.type, number, device)
    samples = generate(contestant, config, calls, plan.recipe.evaluation.shift if plan.recipe.evaluation else 1.0, draw)
    stem = out.with_suffix("") if out.suffix in (".png", ".safetensors") else out
    picture, tensors = (stem.with_name(stem.name + suffix) for suffix in (".png", ".safetensors"))
    facts = {
        "stage": chosen.stage.name,
        "weights": weights,
        "sampler": config.type,
        "nfe": calls,
        "seed": seed,
    }
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(png(contestant.data.picture(samples)))
        save_file({"samples": samples.contiguous()}, tensors, metadata={k: str(v) for k, v in facts.items()})
    return picture, tensors, ", ".join(f"{k} {v}" for k, v in facts.items())


def _rerun(folder: Path) -> str:
    """What to type to go on with the run in `folder`, from what it holds itself."""
    folder = folder.resolve()
    name = folder.name
    renamed = [f"name={name}"] if read_lock(folder / LOCK).get("name") != name else []
    return _command(folder / LOCK, renamed, (), folder.parent)


def _choose_stage(plan: Plan, stage: str | None, seed: int | None) -> StagePlan:
    names = [s.name for s in plan.recipe.stages]
    seed = plan.recipe.seeds[0] if seed is None else seed
    if seed not in plan.recipe.seeds:
        raise FlowmapError(f"--train-seed {seed}: this run has {', '.join(map(str, plan.recipe.seeds))}")
    if stage is not None and stage not in names:
        raise FlowmapError(f"--stage {stage}: {unknown_word('stage', stage, names)}")
    if stage is None:
        # The newest flow map of the on-policy line is what a recipe is for: the last stage that a contest names first.
        contests = plan.recipe.evaluation.contests if plan.recipe.evaluation else ()
        maps = [c.stage for c in contests if c.samplers[0].type == "flow_map"]
        stage = maps[-1] if maps else names[-1]
    return plan.find(stage, seed)


def _choose_sampler(recipe: Recipe, plan: StagePlan, name: str | None) -> SamplerConfig:
    from flowmap.catalogue import catalogue

    kind = plan.stage.objective.roles()["student"].kind
    if name is None:
        contests = recipe.evaluation.contests if recipe.evaluation else ()
        named = [c.samplers[0] for c in contests if c.stage == plan.stage.name]
        if named:
            return named[0]
        name = "flow_map" if kind == "flow_map" else "euler"
    try:
        found = catalogue().find("sampler", name)
    except LookupError as error:
        raise FlowmapError(f"--sampler {name}: {error.args[0]}") from None
    try:
        config = found.model_validate({"type": name})
    except ValidationError as error:
        raise FlowmapError(f"--sampler {name}: needs settings of its own: {error.errors()[0]['msg']}") from None
    assert isinstance(config, SamplerConfig)
    if config.network == "flow_map" and kind == "velocity":
        raise FlowmapError(
            f"--sampler {name}: it needs a flow map, and stage '{plan.stage.name}' trains a velocity; try euler or heun"
        )
    return config


def count_costs(path: Path, overrides: Sequence[str]) -> tuple[list[tuple[StagePlan, StageCost]], list[str]]:
    """The cost of every stage of the recipe's first seed, and the recipe's warnings."""
    recipe, warnings = read(path, overrides)
    plan = make_plan(recipe, Path("runs"))
    return [(stage, count(stage)) for stage in plan.stages if stage.seed == recipe.seeds[0]], warnings
