"""Folders in the layout of BackdoorBench: out, in, the same scores; hostile and wrong ones."""

import shutil
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.imported import Imported
from sau_bench.benchmark import backdoorbench
from sau_bench.benchmark.backdoorbench import load_weights, read_result, reference_names
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.cli import main as cli
from sau_bench.benchmark.cli.export import write_victim
from sau_bench.benchmark.contract import check
from sau_bench.benchmark.contract.attacks import check_attack
from sau_bench.benchmark.contract.world import make_world
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.grid.config import read
from sau_bench.benchmark.grid.grid import filtered, make_grid
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.ep import EP
from sau_bench.defenses.ft import FT
from sau_bench.models.preact_resnet18 import PreActResNet18
from sau_bench.models.vgg19 import VGG19

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=1, lr=0.05)
SHARES = ("acc", "asr", "racc")


def victim(attack):
    architecture = PreActResNet18(width=4)
    return AttackJob(
        dataset=Digits(), architecture=architecture, attack=attack, recipe=RECIPE, seed=0
    )


def finish(job, store):
    run_job(job, store, Path(), CPU)
    return store.rows(job.key)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A cache with two victims, and the folder of each."""
    root = tmp_path_factory.mktemp("interop")
    store, folders = Store(root / "cache"), {}
    for attack in (BadNets(ratio=0.05), Blended(ratio=0.05, target=3)):
        job = victim(attack)
        finish(job, store)
        folders[attack.name] = root / "record" / attack.name
        write_victim(job, store, Path(), folders[attack.name])
    return store, folders


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of a folder, to be damaged."""
    return Path(shutil.copytree(exported[1]["BadNets"], tmp_path / "copy"))


def edited(folder, change):
    """The folder, with its `.pt` file changed in place."""
    file = folder / backdoorbench.RESULT
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, file)
    return folder


@pytest.mark.parametrize("attack", [BadNets(ratio=0.05), Blended(ratio=0.05, target=3)])
def test_a_round_trip_scores_the_same_with_and_without_defenses(exported, attack):
    store, folders = exported
    first = victim(attack)
    second = victim(Imported(folder=str(folders[attack.name]), target=attack.target))
    rows = [finish(job, store)[0] for job in (first, second)]
    for name in (*SHARES, "n_clean", "n_poisoned", "poison_ratio"):
        assert rows[0][name] == rows[1][name], name
    for defense in (FT(recipe=Recipe(epochs=1, batch_size=64)), EP(samples=64)):
        jobs = [
            DefenseJob(victim=job, defense=defense, clean_ratio=0.1, score_every=1)
            for job in (first, second)
        ]
        ours, theirs = ([[row[n] for n in SHARES] for row in finish(j, store)] for j in jobs)
        assert ours == theirs, defense.name
    tensors = [store.tensors(job.key) for job in (first, second)]
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())


def test_a_folder_has_what_their_code_reads(exported):
    folder = exported[1]["BadNets"]
    content = torch.load(folder / "attack_result.pt", weights_only=False)
    assert set(content) == {
        "model_name", "num_classes", "model", "data_path", "img_size", "clean_data", "bd_train",
        "bd_test",
    }  # fmt: skip
    assert (content["model_name"], content["num_classes"]) == (
        "preact_resnet18".replace("_", ""),
        10,
    )
    assert "layer2.0.shortcut.0.weight" in content["model"] and "linear.bias" in content["model"]
    assert "data" in content["data_path"] and content["img_size"] == (32, 32, 3)
    task = Digits()(Path())
    for kind, split, goal in (("bd_train", task.train, 0), ("bd_test", task.test, 0)):
        state = content[kind]
        assert set(state) == {
            "bd_data_container", "getitem_all", "getitem_all_switch", "original_index_array",
            "poison_indicator", "save_folder_path",
        }  # fmt: skip
        indicator, rows = state["poison_indicator"], state["original_index_array"]
        assert isinstance(rows, np.ndarray) and len(indicator) == len(split)
        for row in rows[indicator[rows] == 1][:20]:
            entry = state["bd_data_container"]["data_dict"][row]  # a numpy integer finds it
            wanted, true = entry["other_info"]
            assert (wanted, true) == (goal, split.y[row])
            assert entry["path"].startswith("./record/BadNets/")
            image = np.array(Image.open(folder.parents[1] / entry["path"]))
            assert image.shape == (32, 32, 3) and (image[-3:, -3:] == 255).all()
    assert len(content["bd_test"]["original_index_array"]) == int((task.test.y != 0).sum())
    assert len(content["bd_train"]["original_index_array"]) == len(task.train)


