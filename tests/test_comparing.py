"""Specifications of comparisons: what they unfold into, and every way in which one can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowmap.cli import main as cli
from flowmap.comparison.entrants import Comparison
from flowmap.comparison.unfold import read_comparison
from flowmap.errors import FlowmapError
from flowmap.recipe.read import read

SPEC = """name = "small"
against = "map"
seeds = [3, 4]

[budget]
by = "steps"
amount = 30

[recipe]
data = "checkerboard"
backbone = { type = "mlp", width = 8, depth = 1 }

[[recipe.stages]]
name = "teacher"
steps = 6
batch = 8
objective = "flow_matching"

[recipe.evaluation]
teacher = "teacher"
metrics = ["sliced_wasserstein", "frechet_pixels"]
calls = [1, 2]
samples = 16
repeats = 2

[stage]
batch = 8
optimizer = { lr = 1e-2, decay = 0.3 }
roles.student = { from = "teacher" }
roles.teacher = { from = "teacher" }

[[contestants]]
name = "teacher"
stage = "teacher"
samplers = ["euler"]

[[contestants]]
name = "map"
samplers = ["flow_map"]
stages = [{ objective = "flow_map", optimizer = { lr = 2e-2 } }]

[[contestants]]
name = "two"
samplers = ["flow_map", "consistency"]
recipe.backbone.width = 16
stages = [
  { name = "first", objective = { type = "discrete_flow_map", step = 0.125 }, share = 1 },
  { objective = "consistency", roles.student = { from = "first" }, share = 2.0 },
]
"""


def read_text(text: str, here: Path, *overrides: str) -> Comparison:
    (here / "spec.toml").write_text(text)
    return read_comparison([Path("spec.toml")], overrides)[0]


def test_contestants_are_whole_recipes_that_differ_in_what_is_named(here: Path) -> None:
    comparison = read_text(SPEC, here)
    assert comparison.metric == "sliced_wasserstein"
    teacher, one, two = (entrant.recipe for entrant in comparison.entrants)
    assert [r.seeds for r in (teacher, one, two)] == [(3, 4)] * 3
    assert [[s.name for s in r.stages] for r in (teacher, one, two)] == [
        ["teacher"],
        ["teacher", "student"],
        ["teacher", "first", "student"],
    ]
    assert teacher.stages[0] == one.stages[0] == two.stages[0]
    student = one.stages[1]
    # Fields of the template stay beside those that a contestant changes; a role that an objective lacks is left out.
    assert (student.batch, student.optimizer.lr, student.optimizer.decay) == (8, 2e-2, 0.3)
    assert set(student.roles) == {"student"}
    assert set(two.stages[1].roles) == {"student", "teacher"}
    assert two.stages[2].roles["student"].from_ == "first"
    assert (teacher.backbone.model_dump()["width"], two.backbone.model_dump()["width"]) == (8, 16)
    assert [entrant.own for entrant in comparison.entrants] == [
        {},
        {"student": 1.0},
        {"first": 1 / 3, "student": 2 / 3},
    ]


def test_all_are_measured_alike_and_on_the_same_noise(here: Path) -> None:
    evaluations = []
    for entrant in read_text(SPEC, here).entrants:
        evaluation = entrant.recipe.evaluation
        assert evaluation is not None
        assert evaluation.noise == "common"
        evaluations.append(evaluation.model_copy(update={"contests": ()}))
    assert evaluations[0] == evaluations[1] == evaluations[2]


def test_fields_of_a_specification_can_be_set(here: Path) -> None:
    comparison = read_text(SPEC, here, "contestants.map.stages.0.optimizer.lr=0.5", "budget.amount=7", "seeds=[9]")
    assert comparison.entrants[1].recipe.stages[1].optimizer.lr == 0.5
    assert comparison.budget is not None
    assert (comparison.budget.amount, comparison.seeds) == (7, (9,))


def test_every_field_of_the_specification_has_a_description() -> None:
    from flowmap.comparison.specification import BudgetConfig, CompareSpec, ContestantConfig

    for config in (BudgetConfig, CompareSpec, ContestantConfig):
        assert [name for name, field in config.model_fields.items() if not field.description] == []


PROBLEMS = {
    "unknown field": ('against = "map"', 'agianst = "map"', "spec.toml:2: agianst: unknown field 'agianst'"),
    "field of a contestant": (
        'stage = "teacher"\nsamplers',
        'stge = "teacher"\nsamplers',
        "spec.toml:34: contestants.teacher.stge: unknown field 'stge'",
    ),
    "field of a contestant's objective": (
        "step = 0.125",
        "stp = 0.125",
        "spec.toml:47: contestants.two.stages.first.objective.stp: unknown field 'stp'",
    ),
    "field of the template": ("decay = 0.3", "decy = 0.3", "spec.toml:28: stage.optimizer.decy: unknown field 'decy'"),
    "field of the recipe": ("width = 8", "widht = 8", "spec.toml:11: recipe.backbone.widht: unknown field 'widht'"),
    "field of a contestant's recipe": (
        "recipe.backbone.width = 16",
        "recipe.backbone.width = -1",
        "spec.toml:45: contestants.two.recipe.backbone.width: must be",
    ),
    "field that a contestant's own data lack": (
        "recipe.backbone.width = 16",
        'recipe.data = { type = "video_shards" }',
        "spec.toml:45: contestants.two.recipe.data.path: this field is required",
    ),
    "field of the template that a contestant goes without": (
        "recipe.backbone.width = 16",
        "recipe.stages = []",
        "spec.toml:30: stage.roles.teacher.from: unknown stage 'teacher'; allowed: base, first (contestant two, "
        "spec.toml:42)",
    ),
    "field of the recipe that a contestant goes without": (
        "recipe.backbone.width = 16",
        "recipe.stages = []",
        "spec.toml:20: recipe.evaluation.teacher: unknown stage 'teacher'; allowed: first, student (contestant two, "
        "spec.toml:42)",
    ),
    "samples of a contestant's own number": (
        "recipe.backbone.width = 16",
        "recipe.evaluation.samples = 32",
        "spec.toml:45: contestants.two.recipe.evaluation.samples: scores could not be compared with those of 'teacher'",
    ),
    "teacher that it alone is measured by": (
        "recipe.backbone.width = 16",
        'recipe.evaluation.teacher = "first"',
        "spec.toml:45: contestants.two.recipe.evaluation.teacher: scores could not be compared with those of 'teacher'",
    ),
    "data that it alone is measured by": (
        "recipe.backbone.width = 16",
        'recipe.evaluation.data = "digits"',
        "spec.toml:45: contestants.two.recipe.evaluation.data: scores could not be compared with those of 'teacher'; "
        "leave it out, or write it for all",
    ),
    "data of its own, of the first": (
        'samplers = ["euler"]',
        'samplers = ["euler"]\nrecipe.data = "digits"',
        "spec.toml:36: contestants.teacher.recipe.data: scores could not be compared with those of 'map'; leave it out",
    ),
    "unknown objective": (
        'objective = "consistency"',
        'objective = "consistancy"',
        "spec.toml:48: contestants.two.stages.1.objective: unknown objective 'consistancy'",
    ),
    "unknown stage to start from": (
        'from = "first"',
        'from = "fist"',
        "spec.toml:48: contestants.two.stages.1.roles.student.from: unknown stage 'fist'",
    ),
    "unknown sampler": (
        '["flow_map", "consistency"]',
        '["flow_map", "consistent"]',
        "spec.toml:44: contestants.two.samplers.1: unknown sampler 'consistent'",
    ),
    "a sampler that the student cannot have": (
        'samplers = ["euler"]',
        'samplers = ["flow_map"]',
        "spec.toml:35: contestants.teacher.samplers.0: sampler 'flow_map' needs a flow map",
    ),
    "role of no use in the objective": (
        'objective = "flow_map", ',
        'objective = "flow_map", roles.critic = { from = "teacher" }, ',
        "spec.toml:40: contestants.map.stages.0.roles.critic: unknown role 'critic'",
    ),
    "nobody to compare with": ('against = "map"', 'against = "mep"', "Did you mean 'map'?"),
    "unknown metric": ('against = "map"', 'metric = "frechet_pixel"', "spec.toml:2: metric: unknown metric"),
    "two of one name": ('name = "two"', 'name = "map"', "spec.toml:43: contestants.map.name: two contestants are"),
    "reserved name": ('name = "two"', 'name = "shared"', "'shared' has a meaning of its own"),
    "name of a file": (
        'name = "two"',
        'name = "comparison.json"',
        "files of the comparison's folder are called so",
    ),
    "steps": (
        "share = 2.0",
        "steps = 4, share = 2.0",
        "spec.toml:48: contestants.two.stages.1.steps: the budget gives",
    ),
    "shares of some": (", share = 1 }", " }", "spec.toml:47: contestants.two.stages.first: one stage has a share"),
    "no share": ("share = 1 }", "share = 0 }", "contestants.two.stages.first.share: must be at least 1e-06, not 0"),
    "an infinite share": ("share = 1 }", "share = inf }", "stages.first.share: must be a finite number, not inf"),
    "a share in words": ("share = 1 }", 'share = "1" }', "stages.first.share: must be a number, not '1'"),
    "stage without a name": ('name = "first", ', "", "each stage but the last needs a name"),
    "name of the last stage": (
        '{ objective = "consistency"',
        '{ name = "x", objective = "consistency"',
        "spec.toml:48: contestants.two.stages.x.name: the last stage is always called 'student'",
    ),
    "neither": ('stage = "teacher"\nsamplers', "samplers", "give either stages (what it trains) or stage"),
    "no budget": ('[budget]\nby = "steps"\namount = 30\n', "", "nothing says how long to train; add [budget]"),
    "seeds in the recipe": (
        "[recipe]\n",
        "[recipe]\nseeds = [0]\n",
        "spec.toml:10: recipe.seeds: belongs to the comparison",
    ),
    "contests in the recipe": (
        "repeats = 2",
        "repeats = 2\ncontests = []",
        "spec.toml:25: recipe.evaluation.contests: are the contestants",
    ),
    "contests of a contestant": (
        "recipe.backbone.width = 16",
        "recipe.evaluation.contests = []",
        "spec.toml:45: contestants.two.recipe.evaluation.contests: are the contestants",
    ),
    "a name of a contestant's recipe": (
        "recipe.backbone.width = 16",
        'recipe.name = "x"',
        "spec.toml:45: contestants.two.recipe.name: belongs to the comparison",
    ),
    "stages that are none": (
        "recipe.backbone.width = 16",
        "recipe.stages = 3",
        "spec.toml:45: contestants.two.recipe.stages: must be an array of tables",
    ),
    "an evaluation that is none": (
        "recipe.backbone.width = 16",
        "recipe.evaluation = 3",
        "spec.toml:45: contestants.two.recipe.evaluation: must be a table",
    ),
    "more than a budget has": ("amount = 30", "amount = 1e19", "budget.amount: must be at most 1e+18, not 1e+19"),
    "a seed twice": ("seeds = [3, 4]", "seeds = [3, 3]", "spec.toml:3: seeds: a seed is listed twice"),
    "timed side by side": (
        'by = "steps"',
        'by = "seconds"',
        "spec.toml:4: processes: trainings that share the machine cannot be timed against each other",
    ),
    "no evaluation": ("[recipe.evaluation]", "[recipe.unevaluation]", "recipe.unevaluation: unknown field"),
    "no TOML": ("[budget]", "[budget", "spec.toml:5: invalid TOML"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_error(name: str, here: Path) -> None:
    old, new, expected = PROBLEMS[name]
    assert old in SPEC
    text = SPEC.replace(old, new, 1)
    if name == "timed side by side":
        text = text.replace("seeds = [3, 4]", "seeds = [3, 4]\nprocesses = 2")
    with pytest.raises(FlowmapError) as caught:
        read_text(text, here)
    assert expected in str(caught.value)
    assert len(set(str(caught.value).splitlines())) == len(str(caught.value).splitlines())


def test_what_all_contestants_have_in_all_is_bounded(here: Path) -> None:
    many = "".join(
        f'[[contestants]]\nname = "c{n}"\nsamplers = ["flow_map"]\nstages = [{stages}]\n'
        for n, stages in enumerate([", ".join(["{ objective = 'flow_map' }"] * 64)] * 16)
    )
    with pytest.raises(FlowmapError) as caught:
        read_text(SPEC.split("[[contestants]]", maxsplit=1)[0].replace('against = "map"\n', "") + many, here)
    said = "16 contestants x 1 shared stages and 1024 of their own are 1,040 stages, and at most 1,024 are checked"
    assert said in str(caught.value)


def test_what_all_contestants_share_is_refused_once(here: Path) -> None:
    with pytest.raises(FlowmapError) as caught:
        read_text(SPEC.replace("steps = 6", "steps = 0"), here)
    assert str(caught.value) == "spec.toml:15: recipe.stages.teacher.steps: must be above 0, not 0"


def test_what_is_wrong_in_the_template_is_told_once_and_there(here: Path) -> None:
    """Whatever else of the same table a contestant has of its own."""
    with pytest.raises(FlowmapError) as caught:
        read_text(SPEC.replace("decay = 0.3", "decay = 3"), here)
    (line,) = str(caught.value).splitlines()
    assert line.startswith("spec.toml:28: stage.optimizer.decay: must be at most ")


def test_a_recipe_alone_is_no_comparison(here: Path) -> None:
    (here / "r.toml").write_text('name = "r"\n[[stages]]\nname = "teacher"\n')
    with pytest.raises(FlowmapError, match="is a recipe; give a specification with contestants, or several recipes"):
        read_comparison([Path("r.toml")])


def test_a_comparison_alone_is_no_recipe(here: Path) -> None:
    (here / "spec.toml").write_text(SPEC)
    with pytest.raises(FlowmapError, match=r"spec.toml: is a comparison, not a recipe; flowmap compare spec.toml"):
        read(Path("spec.toml"))


def test_data_that_are_not_here_are_a_warning_or_an_error(here: Path) -> None:
    text = SPEC.replace('data = "checkerboard"', 'data = { type = "video_shards", path = "nowhere", frames = 5 }')
    (here / "spec.toml").write_text(text)
    with pytest.raises(FlowmapError, match=r"spec.toml:\d+: recipe.data.path: ") as caught:
        read_comparison([Path("spec.toml")], absent="error")
    assert "warning" not in str(caught.value)


def test_check_knows_a_comparison(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "spec.toml").write_text(SPEC)
    with pytest.raises(SystemExit) as done:
        cli.app(["check", "spec.toml"])
    assert done.value.code == 0
    assert "spec.toml: teacher, map, two" in capsys.readouterr().out
