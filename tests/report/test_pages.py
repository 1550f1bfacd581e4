"""Both pages in a real browser: sort, filter, provenance, colours, a phone, the keyboard."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from browser import CHROMIUM, browser
from pandas import DataFrame
from table_rows import SCORES, row

from sau_bench.benchmark.report.leaderboard import leaderboard
from sau_bench.benchmark.report.style import COLOURS
from sau_bench.benchmark.report.write import report

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)
HOSTILE = "a \"b\", <script>console.error('x')</script> & 'c'"
SHEET = Path(__file__).parents[2] / "results" / "cifar10_cpu" / "figures" / "attacks.png"
TABLES = {"report": "cells", "leaderboard": "entries"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The two pages, of rows with hostile labels, a failed victim and several rounds."""
    folder = tmp_path_factory.mktemp("pages")
    rows = [
        row(a, d, acc - 0.01 * (3 - step), asr, step=step, note=HOSTILE if d == "FT" else "")
        for a, line in SCORES.items()
        for d, (acc, asr) in line.items()
        for step in ((0,) if d == "No Defense" else (1, 2, 3))
    ]
    rows.append(row("BadNets", HOSTILE, 0.8, 0.5, key="hostile"))
    rows.append(row("LF", "No Defense", "", "", status="failed", note=HOSTILE, racc="", step=0))
    DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    (folder / "figures").mkdir()
    shutil.copy(SHEET, folder / "figures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sau_bench.benchmark.report.figures.draw", lambda *arguments: {})
        report(folder, {})
    leaderboard({"mine": folder / "rows.csv"}, {}, {}, folder)
    return {name: folder / f"{name}.html" for name in TABLES}


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(params=TABLES)
def page(request, window, files):
    """The browser with one of the pages; nothing may be written to the console."""
    window.messages.clear()
    window.open(files[request.param].as_uri())
    window.name, window.table = request.param, f"#{TABLES[request.param]}-table"
    yield window
    assert window.messages == []


def column(page, title):
    """The texts of a column of the table of cells, of the lines that are shown."""
    return page.run(
        f"""(() => {{
        const table = document.querySelector("{page.table}");
        const at = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === "{title}");
        return [...table.tBodies].filter(b => !b.hidden).map(b => b.rows[0].cells[at].textContent);
        }})()"""
    )


def head(page, title):
    return (
        f'[...document.querySelectorAll("{page.table} thead th")]'
        f'.find(h => h.textContent === "{title}")'
    )


def numbers(texts):
    return [float(text) for text in texts if text[0].isdigit()]


def test_a_press_on_a_head_sorts_by_number_and_again_the_other_way(page):
    before = column(page, "DER")
    press = f"{head(page, 'DER')}.querySelector('button').click()"
    order = f"{head(page, 'DER')}.getAttribute('aria-sort')"
    assert page.run(order) is None
    page.run(press)
    down = column(page, "DER")
    assert page.run(order) == "descending" and sorted(down) == sorted(before)
    scores = numbers(down)
    assert len(scores) >= 5 and scores == sorted(scores, reverse=True)
    page.run(press)
    up = column(page, "DER")
    assert page.run(order) == "ascending" and numbers(up) == sorted(scores)
    # What has no score is last either way.
    assert not any(text[0].isdigit() for text in [*down[len(scores) :], *up[len(scores) :]])
    page.run(f"{head(page, 'Attack')}.querySelector('button').click()")
    assert page.run(order) is None and column(page, "Attack") == sorted(column(page, "Attack"))


def test_labels_are_searched_and_chosen_as_they_are_written(page):
    controls = f'document.getElementById("{TABLES[page.name]}-controls")'
    whole = len(column(page, "Defense"))
    page.run(
        f"""(() => {{
        const choice = {controls}.querySelector('select[data-column="0"]');
        choice.selectedIndex = [...choice.options].findIndex(o => o.text.includes("script"));
        choice.dispatchEvent(new Event("input", {{bubbles: true}}));
        }})()"""
    )
    assert set(column(page, "Defense")) == {HOSTILE}
    status = f'{controls}.querySelector("[role=status]").textContent'
    assert page.run(status) == f"{len(column(page, 'Defense'))} of {whole}"
    page.run(f"{controls}.querySelector('button').click()")
    assert len(column(page, "Defense")) == whole
    page.run(f"{controls}.querySelector('input').focus()")
    page.press(*"sau wanet")
    assert (column(page, "Defense"), column(page, "Attack")) == (["SAU"], ["WaNet"])
    page.press(*"xyz")
    assert column(page, "Defense") == [] and page.run(status) == f"0 of {whole}"


