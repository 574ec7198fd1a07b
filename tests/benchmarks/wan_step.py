"""Steps of training a Wan model of any size with random weights, on whatever accelerator there is.

    python -m tests.benchmarks.wan_step --shape 1.3b --stage forward
    python -m tests.benchmarks.wan_step --shape 1.3b --stage forward --published
    python -m tests.benchmarks.wan_step --shape 14b --stage on_policy --model far_wan21

480 x 832 pixels, 81 frames (`tiny`: 5 small latent frames), LoRA, gradient checkpointing; the base is made in bfloat16
where it stays (on a CPU in float32). Prints seconds of a step, peak memory and the use of the accelerator's
arithmetic: FLOPs of matrix products and attention, those of recomputed blocks left out, over what `--peak-tflops`
could do in that time.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from flowmap.training.memory import peak_memory, reset_peak_memory
from flowmap.training.precision import compute_in
from tests.benchmarks.wan import KINDS, SHAPES, Ours, Published, Trainer

PEAK_TFLOPS = 989.0
"""Of an H100 or H200 (SXM) in bfloat16, dense."""


class _Untracked:
    """In place of torch's module tracker, whose hooks keep every recomputed block until the counter closes."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    return counter


@contextmanager
def recomputed(trainer: Trainer) -> Iterator[list[int]]:
    """Counts the FLOPs of forward passes that backward will repeat; the blocks are nearly all of a pass."""
    counted, counters = [0], []

    def enter(*_: Any) -> None:
        counters.append(_counter())
        counters[-1].__enter__()

    def leave(*_: Any) -> None:
        counters[-1].__exit__(None, None, None)
        counted[0] += counters.pop().get_total_flops() * torch.is_grad_enabled()

    hooks = []
    for module in trainer.modules():
        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    yield counted
    for hook in hooks:
        hook.remove()


def model_flops(trainer: Trainer) -> float:
    """FLOPs of one step without those of recomputation."""
    with recomputed(trainer) as again, _counter() as counter:
        trainer.step(0)
    return float(counter.get_total_flops() - again[0])


def made(options: argparse.Namespace, device: torch.device) -> Trainer:
    """What is to be measured."""
    mixed = device.type != "cpu"
    precision = torch.bfloat16 if mixed else torch.float32
    causal = options.model == "far_wan21"
    trainer: Trainer = Ours(
        options.stage,
        SHAPES[options.shape],
        options.batch,
        causal=causal,
        device=device,
        precision=precision,
        replay=not options.hold,
        compiled=options.compile,
    )
    if options.published:
        if causal:
            raise SystemExit("the published loop is written down for wan21 only")
        assert isinstance(trainer, Ours)
        trainer = Published(trainer)
    if mixed:
        for module in trainer.modules():
            compute_in(module, "bf16", device)
    return trainer


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--shape", choices=list(SHAPES), default="tiny")
    found.add_argument("--stage", choices=list(KINDS), default="forward")
    found.add_argument("--model", choices=["wan21", "far_wan21"], default="wan21")
    found.add_argument("--published", action="store_true", help="the published loop instead of flowmap")
    found.add_argument("--compile", action="store_true", help="compile the blocks")
    found.add_argument("--hold", action="store_true", help="hold the graphs of all chunks (replay = false)")
    found.add_argument("--batch", type=int, default=1)
    found.add_argument("--steps", type=int, default=4, help="timed steps, after one that is not")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS)
    return found


def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    if device.type == "cpu":
        torch.set_num_threads(1)
    trainer = made(options, device)
    whose = "published" if options.published else "flowmap"
    print(f"{whose}, {options.model} {options.shape}, {options.stage}, batch {options.batch}, {name}", flush=True)
    print(f"  parameters   {trainer.parameter_bytes() / 2**30:8.3f} GiB", flush=True)
    # torch counts no FLOPs of flex attention, which masks take on an accelerator.
    # Neither does it see into compiled blocks.
    counted = not options.compile and (device.type == "cpu" or options.model == "wan21")
    flops = model_flops(trainer) if counted else math.nan
    if not counted:
        trainer.step(0)  # it compiles
    reset_peak_memory(device)
    seconds = []
    for number in range(options.steps):
        begin = time.perf_counter()
        trainer.step(number)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - begin)
    print(f"  a step       {statistics.mean(seconds):8.3f} s (mean of {options.steps})")
    print(f"  peak memory  {peak_memory(device) / 2**30:8.3f} GiB")
    if not counted:
        print("  arithmetic   not counted: torch counts no FLOPs of flex attention and of compiled blocks")
        return
    print(f"  arithmetic   {flops / 1e12:8.3f} TFLOP in the first of these steps")
    if device.type == "cuda":
        print(
            f"  utilisation  {flops / seconds[0] / options.peak_tflops / 1e12:8.1%} of {options.peak_tflops:g} TFLOP/s"
        )


if __name__ == "__main__":
    main()
