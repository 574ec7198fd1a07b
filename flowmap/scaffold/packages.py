"""Write a package of one's own: `flowmap new backbone NAME` and the like."""

from __future__ import annotations

import ast
import json
import os
import string
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from flowmap.errors import FlowmapError
from flowmap.files.whole import write_whole_folder
from flowmap.plugin import catalogue as installed
from flowmap.plugin.catalogue import Component
from flowmap.plugin.version import VERSIONED
from flowmap.recipe.read import read
from flowmap.scaffold import example
from flowmap.scaffold.closure import UncopyableError
from flowmap.scaffold.copies import as_it_is, copied
from flowmap.scaffold.kinds import KINDS, one_of
from flowmap.scaffold.names import class_name, distribution_name, refuse_unusable
from flowmap.scaffold.origins import Origin, needed_beside, origin_of

_TEMPLATES = Path(__file__).parent / "templates"
_SUFFIX = ".template"
_TESTS = "tests"
_OURS = "Apache-2.0"


@final
@dataclass(frozen=True)
class _Beginning:
    """What a package begins as: its modules below its folder, its test, its recipe, and what the README says of it."""

    modules: Mapping[str, str]
    test: str
    changing: str
    example: example.Example
    dependencies: tuple[str, ...] = ("flowmap",)
    origin: str = ""
    licence: str = f'license = "{_OURS}"'
    licence_words: str = f"{_OURS}, as the template that this package began as; say in `pyproject.toml` what is yours."
    licence_files: Mapping[str, str] = field(default_factory=dict)


def write_package(kind: str, name: str, source: str | None = None) -> Path:
    """Write the package `name` with a component of `kind` into a folder of that name in the current one.

    It begins as a copy of the installed component `source`, if one is named. Returns the folder. Raises FlowmapError if
    the name is none or taken, or if `source` is not installed or cannot be copied.
    """
    refuse_unusable(name, installed.catalogue())
    folder = Path(name)
    if os.path.lexists(folder):
        raise FlowmapError(f"{folder} is there already, and is not overwritten; choose another name")
    begun = _from_template(kind, name) if source is None else _from_copy(kind, name, _named(kind, source))
    files = _files(kind, name, begun)

    def fill(part: Path) -> None:
        for path, text in files.items():
            (part / path).parent.mkdir(parents=True, exist_ok=True)
            (part / path).write_text(text, encoding="utf-8")

    write_whole_folder(folder, fill)
    return folder


def _files(kind: str, name: str, begun: _Beginning) -> dict[str, str]:
    """The text of each file of the package, by its path."""
    words = {
        **_words(kind, name),
        **begun.example.words(),
        "dependencies": json.dumps(begun.dependencies),
        "table": "\n".join(_rows(name, begun.modules)),
        "changing": begun.changing.strip(),
        "origin": begun.origin,
        "licence": begun.licence,
        "licence_words": begun.licence_words,
    }
    common = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        ".gitignore": "gitignore",
        ".github/workflows/test.yml": "test.yml",
        f"{name}.toml": "recipe.toml",
    }
    return {
        **{path: _rendered(f"common/{template}", words) for path, template in common.items()},
        **{f"{name}/{path}": text for path, text in begun.modules.items()},
        f"{_TESTS}/test_{name}.py": begun.test,
        **begun.licence_files,
    }


def _from_template(kind: str, name: str) -> _Beginning:
    words = _words(kind, name)
    found = {path.name.removesuffix(_SUFFIX): path for path in sorted((_TEMPLATES / kind).glob(f"*{_SUFFIX}"))}
    texts = {file: _rendered(f"{kind}/{file}", words) for file in found}
    test, changing = texts.pop("test.py"), texts.pop("changing.md")
    return _Beginning(texts, test, changing, example.of_template(kind, name))


def _named(kind: str, source: str) -> Component:
    """The installed component `source`. Raises FlowmapError if there is none, or more than one."""
    catalogue = installed.catalogue()
    try:
        catalogue.find(kind, source)
    except LookupError as error:
        raise FlowmapError(str(error)) from None
    return catalogue.claims(kind, source)[0]


def _from_copy(kind: str, name: str, component: Component) -> _Beginning:
    try:
        return _copy(name, component)
    except UncopyableError as error:
        others = [c for c in installed.catalogue().components if c.kind == kind and c.name != component.name]
        possible = ", ".join(sorted(c.name for c in others if _can_be_copied(name, c)))
        raise FlowmapError(
            f"{kind} '{component.name}' cannot be copied: {error}; "
            f"these can be: {possible or 'none'}. Without '--from' the package has a small one to change"
        ) from None


def _can_be_copied(name: str, component: Component) -> bool:
    try:
        _copy(name, component)
    except UncopyableError:
        return False
    return True


def _copy(name: str, component: Component) -> _Beginning:
    """A copy of the component. Raises UncopyableError if there can be none."""
    config, catalogue = as_it_is(component), installed.catalogue()
    copy, shown = copied(component, name), example.of_copy(config, name, catalogue)
    _try_recipe(component, example.of_copy(config, component.name, catalogue))
    origin: Origin = origin_of(component)
    words = {
        **_words(component.kind, name),
        "source": component.name,
        "owner": component.distribution,
        "home": copy.home,
        "config": copy.config,
        "spec": _written(shown),
    }
    test = _rendered("copy/test.py", words)
    if shown.spec is None:
        test = test.replace("    spec = None\n", "").replace("from flowmap.plugin import SampleSpec\n", "")
    return _Beginning(
        {"__init__.py": _rendered("copy/__init__.py", words), **copy.files},
        test,
        _rendered("copy/changing.md", words),
        shown,
        ("flowmap", *needed_beside(copy.others)),
        f"\n\nIt began as a copy of `{component.name}` of {component.distribution}.",
        origin.line,
        origin.words,
        origin.files,
    )


def _try_recipe(component: Component, shown: example.Example) -> None:
    """Check the recipe of a copy with the original, which is installed."""
    words = {**_words(component.kind, component.name), **shown.words()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.toml"
        path.write_text(_rendered("common/recipe.toml", words), encoding="utf-8")
        try:
            read(path)
        except FlowmapError as error:
            told = str(error).split("\n")[0].removeprefix(str(path)).lstrip(":0123456789 ")
            raise UncopyableError(f"the recipe that a copy begins with does not go with it ({told})") from None


def _written(shown: example.Example) -> str:
    """The specification of an example's samples, as code."""
    spec = shown.spec
    if spec is None:
        return "None"
    more = "".join(f", {key}={value!r}" for key in ("classes", "text", "text_dim") if (value := getattr(spec, key)))
    return f"SampleSpec({spec.shape!r}{more})"


def _words(kind: str, name: str) -> dict[str, str]:
    """What every template may name."""
    return {
        "name": name,
        "Name": class_name(name),
        "dist": distribution_name(name),
        "kind_words": KINDS[kind],
        "a_kind": one_of(kind),
        "A_kind": one_of(kind).capitalize(),
        "group": VERSIONED,
        "about": f"A teacher and its student, with the {KINDS[kind]} `{name}`.",
    }


def _rows(name: str, modules: Mapping[str, str]) -> Iterator[str]:
    """A row of a table for each module: what its docstring begins with."""
    for path, text in modules.items():
        told = " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
        yield f"| `{name}/{path}` | {told.split('. ')[0].rstrip('.').replace('|', chr(92) + '|')} |"


def _rendered(template: str, words: Mapping[str, str]) -> str:
    text = (_TEMPLATES / f"{template}{_SUFFIX}").read_text("utf-8")
    return string.Template(text).substitute(words)