def test_the_keyboard_opens_where_a_cell_comes_from_and_sorts(page):
    page.run(f"document.querySelector('{page.table} thead button').focus()")
    page.press("Enter")
    assert page.run(f"{head(page, 'Defense')}.getAttribute('aria-sort')") == "ascending"
    columns = page.run(f"document.querySelectorAll('{page.table} thead button').length")
    page.press(*["Tab"] * columns)
    active = "document.activeElement"
    assert page.run(f"{active}.className") == "opens"
    more = f"document.getElementById({active}.getAttribute('aria-controls'))"
    assert page.run(f"{more}.hidden") is True
    page.press(" ")
    assert page.run(f"{active}.getAttribute('aria-expanded')") == "true"
    assert page.run(f"{more}.getBoundingClientRect().height") > 50
    text = page.run(f"{more}.textContent")
    for known in ("Key", "Seed 0", "Hardware", "test device", "test 1.0", "Seconds"):
        assert known in text
    outline = page.run(f"getComputedStyle({active}).outlineStyle")
    assert outline == "solid"  # one sees where one is
    page.press("Enter")
    assert page.run(f"{more}.hidden") is True


def test_dark_and_light_follow_the_system_until_the_reader_chooses(page, files):
    back = "getComputedStyle(document.body).backgroundColor"
    text = "getComputedStyle(document.body).color"
    light = page.run(back), page.run(text)
    page.open(files[page.name].as_uri(), dark=True)
    dark = page.run(back), page.run(text)
    assert light[0] == "rgb(255, 255, 255)" and dark[0] == "rgb(20, 23, 26)" and light[1] != dark[1]
    pressed = "document.getElementById('theme').getAttribute('aria-pressed')"
    assert page.run(pressed) == "true"
    page.run("document.getElementById('theme').focus()")
    page.press("Enter")
    assert page.run(back) == light[0] and page.run(pressed) == "false"


@pytest.mark.parametrize("page", ["report"], indirect=True)
@pytest.mark.parametrize("dark", [False, True])
def test_methods_stand_out_from_the_page(page, files, dark):
    page.open(files["report"].as_uri(), dark=dark)
    colours = page.run(
        f"const methods = {json.dumps(['currentColor', *COLOURS])};"
        """(() => {
        const pen = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
        const rgb = (colour) => {
            pen.fillStyle = colour;
            pen.fillRect(0, 0, 1, 1);
            return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        const mark = document.querySelector(".chart a[data-method]");
        return [rgb(getComputedStyle(document.body).backgroundColor), ...methods.map((colour) => {
            mark.style.setProperty("--method", colour);
            return rgb(getComputedStyle(mark).color);
        })];
        })()"""
    )
    back, *marks = (luminance(colour) for colour in colours)
    assert len({*marks}) == len(COLOURS) + 1 and (back < 0.5) == dark
    contrasts = [(max(back, mark) + 0.05) / (min(back, mark) + 0.05) for mark in marks]
    assert min(contrasts) >= (3 if dark else 2.5)


def luminance(colour):
    """Of WCAG 2, from sRGB in [0, 255]."""
    shares = [part / 255 for part in colour]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("width", [360, 1200])
def test_nothing_is_wider_than_the_window(page, files, width):
    page.open(files[page.name].as_uri(), width)
    page.run("for (const part of document.querySelectorAll('details')) part.open = true")
    page.run("for (const button of document.querySelectorAll('.opens')) button.click()")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("innerWidth") == width


@pytest.mark.parametrize("page", ["report"], indirect=True)
def test_pictures_and_panels_are_drawn(page):
    broken = "[...document.images].filter(i => !i.complete || i.naturalWidth < 100).length"
    assert page.run("document.images.length") == 1 and page.run(broken) == 0
    small = "[...document.querySelectorAll('.panel svg')].filter(s => s.clientWidth < 150).length"
    assert page.run("document.querySelectorAll('.panel svg').length") == 6 and page.run(small) == 0
    size = "document.querySelector('.panel a use').getBoundingClientRect().width"
    assert page.run(size) > 4


@pytest.mark.parametrize("page", ["report"], indirect=True)
def test_a_point_leads_to_its_cell_and_a_method_can_stand_out(page):
    quiet = "document.querySelectorAll('.quiet').length"
    press = "document.querySelector('.legend button[value=SAU]').click()"
    assert page.run(quiet) == 0
    page.run(press)
    assert (
        page.run(quiet) > 0
        and page.run("document.querySelectorAll('.quiet[data-method=SAU]').length") == 0
    )
    page.run(press)
    assert page.run(quiet) == 0
    page.run(
        "location.hash = document.querySelector('.panel a[data-method=SAU]').getAttribute('href')"
    )
    opened = "document.activeElement.closest('tbody').textContent"
    while "SAU" not in page.run(f"document.activeElement.className === 'opens' ? {opened} : ''"):
        pass
    assert page.run("document.activeElement.getAttribute('aria-expanded')") == "true"


def test_paper_shows_what_is_folded_away(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run("document.querySelectorAll('details:not([open])').length") == 0
    assert page.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
    page.run("dispatchEvent(new Event('afterprint'))")
    page.call("Emulation.setEmulatedMedia", media="")
