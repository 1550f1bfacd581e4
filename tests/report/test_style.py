"""Looks of methods: stable, all different, and different for readers of every kind of vision."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame

from sau_bench.benchmark.report.style import COLOURS, LOOKS, looks, names_of

ROOT = Path(__file__).parents[2]
VISIONS = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
"""Linear RGB as each kind of reader sees it (Machado, Oliveira & Fernandes, 2009, severity 1)."""
TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
DEFENSES = [name for name in LOOKS if name != "No Defense"]
LABELS = st.lists(st.sampled_from(DEFENSES), min_size=1, unique=True)


def test_what_draws_nothing_does_without_matplotlib():
    modules = ("captions", "remarks", "render", "significance", "style", "tables")
    names = ", ".join(f"sau_bench.benchmark.report.{name}" for name in modules)
    code = (
        f"import sys, sau_bench.benchmark.cli.results, {names}; print('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("False\n", "")


def linear(colour):
    """Linear RGB of a hex colour in sRGB."""
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB, white point D65."""
    t = TO_XYZ @ np.clip(rgb, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(colour):
    """With white, as in WCAG 2: from 1 to 21."""
    return 1.05 / (0.05 + TO_XYZ[1] @ linear(colour))


def rows(labels):
    return DataFrame({"defense": ["No Defense", *labels]})


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_can_be_told_apart(vision):
    seen = [lab(VISIONS[vision] @ linear(c)) for c in (*COLOURS, "#000000")]
    # 2.3 is a just noticeable difference; small marks need several times as much.
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 13


def test_the_measure_finds_colours_that_look_alike():
    red, green = "#CC3311", "#666600"
    far = np.linalg.norm(lab(linear(red)) - lab(linear(green)))
    near = [lab(VISIONS["protanopia"] @ linear(c)) for c in (red, green)]
    assert np.linalg.norm(near[0] - near[1]) < 13 < far
    assert contrast("#FFFFFF") == pytest.approx(1) and contrast("#000000") == pytest.approx(21)


def test_colours_stand_out_from_white():
    assert min(map(contrast, COLOURS)) > 2.8
    assert contrast(LOOKS["SAU"].colour) > 7  # never pale


def test_every_method_has_a_look_of_its_own():
    assert len({look.colour for look in LOOKS.values()}) == len(LOOKS)
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)
    many = looks(rows([*DEFENSES, *(f"Method {i}" for i in range(25))]))
    assert len({look[:2] for look in many.values()}) == len(DEFENSES) + 26
    known = {LOOKS[name].marker for name in DEFENSES}
    assert all(look.marker not in known for name, look in many.items() if name not in LOOKS)


@settings(max_examples=25)
@given(LABELS)
def test_a_known_method_looks_the_same_in_every_company(labels):
    found = looks(rows(labels))
    assert list(found) == ["No Defense", *labels]
    assert all(found[name] == LOOKS[name] for name in found)


@settings(max_examples=25)
@given(st.lists(st.text(min_size=1), unique=True), LABELS, st.randoms())
def test_other_methods_get_looks_by_their_names(others, known, random):
    labels = [*others, *known]
    first = looks(rows(labels))
    random.shuffle(labels)
    assert looks(rows(labels)) == first
    alone = looks(rows(others))
    assert all(first[name] == look for name, look in alone.items())


def test_a_new_method_mostly_leaves_the_others_their_looks():
    before = looks(rows(["BN reset", "Mine", "FT"]))
    after = looks(rows(["Another", "BN reset", "FT", "Mine"]))
    assert all(after[name] == look for name, look in before.items())


def test_more_methods_than_looks_are_drawn_nevertheless():
    found = looks(rows([f"Method {i}" for i in range(60)]))
    assert len(found) == 61


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["SAU", "FT"], ["SAU", "FT"]),
        (["SAU", "SAU (lr=0.1)"], ["SAU", "SAU (lr=0.1)"]),
        (
            ["SAU (epochs=20)", "SAU (epochs=12, lr=0.0004)"],
            ["SAU (epochs=20, lr=default)", "SAU (epochs=12, lr=0.0004)"],
        ),
        (
            ["A (b=(1, 2))", "A (c.d=x, y)", "FT (e=1)"],
            ["A (b=(1, 2), c.d=default)", "A (b=default, c.d=x, y)", "FT (e=1)"],
        ),
        (["Sharp (really)", "x" * 80], ["Sharp (really)", "x" * 29 + "…" + "x" * 29]),
        (["a" * 40 + "b" + "c" * 40, "a" * 40 + "d" + "c" * 40], None),
    ],
)
def test_a_name_says_what_differs(labels, names):
    assert list(names_of(labels).values()) == (names or labels)
