"""Recipes and comparisons with random things wrong, or huge, in them: `mutated_recipes(seed, count)`.

Each begins as a shipped one or as a small one of random components, which is right. Then a few of its fields, of all
that the configuration classes know, become an end of their range, or something that no field takes; and now and then a
table gets a key, loses one, or is put where none belongs.
"""

from __future__ import annotations

import copy
import datetime
import itertools
import re
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel

from flowmap.comparison.specification import CompareSpec
from flowmap.errors import FlowmapError
from flowmap.plugin import FromCatalogue
from flowmap.plugin.catalogue import catalogue
from flowmap.recipe.recipe import Recipe
from flowmap.schema.bounds import Range

ROOT = Path(__file__).parents[1]

Table = dict[str, Any]
Slot = tuple[tuple[str | int, ...], Any, tuple[Any, ...]]
"""A field that can be set: where, and the type and marks that its class gives it."""

_HEX = "@hexadecimal@"  # a number of 40,000 bits, which only a hexadecimal one can be in TOML
_LONG = 20_000

HOSTILE: tuple[Callable[[], Any], ...] = (
    *(lambda v=v: v for v in (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 2**64, 10**18, 10**400, -(10**400))),
    *(lambda v=v: v for v in (0.5, -0.0, 1e308, -1e308, 5e-324, 1e-30, float("inf"), float("-inf"), float("nan"))),
    *(
        lambda v=v: v
        for v in (True, "", "10", " ", "\0", "a\nb\x1b[31m", "../../..", "~nobody/x", "/", "base", "ü" * 200)
    ),
    *(lambda v=v: v for v in ("random", "./a/b", "a/b", "x" * 100_000, _HEX)),
    lambda: datetime.date(2024, 2, 29),
    lambda: datetime.time(1, 2, 3),
    lambda: datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC),
    list,
    dict,
    lambda: [[]],
    lambda: [[[1]], "a"],
    lambda: [1] * _LONG,
    lambda: ["euler"] * _LONG,
    lambda: [{}] * 1000,
    lambda: [{"type": "x"}],
    lambda: {"type": "flow_map"},
    lambda: {"type": 3},
    lambda: {"a": {"b": {"c": [1]}}},
    lambda: {f"key {n}": n for n in range(2000)},
)
"""What no field takes, or hardly any."""

KEYS = ("", "a.b", "a\nb", "\x1b[0m", "ü", "type", "from", "x" * _LONG, "0", "__class__", "'", '"', "{0}", "[bold]")
"""Odd ones."""


def mutated_recipes(seed: int, count: int) -> Iterator[str]:
    """`count` texts of recipes and comparisons, the same for the same `seed`."""
    for raw, random in _bases(f"{seed}", count):
        for _ in range(random.choice((1, 1, 2, 3, 5))):
            _mutate(raw, random)
        yield tomli_w.dumps(raw).replace(f'"{_HEX}"', hex(1 << 40_000))