def theirs(net, **more):
    """A result as their code writes it: numpy integers as keys, a prefix of parallel training."""
    world = make_world()
    states = {}
    for kind, split in (("train", world.train), ("test", world.test)):
        rows = (split.y != 0).nonzero()[:, 0].numpy()
        entries = {
            row: {"path": f"C:\\x\\bd_{kind}_dataset/{int(split.y[row])}/{row}.png",
                  "other_info": [0, int(split.y[row])]}
            for row in rows
        }  # fmt: skip
        states[f"bd_{kind}"] = {
            "bd_data_container": {"data_dict": entries},
            "original_index_array": np.arange(len(split)) if kind == "train" else rows,
        }
    weights = OrderedDict((f"module.{name}", value) for name, value in net.state_dict().items())
    content = {"model_name": "small", "num_classes": 10, "model": weights, "clean_data": "digits"}
    return content | states | more


def write_theirs(folder, **more):
    world = make_world()
    folder.mkdir()
    torch.save(theirs(world.model.body, **more), folder / "attack_result.pt")
    for kind, split in (("train", world.train), ("test", world.test)):
        for row in (split.y != 0).nonzero()[:, 0].tolist():
            file = folder / f"bd_{kind}_dataset" / str(int(split.y[row])) / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - split.x[row].permute(1, 2, 0).numpy()).save(file)
    return str(folder)


def test_an_imported_victim_keeps_the_contract_of_attacks(tmp_path):
    check("attacks", Imported)
    check_attack(Imported(folder=write_theirs(tmp_path / "theirs")))
    check_attack(Imported(folder=write_theirs(tmp_path / "less", bd_train=None)))


def test_images_and_weights_are_those_of_the_folder(tmp_path):
    attack, world = Imported(folder=write_theirs(tmp_path / "theirs")), make_world()
    rows = attack.draw(world.train.y, 0)
    assert rows.tolist() == (world.train.y != 0).nonzero()[:, 0].tolist()
    with torch.no_grad():
        before = [p.clone() for p in world.model.parameters()]
        for parameter in world.model.parameters():
            parameter.zero_()
    trigger = attack(world.model, world.train, rows, RECIPE, {})
    assert all(map(torch.equal, before, world.model.parameters()))
    poisoned = attack.poisoned_test(world.test, trigger, 10)
    others = world.test.y != 0
    assert torch.equal(poisoned.data.x, 255 - world.test.x[others])
    assert torch.equal(poisoned.data.y, world.test.y[others]) and (poisoned.wanted == 0).all()
    stamped = attack.poisoned_set(world.train, rows, trigger, 10, 32)
    assert torch.equal(stamped.x[rows], 255 - world.train.x[rows]) and (stamped.y == 0).all()
    with pytest.raises(ValueError, match="no other image can be triggered"):
        trigger(world.test.floats())


def test_without_a_poisoned_training_set_methods_that_need_it_do_not_apply(folder, tmp_path):
    edited(folder, lambda content: content.update(bd_train=None))
    store, job = Store(tmp_path / "cache"), victim(Imported(folder=str(folder)))
    (row,) = finish(job, store)
    assert row["poison_ratio"] is None and row["note"] == "the folder has no poisoned training set"
    defended = [
        finish(DefenseJob(victim=job, defense=d, clean_ratio=0.1, score_every=1), store)[-1]
        for d in (EP(samples=64), FT(recipe=Recipe(epochs=1)))
    ]
    assert [row["status"] for row in defended] == ["not applicable", "ok"]
    assert defended[0]["note"] == "the poisoned training set is not known"


@pytest.mark.parametrize("batch_norm", [False, True])
def test_names_of_vgg19_are_those_of_torchvision(batch_norm):
    make = torchvision.models.vgg19_bn if batch_norm else torchvision.models.vgg19
    with torch.device("meta"):
        theirs = make(num_classes=10, init_weights=False)
        body = VGG19(batch_norm=batch_norm)(Digits()).body
    names = reference_names(body)
    assert list(names.values()) == list(theirs.state_dict())
    for ours, name in names.items():
        assert body.state_dict()[ours].shape == theirs.state_dict()[name].shape


def test_names_of_preact_resnet18_differ_in_the_shortcuts_alone():
    names = reference_names(PreActResNet18(width=4)(Digits()).body)
    changed = {ours: name for ours, name in names.items() if ours != name}
    assert changed == {
        f"layer{n}.0.shortcut.weight": f"layer{n}.0.shortcut.0.weight" for n in (2, 3, 4)
    }


def rename(content):
    content["model"]["more"] = content["model"].pop("conv1.weight")


def move_label(content):
    entries = content["bd_test"]["bd_data_container"]["data_dict"]
    entries[next(iter(entries))]["other_info"][1] += 1


def drop(content):
    rows = content["bd_test"]["original_index_array"]
    content["bd_test"]["original_index_array"] = rows[:-1]


