"""Published weights bring their sampler, and every field that a recipe or a command sets otherwise is named."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from flowmap_samplers.configs import LcmConfig
from flowmap_wan.released import RELEASES
from flowmap_wan.twin import make_twin
from PIL import Image
from safetensors import safe_open

from flowmap.errors import FlowmapError
from flowmap.recipe.layout import make_plan
from flowmap.recipe.read import read
from flowmap.recipe.recipe import Recipe
from flowmap.use.lineup import Lineup
from flowmap.use.opened import Opened, open_wished
from flowmap.use.rows import entries_of, wanted
from flowmap.use.sample import sample
from flowmap.use.wish import Wish

from .rival_folders import one_file, two_experts

PAIR = "CausalWan2.2-I2V-A14B-Preview-Diffusers"
NAMES = [
    "self_forcing_dmd",
    "autoregressive_checkpoint",
    "Wan2.1-T2V-14B-CausVid",
    "krea-realtime-video-14b",
    "rCM_Wan2.1_T2V_1.3B_480p",
    PAIR,
]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_twin(tmp_path_factory.mktemp("encoders") / "twin")


@pytest.fixture(scope="module")
def folders(encoders: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Tiny weights under every published name, and a causal student under none."""
    home = tmp_path_factory.mktemp("published")
    made = {name: one_file(encoders, home / name, name, "net." if "rCM" in name else "model.") for name in NAMES[:-1]}
    made["of_nobody"] = one_file(encoders, home / "of_nobody", "mine")
    return made | {PAIR: two_experts(encoders, home / PAIR), "pair": two_experts(encoders, home / "pair")}


RECIPE = """
name = "r"
[data]
type = "video_shards"
path = "none"
frames = {frames}
height = 32
width = 32
fps = 16.0
[backbone]
type = "{type}"
weights = "{folder}"
{fields}
[evaluation]
calls = [2]
samples = 4
repeats = 2
teacher = "base"
teacher_calls = {calls}
teacher_sampler = {teacher}
metrics = ["sliced_wasserstein"]
[[evaluation.contests]]
stage = "base"
{samplers}
"""


def recipe(folder: Path, place: Path, sampler: Any = None, **fields: Any) -> tuple[Recipe, list[str]]:
    """One that measures `folder` as its base, by `sampler` if one is given; and its warnings about that."""
    own = RELEASES.get(folder.name)
    like = own or RELEASES[PAIR if folder.name == "pair" else NAMES[0]]
    settings = dict(like.sampler)
    named = f"[{sampler if isinstance(sampler, str) else inline(sampler)}]"
    told = {
        "frames": 25 if like.type == "causal_wan22" else 21,
        "type": like.type,
        "folder": str(folder),
        "fields": "\n".join(f"{k} = {json.dumps(v)}" for k, v in {**(own.fields if own else {}), **fields}.items()),
        "calls": len(settings["times"]),
        "teacher": inline(settings),
        "samplers": "" if sampler is None else f"samplers = {named}",
    }
    file = place / "r.toml"
    file.write_text(RECIPE.format(**told))
    found, warnings = read(file)
    return found, [line for line in warnings if "contests.0.samplers" in line]


def inline(fields: Mapping[str, Any] | None) -> str:
    body = ", ".join(f"{key} = {json.dumps(value)}" for key, value in {"type": "lcm", **(fields or {})}.items())
    return f"{{ {body} }}"


