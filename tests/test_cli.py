"""The command line: what it prints, where, its exit codes, and that the instant commands stay instant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer import rich_utils

import flowmap
from flowmap.cli import main as cli
from flowmap.cli import runs as cli_runs
from flowmap.plugin.catalogue import BrokenPlugin, Catalogue, catalogue

from .conftest import TINY, edited

COMMANDS = ("run", "check", "encode", "plugins", "plan", "sample", "evaluate", "export", "report")
HEAVY = ("torch", "numpy", "scipy", "sklearn", "matplotlib", "accelerate", "diffusers", "ot")


class Result:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command in this process, as the shell would, in an empty folder that has `r.toml`."""
    (here / "r.toml").write_text(TINY)
    monkeypatch.setattr("flowmap.cli.consoles.out", Console(width=200))
    monkeypatch.setattr("flowmap.cli.consoles.err", Console(width=200, stderr=True))
    # What typer reads of the environment when it is imported: a width, and colours on some CI machines.
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", 120)
    monkeypatch.setattr(rich_utils, "FORCE_TERMINAL", None)

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["flowmap", *words])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Result(code, *capsys.readouterr())

    return run


Call = Callable[..., Result]


def test_version(call: Call) -> None:
    assert call("--version").out == f"flowmap {flowmap.__version__}\n"


def test_without_a_command_help_is_shown(call: Call) -> None:
    shown = call()
    assert "Start with: flowmap run quickstart" in shown.out
    for command in COMMANDS:
        assert f" {command} " in shown.out


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, option: str, call: Call) -> None:
    shown = call(command, option)
    assert (shown.code, shown.err) == (0, "")
    assert "Usage: " in shown.out
    assert f" {command} " in shown.out.splitlines()[1]
    argument = {
        "plugins": "",
        "sample": "RUN_OR_WEIGHTS",
        "evaluate": "RUN_OR_WEIGHTS",
        "export": "RUN",
        "report": "RUN",
    }.get(command, "RECIPE")
    assert argument in shown.out


def test_help_names_every_option(call: Call) -> None:
    for command, options in {
        "run": ("--set", "--stage", "--fresh", "--runs", "--rehearse"),
        "check": ("--set",),
        "plan": ("--set", "--json"),
        "encode": ("--from", "--to", "--set"),
        "sample": (
            *("--nfe", "--sampler", "--n", "--seed", "--out", "--stage", "--weights", "--train-seed"),
            *("--prompt", "--image", "--video", "--frames", "--guidance"),
        ),
        "export": ("--to", "--stage", "--weights", "--train-seed", "--keep-lora"),
    }.items():
        shown = call(command, "--help").out
        assert [option for option in options if f"{option} " not in shown] == []


def test_check_says_what_will_be_run(call: Call) -> None:
    done = call("check", "r.toml", "--set", "stages.teacher.steps=3")
    assert (done.code, done.err) == (0, "")
    assert done.out == "✓ r.toml: teacher (flow_matching, 3 steps); student (flow_map, 10 steps)\n"


def test_check_prints_warnings_to_stderr_and_succeeds(call: Call) -> None:
    teacher = ("--set", "stages.student.roles.teacher.from=teacher")
    done = call("check", "r.toml", "--set", "stages.student.objective=backward_simulation", *teacher)
    assert (done.code, done.out[:1]) == (0, "✓")
    assert done.err == (
        "--set stages.student.objective=backward_simulation: stages.student.objective.forward: warning: without a "
        "forward objective, distribution matching is known to ruin sampling in many steps\n"
    )


@pytest.mark.parametrize("command", ["check", "plan", "run"])
def test_a_wrong_recipe_is_a_message_on_stderr_and_code_2(command: str, call: Call, here: Path) -> None:
    (here / "r.toml").write_text(edited(("steps = 10", "steps = 0"), ("batch = 8", "batch = -1")))
    done = call(command, "r.toml")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: r.toml:11: stages.teacher.steps: must be above 0, not 0\n"
        "r.toml:12: stages.teacher.batch: must be above 0, not -1\n"
    )
    assert sorted(path.name for path in here.iterdir()) == ["r.toml"]


