"""Terminals and environments that people have: every command answers, in signs that can be shown, and no traceback."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from flowmap.console.terminal import settle_launcher
from flowmap.errors import FlowmapError
from tests.small_runs import EVALUATION, FORKED_TRAININGS, FORWARD, HEAD, TEACHER, flowmap, start

LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
SMALL = 'calls = [1]\nsamples = 8\nrepeats = 2\nmetrics = ["frechet_pixels"]\n'
RECIPE = HEAD + TEACHER + FORWARD + EVALUATION
COMPARISON = """
name = "both"
seeds = [0, 1]
budget = { by = "steps", amount = 2 }
[recipe]
data = "checkerboard"
backbone = { type = "mlp", width = 8, depth = 1 }
[recipe.evaluation]
teacher = "teacher"
teacher_calls = 2
calls = [1]
samples = 8
repeats = 2
metrics = ["frechet_pixels"]
[[recipe.stages]]
name = "teacher"
steps = 2
batch = 8
objective = "flow_matching"
[stage]
batch = 8
roles.student.from = "teacher"
[[contestants]]
name = "map"
samplers = ["flow_map"]
stages = [{ objective = "flow_map" }]
"""

HARSH = """
import os, sys
import flowmap.cli.main, flowmap.cli.runs
from rich.console import Console
os.environ.pop("HOME", None)
os.environ.update({environment})
# As PYTHONIOENCODING has it, which a forked process is too late for.
sys.stdout.reconfigure(encoding={encoding!r}, errors="strict")
sys.stderr.reconfigure(encoding={encoding!r}, errors="strict")
os.close(0)
sys.stdin = None
flowmap.cli.consoles.out = Console()
flowmap.cli.consoles.err = Console(stderr=True)
"""


def harsh(encoding: str = "ascii", **more: str) -> str:
    """What makes a forked process one with such a terminal and environment."""
    environment = {"TERM": "dumb", "COLUMNS": "20", **dict.fromkeys(LAUNCHER, ""), **more}
    return HARSH.format(environment=environment, encoding=encoding)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a name that no old terminal can show, and a finished run in it."""
    folder = tmp_path_factory.mktemp("dünn ✓")
    (folder / "rezept ✓.toml").write_text(RECIPE, encoding="utf-8")
    (folder / "beides ✓.toml").write_text(COMPARISON, encoding="utf-8")
    code, text = flowmap(folder, "run", "rezept ✓.toml")
    assert code == 0, text
    return folder


COMMANDS: dict[str, tuple[tuple[str, ...], int, str]] = {
    "version": (("--version",), 0, "flowmap "),
    "nothing": ((), 2, "Usage"),
    "help": (("--help",), 0, "Usage"),
    "plugins": (("plugins",), 0, "kind"),
    "plugins check": (("plugins", "check", "euler"), 0, "All laws that apply are kept"),
    "plugins check nothing": (("plugins", "check", "✗"), 2, "unknown component or package"),
    "check": (("check", "rezept ✓.toml"), 0, "ok rezept ok.toml: teacher"),
    "check a comparison": (("check", "beides ✓.toml"), 0, "ok beides ok.toml: map"),
    "check what is wrong": (("check", "rezept ✓.toml", "--set", "data=✗"), 2, "error: --set data=failed"),
    "check nothing": (("check", "nichts ✓.toml"), 2, "there is no such recipe"),
    "recipes": (("recipes",), 0, "quickstart"),
    "new recipe": (("new", "recipe", "mein"), 0, "ok mein.toml: a copy of quickstart"),
    "new recipe of a name that is none": (("new", "recipe", "✓"), 2, "is no name for a recipe"),
    **{
        f"new {kind}": (("new", kind, f"neu_{kind}"), 0, f"ok neu_{kind}/: a package with a")
        for kind in ("backbone", "objective", "sampler", "data", "metric")
    },
    "new copy": (("new", "sampler", "neue_kopie", "--from", "euler"), 0, "a copy of the sampler 'euler'"),
    "new of a name that is none": (("new", "metric", "✓"), 2, "is no name for a package"),
    "docs": (("docs",), 0, "One of them: flowmap docs plugins"),
    "docs of a page": (("docs", "derivations.md#7"), 0, "# Derivations"),
    "docs of a page that is none": (("docs", "✗"), 2, "no page is called"),
    "doctor": (("doctor",), 0, "for a bug report"),
    "doctor as JSON": (("doctor", "--json"), 0, '"wrong": []'),
    "schema": (("schema",), 0, "json-schema.org"),
    "schema into a file": (("schema", "--kind", "comparison", "--out", "bild ✓.json"), 0, "#:schema ./bild ok.json"),
    "plan": (("plan", "rezept ✓.toml"), 0, "teacher"),
    "plan as JSON": (("plan", "rezept ✓.toml", "--json"), 0, '"devices": 1'),
    "run": (("run", "rezept ✓.toml", "--fresh", "--runs", "läufe ✓"), 0, "report:"),
    "run again": (("run", "rezept ✓.toml"), 0, "finished before"),
    "run one stage": (("run", "rezept ✓.toml", "--runs", "a ✓", "--stage", "forward"), 1, "To go on: "),
    "sample": (("sample", "runs/small", "--n", "2", "--nfe", "1", "--out", "bilder ✓"), 0, "bilder ok.png"),
    "sample nothing": (("sample", "läufe/✓"), 2, "error:"),
    "evaluate": (("evaluate", "runs/small"), 0, "report:"),
    "export": (("export", "runs/small", "--to", "fertig ✓"), None, ""),  # type: ignore[dict-item]
    "report": (("report", "runs/small"), 0, "runs/small/report.html"),
    "report nothing": (("report", "✓"), 2, "is no run folder"),
    "encode": (("encode", "rezept ✓.toml", "--from", "roh ✓"), 2, "is not read from files"),
    "vbench nothing": (("vbench",), 2, "give a run or weights"),
    "demo nothing": (("demo", "läufe/✓"), 2, "error:"),
    "compare": (("compare", "beides ✓.toml"), 0, "comparison:"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "compare" else name for name in COMMANDS]
)
def test_every_command_in_a_harsh_place(place: Path, name: str) -> None:
    """ASCII only, no home, a dumb terminal of 20 columns, no input, a launcher's variables that are empty."""
    words, code, told = COMMANDS[name]
    found, text = flowmap(place, *words, patch=harsh() + FORKED_TRAININGS, report=name == "report")
    assert "Traceback" not in text, text
    assert "Error:" not in text.replace("─ Error", ""), text
    assert text.isascii()
    if code is not None:
        assert found == code, text
    assert "".join(told.split()) in "".join(text.split()), text