@pytest.mark.parametrize("name", NAMES)
def test_a_contest_that_names_no_sampler_has_that_of_the_weights(
    name: str, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    """In the recipe as it is kept, and at the calls of its list, whatever `calls` are."""
    found, warned = recipe(folders[name], tmp_path)
    assert found.evaluation is not None
    assert found.evaluation.contests[0].samplers == (LcmConfig(**dict(RELEASES[name].sampler)),)
    assert warned == []
    lineup = Lineup(make_plan(found, tmp_path), None)  # type: ignore[arg-type]  # nothing is computed
    (entry,) = entries_of(lineup, found.evaluation, 0)
    assert {calls for _, calls, _ in wanted(entry, found.evaluation)} == {len(RELEASES[name].times)}
    assert Recipe.model_validate(found.as_tables()) == found


def others(name: str) -> Iterator[tuple[str, dict[str, Any], str, str]]:
    """A field, a sampler that has it otherwise, what the release has, what is given."""
    release = RELEASES[name]
    own = dict(release.sampler)
    half = [round(t / 2, 3) for t in release.times]
    yield "times", own | {"times": half}, "times = [", f"here it has times = [{half[0]:.6g}, "
    yield "shift", own | {"shift": 2.0}, f"shift = {release.shift:g}", "here it has shift = 2"
    yield "levels", own | {"levels": "whole"}, f"levels = '{own['levels']}'", "here it has levels = 'whole'"
    start, other = ("scaled", "noise") if "start" in own else ("noise", "scaled")
    yield "start", own | {"start": other}, f"start = '{start}'", f"here it has start = '{other}'"
    if "time_input" in own:
        yield "time_input", own | {"time_input": "exact"}, "time_input = 'bfloat16'", "time_input = 'exact'"
    if "warped" in own:
        yield "warped", own | {"warped": True}, "warped = false", "here it has warped = true"
    if "boundary" not in own:
        yield "boundary", own | {"boundary": 875.0}, "boundary = none", "here it has boundary = 875"


FIELDS = [(name, *each) for name in NAMES for each in others(name)]
CALLED = [f"{name}-{field}" for name, field, *_ in FIELDS]


@pytest.mark.parametrize(("name", "field", "sampler", "theirs", "ours"), FIELDS, ids=CALLED)
def test_every_field_that_is_not_the_authors_is_named(
    name: str,
    field: str,
    sampler: dict[str, Any],
    theirs: str,
    ours: str,
    folders: Mapping[str, Path],
    tmp_path: Path,
) -> None:
    _, (warned,) = recipe(folders[name], tmp_path, sampler)
    assert f"'base' ({RELEASES[name].repository}) is published with " in warned
    assert theirs in warned
    assert ours in warned
    assert warned.endswith("; leave the sampler out")


@pytest.mark.parametrize("name", NAMES)
def test_what_the_authors_have_is_not_warned_of(name: str, folders: Mapping[str, Path], tmp_path: Path) -> None:
    for settings in (RELEASES[name].sampler, *RELEASES[name].also):
        assert recipe(folders[name], tmp_path, dict(settings))[1] == []
    # Nor what is written with six digits.
    rounded = [float(f"{time:.7g}") for time in RELEASES[name].times]
    assert recipe(folders[name], tmp_path, dict(RELEASES[name].sampler) | {"times": rounded})[1] == []


@pytest.mark.parametrize("name", NAMES)
def test_another_sampler_is_named_beside_theirs(name: str, folders: Mapping[str, Path], tmp_path: Path) -> None:
    _, (warned,) = recipe(folders[name], tmp_path, '"consistency"')
    if name == PAIR:
        assert "'base' has boundary = 875, and sampler 'consistency' knows no boundary" in warned
    else:
        assert f"({RELEASES[name].repository}) is published with sampler 'lcm' (times = [" in warned
        assert "not with 'consistency'" in warned


def test_of_weights_that_nobody_knows_no_list_is_wrong(folders: Mapping[str, Path], tmp_path: Path) -> None:
    causvid = dict(RELEASES["autoregressive_checkpoint"].sampler)
    for sampler in (causvid, '"consistency"'):
        assert recipe(folders["of_nobody"], tmp_path, sampler)[1] == []


@pytest.mark.parametrize("name", [PAIR, "pair"])
def test_the_boundary_of_a_pair_is_that_of_its_sampler(name: str, folders: Mapping[str, Path], tmp_path: Path) -> None:
    """Of anybody's pair: the first network predicts the point where the second takes over."""
    own = dict(RELEASES[PAIR].sampler)
    without = {key: value for key, value in own.items() if key != "boundary"}
    said = "'base' has boundary = {}, and sampler 'lcm' has boundary = {}; set boundary = {} here"
    for backbone, sampler, wrong in ((875, without, "none"), (900, own, "875"), (875, own | {"boundary": 900}, "900")):
        _, (warned,) = recipe(folders[name], tmp_path, sampler, boundary=backbone)
        assert said.format(backbone, wrong, backbone) in warned
    found, warned_of = recipe(folders[name], tmp_path, boundary=900)
    assert warned_of == []
    assert found.evaluation is not None
    assert found.evaluation.contests[0].samplers == (LcmConfig(**own | {"boundary": 900}),)
    published = [f.message for f in found.backbone.findings(found.data.spec()) if f.field == ("boundary",)]
    told = (
        "900: these weights (FastVideo/CausalWan2.2-I2V-A14B-Preview-Diffusers) are published with 875; leave this out"
    )
    assert published == ([told] if name == PAIR else [])


def test_weights_that_are_not_here_leave_their_sampler_open(folders: Mapping[str, Path], tmp_path: Path) -> None:
    recipe(folders[NAMES[0]], tmp_path)
    file = tmp_path / "r.toml"
    file.write_text(file.read_text().replace('stage = "base"', 'stage = "others/self_forcing_dmd"'))
    found, warnings = read(file)
    assert found.evaluation is not None
    assert found.evaluation.contests[0].samplers == ()
    assert not [line for line in warnings if "samplers" in line]


SIZE: Mapping[str, int] = {"length": 9, "height": 16, "width": 16}


def opened(folder: Path, **fields: Any) -> Opened:
    return open_wished(str(folder), Wish(prompts=("a red ball",), **{**SIZE, **fields}))


def test_a_number_of_calls_takes_the_list_that_is_published_for_it(folders: Mapping[str, Path]) -> None:
    """Krea's server takes 5 steps, or 4 for speed."""
    krea = folders["krea-realtime-video-14b"]
    for calls, times in ((None, (1000, 750, 500, 250, 0)), (5, (1000, 750, 500, 250, 0)), (4, (1000, 666, 333, 0))):
        found = opened(krea, calls=calls)
        assert found.sampler == LcmConfig(times=times, shift=5, levels="nearest")
        assert (found.calls, found.doubt) == (len(times), None)
    with pytest.raises(FlowmapError) as caught:
        opened(krea, calls=3)
    assert str(caught.value) == (
        "--nfe 3: these weights come with lists of times for 5 or 4 calls; leave it out, or name another list in a "
        "recipe that measures them: samplers = [{ type = 'lcm', times = [...] }]"
    )


def test_sampling_says_what_the_authors_do_otherwise(folders: Mapping[str, Path]) -> None:
    assert "is published with sampler 'lcm'" in str(opened(folders[NAMES[0]], sampler="consistency", calls=4).doubt)
    length = {"length": 13}
    assert "has boundary = 875" in str(opened(folders[PAIR], sampler="consistency", calls=4, **length).doubt)


def test_guidance_of_what_jumps_names_no_sampler_that_it_has_no_velocity_for(folders: Mapping[str, Path]) -> None:
    with pytest.raises(FlowmapError) as caught:
        opened(folders[NAMES[0]], cfg_scale=3.0)
    assert str(caught.value).endswith("cannot be guided (the guidance of training is in it); leave it out")


def test_an_image_for_what_never_saw_one_is_warned_of(folders: Mapping[str, Path], tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "first.png")
    rcm, out = folders["rCM_Wan2.1_T2V_1.3B_480p"], tmp_path / "x"
    wish = Wish(prompts=("a red ball",), number=1, **SIZE)
    _, told = sample(str(rcm), Wish(**{**vars(wish), "image": tmp_path / "first.png"}), out)
    assert f"warning --image: {rcm} never learned to go on from given frames" in told
    files, told = sample(str(rcm), wish, out)
    assert "warning" not in told
    with safe_open(files[-1], "pt") as file:
        facts = file.metadata()
    times = [*(time / 1000 for time in RELEASES[rcm.name].times), 0.0]
    assert json.loads(facts["times"]) == pytest.approx(times, rel=1e-12)
    assert json.loads(facts["sampler settings"])["start"] == "scaled"
