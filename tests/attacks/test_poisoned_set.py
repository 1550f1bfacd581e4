"""The poisoned training set that the harness stores for a victim and hands to EP.

Numbers are those of the sets that BackdoorBench exports: of every batch of 128 images, in the order
of the training set, WaNet's 12 triggered ones and 24 in noise mode, Input-Aware's 12 triggered and
12 crossed ones (docs/protocol.md, "method facts").
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sau_bench.attacks.badnets import BadNets
from sau_bench.attacks.base import Attack, poison, poisoned_count
from sau_bench.attacks.blended import Blended
from sau_bench.attacks.input_aware import DynamicTrigger, InputAware, generator_widths
from sau_bench.attacks.multi import Multi
from sau_bench.attacks.wanet import WaNet, Warp
from sau_bench.benchmark.cache.store import Store
from sau_bench.benchmark.data import Images
from sau_bench.benchmark.datasets.digits import Digits
from sau_bench.benchmark.jobs.job import AttackJob, DefenseJob
from sau_bench.benchmark.jobs.run_job import run_job
from sau_bench.benchmark.train import Recipe
from sau_bench.defenses.ep import EP
from sau_bench.models.classifier import Classifier
from sau_bench.models.small_cnn import SmallCNN

CPU = torch.device("cpu")
BATCH = 128
SIZE = 1437
TARGET = 3


@pytest.fixture(scope="module")
def train() -> Images:
    return Digits()(Path()).train


def handed_to_ep(attack: Attack, store: Store, monkeypatch: pytest.MonkeyPatch) -> Images:
    """What EP is called with after the harness has trained the victim."""
    seen: list[Images] = []

    def spy(self: EP, model: Classifier, data: Images) -> Iterator[nn.Module]:
        # Cloned: the dataset is as before when the job ends.
        seen.append(replace(data, x=data.x.clone(), y=data.y.clone()))
        yield model

    monkeypatch.setattr(EP, "__call__", spy)
    victim = AttackJob(
        dataset=Digits(),
        architecture=SmallCNN(width=2),
        attack=attack,
        recipe=Recipe(epochs=1, batch_size=BATCH),
        seed=0,
    )
    run_job(victim, store, Path(), CPU)
    (row,) = store.rows(victim.key)
    assert row["poison_ratio"] == len(attack.draw(Digits()(Path()).train.y, 0)) / SIZE
    job = DefenseJob(victim=victim, defense=EP(), clean_ratio=0.1, score_every=1)
    run_job(job, store, Path(), CPU)
    (data,) = seen
    return data


@pytest.mark.parametrize(
    ("attack", "beside"),
    [
        (WaNet(target=TARGET), 24),
        (WaNet(target=TARGET, cross_ratio=0.5), 6),
        (InputAware(target=TARGET, mask_epochs=1, as_published=False), 12),
    ],
)
def test_ep_gets_triggered_and_noise_or_crossed_images_of_every_batch(
    attack: Attack, beside: int, train: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Which images the set holds does not depend on the training of the generators.
    monkeypatch.setattr("sau_bench.attacks.input_aware.fit", lambda *_, **__: iter(()))
    store = Store(tmp_path)
    data = handed_to_ep(attack, store, monkeypatch)
    changed = (data.x != train.x).flatten(1).any(1)
    for start in range(0, SIZE - BATCH, BATCH):
        batch = slice(start, start + BATCH)
        assert changed[batch].tolist() == [True] * (12 + beside) + [False] * (BATCH - 12 - beside)
        assert (data.y[batch][:12] == TARGET).all()
        assert torch.equal(data.y[batch][12:], train.y[batch][12:])
    # The last batch has 29 images, of which 2 are triggered.
    rest = changed[SIZE - 29 :]
    few = 2 + {24: 4, 12: 2, 6: 1}[beside]
    assert rest.tolist() == [True] * few + [False] * (29 - few)
    assert (data.y[-29:-27] == TARGET).all() and torch.equal(data.y[-27:], train.y[-27:])
    (folder,) = (f.parent for f in tmp_path.glob("*/tensors.safetensors"))
    stored = store.tensors(folder.name)["train.rows"]
    differs = changed | (data.y != train.y)
    assert stored.tolist() == differs.nonzero()[:, 0].tolist()


def test_wanet_triggers_the_first_images_and_shakes_the_next(train: Images) -> None:
    attack = WaNet()
    torch.manual_seed(0)
    trigger = Warp(attack.grid(32))
    found = attack.poisoned_set(train, torch.arange(0), trigger, 10, BATCH)
    plain = poison(train, torch.arange(36), attack, trigger, 10)
    assert torch.equal(found.x[:12], plain.x[:12])
    noisy, still = found.x[12:36].int(), plain.x[12:36].int()
    assert not torch.equal(noisy, still) and (noisy - still).abs().float().mean() < 20


def test_input_aware_crosses_with_images_of_one_permutation(train: Images) -> None:
    torch.manual_seed(0)
    mean, std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    trigger = DynamicTrigger(mean, std, generator_widths(32, 32), twice=False).eval()
    few = train[torch.arange(45)]
    torch.manual_seed(1)
    found = InputAware().poisoned_set(few, torch.arange(0), trigger, 10, 20)
    torch.manual_seed(1)
    others = torch.randperm(45)
    with torch.no_grad():
        for start in (0, 20):  # the last batch has 5 images and one poisoned by chance
            z = others[start + 2 : start + 4]
            rows = torch.arange(start + 2, start + 4)
            expected = trigger.paint(few.floats(rows), few.floats(z)) * 255
            assert (found.x[rows] - expected).abs().max() < 1.01
            assert torch.equal(found.y[rows], few.y[rows])
            assert (found.y[start : start + 2] == 0).all()


@pytest.mark.parametrize("first", [Blended(), WaNet()])
def test_two_attacks_share_one_poisoned_set(
    first: Attack, train: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack = Multi(first=first, second=BadNets(target=1))
    data = handed_to_ep(attack, Store(tmp_path), monkeypatch)
    _, second = attack.split(attack.draw(train.y, 0), SIZE)
    first_rows = first_poisoned(first, attack.draw(train.y, 0), train)
    only = torch.ones(SIZE, dtype=torch.bool)
    only[first_rows] = False
    second = second[only[second]]
    assert (data.y[first_rows] == 0).all() and (data.y[second] == 1).all()
    outside = second[~noisy_rows(first)[second]]
    assert len(outside) > 50 and (data.x[outside][:, :, -3:, -3:] == 255).all()


def first_poisoned(attack: Attack, rows: Tensor, train: Images) -> Tensor:
    """Rows that carry the first attack's label."""
    if isinstance(attack, WaNet):
        return torch.arange(SIZE)[torch.arange(SIZE) % BATCH < 12][:-10]
    return rows[: round(attack.ratio * SIZE)]


def noisy_rows(attack: Attack) -> Tensor:
    """Rows in noise mode, which moves the patch of the second attack."""
    place = torch.arange(SIZE) % BATCH
    return (place >= 2) & (place < 36) & isinstance(attack, WaNet)


def test_a_batch_too_small_for_one_poisoned_image_has_one_by_chance() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert poisoned_count(0.1, 128) == 12 and poisoned_count(0.1, 10) == 1
    assert torch.equal(torch.get_rng_state(), state)
    drawn = [poisoned_count(0.1, 4) for _ in range(500)]
    assert set(drawn) == {0, 1} and 160 < sum(drawn) < 240