def test_the_walk_goes_by_every_command() -> None:
    from typer.main import get_command

    from flowmap.cli.main import app

    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert (
        set(get_command(app).commands["new"].commands)
        == {  # type: ignore[attr-defined]
            words[1] for words, _, _ in COMMANDS.values() if words[:1] == ("new",)
        }
    )
    assert commands == {words[0] for words, _, _ in COMMANDS.values() if words and not words[0].startswith("-")}


@pytest.mark.parametrize("encoding", ["latin-1", "gbk", "cp1252", "utf-8"])
@pytest.mark.parametrize("name", ["plugins", "check", "check what is wrong", "run again", "run one stage"])
def test_consoles_of_other_encodings(place: Path, name: str, encoding: str) -> None:
    words, code, _ = COMMANDS[name]
    process = start(place, *words, patch=harsh(encoding))
    assert process.wait() == code
    content = process.log.read_bytes()
    assert b"Traceback" not in content
    content.decode(encoding)


@pytest.mark.parametrize(
    "words", [("check",), ("report",), ("sample",), ("evaluate",), ("compare",), ("plan",), ("run",)]
)
def test_a_name_in_another_encoding(place: Path, words: tuple[str, ...]) -> None:
    """As a shell hands over the bytes of a name that are no UTF-8."""
    code, text = flowmap(place, *words, "n\udcffchts")
    assert code == 2
    assert "Traceback" not in text
    assert "n\\udcffchts" in text


def test_a_folder_whose_name_is_in_another_encoding_is_refused_before_the_work(place: Path) -> None:
    code, text = flowmap(place, "run", "rezept ✓.toml", "--runs", "l\udce4ufe")
    assert code == 2
    assert text.endswith("error: l\\udce4ufe/small: the name of a folder on the way is no UTF-8; choose another\n")
    assert "step" not in text
    assert "l\udce4ufe" not in os.listdir(place)


def test_a_read_only_home(place: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    code, text = flowmap(place, "report", "runs/small", patch=harsh(HOME=str(home)), report=True)
    assert (code, "Traceback" in text) == (0, False), text


# --- a process that begins there


def _environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "COLUMNS", *LAUNCHER)}
    return kept | {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "20", "OMP_NUM_THREADS": "1"} | more


def _run(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "flowmap", *words]
    return subprocess.run(
        command, cwd=folder, env=_environment(**more), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )


@pytest.mark.slow
def test_a_run_that_begins_without_a_home(tmp_path: Path) -> None:
    """What is imported looks for a home too, and finds none, or one that cannot be written."""
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    (tmp_path / "r.toml").write_text(RECIPE)
    for more in ({}, {"HOME": str(home), "XDG_CACHE_HOME": ""}):
        done = _run(tmp_path, "run", "r.toml", "--fresh", **more, **dict.fromkeys(LAUNCHER, ""))
        text = (done.stdout + done.stderr).decode("ascii")
        assert done.returncode == 0, text
        assert "Traceback" not in text
        assert "UserWarning" not in text


def test_commands_that_begin_with_a_console_of_ascii(place: Path) -> None:
    done = _run(place, "check", "rezept ✓.toml")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"ok rezept ok.toml: ")


def test_output_that_nobody_reads_ends_quietly(place: Path) -> None:
    script = 'set -o pipefail; "$0" -m flowmap plugins | head -1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, sys.executable], cwd=place, capture_output=True, env=_environment(), check=False
    )
    assert (done.stdout.splitlines()[-1], done.stderr) == (b"0", b"")


