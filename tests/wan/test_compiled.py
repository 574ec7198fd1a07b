"""Compiled blocks compute what blocks compute, whole (no graph is ever broken) and in few forms.

Most tests stop before code is generated (torch's backends `eager` and `aot_eager`), which takes minutes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from flowmap_wan.configs import FarWan21Config
from torch import Tensor, nn

from flowmap.errors import FlowmapError
from flowmap.interfaces import Batch, Cond, Role, Velocity, Window, as_flow_map
from flowmap.phases import Phase, listening
from flowmap.training import compiled
from flowmap.training.compiled import compile_units, forms
from flowmap.workshop.backbone import ModuleBackbone
from tests.process_runs import furthest, shared

from .support import (
    CHANNELS,
    architecture,
    bidirectional,
    causal,
    chunking,
    error,
    gradients,
    lora,
    make,
    noise,
    relative,
    text,
)

# Torch looks whether what it compiles has a gradient, selective recomputation is young in it, and it says so.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{what}:UserWarning")
    for what in ("The .grad attribute of a Tensor", ".*context_fn is passed", ".*flex_attention")
] + [pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")]
CHUNKS, FRAMES = (1, 2, 1, 2), 6
KINDS: Mapping[str, Literal["velocity", "flow_map"]] = {
    "student": "flow_map",
    "teacher": "velocity",
    "critic": "velocity",
}
T, R = torch.tensor([0.83, 0.31, 0.5]), torch.tensor([0.47, 0.0, 0.5])


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def of(backbone: ModuleBackbone, backend: str | None, kinds: Mapping[str, Any] = KINDS) -> dict[str, Role]:
    """Roles on one base, compiled unless `backend` is None."""
    roles = {name: make(backbone, name, kind, seed) for seed, (name, kind) in enumerate(kinds.items())}
    if "teacher" in roles:
        roles["teacher"].freeze()
    compile_units(roles.values(), backend is not None, backend or "eager")
    return roles


def forced(backbone: ModuleBackbone, window: Window, rows: int, frames: int = FRAMES) -> Batch:
    x0, cond = noise(rows, frames, CHANNELS, 6, 10), text(rows)
    return backbone.chunking().forced(Batch(x0, cond, cond), window)


def backward(role: Role, out: Tensor) -> dict[str, Tensor]:
    out.square().sum().backward()
    found = gradients(role)
    for parameter in role.own.values():
        parameter.grad = None
    return found


def everything(backbone: ModuleBackbone, roles: Mapping[str, Role]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Calls of all kinds and roles, and the gradients of those that are trained."""
    said: list[Tensor] = []
    graded: list[dict[str, Tensor]] = []
    batch = forced(backbone, Window(1, FRAMES), 2)
    student = as_flow_map(roles["student"].network)
    said.append(student.mean_velocity(batch.x0, T[:2], R[:2], batch.cond))
    graded.append(backward(roles["student"], said[-1]))
    said.append(roles["critic"].network.velocity(batch.x0, T[:2], batch.cond))
    graded.append(backward(roles["critic"], said[-1]))
    with torch.no_grad():
        said.append(roles["teacher"].network.velocity(batch.x0, T[:2], batch.cond))
        said.append(student.velocity(batch.x0, T[:2], batch.cond))
    return said, graded


