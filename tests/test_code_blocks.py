"""Every code block of README and docs/ is run, or checked as far as this machine can, or says why it is not.

A block that nothing can check has a line `<!-- not run: why -->` above it. A Python block with `<!-- run -->` above is
run here, blocks of one page one after the other; the others are compiled, and what they import must be there.
"""

from __future__ import annotations

import ast
import importlib
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer.main

from flowmap.cli.main import app
from flowmap.recipe.read import read

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"(?:^<!-- (.*?) -->\n)?^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = ("", "sh", "bash")
ERROR = re.compile(r"recipes/\w+\.toml:\d+: ")  # what a wrong recipe is told: tests/test_docs.py compares them
TEMPLATE = ROOT / "flowmap" / "scaffold" / "templates" / "common" / "pyproject.toml.template"
OTHERS = {
    "pip": r"install (-c requirements/constraints\.txt )?-e .*|install '?flowmap(\[\w+\])?'?.*|install -e .*",
    "hf": r"download [\w.-]+/[\w.-]+( .*)?",
    "sbatch": r"\S+\.sh",
    "cd": r"\S+",
    "git": r"clone .*",
    "python3": r"-m venv .*",
    "cp": r"\S+ \S+",
    "pytest": r"",
    "python": r"-m flowmap_wan\.convert \S+\.pt \S+( --key \w+)?",
}


@dataclass(frozen=True)
class Block:
    """Where a block stands, the comment above it, its language and text."""

    page: str
    line: int
    mark: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = (ROOT / page).read_text()
        for found in FENCE.finditer(text):
            yield Block(page, text[: found.start(2)].count("\n") + 1, found[1] or "", found[2], found[3])


ALL = list(blocks())
RUN = sorted({block.page for block in ALL if block.mark == "run"})


@pytest.mark.parametrize("block", ALL, ids=str)
def test_a_block_is_what_it_says(block: Block) -> None:
    if block.mark.startswith("not run: "):
        assert len(block.mark) > len("not run: ") + 10, "say why"
    elif block.language == "toml":
        check_toml(block.text)
    elif block.language == "python":
        check_python(block.text)
    elif block.text.startswith("#!"):
        check_script(block.text)
    elif block.language in SHELL and not ERROR.match(block.text):
        lines = [line for line in commands(block.text) if line]
        assert lines
        for line in lines:
            check_command(line)
    else:
        assert ERROR.match(block.text), f"nothing checks a block of '{block.language}': run it, or say why not"


def commands(text: str) -> Iterator[str]:
    """The lines of a block of commands, continued ones whole, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        yield line.split(" #")[0].strip() if not line.startswith("#") else ""


def check_script(text: str) -> None:
    """Its syntax is bash's, and the flowmap commands in it are the CLI's."""
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    values = dict(re.findall(r"^(\w+)=(\S+)$", text, re.MULTILINE))
    lines = [line.split(" || ")[0].removesuffix(" &") for line in commands(text) if re.match(r"flowmap|torchrun", line)]
    assert lines
    for line in lines:
        check_command(re.sub(r'"\$(\w+)"', lambda name: values[name[1]], line))


def check_command(line: str) -> None:
    words = shlex.split(re.split(r" && | \| ", line)[0])
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    first = Path(words[0]).name
    if first == "srun":
        words, first = words[next(i for i, w in enumerate(words) if w.endswith("torchrun")) :], "torchrun"
    if first == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line
    elif first == "flowmap":
        check_flowmap(words[1:])
    elif first == "torchrun":
        assert words[words.index("-m") + 1] == "flowmap", line
        check_flowmap(words[words.index("-m") + 2 :])
    elif first in OTHERS:
        assert re.fullmatch(OTHERS[first], " ".join(words[1:])), line
        for extra in re.findall(r"\[(\w+)\]", line):
            # Of flowmap, or of a package that `flowmap new` has written.
            whose = ROOT / "pyproject.toml" if extra != "test" else TEMPLATE
            assert re.search(rf"^{extra} = \[", whose.read_text(), re.MULTILINE), line
    else:
        raise AssertionError(f"no way to check: {line}")


def check_flowmap(words: list[str]) -> None:
    """The command line is one that the CLI takes, and names recipes that there are. Nothing is run."""
    command = typer.main.get_command(app)
    shown = [word.strip("[]") for word in words if word not in ("[--set", "...]")]
    sub = command.commands[shown[0]]  # type: ignore[attr-defined]
    numbers = {"N": "8", "GB": "80", "T": "400"}  # as the synopsis of a command has them
    rest = [numbers.get(word, word) for word in shown[1:]]
    sub.make_context(shown[0], list(rest))
    if rest and hasattr(sub, "commands"):
        sub.commands[rest[0]].make_context(rest[0], rest[1:])
    for word in shown[1:]:
        if word.startswith("recipes/") and not word.startswith("recipes/my_"):
            assert (ROOT / word).exists(), word


def check_toml(text: str) -> None:
    """It is TOML; a whole recipe is one that `flowmap check` finds nothing wrong in."""
    found = tomllib.loads(text.replace("\n    ", "\n"))
    if {"name", "data", "backbone", "stages"} <= found.keys():
        path = Path("recipe.toml").resolve()
        path.write_text(text)
        _, warnings = read(path)
        assert not warnings


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def check_python(text: str) -> None:
    """It compiles, and what it imports of flowmap is there."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "flowmap":
            module = importlib.import_module(str(node.module))
            for name in node.names:
                if name.name != "*" and not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


@pytest.mark.parametrize("page", RUN)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_the_blocks_that_are_to_run_do(page: str) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in ALL:
        if block.page == page and block.mark == "run":
            exec(compile("\n" * block.line + block.text, page, "exec"), space)


BAD = [
    ("yaml", "a: 1\n"),
    ("python", "from flowmap.maths import nothing\n"),
    ("toml", "a = \n"),
    ("sh", "flowmap rum x\n"),
    ("sh", "flowmap run recipes/none.toml\n"),
    ("sh", "flowmap plan recipes/quickstart.toml --device 3\n"),
    ("sh", "flowmap new backbone\n"),
    ("sh", "flowmap new backbones mine\n"),
    ("sh", "make nothing\n"),
    ("sh", "rm -rf runs\n"),
]


@pytest.mark.parametrize(("language", "text"), BAD)
def test_a_block_that_cannot_be_right_is_refused(language: str, text: str) -> None:
    with pytest.raises(Exception, match=r".+"):
        test_a_block_is_what_it_says(Block("docs/x.md", 1, "", language, text))
