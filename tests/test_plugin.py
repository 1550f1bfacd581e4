"""Plugins from their YAML forms, from files and from entry points; what enters a job's key."""

import dataclasses
import pickle
import re
import subprocess
import sys
import textwrap
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest

from attacks.badnets import BadNets
from attacks.blended import PICTURE, Blended
from benchmark.datasets.digits import Digits
from benchmark.errors import InputError, check_range
from benchmark.jobs.job import AttackJob, DefenseJob, describe, key
from benchmark.plugin import KINDS, Plugin, build, load, plugin_name, plugin_names
from benchmark.train import Recipe
from defenses.ft import FT
from defenses.sau import SAU
from models.preact_resnet18 import PreActResNet18
from models.small_cnn import SmallCNN

OWN = '''
from dataclasses import dataclass
from defenses.base import Defense

@dataclass(frozen=True, kw_only=True)
class Mine(Defense):
    """Returns what it is given. strength: nothing. rounds: nothing either."""
    name = "Mine"
    {fields}

    @property
    def label(self):
        return f"Mine at {{self.strength}}"

    def __call__(self, model, data):
        yield model
'''
FIELDS = ("strength: float = 0.5", "rounds: int = 3")

JOB = AttackJob(
    dataset=Digits(), model=SmallCNN(), attack=BadNets(), recipe=Recipe(epochs=1), seed=0
)
DEFENDED = DefenseJob(victim=JOB, defense=FT(), clean_ratio=0.05, score_every=1)


def write(folder, name="mine.py", order=FIELDS):
    folder.mkdir(exist_ok=True)
    file = folder / name
    file.write_text(OWN.format(fields="\n    ".join(order)))
    return file


@pytest.mark.parametrize(
    ("kind", "spec", "expected"),
    [
        ("attacks", "badnets", BadNets()),
        ("attacks", {"badnets": None}, BadNets()),
        ("attacks", {"badnets": {"ratio": 0.01, "target": 3}}, BadNets(ratio=0.01, target=3)),
        ("models", "small_cnn:8", SmallCNN(width=8)),
        ("models", {"preact_resnet18": {"width": 16}}, PreActResNet18(width=16)),
        ("datasets", "digits", Digits()),
        ("defenses", {"ft": {"recipe": {"epochs": 3}}}, FT(recipe=replace(FT().recipe, epochs=3))),
        (
            "defenses",
            {"sau": {"eps": 0.1, "recipe": {"lr": 0.001}}},
            SAU(eps=0.1, recipe=replace(SAU().recipe, lr=0.001)),
        ),
    ],
)
def test_a_plugin_is_built_from_each_of_its_forms(kind, spec, expected):
    assert build(kind, spec) == expected


def test_a_nested_recipe_keeps_the_plugins_own_defaults():
    recipe = build("defenses", {"sau": {"recipe": {"epochs": 2}}}).recipe
    assert (recipe.optimizer, recipe.batch_norm, recipe.augment) == ("adam", "frozen", False)
    assert (recipe.epochs, recipe.batch_size) == (2, 256)


@pytest.mark.parametrize(
    ("kind", "spec", "told"),
    [
        ("attacks", "badnet", ["unknown attack 'badnet'", "blended", "did you mean 'badnets'?"]),
        ("defenses", "sua", ["unknown defense 'sua'", "ft", "did you mean 'sau'?"]),
        ("models", "preact_resnet19", ["unknown model", "did you mean 'preact_resnet18'?"]),
        ("datasets", "cifar11", ["unknown dataset", "digits", "did you mean 'cifar10'?"]),
        ("attacks", {"badnets": {"ratoi": 0.1}}, ["'ratoi'", "target", "did you mean 'ratio'?"]),
        ("attacks", {"badnets": {"ratio": "much"}}, ["attack 'badnets'", "ratio", "'much'"]),
        ("attacks", {"badnets": {"ratio": 1.5}}, ["ratio is 1.5", "above 0 and at most 1"]),
        ("attacks", {"badnets": {"ratio": 0}}, ["ratio is 0", "above 0"]),
        ("attacks", {"badnets": {"target": -1}}, ["target is -1"]),
        ("attacks", {"badnets": {"labels": "all2some"}}, ["'all2one' or 'all2all'", "'all2some'"]),
        ("attacks", {"blended": {"image": "no.png"}}, ["image 'no.png' is not a file"]),
        (
            "defenses",
            {"ft": {"recipe": {"epoch": 3}}},
            ["recipe", "'epoch'", "batch_size", "did you mean 'epochs'?"],
        ),
        ("defenses", {"ft": {"recipe": {"epochs": "x"}}}, ["recipe.epochs", "integer", "'x'"]),
        ("defenses", {"ft": {"recipe": {"epochs": 0}}}, ["recipe: epochs is 0"]),
        ("defenses", {"ft": {"recipe": 3}}, ["recipe", "3"]),
        ("defenses", {"sau": {"recipe": {"augment": True}}}, ["SAU needs augment: false"]),
        ("models", "small_cnn:wide", ["width", "integer", "'wide'"]),
        ("attacks", "badnets:3", ["attack 'badnets' takes no ':3'"]),
        ("attacks", 3, ["expected a name", "3"]),
        ("attacks", ["badnets"], ["expected a name", "['badnets']"]),
        ("attacks", {"badnets": {}, "blended": {}}, ["expected a name"]),
        ("attacks", {"badnets": 3}, ["{name: {field: value}}"]),
        ("attacks", {3: {}}, ["{name: {field: value}}"]),
        ("attacks", "base", ["base defines no attack"]),
        ("attacks", "no/such.py", ["no plugin file 'no/such.py'"]),
        ("attacks", "../badnets", ["unknown attack '../badnets'"]),
    ],
)
def test_bad_input_is_told_in_one_line(kind, spec, told):
    with pytest.raises(InputError) as error:
        build(kind, spec)
    message = str(error.value)
    assert "\n" not in message
    for part in told:
        assert part in message


