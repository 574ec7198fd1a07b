"""A list of prompts with the benchmark's counts, small clips, and an environment whose `vbench` fails as it is told."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flowmap.vbench.clips import Clips, look_at
from flowmap.vbench.dimensions import T2V, Suite
from flowmap.vbench.environment import MARKER, Environment, Made, needed
from flowmap.vbench.protocol import Protocol, part, read_protocol
from flowmap.video.clips import write_mp4

FLICKERING = "temporal_flickering"
FAMILIES: tuple[tuple[int, tuple[str, ...]], ...] = (
    (75, (FLICKERING,)),
    (72, ("subject_consistency", "dynamic_degree", "motion_smoothness")),
    (93, ("overall_consistency", "aesthetic_quality", "imaging_quality")),
    (86, ("scene", "background_consistency")),
    *(
        (T2V.dimensions[name].prompts, (name,))
        for name in ("object_class", "multiple_objects", "human_action", "color")
    ),
    *(
        (T2V.dimensions[name].prompts, (name,))
        for name in ("spatial_relationship", "appearance_style", "temporal_style")
    ),
)

_PACKAGE = '''
"""What stands for VBench: it does what `mode` beside it says, and counts its runs."""
import json, os, pathlib, signal, sys
HERE = pathlib.Path(__file__).parent
class VBench:
    def __init__(self, device, full_info_dir, output_path):
        self.info, self.out = json.load(open(full_info_dir)), pathlib.Path(output_path)
        self.out.mkdir(exist_ok=True)
    def evaluate(self, videos_path, name, dimension_list, **more):
        (dimension,) = dimension_list
        with open(HERE / "runs", "a") as file:
            file.write(dimension + "\\n")
        mode, _, text = (HERE / "mode").read_text().partition(":")
        names = [f"{e['prompt_en']}-{i}" for e in self.info for i in range(5)]
        by = 100 if dimension == "imaging_quality" else 1
        values = [
            {"video_path": f"{videos_path}/{n}.mp4", "video_results": by * (k % 5) / 10} for k, n in enumerate(names)
        ]
        score = sum(v["video_results"] for v in values) / len(values) / by
        if mode == "raise":
            raise RuntimeError(text)
        if mode == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "silent":
            return
        if mode == "warn":
            print("WARNING!!! This required video is not found!")
        if mode == "drop":
            values = values[1:]
        if mode == "twice":
            values[1] = values[0]
        if mode == "nan":
            score = float("nan")
        if mode == "text":
            values[0]["video_results"] = "0.5"
        if mode == "true":
            score, values[0]["video_results"] = True, False
        json.dump({dimension: [score, values]}, open(self.out / f"{name}_eval_results.json", "w"))
        if mode == "broken":
            (self.out / f"{name}_eval_results.json").write_text("{")
'''


def full_list() -> list[dict[str, object]]:
    """Entries in the package's form, as many of each kind as the benchmark has."""
    return [
        {"prompt_en": f"{dimensions[0]} {number}", "dimension": list(dimensions)}
        for count, dimensions in FAMILIES
        for number in range(count)
    ]


def write_list(path: Path, entries: list[dict[str, object]] | None = None) -> Path:
    path.write_text(json.dumps(full_list() if entries is None else entries))
    return path


def some(tmp_path: Path, dimension: str = FLICKERING, subset: int = 2, suite: Suite = T2V) -> Protocol:
    """The protocol of a few entries."""
    return part(read_protocol(write_list(tmp_path / "list.json"), suite), [dimension], subset=subset)


def make_clips(folder: Path, names: Iterable[str], frames: int = 3, side: int = 16) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        write_mp4(folder / f"{name}.mp4", rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8), 8)
    return folder


def looked_at(tmp_path: Path, protocol: Protocol, dimension: str = FLICKERING) -> Clips:
    names = protocol.names(dimension)
    return look_at(tmp_path / "clips", names, names, tmp_path / "book.json")


def fake_environment(folder: Path, broken: dict[str, str] | None = None) -> Environment:
    """A venv without pip whose package is the one above."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    library = folder / "lib" / base.name / "site-packages"
    for made in (folder / "bin", library / "vbench", library / "torch"):
        made.mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n")
    (folder / "bin" / "python").symlink_to(base)
    (library / "vbench" / "__init__.py").write_text(_PACKAGE)
    (library / "torch" / "__init__.py").write_text("class version:\n    cuda = '12'\ndevice = str\n")
    write_list(library / "vbench" / "VBench_full_info.json")
    made_of = Made(kit="everything", python="3.11.7", packages={"vbench": "0.1.5", "torch": "2"}, broken=broken or {})
    (folder / MARKER).write_text(made_of.model_dump_json())
    environment = needed(folder)
    tell(environment, "ok")
    return environment


def tell(environment: Environment, mode: str) -> None:
    """What the package is to do."""
    (environment.info.parent / "mode").write_text(mode)


def runs(environment: Environment) -> list[str]:
    """The dimensions that it was asked for, in turn."""
    path = environment.info.parent / "runs"
    return path.read_text().split() if path.exists() else []