def rolled(backbone: ModuleBackbone, roles: Mapping[str, Role]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A rollout: chunks are read and followed, the last with gradient."""
    student = as_flow_map(roles["student"].network)
    x, cond, said = noise(2, FRAMES, CHANNELS, 6, 10), text(2), []
    ends = list(itertools.accumulate(CHUNKS))
    at: Cond = cond
    with torch.no_grad():
        for begin, end in zip([0, *ends[:-2]], ends[:-1], strict=True):
            said.append(student.mean_velocity(x[:, begin:end], T[:2], R[:2], at))
            at = chunking(backbone).remember(student, at, x[:, begin:end])
    said.append(student.mean_velocity(x[:, ends[-2] :], T[:2], R[:2], at))
    return said, [backward(roles["student"], said[-1])]


def assert_same(work: Any, how: str, backend: str, **fields: Any) -> None:
    """Whether `work` comes to the same compiled."""
    made, before = [], forms()
    for each in (None, backend):
        backbone = causal(CHUNKS, lora=lora(), gradient_checkpointing=how, **fields)
        made.append(work(backbone, of(backbone, each)))
    assert forms() > before
    (said, graded), (compiled_said, compiled_graded) = made
    assert max(error(a, b) for a, b in zip(compiled_said, said, strict=True)) < 1e-5
    for ours, theirs in zip(compiled_graded, graded, strict=True):
        assert relative(ours, theirs) < 1e-4
        assert all(bool(gradient.isfinite().all()) for gradient in ours.values())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "block", "selective"])
def test_compiled_roles_compute_what_they_compute(how: str) -> None:
    assert_same(everything, how, "aot_eager" if how == "selective" else "eager")


@pytest.mark.slow
def test_a_compiled_rollout_is_that_rollout() -> None:
    assert_same(rolled, "block", "eager")


@pytest.mark.slow
def test_masks_of_blocks_are_compiled_with_the_rest() -> None:
    """On a CPU without gradient, which flex attention has not there."""
    made, before = [], forms()
    for backend in (None, "eager"):
        backbone = causal(CHUNKS, lora=lora(), architecture=architecture(2, 16), attention="flex")
        roles, batch = of(backbone, backend), forced(backbone, Window(1, FRAMES), 2)
        with torch.no_grad():
            made.append(as_flow_map(roles["student"].network).mean_velocity(batch.x0, T[:2], R[:2], batch.cond))
    assert forms() > before
    assert error(made[1], made[0]) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "block", "selective"])
def test_generated_code_computes_the_same(how: str) -> None:
    def once(backbone: ModuleBackbone, roles: Mapping[str, Role]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        batch = forced(backbone, Window(1, FRAMES), 2)
        out = as_flow_map(roles["student"].network).mean_velocity(batch.x0, T[:2], R[:2], batch.cond)
        return [out], [backward(roles["student"], out)]

    assert_same(once, how, "inductor")


@pytest.mark.slow
def test_all_frames_at_once() -> None:
    made = []
    for backend in (None, "eager"):
        backbone = bidirectional(FRAMES, lora=lora(), gradient_checkpointing="block")
        roles = of(backbone, backend)
        batch = Batch(noise(2, FRAMES, CHANNELS, 6, 10), text(2), text(2))
        out = as_flow_map(roles["student"].network).mean_velocity(batch.x0, T[:2], R[:2], batch.cond)
        made.append((out, backward(roles["student"], out)))
    assert error(made[1][0], made[0][0]) < 1e-5
    assert relative(made[1][1], made[0][1]) < 1e-4


@pytest.mark.slow
def test_a_whole_stage_takes_few_forms() -> None:
    """On the chunks of the published recipe, with its micro-batch of 1: all windows, rollouts, three roles, both modes.

    One row with gradient; without, up to three (a difference in time, and the null of guidance).
    """
    sizes = FarWan21Config(weights="not needed").chunks
    frames, ends = sum(sizes), list(itertools.accumulate(sizes))
    backbone = causal(sizes, (4, 4), lora=lora(), gradient_checkpointing="block")
    roles = of(backbone, "eager")
    student, video = as_flow_map(roles["student"].network), noise(3, frames, CHANNELS, 4, 4)

    def windows() -> None:
        for count, rows in itertools.product(range(3, len(sizes) + 1), (1, 2, 3)):
            window = Window(sum(sizes[: count - 3]), sum(sizes[:count]))
            batch = backbone.chunking().forced(Batch(video[:rows], text(rows), text(rows)), window)
            for name, role in roles.items():
                for grad in {False, name != "teacher" and rows == 1}:
                    with torch.set_grad_enabled(grad):
                        role.network.velocity(batch.x0, T[:rows], batch.cond)

    def rollouts() -> None:
        for grad in (False, True):
            cond: Cond = text(1)
            for begin, end in zip([0, *ends[:-1]], ends, strict=True):
                with torch.set_grad_enabled(grad):
                    student.mean_velocity(video[:1, begin:end], T[:1], R[:1], cond)
                with torch.no_grad():
                    if end < frames:
                        cond = chunking(backbone).remember(student, cond, video[:1, begin:end])

    before = forms()
    windows()
    after_windows = forms()
    rollouts()
    after = forms()
    windows()
    rollouts()
    # The second time nothing is compiled.
    assert forms() == after
    assert (after_windows - before, after - after_windows) == (26, 14)


# --- what cannot be compiled


class Bare(nn.Module):
    """A unit whose forward breaks a graph, if it is asked to."""

    def __init__(self, broken: bool) -> None:
        super().__init__()
        self.broken, self.linear = broken, nn.Linear(2, 2)

    def forward(self, x: Tensor, kind: str = "") -> Tensor:
        if self.broken:
            torch._dynamo.graph_break()
        return self.linear(x) + len(kind)


class Alone(Velocity):
    def velocity(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        return x


def bare(broken: bool = False, units: bool = True) -> tuple[Bare, Role]:
    unit = Bare(broken)
    return unit, Role("student", Alone(), unit, dict(unit.named_parameters()), [unit] if units else [])


def test_a_network_without_units_is_refused() -> None:
    with pytest.raises(FlowmapError, match=r"^compute\.compile: the network of role 'student' has no units"):
        compile_units([bare(units=False)[1]], True)


def test_a_broken_graph_is_an_error_of_one_line() -> None:
    unit, role = bare(broken=True)
    compile_units([role], True, "eager")
    with pytest.raises(FlowmapError, match=r"^compute\.compile: Bare cannot be compiled: .*; set it to false$"):
        unit(torch.ones(1, 2))


def test_too_many_forms_are_an_error_and_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    unit, role = bare()
    compile_units([role], True, "eager")
    monkeypatch.setattr(compiled, "MOST_FORMS", 2)
    for kind in ("a", "b"):
        unit(torch.ones(1, 2), kind)
    with pytest.raises(FlowmapError, match=r"^compute\.compile: Bare was compiled in 2 forms and is asked for yet"):
        unit(torch.ones(1, 2), "c")


class Heard:
    """What phases are told of, and whether each has ended."""

    def __init__(self) -> None:
        self.open: list[str] = []
        self.ended: list[str] = []

    def begin(self, phase: Phase) -> None:
        self.open.append(phase.what)

    def end(self, phase: Phase) -> None:
        self.open.remove(phase.what)
        self.ended.append(phase.what)


def test_what_is_compiled_is_said_once() -> None:
    unit, role = bare()
    compile_units([role], True, "eager")
    heard, before = Heard(), forms()
    with listening(heard):
        for _ in range(2):
            for kind in ("", "longer"):
                unit(torch.ones(2, 2), kind)
    assert heard.ended == [f"compiling blocks, form {before + number}, each once" for number in (1, 2)]
    assert not heard.open


def test_the_last_word_counts() -> None:
    unit, role = bare()
    plain = unit.forward
    for word in (True, True, False):
        compile_units([role], word, "eager")
    assert unit.forward == plain


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_derivatives_forward_are_not_compiled() -> None:
    unit, role = bare()
    x = torch.ones(3, 2)
    wanted = torch.func.jvp(unit, (x,), (x,))
    compile_units([role], True, "eager")
    before = forms()
    found = torch.func.jvp(unit, (x,), (x,))
    assert all(map(torch.equal, found, wanted))
    assert forms() == before
    unit(x)
    assert forms() == before + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
def test_derivatives_in_time_alone_are_not_compiled() -> None:
    """Then a block's modulations carry the derivative, within what the block is given, and not its tokens."""
    r = torch.tensor([0.2, 0.1])

    def derivative(backend: str | None) -> tuple[Tensor, Tensor]:
        role = of(bidirectional(2, lora=lora()), backend, {"student": "flow_map"})["student"]
        network, x, t = as_flow_map(role.network), noise(2, 2, CHANNELS, 4, 4), torch.tensor([0.8, 0.3])
        with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            both = torch.func.jvp(lambda r: network.mean_velocity(x, t, r, text(2)), (r,), (torch.ones(2),))
        return both[0], both[1]

    assert all(map(torch.equal, derivative("eager"), derivative(None)))


# --- several processes

VIDEO = """
name = "video"
data = { type = "moving_digits", frames = 4, size = 8 }
compute = { device = "cpu", threads = 1, compile = true, micro_batch = 1 }

[backbone]
type = "far_wan21"
weights = "random"
chunks = [1, 1, 1, 1]
full_chunks = 2
compressed_patch_size = [1, 4, 4]
lora = { rank = 3, alpha = 6.0 }
gradient_checkpointing = "block"
architecture = { layers = 2, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, freq_dim = 16 }

[[stages]]
name = "forward"
steps = 2
batch = 4
objective = { type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5 }
optimizer = { eps = 0.1 }
"""
TOLD = """
import torch
import flowmap.training.compiled
def told(graph, inputs):
    print("a form", flush=True)
    return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)
flowmap.training.compiled.compile_units.__defaults__ = (told,)
"""
"""No code is generated, and each process says that it compiles."""


@pytest.mark.slow
def test_two_processes_that_share_samples_agree_with_one_and_with_none_compiled(tmp_path: Path) -> None:
    found = {}
    for name, number, word in (("plain", 1, "false"), ("one", 1, "true"), ("two", 2, "true, sequence = 2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "recipe.toml").write_text(VIDEO.replace("compile = true", f"compile = {word}"))
        code, said = shared(folder, "run", "recipe.toml", number=number, patch=TOLD)
        assert code == 0, said
        assert ("a form" in said) == (word != "false"), said
        (found[name],) = folder.glob("runs/*/forward")
    for name in ("one", "two"):
        assert max(furthest(found["plain"], found[name]).values()) < 1e-4
