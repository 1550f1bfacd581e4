"""YAML files to grids: what is refused, labels, filters and the order of jobs."""

from pathlib import Path

import pytest
import yaml

from sau_bench.attacks.badnets import BadNets
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import make_grid, make_tables
from sau_bench.benchmark.jobs.job import AssetJob, AttackJob
from sau_bench.benchmark.rows import COLUMNS
from sau_bench.defenses.ft import FT

GRID = {
    "datasets": ["digits"],
    "models": ["small_cnn:8", "small_cnn"],
    "attacks": ["badnets", "blended", {"badnets": {"labels": "all2all"}}],
    "defenses": [{"ft": {"recipe": {"epochs": 2}}}, "sau"],
    "seeds": [0, 1],
    "recipe": {"epochs": 3, "lr": 0.05},
    "clean_ratio": 0.1,
    "score_every": 2,
}
CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
SHIPPED = [file for file in CONFIGS if file.name != "common.yaml"]


def config(tmp_path, **changes):
    """The grid above with some keys replaced, or left out where None."""
    content = {k: v for k, v in (GRID | changes).items() if v is not None}
    file = tmp_path / "grid.yaml"
    file.write_text(yaml.safe_dump(content))
    return read(file)


def defended(grid):
    """The labels of the defenses, in order."""
    return list(dict.fromkeys(grid.place(*cell)["defense"] for cell in grid.cells()))


def test_a_config_is_read_with_its_defaults(tmp_path):
    short = dict.fromkeys(("defenses", "seeds", "recipe", "clean_ratio", "score_every"))
    found = config(tmp_path, **short)
    assert found.datasets == ["digits"] and found.seeds == [0] and found.defenses == []
    assert (found.clean_ratio, found.score_every, found.recipe) == (0.05, 1, {})
    assert config(tmp_path).seeds == [0, 1]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_config_makes_a_grid(file):
    assert all(table.grid.jobs() for table in make_tables(file))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"defences": ["ft"]}, ["'defences'", "accepted: datasets", "did you mean 'defenses'?"]),
        ({"attacks": "badnets"}, ["attacks", "list", "'badnets'"]),
        ({"seeds": ["one"]}, ["seeds.0", "integer", "'one'"]),
        ({"score_every": "often"}, ["score_every", "integer", "'doubling'", "'often'"]),
        ({"score_every": 0}, ["score_every is 0", "at least 1"]),
        ({"clean_ratio": 0}, ["clean_ratio is 0", "above 0"]),
        ({"clean_ratio": 1.5}, ["clean_ratio is 1.5", "at most 1"]),
        ({"attacks": []}, ["attacks is empty", "at least one"]),
        ({"seeds": []}, ["seeds is empty"]),
        ({"datasets": []}, ["datasets is empty"]),
        ({"models": None}, ["models"]),
        ({"recipe": "short"}, ["recipe", "'short'"]),
    ],
)
def test_an_impossible_config_is_refused_in_one_line(tmp_path, changes, told):
    with pytest.raises(InputError) as error:
        config(tmp_path, **changes)
    message = str(error.value)
    assert message.startswith(str(tmp_path / "grid.yaml")) and "\n" not in message
    for part in told:
        assert part in message


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"attacks: [badnets", "is not YAML"),
        (b"a: 1\n\tb: 2", "is not YAML"),
        (b"\xff\xfe\x00\x00", "cannot read|is not YAML"),
        (b"", "expected keys such as 'attacks:', got None"),
        (b"- badnets\n", "expected keys such as 'attacks:'"),
        (b"1: 2\n", "line 1: a key must be text .* got '1'"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_one_line(tmp_path, content, told):
    file = tmp_path / "grid.yaml"
    file.write_bytes(content)
    with pytest.raises(InputError, match=told) as error:
        read(file)
    assert "\n" not in str(error.value)


def test_a_missing_config_lists_those_that_are_there(tmp_path):
    for name in ("one.yaml", "two.yaml", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError) as error:
        read(tmp_path / "three.yaml")
    message = str(error.value)
    assert "three.yaml" in message and "notes" not in message
    assert str(tmp_path / "one.yaml") in message and str(tmp_path / "two.yaml") in message
    with pytest.raises(InputError, match="found: none"):
        read(tmp_path / "nowhere" / "three.yaml")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attacks": [{"badnets": {"target": 10}}]}, "target is 10, but Digits has classes 0 to 9"),
        ({"attacks": ["badnet"]}, "did you mean 'badnets'"),
        ({"recipe": {"epoch": 1}}, "recipe: unknown field 'epoch'.*did you mean 'epochs'"),
        ({"recipe": {"epochs": 0}}, "recipe: epochs is 0"),
        ({"seeds": [-1]}, "seed"),
        ({"select": {"FT": "best"}}, "rule 'best'"),
        ({"select": {"TF": "last"}}, "TF.*FT"),
    ],
)
def test_an_impossible_grid_is_refused_in_one_line(tmp_path, changes, told):
    with pytest.raises(InputError, match=told) as error:
        make_grid(config(tmp_path, **changes))
    assert "\n" not in str(error.value)


