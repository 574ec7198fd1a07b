"""A run that several processes share is the run of one process: every weight, moment and loss, to rounding.

The update of AdamW is linear in the gradient here (eps = 0.1): with the usual eps it is near the gradient's sign, which
makes of a rounding error a whole step.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file

from flowmap.files.manifest import checkpoints
from tests.process_runs import furthest, lines, samples, shared, torchrun
from tests.small_runs import HEAD, TEACHER, flowmap, preload
from tests.test_run import tame

LIMIT = 1e-5

OPTIMIZER = """
optimizer = { lr = 0.03, eps = 0.1, weight_decay = 0.01 }
ema = { decay = 0.5, start = 1 }
"""

DIGITS = f"""
name = "digits"
data = {{ type = "digits", conditional = true }}
backbone = {{ type = "mlp", width = 16, depth = 2 }}
compute = {{ device = "cpu", threads = 1, trackers = ["tensorboard"] }}

[[stages]]
name = "teacher"
steps = 3
batch = 8
objective = {{ type = "flow_matching", drop_condition = 0.3 }}
{OPTIMIZER}
[[stages]]
name = "forward"
steps = 3
batch = 8
objective = {{ type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5 }}
roles.student.from = "teacher"
{OPTIMIZER}
[[stages]]
name = "few"
steps = 3
batch = 2
objective = {{ type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5, branches.diffusion = 0.5 }}
roles.student.from = "teacher"
{OPTIMIZER}
[[stages]]
name = "discrete"
steps = 3
batch = 8
objective = {{ type = "discrete_flow_map", cfg_scale = 2.0 }}
roles.teacher.from = "teacher"
{OPTIMIZER}
[[stages]]
name = "consistency"
steps = 3
batch = 8
objective = {{ type = "consistency", cfg_scale = 2.0 }}
roles.teacher.from = "teacher"
{OPTIMIZER}
[[stages]]
name = "on_policy"
steps = 3
batch = 8
objective.type = "backward_simulation"
objective.cfg_scale = 2.0
objective.rollout_steps = [1, 2, 4]
objective.forward = {{ type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5 }}
roles.student.from = "forward"
roles.teacher.from = "teacher"
{OPTIMIZER}
"""
STAGES = ("teacher", "forward", "few", "discrete", "consistency", "on_policy")

VIDEO = f"""
name = "video"
data = {{ type = "moving_digits", frames = 4, size = 8 }}
compute = {{ device = "cpu", threads = 1 }}

[backbone]
type = "far_wan21"
weights = "random"
chunks = [1, 1, 1, 1]
full_chunks = 2
compressed_patch_size = [1, 4, 4]
lora = {{ rank = 3, alpha = 6.0 }}
gradient_checkpointing = true
architecture = {{ layers = 1, heads = 2, head_dim = 12, ffn_dim = 16, channels = 1, text_dim = 16, freq_dim = 16 }}

[[stages]]
name = "forward"
steps = 2
batch = 4
objective = {{ type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5, bidirectional = 0.5 }}
{OPTIMIZER}
[[stages]]
name = "on_policy"
steps = 2
batch = 4
objective.type = "backward_simulation"
objective.cfg_scale = 2.0
objective.rollout_steps = [2]
objective.forward = {{ type = "flow_map", cfg_scale = 2.0, drop_condition = 0.5 }}
roles.student.from = "forward"
{OPTIMIZER}
"""
COPIES = re.sub("(?m)^(lora|gradient_checkpointing).*\n", "", VIDEO)
BIDIRECTIONAL = re.sub("(?m)^(chunks|full_chunks|compressed_patch_size).*\n", "", VIDEO).replace("far_wan21", "wan21")

SMALL = HEAD + TEACHER.replace("decay = 0.5", "decay = 0.5, eps = 0.1")

IN_GROUPS = SMALL.replace('"flow_matching"', '{ type = "energy", samples = 4 }').replace("batch = 8", "batch = 16")

SIGNAL = """
import signal
import flowmap.training.train
written = flowmap.training.train.append_line
def signalled(path, line):
    written(path, line)
    if (path.parent.name, line["step"]) == ({stage!r}, {step}):
        signal.raise_signal(signal.{number})
