"""Every number of our configurations is bounded on both sides, with a reason; and what the bounds refuse and let in."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field, ValidationError

from flowmap.plugin import Config
from flowmap.recipe.read import read
from flowmap.schema import bounds
from flowmap.schema.bounds import PathText, Range, shown

from .conftest import TINY, edited
from .doc_scripts import doc_script

REFERENCE = doc_script("reference")
OWNERS: dict[str, type[Config]] = REFERENCE.owners()

Problem = Callable[..., str]


class _Some(Config):
    """What a stranger's configuration may look like, and ours may not."""

    plain: int = 0
    bounded: Annotated[int, Range(0, 3, "four are none")] = 0
    half: Annotated[int, Field(ge=0)] | None = None
    inside: tuple[tuple[float, ...], ...] = ()
    by_name: dict[str, Annotated[float, Range(0, 1, "a share")]] = Field(default_factory=dict)
    pair: tuple[int, Annotated[int, Range(0, 1, "a bit")]] = (0, 0)


def test_the_walk_finds_numbers_wherever_they_are() -> None:
    found = [(n.field, n.type, n.range is not None) for n in REFERENCE.numbers(_Some)]
    assert found == [
        ("plain", int, False),
        ("bounded", int, True),
        ("half", int, False),
        ("inside", float, False),
        ("by_name", float, True),
        ("pair", int, False),
        ("pair", int, True),
    ]


@pytest.mark.parametrize("owner", OWNERS)
def test_every_number_of_ours_is_bounded_on_both_sides_for_a_reason(owner: str) -> None:
    bare = [n.field for n in REFERENCE.numbers(OWNERS[owner]) if n.range is None]
    assert not bare, f"give these a named type of flowmap/schema/bounds.py: {owner}{', '.join(bare)}"


def test_the_walk_is_over_something() -> None:
    numbers = [(owner, n.field) for owner, model in OWNERS.items() for n in REFERENCE.numbers(model)]
    assert {("", "stages.optimizer.betas"), ("comparison ", "budget.amount"), ("backbone far_wan21 ", "chunks")} <= {
        *numbers
    }


def test_every_list_and_name_of_ours_has_a_greatest_length() -> None:
    lengths = {
        f"{owner}{field}": any(hasattr(mark, "max_length") for mark in info.metadata)
        for owner, model in OWNERS.items()
        for field, info in REFERENCE.lists(model)
    }
    assert {"stages", "evaluation.contests", "contestants"} <= {name.split(" ")[-1] for name in lengths}
    assert not [name for name, bounded in lengths.items() if not bounded]


@pytest.mark.parametrize("name", [name for name in dir(bounds) if hasattr(getattr(bounds, name), "__metadata__")])
def test_both_ends_of_a_range_are_what_it_says(name: str) -> None:
    marked = getattr(bounds, name)
    (mark,) = marked.__metadata__
    if not isinstance(mark, Range):
        return
    one = type("One", (Config,), {"__annotations__": {"value": marked}, "__module__": __name__})

    def fits(value: float) -> bool:
        try:
            one.model_validate({"value": value})
        except ValidationError:
            return False
        return True

    whole = marked.__origin__ is int
    below, over = (
        (mark.least - 1, mark.most + 1)
        if whole
        else (math.nextafter(mark.least, -math.inf), math.nextafter(mark.most, math.inf))
    )
    assert mark.least < mark.most
    assert (fits(mark.least), fits(mark.most)) == (not mark.above, not mark.below)
    assert (fits(below), fits(over)) == (False, False)
    assert fits(0) == (mark.or_zero or mark.least < 0 or (mark.least == 0 and not mark.above))
    if not whole:
        assert not any(map(fits, (math.nan, math.inf, -math.inf, 10**400)))
        assert fits(5e-324) == (mark.least <= 0)
    assert mark.why
    assert shown(mark.least) in mark.text()


