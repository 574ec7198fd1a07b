"""What is run, in order of value: what a wrong number would cost most comes first, what takes longest last."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.schedule import Item

_MODULE = (sys.executable, "-m")


@dataclass(frozen=True)
class Entry:
    """An item on an accelerator, with the seconds that an H100 takes, and its small form on a CPU (None: it has none).

    Seconds of the small form are those of one core that has other work too.
    """

    name: str
    what: str
    words: Sequence[str]
    seconds: float
    small: Sequence[str] | None = None
    small_seconds: float = 20

    def on(self, accelerator: bool) -> Item | None:
        """The item for an accelerator or for a CPU."""
        if accelerator:
            return Item(self.name, self.what, (*_MODULE, *self.words), self.seconds)
        if self.small is None:
            return None
        return Item(self.name, self.what, (*_MODULE, *self.small), self.small_seconds)


def entries(tree: Path, out: Path, scratch: Path) -> list[Entry]:
    """All of them; `out` is where results are, and `scratch` for what nobody keeps."""
    accelerator = str(tree / "tests" / "wan" / "test_accelerator.py")
    pytest = ("pytest", "-q", "-p", "no:cacheprovider", accelerator)
    return [
        Entry("device", "what it does at most", ("tests.gpu.device",), 20, ("tests.gpu.device",), 10),
        _probe("attention", "kernels against the CPU, relative", 60),
        Entry("accelerator-tests", "tests/wan/test_accelerator.py", pytest, 120, pytest),
        _probe("waiting", "steps that wait for the device, and where", 90),
        _probe("rehearsals", "every path of a recipe on the device", 120, 60),
        _probe("families", "a step of every image family against the CPU's, relative", 60),
        _probe("kernels", "attention of a whole video by torch's kernels", 30),
        _probe("precision", "losses of a step in bf16 against float32", 60, 30),
        _step("1.3b", "forward", 3, 90),
        _step("1.3b", "on_policy", 2, 120),
        _step("1.3b", "on_policy", 2, 180, far=True),
        _probe("masks", "causal attention of a whole video in parts and by flex, one layer", 150),
        _compiled("1.3b", "forward", 3, 240),
        _step("14b", "on_policy", 2, 330, far=True),
        Entry(
            "sampling",
            "seconds of a call",
            ("tests.gpu.sampling", "--shape", "1.3b"),
            120,
            ("tests.gpu.sampling", "--small"),
        ),
        _probe("rivals", "other projects' students: seconds of a video, memory", 150),
        Entry(
            "plan",
            "memory planned against measured",
            ("tests.gpu.planned", "--out", str(out)),
            90,
            ("tests.gpu.planned", "--small"),
            40,
        ),
        _step("1.3b", "forward", 3, 100, published=True),
        _step("1.3b", "on_policy", 1, 120, published=True),
        _compiled("1.3b", "on_policy", 2, 360),
        _compiled("1.3b", "forward", 3, 360, far=True),
    ]


def _probe(name: str, what: str, seconds: float, small_seconds: float = 20) -> Entry:
    module = f"tests.gpu.{name}"
    return Entry(name, what, (module,), seconds, (module, "--small"), small_seconds)


def _step(shape: str, stage: str, steps: int, seconds: float, far: bool = False, published: bool = False) -> Entry:
    """A step of training at a shape; in its small form of the tiny one."""
    name = "-".join(["step", shape, *["far"] * far, stage, *["published"] * published])
    words = [*["--model", "far_wan21"] * far, *["--published"] * published, "--stage", stage]
    module = "tests.benchmarks.wan_step"
    what = f"a step of the {'published loop' if published else 'stage'}, batch 1"
    large = (module, "--shape", shape, "--steps", str(steps), *words)
    small = (module, "--shape", "tiny", "--steps", "1", "--device", "cpu", *words)
    return Entry(name, what, large, seconds, small if shape == "1.3b" else None)


def _compiled(shape: str, stage: str, steps: int, seconds: float, far: bool = False) -> Entry:
    model = ["--model", "far_wan21"] * far
    words = ("tests.gpu.compiled", *model, "--stage", stage, "--steps")
    small = (*words, "1", "--shape", "tiny", "--device", "cpu") if stage == "forward" and not far else None
    large = (*words, str(steps), "--shape", shape)
    name = "-".join(["compile", shape, *["far"] * far, stage])
    return Entry(name, "the same with compiled blocks", large, seconds, small, 60)