def mutated_settings(seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` recipes or comparisons that are right, each with a `--set` that may be wrong."""
    for raw, random in _bases(f"set {seed}", count):
        path, annotation, marks = random.choice(list(_slots(CompareSpec if "contestants" in raw else Recipe, raw)))
        words = [str(part) for part in path]
        if random.random() < 0.1:
            words[random.randrange(len(words))] = random.choice(KEYS)
        value = _extreme(annotation, marks, random) if random.random() < 0.5 else random.choice(HOSTILE)()
        # Neither needs to be TOML: what is none is text.
        written = str(value) if isinstance(value, dict) else tomli_w.dumps({"v": value}).removeprefix("v = ")
        written = written.strip().replace(f'"{_HEX}"', hex(1 << 40_000))
        yield tomli_w.dumps(raw), f"{'.'.join(words)}={written}"


def _bases(seed: str, count: int) -> Iterator[tuple[Table, Random]]:
    """`count` recipes and comparisons that are right, each with randomness of its own."""
    shipped = [tomllib.loads(path.read_text()) for path in sorted((ROOT / "recipes").glob("*.toml"))]
    for number in range(count):
        random = Random(f"{seed}/{number}")
        yield copy.deepcopy(random.choice(shipped)) if random.random() < 0.5 else _small(random), random


def _small(random: Random) -> Table:
    """A small recipe of random components, most of which fit each other."""
    data: Any = random.choice(["digits", "checkerboard", "gaussian", {"type": "digits", "conditional": True}])
    backbone: Any = random.choice(["mlp", "gaussian"])
    if random.random() < 0.4:
        wan = {"weights": "random", "architecture": {"channels": 1, "text_dim": 16}}
        data = {"type": "moving_digits"}
        backbone = {"type": "wan21", **wan}
        if random.random() < 0.5:
            backbone = {"type": "far_wan21", "chunks": [3, 3, 3], **wan}
    names = catalogue().names("objective")
    stages = [{"name": "s0", "steps": 10, "batch": 8, "objective": "flow_matching"}]
    for number in range(1, random.choice((1, 2, 4))):
        objective: Any = random.choice(names)
        if objective in ("backward_simulation", "dmd2", "self_forcing"):
            objective = {"type": objective, "forward": "flow_map"}
        roles = {"student": {"from": f"s{number - 1}"}}
        stages.append({"name": f"s{number}", "steps": 10, "batch": 64, "objective": objective, "roles": roles})
    evaluation = {
        "teacher": "s0",
        "metrics": ["frechet_pixels", "sliced_wasserstein"],
        "contests": [{"stage": "s0", "samplers": ["euler", "heun"]}],
    }
    return {"name": "small", "data": data, "backbone": backbone, "stages": stages, "evaluation": evaluation}


def _mutate(raw: Table, random: Random) -> None:
    """Change one thing of `raw`."""
    slots = list(_slots(CompareSpec if "contestants" in raw else Recipe, raw))
    kind = random.random()
    if kind < 0.6 and slots:
        path, annotation, marks = random.choice(slots)
        # Evenly over what there is to say, not over how often it is said.
        numbers = [slot for slot in slots if _is_number(slot[1])]
        if numbers and random.random() < 0.6:
            path, annotation, marks = random.choice(numbers)
        _set(raw, path, _extreme(annotation, marks, random))
    elif kind < 0.85 and slots:
        _set(raw, random.choice(slots)[0], random.choice(HOSTILE)())
    else:
        places = list(_places(raw))
        parent, key = random.choice(places)
        change = random.randrange(4)
        if change == 0:
            del parent[key]
        elif change == 1:
            parent[key] = random.choice(HOSTILE)()
        elif change == 2 and isinstance(parent, dict):
            parent[random.choice(KEYS)] = random.choice(HOSTILE)()
        elif change == 3:
            parent[key] = copy.deepcopy(random.choice(places)[0])
    if not raw:
        raw["name"] = "empty"


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Every table and array in `node`, with every key of it."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node[:100])):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _set(raw: Any, path: Sequence[str | int], value: Any) -> None:
    """Set `path`, through tables that are made, and over whatever stands in the way."""
    node = raw
    for part, following in itertools.pairwise(path):
        inside = node[part] if isinstance(node, list) else node.get(part)
        if isinstance(inside, str) and isinstance(following, str):
            inside = {"type": inside}
        if not isinstance(inside, dict | list) or (isinstance(inside, list) and not isinstance(following, int)):
            inside = {}
        node[part] = inside
        node = inside
    node[path[-1]] = value


def _slots(model: type[BaseModel], raw: Any, path: tuple[str | int, ...] = ()) -> Iterator[Slot]:
    """Every field that `model` knows where `raw` stands for it, and those of the tables and components inside it."""
    for name, info in model.model_fields.items():
        field = info.alias or name
        if field == "type":
            continue
        here = (*path, field)
        inside = raw.get(field) if isinstance(raw, dict) else None
        yield here, info.annotation, tuple(info.metadata)
        yield from _inner(info.annotation, info.metadata, inside, here)
    if model is CompareSpec and isinstance(raw, dict):
        yield from _slots(Recipe, raw.get("recipe"), ("recipe",))


def _inner(annotation: Any, marks: Sequence[Any], inside: Any, path: tuple[str | int, ...]) -> Iterator[Slot]:
    kinds = [mark.base.kind for mark in marks if isinstance(mark, FromCatalogue)]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if kinds:
        named = inside.get("type") if isinstance(inside, dict) else inside
        if isinstance(named, str) and len(catalogue().claims(kinds[0], named)) == 1:
            yield from _slots(catalogue().find(kinds[0], named), inside, path)
    elif origin is typing.Annotated:
        yield from _inner(arguments[0], arguments[1:], inside, path)
    elif origin is tuple and isinstance(inside, list):
        for index, part in enumerate(inside[:20]):
            element = arguments[0] if arguments[-1] is Ellipsis else arguments[min(index, len(arguments) - 1)]
            yield (*path, index), element, ()
            yield from _inner(element, (), part, (*path, index))
    elif origin is dict and isinstance(inside, dict):
        for key, part in inside.items():
            yield from _inner(arguments[1], (), part, (*path, key))
    elif origin in (typing.Union, types.UnionType):
        yield from _inner(arguments[0], (), inside, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel) and not hasattr(annotation, "kind"):
        yield from _slots(annotation, inside, path)


def _is_number(annotation: Any) -> bool:
    if annotation in (int, float):
        return True
    return typing.get_origin(annotation) is not Literal and any(map(_is_number, typing.get_args(annotation)))


def _extreme(annotation: Any, marks: Sequence[Any], random: Random) -> Any:
    """Something that the field takes, as far as its type says: mostly the largest that there is."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    kinds = [mark.base.kind for mark in marks if isinstance(mark, FromCatalogue)]
    if kinds:
        found: Any = random.choice(catalogue().names(kinds[0]))
    elif origin is typing.Annotated:
        found = _extreme(arguments[0], arguments[1:], random)
    elif origin in (typing.Union, types.UnionType):
        found = _extreme(arguments[0], marks, random)
    elif origin is Literal:
        found = random.choice(arguments)
    elif origin is tuple and arguments[-1] is Ellipsis:
        most = min([mark.max_length for mark in marks if hasattr(mark, "max_length")], default=8)
        found = [_extreme(arguments[0], (), random) for _ in range(random.choice((1, 2, 8, most)))]
    elif origin is tuple:
        found = [_extreme(part, (), random) for part in arguments]
    elif isinstance(annotation, type):
        found = _plain_extreme(annotation, marks, random)
    else:
        found = {}
    return found


def _plain_extreme(kind: type, marks: Sequence[Any], random: Random) -> Any:
    """The same, of a class."""
    found: Any = {}
    if kind in (int, float):
        mark = next((mark for mark in marks if isinstance(mark, Range)), Range(0, 10, "of nobody"))
        between = mark.least + (mark.most - mark.least) * random.random() ** 8
        value = random.choice((mark.most, mark.most, mark.least, between))
        found = round(value) if kind is int else float(value)
    elif kind is bool:
        found = random.random() < 0.5
    elif kind is str:
        found = random.choice(("s0", "base", "a", "./nowhere", "s1"))
    elif issubclass(kind, BaseModel):
        fields = [(name, info) for name, info in kind.model_fields.items() if name != "type"]
        chosen = [(name, info) for name, info in fields if info.is_required() or random.random() < 0.3]
        found = {info.alias or name: _extreme(info.annotation, info.metadata, random) for name, info in chosen}
    return found


def outcome(text: str, file: Path, *settings: str) -> list[str]:
    """What `flowmap check` says of `text`, line by line, written to `file`, with these `--set`; nothing if all is well.

    Anything but a FlowmapError gets through.
    """
    from flowmap.comparison.unfold import read_comparison
    from flowmap.recipe.read import is_comparison, read

    file.write_text(text)
    try:
        asked = read_comparison([file], settings, "warning") if is_comparison(file) else read(file, settings, "warning")
    except FlowmapError as error:
        return str(error).splitlines()
    return asked[1]


WHERE = re.compile(r"(r\.toml(:\d+)?|--set .*): ")
MOST_LINES, MOST_CHARACTERS = 201, 2000


def ill_said(told: Sequence[str], file: str = "r.toml") -> str:
    """What is wrong with what was said of the recipe `r.toml`: that it names no place, or that it is too much."""
    lines = [line.replace(file, "r.toml", 1) for line in told]
    if nowhere := [line for line in lines if not WHERE.match(line)]:
        return f"names no place: {nowhere[0][:MOST_CHARACTERS]}"
    if len(lines) > MOST_LINES or max(map(len, lines), default=0) > MOST_CHARACTERS:
        return f"{len(lines)} lines, one of {max(map(len, lines))} characters"
    return ""