ANPS = [{"anp": {"iterations": n}} for n in (100, 200)]
FIRST = "ANP (iterations=100)"


@pytest.mark.parametrize(
    ("defenses", "select", "rules"),
    [
        (["anp", "ft"], {"anp": "own"}, {"ANP": "own"}),
        (["anp", "ft"], {"ANP": "own", "ft": "last"}, {"ANP": "own", "FT": "last"}),
        (ANPS, {FIRST: "own"}, {FIRST: "own"}),
    ],
)
def test_a_rule_is_chosen_by_label_or_by_the_name_of_the_plugin(tmp_path, defenses, select, rules):
    grid = make_grid(config(tmp_path, defenses=defenses, select=select))
    assert grid.rules(select) == rules


@pytest.mark.parametrize(
    ("defenses", "select", "told"),
    [
        (ANPS, {"anp": "own"}, "'anp' is the name of 2 defenses.*accepted: 'ANP .*=100.*=200"),
        (["anp"], {"anp": "own", "ANP": "last"}, "'ANP' and 'anp' are names of one defense"),
        (["anp"], {"anb": "own"}, "no defense 'anb'.*accepted: ANP, anp.*did you mean 'anp'"),
        (["anp"], {"anp": "fixed:7"}, "ANP: no candidate for 'fixed:7'"),
    ],
)
def test_a_rule_for_no_defense_or_several_is_refused(tmp_path, defenses, select, told):
    with pytest.raises(InputError, match=told):
        make_grid(config(tmp_path, defenses=defenses, select=select))


@pytest.mark.parametrize("axis", ["datasets", "models", "attacks", "defenses", "seeds"])
def test_an_entry_given_twice_gives_no_cell_twice(tmp_path, axis):
    twice = config(tmp_path, **{axis: GRID[axis] + GRID[axis][:1]})
    try:
        cells = list(make_grid(twice).cells())
    except InputError as error:
        assert "twice" in str(error)
    else:
        assert len(cells) == len(set(cells))


def test_jobs_are_unique_with_victims_before_their_defenses(tmp_path):
    grid = make_grid(config(tmp_path))
    jobs = grid.jobs()
    victims = 1 * 2 * 3 * 2
    assert len(jobs) == len(set(jobs)) == victims * (1 + 2)
    assert sum(isinstance(job, AttackJob) for job in jobs) == victims
    for place, job in enumerate(jobs):
        assert all(jobs.index(need) < place for need in job.needs)
    assert {job.recipe.epochs for job in jobs if isinstance(job, AttackJob)} == {3}
    defended = [job for job in jobs if not isinstance(job, AttackJob)]
    assert {(job.clean_ratio, job.score_every) for job in defended} == {(0.1, 2)}


def test_an_asset_is_made_once_before_all_attacks_that_need_it(tmp_path):
    ratios = [{"lf": {"ratio": ratio}} for ratio in (0.05, 0.1)]
    jobs = make_grid(config(tmp_path, attacks=ratios, models=["small_cnn"], seeds=[0])).jobs()
    assert [type(job) is AssetJob for job in jobs] == [True] * 2 + [False] * 6
    assert jobs[1].needs == (jobs[0],)
    assert [job.needs for job in jobs if isinstance(job, AttackJob)] == [(jobs[1],)] * 2


@pytest.mark.parametrize(
    ("acc", "asr", "status"),
    [(0.9, 0.9, "ok"), (0.2, 0.5, "ok"), (0.19, 0.9, "collapsed"), (0.9, 0.49, "collapsed")],
)
def test_a_victim_without_task_or_backdoor_is_marked_in_its_row(tmp_path, acc, asr, status):
    grid, store = make_grid(config(tmp_path)), Store(tmp_path / "cache")
    victim = grid.victims[0]
    measured = {"kind": "victim", "step": 0, "acc": acc, "asr": asr, "status": "ok"}
    with store.draft(victim.key) as draft:
        draft.write_json("job.json", victim.canonical())
        draft.write_json("rows.json", [measured])
    (row,) = grid.rows(store).to_dict("records")
    assert row["status"] == status and row["key"] == row["victim"] == victim.key
    assert (row["dataset"], row["model"], row["defense"]) == (
        "Digits",
        "Small CNN (width 8)",
        "No Defense",
    )


def test_variants_of_one_plugin_have_labels_of_their_own(tmp_path):
    epochs = [{"ft": {"recipe": {"epochs": n}}} for n in (2, 5)]
    grid = make_grid(
        config(
            tmp_path,
            attacks=["badnets", {"badnets": {"ratio": 0.01}}, {"badnets": {"labels": "all2all"}}],
            defenses=[*epochs, "ft", "sau"],
        )
    )
    places = [grid.place(*cell) for cell in grid.cells()]
    assert {place["attack"] for place in places} == {
        "BadNets",
        "BadNets (ratio=0.01)",
        "BadNets (all-to-all)",
    }
    assert {place["defense"] for place in places} == {
        "No Defense",
        "FT (epochs=2)",
        "FT (epochs=5)",
        "FT",
        "SAU",
    }
    assert {place["model"] for place in places} == {"Small CNN", "Small CNN (width 8)"}
    assert len({tuple(place.values()) for place in places}) == len(places)