WRONG = {
    "steps": ("stages.teacher.steps=100000001", "must be at most 100,000,000, not 100000001"),
    "a number of 400 digits": (f"stages.teacher.steps={10**400}", "must be at most 100,000,000, not 1000"),
    "one of thousands of bits": (f"stages.teacher.steps={hex(1 << 40000)}", "not a number of 40,001 bits"),
    "the same for a float": (
        f"stages.teacher.clip={hex(1 << 40000)}",
        "must be a number that floating point has, not a",
    ),
    "infinity": ("stages.teacher.clip=inf", "must be a finite number, not inf"),
    "a subnormal": ("stages.teacher.optimizer.lr=5e-324", "must be at least 1e-12, not 5e-324"),
    "minus zero": ("stages.teacher.optimizer.lr=-0.0", "must be at least 1e-12, not -0.0"),
    "a probability that is none": (
        "stages.student.objective.drop_condition=1e-9",
        "drop_condition: must be 0 or at least 1e-06, not 1e-09",
    ),
    "betas": ("stages.teacher.optimizer.betas=[0.9, 1.0]", "betas.1: must be below 1, not 1.0"),
    "text": ('stages.teacher.steps="10"', "must be a whole number, not '10'"),
    "a date": ("stages.teacher.steps=2024-01-01", "must be a whole number, not 2024-01-01"),
    "a nested list": ("stages.teacher.optimizer.betas=[[0.9], 0.9]", "betas.0: must be a number, not an array"),
    "calls": ("evaluation.calls=[0]", "calls.0: must be above 0, not 0"),
    "many seeds": (f"seeds={list(range(1001))}", "seeds: must have at most 1000 elements, not 1001"),
    "a long name": (f"name={'a' * 101}", "name: must have at most 100 characters, not 101"),
    "a long word": (f"evaluation.{'x' * 10_000}=1", f"unknown field '{'x' * 60}...'; allowed"),
    "samples that no machine holds": (
        "evaluation.samples=10000000 evaluation.data={type='gaussian',dimension=1048576} data={type='gaussian',"
        "dimension=1048576}",
        "evaluation.samples: 10,000,000 samples x 1,048,576 numbers of each (data) are 10,485,760,000,000",
    ),
    "a sample that no machine holds": (
        "data={type='video_shards',path='a',frames=65536,height=32768,width=32768}",
        "data: a sample of colours 3 x frames 65,536 x height 32,768 x width 32,768 has 211,106,232,532,992 numbers",
    ),
    "a patch of none": (
        "backbone={type='wan21',weights='random',architecture={patch=[1,0,2]}}",
        "backbone.architecture.patch.1: must be at least 1, not 0",
    ),
    "a path of one long name": (
        f"evaluation.teacher=a/{'b' * 256}",
        "teacher: a path has at most 4096 bytes, and each",
    ),
    "a path with NUL": ('evaluation.teacher="a/\\u0000"', "teacher: has a control character in it"),
    "more at once than a batch": (
        "compute.micro_batch=16",
        "compute.micro_batch: stage 'teacher': a batch of 8 is not whole micro-batches of compute.micro_batch = 16; "
        "use a batch of 16",
    ),
    "more micro-batches than are gone through": (
        "compute.micro_batch=1 stages.teacher.batch=131072",
        "compute.micro_batch: a step would have 131,072 micro-batches (batch / micro_batch), and at most 65,536",
    ),
    "tokens that cannot be shared": (
        "compute.sequence=2",
        "compute.sequence: backbone 'mlp' cannot share the tokens of a sample among processes; leave it out",
    ),
    "blocks that are not there": (
        "compute.compile=true",
        "compute.compile: networks of backbone 'mlp' have no blocks to compile; leave it out",
    ),
    "what is no part of a batch": (
        "compute.micro_batch=3",
        "micro-batches of compute.micro_batch = 3; use a batch of 6 or 9",
    ),
}


@pytest.mark.parametrize(("settings", "message"), WRONG.values(), ids=WRONG.keys())
def test_what_is_out_of_bounds_is_said_in_one_line(settings: str, message: str, problem: Problem) -> None:
    said = problem(TINY, *(settings.split(" ") if " stages" in settings or " data" in settings else [settings]))
    assert message in said
    assert "\n" not in said
    assert len(said) < 2000