flowmap.training.train.append_line = signalled
"""
"""The process that writes, and only that, has a signal after a step."""

SLOW = """
import time
import flowmap.training.train
original = flowmap.training.train.append_line
def slow(path, line):
    time.sleep(0.5)
    original(path, line)
flowmap.training.train.append_line = slow
"""
"""Every step takes half a second more."""

AFTER_ALL = """
import signal
import flowmap.training.saving
saved = flowmap.training.saving.Saver.save
def save(*args):
    signal.raise_signal(signal.SIGTERM)
    return saved(*args)
flowmap.training.saving.Saver.save = save
"""
"""Every process has a SIGTERM while it saves."""

ONLY_SECOND = """
import os
import flowmap.training.loop
import flowmap.cli.main
flowmap.cli.main._GRACE_SECONDS = 1
def second(step):
{what}
class Parts(flowmap.training.loop.Parts):
    def __iter__(self):
        if os.environ["RANK"] == "1" and self.step == 3:
            second(self)
        return super().__iter__()
flowmap.training.loop.Parts = Parts
"""

SPY = """
import os, sys
def spy(event, args):
    changing = event in ("os.rename", "os.remove", "os.rmdir", "os.truncate")
    writing = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) and "/runs/" in os.path.abspath(str(args[0]))
    if changing or writing:
        print("a second writer:", event, args, flush=True)
if os.environ["RANK"] != "0":
    sys.addaudithook(spy)
"""
"""Says so when any process but the first writes anything."""


def recipe(folder: Path, text: str) -> Path:
    (folder / "recipe.toml").write_text(text)
    return folder


def micro(samples: int) -> tuple[str, ...]:
    return ("--set", f"compute.micro_batch={samples}") if samples else ()


def run(folder: Path, text: str, processes: int, micro_batch: int = 0, patch: str = "", nodes: int = 1) -> str:
    """Run the recipe `text` to its end in `folder`; returns what was printed."""
    words = ("run", "recipe.toml", *micro(micro_batch))
    recipe(folder, text)
    if processes == 1:
        code, said = flowmap(folder, *words, patch=patch)
    else:
        code, said = shared(folder, *words, number=processes, nodes=nodes, patch=patch)
    assert code == 0, said
    return said


def assert_equal(one: Path, other: Path, stages: Sequence[str]) -> None:
    """Two runs are the same to rounding, and have sent the same numbers of samples through their networks."""
    (name,) = {path.name for path in (one / "runs").iterdir() if path.is_dir()}
    for stage in stages:
        ours, theirs = one / "runs" / name / stage, other / "runs" / name / stage
        found = furthest(ours, theirs)
        assert {"weights", "average", "exp_avg", "exp_avg_sq", "losses", "norms"} <= found.keys()
        assert {kind: f"{value:.1e}" for kind, value in found.items() if value > LIMIT} == {}, stage
        if stage != "few":
            assert [samples(line) for line in lines(ours)] == [samples(line) for line in lines(theirs)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, without accumulation."""
    folder = tmp_path_factory.mktemp("alone")
    run(folder, DIGITS, 1)
    return folder


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Two processes, and what they printed."""
    folder = tmp_path_factory.mktemp("together")
    return folder, run(folder, DIGITS, 2, patch=SPY)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, a small recipe of one stage."""
    folder = tmp_path_factory.mktemp("small")
    run(folder, SMALL, 1)
    return folder


# --- equal to one process


