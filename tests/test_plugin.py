"""Plugins from their YAML forms, from files and from entry points; what enters a job's key."""

import dataclasses
import hashlib
import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
import textwrap
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.blended import PICTURE, Blended
from sau_bench.benchmark.canonical import canonical_json
from sau_bench.benchmark.cli.plugins import describe
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError, check_range
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.loading import build, load, plugin_names
from sau_bench.benchmark.plugin import KINDS, Plugin, config_name, origin, plugin_name
from sau_bench.benchmark.process import Stale
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.ft import FT
from sau_bench.defenses.sau import SAU
from sau_bench.models.preact_resnet18 import PreActResNet18
from sau_bench.models.small_cnn import SmallCNN

OWN = '''
from dataclasses import dataclass
from sau_bench.defenses.base import Defense

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
    dataset=Digits(), architecture=SmallCNN(), attack=BadNets(), recipe=Recipe(epochs=1), seed=0
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
        ("models", "resnet18", ["unknown model", "did you mean 'timm:resnet18'?"]),
        ("models", {"convnext_tiny": {}}, ["did you mean 'timm:convnext_tiny'?"]),
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
        ("attacks", "base", ["unknown attack 'base'", "badnets, blended"]),
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


BARE = """
from dataclasses import dataclass
from sau_bench.defenses.base import Defense
from sau_bench.attacks.base import DataPoisoning
"""
COMPLETE = """
@dataclass(frozen=True, kw_only=True)
class {0}(Defense):
    name = "{0}"

    def __call__(self, model, data):
        yield model
"""
ODD = {
    "x = 1": ["defines no defense", "derived from Defense"],
    COMPLETE.format("A") + COMPLETE.format("B"): ["several plugins, A, B", "one defense a file"],
    COMPLETE.format("A").replace('name = "A"', "pass"): ["class A lacks name"],
    "class A(Defense):\n    name = 'A'": ["class A lacks __call__"],
    "class A(Defense):\n    pass": ["class A lacks __call__ and name"],
    COMPLETE.format("A").replace("@dataclass", "# @dataclass"): ["class A", "frozen dataclass"],
    COMPLETE.format("A").replace("name =", "source: str = ''\n    name ="): ["field 'source'"],
    COMPLETE.format("A").replace("(Defense)", "(DataPoisoning)").replace("__call__", "trigger"): [
        "defines no defense: A is one of the attacks"
    ],
}


@pytest.mark.parametrize("source", ODD, ids=range(len(ODD)))
def test_a_file_that_is_no_complete_plugin_says_what_it_is(source, tmp_path):
    file = tmp_path / "odd.py"
    file.write_text(BARE + source)
    with pytest.raises(InputError) as error:
        load("defenses", str(file))
    for part in [str(file), *ODD[source]]:
        assert part in str(error.value)


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
    from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
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


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes a distribution with one module and its entry points, as pip would have left it."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def install(name, module, source, *entries, kind="defenses"):
        file = tmp_path / Path(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        for folder in file.relative_to(tmp_path).parents[:-1]:
            (tmp_path / folder / "__init__.py").touch()
        file.write_text(source)
        info = tmp_path / f"{name}-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = "\n".join(entries)
        (info / "entry_points.txt").write_text(f"[sau_bench.{kind}]\n{lines}\n")
        return file

    yield install
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


THEIRS = OWN.format(fields="\n    ".join(FIELDS))


def test_an_installed_plugin_is_found_by_its_entry_point(install):
    install("theirs", "theirs", THEIRS, "theirs = theirs")
    assert "theirs" in plugin_names("defenses") and "theirs" not in plugin_names("attacks")
    plugin = build("defenses", {"theirs": {"strength": 2}})
    assert plugin.label == "Mine at 2.0" and plugin_name(plugin) == "theirs"
    with pytest.raises(InputError, match="did you mean 'theirs'"):
        build("defenses", "thiers")


def test_a_plugin_class_knows_what_a_config_calls_it(install, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(THEIRS)
    install("theirs", "their.module", THEIRS, "their_name = their.module:Mine")
    by_entry, by_path = load("defenses", "their_name"), load("defenses", str(file))
    assert [config_name(cls) for cls in (by_entry, by_path, FT)] == ["their_name", str(file), "ft"]


def test_an_installed_plugin_with_the_fields_of_a_built_in_one_has_keys_of_its_own(install):
    """Else their FT would be handed the cached numbers of ours."""
    source = (Path(inspect.getfile(FT))).read_text()
    file = install("their-lab", "their_lab.methods.ft", source, "our_ft = their_lab.methods.ft")
    theirs = build("defenses", "our_ft")
    assert plugin_name(theirs) == plugin_name(FT()) == "ft" and asdict(theirs) == asdict(FT())
    keys = {DEFENDED.key, replace(DEFENDED, defense=theirs).key}
    assert len(keys) == 2
    told = theirs.canonical()
    assert told["distribution"] == "their-lab" and told["module"] == "their_lab.methods.ft"
    assert told["source"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert pickle.loads(pickle.dumps(theirs)) == theirs


def test_an_edited_installed_plugin_has_a_new_key(install):
    keys = set()
    for version in ("", "# a change\n"):
        install("their-lab", f"their_lab{len(version)}", THEIRS + version, "theirs = their_lab0")
        module = importlib.import_module(f"their_lab{len(version)}")
        assert "their_lab" in repr(module)
        keys.add(origin(module.Mine)["source"])
    assert len(keys) == 2


def test_a_plugin_is_restored_by_the_text_that_it_was_pickled_with(install):
    """Whatever is imported, and whatever compiled code lies beside it."""

    def write(strength):
        source = THEIRS.replace("= 0.5", f"= {strength}")
        file = install("theirs", "theirs", source, "theirs = theirs")
        os.utime(file, (10**9, 10**9))
        return file

    def built():
        sys.modules.pop("theirs", None)
        plugin = build("defenses", "theirs")
        return plugin.strength, plugin.canonical()["source"], pickle.dumps(plugin)

    file = write(0.5)
    importlib.import_module("theirs")  # leaves compiled code
    old, first, sent = built()
    write(0.6)
    assert pickle.loads(sent).strength == old == 0.5  # what is imported is what was pickled
    new, second, _ = built()
    assert new == 0.6 and first != second == hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=r"'Mine': .*theirs.py has changed since"):
        pickle.loads(sent)
    write(0.5)
    with pytest.raises(Stale, match=r"theirs.py was imported before"):
        pickle.loads(sent)
    sys.modules.pop("theirs")
    assert pickle.loads(sent).strength == 0.5


def test_the_attribute_of_an_entry_point_is_the_class(install):
    both = THEIRS + THEIRS.replace("class Mine", "class Other").replace('"Mine"', '"Other"')
    install(
        "theirs",
        "both",
        both,
        "one = both:Mine",
        "two = both:Other",
        "no = both:Nope",
        "all = both",
    )
    assert (load("defenses", "one").name, load("defenses", "two").name) == ("Mine", "Other")
    jobs = [replace(DEFENDED, defense=build("defenses", name)) for name in ("one", "two")]
    assert jobs[0].key != jobs[1].key
    with pytest.raises(InputError, match=r"'no'.*both:Nope of theirs.*'Nope' does not exist"):
        load("defenses", "no")
    with pytest.raises(InputError, match="several plugins, Mine, Other"):
        load("defenses", "all")


def test_a_name_that_two_plugins_have_is_refused_with_both_owners(install):
    install("theirs", "theirs", THEIRS, "ft = theirs")
    with pytest.raises(InputError) as error:
        load("defenses", "ft")
    for part in ("'ft'", "defenses/ft.py", "theirs of theirs"):
        assert part in str(error.value)
    assert load("defenses", "sau") is SAU


def test_a_broken_installed_plugin_costs_its_line_of_the_list(install):
    install("theirs", "theirs", "import no_such_module", "theirs = theirs", "ft = theirs")
    entries = "\n".join(describe("defenses")).replace("\n  ", " ").splitlines()
    lines = {entry.partition(":")[0]: entry for entry in entries}
    assert "broken" in lines["theirs"] and "no_such_module" in lines["theirs"]
    assert "broken" in lines["ft"] and "defenses/ft.py" in lines["ft"]
    assert lines["sau"].startswith("sau: SAU, arXiv 2307.10562 Find") and "eps=0.2" in lines["sau"]
    assert len(lines) == len(plugin_names("defenses"))


def test_reading_without_torch_gives_what_reading_with_it_gives(tmp_path):
    """Stand-ins serve plugin files; where they cannot, or something is wrong, torch is imported."""
    clever = THEIRS + "\nimport torch\nassert torch.arange(3).sum() == 3\n"
    wrong = THEIRS.replace("strength: float", "strength: int")
    for name, source in (("plain", THEIRS), ("clever", clever), ("wrong", wrong)):
        (tmp_path / f"{name}.py").write_text(source)
    program = """
    import sys
    from sau_bench.benchmark.standins import without_torch

    def read():
        from sau_bench.benchmark.loading import build
        return build("defenses", {sys.argv[1]: {"strength": 0.5}}).canonical()

    try:
        print(without_torch(read), "torch" in sys.modules)
    except Exception as error:
        print(type(error).__name__, error, "torch" in sys.modules)
    """

    def told(name):
        file = str(tmp_path / f"{name}.py")
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program), file], capture_output=True, text=True
        )
        return done.stdout.strip(), file

    for name, imported in (("plain", False), ("clever", True)):
        out, file = told(name)
        assert out == f"{build('defenses', {file: {'strength': 0.5}}).canonical()} {imported}"
    out, _ = told("wrong")
    assert out.startswith("InputError") and "strength" in out and out.endswith("True")


def test_the_key_is_a_stable_hash_of_canonical_json():
    assert JOB.key == replace(JOB).key and len(JOB.key) == 24
    assert int(JOB.key, 16) >= 0
    text = canonical_json(replace(JOB, attack=Blended()).canonical())
    assert " " not in text and str(PICTURE.parent) not in text
    assert JOB.needs == () and DEFENDED.needs == (JOB,)


def test_the_key_does_not_depend_on_the_order_of_fields(tmp_path):
    one = build("attacks", {"badnets": {"ratio": 0.2, "target": 1}})
    other = build("attacks", {"badnets": {"target": 1, "ratio": 0.2}})
    assert replace(JOB, attack=one).key == replace(JOB, attack=other).key
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
    keys = [replace(DEFENDED, defense=build("defenses", str(f))).key for f in (one, same, edited)]
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
    jobs += [replace(JOB, architecture=model) for model in (SmallCNN(width=8), PreActResNet18())]
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
    before = replace(DEFENDED).key
    monkeypatch.setattr(cls, "revision", 99)
    assert replace(DEFENDED).key != before


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
