"""The recipes of image models, rehearsed whole; and what the page on images says of families."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from .support import KINDS

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*_flowmap.toml"))
FAMILIES = ROOT / "plugins" / "backbones" / "flowmap_diffusers" / "families"


def flowmap(home: Path, *words: str) -> str:
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment = {**os.environ, **threads, "HF_HUB_CACHE": str(home / "hub")}
    command = [sys.executable, "-m", "flowmap", *words]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


def test_there_is_a_recipe_for_five_of_them() -> None:
    assert [path.stem for path in RECIPES] == [
        "flux_flowmap", "qwen_image_flowmap", "sana_flowmap", "sd3_flowmap", "z_image_flowmap"
    ]  # fmt: skip


def test_a_family_is_a_page_of_sixty_lines() -> None:
    pages = [page for page in FAMILIES.glob("*.py") if page.name != "__init__.py"]
    assert {page.stem for page in pages} == set(KINDS)
    assert [page.name for page in pages if len(page.read_text("utf-8").splitlines()) > 60] == []


def test_the_page_on_images_knows_every_family_and_shows_one_as_it_is() -> None:
    page = (ROOT / "docs" / "images.md").read_text("utf-8")
    assert (FAMILIES / "sd3.py").read_text("utf-8") in page
    for name, kind in KINDS.items():
        usual = kind.family.usual
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        said = row.split("|")[-2].split(", ")
        assert (int(said[0]), float(said[2])) == (usual.calls, usual.shift), row
        if not said[1].startswith(" told") and "told" not in said[1]:
            assert float(said[1]) == usual.cfg_scale, row


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_rehearses_and_its_student_loads_in_diffusers(recipe: Path, tmp_path: Path) -> None:
    """Encode, both stages with a stop between, evaluate, report, export, sample; then as the docs have it."""
    text = flowmap(tmp_path, "run", str(recipe), "--rehearse")
    home = tmp_path / "runs" / f"{recipe.stem}-rehearsal"
    assert "✓ rehearsed in" in text
    assert "saved in" in text.split("✓ forward")[0]
    with Image.open(home / "sample.png") as image:
        assert image.size == (32, 32)
    family = next(kind.family for name, kind in KINDS.items() if f"{name}_flowmap" == recipe.stem)
    with pytest.raises((ValueError, RuntimeError)):
        getattr(diffusers, family.model).from_pretrained(home / "exported" / "transformer")
    pipe = diffusers.DiffusionPipeline.from_pretrained(home / "exported", trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    # diffusers knows the bins of the real sizes alone.
    sized = {"use_resolution_binning": False} if recipe.stem == "sana_flowmap" else {}
    told = re.findall(r"(\w+)=([\d.]+)", family.unguided.format(told=3.5))
    for calls in (1, 2, 4):
        made = pipe(
            "a red ball", num_inference_steps=calls, height=32, width=32, max_sequence_length=32, output_type="pt",
            **{name: float(value) for name, value in told}, **sized,
        )  # fmt: skip
        assert bool(torch.isfinite(made.images).all())
    if recipe.stem != "sana_flowmap":
        # The lines of the model card, as they stand.
        card = (home / "exported" / "README.md").read_text("utf-8")
        (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        scope: dict[str, Any] = {}
        exec(lines.replace("FOLDER", str(home / "exported")), scope)
        assert scope["image"].size == (32, 32)
    flowmap(tmp_path, "sample", str(home / "exported"), "--prompt", "a red ball", "--nfe", "2", "--n", "2",
            "--out", "ball")  # fmt: skip
    assert load_file(tmp_path / "ball.safetensors")["samples"].shape == (2, 1, 3, 32, 32)
    assert (tmp_path / "ball-1.png").is_file()
