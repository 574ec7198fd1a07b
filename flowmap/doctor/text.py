"""A diagnosis in words: what is wrong, what each recipe misses, and a block of plain text for a bug report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from flowmap.doctor.examine import Diagnosis
from flowmap.doctor.machine import Device
from flowmap.doctor.private import cleaned
from flowmap.doctor.readiness import Readiness

_GB = 1e9
BEGIN, END = "--- for a bug report, from here ---", "--- to here ---"


def recipe_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    """The name of each recipe, and what it misses."""
    return [(recipe.name, cleaned(_state(recipe))) for recipe in diagnosis.recipes]


def advice(diagnosis: Diagnosis) -> list[str]:
    """What to type to know more, or to have more: a sentence each."""
    found = []
    if any(recipe.misses for recipe in diagnosis.recipes):
        found.append("flowmap check NAME says how to get what a recipe misses; run NAME --rehearse needs none of it")
    for extra, lacking in diagnosis.extras.items():
        if lacking:
            found.append(f"pip install 'flowmap[{extra}]' adds {lacking}")
    return found


def block(diagnosis: Diagnosis) -> str:
    """What to paste into a bug report: plain text without colours, frames, names of home folders or secrets."""
    return "\n".join([BEGIN, *(cleaned(line) for line in _lines(diagnosis)), END])


def _lines(diagnosis: Diagnosis) -> Iterator[str]:
    machine = diagnosis.machine
    for problem in diagnosis.wrong:
        yield f"WRONG     {problem}"
    yield from _filled("versions", _pairs({**diagnosis.versions, **machine.libraries}))
    yield f"taken     {machine.taken}"
    for device in machine.devices:
        yield f"device    {_device(device)}"
    memory = "" if machine.memory is None else f", {machine.memory / _GB:.0f} GB of memory"
    yield f"machine   {machine.cores} cores, {machine.threads} threads{memory}"
    for remark in machine.remarks:
        yield f"remark    {remark}"
    if machine.variables:
        yield from _filled("variables", _pairs(machine.variables, "="))
    for place in diagnosis.places:
        free = "" if place.free is None else f", {place.free / _GB:.0f} GB free"
        yield f"place     {place.what}: {place.folder}, {place.holds}{free}"
    yield from _filled(
        "extras", (f"{name}: {'lacks ' + text if text else 'yes'}" for name, text in diagnosis.extras.items())
    )
    yield from _filled("trackers", _pairs(diagnosis.trackers))
    for plugin in diagnosis.plugins:
        counted = ", ".join(f"{number} {kind}" for kind, number in plugin.components.items())
        yield f"plugin    {plugin.distribution}: {counted or 'nothing'}"
        for reason in plugin.broken:
            yield f"broken    {plugin.distribution}: {reason}"
        for remark in plugin.remarks:
            yield f"remark    {plugin.distribution}: {remark}"
    for recipe in diagnosis.recipes:
        for folder in recipe.encoded:
            yield f"encoded   {folder}, of {recipe.name}"
    yield from _filled("ready", (recipe.name for recipe in diagnosis.recipes if not (recipe.misses or recipe.wrong)))
    for recipe in diagnosis.recipes:
        if recipe.misses or recipe.wrong:
            yield f"recipe    {recipe.name}: {_state(recipe)}"


def _state(recipe: Readiness) -> str:
    if recipe.wrong:
        return f"cannot be read: {recipe.wrong}"
    return f"misses {', '.join(recipe.misses)}" if recipe.misses else "ready"


def _device(device: Device) -> str:
    memory = "" if device.memory is None else f", {device.memory / _GB:.0f} GB"
    attention = " ".join(device.attention) or "none"
    return f"{device.name}{memory}, bf16 {'yes' if device.bf16 else 'no'}, attention in bf16: {attention}"


def _pairs(named: Mapping[str, str], sign: str = " ") -> Iterator[str]:
    return (f"{name}{sign}{text}" for name, text in named.items())


def _filled(label: str, words: Iterable[str]) -> Iterator[str]:
    """One line of them, if there are any."""
    if joined := ", ".join(words):
        yield f"{label:<9} {joined}"
