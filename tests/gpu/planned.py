"""What `flowmap plan` says of memory against what the steps before have measured."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

from tests.gpu.installed import TREE
from tests.gpu.schedule import RESULTS

STEPS = {
    "step-1.3b-forward": ("anyflow_wan_1.3b", "forward"),
    "step-1.3b-on_policy": ("anyflow_wan_1.3b", "on_policy"),
    "step-1.3b-far-on_policy": ("anyflow_far_1.3b", "on_policy"),
    "step-14b-far-on_policy": ("anyflow_far_14b", "on_policy"),
}
_SMALL = "moving_digits_far"
_STEPS = 2  # they are enough for memory, and are counted in seconds


def measured(results: Path) -> dict[str, float]:
    """The peak of memory in GB of every step that was measured."""
    if not results.is_file():
        return {}
    found = {}
    for result in json.loads(results.read_text(encoding="utf-8"))["results"]:
        for name, number in result["numbers"]:
            if name == "peak memory" and (match := re.match(r"([\d.]+) GiB", number)):
                found[result["name"]] = float(match[1]) * 2**30 / 1e9
    return found


def memory_of(recipe: str) -> dict[str, float]:
    """GB of every stage of a recipe on one device, by `flowmap plan`."""
    path = TREE / "recipes" / f"{recipe}.toml"
    stages = re.findall(r'^name = "(\w+)"', path.read_text(encoding="utf-8"), re.MULTILINE)[1:]
    few = [word for name in stages for word in ("--set", f"stages.{name}.steps={_STEPS}")]
    command = [sys.executable, "-m", "flowmap", "plan", str(path), "--devices", "1", "--json", *few]
    told = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    return {stage["stage"]: stage["memory_per_device"]["total"] / 1e9 for stage in told["stages"]}


def main() -> None:
    """Print both for every step there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--small", action="store_true", help="of a small recipe, of which nothing was measured")
    options = parser.parse_args()
    if options.small:
        for stage, gigabytes in memory_of(_SMALL).items():
            print(f"  {_SMALL}, {stage}  {gigabytes:.3g} GB planned", flush=True)
        return
    found, plans = measured(options.out / RESULTS), dict[str, dict[str, float]]()
    for name, (recipe, stage) in STEPS.items():
        if name not in found:
            print(f"  {name}  not measured", flush=True)
            continue
        if recipe not in plans:
            plans[recipe] = memory_of(recipe)
        plan, peak = plans[recipe][stage], found[name]
        print(f"  {recipe}, {stage}  {plan:.1f} GB planned, {peak:.1f} measured: {peak / plan:.2f}", flush=True)


if __name__ == "__main__":
    main()