def test_keys_with_odd_characters_are_shown_in_one_line(problem: Problem) -> None:
    said = problem('"a\\u001b\\nb" = 1\n' + TINY)
    assert said.startswith("r.toml:1: a\\x1b\\nb: unknown field 'a\\x1b\\nb'; allowed: name")
    assert "\n" not in said


IDLE = {
    "warmup_zero": ("stages.teacher.optimizer.warmup_zero=true", "stages.teacher.optimizer.warmup_zero"),
    "of a role": (
        "stages.student.roles.student.optimizer={warmup_zero=true}",
        "stages.student.roles.student.optimizer.warmup_zero",
    ),
}


@pytest.mark.parametrize(("setting", "field"), IDLE.values(), ids=IDLE.keys())
def test_a_warm_up_that_there_is_not(setting: str, field: str, here: Path) -> None:
    (here / "r.toml").write_text(TINY)
    _, (warning,) = read(Path("r.toml"), [setting])
    assert warning.endswith(f"{field}: warning: has no effect: there is no warmup")
    assert read(Path("r.toml"), [setting, setting.replace("warmup_zero=true", "warmup=1")])[1] == []


LABELLED = edited(('type = "digits"', 'type = "digits"\nconditional = true'))


@pytest.mark.parametrize(("probability", "steps", "warned"), [(1e-5, 10, True), (1e-5, 1000, False), (0.1, 1, False)])
def test_what_is_dropped_so_rarely_that_it_never_is(probability: float, steps: int, warned: bool, here: Path) -> None:
    (here / "r.toml").write_text(LABELLED)
    settings = [f"stages.teacher.objective.drop_condition={probability}", f"stages.teacher.steps={steps}"]
    assert ["most likely it comes about in none" in w for w in read(Path("r.toml"), settings)[1]] == [True] * warned


def test_guidance_is_not_learned_from_a_null_that_never_comes(problem: Problem) -> None:
    settings = [f"stages.student.objective.{field}" for field in ("cfg_scale=2", "drop_condition=1e-5")]
    assert "nothing teaches if no condition is ever dropped" in problem(LABELLED, *settings)


LONG = """
name = "long"
data = { type = "moving_digits", frames = 65536 }
backbone = { type = "wan21", weights = "random", architecture = { channels = 1, text_dim = 16 } }
stages = [{ name = "teacher", steps = 1, batch = 8, objective = "flow_matching" }]
[evaluation]
teacher = "teacher"
metrics = ["frechet_pixels"]
contests = [{ stage = "teacher", samplers = ["euler"], context = 65536 }]
"""


def test_a_batch_that_no_machines_hold_is_told_by_its_product(problem: Problem) -> None:
    said = problem(LONG.replace(", context = 65536", ""), "data.size=64", "stages.teacher.batch=8192")
    assert said == (
        "--set stages.teacher.batch=8192: stages.teacher.batch: a batch of 8,192 samples x 268,435,456 numbers of each "
        "(data) has 2,199,023,255,552, and at most 1,099,511,627,776 fit in memory; use 4,096"
    )


def test_many_frames_to_choose_from_are_not_all_told(problem: Problem) -> None:
    assert "possible are 1, 2, 3" in (said := problem(LONG))
    assert "..., 65535; nearest: 65534 or 65535" in said
    assert len(said) < 400


class _Place(Config):
    path: PathText


@pytest.mark.parametrize("path", ["a", "", "/", "~/a", "a/../ü", "a" * 255, "/".join(["a" * 255] * 15), "~"])
def test_paths_that_may_be(path: str) -> None:
    assert _Place(path=path).path == path


@pytest.mark.parametrize("path", ["a\0", "\x1b[31m", "a" * 256, "ü" * 128, "a/" * 2049, "~nobody-is-called-so/a"])
def test_paths_that_cannot_be(path: str) -> None:
    with pytest.raises(ValidationError):
        _Place(path=path)
