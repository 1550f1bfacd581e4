"""The pages without a browser: what is on them, that nothing from rows is markup, and links."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from pandas import DataFrame, concat
from table_rows import ANP, SCORES, VICTIM, row

from sau_bench.benchmark.report.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    Scale,
    learning_curves,
    styles_of,
    trade_off,
)
from sau_bench.benchmark.report.figures import limits_of, looks
from sau_bench.benchmark.report.lines import lines_of
from sau_bench.benchmark.report.page import Value
from sau_bench.benchmark.report.read import read_rows
from sau_bench.benchmark.report.remarks import Source
from sau_bench.benchmark.report.render import METRICS
from sau_bench.benchmark.report.tables import select
from sau_bench.benchmark.report.write import report

SOURCE = Source("grid <1>", "run it", "report it", "../x.yaml", {"x.yaml": "a: <b>\n"})
HOSTILE = "a \"b\", <script>alert(1)</script> & 'c' </td>"


class Page(HTMLParser):
    """What a test asks of a page: elements with their attributes, texts of cells, ids, links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts = 0
        self.text = ""
        self.heads: list[str] = []
        self._in_head = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self.scripts += tag == "script"
        if tag == "th":
            self._in_head = True
            self.heads.append("")

    def handle_endtag(self, tag):
        self._in_head &= tag != "th"

    def handle_data(self, data):
        self.text += data
        if self._in_head:
            self.heads[-1] += data

    def all(self, tag, attribute):
        return [
            found[attribute] for name, found in self.elements if name == tag and attribute in found
        ]


@pytest.fixture(scope="module")
def rows():
    grid = [
        row(a, d, *pair, seed=seed, note=f"note of {d}" if d == "FT" else "")
        for a, line in SCORES.items()
        for d, pair in line.items()
        for seed in (0, 1)
    ]
    failed = row("LF", "No Defense", "", "", status="failed", note=HOSTILE, step=0, racc="")
    odd = row("BadNets", HOSTILE, 0.85, 0.5, key="odd key%", warning=HOSTILE)
    clean = row("", "", 0.95, "", kind="clean", key="clean", victim="", racc="")
    return [*grid, failed, odd, clean]


