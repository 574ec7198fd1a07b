"""Every path of the recipes on the device: rehearsals, some at a time."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.gpu.installed import TREE

_RECIPES = (
    "quickstart",
    "moving_digits_far",
    "anyflow_far_14b",
    "anyflow_wan_1.3b",
    "anyflow_wan_i2v_14b",
    "sd3_flowmap",
    "sana_flowmap",
    "flux_flowmap",
    "qwen_image_flowmap",
    "z_image_flowmap",
)
_SMALL = ("quickstart",)


def rehearsed(recipe: str, device: str, folder: Path) -> tuple[str, int, float, str]:
    """The exit code, seconds and last words of a rehearsal."""
    path = TREE / "recipes" / f"{recipe}.toml"
    command = [sys.executable, "-m", "flowmap", "run", str(path), "--rehearse", "--runs", str(folder)]
    command += ["--set", f"compute.device={device}"]
    begin = time.perf_counter()
    threads = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=threads, check=False)
    lines = [line.strip() for line in (done.stdout + "\n" + done.stderr).splitlines() if line.strip()]
    if done.returncode:
        print(f"# {recipe}", *lines[-60:], sep="\n", flush=True)
    return recipe, done.returncode, time.perf_counter() - begin, (lines or ["nothing"])[-1]


def main() -> int:
    """Print what became of each; the exit code says whether all passed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="one of them, on the CPU")
    parser.add_argument("--at-once", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    options = parser.parse_args()
    recipes, device = (_SMALL, "cpu") if options.small else (_RECIPES, "auto")
    failed = 0
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.at_once) as pool:
        one = partial(rehearsed, device=device, folder=Path(folder))
        for recipe, code, seconds, last in pool.map(one, recipes):
            failed += bool(code)
            said = f"failed: {last[:150]}" if code else f"passed in {seconds:.0f} s"
            print(f"  {recipe}  {said}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
