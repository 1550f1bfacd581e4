"""Published cells are found by what was run: plugins, fields, ratios, and never a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.multi import Multi
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import Config, read
from sau_bench.benchmark.grid.grid import make_grid
from sau_bench.benchmark.grid.published import reproduced
from sau_bench.benchmark.loading import build, plugin_names
from sau_bench.benchmark.published import Cell, read_paper

ROOT = Path(__file__).parents[2]
PAPER = read_paper()
LATER = {"vgg19", "rnp", "adversarial"}
"""Plugins that published names may mean although this software does not have them."""
BASE = {
    "datasets": ["cifar10"],
    "models": ["preact_resnet18"],
    "recipe": {"epochs": 100, "lr": 0.01, "drop_last": True},
}


def cells_of(**lists):
    """The published cells of the last job of a grid, without those of the same identity."""
    grid = make_grid(Config(**(BASE | lists)))
    found = reproduced(grid.jobs(), PAPER)
    names = {}
    for cell, identity in found.identities.items():
        names.setdefault(identity, set()).add(cell)
    job = list(grid.cells())[-1]
    runs = found.runs.get((job[1] or job[0]).key, {})
    return {cell: departures for i, departures in runs.items() for cell in names[i]}


def named(cells):
    """(ratio, attack, defense) of cells."""
    return {(cell.ratio, cell.attack, cell.defense) for cell in cells}


@pytest.mark.parametrize(
    ("attack", "published"),
    [
        ("badnets", {"BadNets", "BadNets (pixel value 1.0)"}),
        ({"badnets": {"value": 0.2}}, {"BadNets (pixel value 0.2)"}),
        ({"badnets": {"value": 0.3}}, set()),
        ({"badnets": {"labels": "all2all"}}, {"BadNets (all-to-all)"}),
        ({"multi": {"first": "lf"}}, {"LF + BadNets"}),
        ({"multi": {"first": "lf", "second": {"blended": {"target": 1}}}}, set()),
        ({"multi": {"first": "lf", "second": {"badnets": {"value": 0.2, "target": 1}}}}, set()),
    ],
)
def test_variants_of_an_attack_find_theirs(attack, published):
    assert {cell.attack for cell in cells_of(attacks=[attack])} == published


@pytest.mark.parametrize(
    ("defense", "clean_ratio", "published"),
    [
        ("sau", 0.05, {"SAU", "SAU (2500 clean samples)", "SAU (5% clean)"}),
        ("sau", 0.02, {"SAU (1000 clean samples)"}),
        ("sau", 0.01, {"SAU (500 clean samples)", "SAU (1% clean)"}),
        ("sau", 0.03, set()),
        ({"sau": {"norm": "spatial"}}, 0.05, {"Spatial SAU"}),
        ({"sau": {"norm": "ensemble"}}, 0.05, {"Ensemble SAU"}),
        ({"sau": {"norm": "l2"}}, 0.05, set()),
        ({"sau": {"lambda_2": 2.0}}, 0.05, set()),
        ("ep", 0.02, {"EP"}),  # sees no clean data
        ("ft", 0.02, set()),
    ],
)
def test_variants_and_budgets_of_a_defense_find_theirs(defense, clean_ratio, published):
    cells = cells_of(attacks=["badnets"], defenses=[defense], clean_ratio=clean_ratio)
    assert {cell.defense for cell in cells} == published


@pytest.mark.parametrize(("ratio", "found"), [(0.1, True), (0.05, True), (0.02, False)])
def test_the_ratio_is_that_of_the_cell(ratio, found):
    cells = cells_of(attacks=[{"badnets": {"ratio": ratio}}], defenses=["sau"])
    assert {cell.ratio for cell in cells} == ({ratio} if found else set())


def test_datasets_and_networks_are_told_apart_and_their_variants_are_departures():
    defenses = [{"sau": {"recipe": {"epochs": 20, "lr": 0.0004}}}]
    tiny = {"datasets": ["tiny_imagenet:100"], "recipe": {"epochs": 200, "schedule": "plateau"}}
    tiny |= {"models": ["preact_resnet18:16"]}
    cells = cells_of(attacks=["badnets"], defenses=defenses, **tiny)
    departures = cells[Cell("Tiny ImageNet", "PreAct-ResNet18", 0.1, "BadNets", "SAU")]
    assert [(d.part, str(d)) for d in departures] == [
        ("dataset", "per_class 100 (500)"),
        ("network", "width 16 (64)"),
        ("victim", "drop_last false (true)"),
        ("defense", "recipe.lr 0.0004 (0.0001)"),
    ]
    assert not cells_of(attacks=["badnets"], models=["small_cnn"])
    assert not cells_of(attacks=["badnets"], datasets=["digits"], models=["small_cnn"])


def test_a_plugin_of_the_same_name_from_elsewhere_is_another_one(tmp_path):
    copy = tmp_path / "ft.py"
    copy.write_text((ROOT / "defenses" / "ft.py").read_text())
    assert cells_of(attacks=["badnets"], defenses=["ft"])
    assert not cells_of(attacks=["badnets"], defenses=[str(copy)])


def test_a_label_counts_nothing():
    """Two attacks of one grid get labels that name their fields; none of them is looked at."""
    cells = cells_of(attacks=["blended", {"badnets": {"value": 0.4}}, "badnets"], defenses=["anp"])
    assert (0.1, "BadNets", "ANP") in named(cells)


@pytest.mark.parametrize("table", sorted({layout.table for layout in PAPER.layouts}))
def test_the_configs_of_the_paper_depart_in_nothing(table):
    """What `tables.yaml` says of a table is what the config of that table runs."""
    grid = make_grid(read(ROOT / "configs" / "paper" / f"{table.replace('T', 'table')}.yaml"))
    found = reproduced(grid.jobs(), PAPER)
    exact = {name for run in found.runs.values() for name, departs in run.items() if not departs}
    for layout in PAPER.layouts:
        for cell in layout.cells() if layout.table == table else ():
            # Composite AT is not public.
            assert cell.defense == "CAT" or found.identities[cell] in exact, cell


def test_every_published_name_can_be_built():
    """A misspelt field would otherwise find no run, and nobody would know."""
    kinds = {"datasets": "datasets", "networks": "models", "attacks": "attacks"}
    for names, kind in (kinds | {"defenses": "defenses"}).items():
        for name, spec in PAPER.names[names].items():
            plugin = spec if isinstance(spec, str) else next(iter(spec))
            fields = {} if isinstance(spec, str) else dict(spec[plugin])
            fields.pop("recipe" if kind == "attacks" else "clean_ratio", None)
            if plugin in LATER - set(plugin_names(kind)):
                continue
            assert build(kind, {plugin: fields} if fields else plugin), name
    for settings in PAPER.names["settings"].values():
        for plugin, fields in settings.items():
            assert build("defenses", {plugin: fields})
    fields = {*vars(BadNets()), *vars(Multi()), *vars(build("defenses", "sau"))}
    fields |= {"batch_norm", *vars(build("models", "timm:resnet18"))}
    assert set(PAPER.names["variants"]) <= fields


def test_no_cell_is_declared_without_a_name():
    known = {name for kind in ("attacks", "defenses") for name in PAPER.names[kind]}
    missing = {cell.attack for cell in ALL} | {cell.defense for cell in ALL} - {"No Defense"}
    assert missing - known == {"CAT"}


def test_another_field_is_no_error():
    grid = make_grid(Config(**BASE, attacks=["badnets"]))
    with pytest.raises(InputError):
        build("defenses", {"sau": {"norm": "round"}})
    names = {**PAPER.names, "defenses": {"SAU": {"sau": {"norm": "round"}}}}
    assert not any(
        cell.defense == "SAU"
        for cell in reproduced(grid.jobs(), replace(PAPER, names=names)).identities
    )


ALL = {cell for layout in PAPER.layouts for cell in layout.cells()} | {
    cell for cell in PAPER.values if cell.defense in PAPER.names["defenses"]
}
ALL = {cell for cell in ALL if cell.attack in PAPER.names["attacks"]}