@pytest.fixture(scope="module")
def page(rows, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sau_bench.benchmark.report.figures.draw", lambda *arguments: {})
        return made(tmp_path_factory.mktemp("page"), rows)


def made(folder, rows, **more):
    DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    files = report(folder, {}, source=more.pop("source", SOURCE), **more)
    assert [file.name for file in files[-2:]] == ["report.html", "report.md"]
    return Page((folder / "report.html").read_text("utf-8"))


def test_text_of_rows_never_becomes_markup(page):
    assert page.scripts == 1
    assert page.text.count(HOSTILE) >= 4  # label, choice, warning, note
    assert "a: <b>" in page.text and "grid <1>" in page.text
    assert not [tag for tag, _ in page.elements if tag in ("b", "iframe", "object")]


def test_a_page_needs_nothing_but_itself(page):
    addresses = [*page.all("img", "src"), *page.all("a", "href"), *page.all("link", "href")]
    addresses += page.all("use", "href")
    assert addresses and all(address.startswith(("data:", "#")) for address in addresses)
    assert not page.all("script", "src")


def test_every_link_has_its_place_and_names_are_unique(page):
    names = [found["id"] for _, found in page.elements if "id" in found]
    assert len(names) == len({*names})
    targets = {link[1:] for link in page.all("a", "href") + page.all("use", "href")}
    assert targets and targets <= {*names}
    assert {*page.all("button", "aria-controls")} <= {*names}
    assert "key-odd-key-" in names


def test_every_cell_and_every_run_is_there(page, rows):
    entries = re.findall(r"key-[\w-]+|cell-\d+", " ".join(page.all("tbody", "id")))
    cells = {(r["attack"], r["defense"]) for r in rows}
    gone = {("LF", d) for d in ("SAU", "FT", HOSTILE)} | {("WaNet", HOSTILE)}
    assert len(entries) == len(cells | gone)
    for r in rows:
        assert r["key"] in page.text
    assert "2 not ok or with a warning" not in page.text  # missing cells count as well
    assert "6 not ok or with a warning" in page.text


def test_a_cell_names_its_config_unless_rows_of_others_were_merged(rows, tmp_path):
    for source in (SOURCE, replace(SOURCE, merged=True)):
        page = made(tmp_path, rows, source=source)
        assert ("Config" in page.heads) != source.merged
        assert ("from rows of run it and others." in page.text) == source.merged


def test_tables_have_captions_and_headers_with_a_scope(page):
    order = [tag for tag, _ in page.elements]
    assert order.count("table") == order.count("caption")
    assert all(following == "caption" for tag, following in pairwise(order) if tag == "table")
    heads = [found for tag, found in page.elements if tag == "th"]
    assert heads and all("scope" in head for head in heads)
    buttons = page.all("button", "class")
    assert buttons.count("opens") == len(page.all("tr", "id"))


@pytest.mark.parametrize(
    ("value", "sort"),
    [
        (Value.of("a,b"), "a,b"),
        (Value.of("12.50 ± 1.00†", 12.5), "12.5"),
        (Value.of("-", np.nan), ""),
        (Value.of("failed", np.nan), ""),
        (Value.of("0.00", 0.0), "0"),
        (Value.of("100.00", 100.0), "100"),
    ],
)
def test_numbers_are_sorted_by_their_value_and_missing_ones_by_nothing(value, sort):
    assert value.sort == sort


def test_lines_have_means_and_the_properties_of_each_run(rows, tmp_path):
    DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    every = read_rows(tmp_path / "rows.csv")
    selected = select(every[every["kind"] != "clean"], {})
    lines = [*lines_of(selected, every[every["kind"] == "clean"], [*METRICS])]
    (ft,) = [line for line in lines if (line.attack, line.defense) == ("WaNet", "FT")]
    assert (ft.scores["acc"].value, ft.scores["der"].value) == (90.0, 70.0)
    assert ft.keys == ("WaNetFT0", "WaNetFT1") and ft.runs == ("Seed 0", "Seed 1")
    known = dict(ft.properties)
    assert known["Note"] == ("note of FT", "note of FT") and "Warning" not in known
    assert known["ACC"] == ("90.00 % of 10,000 images",) * 2
    assert known["May use"] == ("5 % of the training set, clean",) * 2
    (lost,) = [line for line in lines if (line.attack, line.defense) == ("LF", "No Defense")]
    assert lost.status == "failed" and np.isnan(lost.scores["acc"].value)
    assert lines[-1].defense == "trained on clean data" and lines[-1].scores["acc"].value == 95


def test_columns_choose_the_metrics_of_tables_and_pages(rows, tmp_path):
    only = made(tmp_path, rows, shown=["acc", "der"])
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "### ACC" in text and "### DER" in text
    assert "### ASR" not in text and "R-ACC" not in text
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert names == {"der"} and not (tmp_path / "tables" / "asr.md").exists()
    assert only.heads[only.heads.index("Seconds") - 4 :][:4] == ["Defense", "Attack", "ACC", "DER"]


def test_panels_have_the_same_limits_and_every_point(rows):
    every = DataFrame([r for r in rows if r["attack"] in SCORES])
    selected = select(every, {})
    styles = styles_of(looks(every))
    lines = [*lines_of(selected, every[:0], [*METRICS])]
    limits = limits_of(every, selected)
    chart = trade_off(selected, lines, styles, limits)
    assert [panel.title for panel in chart.panels] == ["BadNets", "WaNet"]
    assert chart.panels[0].ticks_across == chart.panels[1].ticks_across
    by_name = {point.says.split(":")[0]: point for point in chart.panels[0].points}
    assert by_name["SAU"].y > by_name["No Defense"].y and by_name["FT"].x > by_name["SAU"].x
    again = every[every["kind"] == "rounds"].assign(step=2, acc=lambda runs: runs["acc"] - 0.01)
    curves = learning_curves(concat([every, again]), styles, limits)
    assert len(curves.panels) == 4
    assert all(panel.level is not None for panel in curves.panels)
    assert styles["No Defense"].colour == "currentColor"


def curved(*rows):
    every = DataFrame(rows)
    return learning_curves(every, styles_of(looks(every)), limits_of(every, select(every, {})))


def test_panels_draw_spread_and_lines_where_figures_do():
    runs = [
        row("LF", name, acc - 0.1 * (name == "EP"), 0.5, seed=seed, step=step)
        for seed, acc in enumerate((0.8, 0.84))
        for name, steps in (("No Defense", [0]), ("FT", [1, 2]), ("EP", [1]))
        for step in steps
    ]
    chart = curved(*runs)
    acc = chart.panels[0]
    assert {curve.method for curve in acc.curves} == {"FT"}
    assert {point.method for point in acc.points} == {"FT", "EP"}
    scale = (acc.ticks_up[0][0] - acc.ticks_up[-1][0]) / (
        float(acc.ticks_up[-1][1]) - float(acc.ticks_up[0][1])
    )
    low, high = (float(end.split()[1]) for end in acc.points[0].whiskers[1:].split("L"))
    assert low - high == pytest.approx(2 * scale * 100 * np.std([0.8, 0.84], ddof=1), abs=0.2)
    assert "round 1: ACC 82.00 ± 2.83" in acc.points[0].says
    assert "Scored once, a mark without a line: EP." in chart.note
    ends = [place for place, _ in acc.ticks_across]
    assert ends[0] > LEFT and ends[-1] < WIDTH - RIGHT  # their texts are not cut
    assert "mean ± standard deviation over n = 2 seeds" in chart.note
    assert curved(*(run for run in runs if run["step"] != 2)) is None


def test_a_broken_model_does_not_flatten_a_panel_and_is_named():
    victim = row("LF", "No Defense", 0.9, 1.0, step=0)
    runs = [row("LF", name, 0.9, 0.5, step=step) for name in ("FT", "FP") for step in (1, 2, 3)]
    chart = curved(victim, *runs, row("LF", "NC", 0.1, 0.5))
    acc = chart.panels[0]
    assert float(acc.ticks_up[0][1]) > 50
    assert max(point.y for point in acc.points) == HEIGHT - BOTTOM
    assert "lowest ACC: NC 10.0" in chart.note


def test_scales_are_linear_and_have_their_ticks_inside():
    scale = Scale(70, 90, 0, 200)
    assert (scale(70), scale(80), scale(90), scale(95)) == (0, 100, 200, 200)
    assert [text for _, text in scale.ticks] == ["70", "75", "80", "85", "90"]
    assert [place for place, _ in Scale(-4, 104, 108, 0).ticks] == [104, 54, 4]


def test_candidates_and_their_settings_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sau_bench.benchmark.report.figures.draw", lambda *arguments: {})
    text = made(tmp_path, [VICTIM, *ANP]).text
    assert "candidate 3, setting 0.4" in text and "own" in text