def climb(content):
    entries = content["bd_test"]["bd_data_container"]["data_dict"]
    entries[next(iter(entries))]["path"] = "bd_test_dataset/../7.png"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, "'preactresnet18' lacks 'conv1.weight'"),
        (lambda c: c["model"].update(more=torch.ones(1)), "has 'more', unlike the network"),
        (lambda c: c["model"].update({"linear.bias": torch.ones(7)}), "bias is 7, .* has 10"),
        (lambda c: c.update(num_classes=43), "43 classes of 'digits', the dataset of this grid 10"),
        (lambda c: c.pop("bd_test"), "has no bd_test"),
        (lambda c: c.update(bd_test={"x": torch.ones(1), "y": torch.ones(1)}), "of another form"),
        (lambda c: c.update(model=[1, 2]), "model is no mapping of names to tensors"),
        (move_label, "accepted: the same dataset in the same order"),
        (drop, "1 of [0-9]+ triggered test images are missing"),
        (climb, "of another form .*\\.\\."),
        (lambda c: c.update(more=Path("x")), "needs pathlib.* could run code"),
        (lambda c: c.update(more=np.array([{}], dtype=object)), "an array of type 'O8'"),
    ],
)  # fmt: skip
def test_a_folder_that_does_not_fit_is_refused_in_one_line(folder, tmp_path, change, message):
    edited(folder, change)
    job = victim(Imported(folder=str(folder)))
    with pytest.raises(InputError, match=message) as error:
        finish(job, Store(tmp_path / "cache"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "attack_result.pt").write_bytes(b"hello"), "damaged or no file of torch"),
        (lambda f: next(f.glob("bd_test_dataset/*/*.png")).write_text("x"), "cannot be read as"),
        (lambda f: next(f.glob("bd_test_dataset/*/*.png")).unlink(), "cannot be read as an image"),
        (
            lambda f: Image.new("RGB", (8, 9)).save(next(f.glob("bd_test_dataset/*/*.png"))),
            "has 8x9 pixels, accepted: 32x32",
        ),
    ],
)
def test_damaged_files_are_refused_in_one_line(folder, tmp_path, damage, message):
    damage(folder)
    with pytest.raises(InputError, match=message):
        finish(victim(Imported(folder=str(folder))), Store(tmp_path / "cache"))


RAN = []


class Hostile:
    def __reduce__(self):
        return RAN.append, ("ran",)


def test_reading_a_file_runs_no_code_of_it(folder):
    edited(folder, lambda content: content.update(model=Hostile()))
    RAN.clear()
    with pytest.raises(InputError, match=r"could run code"):
        read_result(folder, "")
    assert not RAN


def test_another_target_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"the folder wants class 0, the attack's .* say 4"):
        finish(victim(Imported(folder=str(folder), target=4)), Store(tmp_path / "cache"))


def test_the_key_follows_the_content_and_not_the_path(folder, tmp_path):
    first = Imported(folder=str(folder)).canonical()
    moved = Path(shutil.move(folder, tmp_path / "elsewhere"))
    assert Imported(folder=str(moved)).canonical() == first
    image = next(moved.glob("bd_test_dataset/*/*.png"))
    Image.new("RGB", (32, 32)).save(image)
    assert Imported(folder=str(moved)).canonical() != first
    (moved / "notes.txt").write_text("anything")
    second = Imported(folder=str(moved)).canonical()
    (moved / "notes.txt").unlink()
    assert Imported(folder=str(moved)).canonical() == second


def test_a_network_of_another_kind_is_refused_by_name(exported):
    result = read_result(exported[1]["BadNets"], "")
    with pytest.raises(InputError, match="'preactresnet18' lacks"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), result)
    with pytest.raises(
        InputError, match=r"conv1.weight is 4x3x3x3, the network of this grid has 8x"
    ):
        load_weights(PreActResNet18(width=8)(Digits()).body, result)


CONFIG = """
datasets: [digits]
models: [small_cnn:4]
attacks: [badnets, {attacks}]
defenses:
  - ft: {{recipe: {{epochs: 1}}}}
  - anp: {{iterations: 2, batch_size: 16, thresholds: [0.4, 1.0]}}
recipe: {{epochs: 1, lr: 0.05}}
"""


def computed(config, results, *only):
    """The rows of a config, computed in this process."""
    (grid,) = filtered([make_grid(read(config))], only)
    store = Store(results / "cache")
    for job in grid.jobs():
        run_job(job, store, Path(), CPU)
    return grid.rows(store)


