"""Steps of training a Wan model of any size with random weights, on whatever accelerator there is.

    python -m tests.benchmarks.wan_step --shape 1.3b --stage forward
    python -m tests.benchmarks.wan_step --shape 1.3b --stage forward --published
    python -m tests.benchmarks.wan_step --shape 14b --stage on_policy --model far_wan21

480 x 832 pixels, 81 frames (`tiny`: 5 small latent frames), LoRA, gradient checkpointing; the base is made in bfloat16
where it stays (on a CPU in float32). Prints seconds of a step, peak memory and the use of the accelerator's
arithmetic: FLOPs of matrix products and attention, those of recomputed blocks left out, over what `--peak-tflops`
could do in that time. `--profile` adds a step under torch's profiler: what kinds of kernels take its time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

import torch
from torch.utils.flop_counter import FlopCounterMode

from flowmap.plugin import Recomputation
from flowmap.training.compiled import compile_units
from flowmap.training.memory import peak_memory, reset_peak_memory
from flowmap.training.precision import compute_in
from tests.benchmarks.wan import KINDS, SHAPES, Ours, Published, Shape, Trainer
from tests.gpu.device import finish

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


def model_flops(options: argparse.Namespace, device: torch.device) -> float:
    """FLOPs of the first step without those of recomputation: those of one block and the rest, from two small models.

    Blocks are alike, and counting takes Python some 50 microseconds an operation, of which a step may have a million.
    """
    shape, counts = SHAPES[options.shape], []
    for layers in (1, 2):
        # What is recomputed is taken for whole blocks.
        whole = argparse.Namespace(**{**vars(options), "recompute": "block"})
        trainer = made(whole, replace(shape, layers=layers), device)
        with recomputed(trainer) as again, _counter() as counter:
            trainer.step(0)
        counts.append(float(counter.get_total_flops() - again[0]))
    return counts[0] + (shape.layers - 1) * (counts[1] - counts[0])


def made(options: argparse.Namespace, shape: Shape, device: torch.device) -> Trainer:
    """What is to be measured."""
    mixed = device.type != "cpu"
    precision = torch.bfloat16 if mixed else torch.float32
    causal = options.model == "far_wan21"
    trainer: Trainer = Ours(
        options.stage,
        shape,
        options.batch,
        causal=causal,
        device=device,
        precision=precision,
        replay=not options.hold,
        recompute=options.recompute,
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
    found.add_argument(
        "--recompute", choices=get_args(Recomputation), default="block", help="as gradient_checkpointing"
    )
    found.add_argument("--profile", action="store_true", help="one more step, by kinds of kernels")
    found.add_argument("--hold", action="store_true", help="hold the graphs of all chunks (replay = false)")
    found.add_argument("--batch", type=int, default=1)
    found.add_argument("--steps", type=int, default=4, help="timed steps, after the first")
    found.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    found.add_argument("--peak-tflops", type=float, default=PEAK_TFLOPS)
    return found


def main() -> None:
    """Measure and print."""
    options = parser().parse_args()
    if options.published and options.compile:
        raise SystemExit("--compile compiles flowmap's blocks, and the published loop is as published; leave one out")
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    if device.type == "cpu":
        torch.set_num_threads(1)
    # Before the model is there: what is counted needs memory of its own.
    flops = model_flops(options, device)
    trainer = made(options, SHAPES[options.shape], device)
    whose = "published" if options.published else "flowmap"
    print(f"{whose}, {options.model} {options.shape}, {options.stage}, batch {options.batch}, {name}", flush=True)
    print(f"  parameters   {trainer.parameter_bytes() / 2**30:8.3f} GiB", flush=True)
    print(f"  arithmetic   {flops / 1e12:8.3f} TFLOP in the first step", flush=True)
    if options.compile:
        # FLOPs are counted before: the counter does not see into what is compiled.
        assert isinstance(trainer, Ours)
        compile_units(trainer.roles.values(), True)
    first, peak = timed(trainer, 0, device)
    print(f"  first step   {first:8.3f} s{', with compiling' if options.compile else ''}")
    print(f"  first peak   {peak / 2**30:8.3f} GiB", flush=True)
    steps = [timed(trainer, number, device) for number in range(options.steps)]
    if steps:
        each = ", ".join(f"{seconds:.3f}" for seconds, _ in steps)
        print(f"  a step       {statistics.mean(seconds for seconds, _ in steps):8.3f} s (mean of {each})")
        print(f"  peak memory  {max(peak for _, peak in steps) / 2**30:8.3f} GiB")
    if device.type == "cuda":
        use = flops / (steps[0][0] if steps else first) / options.peak_tflops / 1e12
        print(f"  utilisation  {use:8.1%} of {options.peak_tflops:g} TFLOP/s", flush=True)
    if options.profile:
        for kind, share in kinds_of_kernels(trainer, device).items():
            print(f"  {kind:<28}  {share}", flush=True)


def timed(trainer: Trainer, number: int, device: torch.device) -> tuple[float, float]:
    """Seconds of a step, and its peak of memory in bytes."""
    reset_peak_memory(device)
    begin = time.perf_counter()
    trainer.step(number)
    finish(device)
    return time.perf_counter() - begin, peak_memory(device)


KINDS_OF_KERNELS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "products": ("gemm", "nvjet", "cutlass", "xmma", "cublas", "addmm", "::mm", "bmm", "matmul"),
    "copies and casts": ("copy", "memcpy", "catarray", "::cat", "memset", "fill"),
    "fused by the compiler": ("triton",),
}
"""Words in the names of kernels, in lower case; the first that fits counts."""


def kinds_of_kernels(trainer: Trainer, device: torch.device) -> dict[str, str]:
    """Seconds of one step by kinds of kernels, of the rest the longest by name, and those without any kernel."""
    there = device.type == "cuda"
    activity = torch.profiler.ProfilerActivity.CUDA if there else torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[activity], acc_events=True) as profiler:
        begin = time.perf_counter()
        trainer.step(0)
        finish(device)
        whole = time.perf_counter() - begin
    kinds = dict.fromkeys((*KINDS_OF_KERNELS, "other"), 0.0)
    others: dict[str, float] = {}
    for event in profiler.key_averages():
        seconds = (event.self_device_time_total if there else event.self_cpu_time_total) / 1e6
        name = event.key.lower()
        kind = next((kind for kind, words in KINDS_OF_KERNELS.items() if any(word in name for word in words)), "other")
        kinds[kind] += seconds
        if kind == "other":
            others[event.key] = others.get(event.key, 0.0) + seconds
    kinds["idle"] = max(0.0, whole - sum(kinds.values()))
    longest = sorted(others.items(), key=lambda item: -item[1])[:8]
    rows = {**kinds, **{f"other: {name[:70]}": seconds for name, seconds in longest}}
    return {kind: f"{seconds:.3f} s, {seconds / whole:.1%}" for kind, seconds in rows.items()}


if __name__ == "__main__":
    main()
