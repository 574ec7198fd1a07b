"""docs/tutorial.md, command by command as it stands there, with fewer steps of training."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from .test_code_blocks import ALL, commands

FEWER = {"steps = 2000": "steps = 60", "steps = 600": "steps = 40", "samples = 600": "samples = 200"}


@pytest.mark.slow
def test_the_tutorial_ends_in_a_report_and_a_comparison(tmp_path: Path) -> None:
    blocks = [block for block in ALL if block.page == "docs/tutorial.md"]
    (recipe,) = [block.text for block in blocks if block.language == "toml"]
    for whole, fewer in FEWER.items():
        assert whole in recipe
        recipe = recipe.replace(whole, fewer)
    (tmp_path / "my_first.toml").write_text(recipe)
    second = recipe.replace('"my_first"', '"my_second"').replace('"beta08"', '"uniform"')
    (tmp_path / "my_second.toml").write_text(second)
    lines = [line for block in blocks if block.language == "sh" for line in commands(block.text)]
    typed = [line for line in lines if line.startswith("flowmap ")]
    assert len(typed) > 6
    for line in typed:
        words = [sys.executable, "-m", *shlex.split(re.sub(r"steps=1200", "steps=50", line))]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    for made in ("my_first/report.html", "longer/report.html", "my_first-vs-my_second/comparison.html"):
        assert (tmp_path / "runs" / made).exists(), made
    for name in ("one_call", "teacher"):
        assert (tmp_path / f"{name}.png").exists(), name
