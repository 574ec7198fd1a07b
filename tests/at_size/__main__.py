"""Walk every command at a real model's size under a terminal, and say for how long each left a person without a word.

    python -m tests.at_size FOLDER [COMMAND ...]

Needs about 25 GB of disk and 16 GB of memory, and an hour on two CPU cores. FOLDER keeps the model and the run, so that
single commands can be tried again; delete it when done.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from flowmap_video.rehearsal import write_clips

from tests.at_size.model import make_model

FRAMES, SIZE = 5, 64
RECIPE = f"""
name = "large"

[data]
type = "video_shards"
path = "{{folder}}/encoded"
frames = {FRAMES}
height = {SIZE}
width = {SIZE}
fps = 16.0

[backbone]
type = "wan21"
weights = "{{folder}}/wan"
base_precision = "bfloat16"
gradient_checkpointing = true
lora = {{{{ rank = 256, alpha = 256.0 }}}}

[compute]
device = "cpu"
precision = "bf16"
micro_batch = 1
trackers = ["tensorboard"]

[[stages]]
name = "forward"
steps = 2
batch = 1
objective = {{{{ type = "flow_map", rebalance = false }}}}
ema = {{{{ decay = 0.9 }}}}

[evaluation]
teacher = "base"
teacher_sampler = "euler"
teacher_calls = 2
calls = [1, 2]
samples = 2
repeats = 2
real = 2
metrics = [{{{{ type = "sliced_wasserstein", to = "teacher", cells = 8 }}}}]
contests = [{{{{ stage = "forward", samplers = ["flow_map"] }}}}]
"""
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]")
_WORD = re.compile(rb"[A-Za-z]")


@dataclass(frozen=True)
class Walk:
    """How a command went: seconds, exit code, the longest time without a word, and what was on the screen then."""

    seconds: float
    code: int
    silence: float
    at: float
    before: str


def walk(command: list[str]) -> Walk:
    """Run `command` in a terminal of its own, and listen."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
        os.execvp(command[0], command)
    began = last = time.monotonic()
    found, text, everything = (0.0, 0.0, ""), "", bytearray()
    while True:
        if select.select([terminal], [], [], 0.05)[0]:
            try:
                part = os.read(terminal, 1 << 16)
            except OSError:  # closed at the other end
                break
            if not part:
                break
            everything += part
            # What only moves the cursor or clears a line says nothing.
            shown = _ESCAPES.sub(b"", part)
            if _WORD.search(shown):
                now = time.monotonic()
                found = max(found, (now - last, last - began, text))
                last, text = now, " / ".join(shown.decode(errors="replace").split("\r\n")[-3:]).strip()
    _, status = os.waitpid(child, 0)
    now = time.monotonic()
    silence, at, before = max(found, (now - last, last - began, text))
    if log := os.environ.get("AT_SIZE_LOG"):
        Path(log).write_bytes(everything)
    return Walk(now - began, os.waitstatus_to_exitcode(status), silence, at, " ".join(before.split())[-160:])


def main(folder: Path, only: list[str]) -> None:
    """Make what is missing in `folder`, walk the commands, and print a table."""
    folder.mkdir(parents=True, exist_ok=True)
    make_model(folder / "wan")
    write_clips(folder / "raw", FRAMES, SIZE, 16.0, "captions")
    recipe, run = folder / "large.toml", folder / "runs" / "large"
    recipe.write_text(RECIPE.format(folder=folder))
    commands = {
        "check": f"check {recipe}",
        "plan": f"plan {recipe} --devices 1",
        "plan, as published": "plan recipes/anyflow_wan_1.3b.toml --devices 8",
        "encode": f"encode {recipe} --from {folder / 'raw'}",
        "run": f"run {recipe} --runs {folder / 'runs'}",
        "run again": f"run {recipe} --runs {folder / 'runs'}",
        "evaluate": f"evaluate {run} --fresh",
        "evaluate weights": f"evaluate {folder / 'wan'} --recipe {recipe} --runs {folder / 'runs'}",
        "sample": f"sample {run} --prompt 'a red ball' --n 1 --nfe 2 --out {folder / 'sample'}",
        "sample weights": f"sample {folder / 'wan'} --prompt 'a ball' --n 1 --nfe 2 --length {FRAMES} --height {SIZE}"
        f" --width {SIZE} --out {folder / 'sample'}",
        "export": f"export {run} --to {folder / f'exported-{time.time():.0f}'}",
        "report": f"report {run}",
        "rehearse": f"run recipes/anyflow_wan_1.3b.toml --rehearse --runs {folder / 'runs'}",
    }
    print("| command | seconds | exit | longest silence | after | on the screen before |\n|---|---|---|---|---|---|")
    for name, command in commands.items():
        if not only or name in only:
            one = walk([sys.executable, "-m", "flowmap", *shlex.split(command)])
            print(
                f"| {name} | {one.seconds:.0f} | {one.code} | {one.silence:.1f} s | {one.at:.1f} s | {one.before} |",
                flush=True,
            )


main(Path(sys.argv[1]).resolve(), sys.argv[2:])