def test_work_goes_on_when_nobody_reads(place: Path) -> None:
    """The reader goes after the first line; what is done afterwards is done all the same."""
    script = "sleep 0.05; head -1 >/dev/null"
    patch = f"""
import os, subprocess
reading, writing = os.pipe()
subprocess.Popen(["bash", "-c", {script!r}], stdin=reading)
os.close(reading)
os.dup2(writing, 1)
os.dup2(writing, 2)
"""
    code, text = flowmap(place, "run", "rezept ✓.toml", "--runs", "unread", patch=patch)
    assert (code, text) == (0, "")
    assert (place / "unread" / "small" / "metrics.jsonl").is_file()


@pytest.mark.parametrize(
    ("stream", "code"), [(">&-", 0), ("<&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 0), (">/dev/full", 1)]
)
def test_streams_that_are_closed_or_full(place: Path, stream: str, code: int) -> None:
    done = subprocess.run(
        ["bash", "-c", f'"$0" -m flowmap check "rezept ✓.toml" {stream}', sys.executable],
        cwd=place,
        capture_output=True,
        env=_environment(),
        check=False,
    )
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    assert (b"not all of the output could be written: No space left on device" in done.stderr) == (code == 1)


def test_a_file_never_stands_where_output_goes(tmp_path: Path) -> None:
    """With stdout closed, the next file would get its number, and be printed into."""
    script = """
import os, sys
from flowmap.console.terminal import prepare
prepare()
file = os.open("kept", os.O_RDWR | os.O_CREAT)
print("hello")
os.write(1, b"raw")
assert file > 2 and os.pread(file, 9, 0) == b""
"""
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" <&- >&-', sys.executable, script], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_that_is_hung_up_ends_no_work(tmp_path: Path) -> None:
    """A write to a terminal whose other end is closed fails (EIO), and the work goes on."""
    script = """
import os, signal, sys, time
from flowmap.console.terminal import prepare
signal.signal(signal.SIGHUP, signal.SIG_IGN)
terminal = prepare()
print("ready")
while not os.path.exists("gone"):
    time.sleep(0.01)
print("nobody hears this")
print("nor this", file=sys.stderr)
assert terminal.lost() is None
open("done", "w").close()
"""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path
    ) as process:
        os.close(theirs)
        assert os.read(ours, 100).strip() == b"ready"
        os.close(ours)
        (tmp_path / "gone").touch()
        assert process.wait() == 0
    assert (tmp_path / "done").exists()


# --- launchers


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*LAUNCHER, "GROUP_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


COMPLETE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    "given",
    [
        dict.fromkeys(LAUNCHER, ""),
        dict.fromkeys(LAUNCHER, "  "),
        {"RANK": "0", "WORLD_SIZE": "1"},
        {"RANK": "3"},
        {"LOCAL_RANK": "0"},
        {"LOCAL_RANK": "x", "MASTER_PORT": "tcp://10.0.0.1:80", "LOCAL_WORLD_SIZE": "two"},
        {"ACCELERATE_USE_FSDP": "", "OMPI_COMM_WORLD_SIZE": ""},
    ],
)
def test_variables_that_mean_nothing_are_as_if_they_were_not_there(
    alone: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    for name, value in given.items():
        alone.setenv(name, value)
    settle_launcher()
    left = {name: os.environ[name] for name in given if name in os.environ}
    assert left in ({}, {"RANK": "0", "WORLD_SIZE": "1"})


def test_what_a_launcher_says_is_left_as_it_is(alone: pytest.MonkeyPatch) -> None:
    for name, value in COMPLETE.items():
        alone.setenv(name, value)
    settle_launcher()
    assert {name: os.environ[name] for name in COMPLETE} == COMPLETE
    # One process that torchrun has started.
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        alone.setenv(name, value)
    settle_launcher()
    assert os.environ["LOCAL_RANK"] == "0"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1'"),
        ({"WORLD_SIZE": "2.0"}, "WORLD_SIZE is '2.0'"),
        ({"WORLD_SIZE": "٢"}, "WORLD_SIZE is '٢'"),
        ({"WORLD_SIZE": "9" * 5000}, "WORLD_SIZE is '999"),
        ({"RANK": "first"}, "RANK is 'first'"),
        ({"WORLD_SIZE": "2"}, "RANK is not set; start this by torchrun, or unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "LOCAL_RANK is not set"),
        ({**COMPLETE, "RANK": "2"}, "RANK is 2 and WORLD_SIZE 2, but ranks begin at 0"),
        ({**COMPLETE, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
        ({**COMPLETE, "MASTER_PORT": "70000"}, "MASTER_PORT is '70000'"),
        ({**COMPLETE, "MASTER_ADDR": ""}, "MASTER_ADDR is not set"),
        ({**COMPLETE, "LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1'"),
    ],
)
def test_variables_that_are_impossible_are_said(alone: pytest.MonkeyPatch, given: dict[str, str], words: str) -> None:
    for name, value in given.items():
        alone.setenv(name, value)
    with pytest.raises(FlowmapError) as caught:
        settle_launcher()
    assert words in str(caught.value)
