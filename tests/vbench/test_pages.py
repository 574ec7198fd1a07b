"""The rows of VBench on the pages of a run and of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowmap.errors import FlowmapError
from flowmap.report.rendering import rendered
from flowmap.report.vbench import boards
from flowmap.vbench.dimensions import T2V
from flowmap.vbench.protocol import Protocol
from flowmap.vbench.record import Record, row, total_of, write_record


def record(score: float, without: str = "") -> Record:
    values = {f"p{p}-{v}": score + 0.01 * (v - 2) for p in range(3) for v in range(5)}
    per_cent = {clip: 100 * value for clip, value in values.items()}
    of = {name: per_cent if name == "imaging_quality" else values for name in T2V.dimensions if name != without}
    scores = dict.fromkeys(of, score)
    whole = Protocol(T2V, (), "list.json", "")
    return Record(
        suite="VBench",
        made_of={"prompts": "wan.txt"},
        protocol={},
        environment={},
        rows={name: row(T2V, name, score, own) for name, own in of.items()},
        total=total_of(whole, scores, of),
        missing={without: f"{without}: no"} if without else {},
        not_asked=[],
    )


def test_a_part_of_the_list_has_no_total() -> None:
    values = {f"p-{v}": 0.5 for v in range(5)}
    of = dict.fromkeys(T2V.dimensions, values)
    scores = dict.fromkeys(T2V.dimensions, 0.5)
    assert total_of(Protocol(T2V, (), "list.json", ""), scores, of) is not None
    assert total_of(Protocol(T2V, (), "list.json", "", subset=11), scores, of) is None


def test_a_page_shows_whose_rows_lie_in_its_folder(tmp_path: Path) -> None:
    for label, found in (("one/seed-0", record(0.8)), ("two/seed-0", record(0.7, "scene"))):
        write_record(tmp_path / label / "vbench", found)
    (board,) = boards(tmp_path)
    assert list(board.records) == ["one/seed-0", "two/seed-0"]
    assert board.dimensions == tuple(T2V.dimensions)
    assert board.cell("two/seed-0", "scene") is None
    loader = "{% from 'vbench.html.j2' import vbench_section %}{{ vbench_section(boards) }}"
    page = _page(tmp_path, loader)
    assert "80.00<span" in page
    assert "70.00<span" in page
    assert '<th scope="col">two/seed-0</th>' in page
    assert "two/seed-0 has no total: No score for scene." in page
    assert page.count("<b>total</b>") == 1


def _page(folder: Path, template: str) -> str:
    """What a page of that template shows of the rows in `folder`."""
    import jinja2

    from flowmap.report import rendering

    templates = jinja2.FileSystemLoader(Path(rendering.__file__).parent / "templates")
    pages = jinja2.Environment(loader=templates, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return pages.from_string(template).render(boards=boards(folder))


def test_a_run_has_one_and_most_have_none(tmp_path: Path) -> None:
    assert boards(tmp_path) == []
    write_record(tmp_path / "vbench", record(0.8))
    assert list(boards(tmp_path)[0].records) == [tmp_path.name]


def test_a_damaged_record_is_said(tmp_path: Path) -> None:
    (tmp_path / "vbench.json").write_text("{")
    with pytest.raises(FlowmapError, match=r"vbench\.json .*; score again, which writes it anew"):
        rendered("report.html.j2", {}, tmp_path)
