"""From a run or weights to a row of VBench: the clips, their scores, the record; or from clips that are there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from flowmap.console.commands import process
from flowmap.errors import FlowmapError
from flowmap.files.folder import locked, make_folder, writing
from flowmap.files.texts import MOST_RECORD, TextError, is_file, parse_json, read_bytes
from flowmap.launch.judging import refuse_device, refuse_misplaced, refuse_unfiltered
from flowmap.report.vbench import FOLDER
from flowmap.use.wish import Wish
from flowmap.vbench.clips import Clips, look_at
from flowmap.vbench.dimensions import VIDEOS, suite
from flowmap.vbench.environment import Environment, needed
from flowmap.vbench.intervals import Values
from flowmap.vbench.names import ENDING, clip_name, refuse_blind
from flowmap.vbench.prompts import Prompts, read_prompts
from flowmap.vbench.protocol import SEED_RULE, Clip, Protocol, part, read_protocol
from flowmap.vbench.record import Record, Row, row, total_of, write_record
from flowmap.vbench.scoring import Judge
from flowmap.vbench.totals import missing
from flowmap.version import __version__
from flowmap.weights.runs import is_run

STATIC = 25
"""Videos of a prompt where flickering is to be scored on the static ones among them."""

_I2V_INFO = "vbench2_beta_i2v/vbench2_i2v_full_info.json"
_CROPS = "vbench2_beta_i2v/data/crop"
_SHAPES = {"1-1": 1.0, "8-5": 1.6, "7-4": 1.75, "16-9": 16 / 9}
"""Width over height of the images that the benchmark has been cropped to."""


@final
@dataclass(frozen=True)
class Order:
    """What is to be judged, and by what. What is None is the package's own, or as the weights' authors have it.

    `videos` are clips that are there already; `info` the list of prompts, `prompts` augmented ones; `repository` a
    clone of Vchitect/VBench, for images. `out` gets clips, scores and `vbench.json`.
    """

    out: Path
    environment: Path
    i2v: bool = False
    info: Path | None = None
    prompts: Path | None = None
    dimensions: tuple[str, ...] = ()
    subset: int | None = None
    flickering: int = VIDEOS
    videos: Path | None = None
    repository: Path | None = None
    resolution: str | None = None
    device: str = "cpu"
    download: bool = False

    @property
    def clips(self) -> Path:
        """The folder of the clips."""
        return self.videos or self.out / "clips"


def default_out(where: str | None, videos: Path | None) -> Path:
    """Where the results go if nobody says: into a run, where its page finds them, beside clips, or below `vbench`."""
    if videos is not None:
        return videos.with_name(f"{videos.resolve().name}-{FOLDER}")
    assert where is not None
    return Path(where, FOLDER) if is_run(Path(where)) else Path(FOLDER, Path(where).resolve().name)


def vbench(where: str | None, wish: Wish, order: Order) -> Record | None:
    """Make the clips of `order` from `where` (none are made if `order.videos` has them), score them, write the record.

    Clips are shared by all processes; the first alone scores, and the others get None. Raises FlowmapError for what
    cannot be begun. What a single dimension lacks is in the record, without a total.
    """
    environment = needed(order.environment)
    refuse_misplaced(order.out, order.videos)
    refuse_device(order.device)
    whole = read_protocol(_info(order, environment), suite(order.i2v))
    prompts = read_prompts(order.prompts, whole)
    chosen = part(whole, order.dimensions or tuple(whole.suite.dimensions), order.flickering, order.subset)
    if where is not None and order.videos is None:
        refuse_blind(order.clips, (entry.prompt for entry in chosen.entries))
        _produce(where, wish, order, chosen, prompts)
    if process()[0]:
        return None
    with writing(order.out):
        make_folder(order.out)
    with locked(order.out, "name another folder with --out"):
        return _judged(order, environment, whole, chosen, _made_of(wish, order, prompts, where))


def _info(order: Order, environment: Environment) -> Path:
    if order.info is not None:
        return order.info
    if not order.i2v:
        return environment.info
    if order.repository is None:
        raise FlowmapError(
            "the list of prompts for images is in no package: name a clone of Vchitect/VBench (--repository FOLDER), "
            f"or its {_I2V_INFO} (--info FILE)"
        )
    return order.repository / _I2V_INFO


def _produce(where: str, wish: Wish, order: Order, protocol: Protocol, prompts: Prompts) -> None:
    """Make the clips that are not there yet, by all processes. The one place that knows who makes them."""
    from flowmap.use.produce import Piece, produce

    pieces = [
        Piece(clip.name, prompts.text(clip.entry), clip.seed, _image(clip, wish, order))
        for clip in protocol.clips(wish.seed)
    ]
    made = produce(where, wish, pieces, order.clips)
    if made.ending != ENDING:
        raise FlowmapError(f"{where} makes images, and VBench judges videos")


def _image(clip: Clip, wish: Wish, order: Order) -> Path | None:
    """The image that a clip begins with, cropped to the shape of the clips; None for text."""
    if not order.i2v:
        return None
    sized = wish.height and wish.width
    resolution = order.resolution or (
        _nearest(wish.width / wish.height) if sized and wish.width and wish.height else None
    )
    if order.repository is None or resolution is None or clip.entry.image is None:
        raise FlowmapError(
            "videos from images need the benchmark's own (--repository, a clone of Vchitect/VBench with its data/crop) "
            f"and the shape they are cropped to: --height and --width, or --resolution, one of {', '.join(_SHAPES)}"
        )
    return order.repository / _CROPS / resolution / clip.entry.image


def _nearest(aspect: float) -> str:
    return min(_SHAPES, key=lambda name: abs(_SHAPES[name] - aspect))


def _judged(
    order: Order, environment: Environment, whole: Protocol, chosen: Protocol, made_of: dict[str, Any]
) -> Record:
    """Look at the clips, score each dimension that can be, and write the record."""
    asked = order.dimensions or tuple(whole.suite.dimensions)
    known = [clip_name(entry.prompt, video) for entry in whole.entries for video in range(STATIC)]
    wanted = dict.fromkeys(name for dimension in asked for name in chosen.names(dimension))
    make_folder(order.out / "scores")
    clips = look_at(order.clips, list(wanted), known, order.out / "scores" / "clips.json")
    judge = Judge(
        environment,
        order.out / "scores",
        order.device,
        order.repository,
        _resolution(order, clips),
        order.download,
    )
    rows: dict[str, Row] = {}
    values: dict[str, Values] = {}
    failed: dict[str, str] = {}
    for dimension in asked:
        try:
            if order.videos is None:
                refuse_unfiltered(dimension, order.flickering, order.clips)
            result = judge.score(chosen, clips, dimension)
        except FlowmapError as error:
            failed[dimension] = str(error)
            continue
        values[dimension] = result.values
        rows[dimension] = row(whole.suite, dimension, result.score, result.values)
    return _recorded(order, environment, chosen, clips, made_of, rows, values, failed)


def _recorded(
    order: Order,
    environment: Environment,
    chosen: Protocol,
    clips: Clips,
    made_of: dict[str, Any],
    rows: dict[str, Row],
    values: dict[str, Values],
    failed: dict[str, str],
) -> Record:
    scores = {name: each.score for name, each in rows.items()}
    part_of = (
        f"only {len(chosen.entries)} of the {chosen.suite.entries:,} entries were asked for (--subset {chosen.subset})"
    )
    record = Record(
        suite=chosen.suite.name,
        made_of=made_of | {"clips": str(order.clips), "frames, height, width": clips.form and list(clips.form)},
        protocol={
            "list": chosen.source,
            "sha256": chosen.digest,
            "entries": len(chosen.entries),
            "of": chosen.suite.entries,
            "videos of a prompt": VIDEOS,
            "videos of a prompt of temporal_flickering": chosen.flickering,
        },
        # Without torch there is one device.
        environment={**environment.versions, "device": order.device if "torch" in environment.versions else "cpu"},
        rows=rows,
        total=total_of(chosen, scores, values),
        missing=failed,
        not_asked=[name for name in missing(chosen.suite, scores) if name not in failed],
        incomparable=[] if chosen.subset is None else [part_of],
    )
    write_record(order.out, record)
    return record


def _resolution(order: Order, clips: Clips) -> str:
    """The shape of the images that clips are held against: of the clips, and not another that was asked for."""
    if not order.i2v or clips.form is None:
        return order.resolution or "1-1"
    _, height, width = clips.form
    found = _nearest(width / height)
    if order.resolution not in (None, found):
        raise FlowmapError(
            f"--resolution {order.resolution}: the clips have {height} x {width} pixels, which is {found}"
        )
    return found


def _made_of(wish: Wish, order: Order, prompts: Prompts, where: str | None) -> dict[str, Any]:
    """How the clips were made: as their own record has it, and what is known beside."""
    said: dict[str, Any] = {"flowmap": __version__}
    if order.videos is None:
        said |= {"from": where, "prompts": prompts.source, "prompts sha256": prompts.digest}
        said |= {"seeds": SEED_RULE, "S": wish.seed}
    beside = order.clips.with_name(order.clips.name + ".json")
    if is_file(beside):
        try:
            content = read_bytes(beside, MOST_RECORD)
            # Prompt and seed of each are in the file itself, which the digest names.
            kept = {key: value for key, value in dict(parse_json(content)).items() if key != "pieces"}
        except (OSError, TextError, TypeError, ValueError) as error:
            raise FlowmapError(f"{beside} {error}; it says how the clips were made: make them again", code=1) from None
        return said | {"record": kept, "record sha256": hashlib.sha256(content).hexdigest()}
    return said | {"record": "none: how the clips were made is not known"}
