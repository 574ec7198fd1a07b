"""Run VBench's package on one dimension, or try what can be imported. For the environment that flowmap makes.

This file is run by that environment's Python, as a script: it may import the standard library and the package alone. It
mends what breaks the package beside today's libraries, without editing it, and calls its Python interface: its command
exits with 0 after failures. What fails is written to `failure.json`, for whoever started it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import traceback
from typing import Any
from unittest.mock import MagicMock

_FLICKERING = "temporal_flickering"
_GRIT = ("object_class", "multiple_objects", "color", "spatial_relationship")
_VICLIP = ("temporal_style", "overall_consistency")
_I2V = ("i2v_subject", "i2v_background", "camera_motion")
_kept: list[Any] = []  # a torch library is undone with its object


def _stand_in() -> None:
    """Modules that the package imports first, and that flickering never uses."""
    made = {name: MagicMock(name=name) for name in ("torch", "torchvision", "torchvision.transforms", "decord")}
    made["torch.distributed"] = made["torch"].distributed
    made["torch.distributed"].is_initialized.return_value = False
    sys.modules.update(made)


def _kernels_missing(torch: Any) -> bool:
    """Whether torchvision's kernels link a CUDA that this torch has not: then they are not even declared."""
    return torch.version.cuda is None and "+cpu" not in importlib.metadata.version("torchvision")


def _declare(torch: Any) -> None:
    """Declare the operators that torchvision describes when it is imported. They have no kernel: a call still fails."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def _give_vocabulary() -> None:
    """ViCLIP's words, which openai-clip has too: else they are fetched at import, and a failure is not looked at."""
    cache = os.environ.get("VBENCH_CACHE_DIR") or os.path.join(os.path.expanduser("~"), ".cache", "vbench")
    target = os.path.join(cache, "ViCLIP", "bpe_simple_vocab_16e6.txt.gz")
    found = importlib.util.find_spec("clip")
    if not os.path.isfile(target) and found is not None and found.origin is not None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        part = f"{target}.{os.getpid()}"
        shutil.copyfile(os.path.join(os.path.dirname(found.origin), os.path.basename(target)), part)
        os.replace(part, target)


def prepare(dimension: str) -> Any:
    """Make the package importable for a dimension; returns torch, None where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        if dimension != _FLICKERING:
            raise ModuleNotFoundError("No module named 'torch'")
        _stand_in()
        return None
    torch = importlib.import_module("torch")
    if _kernels_missing(torch) and "torchvision" not in sys.modules:
        _declare(torch)
    if dimension in _VICLIP:
        _give_vocabulary()
    if dimension == "motion_smoothness":
        # Its checkpoint holds more than tensors, and the package's repository has loaded it so since its PR 115.
        os.environ.setdefault("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    return torch


def _module(dimension: str) -> str:
    return f"vbench2_beta_i2v.{dimension}" if dimension in _I2V else f"vbench.{dimension}"


def probe(dimension: str) -> None:
    """Import what a dimension is computed by."""
    prepare(dimension)
    importlib.import_module("vbench")
    getattr(importlib.import_module(_module(dimension)), f"compute_{dimension}")


def score(job: dict[str, Any]) -> None:
    """Have the package score one dimension: it writes `NAME_eval_results.json` into the folder `out`."""
    dimension, device = job["dimension"], job["device"]
    torch = prepare(dimension)
    if dimension in _GRIT:
        if _kernels_missing(torch):
            raise RuntimeError("torchvision has no kernels: torch and torchvision are of different builds")
        # GRiT asks the device for its type; motion_smoothness compares it with a text. Each gets its own.
        device = torch.device(device)
    more: dict[str, Any] = {}
    if job["i2v"]:
        sys.path.insert(0, os.getcwd())  # the repository's own folder, which has what the wheel lacks
        judge = importlib.import_module("vbench2_beta_i2v").VBenchI2V
        more["resolution"] = job["resolution"]
    else:
        judge = importlib.import_module("vbench").VBench
    made = judge(device, job["info"], job["out"])
    made.evaluate(videos_path=job["videos"], name=job["name"], dimension_list=[dimension], **more)


def _write(path: str, what: dict[str, Any]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(what, file)


def main(path: str) -> int:
    """Do what the JSON file at `path` says; returns the exit code."""
    with open(path, encoding="utf-8") as file:
        job = json.load(file)
    try:
        if job.get("probe"):
            probe(job["dimension"])
        else:
            score(job)
    except BaseException as error:
        _write(job["failure"], {"type": type(error).__name__, "text": str(error)})
        traceback.print_exc()  # into the log
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