def test_labels_leave_out_what_all_variants_share(tmp_path):
    recipes = [{"epochs": 5, "precision": "bf16"}, {"lr": 0.1, "precision": "bf16"}]
    grid = make_grid(config(tmp_path, defenses=[{"ft": {"recipe": recipe}} for recipe in recipes]))
    assert defended(grid) == ["No Defense", "FT (epochs=5)", "FT (lr=0.1)"]


def test_only_keeps_cells_by_key_and_by_label(tmp_path):
    grid = make_grid(config(tmp_path), ["attack=badnets, defense=SAU,seed=1"])
    places = [grid.place(*cell) for cell in grid.cells()]
    assert {place["attack"] for place in places} == {"BadNets", "BadNets (all-to-all)"}
    assert {place["defense"] for place in places} == {"No Defense", "SAU"}
    assert {place["seed"] for place in places} == {1}
    one = make_grid(config(tmp_path), ["attack=BadNets (all-to-all),model=Small CNN", "defense=ft"])
    assert {victim.attack for victim in one.victims} == {BadNets(labels="all2all")}
    assert {type(defended.defense) for _, defended in one.cells() if defended} == {FT}
    assert len({victim.architecture for victim in one.victims}) == 1
    both = make_grid(config(tmp_path), ["attack=badnets,attack=blended"])
    assert len(both.victims) == len(make_grid(config(tmp_path)).victims)


@pytest.mark.parametrize(
    ("only", "told"),
    [
        ("attak=badnets", "axes: dataset, model, attack.*did you mean 'attack'"),
        ("badnets", "'badnets' is not AXIS=NAME"),
        ("attack=badnet", "no attack 'badnet'.*accepted:.*did you mean 'badnets'"),
        ("seed=7", "no seed '7' in this grid; accepted: 0, 1"),
        ("defense=anp", "no defense 'anp' in this grid"),
    ],
)
def test_only_refuses_what_is_not_in_the_grid(tmp_path, only, told):
    with pytest.raises(InputError, match=told):
        make_grid(config(tmp_path), [only])


def test_a_label_with_commas_can_be_named(tmp_path):
    recipes = [{"epochs": 5, "lr": 0.5}, {"epochs": 7, "lr": 0.1}]
    grids = config(tmp_path, defenses=["sau", *({"ft": {"recipe": r}} for r in recipes)])
    label = "FT (epochs=5, lr=0.5)"
    assert label in defended(make_grid(grids))
    for only in ([f"defense={label}"], [f"attack=badnets,defense={label},seed=1"]):
        assert defended(make_grid(grids, only)) == ["No Defense", label]
    both = make_grid(grids, [f"defense={label}", "defense=sau"])
    assert defended(both) == ["No Defense", "SAU", label]


def test_what_belongs_to_the_table_comes_from_the_plugin_not_from_the_cache(tmp_path):
    """Rows of jobs that were cached when the rule was another one show the rule of today."""
    grid, store = make_grid(config(tmp_path)), Store(tmp_path / "cache")
    victim, defended = next((v, d) for v, d in grid.cells() if d)
    measured = {"step": 1, "acc": 0.9, "asr": 0.9, "status": "ok"}
    for job, kind in ((victim, "victim"), (defended, "rounds")):
        with store.draft(job.key) as draft:
            old = {"kind": kind, "select": "fixed:9", "uses": "train"}
            draft.write_json("job.json", job.canonical())
            draft.write_json("rows.json", [measured | old])
    rows = grid.rows(store).set_index("kind")
    assert rows.loc["rounds", ["select", "uses", "clean_ratio"]].tolist() == ["last", "clean", 0.1]


def test_a_grid_without_results_has_no_rows_but_their_columns(tmp_path):
    rows = make_grid(config(tmp_path)).rows(Store(tmp_path / "cache"))
    assert len(rows) == 0 and tuple(rows.columns) == tuple(COLUMNS)


def test_an_attack_may_have_a_recipe_of_its_own(tmp_path):
    own = {"blended": {"alpha": 0.1, "recipe": {"schedule": "multistep"}}}
    victims = make_grid(config(tmp_path, attacks=["badnets", own])).victims
    schedules = {victim.attack.name: victim.recipe.schedule for victim in victims}
    assert schedules == {"BadNets": "cosine", "Blended": "multistep"}
    assert {victim.recipe.epochs for victim in victims} == {3}
    with pytest.raises(InputError, match="attack 'badnets': recipe: unknown field 'epoch'"):
        make_grid(config(tmp_path, attacks=[{"badnets": {"recipe": {"epoch": 1}}}]))
    with pytest.raises(InputError, match="two recipes for the attack 'badnets'"):
        make_grid(config(tmp_path, attacks=["badnets", {"badnets": {"recipe": {"lr": 1}}}]))
