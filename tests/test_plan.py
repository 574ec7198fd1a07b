"""`flowmap plan`: the table that one rents GPUs by, and what cannot run at all."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from flowmap_mlp.configs import MlpConfig
from flowmap_mlp.network import MlpModule
from flowmap_wan import pretrained
from flowmap_wan.configs import FarWan21Config
from flowmap_wan.twin import make_twin
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from flowmap.cli import main as cli
from flowmap.errors import FlowmapError
from flowmap.interfaces import Backbone, Cond
from flowmap.launch.run import run_recipe
from flowmap.planning.activations import fullest
from flowmap.planning.count import StageCost, count
from flowmap.planning.events import Call
from flowmap.planning.plan import Planned, as_json, plan_recipe
from flowmap.planning.tables import show
from flowmap.plugin import Finding, NetworkKind, RoleSpec, SampleSpec
from flowmap.plugin.footprint import CallShape, Footprint, Weights
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.tables import ComputeConfig
from flowmap.training.loop import run_stage
from flowmap.training.processes import Processes
from flowmap.training.stage import open_stage
from flowmap.workshop import Architecture, ModuleBackbone, NoCodec
from tests.small_runs import HEAD, TEACHER
from tests.video_runs import DIGITS, STAGES

pytestmark = pytest.mark.usefixtures("one_thread")

FAR_14B = Path(__file__).parents[1] / "recipes" / "anyflow_far_14b.toml"
# Few steps are counted, and it is quick.
SHORT = [f"stages.{name}.steps=6" for name in ("teacher", "forward", "on_policy")]
FEWER = [*SHORT, "data.frames=33", "backbone.chunks=[1, 3, 3, 2]", "compute.micro_batch=1"]
GB = 10**9

ON_POLICY = """
[[stages]]
name = "on_policy"
steps = 3
batch = 4
objective = { type = "backward_simulation", rollout_steps = [2, 4], forward = "flow_map", replay = REPLAY }
roles.student.from = "forward"
roles.teacher.from = "teacher"
roles.critic.from = "teacher"
"""


def printed(planned: Planned) -> str:
    console = Console(width=100, record=True, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        show(planned, console)
    return captured.get()


def refusal(*overrides: str, **wish: Any) -> str:
    with pytest.raises(FlowmapError) as caught:
        plan_recipe(FAR_14B, [*SHORT, *overrides], **wish)
    assert caught.value.code == 2
    return str(caught.value)


@pytest.fixture(scope="module")
def planned() -> Planned:
    """The published recipe for eight devices, on videos of four chunks: half as many kinds of call."""
    return plan_recipe(FAR_14B, FEWER, devices=8)


@pytest.fixture(scope="module")
def eight(planned: Planned) -> dict[str, Any]:
    """The same as JSON, by stage."""
    return {stage["stage"]: stage for stage in json.loads(as_json(planned))["stages"]}


def test_the_parts_of_the_memory_are_a_role_s_by_hand(eight: dict[str, Any]) -> None:
    """AnyFlow at 14B: one base of 14.32B, three adapters; float32 beside a base in bfloat16."""
    stage = eight["on_policy"]
    parameters, memory = stage["parameters"], stage["memory_per_device"]
    own = {name: part["count"] for name, part in parameters["own"].items()}
    assert parameters["all"] == parameters["base"]["count"] + sum(own.values()) == pytest.approx(16.75e9, rel=1e-3)
    assert parameters["trained"] == own["student"] + own["critic"]
    assert memory["weights"] == pytest.approx((parameters["base"]["bytes"] + 4 * sum(own.values())) / 8, abs=1)
    assert memory["gradients"] == pytest.approx(4 * (own["student"] + own["critic"]) / 8, abs=1)
    assert memory["optimiser"] == pytest.approx(8 * (own["student"] + own["critic"]) / 8, abs=1)
    assert memory["ema"] == pytest.approx(4 * own["student"] / 8, abs=1)
    parts = ("weights", "gradients", "optimiser", "ema", "gathered")
    assert memory["least"] == sum(memory[part] for part in parts)
    assert memory["total"] == memory["least"] + memory["activations"]
    # Three blocks with three adapters each, and what is outside of blocks.
    block = [parameters["base"]["unit"], *(part["unit"] for part in parameters["own"].values())]
    assert memory["gathered"] == 3 * sum(block) + parameters["base"]["root"] + sum(
        part["root"] for part in parameters["own"].values()
    )
    # A block: q, k, v, out of both attentions, two feed-forward layers, in bfloat16, but for little.
    assert parameters["base"]["unit"] == pytest.approx(2 * (8 * 5120**2 + 2 * 5120 * 13824), rel=0.01)


def test_what_is_whole_on_each_device_by_hand(eight: dict[str, Any]) -> None:
    """A frozen base that takes an eighth of a device is not shared out; nor, until a turn ends, is a small gradient."""
    sets = (*FEWER, "compute.base=replicated", "compute.reduction=turn")
    for stage in plan_recipe(FAR_14B, sets, devices=8).stages:
        made, other = stage.estimate, eight[stage.plan.stage.name]
        assert made is not None
        specs = stage.plan.stage.objective.roles()
        teacher = [made.own[name] for name, spec in specs.items() if not spec.trained]
        still = made.base.bytes + sum(part.bytes for part in teacher)
        assert made.memory.weights == pytest.approx(still + 4 * made.trained_parameters / 8, abs=1)
        gradient = 4 * max(made.own[name].count for name in made.trained)
        assert made.memory.gathered == gradient + sum(
            3 * made.own[name].unit + made.own[name].root for name in made.trained
        )
        assert made.memory.gradients == other["memory_per_device"]["gradients"]


def test_devices_divide_what_is_sharded_and_nothing_else(eight: dict[str, Any]) -> None:
    four = plan_recipe(FAR_14B, FEWER, devices=4)
    for stage in four.stages:
        made, other = stage.estimate, eight[stage.plan.stage.name]["memory_per_device"]
        assert made is not None
        for part in ("weights", "gradients", "optimiser", "ema"):
            assert getattr(made.memory, part) == pytest.approx(2 * other[part], abs=2)
        assert made.memory.gathered == other["gathered"]
        # The first process of four and of eight do not see the same samples, but calls of the same size.
        assert made.memory.activations == pytest.approx(other["activations"], rel=0.02)
        compute = eight[stage.plan.stage.name]["compute"]
        assert made.flops == pytest.approx(compute["flops_per_step"], rel=0.1)
        assert made.gpu_hours == pytest.approx(compute["gpu_hours"], rel=0.1)


def test_the_table_says_all_of_it(planned: Planned, eight: dict[str, Any]) -> None:
    text = printed(planned)
    assert all(len(line) <= 100 for line in text.splitlines())
    rows = [line.split() for line in text.splitlines()]
    memory = eight["on_policy"]["memory_per_device"]
    parts = ("weights", "gradients", "optimiser", "ema", "activations", "copies", "gathered", "total")
    numbers = (f"{memory[part] / GB:.1f}" if memory[part] else "0" for part in parts)
    assert ["on_policy", "16.75B", "1.63B", *numbers] in rows
    flat = " ".join(text.split())
    assert re.search(r"• on_policy: backward of the \w+, .*?\(graphs [\d.]+, .*?computing [\d.]+.*? GB\) Besides", flat)
    assert re.search(r"evaluation [\d.]+: .* holds the network of stage '\w+' whole \(3[12]\.\d\)", flat)
    assert "text encoder 11.4, VAE 0.5: while raw data" in flat
    assert "Memory of each of 8 devices, in GB" in text
    assert "at 400 TFLOP/s" in text
    hours = sum(stage["compute"]["gpu_hours"] for stage in eight.values())
    total = next(row for row in rows if row[:1] == ["all"])
    assert float(total[-1]) == pytest.approx(hours, rel=0.01)


def test_time_follows_from_the_throughput(eight: dict[str, Any]) -> None:
    compute = eight["teacher"]["compute"]
    assert compute["seconds_per_step"] == pytest.approx(compute["flops_per_step"] / (8 * 400e12))
    assert compute["gpu_hours"] == pytest.approx(compute["seconds_per_step"] * 6 * 8 / 3600)


def test_the_arithmetic_of_a_small_network_by_hand(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER)
    stage = plan_recipe(Path("r.toml"), tflops=2.0).stages[0]
    weights = 2 * 8 + 64 * 8 + 8 * 8 + (8 * 24 + 8 * 16 + 16 * 8) + 8 * 2
    assert stage.estimate is not None
    # Nobody asks for the gradient of a sample or of a time.
    first = 2 * 8 + 64 * 8
    assert stage.estimate.flops == 8 * 2 * (3 * weights - first)
    assert stage.estimate.seconds == pytest.approx(stage.estimate.flops / 2e12)
    assert stage.estimate.memory.gathered == 0
    both = 4 * stage.estimate.parameters
    assert stage.estimate.memory.least == both * (1 + 1 + 2 + 1)


def test_of_a_cpu_no_times_are_told_unless_its_pace_is(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER)
    on_gpu, on_cpu = (printed(plan_recipe(Path("r.toml"), [f"compute.device={d}"])) for d in ("auto", "cpu"))
    assert "at 400 TFLOP/s" in on_gpu
    assert "400" not in on_cpu
    assert "give it by --tflops" in " ".join(on_cpu.split())
    assert ("GPU-hours" in on_gpu, "GPU-hours" in on_cpu) == (True, False)
    paced = plan_recipe(Path("r.toml"), ["compute.device=cpu"], tflops=0.001)
    assert "GPU-hours" in printed(paced)
    # 8 samples through some thousand weights.
    made = paced.stages[0].estimate
    assert made is not None
    assert "MFLOP / step" in on_cpu
    row = next(line.split() for line in on_cpu.partition("Compute")[2].splitlines() if line.startswith("teacher"))
    assert float(row[2]) == pytest.approx(made.flops / 1e6, rel=0.01)


# --- what was measured


def test_a_run_s_measurements_stand_beside_the_estimate(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER + "\n[compute]\ndevice = 'cpu'\n")
    assert "Measured" not in printed(plan_recipe(Path("r.toml")))
    run_recipe(Path("r.toml"), (), (), False, Path("runs"), Console(quiet=True))
    planned = plan_recipe(Path("r.toml"))
    text = printed(planned)
    seen = planned.stages[0].measured
    assert seen is not None
    lines = [json.loads(line) for line in Path("runs/small/teacher/steps.jsonl").read_text().splitlines()]
    assert seen.peak_bytes == max(line["peak_bytes"] for line in lines)
    # Next to the process itself the estimate is nothing, and a CPU is no GPU.
    assert re.search(r"• teacher: measured \d\.\d GB on cpu, of the whole process: libraries alone take more ", text)
    assert "%" not in text.partition("Measured in")[2]
    at_pace = printed(plan_recipe(Path("r.toml"), tflops=1e-6)).partition("Measured in")[2]
    assert re.search(r" s a step, estimate \S+: [+-]\d+ %", " ".join(at_pace.split()))
    stage = planned.stages[0]
    assert stage.estimate is not None
    memory = dataclasses.replace(stage.estimate.memory, activations=10**8)
    estimate = dataclasses.replace(stage.estimate, memory=memory)
    large = dataclasses.replace(planned, stages=(dataclasses.replace(stage, estimate=estimate),))
    assert re.search(r"GB on cpu, of the whole process, estimate 0\.1: [+-]\d+ %; ", printed(large))
    # Another configuration's numbers would say nothing.
    assert plan_recipe(Path("r.toml"), ["stages.teacher.batch=4"]).stages[0].measured is None
    assert "to compare: --devices 1" in printed(plan_recipe(Path("r.toml"), devices=2))


# --- activations


class Tokens(Footprint):
    """A call holds 100 bytes a frame and sample and needs 10 (30 with gradient) more; a frame is remembered in 1000."""

    def base(self) -> Weights:
        return Weights(0, 0, 0, 0)

    def own(self, kind: NetworkKind) -> Weights:
        return Weights(7, 28, 4, 8)

    def flops(self, kind: NetworkKind, shape: CallShape, gradient: bool) -> int:
        return (3 if gradient else 1) * (shape.frames + shape.start)

    def held(self, kind: NetworkKind, shape: CallShape, samples: int) -> int:
        return 100 * shape.frames * samples

    def workspace(self, kind: NetworkKind, shape: CallShape, samples: int, gradient: bool) -> int:
        return (30 if gradient else 10) * shape.frames * samples

    def memory(self, frames: int) -> int:
        return 1000 * frames

    def prompt(self) -> int:
        return self.text

    def __init__(self, text: int = 0) -> None:
        self.text = text


def call(view: Any, frames: int, start: int = 0, samples: int = 1, gradient: bool = True) -> Call:
    return Call("student", CallShape(view, frames, start), samples, gradient)


def peak(*script: Call | int, text: int = 0) -> int:
    specs = {"student": RoleSpec("flow_map", True, "")}
    script = (*script, call("whole", 0), len(script)) if not any(isinstance(e, int) for e in script) else script
    return fullest(StageCost(1, {}, {}, {script: 1}, 1), specs, Tokens(text)).total


def test_one_graph_is_held_until_its_backward() -> None:
    assert peak(call("whole", 2), 0) == 200 + 60
    assert peak(call("whole", 2, samples=5), 0) == 5 * (200 + 60)
    assert peak(call("whole", 2, gradient=False)) == 20


def test_conditions_are_remembered_all_the_time() -> None:
    """That of every sample, and its null."""
    assert peak(call("whole", 2, samples=3), 0, text=7) == 3 * (200 + 60) + 3 * 2 * 7


def test_graphs_that_are_alive_together_add_up() -> None:
    one, two = call("whole", 2), call("whole", 3)
    assert peak(one, two, 1, 0) == 500 + 90
    assert peak(one, 0, two, 2) == 300 + 90
    # Without gradient: what is held already, and its own.
    assert peak(one, call("whole", 9, gradient=False), 0) == 200 + 90


def test_memories_are_counted_once_and_as_long_as_a_graph_needs_them() -> None:
    first, again, later = call("following", 1, 4), call("following", 1, 4), call("following", 1, 4 + 1)
    # Two steps of one chunk share their memory; the graphs of two chunks need both.
    assert peak(first, again, 1, 0) == 4000 + 200 + 30
    replayed = peak(first, 0, call("reading", 1, 4, gradient=False), later, 3)
    # The largest of all calls of a view stands for the others.
    assert replayed == 5000 + 130
    assert peak(first, call("reading", 1, 4, gradient=False), later, 2, 0) == 2 * 5000 + 200 + 30


# --- what cannot be


def test_too_little_memory_is_refused_with_the_numbers() -> None:
    text = refusal("compute.micro_batch=1", devices=2, memory=16.0)
    assert text == (
        "stage 'teacher' does not fit: on each of 2 devices it takes at least 25.5 GB without activations "
        "(weights 16.0, gradients 1.6, optimiser 3.2, moving average 1.6, gathered 3.0), and there are 16.0 GB. "
        "What helps: more devices, a smaller backbone.lora.rank"
    )
    # The numbers are of the stage that asks for most if only that one does not fit.
    assert refusal("compute.micro_batch=1", devices=8, memory=9.0).startswith("stage 'on_policy' does not fit: ")


def test_devices_share_samples_in_whole_groups() -> None:
    assert refusal("compute.sequence=4", devices=6) == (
        "compute.sequence = 4: 6 devices cannot be divided into groups of 4, which share the tokens of a sample; "
        "use 4 or 8 devices (torchrun --nproc-per-node), or a number that divides 6"
    )
    text = refusal("compute.sequence=3", "compute.micro_batch=1", devices=3)
    assert text.endswith(
        "compute.sequence: 3 processes cannot share the 40 attention heads of backbone 'far_wan21' "
        "evenly; use 1, 2, 4, 5, 8, 10, 20 or 40"
    )


def test_a_shared_sample_is_held_in_parts() -> None:
    alone, shared = (
        plan_recipe(FAR_14B, [*FEWER, f"compute.sequence={n}"], devices=4).stages[-1].estimate for n in (1, 4)
    )
    assert alone is not None
    assert shared is not None
    assert 0.25 < shared.memory.activations / alone.memory.activations < 0.3
    assert shared.memory.least == alone.memory.least
    assert shared.flops == pytest.approx(alone.flops, rel=0.03)  # other draws: rollouts of other lengths


def test_the_command_takes_devices_memory_and_throughput(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER)
    done = CliRunner().invoke(cli.app, ["plan", "r.toml", "--devices", "2", "--tflops", "3", "--json"])
    found = json.loads(done.stdout)
    assert (found["devices"], found["tflops"]) == (2, 3.0)
    assert "At 3 TFLOP/s".lower() in CliRunner().invoke(cli.app, ["plan", "r.toml", "--tflops", "3"]).output.lower()
    refused = CliRunner().invoke(cli.app, ["plan", "r.toml", "--devices", "3"])
    assert isinstance(refused.exception, FlowmapError)


def test_memory_that_is_nearly_filled_is_warned_of(here: Path) -> None:
    (here / "r.toml").write_text(HEAD + TEACHER)
    planned = plan_recipe(Path("r.toml"))
    assert planned.stages[0].estimate is not None
    total = planned.stages[0].estimate.memory.total / GB
    (warning,) = plan_recipe(Path("r.toml"), memory=total / 0.95).warnings
    assert "95 % of its" in warning
    assert "compute.micro_batch = 1" in warning
    assert "more than its" in plan_recipe(Path("r.toml"), memory=total / 1.05).warnings[0]
    roomy = plan_recipe(Path("r.toml"), memory=total / 0.85)
    assert roomy.warnings == ()
    # Whoever names the memory of a device asks a question.
    assert re.search(r"✓ It fits: at most [\d.]+ of the [\d.]+ GB of each device\.", printed(roomy))
    assert "It fits" not in printed(plan_recipe(Path("r.toml"), memory=total / 0.95))
    assert "It fits" not in printed(planned)


@pytest.mark.parametrize("option", ["memory", "tflops"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, 0.0])
def test_devices_that_are_none_are_refused(option: str, value: float) -> None:
    with pytest.raises(FlowmapError, match=f"^--{option}: must be above 0 and at most 1,000,000, not "):
        plan_recipe(Path("nowhere.toml"), **{option: value})


@pytest.mark.parametrize(
    ("devices", "micro", "message"),
    [
        (6, 0, "cannot be shared evenly by 6 devices; use a batch of 12 or 18, or 4 or 8 devices"),
        (
            8,
            4,
            "cannot be shared evenly by 8 devices x compute.micro_batch = 4; use a batch of 32, or 2 or 4 devices",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(devices: int, micro: int, message: str) -> None:
    text = refusal(f"compute.micro_batch={micro}", devices=devices)
    assert text == f"stage 'teacher': a batch of 16 {message}"


def test_adapters_on_layers_that_do_not_exist_are_refused() -> None:
    text = refusal('backbone.lora.layers=["attn1.to_q", "attn1.to_w"]')
    assert "backbone.lora.layers" in text
    assert "unknown layer 'attn1.to_w'; allowed: attn1.to_q, " in text
    assert "Did you mean 'attn1.to_" in text
    assert "name at least one layer; there are attn1.to_q" in refusal("backbone.lora.layers=[]")
    assert "'ffn.net.2' is listed twice" in refusal('backbone.lora.layers=["ffn.net.2", "ffn.net.2"]')


def test_adapters_of_a_rank_that_gains_nothing_are_warned_of(tmp_path: Path) -> None:
    twin = make_twin(tmp_path / "twin")
    findings = list(far(twin, lora={"rank": 25}).findings(SampleSpec((81, 3, 32, 32))))
    assert [f.message for f in findings if f.level == "warning"] == [
        "25 is more than the smallest side of an adapted layer, 24, and gains nothing"
    ]
    assert not list(far(twin, lora={"rank": 24}).findings(SampleSpec((81, 3, 32, 32))))


def test_a_checkpoint_with_odd_heads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = make_twin(tmp_path / "twin")
    file = twin / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attention_head_dim": 13}))

    def errors() -> list[str]:
        return [f.message for f in far(twin).findings(SampleSpec((81, 3, 32, 32))) if f.level == "error"]

    (misfit,) = errors()
    assert "do not fit its config.json: " in misfit
    # As if the weights were of that size too.
    monkeypatch.setattr(pretrained, "problem", lambda weights, pictures: None)
    assert errors() == ["its heads have 13 dimensions; rotary positions turn pairs of them"]


def far(weights: Path, **fields: Any) -> FarWan21Config:
    return FarWan21Config.model_validate({"weights": str(weights), **fields})


# --- what a plan counts


@pytest.mark.parametrize("replay", [True, False])
@pytest.mark.parametrize("micro", [0, 1, 2])
def test_the_plan_counts_what_the_ledger_counts_of_a_causal_model(here: Path, micro: int, replay: bool) -> None:
    (here / "r.toml").write_text(DIGITS + STAGES + ON_POLICY.replace("REPLAY", str(replay).lower()))
    recipe, _ = read(Path("r.toml"), [f"compute.micro_batch={micro}"])
    for plan in make_plan(recipe, here / "runs").stages:
        alone = plan if plan.stage.name != "on_policy" else unsourced(plan)
        cost = count(plan)
        calls: dict[str, Counter[str]] = {}
        backwards = 0
        for record in run_stage(open_stage(alone, Processes(ComputeConfig(device="cpu"))), 0):
            backwards += record.backwards
            for role, counted in record.calls.items():
                calls.setdefault(role, Counter()).update(counted)
        assert {role: Counter(vars(counted)) for role, counted in cost.calls.items()} == calls
        assert sum(cost.backwards.values()) == backwards
        told = Counter[tuple[str, bool]]()
        for script, times in cost.scripts.items():
            told.update({(e.role, e.gradient): 0 for e in script if isinstance(e, Call)})
            for event in script:
                if isinstance(event, Call):
                    told[event.role, event.gradient] += times * event.samples
            graphs = [place for place, e in enumerate(script) if isinstance(e, Call) and e.gradient]
            assert sorted(e for e in script if isinstance(e, int)) == graphs, "a graph is given up once"
        assert {key: n for key, n in told.items() if n} == {
            (role, gradient): counted[name]
            for role, counted in calls.items()
            for gradient, name in ((True, "grad_samples"), (False, "no_grad_samples"))
            if counted[name]
        }


def unsourced(plan: Any) -> Any:
    """The same with every role from the base: nothing need be trained before."""
    stage = plan.stage.model_copy(update={"roles": {}})
    return dataclasses.replace(plan, stage=stage, sources={})


class StrangeConfig(MlpConfig):
    """A network that does not say what it takes, and looks at numbers, so that nobody can measure it without any."""

    type: Literal["strange"] = "strange"  # type: ignore[assignment]

    def build(self, spec: SampleSpec) -> Backbone:
        class Curious(MlpModule):
            def forward(self, x: Tensor, t: Tensor, r: Tensor | None, cond: Cond) -> Tensor:
                return super().forward(x if float(t.max()) < 2 else x / 2, t, r, cond)

        architecture = Architecture(lambda two_times, chosen: Curious(self, spec, two_times))
        return ModuleBackbone(self.type, architecture, NoCodec(spec.shape))

    def findings(self, spec: SampleSpec) -> Iterable[Finding]:
        return []


def test_what_a_stranger_s_backbone_takes_is_not_known(here: Path, install: Callable[..., None]) -> None:
    install(StrangeConfig)
    (here / "r.toml").write_text(HEAD.replace('"mlp"', '"strange"') + TEACHER)
    planned = plan_recipe(Path("r.toml"), memory=0.001)
    text = printed(planned)
    assert "backbone 'strange' does not say what it takes, and could not be measured without weights: " in text
    stage: Mapping[str, Any] = json.loads(as_json(planned))["stages"][0]
    assert "memory_per_device" not in stage
    assert stage["roles"][0]["calls_with_gradient"] == 1


def test_what_helps_is_not_done_yet() -> None:
    """The published recipe takes one sample at a time and recomputes whole blocks; its heads can be shared."""
    (said,) = (w for w in plan_recipe(FAR_14B, FEWER, devices=2, memory=60.0).warnings if "stage 'on_policy'" in w)
    assert said.endswith("What helps: more devices, more that share a sample (compute.sequence)")


@pytest.mark.slow
def test_recomputing_more_may_help() -> None:
    few = [*FEWER, "backbone.gradient_checkpointing='selective'"]
    (said,) = (w for w in plan_recipe(FAR_14B, few, devices=2, memory=60.0).warnings if "stage 'teacher'" in w)
    assert said.endswith("backbone.gradient_checkpointing = 'block'")


def test_the_fullest_moment_is_of_one_device() -> None:
    for stage in plan_recipe(FAR_14B, [*FEWER, "compute.sequence=4"], devices=4).stages:
        assert stage.estimate is not None
        assert stage.estimate.moment.total == stage.estimate.memory.activations