def test_the_verb_writes_folders_that_can_be_defended(tmp_path, capsys):
    config, results, out = tmp_path / "own.yaml", tmp_path / "results", tmp_path / "record"
    config.write_text(CONFIG.format(attacks="multi"))
    only = "attack=badnets"
    command = ["export", str(config), str(out), "--results", str(results), "--only", only]
    assert cli.main(command) == 2
    assert "is finished; first: run it" in capsys.readouterr().err
    first = computed(config, results, only)
    assert cli.main(command) == 0
    (line,) = capsys.readouterr().out.splitlines()
    folder = Path(line)
    assert folder == out / "badnets_digits_small_cnn_width_4_0"
    rows = pd.read_csv(folder / "rows.csv").set_index("defense")
    scores = pd.read_csv(folder / "attack_df_summary.csv", index_col=0).loc["last"]
    names = ["test_acc", "test_asr", "test_ra"]
    assert scores[names].tolist() == rows.loc["No Defense", list(SHARES)].tolist()
    anp = rows.loc["ANP"]
    chosen = anp[(anp["value"] - 0.4).abs() < 1e-6].iloc[0]
    scores = pd.read_csv(folder / "defense" / "anp" / "anp_df_summary.csv", index_col=0).loc["last"]
    assert scores[names].tolist() == chosen[list(SHARES)].tolist()
    assert cli.main(command) == 2
    assert "is there already" in capsys.readouterr().err
    other = anp[(anp[list(SHARES)] != chosen[list(SHARES)]).any(axis=1)].iloc[-1]
    for name in ("anp", "ANP"):  # of the plugin, and as tables print it
        rule = f"select: {{{name}: 'fixed:{other['value']:g}'}}\n"
        config.write_text(CONFIG.format(attacks="multi") + rule)
        command[2] = str(tmp_path / name)
        assert cli.main(command) == 0
        file = Path(capsys.readouterr().out.strip()) / "defense" / "anp" / "anp_df_summary.csv"
        scores = pd.read_csv(file, index_col=0).loc["last"]
        assert scores[names].tolist() == other[list(SHARES)].tolist()
    config.write_text(CONFIG.format(attacks=f"{{imported: {{folder: {folder}}}}}"))
    second = computed(config, results)
    second = second[second["attack"] == f"Imported {folder.name}"]
    columns = ["defense", "step", "acc", "asr", "racc", "own_acc", "poison_ratio"]
    pd.testing.assert_frame_equal(
        first[columns].reset_index(drop=True), second[columns].reset_index(drop=True)
    )
    common = [str(config), "--results", str(results)]
    assert cli.main(["show", *common]) == 0
    assert cli.main(["run", *common, "--smoke"]) == 2
    assert "its images are files" in capsys.readouterr().err


def test_an_attack_with_two_triggers_is_not_exported(tmp_path, capsys):
    config = tmp_path / "own.yaml"
    config.write_text(CONFIG.format(attacks="multi"))
    computed(config, tmp_path / "results", "attack=multi,defense=FT")
    command = ["export", str(config), str(tmp_path / "out"), "--results", str(tmp_path / "results")]
    assert cli.main(command) == 2
    assert "has several triggers" in capsys.readouterr().err


def test_a_part_of_an_attack_cannot_come_from_files(exported, tmp_path, capsys):
    config = tmp_path / "own.yaml"
    part = f"{{multi: {{first: {{imported: {{folder: {exported[1]['BadNets']}}}}}}}}}"
    config.write_text(CONFIG.format(attacks=part))
    assert cli.main(["run", str(config), "--results", str(tmp_path), "--dry-run"]) == 2
    assert "must not be an attack whose images are files" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["", "no/such/folder"])
def test_a_folder_that_is_not_there_is_refused_before_the_run(tmp_path, capsys, folder):
    config = tmp_path / "own.yaml"
    config.write_text(CONFIG.format(attacks=f'{{imported: {{folder: "{folder}"}}}}'))
    assert cli.main(["run", str(config), "--results", str(tmp_path), "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "accepted: one with attack_result.pt and bd_test_dataset" in error


def test_grey_images_are_exported_and_read(tmp_path):
    image = torch.randint(256, (2, 1, 28, 28), dtype=torch.uint8)
    from sau_bench.benchmark.cli.export import _write
    from sau_bench.benchmark.data import Images
    from sau_bench.benchmark.image_files import class_folders

    split = Images(image, torch.tensor([4, 7]))
    _write(tmp_path, "bd_test_dataset", split, torch.arange(2), image, torch.tensor([0, 0]))
    files = class_folders(tmp_path / "bd_test_dataset", 10)
    assert torch.equal(files.pixels((1, 28, 28)), image) and files.classes.tolist() == [4, 7]


def test_seeds_do_not_change_an_imported_victim(exported, tmp_path):
    store = Store(tmp_path / "cache")
    job = victim(Imported(folder=str(exported[1]["BadNets"])))
    rows = [finish(replace(job, seed=seed), store)[0] for seed in (0, 1)]
    assert [rows[0][name] for name in SHARES] == [rows[1][name] for name in SHARES]
