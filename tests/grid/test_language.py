"""Configs that name others, differ by dataset and network, and sweep fields."""

import pytest
import yaml

from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import read, read_tables
from sau_bench.benchmark.grid.grid import jobs_of, make_grid, make_tables

SMALL = {"datasets": ["digits"], "models": ["small_cnn"], "attacks": ["badnets"]}


def write(folder, name, **content):
    file = folder / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return file


def grid(folder, **content):
    return make_grid(read(write(folder, "grid", **(SMALL | content))))


def labels(grid, axis="defense"):
    return list(dict.fromkeys(grid.place(*cell)[axis] for cell in grid.cells()))


def defenses(grid, dataset="digits"):
    names = {"digits": "Digits", "cifar10": "CIFAR-10"}
    return [d.defense for v, d in grid.cells() if d and v.dataset.name == names[dataset]]


def test_a_union_has_the_cells_of_its_tables_and_each_keeps_its_axes(tmp_path):
    one = write(tmp_path, "inner/one", **SMALL, defenses=["ft", "ep"])
    two = write(tmp_path, "two", **SMALL, defenses=["ft"], include=["inner/one.yaml"])
    union = write(tmp_path, "all", include=["two.yaml", "inner/one.yaml"])
    tables = make_tables(union)
    assert [table.file for table in tables] == [one, two]
    assert [labels(table.grid)[1:] for table in tables] == [["FT", "EP"], ["FT"]]
    keys = [job.key for job in jobs_of(table.grid for table in tables)]
    assert keys == [job.key for job in make_grid(read(one)).jobs()]
    with pytest.raises(InputError, match="has 2 tables, accepted: one"):
        read(two)


def test_a_circle_is_named(tmp_path):
    for key in ("include", "defaults"):
        for name, other in (("a", "b"), ("b", "a")):
            value = f"{other}.yaml"
            write(tmp_path, name, **{key: [value] if key == "include" else value})
        with pytest.raises(InputError, match=r"a.yaml names itself: .*a.yaml -> .*b.yaml -> "):
            read_tables(tmp_path / "a.yaml")


def test_defaults_hold_where_a_file_says_nothing(tmp_path):
    base = {"attacks": ["lf"], "recipe": {"epochs": 7, "lr": 0.5}, "clean_ratio": 0.3}
    write(tmp_path, "base", **base, when=[{"recipe": {"epochs": 8}}])
    own = {"recipe": {"lr": 0.1}, "when": [{"recipe": {"momentum": 0.5}}], "defaults": "base.yaml"}
    (victim,) = grid(tmp_path, **own).victims
    assert (victim.recipe.epochs, victim.recipe.lr, victim.recipe.momentum) == (8, 0.1, 0.5)
    assert victim.attack.name == "BadNets"  # the file's own list
    assert read(tmp_path / "grid.yaml").clean_ratio == 0.3
    assert read_tables(tmp_path / "base.yaml") == {}


def test_what_differs_by_dataset_leaves_labels_as_they_are(tmp_path):
    when = [
        {"dataset": "digits", "recipe": {"epochs": 3}, "defenses": {"ep": {"u": 4}}},
        {"dataset": "digits", "model": "timm", "recipe": {"epochs": 9}},
        {"attacks": {"badnets": {"value": 0.5, "recipe": {"lr": 0.2}}}},
        {"dataset": ["digits", "gtsrb"], "attacks": {"badnets": {"recipe": {"epochs": 5}}}},
    ]
    changed = grid(
        tmp_path, datasets=["digits", "cifar10"], defenses=["ep"], recipe={"epochs": 2}, when=when
    )
    assert labels(changed) == ["No Defense", "EP"] and labels(changed, "attack") == ["BadNets"]
    digits, cifar10 = changed.victims
    assert (digits.recipe.epochs, digits.recipe.lr) == (5, 0.2)
    assert (cifar10.recipe.epochs, cifar10.recipe.lr) == (2, 0.2)
    assert digits.attack.value == cifar10.attack.value == 0.5
    assert [ep.u for ep in defenses(changed)] == [4] and defenses(changed, "cifar10")[0].u == 3


def test_what_stands_at_the_plugin_counts_most(tmp_path):
    nad = {"nad": {"recipe": {"epochs": 2}}}
    when = [{"defenses": {"nad": {"recipe": {"epochs": 9, "lr": 0.5}, "p": 1.0}}}]
    (defense,) = defenses(grid(tmp_path, defenses=[nad], when=when))
    assert (defense.recipe.epochs, defense.recipe.lr, defense.p) == (2, 0.5, 1.0)
    assert defense.recipe.batch_size == 256  # the plugin's own default


def test_a_list_sweeps_a_field_and_a_list_of_lists_one_that_takes_lists(tmp_path):
    swept = grid(
        tmp_path,
        attacks=[{"badnets": {"ratio": [0.1, 0.2]}}, {"multi": {"first": ["blended", "lf"]}}],
        defenses=[
            {"ep": {"h": [0.1, 0.2], "u": [1, 2]}},
            {"ft": {"recipe": {"epochs": [4, 5]}}},
            {"nad": {"betas": [[1.0], [2.0, 3.0]]}},
        ],
        seeds=[3],
    )
    assert labels(swept, "attack") == [
        *("BadNets", "BadNets (ratio=0.2)"),
        *("Blended + BadNets", "LF + BadNets"),
    ]
    assert labels(swept)[1:] == [
        *("EP (u=1.0)", "EP (u=2.0)", "EP (u=1.0, h=0.2)", "EP (u=2.0, h=0.2)"),
        *("FT (epochs=4)", "FT (epochs=5)"),
        *("NAD (betas=(1.0,))", "NAD (betas=(2.0, 3.0))"),
    ]


def test_shares_of_clean_data_are_an_axis_of_the_defenses_that_use_them(tmp_path):
    shares = grid(tmp_path, defenses=["ft", "ep"], clean_ratio=[0.05, 0.2])
    assert labels(shares)[1:] == ["FT", "FT (clean_ratio=0.2)", "EP"]
    (alone,) = [d for _, d in grid(tmp_path, defenses=["ft"], clean_ratio=0.2).cells() if d]
    assert alone in shares.places and labels(grid(tmp_path, defenses=["ep"]))[1:] == ["EP"]


@pytest.mark.parametrize(
    ("key", "values"), [("data", ["a", "b"]), ("deterministic", [True, False])]
)
def test_tables_that_differ_in_what_holds_for_a_whole_run_are_no_union(tmp_path, key, values):
    for name, value in zip(("one", "two"), values, strict=True):
        write(tmp_path, name, **SMALL, **{key: value})
    union = write(tmp_path, "all", include=["one.yaml", "two.yaml"])
    with pytest.raises(InputError, match=f"{key} is .+, .+, accepted: one value"):
        make_tables(union)