def test_markup_in_a_recipe_is_shown_as_it_is(call: Call, here: Path) -> None:
    (here / "r.toml").write_text(edited(('"flow_matching"', '"[red]x[/]"')))
    assert "unknown objective '[red]x[/]'" in call("check", "r.toml").err


def test_a_missing_argument_or_an_unknown_option_is_code_2(call: Call) -> None:
    for words in (("check",), ("check", "r.toml", "--sett", "a=1"), ("chekc", "r.toml")):
        done = call(*words)
        assert (done.code, done.out) == (2, "")
        assert "Traceback" not in done.err


def test_plugins_marks_what_is_broken_or_claimed_twice(call: Call, install: Callable[..., None]) -> None:
    real = catalogue()
    euler = real.claims("sampler", "euler")[0]
    broken = BrokenPlugin("lost", "lost-plugin 0.3", "ImportError: [/no] luck")
    install(catalogue=Catalogue([*real.components, euler], [broken]))
    done = call("plugins")
    lines = done.out.splitlines()
    assert lines[0].split() == ["kind", "name", "from", "what", "it", "is"]
    assert [line.split()[:4] for line in lines if " euler " in line] == [["sampler", "euler", "(claimed", "twice)"]] * 2
    assert lines[-1].split("  ")[0] == "broken"
    assert "lost-plugin 0.3" in lines[-1]
    assert lines[-1].rstrip().endswith("ImportError: [/no] luck")


PLAN = {
    # stage, role: trained, calls with and without gradient, samples with and without, backwards
    ("teacher", "student"): (True, 1, 0, 8, 0, 1),
    ("student", "student"): (True, 1, 1, 8, 8, 1),
}


def test_plan_as_json(call: Call) -> None:
    stages = json.loads(call("plan", "r.toml", "--json").out)["stages"]
    rows = [stage | row for stage in stages for row in stage["roles"]]
    keys = ("calls_with_gradient", "calls_without_gradient", "samples_with_gradient", "samples_without_gradient")
    assert {
        (row["stage"], row["role"]): (row["trained"], *(row[key] for key in keys), row["backwards"]) for row in rows
    } == PLAN
    assert {(row["steps"], row["batch"], row["counted_steps"]) for row in rows} == {(10, 8, 10)}


def test_plan_as_a_table(call: Call) -> None:
    done = call("plan", "r.toml", "--set", "stages.student.steps=7")
    rows = [line.split() for line in done.out.splitlines()]
    assert ["teacher", "10", "8", "student", "trains", "1", "+", "0", "8", "+", "0", "1"] in rows
    assert ["student", "7", "8", "student", "trains", "1", "+", "1", "8", "+", "8", "1"] in rows
    assert done.err == ""


def test_plan_prints_warnings_to_stderr(call: Call) -> None:
    done = call("plan", "r.toml", "--json", "--set", "stages.student.objective=backward_simulation")
    assert "warning: without a forward objective" in done.err
    stages = {stage["stage"]: stage for stage in json.loads(done.out)["stages"]}
    assert {row["role"] for row in stages["student"]["roles"]} == {
        "student",
        "teacher",
        "critic",
    }


@pytest.mark.parametrize("command", ["sample", "report"])
def test_a_folder_that_is_no_run(command: str, call: Call, here: Path) -> None:
    (here / "runs" / "other").mkdir(parents=True)
    for folder in ("runs/other", "runs/nowhere"):
        done = call(command, folder)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: {folder} is no")
        assert done.err.count("\n") == 1


def test_sample_refuses_unknown_weights(call: Call) -> None:
    done = call("sample", "runs/other", "--weights", "best")
    assert (done.code, done.err) == (2, "error: --weights best: allowed: ema, raw\n")