def test_every_kind_lists_its_plugins():
    expected = {
        "attacks": {"badnets", "blended"},
        "defenses": {"ft", "sau"},
        "models": {"preact_resnet18", "small_cnn", "timm"},
        "datasets": {"cifar10", "digits"},
    }
    for kind in KINDS:
        found = plugin_names(kind)
        assert expected[kind] <= set(found) and found == sorted(found)
        assert not {"base", "classifier", "__init__"} & set(found)


def test_a_file_given_by_path_is_a_plugin(tmp_path, monkeypatch):
    file = write(tmp_path)
    plugin = build("defenses", {str(file): {"strength": 0.75}})
    assert (plugin.strength, plugin.rounds, plugin.label) == (0.75, 3, "Mine at 0.75")
    assert plugin_name(plugin) == "mine"
    assert load("defenses", str(file)) is type(plugin)
    monkeypatch.chdir(tmp_path)
    assert type(build("defenses", "mine.py")) is type(plugin)


def test_files_of_one_name_stay_apart(tmp_path):
    first, second = write(tmp_path / "a"), write(tmp_path / "b")
    second.write_text(second.read_text().replace('"Mine"', '"Other"'))
    assert load("defenses", str(first)).name == "Mine"
    assert load("defenses", str(second)).name == "Other"


@pytest.mark.parametrize(
    "source",
    ["x = 1", OWN.format(fields=FIELDS[0]) + OWN.format(fields=FIELDS[0]).replace("Mine", "B")],
    ids=["none", "two"],
)
def test_a_file_must_define_exactly_one_plugin(source, tmp_path):
    file = tmp_path / "odd.py"
    file.write_text(source)
    with pytest.raises(InputError, match="accepted is one concrete Plugin class"):
        load("defenses", str(file))


