"""Poisoned images in folders: trained here, checked against the dataset."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import poison_test
from sau_bench.attacks.folder import Folder
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.contract import check
from sau_bench.benchmark.contract.attacks import check_attack
from sau_bench.benchmark.contract.world import make_world
from sau_bench.benchmark.data import to_uint8
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.errors import InputError
from sau_bench.benchmark.image_files import class_folders
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.ep import EP
from sau_bench.models.small_cnn import SmallCNN

CPU = torch.device("cpu")
SHARES = ("acc", "asr", "racc", "poison_ratio", "n_poisoned")
NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
ATTACK = BadNets(ratio=0.1, target=2)


def save(file, image):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file)


def write(folder, train, test, rows, clean=()):
    """BadNets on some training rows, and on all test images that it moves."""
    stamped = to_uint8(ATTACK.trigger(train.floats()))
    for row in rows.tolist():
        save(folder / "train" / str(ATTACK.target) / f"{row}.png", stamped[row])
    for row in clean:
        save(folder / "train" / str(int(train.y[row])) / f"{row}.png", train.x[row])
    triggered = to_uint8(ATTACK.trigger(test.floats()))
    for row in (test.y != ATTACK.target).nonzero()[:, 0].tolist():
        save(folder / "test" / str(int(test.y[row])) / f"image_{row:05}.png", triggered[row])
    return str(folder)


@pytest.fixture(scope="module")
def task():
    return Digits()(Path())


def job(attack):
    recipe = Recipe(epochs=1, lr=0.05)
    architecture = SmallCNN(width=4)
    return AttackJob(
        dataset=Digits(), architecture=architecture, attack=attack, recipe=recipe, seed=0
    )


def finish(planned, store):
    run_job(planned, store, Path(), CPU)
    return store.rows(planned.key)[-1]


def test_the_files_of_an_attack_train_its_victim(task, tmp_path):
    rows, store = ATTACK.draw(task.train.y, 0), Store(tmp_path / "cache")
    clean = sorted({*range(40)} - set(rows.tolist()))
    folder = write(tmp_path / "files", task.train, task.test, rows, clean)
    victims = [job(ATTACK), job(Folder(folder=folder, target=ATTACK.target))]
    ours, theirs = (finish(victim, store) for victim in victims)
    # Clean images among the files are not counted as poisoned.
    assert [ours[name] for name in SHARES] == [theirs[name] for name in SHARES]
    tensors = [store.tensors(victim.key) for victim in victims]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    defended = [
        finish(DefenseJob(victim=v, defense=EP(samples=64), clean_ratio=0.1, score_every=1), store)
        for v in victims
    ]
    assert [defended[0][name] for name in SHARES] == [defended[1][name] for name in SHARES]


def test_a_folder_keeps_the_contract_of_attacks(tmp_path):
    check("attacks", Folder)
    world = make_world()
    folder = write(tmp_path, world.train, world.test, torch.arange(0, 96, 7))
    check_attack(Folder(folder=folder, target=2))


@pytest.fixture
def world_folder(tmp_path):
    world = make_world()
    write(tmp_path / "files", world.train, world.test, torch.arange(0, 96, 7))
    return world, tmp_path / "files"


def test_names_of_classes_are_numbered_in_their_order(world_folder):
    _, folder = world_folder
    names = sorted(NAMES)
    for number, name in enumerate(names):
        (folder / "test" / str(number)).mkdir(exist_ok=True)  # a class may have no image
        (folder / "test" / str(number)).rename(folder / "test" / name)
    named = class_folders(folder / "test", 10)
    assert [path.parent.name for path in named.paths] == [names[c] for c in named.classes]
    assert {0, 1, 8} < {*named.classes.tolist()} and 2 not in named.classes
    (folder / "test" / "nine").rename(folder / "test" / "10")
    with pytest.raises(InputError, match="names of all 11 classes"):
        class_folders(folder / "test", 11)


def test_numbers_of_classes_are_not_sorted_as_text(tmp_path):
    for number in (0, 2, 10):
        save(tmp_path / str(number) / "5 of 7, 12.png", torch.zeros(3, 4, 4, dtype=torch.uint8))
        (tmp_path / str(number) / "5 of 7, 12.png").rename(
            tmp_path / str(number) / f"5 of 7, {12 - number}.png"
        )
    found = class_folders(tmp_path, 43)
    assert found.rows.tolist() == [2, 10, 12] and found.classes.tolist() == [10, 2, 0]


def first(folder, split):
    return min((folder / split).glob("*/*.png"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: first(f, "test").unlink(), "1 of [0-9]+ triggered test images are missing"),
        (lambda f: first(f, "test").rename(f / "test/1/77.png"), "rows 0 to 15 of the test set"),
        (lambda f: first(f, "test").rename(f / "test/1/one.png"), "has no number in its name"),
        (lambda f: (f / "test/0").rename(f / "test/9x"), "numbers of classes, or names of all 10"),
        (lambda f: (f / "test/0").rename(f / "test/11"), "accepted: classes 0 to 9"),
        (lambda f: (f / "test/0").rename(f / "test/2"), "is of class 2, row 0 of the test set of"),
        (lambda f: first(f, "test").write_text("no"), "cannot be read as an image"),
        (lambda f: first(f, "train").rename(f / "train/2/500.png"), "rows 0 to 95 of the training"),
        (
            lambda f: save(f / "train/3/000.png", torch.zeros(3, 32, 32, dtype=torch.uint8)),
            "are both of image 0; accepted: one file",
        ),
        (
            lambda f: save(first(f, "train"), torch.zeros(3, 8, 9, dtype=torch.uint8)),
            "has 9x8 pixels, accepted: 32x32",
        ),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_refused_in_one_line(world_folder, damage, message):
    world, folder = world_folder
    damage(folder)
    attack, recipe = Folder(folder=str(folder), target=2), Recipe(epochs=1)
    with pytest.raises(InputError, match=message) as error:
        trigger = attack(world.model, world.train, attack.draw(world.train.y, 0), recipe, {})
        attack.poisoned_test(world.test, trigger, 10)
    assert "\n" not in str(error.value)


def test_the_data_are_as_before_however_the_training_ends(world_folder, monkeypatch):
    world, folder = world_folder
    before = world.train.x.clone(), world.train.y.clone()

    def stop(model, train, recipe):
        assert not torch.equal(train.x, before[0])
        raise KeyboardInterrupt

    monkeypatch.setattr("sau_bench.attacks.folder.train_model", stop)
    with pytest.raises(KeyboardInterrupt):
        Folder(folder=str(folder), target=2)(world.model, world.train, None, Recipe(), {})
    assert torch.equal(world.train.x, before[0]) and torch.equal(world.train.y, before[1])


def test_all_to_all_takes_an_image_of_each_class(tmp_path):
    world = make_world()
    attack = BadNets(labels="all2all")
    poisoned = poison_test(world.test, attack, attack.trigger, 10)
    write(tmp_path, world.train, world.test, torch.arange(3))
    for row, label in enumerate(world.test.y.tolist()):
        save(tmp_path / "test" / str(label) / f"image_{row:05}.png", poisoned.data.x[row])
    found = Folder(folder=str(tmp_path), labels="all2all").poisoned_test(world.test, None, 10)
    assert torch.equal(found.data.x, poisoned.data.x) and torch.equal(found.wanted, poisoned.wanted)