def test_a_path_of_an_option_may_begin_with_the_home_folder(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell leaves the ~ of `--out=~/x`, and of what is quoted, as it is."""
    monkeypatch.setenv("HOME", str(here))
    assert call("check", "~/r.toml").out.startswith(f"✓ {here}/r.toml: ")
    for words in (
        ("report", "~/nothing"),
        ("export", "~/nothing", "--to=~/x"),
        ("sample", "~/nothing", "--out=~/x"),
        ("evaluate", "~/nothing"),
        ("evaluate", "./nothing", "--recipe=~/nothing"),
        ("compare", "~/nothing"),
        ("plan", "~/nothing"),
        ("run", "~/nothing", "--runs=~/runs"),
    ):
        told = call(*words)
        assert told.code == 2
        assert f"{here}/nothing" in told.err
        assert "~" not in told.err
    assert not (here / "~").exists()
    told = call("check", "~nobody-is-called-so/r.toml")
    assert "no home folder is known for '~nobody-is-called-so'" in told.err


@pytest.mark.parametrize("command", ["check", "report", "compare", "plan", "run"])
@pytest.mark.parametrize("name", ["x" * 5000, "a\nb", "/dev/zero", "/proc/self/mem"])
def test_a_name_that_nothing_has_is_one_sentence(command: str, name: str, call: Call) -> None:
    told = call(command, name)
    assert told.code in (1, 2)
    assert told.err.startswith("error: ")
    assert "Traceback" not in told.err


def test_run_refuses_an_unknown_stage_before_it_writes(call: Call, here: Path) -> None:
    done = call("run", "r.toml", "--stage", "teachr")
    assert done.code == 2
    assert (
        done.err
        == "error: --stage teachr: unknown stage 'teachr'; allowed: teacher, student. Did you mean 'teacher'?\n"
    )
    assert not (here / "runs").exists()


def shell(here: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=here, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_check_and_plugins_import_nothing_heavy(here: Path) -> None:
    """Heavy packages are made impossible to import: the commands must not even try, nor catch the error."""
    (here / "r.toml").write_text(TINY)
    program = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from flowmap.cli import main as cli
from flowmap.cli import runs as cli_runs
light = (["check", "r.toml"], ["plugins"], ["--version"], ["check", "--help"], ["recipes"], ["new", "recipe", "x"])
for words in (*light, ["check", "quickstart"], ["schema", "--out", "x.json"]):
    sys.argv = ["flowmap", *words]
    try:
        cli.main()
    except SystemExit as stop:
        assert not stop.code, words
from flowmap.plugin.catalogue import catalogue
assert catalogue().broken == [], catalogue().broken
# Nor what only a run, or a comparison, needs.
needless = {{"filelock", "asyncio", "flowmap.comparison.specification"}} & set(sys.modules)
assert not needless, needless
"""
    done = shell(here, sys.executable, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_interfaces_import_no_sharding(here: Path) -> None:
    """Which takes as long as half of torch itself, and is for roles that are trained."""
    program = (
        "import sys, flowmap.interfaces; print([n for n in sys.modules if 'fsdp' in n or 'distributed.tensor' in n])"
    )
    done = shell(here, sys.executable, "-c", program)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_wrong_recipe_is_refused_before_anything_heavy_is_imported(here: Path) -> None:
    (here / "r.toml").write_text(edited(("steps = 10", "steps = 0")))
    (here / "other.toml").write_text(edited(("steps = 10", "steps = 0")))
    program = f"""
import sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from flowmap.cli import main as cli
for words in (
    ["run", "r.toml"],
    ["run", "r.toml", "--rehearse"],
    ["plan", "r.toml"],
    ["compare", "r.toml", "other.toml"],
    ["encode", "r.toml", "--from", "raw"],
):
    sys.argv = ["flowmap", *words]
    try:
        cli.main()
    except SystemExit as stop:
        assert stop.code == 2, words
"""
    done = shell(here, sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: r.toml:") == 5


def test_the_module_runs_as_a_program(here: Path) -> None:
    done = shell(here, sys.executable, "-m", "flowmap", "check", "nowhere.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: nowhere.toml: there is no such recipe\n"


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_the_shell_can_complete(name: str, here: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer._completion_shared.shellingham", None, raising=False)
    # What names the program, were it not started as one: with `python -m pytest` it would be that.
    monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)
    monkeypatch.setenv("_FLOWMAP_COMPLETE", f"source_{name}")
    assert "_FLOWMAP_COMPLETE" in call().out


def test_completion_offers_the_installed_samplers() -> None:
    assert cli_runs._samplers("") == ["consistency", "dpm_solver", "euler", "flow_map", "gamma", "heun", "lcm", "unipc"]
    assert cli_runs._samplers("fl") == ["flow_map"]