@pytest.mark.parametrize("source", ["def broken(:", "import no_such_module_of_mine", "1 / 0"])
def test_a_file_that_cannot_be_imported_is_bad_input(source, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(source)
    with pytest.raises(InputError) as error:
        build("defenses", str(file))
    assert str(file) in str(error.value) and "\n" not in str(error.value)


def test_a_plugin_by_path_survives_pickling_into_a_fresh_process(tmp_path):
    plugin = build("defenses", {str(write(tmp_path)): {"strength": 0.25}})
    assert pickle.loads(pickle.dumps(plugin)) == plugin
    job = replace(DEFENDED, defense=plugin)
    program = """
    import pickle, sys
    from benchmark.jobs.job import key
    job = pickle.load(sys.stdin.buffer)
    print(job.defense.label, job.key)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        input=pickle.dumps(job),
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode().split() == ["Mine", "at", "0.25", job.key]


def test_an_installed_plugin_is_found_by_its_entry_point(tmp_path, monkeypatch):
    write(tmp_path, "theirs.py")
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[sau_bench.defenses]\ntheirs = theirs\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert "theirs" in plugin_names("defenses") and "theirs" not in plugin_names("attacks")
        plugin = build("defenses", {"theirs": {"strength": 2}})
        assert plugin.label == "Mine at 2.0" and plugin_name(plugin) == "theirs"
        with pytest.raises(InputError, match="did you mean 'theirs'"):
            build("defenses", "thiers")
    finally:
        sys.modules.pop("theirs", None)


def test_the_key_is_a_stable_hash_of_canonical_json():
    assert JOB.key == key(replace(JOB)) and len(JOB.key) == 24
    assert int(JOB.key, 16) >= 0
    assert " " not in describe(JOB) and str(PICTURE.parent) not in describe(JOB)
    assert JOB.needs == () and DEFENDED.needs == (JOB,)


def test_the_key_does_not_depend_on_the_order_of_fields(tmp_path):
    one = build("attacks", {"badnets": {"ratio": 0.2, "target": 1}})
    other = build("attacks", {"badnets": {"target": 1, "ratio": 0.2}})
    assert key(replace(JOB, attack=one)) == key(replace(JOB, attack=other))
    first = build("defenses", str(write(tmp_path / "a")))
    second = build("defenses", str(write(tmp_path / "b", order=FIELDS[::-1])))
    names = [[f.name for f in fields(plugin)] for plugin in (first, second)]
    assert names[0] == names[1][::-1]
    known = [plugin.canonical() for plugin in (first, second)]
    assert known[0].pop("source") != known[1].pop("source")
    assert known[0] == known[1]


def test_a_plugin_by_path_is_known_by_its_content_not_by_its_path(tmp_path):
    one, same, edited = (write(tmp_path / folder) for folder in "abc")
    edited.write_text(edited.read_text() + "# a change\n")
    keys = [key(replace(DEFENDED, defense=build("defenses", str(f)))) for f in (one, same, edited)]
    assert keys[0] == keys[1] != keys[2]


OTHER = {
    "labels": "all2all",
    "pattern": "grid",
    "optimizer": "adam",
    "schedule": "plateau",
    "batch_norm": "frozen",
    "precision": "bf16",
    "norm": "l2",
    "start": "random",
    "generation": "vanilla",
    "unlearning": "vanilla",
    "period": 7,
}


def variants(value):
    """The value with one field changed, for each field; nested recipes likewise."""
    for field in fields(value):
        now = getattr(value, field.name)
        if dataclasses.is_dataclass(now) and not isinstance(now, Plugin):
            for changed in variants(now):
                if not isinstance(value, SAU) or not (
                    changed.augment or changed.batch_norm != "frozen"
                ):
                    yield replace(value, **{field.name: changed})
        elif isinstance(now, bool):
            yield replace(value, **{field.name: not now})
        elif isinstance(now, int | float):
            other = (now / 2 or 0.5) if isinstance(now, float) else now + 1
            yield replace(value, **{field.name: other})
        elif field.name in OTHER and now != OTHER[field.name]:
            yield replace(value, **{field.name: OTHER[field.name]})


def test_every_field_of_a_job_changes_its_key():
    attacks = [*variants(BadNets()), Blended(), *variants(Blended())]
    jobs = [JOB, DEFENDED]
    jobs += [replace(JOB, attack=attack) for attack in attacks]
    jobs += [replace(JOB, recipe=recipe) for recipe in variants(JOB.recipe)]
    jobs += [replace(JOB, model=model) for model in (SmallCNN(width=8), PreActResNet18())]
    jobs += [replace(JOB, dataset=build("datasets", "cifar10")), replace(JOB, seed=1)]
    jobs += [replace(DEFENDED, victim=job) for job in jobs if isinstance(job, AttackJob)][1:]
    defenses = [*variants(FT()), SAU(), *variants(SAU())]
    jobs += [replace(DEFENDED, defense=defense) for defense in defenses]
    jobs += [replace(DEFENDED, clean_ratio=0.1), replace(DEFENDED, score_every=2)]
    covered = len(fields(Recipe)) + len(fields(BadNets)) - 1
    assert len(jobs) > 4 * covered
    assert len({job.key for job in jobs}) == len(jobs)


@pytest.mark.parametrize("cls", [BadNets, SmallCNN, Digits, FT])
def test_a_plugins_revision_changes_the_key(cls, monkeypatch):
    before = DEFENDED.key
    monkeypatch.setattr(cls, "revision", 99)
    assert DEFENDED.key != before


def test_blendeds_picture_counts_by_content(tmp_path):
    copy = tmp_path / "copy.png"
    copy.write_bytes(PICTURE.read_bytes())
    assert Blended(image=str(copy)).canonical() == Blended().canonical()
    copy.write_bytes(PICTURE.read_bytes() + b" ")
    assert Blended(image=str(copy)).canonical() != Blended().canonical()


@pytest.mark.parametrize(
    ("value", "bounds", "told"),
    [
        (0, {"least": 1}, "size is 0, accepted: at least 1"),
        (1.0, {"above": 0, "below": 1}, "size is 1.0, accepted: above 0 and below 1"),
        (1.5, {"above": 0, "most": 1}, "size is 1.5, accepted: above 0 and at most 1"),
        ((0.5, -1), {"least": 0}, "size is -1, accepted: at least 0"),
        (float("nan"), {"least": 0}, "size is nan, accepted: at least 0"),
        (float("inf"), {"least": 0}, "size is inf, accepted: at least 0"),
    ],
)
def test_a_number_out_of_range_is_refused(value, bounds, told):
    with pytest.raises(ValueError, match=f"^{re.escape(told)}$"):
        check_range(SimpleNamespace(size=value), "size", **bounds)


def test_a_number_in_range_passes():
    owner = SimpleNamespace(size=1, ratios=[0.0, 1.0], period=None)
    check_range(owner, "size", "ratios", "period", least=0, most=1)