@pytest.mark.parametrize("micro_batch", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_accumulated_gradients_are_those_of_the_whole_batch(micro_batch: int, alone: Path, tmp_path: Path) -> None:
    run(tmp_path, DIGITS, 1, micro_batch)
    assert_equal(alone, tmp_path, STAGES)
    calls = [lines(folder / "runs/digits/teacher")[0]["calls"]["student"]["grad"] for folder in (alone, tmp_path)]
    assert calls == [1, 8 // micro_batch]


def test_two_processes_train_what_one_trains(alone: Path, together: tuple[Path, str]) -> None:
    assert_equal(alone, together[0], STAGES)


MESHES = """
import atexit
import flowmap.training.sharding
from torch.distributed.tensor import DTensor
place = flowmap.training.stage.place
def spied(roles, processes):
    made = place(roles, processes)
    for parameter in next(iter(roles)).own.values():
        print("held:", parameter.device_mesh.mesh.tolist(), parameter.placements, flush=True)
    return made
flowmap.training.stage.place = spied
"""
"""Every process says how the parameters of the first role are shared out."""


@pytest.mark.parametrize(
    ("shard", "held"),
    [
        ("auto", "[[0, 1], [2, 3]] (Replicate(), Shard(dim=0))"),
        pytest.param("all", "[0, 1, 2, 3] (Shard(dim=0),)", marks=pytest.mark.slow),
    ],
)
def test_two_nodes_of_two_processes(shard: str, held: str, small: Path, tmp_path: Path) -> None:
    """Each node has a whole copy, or all processes share one: what is trained is the same."""
    text = SMALL.replace(
        "\n[[stages]]", f'\ncompute = {{ device = "cpu", threads = 1, shard = "{shard}" }}\n[[stages]]', 1
    )
    said = run(tmp_path, text, 4, nodes=2, patch=MESHES)
    assert set(re.findall("held: (.*)", said)) == {held}
    assert_equal(small, tmp_path, ["teacher"])


AS_ON_ACCELERATORS = """
from dataclasses import replace
from flowmap.training import train
real = train.run_stage
train.run_stage = lambda stage, done, due, seconds: real(replace(stage, prefetch=2), done, due, 1e9)
"""
"""Steps are read together, and guarded between; samples and noise are made ahead."""


@pytest.mark.slow
def test_two_processes_that_read_now_and_then_train_what_one_trains(alone: Path, tmp_path: Path) -> None:
    run(tmp_path, DIGITS, 2, micro_batch=1, patch=AS_ON_ACCELERATORS)
    assert_equal(alone, tmp_path, STAGES)


@pytest.mark.parametrize(("processes", "micro_batch"), [(1, 4), (2, 0), (2, 4)])
def test_groups_of_samples_are_seen_together(processes: int, micro_batch: int, tmp_path: Path) -> None:
    """An objective that compares samples within groups of four trains the same, however the batch is split."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, number, micro_of in ((one, 1, 0), (other, processes, micro_batch)):
        folder.mkdir()
        run(folder, IN_GROUPS, number, micro_of, patch="from tests.set_objective import install\ninstall()\n")
    assert_equal(one, other, ["teacher"])


def test_fewer_moving_samples_than_processes(alone: Path, together: tuple[Path, str]) -> None:
    """Of two samples one has r < t: the process without makes the two calls of the difference for company."""
    for ours, theirs in zip(*(lines(folder / "runs/digits/few") for folder in (alone, together[0])), strict=True):
        assert (samples(ours), samples(theirs)) == ({"student": (2, 2 + 2)}, {"student": (2, 2 + 2 + 2)})


def test_one_process_writes_and_all_are_counted(alone: Path, together: tuple[Path, str]) -> None:
    folder, said = together
    assert "a second writer" not in said
    assert [said.count(f"✓ {stage}: 3 steps in") for stage in STAGES] == [1] * len(STAGES)
    counts = [json.loads((home / "runs/digits/about.json").read_text())["processes"] for home in (alone, folder)]
    assert counts == [1, 2]
    for stage in STAGES:
        home = folder / "runs/digits" / stage
        assert [line["step"] for line in lines(home)] == [1, 2, 3]
        assert len(list(home.rglob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize(
    ("text", "micro_batch"),
    [
        pytest.param(VIDEO, 1, id="causal, adapters, accumulated"),
        pytest.param(VIDEO, 0, id="causal, adapters", marks=pytest.mark.slow),
        pytest.param(COPIES, 1, id="causal, copies, accumulated", marks=pytest.mark.slow),
        pytest.param(COPIES, 0, id="causal, copies", marks=pytest.mark.slow),
        pytest.param(BIDIRECTIONAL, 0, id="bidirectional, adapters", marks=pytest.mark.slow),
    ],
)
def test_video_models_in_two_processes(text: str, micro_batch: int, tmp_path: Path) -> None:
    preload("flowmap_wan.backbone")
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, processes in ((one, 1), (two, 2)):
        folder.mkdir()
        run(folder, text, processes, micro_batch if processes == 2 else 0)
    assert_equal(one, two, ("forward", "on_policy"))


@pytest.mark.parametrize(
    ("text", "processes", "micro_batch"),
    [
        pytest.param(VIDEO, 2, 0, id="causal"),
        pytest.param(VIDEO, 4, 1, id="causal, two samples at a time", marks=pytest.mark.slow),
        pytest.param(BIDIRECTIONAL, 4, 0, id="bidirectional, two samples at a time", marks=pytest.mark.slow),
    ],
)
def test_two_processes_share_each_sample(text: str, processes: int, micro_batch: int, tmp_path: Path) -> None:
    preload("flowmap_wan.backbone")
    one, several = tmp_path / "one", tmp_path / "several"
    for folder, number in ((one, 1), (several, processes)):
        folder.mkdir()
        sequence = "" if number == 1 else 'compute = { device = "cpu", threads = 1, sequence = 2 }'
        run(folder, re.sub("(?m)^compute.*$", sequence, text) if sequence else text, number, micro_batch * (number > 1))
    assert_equal(one, several, ("forward", "on_policy"))


# --- resumed by another number of processes


SLOW_FIRST = """
import time
import flowmap.files.folder
let_go = flowmap.files.folder._let_go
def slow(*args):
    time.sleep(1)
    let_go(*args)
flowmap.files.folder._let_go = slow
"""
"""The first process, which alone holds the folder, is slow to leave it."""


def test_the_first_process_has_its_say_however_soon_the_others_end(tmp_path: Path) -> None:
    patch = SIGNAL.format(stage="teacher", step=2, number="SIGTERM") + SLOW_FIRST
    code, said = shared(recipe(tmp_path, SMALL), "run", "recipe.toml", patch=patch)
    assert code == 128 + signal.SIGTERM
    tame(said)
    assert said.count("stopped by SIGTERM after step 2 of stage 'teacher'; saved in") == 1


@pytest.mark.slow
def test_one_process_goes_on_where_two_have_stopped(alone: Path, tmp_path: Path) -> None:
    """Gradients are accumulated otherwise too; the signal comes to one of the two."""
    patch = SIGNAL.format(stage="on_policy", step=2, number="SIGTERM")
    code, said = shared(recipe(tmp_path, DIGITS), "run", "recipe.toml", *micro(1), patch=patch)
    assert code == 128 + signal.SIGTERM
    tame(said)
    assert said.count("stopped by SIGTERM after step 2 of stage 'on_policy'; saved in") == 1
    assert re.search(
        "^To go on: .*--nproc-per-node=2 -m flowmap run recipe.toml --set compute.micro_batch=1$", said, re.M
    )
    assert [c.step for c in checkpoints(tmp_path / "runs/digits/on_policy")] == [2]
    said = run(tmp_path, DIGITS, 1, 2)
    assert "on_policy: going on after step 2" in said
    assert_equal(alone, tmp_path, STAGES)


def test_two_processes_go_on_where_one_has_stopped(alone: Path, tmp_path: Path) -> None:
    patch = SIGNAL.format(stage="consistency", step=2, number="SIGINT")
    code, said = flowmap(recipe(tmp_path, DIGITS), "run", "recipe.toml", patch=patch)
    assert code == 128 + signal.SIGINT, said
    said = run(tmp_path, DIGITS, 2)
    assert "consistency: going on after step 2" in said
    assert_equal(alone, tmp_path, STAGES)


def test_sigterm_after_sigint_lets_the_save_finish(small: Path, tmp_path: Path) -> None:
    """As torchrun does on Ctrl-C."""
    patch = SIGNAL.format(stage="teacher", step=3, number="SIGINT") + AFTER_ALL
    code, said = shared(recipe(tmp_path, SMALL), "run", "recipe.toml", patch=patch)
    assert code == 128 + signal.SIGINT
    tame(said)
    assert said.count("error: stopped by SIGINT after step 3 of stage 'teacher'; saved in") == 1
    run(tmp_path, SMALL, 1)
    assert_equal(small, tmp_path, ["teacher"])


def stopped_as_typed(folder: Path, number: signal.Signals) -> str:
    """Start `torchrun` on SMALL, send it a signal after two steps, and return what was printed."""
    with torchrun(recipe(folder, SMALL), "run", "recipe.toml", patch=SLOW) as launched:
        steps = folder / "runs/small/teacher/steps.jsonl"
        launched.until(lambda: steps.exists() and len(steps.read_text().splitlines()) >= 2)
        launched.popen.send_signal(number)
        assert launched.wait() != 0
        assert len(checkpoints(steps.parent)) == 1
        return launched.text


@pytest.mark.slow
def test_ctrl_c_as_typed(small: Path, tmp_path: Path) -> None:
    said = stopped_as_typed(tmp_path, signal.SIGINT)
    assert len(re.findall(r"stopped by SIGINT after step \d of stage 'teacher'; saved in", said)) == 1, said
    run(tmp_path, SMALL, 1)
    assert_equal(small, tmp_path, ["teacher"])


@pytest.mark.slow
def test_sigterm_as_typed_and_going_on_as_told(small: Path, tmp_path: Path) -> None:
    said = stopped_as_typed(tmp_path, signal.SIGTERM)
    assert len(re.findall(r"stopped by SIGTERM after step \d of stage 'teacher'; saved in", said)) == 1, said
    (told,) = re.findall("^To go on: (?:torchrun|.* -m torch.distributed.run) (.*)$", said, re.M)
    assert told == "--nproc-per-node=2 -m flowmap run recipe.toml"
    with torchrun(tmp_path, "run", "recipe.toml") as launched:
        assert launched.wait() == 0, launched.text
        assert "teacher: going on after step" in launched.text
    assert_equal(small, tmp_path, ["teacher"])


# --- errors


def test_a_mistake_is_said_once(tmp_path: Path) -> None:
    code, said = shared(recipe(tmp_path, SMALL.replace("batch = 8", "botch = 8")), "run", "recipe.toml")
    assert code == 2
    assert said.startswith("error: recipe.toml:9: stages.teacher.botch: unknown field 'botch'; allowed: ")
    assert said.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused(tmp_path: Path) -> None:
    code, said = shared(recipe(tmp_path, SMALL), "run", "recipe.toml", *micro(3))
    assert code == 2
    assert said.startswith("error: --set compute.micro_batch=3: compute.micro_batch: stage 'teacher': a batch of 8 ")
    assert (said.count("error:"), said.count("compute.micro_batch = 3")) == (1, 1)
    assert not (tmp_path / "runs/small/teacher").exists()


def test_other_commands_are_not_shared(tmp_path: Path) -> None:
    code, said = shared(recipe(tmp_path, SMALL), "check", "recipe.toml")
    assert (code, said) == (
        2,
        "error: only `flowmap run`, `flowmap sample`, `flowmap evaluate`, `flowmap encode` and `flowmap vbench` are "
        "shared by processes, and this was started as 2; start it without torchrun\n",
    )


def test_an_error_of_one_process_is_said_with_its_number(small: Path, tmp_path: Path) -> None:
    what = "    from flowmap.errors import FlowmapError\n    raise FlowmapError('my part of the data is gone')\n"
    code, said = shared(recipe(tmp_path, SMALL), "run", "recipe.toml", patch=ONLY_SECOND.format(what=what))
    assert code != 0
    tame(said)
    assert said.count("error: process 1: my part of the data is gone\n") == 1
    run(tmp_path, SMALL, 1)
    assert_equal(small, tmp_path, ["teacher"])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("loss.value * float('nan')", "the loss of branch 'flow_matching' of role 'student' is nan"),
        (
            "loss.value.register_hook(lambda g: g * float('inf')) and loss.value",
            "the gradient of branch 'flow_matching' of role 'student' is ",
        ),
    ],
)
def test_one_process_s_non_finite_number_stops_all(bad: str, message: str, small: Path, tmp_path: Path) -> None:
    what = f"""
    from dataclasses import replace
    import flowmap_flow.matching
    right = flowmap_flow.matching.FlowMatching.turns
    share = flowmap.training.loop._share
    from flowmap.interfaces import Loss
    make = Loss.__init__
    def wrong(loss, *args, **options):
        make(loss, *args, **options)
        object.__setattr__(loss, "value", {bad})
    Loss.__init__ = wrong
"""
    code, said = shared(recipe(tmp_path, SMALL), "run", "recipe.toml", patch=ONLY_SECOND.format(what=what))
    assert code == 1
    tame(said)
    assert said.count(f"error: stage 'teacher', step 4: {message}") == 1
    assert said.count("error:") == 1
    assert [line["step"] for line in lines(tmp_path / "runs/small/teacher")] == [1, 2, 3]
    run(tmp_path, SMALL, 1)
    assert_equal(small, tmp_path, ["teacher"])


def test_a_killed_process_ends_the_run_and_another_goes_on(small: Path, tmp_path: Path) -> None:
    what = "    import signal\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    words = ("run", "recipe.toml", "--set", "checkpoints.every=2")
    code, said = shared(recipe(tmp_path, SMALL), *words, patch=ONLY_SECOND.format(what=what))
    assert code == 256 - signal.SIGKILL
    assert said.endswith("stopped; its own message says why, or it was killed (out of memory?)\n")
    tame(said)
    assert [c.step for c in checkpoints(tmp_path / "runs/small/teacher")] == [2]
    said = run(tmp_path, SMALL, 1)
    assert "teacher: going on after step 2" in said
    assert_equal(small, tmp_path, ["teacher"])


# --- all of it


@pytest.mark.slow
@pytest.mark.parametrize("name", ["anyflow_wan_1.3b", "anyflow_far_14b"])
def test_the_rehearsal_of_two_processes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    recipe = Path(__file__).parents[1] / "recipes" / f"{name}.toml"
    with torchrun(tmp_path, "run", str(recipe), "--rehearse") as launched:
        assert launched.wait() == 0, launched.text
        said = launched.text
    tame(said)
    home = f"runs/{name}-rehearsal"
    for once in (
        "✓ stopped by SIGINT after step 2 of stage 'teacher'; saved in",
        "teacher: going on after step 2",
        "✓ teacher: 3 steps in",
        "✓ forward: 3 steps in",
        "✓ on_policy: 3 steps in",
        f"report: {home}/run/report.html",
        f"sample to {home}/sample.mp4",
        "The real run needs",
        "✓ rehearsed in",
    ):
        assert said.count(once) == 1, f"{once}\n{said}"
    folder = tmp_path / home
    assert json.loads((folder / "run/about.json").read_text())["processes"] == 2
    assert "on_policy" in (folder / "exported" / "README.md").read_text()
    assert [line["step"] for line in lines(folder / "run/on_policy")] == [1, 2, 3]


ABANDONED = """
import os
from flowmap.training.processes import Processes
from flowmap.recipe.tables import ComputeConfig
processes = Processes(ComputeConfig(device="cpu"))
processes.wait()
if processes.first:
    os._exit(0)
try:
    processes.wait()
except RuntimeError as error:
    print("stopped" if "by peer" in str(error) else error, flush=True)
os._exit(0)
"""


def test_who_waits_for_a_process_that_has_died_does_not_go_on(tmp_path: Path) -> None:
    assert shared(tmp_path, patch=ABANDONED) == (0, "stopped\n")


def test_processes_that_sample_share_each_sample(tmp_path: Path) -> None:
    preload("flowmap_wan.backbone")
    run(tmp_path, VIDEO, 1)
    wanted = ("sample", "runs/video", "--nfe", "2", "--n", "2")
    code, said = flowmap(tmp_path, *wanted, "--out", "one")
    assert code == 0, said
    code, said = shared(tmp_path, *wanted, "--out", "two", patch=SPY)
    assert code == 0, said
    assert "a second writer" not in said
    assert said.count("two.safetensors: ") == 1
    one, two = (load_file(tmp_path / f"{name}.safetensors")["samples"] for name in ("one", "two"))
    assert float((one - two).abs().max()) < LIMIT
    code, said = shared(tmp_path, *wanted, "--out", "three", number=3)
    assert code == 2
    assert (
        "started as 3 processes, which would share each sample: 3 processes cannot share the 2 attention heads" in said
    )
    assert "use 1 or 2" in said


MEASURED = (
    SMALL
    + """
[evaluation]
teacher = "teacher"
teacher_calls = 2
calls = [1, 2]
samples = 5000
repeats = 2
real = 200
metrics = ["frechet_pixels", { type = "frechet_teacher", space = "pixels" }]
contests = [{ stage = "teacher", samplers = ["euler"] }]
"""
)

MADE = """
import os
import flowmap.use.joint as joint
generate = joint.generate
def told(*args, **named):
    made = generate(*args, **named)
    print("made:", os.environ.get("RANK", "0"), len(made), flush=True)
    return made
joint.generate = told
"""
"""Every process says how many samples it has made."""


def measured(folder: Path) -> bytes:
    return (folder / "runs/small/metrics.jsonl").read_bytes()


@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_samples_of_an_evaluation_are_made_by_all(number: int, tmp_path: Path) -> None:
    """Of 5000 points, three batches in one process, the scores are the same to the bit; so from what was kept."""
    run(tmp_path, MEASURED, 1)
    scores = measured(tmp_path)
    assert len(scores.splitlines()) == 4
    shutil.rmtree(tmp_path / "runs/small/.shelf")
    code, said = shared(tmp_path, "evaluate", "runs/small", "--fresh", number=number, patch=MADE + SPY)
    assert code == 0, said
    assert "a second writer" not in said
    assert measured(tmp_path) == scores
    made = [tuple(map(int, each)) for each in re.findall(r"made: (\d) (\d+)", said)]
    # 10000 + 5000 of the teacher, and 5000 for two numbers of calls, twice.
    assert sum(count for _, count in made) == 35000
    share = {rank: sum(count for who, count in made if who == rank) for rank, _ in made}
    assert all(share[rank] > 0 for rank in range(min(number, 3)))
    (tmp_path / "runs/small/metrics.jsonl").write_bytes(b"".join(scores.splitlines(keepends=True)[1:]))
    code, said = shared(tmp_path, "evaluate", "runs/small", number=number, patch=MADE)
    assert code == 0, said
    assert measured(tmp_path) == scores
